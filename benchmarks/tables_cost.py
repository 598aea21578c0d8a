"""Tables of all layers, and of what each part costs."""

import numpy as np
from result_files import grouped, mean, read_result, right_of
from tables import NAMES, in_points, of_page, percent, rows_of, table

from g4i_hf.names import WITH_VIEWS


@of_page
def step_time() -> str:
    lines = []
    for row in read_result("step_time.json")["measured"]:
        objective = f"`{row['options']['align_loss']}`" + ", soft labels" * ("soft_label_weight" in row["options"])
        low, high = row["ratio_quartiles"]
        lines.append([row["student"], str(row["batch_size"]), objective, f"{row['ratio']:.3f}"])
        lines[-1].append(f"{low:.3f} to {high:.3f}")
    return table(["student", "batch", "objective", "aligned / baseline, median", "quartiles"], lines, "lrl")


@of_page
def captioning() -> str:
    lines = []
    for found in read_result("captioner_under_faults.json")["measured"]:
        capacity = found["capacity"] / found["latency_seconds"]
        kinds = "all kinds" if len(found["faults"]) > 3 else " and ".join(f"`{kind}`" for kind in found["faults"])
        cells = [f"{found['latency_seconds']:g} s, {found['capacity']} at a time ({capacity:.0f} a second)"]
        cells.append(f"{found['fault_rate']:.0%} {kinds}" if kinds else "none")
        for way in (found.get(name) for name in ("g4i", "map", "client")):
            lost = 1 - way["captions"] / found["requests"] if way else 0
            cells.append(f"{way['share_of_capacity']:.1%}" + f", {lost:.0%} lost" * (lost > 0) if way else "")
        lines.append(cells)
    return table(["server", "faults", "`g4i caption`", "`map`", "`client`"], lines, "ll")


CELLS = {
    "none": "no labels",
    "none, scores": "no labels, scores of SigLIP 2",
    "1 a class": "1 label a class",
    "4 a class": "4 labels a class",
    "40% wrong": "40% of the labels wrong",
    "all": "all labels right",
    "24 classes, all": "24 classes, all labels right",
    "Lite1, all": "all labels right, EfficientNet-Lite1",
}


DEFAULT_ARM = "0"  # of `g4i fit`


def name_of_cell(cell: str) -> str:
    data, _, setting = cell.replace(", 6,000", "").partition(", ")
    return f"{NAMES[data]}, {CELLS[setting]}"


@of_page
def all_layers() -> str:
    lines, cells = [], grouped(rows_of("all_layers", arm=DEFAULT_ARM), "cell")
    for (cell,), found in sorted(cells.items(), key=lambda cell: (name_of_cell(cell[0][0]), cell[1][0]["images"])):
        last, ships = (percent(mean(found, name)) for name in (WITH_VIEWS, "ships"))
        gains = np.mean([row["difference"] for row in found])
        ends = " ".join(f"{100 * row['difference']:+.1f}" for row in found)
        size = f"{found[0]['images']:,}, {found[0]['image_size']} px"
        lines.append([name_of_cell(cell), size, last, f"**{ships}**", f"{100 * gains:+.1f}", ends])
    return table(["", "images", "last layer", "all layers", "gain", "of each draw"], lines, "ll")


@of_page
def alignment() -> str:
    by_key = {(row["cell"], row["arm"], row["seed"]): row for row in rows_of("all_layers_alignment")}
    lines = []
    for (cell,), found in sorted(grouped(rows_of("all_layers_alignment", arm=DEFAULT_ARM), "cell").items()):
        cells = []
        for arm in ("0.1", "0.3", "1", "TextTeacher"):
            pairs = [(by_key.get((cell, arm, row["seed"])), row) for row in found]
            pairs = [(other, row) for other, row in pairs if other]
            differences = [right_of(other) - right_of(row) for other, row in pairs]
            draws = f", {len(pairs)} draws" if len(pairs) > 1 else ""
            cells.append(in_points(np.mean(differences, 0)) + draws if differences else "")
        without = np.mean([row.get("trained", row["ships"]) for row in found])
        if any(cells):
            lines.append([name_of_cell(cell), percent(without), *cells])
    return table(["", "without", "weight 0.1", "0.3", "1", "TextTeacher"], lines)


