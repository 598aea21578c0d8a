"""
Validation of the metadata that a README begins with, as far as the Hub's rules are public and our cards touch them.

Where a rule is not public, the stricter reading is taken: a card that passes here passes there.
"""

import math
import re
from typing import Any

import yaml

HEADER = re.compile(r"^\s*---\n(.*?)\n?---[ \t]*(\n|$)", re.DOTALL)
ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?(?<![-.])", re.ASCII)
LICENSES = frozenset(
    """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
other

""".split()  # noqa: SIM905
)
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
RELATIONS = ("finetune", "adapter", "merge", "quantized")
OF_RESULT = (("task", "type"), ("dataset", "type"), ("dataset", "name"))


def metadata_of(content: str) -> dict | None:
    """Metadata of a README; None where it has none, or none that can be read."""
    found = HEADER.search(content)
    try:
        metadata = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    return metadata if isinstance(metadata, dict) else None


def check_card(content: str, kind: str | None) -> list[str]:
    """
    Args:
        content: of a README.md.
        kind: model, dataset or space.

    Returns:
        Errors, for which the Hub refuses the card.
    """
    metadata = metadata_of(content)
    if metadata is None:
        return ["Invalid YAML in the metadata"] if (found := HEADER.search(content)) and found[1].strip() else []
    errors = [f'"{name}" must not be null or empty' for name, value in metadata.items() if value in (None, "", [], {})]

    def check(field: str, is_right, several: bool = True) -> None:
        values = metadata.get(field, [])
        values = values if isinstance(values, list) and several else [values] if field in metadata else []
        errors.extend(f'"{field}" with value {value!r} is not valid' for value in values if not is_right(value))

    def is_text(value: Any) -> bool:
        return isinstance(value, str) and bool(value)

    def is_id(value: Any) -> bool:
        return is_text(value) and ID.fullmatch(value) is not None

    check("license", lambda value: value in LICENSES)
    check("license_name", lambda value: is_text(value) and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", value))
    check("tags", is_text)
    if kind == "space":
        check("sdk", lambda value: value in ("gradio", "docker", "static"))
        check("colorFrom", lambda value: value in COLOURS)
        check("colorTo", lambda value: value in COLOURS)
        check("short_description", lambda value: is_text(value) and len(value) <= 60)
        check("python_version", lambda value: is_text(value) and re.fullmatch(r"3(\.\d+){0,2}", value))
        check("models", is_id)
        errors += [] if "sdk" in metadata else ['"sdk" is required']
    elif kind == "dataset":
        check("size_categories", lambda value: value in SIZES)
        check("source_datasets", is_text)
        check("configs", lambda value: isinstance(value, dict) and is_text(value.get("config_name")))
    else:
        check("datasets", is_id)
        check("base_model", is_id)
        check("base_model_relation", lambda value: value in RELATIONS)
        for field in ("library_name", "pipeline_tag", "metrics"):
            check(field, is_text)
        errors += [error for entry in metadata.get("model-index", []) for error in of_model(entry)]
    return errors


def of_model(entry: dict) -> list[str]:
    """An entry of `model-index`."""
    errors = [] if isinstance(entry.get("name"), str) else ['"model-index.name" is required']
    for result in entry.get("results") or [{}]:
        for part, name in OF_RESULT:
            if not isinstance(result.get(part, {}).get(name), str):
                errors.append(f'"model-index.results.{part}.{name}" is required')
        if not ID.fullmatch(str(result.get("dataset", {}).get("type"))):
            errors.append('"model-index.results.dataset.type" is not valid')
        for metric in result.get("metrics") or [{}]:
            value = metric.get("value")
            if (
                not isinstance(metric.get("type"), str)
                or not isinstance(value, int | float)
                or not math.isfinite(value)
            ):
                errors.append('"model-index.results.metrics" has no type, or a value that is no number')
    return errors
