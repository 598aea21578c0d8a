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
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from photos import CHECKPOINT
from photos_scratch import STUDENTS, copy_of, train_run
from provenance import RESULTS, provenance
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from g4i_hf import evaluate_run, load_images
from g4i_hf.data.dataset import AlignmentCollator, CaptionedImages, finish_batch
from g4i_hf.data.images import open_image, to_rgb, why_bad
from g4i_hf.evaluation.metrics import multiply_adds, size_metrics
from g4i_hf.evaluation.predict import for_prediction, load_run
from g4i_hf.hub.onnx import export_onnx
from g4i_hf.modeling.processing import EvalTransform, ImageSettings
from g4i_hf.modeling.student import plain_student

FILE = RESULTS / "photos_shipped.json"
FROZEN = {"student": CHECKPOINT, "student_args": "{}", "pretrained": True, "freeze_backbone": True, "image_size": 128}
# What it is called -> data, controls, options
SHIPPED = {
    "small ResNet, CIFAR-10, 32 px": ("cifar10", {"label_noise_rate": 0.4}, {}),
    "small CvT, CIFAR-10, 32 px": ("cifar10", {"label_noise_rate": 0.4}, STUDENTS["cvt"][1]),
    "frozen EfficientNet-Lite0, Caltech-101, 128 px": (
        "caltech101",
        {"label_fraction": 0.1},
        {"learning_rate": 3e-3, "max_steps": 170} | FROZEN,
    ),
}
BATCH = 32  # images of a batch in which throughput is measured
SECONDS = 1.0  # that each call is timed for
CALIBRATION_IMAGES = 128  # for training, which give the ranges of int8 activations
Call = Callable[[np.ndarray], np.ndarray]  # (n, 3, H, W) float32 -> logits (n, classes)


def engine_metrics(run: Path, training: Dataset, test: Dataset) -> dict[str, float]:
    """
    Of PyTorch, ONNX Runtime and an int8 graph: the median milliseconds of one image, images a second in batches of
    BATCH, and megabytes; and the accuracy of int8 on the labelled rows of `test`.
    """
    model, processor = load_run(run)
    student, transform = plain_student(model).float().eval(), EvalTransform(processor)
    size = ImageSettings.from_processor(processor).size
    chosen = training.select(np.sort(np.random.default_rng(0).permutation(len(training))[:CALIBRATION_IMAGES]))
    images = [to_rgb(open_image(image)) for image in chosen["image"] if why_bad(image) is None]
    with tempfile.TemporaryDirectory() as folder:
        files = {"onnx": Path(folder) / "model.onnx", "int8": Path(folder) / "int8.onnx"}
        export_onnx(student, files["onnx"], size)
        quantize(student, files["onnx"], files["int8"], np.stack([transform(image).numpy() for image in images]))
        calls = {"pytorch": torch_call(student)} | {name: onnx_call(file) for name, file in files.items()}
        found = size_metrics(student, size) | {"cpu_threads": torch.get_num_threads()}
        found |= {f"{name}_megabytes": file.stat().st_size / 1e6 for name, file in files.items()}
        for name, call in calls.items():
            found |= {f"{name}_latency_ms": 1000 * seconds(call, 1, size)}
            found |= {f"{name}_images_per_second": BATCH / seconds(call, BATCH, size)}
        found["test_int8_accuracy"] = accuracy(calls["int8"], for_prediction(test, transform))
    return found


def torch_call(student: PreTrainedModel) -> Call:
    @torch.inference_mode()
    def call(pixels: np.ndarray) -> np.ndarray:
        return student(pixel_values=torch.from_numpy(pixels)).logits.numpy()

    return call


def onnx_call(file: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["logits"], {"pixel_values": pixels})[0]


def seconds(call: Call, batch: int, size: int) -> float:
    pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)
    timer = Timer("call(pixels)", globals={"call": call, "pixels": pixels}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=SECONDS).median


def quantize(student: PreTrainedModel, onnx_file: Path, int8_file: Path, calibration: np.ndarray) -> None:
    """
    Writes an int8 graph as ONNX Runtime advises (https://onnxruntime.ai/docs/performance/model-optimizations/
    quantization.html): a student of convolutions with ranges of activations from images, one of matrix products with
    ranges found anew for each input. `calibration` are (n, 3, H, W) float32 pixel values of training images.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    found = multiply_adds(student, calibration.shape[-1])
    convolved = sum(number for operator, number in found.items() if "convolution" in operator)

    class Batches(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"pixel_values": part} for part in np.array_split(calibration, len(calibration))])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # a warning for each layer that keeps its float weights
    try:
        if convolved * 2 > sum(found.values()):
            quantize_static(onnx_file, int8_file, Batches(), per_channel=True)
        else:
            quantize_dynamic(onnx_file, int8_file, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
    finally:
        logging.root.setLevel(level)


def accuracy(call: Call, images: CaptionedImages) -> float:
    """Share of the labelled images that are classified rightly."""
    loader = DataLoader(images, batch_size=64, collate_fn=AlignmentCollator())
    predicted = [call(finish_batch(batch)["pixel_values"].numpy()).argmax(-1) for batch in loader]
    labelled = images.labels >= 0
    return float(np.mean(np.concatenate(predicted)[labelled] == images.labels[labelled]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/photos"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(FILE.read_text())["students"] if FILE.exists() else {}
    for name, (data, controls, options) in SHIPPED.items():
        if name in found:
            continue
        run, splits = args.runs / f"shipped-{data}", load_images(str(args.photos / data))
        train_run(args.photos, data, 0, controls, {"align_weight": 0} | options, run)
        test_accuracy = evaluate_run(run, splits=["test"], measures=["none"])["aligned"]["test_accuracy"]
        found[name] = engine_metrics(run, splits["train"], splits["test"]) | {"test_accuracy": test_accuracy}
        shutil.rmtree(run)
        shutil.rmtree(copy_of(run))
        made = provenance() | {"command": "python benchmarks/photos_shipped.py PHOTOS"}
        FILE.write_text(json.dumps(made | {"students": found}, indent=1) + "\n")
        print(name, found[name], flush=True)


if __name__ == "__main__":
    main()
