"""
What `g4i fit` itself does on photographs with few, no or wrong labels: CIFAR-10, Caltech-101 and Flowers-102.

    pip install -e '.[demo]'
    python benchmarks/photos_fit.py PHOTOS

PHOTOS, training rows, draws of labels and wrong labels are those of photos_frozen.py. `fit` has its defaults, and its
Python function is called. Each setting runs twice: without `validation`, as most users have it, and with the one of
photos_frozen.py. The classifiers that `fit` leaves are scored on `test`; its own estimates stand beside.

Features and embeddings are kept in `--cache`. Finished rows are not computed again. Writes results/photos_fit.json.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from controls import keep_label_fraction, with_label_noise
from datasets import Dataset, DatasetDict, load_dataset
from photos import ENCODER, labels_with
from provenance import RESULTS, provenance

from g4i_hf import fit
from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.evaluation.predict import load_run, predict
from g4i_hf.training.features import student_features

FILE = RESULTS / "photos_fit.json"
SETTINGS = ("none", "1 a class", "4 a class", "40% wrong", "uneven")
KEY = ("data", "setting", "validation", "seed")


def photos_of(root: Path, name: str) -> DatasetDict:
    """`train`, `validation` and `test`, the same rows as photos_frozen.py has."""
    splits = load_dataset("parquet", data_dir=str(root / name))
    if "validation" not in splits:
        held_out = labels_of(keep_label_fraction(splits["train"], 0.1, seed=1234)) >= 0
        training = splits["train"]
        splits["train"] = training.select(np.flatnonzero(~held_out))
        splits["validation"] = training.select(np.flatnonzero(held_out))
    return splits


def drawn(training: Dataset, setting: str, seed: int) -> Dataset:
    if setting == "none":
        return with_labels(training, np.full(len(training), -1))
    if setting == "40% wrong":
        return with_label_noise(training, 0.4, seed, training.features["label"].num_classes)
    return with_labels(training, labels_with(training, "at random" if setting == "uneven" else setting, seed))


def measured(
    photos: DatasetDict,
    setting: str,
    with_validation: bool,
    seed: int,
    cache: Path,
    encoder: str = ENCODER,
    **options: Any,
) -> dict:
    """What `fit` with these options says of its classifiers, and how many of the `test` images they get right."""
    folder = cache / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for kept in ("features", "embeddings"):
        (cache / kept).mkdir(exist_ok=True)
        (folder / kept).symlink_to((cache / kept).resolve())
    splits = DatasetDict(train=drawn(photos["train"], setting, seed))
    if with_validation:
        splits["validation"] = photos["validation"].remove_columns("caption")
    start = time.process_time()
    result = fit(splits, output_dir=str(folder), text_encoder=encoder, seed=seed, **options)
    seconds = time.process_time() - start
    row = {"seconds_of_cpu": round(seconds, 1), "judged_on": result.judged_on, "judged_images": result.judged_images}
    row["image_size"] = yaml.safe_load((folder / "fit.yaml").read_text())["image_size"]
    test, accelerator = photos["test"], Accelerator(cpu=not torch.accelerator.is_available())
    for name, estimate in (
        ("labels_only", result.labels_only_accuracy),
        ("with_views", result.with_views_accuracy),
    ):
        if not (folder / name).is_dir():
            continue
        model, processor = load_run(folder / name)
        features = student_features(model, processor, test, folder / "features", accelerator)
        found = predict(model, processor, test, accelerator, features=features, output_image_embeds=False)
        row[name] = float((found.predicted == found.labels).mean())
        row[f"{name}_estimate"] = estimate
    return row


def summary(rows: list[dict]) -> list[dict]:
    """For each data, setting and judge: means and standard deviations over the seeds."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KEY[:3]), []).append(row)
    found = []
    for place, group in groups.items():
        line = dict(zip(KEY, place, strict=False)) | {"seeds": len(group)}
        for name in ("labels_only", "with_views", "labels_only_estimate", "with_views_estimate", "seconds_of_cpu"):
            values = [row[name] for row in group if row.get(name) is not None]
            if values:
                line |= {
                    name: float(np.mean(values)),
                    f"{name}_deviation": float(np.std(values, ddof=len(values) > 1)),
                }
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", nargs="+", default=["cifar10", "caltech101", "flowers102"])
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--validation", nargs="+", type=int, default=[0, 1], choices=[0, 1])
    parser.add_argument("--cache", type=Path, default=Path("runs/photos_fit"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = provenance() | {"command": "python benchmarks/photos_fit.py PHOTOS"}
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    known = {tuple(row[name] for name in KEY) for row in rows}
    for validation in args.validation:
        for seed in args.seeds:
            for data in args.data:
                photos = photos_of(args.photos, data)
                for setting in args.settings:
                    key = {"data": data, "setting": setting, "validation": bool(validation), "seed": seed}
                    if tuple(key.values()) in known:
                        continue
                    row = measured(photos, setting, bool(validation), seed, args.cache / data)
                    rows.append(key | row | {"commit": made["commit"]})
                    print(json.dumps(rows[-1]), flush=True)
                    text = ",\n".join(f"  {json.dumps(row)}" for row in rows)
                    lines = ",\n".join(f"  {json.dumps(row)}" for row in summary(rows))
                    FILE.write_text(
                        f'{{"made": {json.dumps(made, indent=1)},\n"summary": [\n{lines}\n],\n"rows": [\n{text}\n]}}\n'
                    )


if __name__ == "__main__":
    main()
