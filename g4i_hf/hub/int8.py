"""A graph in 8-bit integers: static quantisation with scales of training images, by ONNX Runtime."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .onnx import quiet, save

LAYERS = ("Conv", "Gemm", "MatMul")
# As is the last layer. The activations of the first ones differ most between channels: with them in int8 too,
# EfficientNet-Lite0 predicts another class for many more photographs
FIRST_IN_FLOAT = 3


def save_in_int8(model: Any, batches: Iterator[np.ndarray], path: Path) -> None:
    """
    Activations get their scales from `batches` of `images` (n, size, size, 3), uint8; weights have one a channel.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Calibration(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            images = next(batches, None)
            return None if images is None else {"images": images}

    with tempfile.TemporaryDirectory() as folder, quiet():
        whole, prepared = Path(folder) / "model.onnx", Path(folder) / "prepared.onnx"
        save(model, whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        layers = [place for place, node in enumerate(nodes) if node.op_type in LAYERS]
        # What normalises pixels, and the outputs: in 8 bits two classes would often be as likely
        in_float = [*range(layers[0]), *layers[:FIRST_IN_FLOAT], *range(layers[-1], len(nodes))]
        quantization.quantize_static(
            prepared,
            path,
            Calibration(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[nodes[place].name for place in in_float],
        )
