"""`--print_config`: the options of a script as YAML that is a `--config` again."""

import json
import os
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from .kinds import Kind
from .option_sources import options_of
from .yaml_files import dump, starts_with_a_dot

# What depends on the machine, and what is nobody's business
NOT_RECORDED = {"use_cpu", "dataloader_pin_memory", "local_rank", "hub_token", "push_to_hub_token", "dry_run"}
SECRET_ENDINGS = ("token", "api_key", "password", "secret")


def is_secret(name: str) -> bool:
    return name.endswith(SECRET_ENDINGS)


def resolved_yaml(classes: tuple[type, ...], kinds: dict[str, Kind], values: dict[str, Any]) -> str:
    """
    Args:
        classes: the options, in their order.
        kinds: what each of them admits.
        values: what the YAML file and the command line give.

    Returns:
        All options of ours, and those of Trainer that differ from their defaults, in groups.
    """
    groups: dict[str, dict[str, Any]] = {}
    for cls in classes:
        all_fields = {field.name: field for field in fields(cls) if field.init}
        for option in sorted(options_of(cls), key=lambda option: option.is_foreign):
            if option.name in NOT_RECORDED or is_secret(option.name):
                continue
            default = _default(all_fields[option.name])
            value = values.get(option.name, default)
            if option.is_own or value != default:
                title = "Trainer" if option.is_foreign else option.group
                groups.setdefault(title, {})[option.name] = _portable(value, kinds[option.name])
    blocks = [f"# --- {title} ---\n{dump(group)}" for title, group in groups.items()]
    first = "# The resolved options; repeat them with --config on this file, from the same folder.\n"
    return "\n".join([first, *blocks]).rstrip()


def _default(field: Field) -> Any:
    default = field.default if field.default is not MISSING else None
    if field.default_factory is not MISSING:
        default = field.default_factory()
    return default.value if isinstance(default, Enum) else default


def _portable(value: Any, kind: Kind) -> Any:
    """JSON as a mapping; a path that starts with a dot, which YAML takes as relative to the file, without the dot."""
    if not isinstance(value, str):
        return value
    if dict in kind.scalars and value.startswith("{"):  # that it is JSON was seen when it was read
        return json.loads(value)
    if not starts_with_a_dot(value):
        return value
    inside = os.path.relpath(value)
    is_found = not starts_with_a_dot(inside) and Path(inside).exists()
    return inside if is_found else os.path.abspath(value)  # what is not there could be taken for a Hub id
