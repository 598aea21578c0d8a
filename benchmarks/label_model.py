"""
What `LabelModel` knows of photographs by their captions and class names: accuracy and calibration on held-out rows,
estimates of wrong labels, and how well it finds them, beside cleanlab (AGPL-3.0, not a dependency) on the same
probabilities.

    pip install cleanlab
    python benchmarks/label_model.py PHOTOS

PHOTOS and `--cache` are those of photos_frozen.py; the views are captions. Seven
tenths of each training split are fitted on, the rest is held out with its true labels. Labels of a share of the rows,
the same in every class, are known; of these a share is made wrong. Accuracy and calibration are those of the rows held
out and of those whose label was not known. A calibration error is never zero on so few rows: beside it stands what a
model of the same probabilities would show if they were right. Writes results/label_model.json.
"""

import statistics
from itertools import product
from pathlib import Path

import numpy as np
from controls import keep_label_fraction, with_label_noise
from datasets import Dataset, load_dataset
from photos import ENCODER, parsed, parser_of, text_embeds
from result_files import Results

from g4i_hf.data.checks import labels_of
from g4i_hf.evaluation.metrics import calibration_metrics
from g4i_hf.evaluation.report import suspicious_rows
from g4i_hf.label_model import LabelModel, View
from g4i_hf.label_model.plan import CAPTION
from g4i_hf.options import EncoderArguments
from g4i_hf.training.prepare import class_name_examples

KEY = ("data", "label_fraction", "wrong_rate", "kind", "seed")
SETTINGS = [  # share of labels, share of wrong ones, kind
    (1.0, 0.0, "symmetric"),
    (0.05, 0.0, "symmetric"),
    (1.0, 0.2, "symmetric"),
    (1.0, 0.5, "symmetric"),
    (1.0, 0.2, "confusable"),
    (0.2, 0.2, "symmetric"),
]


def embedded(root: Path, data: str, cache: Path) -> Dataset:
    """`image_id`, `label` and `text_embeds` of the rows that have a caption."""
    rows = load_dataset("parquet", data_dir=str(root / data), split="train")
    embeds = text_embeds(rows, cache / f"e_{data}_train.npy")
    rows = rows.remove_columns(["image", "caption"]).add_column("text_embeds", list(embeds))
    return rows.select(np.flatnonzero(embeds.any(1)))


def calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error of the most probable class."""
    return calibration_metrics(np.log(probabilities + 1e-12), truth)["ece"]


def least_calibration_error(probabilities: np.ndarray, seed: int) -> float:
    """The calibration error that is expected of so many rows when the probabilities are right, over 20 draws."""
    generator, sure = np.random.default_rng(seed), probabilities.max(1)
    likeliest, others = probabilities.argmax(1), probabilities.argmin(1)
    drawn = [np.where(generator.random(len(sure)) < sure, likeliest, others) for _ in range(20)]
    return statistics.mean(calibration_error(probabilities, truth) for truth in drawn)


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
    others = np.concatenate([others, embeds[given < 0]])
    others_truth = np.concatenate([labels_of(held_out), truth[given < 0]])
    probabilities = model.predict({CAPTION: others})
    wrong = (given >= 0) & (given != truth)
    found = {
        "labels": int((given >= 0).sum()),
        "judged": len(others),
        "accuracy": float((probabilities.argmax(1) == others_truth).mean()),
        "estimated_accuracy": model.accuracy_.share,
        "calibration_error": calibration_error(probabilities, others_truth),
        "least_calibration_error": least_calibration_error(probabilities, seed),
        "wrong": float(wrong.sum() / (given >= 0).sum()),
        "estimated_wrong": model.label_noise_,
        "interval": model.label_noise_interval_,
        "ours": precision_and_recall(suspicious_rows(given, model.posterior_), wrong),
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


def main() -> None:
    args = parsed(parser_of(__doc__))
    results = Results(args.results / "label_model.json", KEY)
    for data in args.data:
        rows = embedded(args.photos, data, args.cache)
        names = dict(enumerate(rows.features["label"].names))
        class_embeds = class_name_examples(names, EncoderArguments(ENCODER), "cpu", len(rows[0]["text_embeds"]))
        for setting, seed in product(SETTINGS, args.seeds):
            if not results.has(data, *setting, seed):
                results.add(data, *setting, seed, **measured(rows, class_embeds, *setting, seed))


if __name__ == "__main__":
    main()
