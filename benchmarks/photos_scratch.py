"""
What are captions worth for a small student that is trained from scratch on photographs? Wrong labels, few labels and
all labels, on CIFAR-10, Caltech-101 and Flowers-102, each training by `g4i train` with recipes/photos/*/train.yaml.

    python benchmarks/photos_scratch.py PHOTOS

PHOTOS is that of photos_frozen.py. Both variants of a setting have the same steps, rate and augmentation. Every run is
evaluated once, on `test`. One thread; two to four minutes a training. Writes results/photos_*.json, where rows of
other students stay as they are.
"""

import json
import shutil
from itertools import product
from pathlib import Path
from unittest.mock import patch

import torch
from controls import controlled, save
from datasets import load_dataset
from photos import parsed, parser_of
from photos_frozen import KEY
from result_files import ROOT, Results

from g4i_hf import embed_captions, load_images
from g4i_hf.running import main as g4i
from g4i_hf.training import trainer

STUDENT = "small resnet, from scratch"
VARIANTS = {
    "baseline": {"align_weight": 0, "supervision": "none", "unlabelled": "drop"},
    "alignment": {"supervision": "none"},
    "auto": {"align_weight": 0},
    "auto and alignment": {},
    "GCE": {"align_weight": 0, "supervision": "none"},
}


def wrong(share: float, kind: str, *others: str) -> tuple[str, dict, list[str]]:
    return "wrong_labels", {"label_noise_rate": share, "label_noise_kind": kind}, ["baseline", "auto", *others]


# Setting -> grid, controls of `controls.py`, variants
SETTINGS = {
    "20% symmetric": wrong(0.2, "symmetric"),
    "40% symmetric": wrong(0.4, "symmetric", "GCE", "alignment"),
    "60% symmetric": wrong(0.6, "symmetric"),
    "40% confusable": wrong(0.4, "confusable"),
    "10%": ("few_labels", {"label_fraction": 0.1}, ["baseline", "auto", "auto and alignment"]),
    "no labels": ("few_labels", {"label_fraction": 0}, ["auto"]),
    "all": ("all_labels", {}, ["baseline", "alignment", "auto"]),
}


def generalised_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *_, **__) -> tuple:
    """Zhang & Sabuncu (arXiv 1805.07836), q = 0.7, in place of the trainer's loss of labels."""
    given = logits.softmax(1).gather(1, labels[:, None])
    return ((1 - given**0.7) / 0.7).mean(), torch.tensor(len(labels))


def trained(photos: Path, data: str, seed: int, controls: dict, options: dict, run: Path) -> dict:
    """The results of a run on `test`, with calibration; the run is removed."""
    copy = run.with_name(f"{run.name}-data")
    for folder in (run, copy):
        shutil.rmtree(folder, ignore_errors=True)
    splits = embed_captions(load_images(photos / data), embeddings_dir=run.parent / "embeddings" / data)
    splits["train"] = controlled(splits["train"], seed, **controls)
    save(splits, copy)
    settings = {"dataset_name": copy.resolve(), "output_dir": run, "seed": seed, "max_steps": steps_of(photos, data)}
    settings |= {"unlabelled": "keep", "logging_strategy": "no", "disable_tqdm": True} | options
    words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    g4i(["train", "--config", str(ROOT / "recipes" / "photos" / data / "train.yaml"), *words])
    g4i(["evaluate", "--run", str(run), "--splits", "test"])
    results = json.loads((run / "all_results.json").read_text())
    shutil.rmtree(run)
    shutil.rmtree(copy)
    return results


def steps_of(photos: Path, data: str) -> int:
    """Of all rows: a baseline that drops images without a label has the same number."""
    rows = load_dataset("parquet", data_files=str(photos / data / "train*.parquet"), split="train").num_rows
    return rows // 64 * (15 if data == "cifar10" else 30)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, help="fewer, to try the script")
    args = parsed(parser)
    for seed, setting, data in product(args.seeds, args.settings, args.data):
        grid, controls, variants = SETTINGS[setting]
        results = Results(args.results / f"photos_{grid}.json", KEY, made_by="student")
        for variant in variants:
            key = data, STUDENT, variant, setting, seed
            if variant not in args.variants or results.has(*key):
                continue
            loss = generalised_cross_entropy if variant == "GCE" else trainer.classification_loss
            options = VARIANTS[variant] | ({"max_steps": args.steps} if args.steps else {})
            with patch.object(trainer, "classification_loss", loss):
                found = trained(args.photos, data, seed, controls, options, args.cache / f"{data}-{seed}")
            results.add(*key, accuracy=found["test_accuracy"], calibration_error=found["test_ece"])


if __name__ == "__main__":
    main()
