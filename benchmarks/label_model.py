"""
What `LabelModel` knows of photographs by their captions and class names: accuracy and calibration on held-out rows,
estimates of wrong labels, and how well it finds them, beside cleanlab (AGPL-3.0, not a dependency) on the same
probabilities.

    pip install cleanlab
    python benchmarks/label_model.py PHOTOS

PHOTOS holds a folder of Parquet files a dataset (`cifar10/train.parquet` and so on) with `label` and `caption`. Seven
tenths of each training split are fitted on, the rest is held out with its true labels. Labels of a share of the rows,
the same in every class, are known; of these a share is made wrong. Accuracy and calibration are those of the rows held
out and of those whose label was not known. A calibration error is never zero on so few rows: beside it stands what a
model of the same probabilities would show if they were right. Writes results/label_model.json.

`--few_labels` measures 5% of the labels alone, with ten seeds, and what so few labels can tell: the standard error of
an accuracy on as many rows as have labels, and the calibration error that is left with the best temperature for all
rows, chosen by the truth. Writes results/label_model_few_labels.json.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from controls import keep_label_fraction, with_label_noise
from datasets import Dataset, load_dataset
from provenance import RESULTS, provenance
from scipy.special import softmax

from g4i_hf.data.checks import labels_of
from g4i_hf.embedding import EncoderArguments, load_encoder
from g4i_hf.label_model import LabelModel, View
from g4i_hf.label_model.supervise import CAPTION
from g4i_hf.training.prepare import class_name_examples
from g4i_hf.workflows.check import suspicious_labels

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SETTINGS = [  # share of labels, share of wrong ones, kind
    (1.0, 0.0, "symmetric"),
    (0.05, 0.0, "symmetric"),
    (1.0, 0.2, "symmetric"),
    (1.0, 0.5, "symmetric"),
    (1.0, 0.2, "confusable"),
    (0.2, 0.2, "symmetric"),
]
SEEDS_OF_FEW = range(10)
TEMPERATURES = np.exp(np.linspace(-1, 1, 41))
BINS = 15


def embedded(file: Path, encoder: Any, cache: Path) -> Dataset:
    """`image_id`, `label` and `text_embeds` of the first caption of each row that has one."""
    rows = load_dataset("parquet", data_files=str(file), split="train").remove_columns("image")
    rows = rows.filter(lambda row: bool(row["caption"]) and bool(row["caption"][0]))
    if not cache.exists():
        texts = [caption[0] for caption in rows["caption"]]
        np.save(cache, encoder.encode(texts))
    rows = rows.remove_columns("caption")
    return rows.add_column("text_embeds", list(np.load(cache, allow_pickle=False).astype(np.float16)))


def calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error of the most probable class, bins of equal width."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    parts = [(bins == number) for number in range(BINS)]
    return float(sum(abs(sure[part].mean() - right[part].mean()) * part.mean() for part in parts if part.any()))


def least_calibration_error(probabilities: np.ndarray, seed: int) -> float:
    """The calibration error that is expected of so many rows when the probabilities are right, over 20 draws."""
    generator, sure = np.random.default_rng(seed), probabilities.max(1)
    drawn = [np.where(generator.random(len(sure)) < sure, probabilities.argmax(1), -1) for _ in range(20)]
    return statistics.mean(calibration_error(probabilities, truth) for truth in drawn)


def best_temperature_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The least calibration error that one temperature for all rows can give, chosen by the truth."""
    logits = np.log(probabilities + 1e-12)
    return min(calibration_error(softmax(logits / temperature, axis=1), truth) for temperature in TEMPERATURES)


