"""What a release no longer has that the one in its place had: an option that was left out may be an oversight."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from ..zero_shot.checkpoint import ALIGNED
from .manifest import read_manifest
from .release import ONNX_FILE

README, ADAPTER_FILE = "README.md", "adapter_config.json"


@dataclass(frozen=True)
class Part:
    """Something that a release has on request: what it is called, and the option that adds it."""

    name: str
    option: str


def parts_of(student_dir: str | Path) -> list[Part]:
    """What a released student has beyond a plain one; nothing where none was released."""
    folder = Path(student_dir)
    if not folder.is_dir() or read_manifest(folder) is None:
        return []
    card = _card(folder / README)
    heads = re.findall(r"^\| *measure .*$", card.text, re.M) if card else []
    name = getattr(card.data, "license_name", None) or card.data.license if card else None
    adapter = (folder / ADAPTER_FILE).is_file()
    parts = {
        Part("figures of a baseline", "--baseline RUN"): any("baseline" in head for head in heads),
        Part("figures over seeds", "--seed_runs RUN ..."): any("sd" in head or "paired" in head for head in heads),
        Part("ONNX", "--onnx true"): (folder / ONNX_FILE).is_file(),
        Part(f"{ALIGNED}/", "--aligned true"): (folder / ALIGNED).is_dir(),
        Part("an adapter of LoRA in place of the weights", "--lora adapter"): adapter,
        Part(f"the licence {name}", f"--license {name}"): name not in (None, "other"),
    }
    return [part for part, is_there in parts.items() if is_there]


def _card(path: Path) -> ModelCard | None:
    try:
        return ModelCard.load(path) if path.is_file() else None
    except (ValueError, yaml.YAMLError):  # somebody has changed it; it is about to be replaced
        return None


def lost_parts(earlier: Iterable[Part], student_dir: str | Path) -> list[str]:
    """
    Args:
        earlier: of the release that was in that place, as [`parts_of`] has found them.
        student_dir: the release that is there now.

    Returns:
        A line for each part that is gone. Another licence is a choice, none is not; an adapter has no aligned model.
    """
    now, folder = parts_of(student_dir), Path(student_dir)
    options = {part.option.split()[0] for part in now}
    if (folder / ADAPTER_FILE).is_file():
        options.add("--aligned")
    return [
        f"The earlier release had {part.name}; give {part.option} to keep it."
        for part in earlier
        if part.option.split()[0] not in options
    ]
