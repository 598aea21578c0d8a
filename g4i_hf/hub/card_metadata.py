"""Is a card's metadata what the Hub takes? Asked before anything is written, as a push would fail on it at its end."""

import math
import re
from typing import Any

import yaml

from ..training.lineage import is_hub_id
from .licences import HUB_LICENCES

IDS = ("datasets", "base_model")
RELATIONS = ("finetune", "adapter", "merge", "quantized")
TASK_FIELDS = {"task": ("type",), "dataset": ("type", "name")}  # of a result in `model-index`, all required


def check_model_card(content: str) -> None:
    """
    Args:
        content: of README.md.

    Raises:
        ValueError: when a field is null or empty, a licence or an id is none of the Hub's, or `model-index` lacks a
            field or has a figure that is no number. The message names the field.
    """
    found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    data = yaml.safe_load(found[1]) if found else None
    if not isinstance(data, dict):
        raise _wrong("metadata", "is not a mapping between two lines of ---")
    _check_filled(data, "metadata")
    if data.get("license") not in HUB_LICENCES:
        raise _wrong("license", f"is {data.get('license')!r}, which the Hub does not know")
    if data["license"] != "other" and "license_name" in data:
        raise _wrong("license_name", "only goes with `license: other`")
    for field in IDS:
        value = data.get(field, [])
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str) or not is_hub_id(name):
                raise _wrong(field, f"holds {name!r}, which is no Hub id")
    if data.get("base_model_relation", RELATIONS[0]) not in RELATIONS:
        raise _wrong("base_model_relation", f"is {data['base_model_relation']!r}")
    for field in ("tags", "metrics"):
        if not all(isinstance(value, str) for value in data.get(field, [])):
            raise _wrong(field, "holds something else than text")
    _check_model_index(data.get("model-index", []))


def _check_filled(value: Any, field: str) -> None:
    if value is None or value in ("", [], {}):
        raise _wrong(field, "is empty")
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(field, f"is {value}")
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, content in inner:
        _check_filled(content, f"{field}.{name}")


def _check_model_index(index: Any) -> None:
    for model in index:
        if not isinstance(model.get("name"), str) or not model.get("results"):
            raise _wrong("model-index", "holds a model without name or results")
        for result in model["results"]:
            for part, names in TASK_FIELDS.items():
                for name in names:
                    if not isinstance(result.get(part, {}).get(name), str):
                        raise _wrong(f"model-index, {part}.{name}", "is missing")
            for metric in result.get("metrics") or [{}]:
                if not isinstance(metric.get("type"), str):
                    raise _wrong("model-index, metrics.type", "is missing")
                if isinstance(metric.get("value"), bool) or not isinstance(metric.get("value"), (int, float)):
                    raise _wrong("model-index, metrics.value", f"is {metric.get('value')!r}, which is no number")


def _wrong(field: str, what: str) -> ValueError:
    return ValueError(f"The card would be refused by the Hub: {field} {what}.")
