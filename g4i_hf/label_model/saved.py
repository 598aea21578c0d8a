"""A label model in a folder: arrays in `label_model.npz`, all else in `label_model.json`. Nothing is pickled."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import replace_text
from .calibration import Calibration, Estimate
from .view_model import ViewModel
from .views import Space

if TYPE_CHECKING:
    from .model import LabelModel

ARRAYS, METADATA = "label_model.npz", "label_model.json"
OF_ROWS = ("probabilities_", "posterior_", "none_", "explained_", "folds_", "log_prior_")
ESTIMATES = ("accuracy_", "none_share_")
ARRAYS_OF_CALIBRATION = ("inverse_temperatures", "powers", "margins", "log_prior", "confusions", "trusts")
PLAIN = ("num_labels", "seed", "report_", "label_noise_", "label_noise_interval_")


def save(model: LabelModel, folder: str | Path) -> None:
    folder, arrays = Path(folder), {name: getattr(model, name) for name in OF_ROWS}
    for name, space in model.spaces_.items():
        arrays |= {f"space/{name}/{part}": value for part, value in vars(space).items()}
    for number, view in enumerate(model.models_):
        for fold, (weight, bias) in view.models.items():
            arrays |= {f"model/{number}/{fold}/weight": weight, f"model/{number}/{fold}/bias": bias}
    calibrations = {"": model.calibration_} | {str(fold): value for fold, value in model.calibrations_.items()}
    for place, calibration in calibrations.items():
        arrays |= {f"calibration/{place}/{name}": v for name, v in vars(calibration).items() if v is not None}
    metadata = {name: getattr(model, name) for name in PLAIN}
    metadata |= {name: getattr(model, name) and asdict(getattr(model, name)) for name in ESTIMATES}
    of_view = ("inputs", "widths", "num_labels", "taught")
    metadata["models_"] = [{name: getattr(view, name) for name in of_view} for view in model.models_]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METADATA).unlink(missing_ok=True)  # written last, so that a half-written model cannot be loaded
    np.savez(folder / ARRAYS, **arrays)
    replace_text(folder / METADATA, json.dumps(metadata, indent=1) + "\n")


def load(model: LabelModel, folder: str | Path) -> None:
    metadata = json.loads((Path(folder) / METADATA).read_text(encoding="utf-8"))
    for name in PLAIN:
        setattr(model, name, metadata[name])
    for name in ESTIMATES:
        setattr(model, name, metadata[name] and Estimate(**metadata[name]))
    with np.load(Path(folder) / ARRAYS, allow_pickle=False) as arrays:
        for name in OF_ROWS:
            setattr(model, name, arrays[name])
        model.spaces_ = {name: Space(**entry) for name, entry in _grouped(arrays, "space").items()}
        models = _grouped(arrays, "model")
        model.models_ = []
        for number, of_view in enumerate(metadata["models_"]):
            view = ViewModel(tuple(of_view.pop("inputs")), tuple(of_view.pop("widths")), {}, **of_view)
            for place, entry in models.items():
                if place.split("/")[0] == str(number):
                    view.models[int(place.split("/")[1])] = entry["weight"], entry["bias"]
            model.models_.append(view)
        calibrations = {fold: _calibration(entry) for fold, entry in _grouped(arrays, "calibration").items()}
    model.calibration_ = calibrations.pop("")
    model.calibrations_ = {int(fold): entry for fold, entry in calibrations.items()}


def _grouped(arrays: Any, kind: str) -> dict[str, dict[str, np.ndarray]]:
    """`space/caption/mean` -> {"caption": {"mean": ...}}."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key in arrays.files:
        if key.startswith(f"{kind}/"):
            place, name = key.removeprefix(f"{kind}/").rsplit("/", 1)
            groups.setdefault(place, {})[name] = arrays[key]
    return groups


def _calibration(arrays: dict[str, np.ndarray]) -> Calibration:
    values: dict[str, Any] = {}
    for field in fields(Calibration):
        value = arrays.get(field.name)
        values[field.name] = value if value is None or field.name in ARRAYS_OF_CALIBRATION else value.tolist()
    values["interval"] = tuple(values["interval"])
    return Calibration(**values)
