"""A label model in a folder: arrays in `label_model.npz`, all else in `label_model.json`. Nothing is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .calibration import Calibration, Estimate
from .view_model import ViewModel
from .views import Space

if TYPE_CHECKING:
    from .model import LabelModel

ARRAYS, METADATA = "label_model.npz", "label_model.json"
KNOWN = {kind.__name__: kind for kind in (Calibration, Estimate, Space, ViewModel)}  # a file makes nothing else


def save(model: LabelModel, folder: str | Path) -> None:
    arrays: dict[str, np.ndarray] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[str(len(arrays))] = value
            return {"array": str(len(arrays) - 1)}
        if type(value).__name__ in KNOWN:
            return {"class": type(value).__name__} | plain(vars(value))
        if isinstance(value, dict):
            return {"items": [[key, plain(inner)] for key, inner in value.items()]}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        return value.item() if isinstance(value, np.generic) else value

    fitted = plain({name: value for name, value in vars(model).items() if not name.startswith("_")})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METADATA).unlink(missing_ok=True)  # written last, so that a half-written model cannot be loaded
    np.savez(folder / ARRAYS, **arrays)
    (folder / METADATA).write_text(json.dumps(fitted, indent=1) + "\n", encoding="utf-8")


def load(model: LabelModel, folder: str | Path) -> None:
    with np.load(Path(folder) / ARRAYS, allow_pickle=False) as arrays:

        def made(value: Any) -> Any:
            if isinstance(value, list):
                return tuple(map(made, value))
            if not isinstance(value, dict):
                return value
            if "array" in value:
                return arrays[value["array"]]
            items = {key: made(inner) for key, inner in value["items"]}
            return KNOWN[value["class"]](**items) if "class" in value else items

        vars(model).update(made(json.loads((Path(folder) / METADATA).read_text(encoding="utf-8"))))
