"""Size and speed of a student on this machine's CPU: in PyTorch, in ONNX Runtime, and with int8 weights there."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import PreTrainedModel

from ..data.dataset import AlignmentCollator, CaptionedImages, finish_batch
from .comparison import ENGINES, markdown_table

BATCH = 32  # images of a batch in which throughput is measured
SECONDS = 1.0  # that each call is timed for


def size_metrics(student: PreTrainedModel, image_size: int) -> dict[str, float]:
    """
    `parameters`, and `macs`: multiply-adds of an image in convolutions and matrix products, half of what PyTorch's
    FLOP counter finds.
    """
    found = _multiply_adds(student, image_size)
    return {"parameters": sum(each.numel() for each in student.parameters()), "macs": sum(found.values())}


@torch.no_grad()
def _multiply_adds(student: PreTrainedModel, image_size: int) -> dict[str, int]:
    # The fused attention of a CPU is not known to the counter, its matrix products are
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        student(pixel_values=torch.zeros(1, 3, image_size, image_size))
    return {str(operator): flops // 2 for operator, flops in counter.get_flop_counts().get("Global", {}).items()}


def speed_metrics(
    student: PreTrainedModel, image_size: int, onnx_files: dict[str, Path] | None = None
) -> dict[str, float]:
    """
    Of each engine, a student on the CPU and graphs by the names of `ENGINES`, its `_latency_ms`, the median
    milliseconds of a batch of one image, and `_images_per_second` in batches of 32; of graphs their `_megabytes` too.
    `cpu_threads`, with which all of it was timed.
    """
    threads = torch.get_num_threads()
    found: dict[str, float] = {"cpu_threads": threads}
    calls = {"pytorch": _torch_call(student)}
    for name, file in (onnx_files or {}).items():
        calls[name] = _onnx_call(file, threads)
        found[f"{name}_megabytes"] = file.stat().st_size / 1e6
    for name, call in calls.items():
        taken = {}
        for batch in (1, BATCH):
            pixels = np.random.default_rng(0).standard_normal((batch, 3, image_size, image_size), dtype=np.float32)
            timer = Timer("call(pixels)", globals={"call": call, "pixels": pixels}, num_threads=threads)
            taken[batch] = timer.blocked_autorange(min_run_time=SECONDS).median
        found |= {f"{name}_latency_ms": 1000 * taken[1], f"{name}_images_per_second": BATCH / taken[BATCH]}
    return found


def _torch_call(student: PreTrainedModel) -> Callable[[np.ndarray], np.ndarray]:
    @torch.inference_mode()
    def call(pixels: np.ndarray) -> np.ndarray:
        return student(pixel_values=torch.from_numpy(pixels)).logits.numpy()

    student.eval()
    return call


def _onnx_call(file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["logits"], {"pixel_values": pixels})[0]


def quantize(student: PreTrainedModel, onnx_file: Path, int8_file: Path, calibration: np.ndarray) -> None:
    """
    Writes an int8 graph as ONNX Runtime advises (https://onnxruntime.ai/docs/performance/model-optimizations/
    quantization.html): a student of convolutions with ranges of activations from images, one of matrix products with
    ranges found anew for each input. `calibration` are (n, 3, H, W) float32 pixel values of training images.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    found = _multiply_adds(student, calibration.shape[-1])
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


def onnx_accuracy(file: Path, images: CaptionedImages, batch_size: int, num_workers: int, description: str) -> float:
    """Share of the labelled images that a graph classifies rightly; NaN where none is labelled."""
    call = _onnx_call(file, torch.get_num_threads())
    loader = DataLoader(images, batch_size=batch_size, collate_fn=AlignmentCollator(), num_workers=num_workers)
    predicted = [
        call(finish_batch(batch)["pixel_values"].numpy()).argmax(-1)
        for batch in tqdm(loader, desc=description, unit="batch", leave=False)
    ]
    labelled = images.labels >= 0
    return float(np.mean(np.concatenate(predicted)[labelled] == images.labels[labelled])) if labelled.any() else np.nan


def speed_table(results: dict[str, Any], splits: list[str]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, one an engine, of a run's `all_results.json`; no row where speed was not measured."""
    rows = []
    for name, title in ENGINES.items():
        if f"{name}_latency_ms" in results:
            megabytes = results.get(f"{name}_megabytes", 4e-6 * results["parameters"])
            numbers = [f"{megabytes:.1f}", f"{results[f'{name}_latency_ms']:.2f}"]
            numbers.append(f"{results[f'{name}_images_per_second']:,.0f}")
            figure = "int8_accuracy" if name == "int8" else "accuracy"
            accuracies = [results.get(f"{split}_{figure}") for split in splits]
            rows.append([title, *numbers, *("" if value is None else f"{100 * value:.1f}" for value in accuracies)])
    return ["engine", "MB", "ms", "images/s", *(f"accuracy, {split}" for split in splits)], rows


def speed_note(results: dict[str, Any]) -> str:
    """A sentence with what the table does not hold; empty where speed was not measured."""
    if "cpu_threads" not in results:
        return ""
    threads = results["cpu_threads"]
    return (
        f"{results['parameters'] / 1e6:.2f} million parameters, {results['macs'] / 1e6:,.0f} million multiply-adds an "
        f"image. On a CPU with {threads} thread{'s' if threads > 1 else ''}: milliseconds of one image, images a "
        f"second in batches of {BATCH}."
    )


def speed_as_markdown(results: dict[str, Any], splits: list[str]) -> str:
    """The table and its note for a card; empty where speed was not measured."""
    heads, rows = speed_table(results, splits)
    return f"{markdown_table(heads, rows)}\n\n{speed_note(results)}" if rows else ""
