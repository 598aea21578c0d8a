"""
What are captions worth for a small student that is trained from scratch on photographs? Wrong labels, few labels and
all labels, on CIFAR-10, Caltech-101 and Flowers-102, each training by `g4i train` with recipes/photos/*/train.yaml.

    python benchmarks/photos_scratch.py PHOTOS
    python benchmarks/photos_scratch.py PHOTOS --student cvt --data cifar10

PHOTOS holds a folder of Parquet files for each dataset (recipes/photos says where the images and captions come from).
Both variants of a setting have the same steps, rate and augmentation. Every run is evaluated once, on `test`. One
thread; two to four minutes a training. Finished rows are not computed again. Writes results/photos_*.json, where rows
of other students stay as they are.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from unittest.mock import patch

import torch
from controls import controlled, save
from datasets import load_dataset
from photo_results import PhotoResults
from provenance import ROOT

from g4i_hf import embed_captions, load_images
from g4i_hf.running import main as g4i
from g4i_hf.training import trainer

STUDENT = "small resnet, from scratch"
# Name -> student, options beside those of the recipe
STUDENTS: dict[str, tuple[str, dict]] = {
    "resnet": (STUDENT, {}),
    # A convolutional vision transformer (arXiv 2103.15808): attention over 8x8, 4x4 and 4x4 tokens
    "cvt": (
        "small cvt, from scratch",
        {
            "student": "cvt",
            "student_args": {
                "patch_sizes": [7, 3, 3],
                "patch_stride": [4, 2, 1],
                "patch_padding": [3, 1, 1],
                "embed_dim": [32, 64, 128],
                "num_heads": [1, 2, 4],
                "depth": [1, 2, 3],
                "mlp_ratio": [2.0, 2.0, 2.0],
                "drop_rate": [0.0, 0.0, 0.0],
                "drop_path_rate": [0.0, 0.0, 0.0],
            },
            "learning_rate": 1e-3,
        },
    ),
}
VARIANTS = {
    "baseline": {"align_weight": 0, "supervision": "none"},
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
    "40% symmetric": wrong(0.4, "symmetric", "GCE"),
    "60% symmetric": wrong(0.6, "symmetric"),
    "20% confusable": wrong(0.2, "confusable"),
    "40% confusable": wrong(0.4, "confusable"),
    "10%": ("few_labels", {"label_fraction": 0.1}, ["baseline", "auto"]),
    "no labels": ("few_labels", {"label_fraction": 0}, ["auto"]),
    "all": ("all_labels", {}, ["baseline", "alignment", "auto"]),
}
# With --others
OTHERS = {
    "40% symmetric": ["alignment", "auto and alignment"],
    "10%": ["auto and alignment"],
}


def generalised_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *_, **__) -> tuple:
    """Zhang & Sabuncu (arXiv 1805.07836), q = 0.7, in place of the trainer's loss of labels."""
    given = logits.softmax(1).gather(1, labels[:, None])
    return ((1 - given**0.7) / 0.7).mean(), torch.tensor(len(labels))


def train(photos: Path, data: str, seed: int, controls: dict, options: dict, run: Path, split: str = "test") -> dict:
    """The results of the run on `split`, with calibration; the run is removed."""
    train_run(photos, data, seed, controls, options, run)
    g4i(["evaluate", "--run", str(run), "--splits", split, "--measures", "calibration"])
    results = json.loads((run / "all_results.json").read_text())
    shutil.rmtree(run)
    shutil.rmtree(copy_of(run))
    return results


def copy_of(run: Path) -> Path:
    """Where the dataset of a run lies, after its controls."""
    return run.with_name(f"{run.name}-data")


def train_run(photos: Path, data: str, seed: int, controls: dict, options: dict, run: Path) -> None:
    for folder in (run, copy_of(run)):
        shutil.rmtree(folder, ignore_errors=True)
    splits = embed_captions(load_images(photos / data), embeddings_dir=run.parent / "embeddings" / data)
    splits["train"] = controlled(splits["train"], seed, **controls)
    save(splits, copy_of(run))
    settings = {
        "dataset_name": str(copy_of(run).resolve()),
        "output_dir": str(run),
        "seed": seed,
        "max_steps": steps_of(photos, data),
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    words = []
    for name, value in (settings | options).items():
        words += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    g4i(["train", "--config", str(ROOT / "recipes" / "photos" / data / "train.yaml"), *words])


def steps_of(photos: Path, data: str) -> int:
    """Of all rows: a baseline that drops images without a label has the same number."""
    rows = load_dataset("parquet", data_files=str(photos / data / "train*.parquet"), split="train").num_rows
    return rows // 64 * (15 if data == "cifar10" else 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", nargs="+", default=["cifar10", "caltech101", "flowers102"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--student", default="resnet", choices=list(STUDENTS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--others", action="store_true", help="other uses of captions too")
    parser.add_argument("--runs", type=Path, default=Path("runs/photos"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    student, of_student = STUDENTS[args.student]
    command = "python benchmarks/photos_scratch.py PHOTOS"
    if args.student != "resnet":
        command += f" --student {args.student} --data cifar10"
    for seed in args.seeds:
        for setting in args.settings:
            grid, controls, variants = SETTINGS[setting]
            for data in args.data:
                for variant in variants + (OTHERS.get(setting, []) if args.others else []):
                    key = {"data": data, "student": student, "variant": variant, "setting": setting, "seed": seed}
                    if variant not in args.variants or PhotoResults(grid, "").has(**key):
                        continue
                    start = time.perf_counter()
                    chosen = of_student | VARIANTS[variant]
                    if variant == "baseline" and "label_fraction" in controls:
                        chosen["unlabelled"] = "drop"
                    loss = generalised_cross_entropy if variant == "GCE" else trainer.classification_loss
                    with patch.object(trainer, "classification_loss", loss):
                        found = train(args.photos, data, seed, controls, chosen, args.runs / f"{data}-{seed}")
                    row = key | {"accuracy": found["test_accuracy"], "calibration_error": found["test_ece"]}
                    PhotoResults(grid, command).add(row)
                    print(json.dumps(row), f"{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
