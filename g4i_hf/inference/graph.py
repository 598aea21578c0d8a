"""The ONNX graph of a release, in place of its network: on a CPU it is faster."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import BaseImageProcessor

from ..hub.formats import FILES
from ..hub.onnx import DECISIONS, Pixels, metadata_of
from ..names import NONE, loading
from ..options.evaluation import ONNX

CLOSE = 1e-4  # probabilities, to those of the network


class Predicted(NamedTuple):
    probabilities: torch.Tensor  # (n, C)
    is_none: list[bool]  # whether each image shows none of the classes
    features: torch.Tensor | None  # (n, D), which the last layer takes; None if nothing asks for them


@dataclass
class Graph:
    file: Path
    session: Any
    pixels: Pixels
    is_checked: bool = False  # whether the network gave the same probabilities

    @classmethod
    def of(cls, folder: Path, processor: BaseImageProcessor, classes: list[str], finds_none: bool) -> "Graph | None":
        """None without onnxruntime, or a graph of these classes. OSError for a damaged one."""
        file = folder / FILES[ONNX]
        if not file.is_file() or find_spec("onnxruntime") is None:
            return None
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with loading(f"{file}", " Release the classifier again, or remove the file."):
            session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        pixels, known = Pixels.of(processor), session.get_modelmeta().custom_metadata_map
        wanted = metadata_of(classes, pixels, {}, finds_none)
        is_same = all(known.get(name) == wanted[name] for name in ("class_names", "image_size", "decisions"))
        return cls(file, session, pixels) if is_same else None

    def __call__(self, pixel_values: torch.Tensor) -> Predicted:
        """Of (n, 3, H, W) pixel values."""
        _, probabilities, features, *decision = self.session.run(None, {"images": self.pixels.images(pixel_values)})
        is_none = (decision[0] == DECISIONS.index(NONE)).tolist() if decision else [False] * len(probabilities)
        return Predicted(torch.from_numpy(probabilities), is_none, torch.from_numpy(features))
