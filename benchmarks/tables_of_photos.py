"""Tables of photographs and of their captions, from results/photos_*.json and others."""

import itertools
from collections.abc import Iterable
from statistics import fmean
from typing import Any

import numpy as np
from provenance import read_result

NAMES = {"cifar10": "CIFAR-10", "caltech101": "Caltech-101", "flowers102": "Flowers-102"}
FROZEN, SCRATCH = "efficientnet_lite0, last layer", "small resnet, from scratch"
CVT, ALL_LAYERS = "small cvt, from scratch", "efficientnet_lite0, all layers"
TITLES = {
    FROZEN: "frozen EfficientNet-Lite0",
    ALL_LAYERS: "all layers of EfficientNet-Lite0",
    SCRATCH: "small ResNet from scratch",
    CVT: "small CvT from scratch",
}
# Variants of a table in their order, and what they are called there
WRONG_LABELS = {
    "baseline": "labels only",
    "auto": "**captions**",
    "auto, captions alone": "captions, without image features",
    "auto and alignment": "captions and alignment",
    "alignment": "captions: alignment alone",
    "early stopping": "labels only, a quarter of the steps",
    "linear probe": "linear probe",
    "label smoothing": "label smoothing",
    "GCE": "generalised cross entropy",
    "small-loss filter": "small-loss filter, told the share",
    "cleanlab": "cleanlab's filter",
    "co-teaching": "co-teaching, told the share",
    "LightlyTrain": "LightlyTrain, from a pretrained teacher",
}
FEW_LABELS = {
    "baseline": "labels only",
    "auto": "**captions**",
    "auto, captions alone": "captions, without image features",
    "auto and alignment": "captions and alignment",
    "linear probe": "linear probe",
    "self-training": "self-training",
    "label propagation": "label propagation",
    "Tip-Adapter": "Tip-Adapter's cache",
    "FixMatch": "FixMatch",
    "LightlyTrain": "LightlyTrain, from a pretrained teacher",
    "captions at inference": "a caption of every test image",
}
ALL_LABELS = {
    "baseline": "labels only",
    "auto": "**captions**",
    "linear probe": "linear probe",
    "alignment": "captions: alignment alone",
    "captions at inference": "a caption of every test image",
}
SETTINGS = {
    "wrong_labels": (
        *("20% symmetric", "40% symmetric", "60% symmetric", "20% confusable", "40% confusable"),
        *("a person", "worst of three"),
    ),
    "few_labels": ("no labels", "1 a class", "4 a class", "at random", "16 a class", "10%"),
    "all_labels": ("all",),
}


def summary(grid: str) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """(data, student, setting, variant) -> accuracy, seeds and the paired difference to the baseline."""
    found = read_result(f"photos_{grid}.json")["summary"]
    return {(row["data"], row["student"], row["setting"], row["variant"]): row for row in found}


def cell(row: dict[str, Any] | None, with_difference: bool) -> str:
    if row is None:
        return ""
    accuracy = f"{100 * row['accuracy']:.1f}" + ("¹" if row["seeds"] == 1 else "")
    if not with_difference or "difference" not in row:
        return accuracy
    difference, low, high = (100 * row[name] for name in ("difference", "low", "high"))
    return f"{accuracy}, {difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def table(grid: str, variants: dict[str, str]) -> str:
    found, settings = summary(grid), SETTINGS[grid]
    lines = [
        f"| accuracy on `test` | {' | '.join(settings)} |",
        f"|---|{'---:|' * len(settings)}",
    ]
    for student in TITLES:
        for data, name in NAMES.items():
            rows = {variant: [found.get((data, student, each, variant)) for each in settings] for variant in variants}
            if not any(rows["baseline"]):
                continue
            lines.append(f"| *{name}, {TITLES[student]}* |{' |' * len(settings)}")
            for variant, title in variants.items():
                if any(rows[variant]):
                    cells = [cell(row, with_difference=variant == "auto") for row in rows[variant]]
                    lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def wrong_labels() -> str:
    return table("wrong_labels", WRONG_LABELS)


