"""
Is what `g4i fit` says true? A small task as a newcomer has it: 12 classes of Flowers-102, 5 labelled photographs of
each, two of these labels wrong, 300 unlabelled photographs and no `validation`.

    pip install -e '.[demo]'
    python benchmarks/verdicts.py PHOTOS

PHOTOS is that of photos_frozen.py. Each draw has other classes and photographs. `fit` has its defaults; both
classifiers are scored on the `test` and the left-over training photographs of these classes, which `fit` never sees.
Writes results/verdicts.json.
"""

import time
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets
from photos import parsed, parser_of, photos_of
from photos_fit import fitted, predictions_of
from result_files import Results

from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.names import LABELS_ONLY, WITH_VIEWS

CLASSES, LABELS, WRONG, UNLABELLED = 12, 5, 2, 300


def drawn(photos: DatasetDict, seed: int) -> tuple[Dataset, Dataset]:
    """The training photographs, and those that score."""
    generator = np.random.default_rng(seed)
    names = photos["train"].features["label"].names
    classes = np.sort(generator.permutation(len(names))[:CLASSES])
    feature = ClassLabel(names=[names[label] for label in classes])

    def of_classes(split: Dataset) -> Dataset:
        rows = np.flatnonzero(np.isin(labels_of(split), classes))
        few = with_labels(split.select(rows), np.searchsorted(classes, labels_of(split)[rows]))
        return few.cast_column("label", feature)

    training = of_classes(photos["train"])
    truth, order = labels_of(training), generator.permutation(len(training))
    labelled = np.concatenate([order[truth[order] == label][:LABELS] for label in range(CLASSES)])
    rest = np.setdiff1d(order, labelled, assume_unique=True)
    labels = np.full(len(training), -1)
    labels[labelled] = truth[labelled]
    wrong = generator.permutation(labelled)[:WRONG]
    labels[wrong] = (labels[wrong] + generator.integers(1, CLASSES, WRONG)) % CLASSES
    taken = np.sort(np.concatenate([labelled, rest[:UNLABELLED]]))
    left = training.select(np.sort(rest[UNLABELLED:])).remove_columns("caption")
    scoring = concatenate_datasets([left, of_classes(photos["test"]).remove_columns("caption")])
    return with_labels(training, labels).select(taken), scoring


def measured(photos: DatasetDict, seed: int, cache: Path) -> dict:
    training, scoring = drawn(photos, seed)
    start = time.process_time()
    result, folder = fitted(DatasetDict(train=training), cache)
    found = {"seconds_of_cpu": round(time.process_time() - start, 1), "scored": len(scoring)}
    right = {name: found.predicted == found.labels for name, found in predictions_of(folder, scoring).items()}
    for name in (LABELS_ONLY, WITH_VIEWS):
        found[name] = float(right[name].mean())
        found |= {f"{name}_{what}": getattr(result, f"{name}_{what}") for what in ("accuracy", "interval")}
    paired = right[WITH_VIEWS].astype(float) - right[LABELS_ONLY]
    error = 1.96 * float(paired.std() / np.sqrt(len(paired)))
    found |= {"difference_on_test": float(paired.mean()), "error_of_that": error}
    return found | {
        name: getattr(result, name) for name in ("difference", "difference_interval", "verdict", "released")
    }


def main() -> None:
    args = parsed(parser_of(__doc__, seeds=range(20), cache="runs/verdicts"))
    results = Results(args.results / "verdicts.json", ("seed",))
    photos = photos_of(args.photos, "flowers102")
    for seed in args.seeds:
        if not results.has(seed):
            results.add(seed, **measured(photos, seed, args.cache))


if __name__ == "__main__":
    main()
