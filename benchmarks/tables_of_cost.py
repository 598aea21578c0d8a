"""What it costs: tables of time, memory and traffic, from the files in results/."""

from provenance import read_result


def step_time() -> str:
    found = read_result("step_time.json")
    lines = ["| student | batch | objective | aligned / baseline, median | quartiles |", "|---|---:|---|---:|---:|"]
    for row in found["measured"]:
        low, high = row["ratio_quartiles"]
        objective = f"`{row['options']['align_loss']}`"
        objective += ", soft labels" if "soft_label_weight" in row["options"] else ""
        lines.append(
            f"| {row['student']} | {row['batch_size']} | {objective} | {row['ratio']:.3f} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def input_pipeline() -> str:
    return _speeds(read_result("input_pipeline.json")["speed"])


def _speeds(speed: dict) -> str:
    """A row a way of loading: images a second, its time over ours."""
    modes = list(speed)
    lines = [
        "| images per second of CPU time; CPU time over ours (quartiles), wall clock over ours |"
        + "".join(f" {mode} |" for mode in modes)
    ]
    lines.append("|---|" + "---:|" * len(modes))
    for name in next(iter(speed.values())):
        cells = []
        for mode in modes:
            row = speed[mode][name]
            low, high = row["ratio_quartiles"]
            times = f"; {row['ratio']:.2f} ({low:.2f} to {high:.2f}), {row['clock_ratio']:.2f}"
            times = "" if name == "g4i_hf" else times
            cells.append(f"{row['images_per_processor_second']:.0f}{times}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def embed_speed() -> str:
    found = read_result("embed_speed.json")
    lines = ["| captions | tokens, mean | ours / `encode`, median | quartiles |", "|---|---:|---:|---:|"]
    for name, row in found["captions"].items():
        low, high = row["ratio_quartiles"]
        lines.append(
            f"| {row['captions']}, {name} | {row['tokens_mean']:.0f} | {row['ratio']:.2f} | {low:.2f} to {high:.2f} |"
        )
    return "\n".join(lines)


def captioning() -> str:
    lines = ["| server | faults | `g4i caption` | `map` | `client` |", "|---|---|---:|---:|---:|"]
    for found in read_result("captioner_under_faults.json")["measured"]:
        capacity = found["capacity"] / found["latency_seconds"]
        server = f"{found['latency_seconds']:g} s, {found['capacity']} at a time ({capacity:.0f} a second)"
        kinds = "all kinds" if len(found["faults"]) > 3 else " and ".join(f"`{kind}`" for kind in found["faults"])
        faults = f"{found['fault_rate']:.0%} {kinds}" if kinds else "none"
        cells = []
        for way in ("g4i", "map", "client"):
            if way not in found:
                cells.append("")
                continue
            lost = 1 - found[way]["captions"] / found["requests"]
            cells.append(f"{found[way]['share_of_capacity']:.1%}" + (f", {lost:.0%} lost" if lost else ""))
        lines.append(f"| {server} | {faults} | {' | '.join(cells)} |")
    return "\n".join(lines)


def imagenet_captioning() -> str:
    rows = read_result("imagenet_plan.json")["captioning"]
    lines = ["| captioner | operations an image | 1 GPU | 8 GPUs | 64 GPUs | cost |", "|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(f"| {row['captioner']} | {row['operations'] / 1e12:.1f} T | {_hours(row)} | {row['cost']:,.0f} |")
    return "\n".join(lines)


def imagenet_training() -> str:
    rows = read_result("imagenet_plan.json")["training"]
    lines = ["| student | GPU | 1 GPU | 8 GPUs | 64 GPUs | cost on 8 |", "|---|---|---:|---:|---:|---:|"]
    lines += [f"| {row['student']} | {row['gpu']} | {_hours(row)} | {row['cost']:,.0f} |" for row in rows]
    return "\n".join(lines)


def _hours(row: dict) -> str:
    return " | ".join(f"{row[f'hours_{count}']:,.1f} h" for count in (1, 8, 64))


def imagenet_network() -> str:
    rows = read_result("imagenet_plan.json")["network"]
    lines = [
        "| student | processes | global batch | gradients | alignment | share |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        share = row["alignment_mb"] / row["gradients_mb"]
        lines.append(
            f"| {row['student']} | {row['processes']} | {row['global_batch']:,} | {row['gradients_mb']:.0f} MB "
            f"| {row['alignment_mb']:.1f} MB | {share:.1%} |"
        )
    return "\n".join(lines)


def small_students() -> str:
    """The fastest first; weights whose license forbids or restricts commercial use are marked."""
    students = read_result("small_students.json")["students"]
    lines = [
        "| timm name | million parameters | million multiply-adds | ms an image | speed, of ResNet-18 | license |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, row in sorted(students.items(), key=lambda item: -item[1]["images_per_second"]):
        license_name = row["license"] if row["permissive"] else f"**{row['license']}**"
        lines.append(
            f"| `{name}` | {row['parameters'] / 1e6:.1f} | {row['macs'] / 1e6:.0f} | {row['milliseconds']:.0f} "
            f"| {row['speed_over_resnet18']:.1f}x | {license_name} |"
        )
    return "\n".join(lines)


def client_rate() -> str:
    lines = ["| server | images a second of one core | cores for 500 a second |", "|---|---:|---:|"]
    for row in read_result("captioner_under_faults.json")["measured"]:
        if not row["fault_rate"]:
            rate = 1000 / row["g4i"]["processor_ms_per_request"]
            server = f"{row['latency_seconds']} s, {row['capacity']} at a time"
            lines.append(f"| {server} | {rate:.0f} | {500 / rate:.1f} |")
    return "\n".join(lines)
