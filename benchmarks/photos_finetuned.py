"""
What are captions worth when all layers of a pretrained EfficientNet-Lite0 are trained on? Caltech-101 with 4 labels a
class, and with 40% wrong labels, each training by `g4i train` with recipes/photos/caltech101/train.yaml and the
options below.

    python recipes/efficientnet_lite0/convert.py
    python benchmarks/photos_finetuned.py PHOTOS

Labels and splits are those of `photos_frozen.py`: a tenth of each class of the training images is the validation. Both
have the same steps, rate and augmentation; `early stopping` is the baseline after a quarter of the steps.
`--try_rates 1e-3 3e-3` shows how the rate was chosen: for the baseline on `validation`, in a quarter of the steps.
`--cache` is that of `photos_frozen.py`. Finished rows are not computed again.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from controls import keep_label_fraction
from datasets import Dataset, List, Value, load_dataset
from photo_results import PhotoResults
from photos import CHECKPOINT, cached, labels_with, text_embeds
from provenance import ROOT

from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.running import main as g4i

DATA, STUDENT = "caltech101", "efficientnet_lite0, all layers"
OPTIONS = {
    "student": CHECKPOINT,
    "student_args": "{}",
    "pretrained": True,
    "image_size": 96,
    "learning_rate": 3e-3,
    "layer_decay": 0.8,  # on `validation` better than one rate for all layers
    "max_steps": 680,  # eight epochs of all images
    "align_weight": 0,
    "require_labels": False,
    "logging_strategy": "no",
    "disable_tqdm": True,
}
BASELINE = {"supervision": "none", "unlabelled": "drop"}
VARIANTS = {
    "baseline": BASELINE,
    # Before it learns wrong labels by heart
    "early stopping": BASELINE | {"max_steps": 170},
    "auto": {"supervision": "auto"},
}
SETTINGS = {"4 a class": "few_labels", "40% symmetric": "wrong_labels"}


def splits_of(photos: Path, cache: Path) -> dict[str, Dataset]:
    """With `text_embeds`; a tenth of the training images is `validation`."""
    splits = load_dataset("parquet", data_dir=str(photos / DATA))
    for name, split in splits.items():
        embeds = cached(cache / f"e_{DATA}_{name}.npy", text_embeds, split)
        of_length = List(Value("float16"), length=embeds.shape[1])
        splits[name] = split.add_column("text_embeds", list(embeds)).cast_column("text_embeds", of_length)
    held_out = labels_of(keep_label_fraction(splits["train"], 0.1, seed=1234)) >= 0
    return {
        "train": splits["train"].select(np.flatnonzero(~held_out)),
        "validation": splits["train"].select(np.flatnonzero(held_out)),
        "test": splits["test"],
    }


def train(splits: dict[str, Dataset], options: dict, run: Path, final: bool) -> dict:
    """The results of the run, which is removed; of `test` only if `final`."""
    shutil.rmtree(run, ignore_errors=True)
    for name, split in splits.items():
        if name != "test" or final:
            (run / "data").mkdir(parents=True, exist_ok=True)
            split.to_parquet(str(run / "data" / f"{name}.parquet"))
    settings = {"dataset_name": run / "data", "output_dir": run / "run"} | OPTIONS | options
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    g4i(["train", "--config", str(ROOT / "recipes" / "photos" / DATA / "train.yaml"), *words])
    if final:
        g4i(["evaluate", "--run", str(run / "run"), "--splits", "test", "--measures", "calibration"])
    results = json.loads((run / "run" / "all_results.json").read_text())
    shutil.rmtree(run)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for caption embeddings")
    parser.add_argument("--runs", type=Path, default=Path("runs/photos_finetuned"))
    parser.add_argument("--try_rates", type=float, nargs="+", help="baselines on validation alone; writes nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    splits = splits_of(args.photos, args.cache)
    for seed in args.seeds:
        for setting in args.settings:
            labels = labels_with(splits["train"], setting, seed)
            given = splits | {"train": with_labels(splits["train"], labels)}
            for rate in args.try_rates or ():
                quarter = {"max_steps": OPTIONS["max_steps"] // 4}
                options = VARIANTS["baseline"] | {"seed": seed, "learning_rate": rate} | quarter
                found = train(given, options, args.runs / "trial", final=False)
                print(setting, rate, found["validation_accuracy"], flush=True)
            for variant, options in ({} if args.try_rates else VARIANTS).items():
                key = {"data": DATA, "student": STUDENT, "variant": variant, "setting": setting, "seed": seed}
                results = PhotoResults(SETTINGS[setting], "python benchmarks/photos_finetuned.py PHOTOS")
                if results.has(**key):
                    continue
                start = time.perf_counter()
                found = train(given, options | {"seed": seed}, args.runs / f"{variant}-{seed}", final=True)
                row = key | {"accuracy": found["test_accuracy"], "calibration_error": found["test_ece"]}
                results.add(row)
                print(json.dumps(row), f"{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
