"""
Validation of the metadata that a README begins with, in the words of the Hub as far as its answers are public.

Where the Hub's rule is not public, the stricter reading is taken: a card that passes here passes there.
"""

import math
import re

import yaml

from .schema import Checks
from .vocabulary import COLOURS, LANGUAGES, LICENSES, PIPELINES, RELATIONS, SDKS, SIZES

HEADER = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?(?<![-.])", re.ASCII)
LANGUAGE_RULE = (
    'It must be an ISO 639-1, 639-2 or 639-3 code (two/three letters), or a special value like "code", '
    '"multilingual". If you want to use BCP-47 identifiers, you can specify them in language_bcp47.'
)


class Loader(yaml.SafeLoader):
    """YAML as the Hub reads it: no key twice, and only true and false are booleans."""

    yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:bool"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.MarkedYAMLError(problem=f"duplicated mapping key {twice[0]!r}", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")


def metadata_of(content: str) -> dict | None:
    """Metadata of a README; None where it has none, or none that can be read."""
    found = HEADER.search(content)
    try:
        metadata = yaml.load(found.group(2), Loader) if found else None
    except yaml.YAMLError:
        return None
    return metadata if isinstance(metadata, dict) else None


def check_card(content: str, kind: str) -> tuple[list[str], list[str]]:
    """
    Args:
        content: of a README.md.
        kind: model, dataset or space.

    Returns:
        Errors, for which the Hub refuses the card, and warnings.
    """
    found = HEADER.search(content)
    if not found or not found.group(2).strip():
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.load(found.group(2), Loader)
    except yaml.YAMLError as error:
        return [f"Invalid YAML in the metadata: {' '.join(str(error).split())}"], []
    if not isinstance(metadata, dict):
        return ["The metadata must be a YAML object"], []
    checks = Checks(metadata)
    for field, value in metadata.items():
        if value is None:
            checks.error(f'"{field}" must not be null')
    common(checks)
    {"model": model, "dataset": dataset, "space": space}[kind](checks)
    return checks.errors, checks.warnings


def common(checks: Checks) -> None:
    for path, value in checks.each("license"):
        if value not in LICENSES:
            checks.error(f'"{path}" must be one of [{", ".join(sorted(LICENSES))}]')
    if checks.metadata.get("license") == "other" and "license_name" not in checks.metadata:
        checks.warn('"license_name" says which license it is, where "license" is "other"')
    checks.text("license_name", re.compile(r"[a-z0-9][a-z0-9.-]*"))
    checks.text("license_link", re.compile(r"LICENSE(\.md)?|https?://\S+"))
    for path, value in checks.each("language"):
        if value not in LANGUAGES and not re.fullmatch(r"[a-z]{3}", value):
            checks.error(f'"{path}" with value "{value}" is not valid. {LANGUAGE_RULE}')
    checks.strings("tags", list_only=True)
    checks.text("thumbnail")


def ids(checks: Checks, field: str, remedy: str) -> None:
    for path, value in checks.each(field):
        if not ID.fullmatch(value):
            checks.error(f'"{path}" with value "{value}" is not valid. {remedy}')


def model(checks: Checks) -> None:
    ids(checks, "datasets", "If possible, use a dataset id from https://hf.co/datasets.")
    for field in ("base_model", "new_version"):
        ids(checks, field, "Use a model id from https://hf.co/models.")
    checks.one_of("base_model_relation", RELATIONS)
    for field in ("library_name", "pipeline_tag", "model_name"):
        checks.text(field)
    tag = checks.metadata.get("pipeline_tag")
    if isinstance(tag, str) and tag not in PIPELINES:
        checks.warn(f'The pipeline tag "{tag}" is not in the official list: {", ".join(sorted(PIPELINES))}')
    checks.strings("metrics", list_only=True)
    list(checks.array("widget"))
    if "model-index" in checks.metadata:
        model_index(checks)


