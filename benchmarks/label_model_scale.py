"""
Suspicious labels, as `g4i check` finds them, in a dataset as large as ImageNet's training set: CPU time, memory, and
whether the estimates hold. Random vectors stand for captions: a row is the unit vector of its class plus normal noise.
A fifth of the labels are wrong. Accuracy and calibration are those of rows held out.

    python benchmarks/label_model_scale.py
    python benchmarks/label_model_scale.py --label_fraction 0.05

Takes 1 GB of disk. Writes results/label_model_scale.json, where the row of another share of labels stays.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from label_model import calibration_error, precision_and_recall
from provenance import RESULTS, provenance

from g4i_hf.label_model import LabelModel, View
from g4i_hf.label_model.supervise import CAPTION
from g4i_hf.workflows.check import suspicious_labels

ROWS, CLASSES, DIM = 1_281_167, 1000, 384
HELD_OUT = 50_000
SPREAD = 4.0  # length of the noise, of a class vector: 1
WRONG = 0.2
BLOCK = 8192


def memory(field: str) -> float:
    """MB of this process: VmRSS now, or VmHWM at most. (ru_maxrss counts that of the parent process, too.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def rows_of(centres: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(n, DIM) float16 unit vectors."""
    noise = generator.standard_normal((len(labels), DIM), dtype=np.float32)
    rows = centres[labels] + SPREAD / np.sqrt(DIM) * noise
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def with_wrong(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    wrong = generator.random(len(labels)) < WRONG
    return np.where(wrong, (labels + generator.integers(1, CLASSES, len(labels))) % CLASSES, labels)


def measured(rows: int, label_fraction: float, folder: Path) -> dict:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CLASSES, DIM), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    truth, held_out = generator.integers(CLASSES, size=rows), generator.integers(CLASSES, size=HELD_OUT)
    embeds = np.lib.format.open_memmap(folder / "text_embeds.npy", "w+", np.float16, (rows, DIM))
    for start in range(0, rows, BLOCK):
        embeds[start : start + BLOCK] = rows_of(centres, truth[start : start + BLOCK], generator)
    others = rows_of(centres, held_out, generator)
    embeds.flush()
    embeds = np.load(folder / "text_embeds.npy", mmap_mode="r", allow_pickle=False)
    labels = np.where(generator.random(rows) < label_fraction, with_wrong(truth, generator), -1)
    known = labels >= 0
    wrong = known & (labels != truth)

    began, began_cpu = time.perf_counter(), time.process_time()
    model = LabelModel(CLASSES).fit({CAPTION: View(embeds)}, labels)
    suspicious = suspicious_labels(model, labels)
    minutes, cpu_minutes = (time.perf_counter() - began) / 60, (time.process_time() - began_cpu) / 60
    peak = memory("VmHWM")
    probabilities = model.predict({CAPTION: others})
    return {
        "rows": rows,
        "classes": CLASSES,
        "label_fraction": label_fraction,
        "labels": int(known.sum()),
        "cpu_minutes": cpu_minutes,
        "minutes": minutes,
        "peak_memory_gb": peak / 1024,  # with the pages of the embeddings that were read
        "accuracy": float((probabilities.argmax(1) == held_out).mean()),
        "accuracy_of_known_centres": float(((others.astype(np.float32) @ centres.T).argmax(1) == held_out).mean()),
        "estimated_accuracy": model.accuracy_.share,
        "calibration_error": calibration_error(probabilities, held_out),
        "wrong": float(wrong.sum() / known.sum()),
        "estimated_wrong": model.label_noise_,
        "interval": model.label_noise_interval_,
        "suspicious": precision_and_recall(suspicious["row"].to_numpy(), wrong),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help="fewer, to try the script: nothing is written then")
    parser.add_argument("--label_fraction", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = provenance()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(args.rows, args.label_fraction, Path(folder))
    print(json.dumps(found, indent=2))
    if args.rows == ROWS:
        file = RESULTS / "label_model_scale.json"
        before = json.loads(file.read_text())["measured"] if file.exists() else []
        kept = [row for row in before if row["label_fraction"] != args.label_fraction]
        text = json.dumps(made | {"held_out": HELD_OUT, "measured": [*kept, found]}, indent=2)
        file.write_text(text + "\n")


if __name__ == "__main__":
    main()
