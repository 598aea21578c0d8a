"""What it brings: tables of accuracy and other measures with their differences, from the files in results/."""

import re

import yaml
from provenance import ROOT, read_result

from g4i_hf.evaluation.comparison import ALL_MEASURES, PROBE, ROBUSTNESS, ZERO_SHOT
from g4i_hf.study import points

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
    found = read_result("emoji_styles.json")
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


def measures() -> str:
    """A row a figure of `test`, and of `test_novel`, with the paired difference over the seeds."""
    summary = read_result("emoji_styles_measures.json")["summary"]
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


def finetune() -> str:
    found = read_result("finetune.json")
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
    found = read_result("finetune.json")
    lines = [f"| class | {' | '.join(f'`{split}`' for split in found['images'])} |", "|---|" + "---:|" * 3]
    classes = sorted(found["images"]["train"])
    rows = {name: [counts.get(name, 0) for counts in found["images"].values()] for name in classes}
    rows["all"] = [sum(counts.values()) for counts in found["images"].values()]
    lines += [f"| {name} | {' | '.join(map(str, counts))} |" for name, counts in rows.items()]
    return "\n".join(lines)


def students() -> str:
    return _grid("emoji_styles_students.json", "test")


def longer() -> str:
    return _grid("emoji_styles_longer.json", "test")


def mlp_mixer() -> str:
    return _curve("emoji_styles_mlp_mixer.json", "test")


def students_few_labels() -> str:
    return _grid("emoji_styles_students_few_labels.json", "test")


def few_labels(split: str = "test") -> str:
    return _curve("emoji_styles_few_labels.json", split)


def few_labels_others() -> str:
    return _curve("emoji_styles_few_labels_others.json", "test")


def few_labels_novel() -> str:
    return few_labels("test_novel")


def stamps_few_labels() -> str:
    return _grid("stamps_few_labels.json", "test", with_all=False)


def controls() -> str:
    return _grid("emoji_styles_controls.json", "test", first="student, labels")


def controls_novel() -> str:
    return _grid("emoji_styles_controls.json", "test_novel", first="student, labels")


def ablations() -> str:
    """A row a variant: its difference for each student and over all, the best first. Two seeds give no intervals."""
    rows = [row for row in read_result("emoji_styles_ablations.json")["findings"] if row["split"] == "validation"]
    found = {(row["student"], row["variant"]): row["difference"] for row in rows}
    students = [student for student in dict.fromkeys(student for student, _ in found) if student is not None]
    others = {row["variant"]: row["compared_with"] for row in rows if row["difference"] is not None}
    changed = _changed("ablations", "paper")
    lines = [f"| points | {' | '.join(students)} | all | pairs better | changed from `paper` |"]
    lines.append("|---|" + "---:|" * (len(students) + 2) + "---|")
    for variant, other in sorted(others.items(), key=lambda item: -found[None, item[0]]["mean"]):
        gains = [points(found[student, variant]["mean"]) for student in (*students, None)]
        pairs = found[None, variant]
        name = variant if other == "baseline" else f"{variant}, to {other}"
        better = f"{pairs['positive']} of {pairs['seeds']}"
        lines.append(f"| {name} | {' | '.join(gains)} | {better} | {changed[variant]} |")
    return "\n".join(lines)


def ablations_few_labels() -> str:
    """A row a variant, the best first."""
    findings = read_result("emoji_styles_ablations_few_labels.json")["findings"]
    rows = [row for row in findings if row["split"] == "validation" and row["student"] is not None]
    changed = _changed("ablations_few_labels", "with teacher")
    head = "| % | accuracy | difference to the baseline, 95% interval | seeds better | changed from `with teacher` |"
    lines = [head, "|---|---:|---:|---:|---|"]
    for row in sorted(rows, key=lambda row: -row["mean"]):
        cells = ["", ""]
        if (difference := row["difference"]) is not None:
            other = "" if row["compared_with"] == "baseline" else f" to {row['compared_with']}"
            better = f"{difference['positive']} of {difference['seeds']}"
            cells = [_difference(difference) + other, better]
        name, accuracy = row["variant"], f"{100 * row['mean']:.1f} ± {100 * row['sd']:.1f}"
        lines.append(f"| {name} | {accuracy} | {' | '.join(cells)} | {changed[name]} |")
    return "\n".join(lines)


def pseudo_labels() -> str:
    head = "| pseudo-labels, difference to self-training |"
    return _grid("emoji_styles_pseudo_labels.json", "test").replace("| pseudo-labels |", head, 1)


def thresholds() -> str:
    """A row a student and threshold: points to the baseline with captions, and with two controls in their place."""
    rows = [row for row in read_result("emoji_styles_thresholds.json")["findings"] if row["split"] == "validation"]
    found = {(row["student"], row["variant"]): row["difference"] for row in rows}
    lines = ["| student | `pseudo_label_threshold` | captions | random vectors | shuffled captions |"]
    lines.append("|---|---:|---:|---:|---:|")
    for student in dict.fromkeys(student for student, _ in found):
        for threshold in (0, 0.2, 0.4):
            names = ["pseudo-labels", "random", "shuffle"]
            if threshold:
                names = [f"threshold {threshold}", *(f"threshold {threshold}, {control}" for control in names[1:])]
            cells = [_difference(found[student, name]) for name in names]
            lines.append(f"| {student or 'all'} | {threshold} | {' | '.join(cells)} |")
    return "\n".join(lines)


