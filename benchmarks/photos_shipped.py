"""
What do students cost to ship that learned from captions? Size and speed on one thread of this CPU, in PyTorch and in
ONNX Runtime, float32 and int8, and their accuracy on `test`.

    python recipes/efficientnet_lite0/convert.py
    python benchmarks/photos_shipped.py PHOTOS

CIFAR-10 with 40% wrong labels, students from scratch as in `photos_scratch.py`; Caltech-101 with a tenth of the
labels, the head of EfficientNet-Lite0. `--supervision auto`, seed 0. What was measured is not trained again.
"""

import argparse
import json
from pathlib import Path

import torch
from photos_frozen import CHECKPOINT
from photos_scratch import STUDENTS, train
from provenance import RESULTS, provenance

FILE = RESULTS / "photos_shipped.json"
FROZEN = {"student": CHECKPOINT, "student_args": "{}", "pretrained": True, "freeze_backbone": True, "image_size": 128}
# What it is called -> data, options
SHIPPED = {
    "small ResNet, CIFAR-10, 32 px": ("cifar10", {"label_noise_rate": 0.4}),
    "small CvT, CIFAR-10, 32 px": ("cifar10", {"label_noise_rate": 0.4} | STUDENTS["cvt"][1]),
    "frozen EfficientNet-Lite0, Caltech-101, 128 px": (
        "caltech101",
        {"label_fraction": 0.1, "learning_rate": 3e-3, "max_steps": 170} | FROZEN,
    ),
}
FIGURES = ("parameters", "macs", "test_accuracy", "test_int8_accuracy", "cpu_threads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/photos"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(FILE.read_text())["students"] if FILE.exists() else {}
    for name, (data, options) in SHIPPED.items():
        if name in found:
            continue
        given = {"align_weight": 0} | options
        results = train(args.photos, data, 0, given, args.runs / f"shipped-{data}", measure="speed")
        kept = [key for key in results if key in FIGURES or key.endswith(("_ms", "_second", "_megabytes"))]
        found[name] = {key: results[key] for key in kept if not key.startswith("train_")}
        made = provenance() | {"command": "python benchmarks/photos_shipped.py PHOTOS"}
        FILE.write_text(json.dumps(made | {"students": found}, indent=1) + "\n")
        print(name, found[name], flush=True)


if __name__ == "__main__":
    main()
