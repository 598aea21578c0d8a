"""
A student as one ONNX graph, from pixels to a decision.

The input `images` is (batch, size, size, 3), uint8: RGB images that are resized and cropped. The outputs are `logits`
and `probabilities` (batch, num_labels), and `features` (batch, width), which the last layer takes, all float32. Where
a threshold or a score of none of the classes is known, there is `decision` (batch), int64: 0 for answer, 1 for ask, 2
for none. The metadata of the file has all else that a caller needs, see [`metadata_of`].
"""

import contextlib
import functools
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from ..modeling.none_of_these import NoneOfThese
from ..modeling.processing import INTERPOLATIONS, EvalTransform, ImageSettings
from ..modeling.student import classifier_layers, feature_size
from ..names import ANSWER, ASK, NONE, USUAL_PRECISION, require

DECISIONS = (ANSWER, ASK, NONE)
BATCH = "batch"  # the name of a dimension of any size
TRACED = 2  # torch.export would take a dimension of 1 for a constant
ROUNDING = 4  # of 255, between the resizing of Pillow and of torchvision
NEEDED = ("onnxruntime", "onnx_ir", "transformers.exporters.exporter_onnx")


def require_onnx() -> None:
    """Raise ImportError without the extra `onnx`."""
    for module in NEEDED:
        require(module, "onnx", "ONNX")