@of_page
def peers() -> str:
    """All layers by others: test accuracy, and the difference to that of `g4i fit` with captions."""
    by_key = {(row["cell"], row["arm"]): row for row in rows_of("all_layers", seed=0)}
    heads = {"timm": "timm", "transformers": "transformers' Trainer", "fastai": "fastai"}
    arms = [arm for arm in heads if any(arm == measured for _, measured in by_key)]
    lines = []
    for cell in sorted({cell for cell, arm in by_key if arm == "timm"}):
        ours, cells = by_key[cell, DEFAULT_ARM], []
        for arm in ("labels only", *arms):
            row = by_key.get((cell, arm))
            points = "" if row is None else in_points(right_of(row) - right_of(ours))
            cells.append("" if row is None else f"{percent(right_of(row).mean())}: {points}")
        lines.append([name_of_cell(cell), f"**{percent(right_of(ours).mean())}**", *cells])
    head = ["", "with captions", "labels only", *(f"{heads[arm]}, labels only" for arm in arms)]
    return table(head, lines)


@of_page
def client_rate() -> str:
    lines = []
    for row in read_result("captioner_under_faults.json")["measured"]:
        rate = 1000 / row["g4i"]["processor_ms_per_request"]
        if not row["fault_rate"]:
            server = f"{row['latency_seconds']} s, {row['capacity']} at a time"
            lines.append([server, f"{rate:.0f}", f"{500 / rate:.1f}"])
    return table(["server", "images a second of one core", "cores for 500 a second"], lines)


@of_page
def imagenet_captioning() -> str:
    lines = []
    for row in read_result("imagenet_plan.json")["captioning"]:
        hours = [f"{row[f'hours_{count}']:,.1f} h" for count in (1, 8, 64)]
        lines.append([row["captioner"], f"{row['operations'] / 1e12:.1f} T", *hours, f"{row['cost']:,.0f}"])
    return table(["captioner", "operations an image", "1 GPU", "8 GPUs", "64 GPUs", "cost"], lines)


@of_page
def shards() -> str:
    lines = [
        [f"{row['images']:,}", f"{row['shard_mb']:.0f} MB", f"{row['peak_mb']:.0f} MB"]
        for row in read_result("shards.json")["rows"]
    ]
    return table(["images of the shard", "its size", "peak memory"], lines, "r")


@of_page
def sample() -> str:
    lines, parts = [], sorted({row["part"] for row in rows_of("sample")})
    for data, setting in dict.fromkeys((row["data"], row["setting"]) for row in rows_of("sample")):
        found = {row["part"]: row for row in rows_of("sample", data=data, setting=setting)}
        cells = [f"{percent(found[part].get('labels_only'))} / {percent(found[part]['with_views'])}" for part in parts]
        lines.append([f"{data}, {found[1]['images']:,} images, labels: {setting}", *cells])
    return table(["", "all", *(f"1/{part}" for part in parts[1:])], lines)


@of_page
def formats() -> str:
    lines = []
    for (name,), found in grouped(rows_of("formats"), "format").items():
        of_sets = {row["data"]: row for row in found}
        cells = [percent(of_sets[data]["accuracy"]) if data in of_sets else "" for data in NAMES]
        same = " ".join(percent(of_sets[data]["agreement"]) for data in NAMES if data in of_sets)
        lines.append([f"`{name}`", f"{mean(found, 'megabytes'):.1f}", f"{mean(found, 'times'):.1f}", *cells, same])
    return table(["", "MB", "times as fast as `onnx`", *NAMES.values(), "class as PyTorch, %"], lines)
