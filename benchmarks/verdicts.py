"""
Is what `g4i fit` says true? A small task as a newcomer has it: 12 classes of Flowers-102, 5 labelled photographs of
each, two of these labels wrong, 300 unlabelled photographs and no `validation`.

    pip install -e '.[demo]'
    python benchmarks/verdicts.py PHOTOS

PHOTOS is that of photos_frozen.py. Each draw has other classes and photographs. `fit` has its defaults; both
classifiers are scored on the `test` and the left-over training photographs of these classes, which `fit` never sees.
Finished draws are not made again. Writes results/verdicts.json.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets
from photos_fit import photos_of
from provenance import RESULTS, provenance

from g4i_hf import fit
from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.evaluation.predict import load_run, predict
from g4i_hf.training.features import student_features

FILE = RESULTS / "verdicts.json"
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
    folder = cache / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (cache / "features").mkdir(exist_ok=True)
    (folder / "features").symlink_to((cache / "features").resolve())
    training, scoring = drawn(photos, seed)
    start = time.process_time()
    result = fit(DatasetDict(train=training), output_dir=str(folder))
    found = {"seconds_of_cpu": round(time.process_time() - start, 1), "scored": len(scoring)}
    right = {}
    for name in ("labels_only", "with_views"):
        model, processor = load_run(folder / name)
        accelerator = Accelerator(cpu=True)
        features = student_features(model, processor, scoring, folder / "features", accelerator)
        predicted = predict(model, processor, scoring, accelerator, features=features, output_image_embeds=False)
        right[name] = predicted.predicted == predicted.labels
        found[name] = float(right[name].mean())
        found |= {f"{name}_{what}": getattr(result, f"{name}_{what}") for what in ("accuracy", "interval")}
    paired = right["with_views"].astype(float) - right["labels_only"]
    error = 1.96 * float(paired.std() / np.sqrt(len(paired)))
    found |= {"difference_on_test": float(paired.mean()), "error_of_that": error}
    found |= {name: getattr(result, name) for name in ("difference", "difference_interval", "verdict", "released")}
    return found


def summary(rows: list[dict]) -> dict:
    verdicts = {
        verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("helped", "hurt", "cannot tell")
    }
    sign = {"helped": 1, "hurt": -1}
    agree = [row["verdict"] not in sign or sign[row["verdict"]] * row["difference_on_test"] > 0 for row in rows]
    holds = {}
    for name, truth in (
        ("labels_only", "labels_only"),
        ("with_views", "with_views"),
        ("difference", "difference_on_test"),
    ):
        ends = [row[f"{name}_interval"] for row in rows]
        holds[name] = sum(low <= row[truth] <= high for row, (low, high) in zip(rows, ends, strict=True))
    means = {name: float(np.mean([row[name] for row in rows])) for name in ("labels_only", "with_views", "difference")}
    return {"draws": len(rows), "verdicts": verdicts, "agree": sum(agree), "intervals_hold": holds, "means": means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--cache", type=Path, default=Path("runs/verdicts"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = provenance() | {"command": "python benchmarks/verdicts.py PHOTOS"}
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    photos = photos_of(args.photos, "flowers102")
    for seed in range(len(rows), args.draws):
        rows.append({"seed": seed} | measured(photos, seed, args.cache))
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        found = json.dumps(summary(rows))
        FILE.write_text(f'{{"made": {json.dumps(made, indent=1)},\n"summary": {found},\n"rows": [\n{lines}\n]}}\n')
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
