"""
Validation of the metadata of a README, as far as the Hub's rules are public and our cards touch them. Where a rule is
not public, the stricter reading is taken.
"""

import math
import re
from typing import Any

import yaml

HEADER = re.compile(r"^\s*---\n(.*?)\n?---[ \t]*(\n|$)", re.DOTALL)
ID = r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?(?<![-.])"
TEXT = r"(?s).+"
FIELDS = {
    "license": r"[a-z0-9][a-z0-9.+-]*",
    "tags": TEXT,
    "datasets": ID,
    "base_model": ID,
    "base_model_relation": "finetune|adapter|merge|quantized",
    "library_name": TEXT,
    "pipeline_tag": TEXT,
    "metrics": TEXT,
    "source_datasets": TEXT,
    "size_categories": r"n<1K|1K<n<10K|10K<n<100K|100K<n<1M|1M<n<10M|n>10M",
}


def metadata_of(content: str) -> dict | None:
    """Metadata of a README; None where it has none, or none that can be read."""
    found = HEADER.search(content)
    try:
        metadata = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    return metadata if isinstance(metadata, dict) else None


def check_card(content: str) -> list[str]:
    """Errors for which the Hub refuses the README of a model or dataset."""
    metadata = metadata_of(content)
    if metadata is None:
        return ["Invalid YAML in the metadata"] if (found := HEADER.search(content)) and found[1].strip() else []
    errors = [f'"{name}" must not be null or empty' for name, value in metadata.items() if value in (None, "", [], {})]
    for name in FIELDS.keys() & metadata.keys():
        values = metadata[name] if isinstance(metadata[name], list) else [metadata[name]]
        wrong = [value for value in values if not isinstance(value, str) or not re.fullmatch(FIELDS[name], value)]
        errors += [f'"{name}" with value {value!r} is not valid' for value in wrong]
    for entry in metadata.get("model-index", []):
        errors += [f'"model-index": {entry} has no name'] * ("name" not in entry)
        errors += [f'"model-index": {result}' for result in entry.get("results") or [{}] if not is_result(result)]
    return errors


def is_result(result: dict[str, Any]) -> bool:
    data, metrics = result.get("dataset", {}), result.get("metrics") or [{}]
    return (
        isinstance(result.get("task", {}).get("type"), str)
        and isinstance(data.get("name"), str)
        and re.fullmatch(ID, str(data.get("type"))) is not None
        and all(isinstance(each.get("type"), str) and math.isfinite(each.get("value", math.nan)) for each in metrics)
    )