PHOTOGRAPHS = {"cifar10": "CIFAR-10", "caltech101": "Caltech-101", "flowers102": "Flowers-102"}


def caption_classifier() -> str:
    """A row a setting; means over the seeds."""
    lines = [
        "| captions of | labels | wrong | accuracy (estimated) | ECE (least) | estimated wrong | in the interval "
        "| precision / recall of suspicions | cleanlab's |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in read_result("caption_classifier.json")["measured"]:
        found = row["summary"]
        means = {
            name: f"{100 * value['mean']:.1f}"
            for name, value in found.items()
            if isinstance(value, dict) and "mean" in value
        }
        wrong = f"{row['label_noise_rate']:.0%}"
        wrong += f", {row['label_noise_kind']}" if row["label_noise_rate"] else ""
        suspicions = [
            f"{100 * found[name]['precision']:.0f} / {100 * found[name]['recall']:.0f}" if name in found else ""
            for name in ("ours", "cleanlab")
        ]
        lines.append(
            f"| {PHOTOGRAPHS[row['dataset']]} | {row['label_fraction']:.0%} | {wrong} "
            f"| {means['accuracy']} ({means['estimated_accuracy']}) "
            f"| {means['calibration_error']} ({means['least_calibration_error']}) | {means['estimated_wrong']} "
            f"| {found['interval_holds']} of {len(row['runs'])} | {suspicions[0]} | {suspicions[1]} |"
        )
    return "\n".join(lines)


def caption_knowledge() -> str:
    """A row a share of labels, or a control of a share of them; means over the seeds."""
    found = read_result("emoji_styles_caption_knowledge.json")
    names = ("class_known", "class_known_by_logistic_regression", "expected_by_cross_validation", "equal_caption")
    lines = [
        "| labels | told by the most similar captions | by a logistic regression | expected of the latter "
        "| has the caption of a labelled image |",
        "|---|" + "---:|" * len(names),
    ]
    rows: dict[str, list[dict]] = {}
    for row in found["rows"]:
        rows.setdefault(f"{row['share']:.0%}", []).append(row)
    for row in found["controls"]:
        if row["control"] != "none" and not row["threshold"]:  # captions themselves are among the rows above
            rows.setdefault(f"{found['controlled']:.0%}, `{row['control']}`", []).append(row)
    for name, of_seeds in rows.items():
        means = [f"{_mean(of_seeds, key):.0%}" if key in of_seeds[0] else "" for key in names]
        lines.append(f"| {name} | {' | '.join(means)} |")
    return "\n".join(lines)


def labels_above_thresholds() -> str:
    """A row a threshold of pseudo-labels, with captions and with controls; means over the seeds."""
    found: dict[float, dict[str, list[dict]]] = {}
    for row in read_result("emoji_styles_caption_knowledge.json")["controls"]:
        found.setdefault(row["threshold"], {}).setdefault(row["control"], []).append(row)
    lines = ["| `pseudo_label_threshold` | captions | random vectors | shuffled captions |", "|---:|---|---|---|"]
    for threshold, controls in found.items():
        cells = [
            f"{_mean(rows, 'given'):,.0f} labels, {_mean(rows, 'expected_by_cross_validation'):.0%} expected right, "
            f"{_mean(rows, 'class_known_by_logistic_regression'):.0%} are"
            for rows in (controls[name] for name in ("none", "random", "shuffle"))
        ]
        lines.append(f"| {threshold:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(rows: list[dict], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def _grid(file: str, split: str, with_all: bool = True, first: str = "student") -> str:
    """
    A row a student of a comparison, each variant with its difference to the baseline and the interval;
    `first`: what the first column names.
    """
    findings = read_result(file)["findings"]
    rows = [row for row in findings if row["split"] == split and (with_all or row["student"] is not None)]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    lines = [f"| {first}; accuracy in % | {' | '.join(variants)} |", "|---|" + "---:|" * len(variants)]
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


def _curve(file: str, split: str) -> str:
    """Of students over shares of labels, of which the whole has no name of its own."""
    table = _grid(file, split, with_all=False, first="student, labels")
    return re.sub(r"^\| (\w+) \|", r"| \1, 100% |", table, flags=re.M)


def _changed(grid: str, reference: str) -> dict[str, str]:
    """The options that each variant of a grid of Emoji Styles sets otherwise than `reference` does."""
    variants = yaml.safe_load((ROOT / "recipes" / "emoji_styles" / f"{grid}.yaml").read_text())["variants"]
    changed = {}
    for name, options in variants.items():
        told = {key: value for key, value in options.items() if variants[reference].get(key) != value}
        if variants[reference].get("teacher_weight") and "teacher_weight" not in options:
            told["teacher_weight"] = 0
        words = [f"--{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in told.items()]
        changed[name] = f"`{' '.join(words)}`" if words else ""
    return changed


def _difference(found: dict) -> str:
    """Points with their interval."""
    mean, low, high = (points(found[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
