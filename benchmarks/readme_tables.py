"""
Writes the tables between the markers of the pages in `PAGES` from the files in results/.

    python benchmarks/readme_tables.py
"""

import json
import re
from pathlib import Path

from g4i_hf.evaluation.measures import ALL_MEASURES, PROBE, ROBUSTNESS, ZERO_SHOT

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/evidence.md",
    "docs/imagenet_cost.md",
    "docs/input_pipeline.md",
    "docs/scale.md",
    "recipes/efficientnet_lite0/README.md",
)
KINDS = ("baseline", "aligned")
GROUPS = {
    ZERO_SHOT: ", zero-shot accuracy",
    PROBE: ", accuracy of a probe",
    ROBUSTNESS: ", accuracy on corrupted images",
}
NAMES = {
    "validation_accuracy": "accuracy, `validation`",
    "test_accuracy": "accuracy, `test` (unseen style)",
    "test_novel_accuracy": "accuracy, `test_novel` (unseen style and concepts)",
    "test_novel_recall_at_1": "caption retrieval R@1, `test_novel`",
    "test_novel_recall_at_5": "caption retrieval R@5, `test_novel`",
}


def emoji_styles() -> str:
    found = json.loads((ROOT / "results" / "emoji_styles.json").read_text())
    lines = ["| % | baseline | aligned | difference, 95% interval | chance |", "|---|---:|---:|---:|---:|"]
    for key, name in NAMES.items():
        row = {field: 100 * value for field, value in found["summary"][key].items()}
        chance_key = key.replace("recall", "chance")
        chance = f"{100 * found['runs'][0][chance_key]:.1f}" if chance_key != key else ""
        lines.append(
            f"| {name} | {row['baseline_mean']:.1f} ± {row['baseline_sd']:.1f} "
            f"| {row['aligned_mean']:.1f} ± {row['aligned_sd']:.1f} "
            f"| {row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] | {chance} |"
        )
    return "\n".join(lines)