def measured(rows: Dataset, class_embeds: np.ndarray, fraction: float, rate: float, kind: str, seed: int) -> dict:
    order = np.random.default_rng(seed).permutation(len(rows))
    learned, held_out = (rows.select(part) for part in np.split(order, [int(0.7 * len(rows))]))
    truth, num_labels = labels_of(learned), int(labels_of(rows).max()) + 1
    known = keep_label_fraction(learned, fraction, seed)
    given = labels_of(with_label_noise(known, rate, seed, num_labels, kind))
    embeds, others = (
        np.asarray(part.with_format("numpy")["text_embeds"][:], dtype=np.float32) for part in (learned, held_out)
    )
    model = LabelModel(num_labels, seed).fit({CAPTION: View(embeds, class_embeds)}, given)
    table = suspicious_labels(model, given)
    others = np.concatenate([others, embeds[given < 0]])
    others_truth = np.concatenate([labels_of(held_out), truth[given < 0]])
    probabilities = model.predict({CAPTION: others})
    accuracy, known = float((probabilities.argmax(1) == others_truth).mean()), int((given >= 0).sum())
    wrong = (given >= 0) & (given != truth)
    found = {
        "labels": known,
        "judged": len(others),
        "accuracy": accuracy,
        "standard_error": (accuracy * (1 - accuracy) / known) ** 0.5,  # of an accuracy on the labelled rows
        "estimated_accuracy": model.accuracy_.share,
        "calibration_error": calibration_error(probabilities, others_truth),
        "least_calibration_error": least_calibration_error(probabilities, seed),
        "best_temperature_error": best_temperature_error(probabilities, others_truth),
        "wrong": float(wrong.sum() / known),
        "estimated_wrong": model.label_noise_,
        "interval": model.label_noise_interval_,
        "ours": precision_and_recall(table["row"].to_numpy(), wrong),
    }
    return found | {"cleanlab": by_cleanlab(given, model.probabilities_.astype(np.float64), wrong)}


def precision_and_recall(rows: np.ndarray, wrong: np.ndarray) -> dict[str, float | None]:
    right = float(wrong[rows].sum())
    found = {"found": len(rows), "right_called_wrong": len(rows) - int(right)}
    if not wrong.any():
        return found | {"precision": None, "recall": None}
    return found | {"precision": right / max(len(rows), 1), "recall": right / float(wrong.sum())}


def by_cleanlab(given: np.ndarray, out_of_fold: np.ndarray, wrong: np.ndarray) -> dict | None:
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return None
    known = np.flatnonzero(given >= 0)
    # It wants every class among the labels
    classes = np.unique(given[known])
    place = np.searchsorted(classes, given[known])
    shares = out_of_fold[np.ix_(known, classes)] + 1e-9
    issues = find_label_issues(place, shares / shares.sum(1, keepdims=True), n_jobs=1)
    return precision_and_recall(known[issues], wrong)


def summary(runs: list[dict]) -> dict:
    """Means over seeds."""
    found = {}
    errors = ("standard_error", "calibration_error", "least_calibration_error", "best_temperature_error")
    for name in ("accuracy", "estimated_accuracy", *errors, "wrong", "estimated_wrong"):
        values = [run[name] for run in runs]
        found[name] = {"mean": statistics.mean(values), "sd": statistics.stdev(values)}
    found["interval_holds"] = sum(run["interval"][0] <= run["wrong"] <= run["interval"][1] for run in runs)
    for name in ("ours", "cleanlab"):
        if runs[0][name] and runs[0][name]["precision"] is not None:
            found[name] = {key: statistics.mean(run[name][key] for run in runs) for key in ("precision", "recall")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("runs/label_model"), help="for embeddings")
    parser.add_argument("--seeds", type=int, nargs="+", help="0 to 2; with --few_labels 0 to 9")
    parser.add_argument("--few_labels", action="store_true")
    args = parser.parse_args()
    settings, seeds, name_of_file = SETTINGS, args.seeds or [0, 1, 2], "label_model.json"
    if args.few_labels:
        settings, seeds = [(0.05, 0.0, "symmetric")], args.seeds or list(SEEDS_OF_FEW)
        name_of_file = "label_model_few_labels.json"
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    command = "python benchmarks/label_model.py PHOTOS" + (" --few_labels" if args.few_labels else "")
    made, found = provenance() | {"command": command}, []
    encoder = load_encoder(ENCODER)
    for name in ("cifar10", "caltech101", "flowers102"):
        rows = embedded(args.photos / name / "train.parquet", encoder, args.cache / f"{name}.npy")
        names = dict(enumerate(rows.features["label"].names))
        class_embeds = class_name_examples(names, EncoderArguments(ENCODER), "cpu", len(rows[0]["text_embeds"]))
        for fraction, rate, kind in settings:
            runs = [measured(rows, class_embeds, fraction, rate, kind, seed) for seed in seeds]
            setting = {"dataset": name, "label_fraction": fraction, "label_noise_rate": rate, "label_noise_kind": kind}
            found.append(setting | {"summary": summary(runs), "runs": runs})
            print(name, fraction, rate, kind, json.dumps(found[-1]["summary"]), flush=True)
            text = json.dumps(made | {"encoder": ENCODER, "seeds": seeds, "measured": found}, indent=2)
            (RESULTS / name_of_file).write_text(text + "\n")


if __name__ == "__main__":
    main()
