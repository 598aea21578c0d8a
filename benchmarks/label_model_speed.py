"""
How long does `LabelModel` take beside the caption classifier that it replaced? Caltech-101, 6,026 images and 101
classes, with embedded captions, class names and image features of a frozen EfficientNet-Lite0, 1,280 a row.

    python recipes/efficientnet_lite0/convert.py
    git worktree add --detach runs/before 34309c93
    python benchmarks/label_model_speed.py PHOTOS --before runs/before

PHOTOS and `--cache` are those of photos_frozen.py. Two processes, one of each version, fit the same inputs by turns,
in one thread. The time is the CPU time of a fit, the median of the repeats. Accuracy is that of the probabilities out
of fold, on all images. Writes results/label_model_speed.json, where the rows of other settings stay.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

DATA, SETTINGS = "caltech101", ("all", "40% symmetric", "4 a class", "1 a class")
REPEATS = 3
VERSIONS = ("before", "now")
WARM_UP = 1000  # rows of a first fit, which is not counted


def fitted(version: str, inputs: dict[str, np.ndarray], labels: np.ndarray) -> dict:
    """CPU time of a fit, by the library that this process imports, and what it finds."""
    num_labels, captions, features = len(inputs["names"]), inputs["captions"], inputs["features"]
    if version == "before":
        from g4i_hf import CaptionClassifier

        start = time.process_time()
        model = CaptionClassifier(num_labels).fit(captions, labels, features, inputs["names"])
        seconds = time.process_time() - start
        probabilities = model.out_of_fold_
    else:
        from g4i_hf import LabelModel, View

        views = {"caption": View(captions, inputs["names"], learns=False), "image": View(features)}
        start = time.process_time()
        model = LabelModel(num_labels).fit(views, labels)
        seconds = time.process_time() - start
        probabilities = model.probabilities_
    accuracy = float((probabilities.argmax(1) == inputs["truth"][: len(labels)]).mean())
    return {"cpu_seconds": seconds, "accuracy": accuracy, "estimated_wrong": model.label_noise_}


def work(version: str, file: str) -> None:
    """Fits each setting that is named on a line of standard input."""
    torch.set_num_threads(1)
    inputs = dict(np.load(file, allow_pickle=False))
    few = {name: inputs[name][:WARM_UP] for name in ("captions", "features")}
    fitted(version, inputs | few, inputs["all"][:WARM_UP])
    for line in sys.stdin:
        print(json.dumps(fitted(version, inputs, inputs[line.strip()])), flush=True)


def write_inputs(photos: Path, cache: Path, file: Path) -> None:
    from datasets import load_dataset
    from photos_frozen import cached, encoded, image_features, labels_with, text_embeds

    from g4i_hf.data.checks import labels_of
    from g4i_hf.embedding.embed import name_as_text

    cache.mkdir(parents=True, exist_ok=True)
    rows = load_dataset("parquet", data_dir=str(photos / DATA), split="train")
    names = encoded([name_as_text(name) for name in rows.features["label"].names])
    captions = cached(cache / f"e_{DATA}_train.npy", text_embeds, rows)
    features = cached(cache / f"f_{DATA}_train.npy", image_features, rows)
    rows = rows.remove_columns(["image", "caption"])
    labels = {setting: labels_with(rows, setting, seed=0) for setting in SETTINGS}
    np.savez(file, captions=captions, features=features, names=names, truth=labels_of(rows), **labels)


def commit_of(folder: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def measured(workers: dict[str, subprocess.Popen], setting: str, repeats: int) -> dict:
    runs: dict[str, list[dict]] = {version: [] for version in VERSIONS}
    for _ in range(repeats):
        for version, worker in workers.items():
            print(setting, file=worker.stdin, flush=True)
            runs[version].append(json.loads(worker.stdout.readline()))
            print(setting, version, runs[version][-1], flush=True)
    seconds = {version: [run["cpu_seconds"] for run in runs[version]] for version in VERSIONS}
    medians = {version: statistics.median(seconds[version]) for version in VERSIONS}
    found = {
        version: runs[version][0] | {"cpu_seconds": medians[version], "each": seconds[version]} for version in VERSIONS
    }
    return {"setting": setting, "ratio": medians["now"] / medians["before"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--before", type=Path, required=True, help="a worktree with the caption classifier")
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for features and embeddings")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    args = parser.parse_args()
    from provenance import RESULTS, ROOT, provenance

    made = provenance() | {"command": "python benchmarks/label_model_speed.py PHOTOS --before BEFORE"}
    file = RESULTS / "label_model_speed.json"
    rows = json.loads(file.read_text())["measured"] if file.exists() else []
    rows = [row for row in rows if row["setting"] not in args.settings]
    made |= {"commit_before": commit_of(args.before), "data": DATA, "measured": rows}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        write_inputs(args.photos, args.cache, inputs)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        workers = {
            version: subprocess.Popen(
                [sys.executable, __file__, "--work", version, str(inputs)],
                env=environment | {"PYTHONPATH": str(path.resolve())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for version, path in (("before", args.before), ("now", ROOT))
        }
        for setting in args.settings:
            rows.append(measured(workers, setting, args.repeats))
            print(setting, rows[-1]["ratio"], flush=True)
            file.write_text(json.dumps(made, indent=1) + "\n")
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        main()
