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


def jpeg_decoders() -> str:
    found = read_result("jpeg_decoders.json")["ms"]
    lines = ["| decoder | ms an image |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {milliseconds:.2f} |" for name, milliseconds in found.items())])


def input_pipeline() -> str:
    return _speeds(read_result("input_pipeline.json")["speed"])


def input_large() -> str:
    return _speeds({"bicubic": read_result("input_pipeline.json")["speed of large images"]})


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


def input_fidelity() -> str:
    found = read_result("input_pipeline.json")["fidelity"]
    lines = [
        "| crops of | filter | mean difference, of 255 | largest of a crop | same class |",
        "|---|---|---:|---:|---:|",
    ]
    for mode, kinds in found.items():
        for kind, row in kinds.items():
            same = f"{row['top1_agreement']:.1%} of {row['images']}" if "top1_agreement" in row else ""
            mean, most = row["mean_absolute_difference"], row["largest_mean_of_an_image"]
            lines.append(f"| {kind} | {mode} | {mean:.2f} | {most:.2f} | {same} |")
    return "\n".join(lines)


def fed_from_memory() -> str:
    found = read_result("fed_from_memory.json")
    lines = ["| student | batch | from files / from memory, median | quartiles |", "|---|---:|---:|---:|"]
    for row in found["measured"]:
        low, high = row["ratio_quartiles"]
        lines.append(f"| {row['student']} | {row['batch_size']} | {row['ratio']:.3f} | {low:.3f} to {high:.3f} |")
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


def embed_fixed_length() -> str:
    found = read_result("embed_fixed_length.json")
    lines = ["| captions | tokens, mean | times as fast, median | range |", "|---|---:|---:|---:|"]
    for name, row in found["captions"].items():
        low, high = row["speed_ratio_range"]
        cells = f"{row['tokens_mean']:.0f} | {row['speed_ratio']:.2f} | {low:.2f} to {high:.2f}"
        lines.append(f"| {row['captions']}, {name} | {cells} |")
    return "\n".join(lines)


def alignment_memory() -> str:
    found = read_result("alignment_scale.json")
    measured, gb = found["measured"], 1e9
    without, ours, official = (measured[name] for name in ("without", "ours", "official_embeddings"))
    read, image = ours["read_seconds_a_row"], measured["resnet_step"]["seconds_an_image"]
    more = {name: ours["memory"][name] - without["memory"][name] for name in ("own", "all")}
    opening = f"opening {found['rows']:,} embeddings of {found['dim']:,} numbers, official way"
    rows = {
        opening: f"{official['own_more'] / gb:.2f} GB",
        "the same here": f"{more['own'] / gb:.3f} GB",
        "the same, with what is mapped": f"{more['all'] / gb:.3f} GB",
        "CPU time to open images, labels, captions and embeddings": f"{ours['seconds']:.1f} s",
        f"reading a row, {found['read_together']} at once": f"{1e6 * read:.1f} µs",
        "reading over forward and backward of a ResNet-50, on the same thread": f"{read / image:.5%}",
        "images a second and process up to which reading stays under 1%": f"{0.01 / read:,.0f}",
    }
    return "\n".join(["| | |", "|---|---:|", *(f"| {what} | {value} |" for what, value in rows.items())])


def alignment_step() -> str:
    found = read_result("alignment_scale.json")
    ours, official = found["measured"]["our_loss"], found["measured"]["official_loss"]
    lines = ["| | official way | texts gathered |", "|---|---:|---:|"]
    shape = [" × ".join(f"{size:,}" for size in way["logits"]) for way in (official, ours)]
    lines.append(f"| logits of a process | {shape[0]} | {shape[1]} |")
    for what, key, form in (("peak memory of the loss, GB", "bytes", 1e-9), ("seconds", "seconds", 1)):
        lines.append(f"| {what} | {official[key] * form:.2f} | {ours[key] * form:.2f} |")
    for batch, received in found["received_bytes"].items():
        local, processes = (int(number) for number in batch.split(" x "))
        cells = " | ".join(f"{received[way] / 1e6:.2f}" for way in ("official", "texts gathered"))
        lines.append(f"| MB received a step, {local:,} images on each of {processes} processes | {cells} |")
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


def answer_store() -> str:
    found = read_result("store_scale.json")
    written, read = found["written"], found["read"]
    memory = read["memory_mb_peak"] - read["memory_mb_imports"]
    seconds = read["seconds_to_first_question"]
    rows = {
        "answers, files": f"{written['rows']:,}, {written['files']}",
        "on disk": f"{written['bytes'] / 1e9:.2f} GB",
        "durable answers a second, 256 together": f"{written['answers_a_second']:,.0f}",
        "until one answer alone is durable, median": f"{found['alone']['put_one_ms']['median']:.1f} ms",
        "opening the store": f"{read['open_seconds'] * 1000:.0f} ms",
        "finding that all of them are answered": f"{seconds:.0f} s ({read['pass_cpu_seconds']:.0f} s CPU time)",
        "memory that this takes": f"{memory:.0f} MB",
    }
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows.items())])


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
