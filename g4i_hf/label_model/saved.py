"""A label model in a file of safetensors: its arrays, and all else as JSON in the metadata. Nothing is pickled."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..evaluation.estimate import Estimate
from .calibration import Calibration
from .view_model import ViewModel
from .views import Space

if TYPE_CHECKING:
    from .model import LabelModel

FILE, METADATA = "label_model.safetensors", "label_model"
KNOWN = {kind.__name__: kind for kind in (Calibration, Estimate, Space, ViewModel)}  # a file makes nothing else


def save(model: LabelModel, folder: str | Path) -> None:
    arrays: dict[str, np.ndarray] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[str(len(arrays))] = np.ascontiguousarray(value)
            return {"array": str(len(arrays) - 1)}
        if is_dataclass(value):
            return {"class": type(value).__name__} | plain(vars(value))
        if isinstance(value, dict):
            return {"items": [[key, plain(inner)] for key, inner in value.items()]}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        return value.item() if isinstance(value, np.generic) else value

    fitted = plain({name: value for name, value in vars(model).items() if not name.startswith("_")})
    Path(folder).mkdir(parents=True, exist_ok=True)
    staging = Path(folder) / f"{FILE}.part"  # a half-written model is never under its name
    save_file(arrays, staging, {METADATA: json.dumps(fitted)})
    staging.replace(Path(folder) / FILE)


def load(model: LabelModel, folder: str | Path) -> None:
    file = Path(folder) / FILE

    def made(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(map(made, value))
        if not isinstance(value, dict):
            return value
        if "array" in value:
            return opened.get_tensor(value["array"])
        items = {key: made(inner) for key, inner in value["items"]}
        return KNOWN[value["class"]](**items) if "class" in value else items

    try:
        with safe_open(file, framework="numpy") as opened:
            vars(model).update(made(json.loads(opened.metadata()[METADATA])))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged, or no label model of this version. Fit and save it again.") from error
