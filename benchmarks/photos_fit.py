"""
What `g4i fit` itself does on photographs with few, no or wrong labels: CIFAR-10, Caltech-101 and Flowers-102.

    pip install -e '.[demo]'
    python benchmarks/photos_fit.py PHOTOS

PHOTOS, training rows, draws of labels and wrong labels are those of photos_frozen.py. `fit` has its defaults, and its
Python function is called. With `--real_views FOLDER`, see real_views.py, some settings also have a view of a real
model: SigLIP 2's scores on CIFAR-10, GPT-4V's answers for 28% of the images on the others. With `--counts` labels of
CIFAR-10 are answers of people. Each setting runs without `validation`, as most users have it, and with the one of
photos_frozen.py (in results/ with one seed). The classifiers that `fit` leaves are scored on `test`; its own estimates
stand beside. Writes results/photos_fit.json.
"""

import shutil
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from controls import with_label_noise
from datasets import Dataset, DatasetDict
from photos import (
    ANSWERS,
    ENCODER,
    SIGLIP2,
    by_a_person,
    labels_with,
    parsed,
    parser_of,
    photos_of,
    places_of,
    views_of_models,
)
from result_files import Results

from g4i_hf import fit
from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.evaluation.metrics import calibration_metrics
from g4i_hf.evaluation.predict import Predictions, load_run, predict
from g4i_hf.fitting.result import FitResult
from g4i_hf.names import LABELS_ONLY, WITH_VIEWS
from g4i_hf.training.features import student_features

NO_CAPTIONS, REMOVED = "40% wrong, no captions", "40% wrong, removed"
PEOPLE, WITH_MODEL = "a person", ", a real model"
SETTINGS = ("none", "1 a class", "4 a class", "uneven", "40% wrong", NO_CAPTIONS, REMOVED, PEOPLE, "all")
OF_MODEL = ("none", "1 a class", "4 a class", "40% wrong")
KEY = ("data", "setting", "validation", "seed")


def drawn(training: Dataset, setting: str, seed: int, counts: np.ndarray | None = None) -> Dataset:
    if setting == "none":
        return with_labels(training, np.full(len(training), -1))
    if setting.startswith("40% wrong"):
        given = labels_of(with_label_noise(training, 0.4, seed, training.features["label"].num_classes))
        if setting == REMOVED:
            given[given != labels_of(training)] = -1
        return with_labels(training.remove_columns("caption") if setting == NO_CAPTIONS else training, given)
    if setting == PEOPLE:
        return with_labels(training, by_a_person(counts[places_of(training)], np.random.default_rng(seed)))
    return with_labels(training, labels_with(training, "at random" if setting == "uneven" else setting, seed))


def fitted(splits: DatasetDict, cache: Path, **options: Any) -> tuple[FitResult, Path]:
    """What `fit` says, and its folder. Features and embeddings stay in `cache`."""
    folder = cache / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for kept in ("features", "embeddings"):
        (cache / kept).mkdir(exist_ok=True)
        (folder / kept).symlink_to((cache / kept).resolve())
    return fit(splits, output_dir=str(folder), **options), folder


def predictions_of(folder: Path, images: Dataset) -> dict[str, Predictions]:
    """Of each classifier in a folder of `fit`."""
    found, accelerator = {}, Accelerator(cpu=not torch.accelerator.is_available())
    for name in (LABELS_ONLY, WITH_VIEWS):
        if (folder / name).is_dir():
            model, processor = load_run(folder / name)
            features = student_features(model, processor, images, folder / "features", accelerator)
            found[name] = predict(model, processor, images, accelerator, features=features, output_image_embeds=False)
    return found


def measured(
    photos: DatasetDict,
    setting: str,
    with_validation: bool,
    seed: int,
    cache: Path,
    text_encoder: str = ENCODER,
    counts: np.ndarray | None = None,
    **options: Any,
) -> dict:
    """What `fit` with these options says of its classifiers, and how many of the `test` images they get right."""
    splits = DatasetDict(train=drawn(photos["train"], setting, seed, counts))
    if with_validation:
        splits["validation"] = photos["validation"].remove_columns("caption")
    start = time.process_time()
    result, folder = fitted(splits, cache, text_encoder=text_encoder, seed=seed, **options)
    seconds = time.process_time() - start
    row = {"seconds_of_cpu": round(seconds, 1), "judged_on": result.judged_on, "judged_images": result.judged_images}
    row["image_size"] = yaml.safe_load((folder / "fit.yaml").read_text())["image_size"]
    for name, found in predictions_of(folder, photos["test"]).items():
        row |= {name: float((found.predicted == found.labels).mean())}
        row |= {f"{name}_estimate": getattr(result, f"{name}_accuracy")}
        row |= {f"{name}_ece": calibration_metrics(found.logits, found.labels)["ece"]}
    return row


def main() -> None:
    parser = parser_of(__doc__, cache="runs/photos_fit")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--validation", nargs="+", type=int, default=[0, 1], choices=[0, 1])
    parser.add_argument("--real_views", type=Path)
    args = parsed(parser)
    results = Results(args.results / "photos_fit.json", KEY)
    for validation, seed, data in product(args.validation, args.seeds, args.data):
        photos = photos_of(args.photos, data)
        cells: dict[str, dict] = {setting: {} for setting in args.settings}
        if data != "cifar10" or args.counts is None:
            cells.pop(PEOPLE, None)
        if args.real_views and not validation:
            view = views_of_models(photos["train"], data, args.real_views)[SIGLIP2 if data == "cifar10" else ANSWERS]
            options = {"views": ["caption", view, "image:student"]}
            cells |= {setting + WITH_MODEL: options for setting in OF_MODEL if setting in args.settings}
        for setting, options in cells.items():
            key = data, setting, bool(validation), seed
            if not results.has(*key):
                labels, folder = setting.removesuffix(WITH_MODEL), args.cache / data
                row = measured(photos, labels, bool(validation), seed, folder, counts=args.counts, **options)
                results.add(*key, **row)


if __name__ == "__main__":
    main()
