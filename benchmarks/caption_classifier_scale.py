"""
The classifier of captions at the size of ImageNet: 1.28 million embeddings of 384 numbers, read from a file, and 1,000
classes; a tenth of the labels is wrong. The embeddings are drawn around a centre a class. One thread.

    python benchmarks/caption_classifier_scale.py [--rows 1281167] [--classes 1000]

Writes results/caption_classifier_scale.json.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from provenance import RESULTS, provenance

from g4i_hf import CaptionClassifier

DIM, SPREAD, WRONG, BLOCK = 384, 3.0, 0.1, 50_000


def embeddings(file: Path, truth: np.ndarray, classes: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((classes, DIM), dtype=np.float32)
    found = np.lib.format.open_memmap(file, "w+", np.float16, (len(truth), DIM))
    for start in range(0, len(truth), BLOCK):
        rows = centres[truth[start : start + BLOCK]]
        rows = rows + SPREAD * generator.standard_normal(rows.shape, dtype=np.float32)
        found[start : start + BLOCK] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found.flush()
    return np.load(file, mmap_mode="r", allow_pickle=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--classes", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(1)
    truth = generator.integers(args.classes, size=args.rows)
    is_wrong = generator.random(args.rows) < WRONG
    labels = np.where(is_wrong, generator.integers(args.classes, size=args.rows), truth)
    with tempfile.TemporaryDirectory() as folder:
        embeds = embeddings(Path(folder) / "embeds.npy", truth, args.classes)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, cpu = time.monotonic(), time.process_time()
        classifier = CaptionClassifier(args.classes).fit(embeds, labels)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found = classifier.out_of_fold_.argmax(1)
    measured = {
        "rows": args.rows,
        "classes": args.classes,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "memory_mb": memory / 1024,
        "probabilities_mb": classifier.out_of_fold_.nbytes / 2**20,
        "accuracy": float((found == truth).mean()),
        "estimated_accuracy": classifier.accuracy_,
        "wrong": float((labels != truth).mean()),
        "estimated_wrong": classifier.label_noise_,
        "interval": classifier.label_noise_interval_,
    }
    print(json.dumps(measured, indent=2))
    text = json.dumps(provenance() | {"spread": SPREAD, "measured": measured}, indent=2)
    (RESULTS / "caption_classifier_scale.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