def model_index(checks: Checks) -> None:
    for at, entry in checks.array("model-index"):
        checks.required(entry, at, "name", str)
        for at_result, result in checks.objects(entry, at, "results"):
            task = checks.object(result, at_result, "task")
            checks.required(task, f"{at_result}.task", "type", str)
            checks.optional(task, f"{at_result}.task", str, "name")
            data, at_data = checks.object(result, at_result, "dataset"), f"{at_result}.dataset"
            checks.required(data, at_data, "name", str)
            checks.required(data, at_data, "type", str)
            kind = data.get("type")
            if isinstance(kind, str) and not ID.fullmatch(kind):
                checks.error(f'"{at_data}.type" with value "{kind}" is not valid. Use a dataset id from the Hub.')
            checks.optional(data, at_data, str, "config", "split", "revision")
            for at_metric, metric in checks.objects(result, at_result, "metrics"):
                checks.required(metric, at_metric, "type", str)
                checks.required(metric, at_metric, "value", object)
                value = metric.get("value")
                if isinstance(value, float) and not math.isfinite(value):
                    checks.error(f'"{at_metric}.value" must be a finite number')
                checks.optional(metric, at_metric, str, "name", "config", "verifyToken")
                checks.optional(metric, at_metric, bool, "verified")
            if "source" in result:
                checks.required(checks.object(result, at_result, "source"), f"{at_result}.source", "url", str)


def dataset(checks: Checks) -> None:
    checks.text("pretty_name")
    for path, value in checks.each("size_categories"):
        if value not in SIZES:
            checks.error(f'"{path}" must be one of [{", ".join(SIZES)}]')
    for path, value in checks.each("task_categories"):
        if value not in PIPELINES:
            checks.warn(f'The task_categories "{value}" ({path}) is not in the official list')
    for field in ("task_ids", "annotations_creators", "language_creators", "multilinguality", "source_datasets"):
        checks.strings(field)
    names = []
    for at, config in checks.array("configs"):
        checks.required(config, at, "config_name", str)
        names.append(config.get("config_name"))
        data_files = config.get("data_files", "")
        for number, files in enumerate(data_files if isinstance(data_files, list) else []):
            if isinstance(files, dict):
                checks.required(files, f"{at}.data_files[{number}]", "split", str)
                checks.required(files, f"{at}.data_files[{number}]", "path", (str, list))
    if len(set(names)) < len(names):
        checks.error('"configs" contains a duplicate config_name')
    described = checks.metadata.get("dataset_info", {})
    for at, config in checks.array("dataset_info") if isinstance(described, list) else [("dataset_info", described)]:
        if not isinstance(config, dict):
            checks.error(f'"{at}" must be of type object')


def space(checks: Checks) -> None:
    checks.text("title")
    checks.text("emoji", re.compile(r"[^\x00-\x7f]{1,8}"))
    checks.one_of("colorFrom", COLOURS)
    checks.one_of("colorTo", COLOURS)
    checks.required(checks.metadata, "", "sdk", str)
    checks.one_of("sdk", SDKS)
    checks.text("sdk_version", re.compile(r"\d+\.\d+(\.\d+\w*)?"))
    checks.text("python_version", re.compile(r"3(\.\d+){0,2}"))
    checks.text("app_file", re.compile(r"(?!/)(?!.*\.\.).+"))
    for field in ("fullWidth", "pinned", "disable_embedding", "hf_oauth"):
        checks.optional(checks.metadata, "", bool, field)
    checks.optional(checks.metadata, "", int, "app_port")
    checks.one_of("header", ["mini", "default"])
    short = checks.metadata.get("short_description", "")
    if not isinstance(short, str) or len(short) > 60:
        checks.error('"short_description" length must be less than or equal to 60 characters long')
    ids(checks, "models", "Use a model id from https://hf.co/models.")
    ids(checks, "datasets", "If possible, use a dataset id from https://hf.co/datasets.")
    checks.strings("preload_from_hub", list_only=True)