def few_labels() -> str:
    return table("few_labels", FEW_LABELS)


def uneven_labels() -> str:
    """Means over the seeds, by the number of labels that the true class has; `before`: an earlier version of both."""
    found = read_result("uneven_labels.json")

    def accuracies(views: str, data: str, draw: str, group: str, version: str = "now") -> list[float]:
        wanted, rows = (data, draw, views), found[version]["rows"]
        rows = [row for row in rows if (row["data"], row["draw"], row["views"]) == wanted and group in row]
        return [100 * row[group]["accuracy"] for row in rows]

    lines = [
        "| accuracy on unlabelled training images | captions | image features | both | gain over either | before |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for of in itertools.product(NAMES, DRAWS):
        lines.append(f"| *{NAMES[of[0]]}, {DRAWS[of[1]]}* | | | | | |")
        for group, title in LABELS_OF_CLASS.items():
            each = [accuracies(views, *of, group) for views in ("captions", "image features", "both")]
            if not each[0]:
                continue
            gains = [both - max(one, other) for one, other, both in zip(*each, strict=True)]
            gain = f"{fmean(gains):+.1f} ({', '.join(f'{gain:+.1f}' for gain in gains)})"
            *means, before = [f"{fmean(found):.1f}" for found in (*each, accuracies("both", *of, group, "before"))]
            lines.append(f"| {title} | {' | '.join(means)} | {gain} | {before} |")
    return "\n".join(lines)


def all_labels() -> str:
    return table("all_labels", ALL_LABELS)


DRAWS = {
    "at random": "labels drawn at random, as many as 4 a class",
    "a third without": "4 labels a class, none of a third of the classes",
}
LABELS_OF_CLASS = {"none": "classes without a label", "one": "with one", "more": "with more"}
CONTROLS = {
    "baseline": "labels only",
    "auto": "captions",
    "class names": "name of the true class",
    "without class names": "captions without the names of classes",
    "captions of other images": "captions of other images",
    "random vectors": "random vectors",
}


def controls() -> str:
    found = summary("few_labels") | summary("controls")
    lines = [f"| 4 labels a class | {' | '.join(NAMES.values())} |", f"|---|{'---:|' * len(NAMES)}"]
    for variant, title in CONTROLS.items():
        rows = [found.get((data, FROZEN, "4 a class", variant)) for data in NAMES]
        lines.append(f"| {title} | {' | '.join(cell(row, with_difference=False) for row in rows)} |")
    return "\n".join(lines)


def calibration() -> str:
    """Expected calibration error of frozen students with captions, means over seeds."""
    lines = [f"| ECE on `test`, with captions | {' | '.join(NAMES.values())} |", f"|---|{'---:|' * len(NAMES)}"]
    for grid, settings in (
        ("few_labels", ("no labels", "1 a class", "4 a class", "10%")),
        ("wrong_labels", ("40% symmetric",)),
    ):
        rows = read_result(f"photos_{grid}.json")["rows"]
        for setting in settings:
            of_setting = {"student": FROZEN, "setting": setting, "variant": "auto"}.items()
            errors = [
                [100 * row["calibration_error"] for row in rows if row["data"] == data and of_setting <= row.items()]
                for data in NAMES
            ]
            lines.append(f"| {setting} | {' | '.join(f'{fmean(found):.1f}' for found in errors)} |")
    return "\n".join(lines)


ENGINES = {"pytorch": "PyTorch", "onnx": "ONNX Runtime", "int8": "ONNX Runtime, int8"}


def shipped() -> str:
    found = read_result("photos_shipped.json")["students"]
    lines = [
        "| student | engine | MB | ms an image | images/s | accuracy on `test` |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for title, row in found.items():
        for engine, name in ENGINES.items():
            megabytes = row.get(f"{engine}_megabytes", 4e-6 * row["parameters"])
            accuracy = row["test_int8_accuracy" if engine == "int8" else "test_accuracy"]
            milliseconds, rate = row[f"{engine}_latency_ms"], row[f"{engine}_images_per_second"]
            figures = f"{megabytes:.1f} | {milliseconds:.2f} | {rate:,.0f} | {100 * accuracy:.1f}"
            lines.append(f"| {title if engine == 'pytorch' else ''} | {name} | {figures} |")
    return "\n".join(lines)


FIT_SETTINGS = {
    "none": "no labels",
    "1 a class": "1 label a class",
    "4 a class": "4 labels a class",
    "uneven": "as many, drawn at random",
    "40% wrong": "40% of the labels wrong",
}


def fit(settings: Iterable[str] = FIT_SETTINGS) -> str:
    """`g4i fit` itself: in each cell labels only and with captions, means over the draws of labels."""
    found = {
        (row["data"], row["setting"]): row
        for row in read_result("photos_fit.json")["summary"]
        if not row["validation"]
    }
    lines = [f"| accuracy, % | {' | '.join(NAMES.values())} |", f"|---|{'---:|' * len(NAMES)}"]
    for setting in settings:
        cells = []
        for data in NAMES:
            row = found.get((data, setting), {})
            both = [f"{100 * row['labels_only']:.1f}"] if "labels_only" in row else []
            both += [f"**{100 * row['with_views']:.1f}**"] if row else []
            one = " ¹" if row and row["seeds"] == 1 else ""
            cells.append(" → ".join(both) + one)
        lines.append(f"| {FIT_SETTINGS[setting]} | {' | '.join(cells)} |")
    if any("¹" in line for line in lines):
        lines += ["", "¹ one draw of the labels"]
    return "\n".join(lines)


def fit_estimates() -> str:
    """What `g4i fit` said of its classifiers, beside the truth."""
    lines = [
        "| captions of | labels | judged on | labels only: said, true | with captions: said, true | gain: said, true |"
    ]
    lines.append("|---|---|---|---:|---:|---:|")
    for row in read_result("photos_fit.json")["summary"]:
        pairs = {name: (row.get(f"{name}_estimate"), row.get(name)) for name in ("labels_only", "with_views")}
        if pairs["with_views"][0] is None:
            continue
        cells = [
            ", ".join(f"{100 * each:.1f}" for each in pair) if pair[0] is not None else "" for pair in pairs.values()
        ]
        if cells[0]:
            gains = [after - before for before, after in zip(*pairs.values(), strict=True)]
            cells.append(", ".join(f"{100 * gain:+.1f}" for gain in gains))
        else:
            cells.append("")
        judge = "`validation`" if row["validation"] else "kept or labelled images"
        lines.append(f"| {NAMES[row['data']]} | {FIT_SETTINGS[row['setting']]} | {judge} | {' | '.join(cells)} |")
    return "\n".join(lines)


def none_of_these() -> str:
    """Pools with images of no class: how many are said to be there, and the student's accuracy."""
    lines = [
        "| images | of no class | at least, said | AUROC | false alarms | counted like others | **weighed** "
        "| left out by hand |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows = read_result("none_of_these.json")["rows"]
    for place in dict.fromkeys((row["data"], row["others"]) for row in rows):
        group = [row for row in rows if (row["data"], row["others"]) == place]
        share, least, auroc, softmax, alarms, plain, weighed, by_hand = (
            100 * sum(row[name] for row in group) / len(group) if name in group[0] else None
            for name in (
                *("share", "said_at_least", "none_auroc", "max_softmax_auroc", "none_false_alarms"),
                *("plain", "weighed", "by_hand"),
            )
        )
        found = f"{auroc / 100:.2f} ({softmax / 100:.2f}) | {alarms:.0f}%" if auroc else " | "
        lines.append(
            f"| {NAMES[place[0]]} | {share:.0f}% | {least:.0f}% | {found} | {plain:.1f} | **{weighed:.1f}** "
            f"| {by_hand:.1f} |"
        )
    return "\n".join(lines)


STRATEGIES = {
    "next": "**`--pick next`**",
    "random": "at random",
    "margin": "least margin",
    "entropy": "greatest entropy",
}


def next_labels() -> str:
    """Accuracy after more labels, by how they are chosen; of draws in which each way was measured."""
    rows = [row for row in read_result("review.json")["rows"] if row["what"] == "next"]
    lines = [
        "| photographs, draws | labels chosen | +0 | +20 | +60 | +100 | +200 |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        found = {(row["kind"], row["seed"]): row["accuracies"] for row in rows if row["data"] == data}
        seeds = {seed for _, seed in found}
        whole = [seed for seed in seeds if all((kind, seed) in found for kind in STRATEGIES)]
        for kind, title in STRATEGIES.items() if whole else ():
            means = [sum(found[kind, seed][number] for seed in whole) / len(whole) for number in (0, 1, 3, 5, 10)]
            cells = " | ".join(f"{100 * mean:.1f}" for mean in means)
            lines.append(f"| {NAMES[data]}, {len(whole)} | {title} | {cells} |")
    return "\n".join(lines)


WRONG_KINDS = {"symmetric": "symmetric", "confusable": "confusable", "people": "as people err"}


def wrong_labels_found() -> str:
    """Wrong ones among the first 100 labels that are shown; means over the draws."""
    rows = [row for row in read_result("review.json")["rows"] if row["what"] == "wrong"]
    lines = ["| photographs, draws | wrong labels | `--pick wrong` | cleanlab |", "|---|---|---:|---:|"]
    for data, kind in dict.fromkeys((row["data"], row["kind"]) for row in rows):
        group = [row for row in rows if (row["data"], row["kind"]) == (data, kind)]
        share, ours, theirs = (np.mean([row[name] for row in group]) for name in ("share", "wrong", "cleanlab"))
        lines.append(
            f"| {NAMES[data]}, {len(group)} | {share:.0%}, {WRONG_KINDS[kind]} | **{ours:.0f}** | {theirs:.0f} |"
        )
    return "\n".join(lines)


def gold_intervals() -> str:
    """How often the 95% interval of a gold sample holds the accuracy, and its median half-width in points."""
    rows = [row for row in read_result("review.json")["rows"] if row["what"] == "gold"]
    sizes = [name for name in rows[0] if name.isdecimal()]
    lines = [
        f"| photographs, draws | true accuracy | {' | '.join(f'{size} images' for size in sizes)} |",
        f"|---|---:|{'---:|' * len(sizes)}",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        group = [row for row in rows if row["data"] == data]
        cells = [f"{100 * np.mean([row['with_views'] for row in group]):.1f}"]
        for size in sizes:
            holds = np.mean([row[size]["holds"]["with_views"] for row in group])
            cells.append(f"{holds:.0%} (±{100 * np.mean([row[size]['half'] for row in group]):.1f})")
        lines.append(f"| {NAMES[data]}, {len(group)} | {' | '.join(cells)} |")
    return "\n".join(lines)


COVERED = {
    "labels_only": "labels only",
    "with_views": "with captions",
    "difference": "difference",
    "together": "all views",
    "wrong_labels": "wrong labels",
}


def coverage() -> str:
    """How often 95% intervals hold the truth, and their median half-width, for so many labels a class."""
    rows, groups = read_result("coverage.json")["rows"], {}
    for row in rows:
        groups.setdefault((str(row["labels"]), row["wrong"]), []).append(row)
    lines = [f"| labels a class | wrong | {' | '.join(COVERED.values())} |", f"|---|---:|{'---:|' * len(COVERED)}"]
    for (labels, wrong), group in [*groups.items(), (("all", None), rows)]:
        cells = []
        for name in COVERED:
            told = [row[name] for row in group if row.get(name) and row[name]["interval"] is not None]
            if not told:
                cells.append("")
                continue
            holds = np.mean([each["interval"][0] <= each["truth"] <= each["interval"][1] for each in told])
            half = np.median([(each["interval"][1] - each["interval"][0]) / 2 for each in told])
            cells.append(f"{holds:.0%} ({100 * half:.1f})")
        shown = "" if wrong is None else f"{wrong:.0%}"
        lines.append(f"| {labels} | {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts() -> str:
    """Over all draws of coverage.json: how often each verdict was given, and was true."""
    found = read_result("coverage.json")["summary"][0]["verdicts"]
    lines = ["| verdict | given | true of the kept images | true of other images |", "|---|---:|---:|---:|"]
    for name, line in found.items():
        true = [f"{line[what]:.0%}" if what in line else "" for what in ("right", "right_on_others")]
        lines.append(f"| {name} | {line['share']:.0%} | {' | '.join(true)} |")
    return "\n".join(lines)


def label_model() -> str:
    """A row a setting; means over the seeds."""
    lines = [
        "| captions of | labels | wrong | accuracy (estimated) | ECE (least) | estimated wrong | in the interval "
        "| precision / recall of suspicions | cleanlab's |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in read_result("label_model.json")["measured"]:
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
            f"| {NAMES[row['dataset']]} | {row['label_fraction']:.0%} | {wrong} "
            f"| {means['accuracy']} ({means['estimated_accuracy']}) "
            f"| {means['calibration_error']} ({means['least_calibration_error']}) | {means['estimated_wrong']} "
            f"| {found['interval_holds']} of {len(row['runs'])} | {suspicions[0]} | {suspicions[1]} |"
        )
    return "\n".join(lines)


def people_labels() -> str:
    """A row a kind of errors, views and share of labels; means over the draws."""
    lines = [
        "| images | labels | views | wrong | estimated | in the interval | precision / recall | right, called wrong "
        "| cleanlab's | right, called wrong |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in read_result("people_labels.json")["summary"]:
        views = "both" if "and" in row["views"] else row["views"]
        cells = [
            NAMES[row["data"]],
            f"{row['label_fraction']:.0%}, {row['kind']}",
            views,
            *(f"{100 * row[name]:.1f}" for name in ("wrong", "estimated_wrong")),
            f"{row['interval_holds']} of {row['draws']}",
        ]
        for name in ("ours", "cleanlab"):
            found = row[name]
            both = [found["precision"], found["recall"]]
            cells.append("" if None in both else " / ".join(f"{100 * each:.0f}" for each in both))
            cells.append(f"{found['right_called_wrong']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def views_added() -> str:
    """Accuracy of unlabelled training images by sets of views, mean over seeds."""
    rows = read_result("label_model_views.json")["rows"]
    settings = ("no labels", "1 a class", "4 a class")
    names = {
        "captions": "captions",
        "Lite0": "features of EfficientNet-Lite0, the student",
        "Lite0-2": "of Lite0, 1 and 2",
        "captions + Lite0": "captions, Lite0",
        "captions + Lite0-2": "captions, Lite0 to 2",
        "captions + Lite0 + answers": "captions, Lite0, answers of people",
        "captions + Lite0 + random": "captions, Lite0, random numbers",
        "captions + Lite0 + of other images": "captions, Lite0, features of other images",
    }
    columns = [(data, setting) for data in NAMES for setting in settings]
    lines = [
        f"| views | {' | '.join(f'{NAMES[data]}, {setting}' for data, setting in columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for views, title in names.items():
        cells = []
        for data, setting in columns:
            cell = data, setting, views
            found = [row["accuracy"] for row in rows if (row["data"], row["setting"], row["views"]) == cell]
            cells.append(f"{100 * fmean(found):.1f}" if found else "")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def questions() -> str:
    """A row a dataset."""
    lines = [
        "| photographs | question that pays | 64 images choose it | or one within 2 points | points lost, mean |",
        "|---|---|---:|---:|---:|",
    ]
    for row in read_result("questions.json")["rows"]:
        shares = f"{row['same_choice']:.0%} | {row['as_good']:.0%} | {100 * row['mean_loss']:.1f}"
        lines.append(f"| {NAMES[row['data']]} | {row['best']} | {shares} |")
    return "\n".join(lines)