def step_time() -> str:
    found = json.loads((ROOT / "results" / "step_time.json").read_text())
    lines = ["| student | batch | objective | aligned / baseline, median | quartiles |", "|---|---:|---|---:|---:|"]
    for row in found["measured"]:
        low, high = row["ratio_quartiles"]
        bank = row["options"].get("align_text_bank")
        objective = f"`{row['options']['align_loss']}`" + (f", bank of {bank:,} texts" if bank else "")
        lines.append(
            f"| {row['student']} | {row['batch_size']} | {objective} | {row['ratio']:.3f} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def input_pipeline() -> str:
    return _speeds(json.loads((ROOT / "results" / "input_pipeline.json").read_text())["speed"])


def input_large() -> str:
    return _speeds(
        {"bicubic": json.loads((ROOT / "results" / "input_pipeline.json").read_text())["speed of large images"]}
    )


def _speeds(speed: dict) -> str:
    """A row a way of loading: images a second, its time over ours."""
    modes = list(speed)
    lines = [
        "| images a second of the processor; time over ours (quartiles), by the clock |"
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
    found = json.loads((ROOT / "results" / "input_pipeline.json").read_text())["fidelity"]
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
    found = json.loads((ROOT / "results" / "fed_from_memory.json").read_text())
    lines = ["| student | batch | from files / from memory, median | quartiles |", "|---|---:|---:|---:|"]
    for row in found["measured"]:
        low, high = row["ratio_quartiles"]
        lines.append(f"| {row['student']} | {row['batch_size']} | {row['ratio']:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def embed_speed() -> str:
    found = json.loads((ROOT / "results" / "embed_speed.json").read_text())
    lines = ["| captions | tokens, mean | ours / `encode`, median | quartiles |", "|---|---:|---:|---:|"]
    for name, row in found["captions"].items():
        low, high = row["ratio_quartiles"]
        lines.append(
            f"| {row['captions']}, {name} | {row['tokens_mean']:.0f} | {row['ratio']:.2f} | {low:.2f} to {high:.2f} |"
        )
    return "\n".join(lines)


def alignment_memory() -> str:
    found = json.loads((ROOT / "results" / "alignment_scale.json").read_text())
    measured, gb = found["measured"], 1e9
    without, ours, official = (measured[name] for name in ("without", "ours", "official_embeddings"))
    read, image = ours["read_seconds_a_row"], measured["resnet_step"]["seconds_an_image"]
    more = {name: ours["memory"][name] - without["memory"][name] for name in ("own", "all")}
    later = ours["memory_after_reading"]["own"] - without["memory"]["own"]
    opening = f"opening {found['rows']:,} embeddings of {found['dim']:,} numbers, official way"
    rows = {
        opening: f"{official['own_more'] / gb:.2f} GB",
        "the same here": f"{more['own'] / gb:.3f} GB",
        "the same, with what is mapped": f"{more['all'] / gb:.3f} GB",
        "after 102,400 rows were read and a text bank of all was made": f"{later / gb:.3f} GB",
        "time of the processor to open images, labels, captions and embeddings": f"{ours['seconds']:.1f} s",
        f"reading a row, {found['read_together']} at once": f"{1e6 * read:.1f} µs",
        "reading over forward and backward of a ResNet-50, on the same thread": f"{read / image:.5%}",
        "images a second and process up to which reading stays under 1%": f"{0.01 / read:,.0f}",
    }
    return "\n".join(["| | |", "|---|---:|", *(f"| {what} | {value} |" for what, value in rows.items())])


def alignment_step() -> str:
    found = json.loads((ROOT / "results" / "alignment_scale.json").read_text())
    ours, official = found["measured"]["our_loss"], found["measured"]["official_loss"]
    lines = ["| | official way | texts gathered | texts read |", "|---|---:|---:|---:|"]
    shape = [" × ".join(f"{size:,}" for size in way["logits"]) for way in (official, ours)]
    lines.append(f"| logits of a process | {shape[0]} | {shape[1]} | {shape[1]} |")
    for what, key, form in (("peak memory of the loss, GB", "bytes", 1e-9), ("seconds", "seconds", 1)):
        lines.append(f"| {what} | {official[key] * form:.2f} | {ours[key] * form:.2f} | |")
    for batch, received in found["received_bytes"].items():
        local, processes = (int(number) for number in batch.split(" x "))
        cells = " | ".join(f"{received[way] / 1e6:.2f}" for way in ("official", "texts gathered", "texts read"))
        lines.append(f"| MB received a step, {local:,} images on each of {processes} processes | {cells} |")
    return "\n".join(lines)


def embed_fixed_length() -> str:
    found = json.loads((ROOT / "results" / "embed_fixed_length.json").read_text())
    lines = ["| captions | tokens, mean | times as fast, median | range |", "|---|---:|---:|---:|"]
    for name, row in found["captions"].items():
        low, high = row["speed_ratio_range"]
        cells = f"{row['tokens_mean']:.0f} | {row['speed_ratio']:.2f} | {low:.2f} to {high:.2f}"
        lines.append(f"| {row['captions']}, {name} | {cells} |")
    return "\n".join(lines)


def captioning() -> str:
    server = json.loads((ROOT / "results" / "endpoint_saturation.json").read_text())
    resume = json.loads((ROOT / "results" / "caption_resume.json").read_text())
    ours, naive = server["ours"], server["naive"]
    capacity = server["capacity"] / server["latency_seconds"]
    share = f"{ours['requests']:,} requests, a server that can answer {capacity:.0f} a second: share of that"
    again = f"resuming with {resume['rows']:,} rows in the journal"
    rows = {
        f"{share}, ramp-up included": f"{ours['share_of_capacity']:.1%}",
        "the same by `datasets.map` with an async function, which keeps nothing when it stops": (
            f"{naive['share_of_capacity']:.1%}"
        ),
        "processor time of the client a request": f"{ours['processor_ms_per_request']:.1f} ms",
        f"{again}: to the first request": f"{resume['seconds_to_first_request']:.0f} s",
        f"{again}: most memory until then": f"{resume['peak_memory_mb']:,.0f} MB",
    }
    return "\n".join(["| | |", "|---|---:|", *(f"| {what} | {value} |" for what, value in rows.items())])


def finetune() -> str:
    found = json.loads((ROOT / "results" / "finetune.json").read_text())
    lines = [
        "| trained on | parameters | % | without captions | with captions | difference, 95% interval | better |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    names = {"frozen": "classifier", "lora": "classifier and LoRA adapters", "full": "all layers"}
    chance = f"caption retrieval R@5, `test` (chance {100 * found['test_chance_at_5']:.1f})"
    measures = {"test_accuracy": "accuracy, `test`", "test_recall_at_5": chance}
    for method, name in names.items():
        for measure, measured in measures.items():
            row = found["summary"][method][measure]
            percent = {field: 100 * value for field, value in row.items()}
            lines.append(
                f"| {name} | {found['summary'][method]['trained_parameters'] / 1e6:.2f} M | {measured} "
                f"| {percent['baseline_mean']:.1f} ± {percent['baseline_sd']:.1f} "
                f"| {percent['aligned_mean']:.1f} ± {percent['aligned_sd']:.1f} "
                f"| {percent['difference']:+.1f} [{percent['low']:+.1f}, {percent['high']:+.1f}] "
                f"| {row['improved']} of {row['seeds']} |"
            )
    return "\n".join(lines)


def finetune_data() -> str:
    found = json.loads((ROOT / "results" / "finetune.json").read_text())
    lines = [f"| class | {' | '.join(f'`{split}`' for split in found['images'])} |", "|---|" + "---:|" * 3]
    classes = sorted(found["images"]["train"])
    rows = {name: [counts.get(name, 0) for counts in found["images"].values()] for name in classes}
    rows["all"] = [sum(counts.values()) for counts in found["images"].values()]
    lines += [f"| {name} | {' | '.join(map(str, counts))} |" for name, counts in rows.items()]
    return "\n".join(lines)


def few_labels(split: str = "test") -> str:
    table = _grid("emoji_styles_few_labels.json", split, with_all=False)
    return table.replace("| resnet |", "| resnet, 100% |")


def few_labels_novel() -> str:
    return few_labels("test_novel")


def students() -> str:
    return _grid("emoji_styles_students.json", "test")


def longer() -> str:
    return _grid("emoji_styles_longer.json", "test")


def students_few_labels() -> str:
    return _grid("emoji_styles_students_few_labels.json", "test")


def stamps_few_labels() -> str:
    return _grid("stamps_few_labels.json", "test", with_all=False)


def caption_knowledge() -> str:
    """A row a share of labels, means over the seeds."""
    found = json.loads((ROOT / "results" / "emoji_styles_caption_knowledge.json").read_text())["rows"]
    lines = [
        "| labels | class of an unlabelled image is told by captions | by a logistic regression on them "
        "| it has the caption of a labelled image |",
        "|---|---:|---:|---:|",
    ]
    for share in dict.fromkeys(row["share"] for row in found):
        rows = [row for row in found if row["share"] == share]
        names = ("class_known", "class_known_by_logistic_regression", "equal_caption")
        shares = [f"{sum(row[name] for row in rows) / len(rows):.0%}" for name in names]
        lines.append(f"| {share:.0%} | {' | '.join(shares)} |")
    return "\n".join(lines)


def measures() -> str:
    """A row a figure of `test`, and of `test_novel`, with the paired difference over the seeds."""
    summary = json.loads((ROOT / "results" / "emoji_styles_measures.json").read_text())["summary"]
    lines = ["| measure | split | baseline | aligned | difference, 95% interval |", "|---|---|---:|---:|---:|"]
    for name, measure in ALL_MEASURES.items():
        for split in ("test", "test_novel"):
            row = summary.get(f"{split}_{name}")
            if row is None:
                continue
            scale, digits = (100, 1) if measure.is_share else (1, 3)
            cells = [
                f"{scale * row[f'{kind}_mean']:.{digits}f} ± {scale * row[f'{kind}_sd']:.{digits}f}" for kind in KINDS
            ]
            mean, low, high = (scale * row[key] for key in ("difference", "low", "high"))
            cells.append(f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]")
            lines.append(f"| {measure.title}{GROUPS.get(measure.group, '')} | `{split}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def controls() -> str:
    return _grid("emoji_styles_controls.json", "test")


def controls_novel() -> str:
    return _grid("emoji_styles_controls.json", "test_novel")


def _grid(file: str, split: str, with_all: bool = True) -> str:
    """A row a student of a comparison, each variant with its difference to the baseline and the interval."""
    findings = json.loads((ROOT / "results" / file).read_text())["findings"]
    rows = [row for row in findings if row["split"] == split and (with_all or row["student"] is not None)]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    lines = [f"| % | {' | '.join(variants)} |", "|---|" + "---:|" * len(variants)]
    for student in dict.fromkeys(row["student"] for row in rows):
        cells = []
        for variant in variants:
            row = next(row for row in rows if (row["student"], row["variant"]) == (student, variant))
            cell, found = f"{100 * row['mean']:.1f} ± {100 * row['sd']:.1f}", row["difference"]
            if found is not None:
                cell += f", {_difference(found)}"
            cells.append(cell)
        lines.append(f"| {student or 'all'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ablations_few_labels() -> str:
    return _variants("emoji_styles_ablations_few_labels.json", "validation")


def ablations() -> str:
    return _variants("emoji_styles_ablations.json", "validation", with_interval=False)  # of two seeds


def _variants(file: str, split: str, with_interval: bool = True) -> str:
    """A row a variant of a comparison of one student, the best first."""
    findings = json.loads((ROOT / "results" / file).read_text())["findings"]
    rows = [row for row in findings if row["split"] == split and row["student"] is not None]
    interval = ", 95% interval" if with_interval else ""
    lines = [f"| % | accuracy | difference{interval} | seeds better |", "|---|---:|---:|---:|"]
    for row in sorted(rows, key=lambda row: -row["mean"]):
        cells = ["", ""]
        if (difference := row["difference"]) is not None:
            other = "" if row["compared_with"] == "baseline" else f" to {row['compared_with']}"
            better = f"{difference['positive']} of {difference['seeds']}"
            found = _difference(difference) if with_interval else f"{100 * difference['mean']:+.1f}"
            cells = [found + other, better]
        lines.append(f"| {row['variant']} | {100 * row['mean']:.1f} ± {100 * row['sd']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(found: dict) -> str:
    """Points with their interval; no minus before what is zero but for rounding errors."""
    mean, low, high = (round(100 * found[name], 9) + 0.0 for name in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def imagenet_captioning() -> str:
    rows = json.loads((ROOT / "results" / "imagenet_plan.json").read_text())["captioning"]
    lines = ["| captioner | operations an image | 1 GPU | 8 GPUs | 64 GPUs | cost |", "|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(f"| {row['captioner']} | {row['operations'] / 1e12:.1f} T | {_hours(row)} | {row['cost']:,.0f} |")
    return "\n".join(lines)


def imagenet_training() -> str:
    rows = json.loads((ROOT / "results" / "imagenet_plan.json").read_text())["training"]
    lines = ["| student | GPU | 1 GPU | 8 GPUs | 64 GPUs | cost on 8 |", "|---|---|---:|---:|---:|---:|"]
    lines += [f"| {row['student']} | {row['gpu']} | {_hours(row)} | {row['cost']:,.0f} |" for row in rows]
    return "\n".join(lines)


def _hours(row: dict) -> str:
    return " | ".join(f"{row[f'hours_{count}']:,.1f} h" for count in (1, 8, 64))


def imagenet_network() -> str:
    rows = json.loads((ROOT / "results" / "imagenet_plan.json").read_text())["network"]
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


TABLES = {
    "ablations": ablations,
    "ablations_few_labels": ablations_few_labels,
    "alignment_memory": alignment_memory,
    "alignment_step": alignment_step,
    "embed_fixed_length": embed_fixed_length,
    "caption_knowledge": caption_knowledge,
    "captioning": captioning,
    "controls": controls,
    "controls_novel": controls_novel,
    "embed_speed": embed_speed,
    "emoji_styles": emoji_styles,
    "fed_from_memory": fed_from_memory,
    "few_labels": few_labels,
    "few_labels_novel": few_labels_novel,
    "finetune": finetune,
    "finetune_data": finetune_data,
    "imagenet_captioning": imagenet_captioning,
    "imagenet_network": imagenet_network,
    "imagenet_training": imagenet_training,
    "input_fidelity": input_fidelity,
    "input_large": input_large,
    "input_pipeline": input_pipeline,
    "longer": longer,
    "measures": measures,
    "stamps_few_labels": stamps_few_labels,
    "step_time": step_time,
    "students": students,
    "students_few_labels": students_few_labels,
}


def with_tables(text: str) -> str:
    """The text with every marked table made anew."""

    def fill(match: re.Match) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end of table -->"

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end of table -->", fill, text, flags=re.S)


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(with_tables((ROOT / page).read_text()))