@dataclass
class Pixels:
    """How the processor of a student makes `pixel_values` of 8-bit colours, which it resizes first."""

    settings: ImageSettings
    resize: dict[str, int] | None  # before the central crop, see [`metadata_of`]
    factor: np.ndarray  # (3,) float32
    offset: np.ndarray  # (3,) float32

    @classmethod
    def of(cls, processor: BaseImageProcessor) -> "Pixels":
        settings, transform = ImageSettings.from_processor(processor), EvalTransform(processor)
        black, white = (
            transform(Image.new("RGB", (settings.size, settings.size), color))[:, settings.size // 2, -1].numpy()
            for color in ("black", "white")
        )
        pixels = cls(settings, None, (white - black) / np.float32(255), black)
        pixels.resize = pixels._resize_of(transform)
        return pixels

    def _resize_of(self, transform: EvalTransform) -> dict[str, int] | None:
        """Which way of Pillow's gives what the processor makes of an oblong image, but for rounding."""
        size, number = self.settings.size, int(self.settings.size / self.settings.crop_pct)
        colors = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
        oblong = Image.fromarray(colors).resize((2 * size, 3 * size), Image.Resampling.BICUBIC)
        wanted = self.images(transform(oblong)[None])[0].astype(int)
        for name, sides in (("shorter_side", (number, number * 3 // 2)), ("square", (number, number))):
            resized = oblong.resize(sides, INTERPOLATIONS[self.settings.interpolation])
            left, top = (round((side - size) / 2) for side in sides)
            if np.abs(np.asarray(resized.crop((left, top, left + size, top + size))) - wanted).max() <= ROUNDING:
                return {name: number}
        return None

    def images(self, pixel_values: torch.Tensor) -> np.ndarray:
        """(n, 3, H, W) back to (n, H, W, 3), uint8."""
        colors = (pixel_values.permute(0, 2, 3, 1).numpy() - self.offset) / self.factor
        return colors.round().clip(0, 255).astype(np.uint8)

    def pixel_values(self, images: np.ndarray) -> torch.Tensor:
        """(n, H, W, 3), uint8, to (n, 3, H, W)."""
        return torch.from_numpy(images * self.factor + self.offset).permute(0, 3, 1, 2)


def metadata_of(
    classes: list[str], pixels: Pixels, thresholds: dict[str, Any], finds_none: bool = False
) -> dict[str, str]:
    """
    JSON by name: `class_names`, in the order of the logits; `image_size`; how to `resize` before the central crop of
    that size, with `resampling`: `shorter_side` or `square`, to so many pixels, or null for another way; `decisions`;
    and `decision_thresholds` by precision, of which the graph has that for 95%.
    """
    settings = pixels.settings
    known = {
        "class_names": classes,
        "image_size": settings.size,
        "resize": pixels.resize,
        "resampling": settings.interpolation,
        "decisions": DECISIONS if finds_none else DECISIONS[:2],
        "decision_thresholds": {precision: known["threshold"] for precision, known in thresholds.items()},
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in known.items()}


def graph_of(
    student: PreTrainedModel,
    pixels: Pixels,
    thresholds: dict[str, Any],
    classes: list[str],
    none_of_these: NoneOfThese | None = None,
) -> Any:
    """The graph, an `onnx_ir.Model`. Raises ValueError for a student that cannot be exported."""
    threshold = thresholds.get(f"{USUAL_PRECISION:g}", {}).get("threshold")
    try:
        with _deciding(student, threshold, none_of_these):
            model = _exported(student, pixels.settings.size)
    except Exception as error:  # torch has hundreds of classes of them
        cause = str(error).strip().splitlines()
        raise ValueError(
            f"{name_of(student)} cannot be exported to ONNX: {type(error).__name__}: {cause[0] if cause else ''} "
            "Release it without --formats."
        ) from error
    _begin_with_images(model, pixels)
    model.metadata_props.update(metadata_of(classes, pixels, thresholds, none_of_these is not None))
    return model


def name_of(student: PreTrainedModel) -> str:
    return getattr(student.config, "architecture", None) or type(student).__name__


@contextlib.contextmanager
def _deciding(student: PreTrainedModel, threshold: float | None, none_of_these: NoneOfThese | None) -> Iterator[None]:
    """Let its `forward` return what the graph does."""
    forward, features = student.forward, list[torch.Tensor]()

    @functools.wraps(forward)
    def deciding(*args: Any, **named: Any) -> dict[str, torch.Tensor]:
        logits = forward(*args, **named).logits
        probabilities = logits.softmax(-1)
        outputs = {"logits": logits, "probabilities": probabilities, "features": features[-1].flatten(1)}
        if threshold is not None or none_of_these is not None:
            decision = (probabilities.amax(-1) < (threshold or 0)).long()
            if none_of_these is not None:
                is_none = none_of_these.scores(features[-1]) > none_of_these.threshold
                decision = torch.where(is_none, DECISIONS.index(NONE), decision)
            outputs["decision"] = decision
        return outputs

    student.forward = deciding
    try:
        with classifier_layers(student)[0].register_forward_pre_hook(lambda _, given: features.append(given[0])):
            yield
    finally:
        student.forward = forward


@torch.no_grad()
def _exported(student: PreTrainedModel, image_size: int) -> Any:
    """From pixel values to the outputs, without local paths."""
    import onnx_ir as ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    pixels = torch.zeros(TRACED, 3, image_size, image_size)
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=2**16)}}
    with quiet():
        exported = OnnxExporter().export(
            student, {"pixel_values": pixels}, config=OnnxConfig(dynamic=True, dynamic_shapes=shapes)
        )
        model = exported.program
        ClearMetadataAndDocStringPass()(model)  # stack traces with local paths
    for value in (value for node in model.graph for value in node.outputs):
        value.shape = None  # the tracer names the size of the batch otherwise
    for value in model.graph.outputs:
        widths = {"decision": [], "features": [feature_size(student)]}
        value.shape = ir.Shape([BATCH, *widths.get(value.name, [student.config.num_labels])])
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output of the exporters, which log their steps, and warn of functions that no student has."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _begin_with_images(model: Any, pixels: Pixels) -> None:
    import onnx_ir as ir

    (pixel_values,), size = model.graph.inputs, pixels.settings.size
    images = ir.Value(name="images", shape=ir.Shape([BATCH, size, size, 3]), type=ir.TensorType(ir.DataType.UINT8))
    tape = ir.tape.Tape()
    factor, offset = (
        tape.initializer(ir.tensor(values.astype(np.float32).reshape(1, 3, 1, 1), name=f"images_{name}"))
        for name, values in (("factor", pixels.factor), ("offset", pixels.offset))
    )
    colors = tape.op("Cast", [images], {"to": ir.DataType.FLOAT})
    planes = tape.op("Mul", [tape.op("Transpose", [colors], {"perm": [0, 3, 1, 2]}), factor])
    pixel_values.replace_all_uses_with(tape.op("Add", [planes, offset]))
    model.graph.inputs[:] = [images]
    _insert_first(model.graph, tape)


def _insert_first(graph: Any, tape: Any) -> None:
    for value in tape.initializers:
        graph.register_initializer(value)
    graph.insert_before(graph[0], tape.nodes)


def with_half_weights(model: Any) -> Any:
    """
    A copy whose matrices and kernels are stored in half precision. It computes in float32: no sum overflows, and any
    operator that the graph has is fine.
    """
    import onnx_ir as ir

    model = model.clone()
    for value in list(model.graph.initializers.values()):
        if value.dtype != ir.DataType.FLOAT or len(value.shape) < 2:
            continue
        tape = ir.tape.Tape()
        half = tape.initializer(ir.tensor(value.const_value.numpy().astype(np.float16), name=f"{value.name}_half"))
        value.replace_all_uses_with(tape.op("Cast", [half], {"to": ir.DataType.FLOAT}))
        model.graph.initializers.pop(value.name)
        _insert_first(model.graph, tape)
    return model


def save(model: Any, path: str | Path) -> None:
    import onnx_ir as ir

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    ir.save(model, path)
