"""Export of a student to ONNX, checked against PyTorch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..names import require

BATCHES = (1, 2, 3, 8)  # batch sizes to compare
TOLERANCE = 1e-4  # relative to the largest logit, or to 1 if that is smaller
TRACED = 2  # torch.export would take a dimension of 1 for a constant
NEEDED = ("onnxruntime", "onnx_ir", "transformers.exporters.exporter_onnx")


def export_onnx(student: PreTrainedModel, path: str | Path, image_size: int) -> None:
    """
    Write a graph with the input `pixel_values` (batch, 3, image_size, image_size) and the output `logits` (batch,
    num_labels), float32, for any batch size. It is compared with the student on random pixels, and deleted if it
    differs. Raises ImportError without the extra `onnx`; ValueError if the export fails or the logits differ.
    """
    onnxruntime, onnx_ir, _ = (require(name, "onnx", "ONNX") for name in NEEDED)
    student, path = student.eval(), Path(path)
    name = getattr(student.config, "architecture", None) or type(student).__name__
    try:
        graph = _graph(student, image_size)
    except Exception as error:  # torch has hundreds of classes of them
        cause = str(error).strip().splitlines()
        raise ValueError(
            f"{name} cannot be exported to ONNX: {type(error).__name__}: {cause[0] if cause else ''} Release it "
            "without --onnx."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(graph, path)
    try:
        _compare(student, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), image_size)
    except ValueError as error:
        path.unlink()
        raise ValueError(f"{name}: the ONNX graph {error} Release it without --onnx.") from error


@torch.no_grad()
def _graph(student: PreTrainedModel, image_size: int) -> Any:
    """The graph, an `onnx_ir.Model`, with the logits as its only output and without local paths."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    pixels = torch.zeros(TRACED, 3, image_size, image_size, dtype=student.dtype, device=student.device)
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=2**16)}}
    with _quiet():
        exported = OnnxExporter().export(
            student, {"pixel_values": pixels}, config=OnnxConfig(dynamic=True, dynamic_shapes=shapes)
        )
        model = exported.program
        logits = next(value for value in model.graph.outputs if value.name == "logits")
        del model.graph.outputs[:]  # such as those of both heads of a distilled student
        model.graph.outputs.append(logits)
        RemoveUnusedNodesPass()(model)
        ClearMetadataAndDocStringPass()(model)  # stack traces with local paths
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output of the exporters, which log their steps, and warn of functions that no student has."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


@torch.no_grad()
def _compare(student: PreTrainedModel, session: Any, image_size: int) -> None:
    """Raise ValueError if the logits differ."""
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        pixels = torch.randn(batch, 3, image_size, image_size, generator=generator)
        expected = student(pixel_values=pixels.to(student.device, student.dtype)).logits.float().cpu()
        try:
            logits = torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0]).float()
        except Exception as error:  # onnxruntime has no base class for its errors
            raise ValueError(f"does not take {batch} images: {' '.join(str(error).split())}") from error
        if logits.shape != expected.shape:
            raise ValueError(f"gives logits of shape {tuple(logits.shape)}, not {tuple(expected.shape)}.")
        difference = (logits - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        if not difference <= TOLERANCE:  # NaN too
            raise ValueError(f"gives other logits than PyTorch, by {difference:.1e} of the largest.")
