"""What a published data set says of how it was made: `stage.json` without anything of the machine it was made on."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import columns
from ..captioning.stage import PRIVATE
from ..data.stage import Source, Step, is_path, read_stage, steps
from .publishable import TOKENS

# What a published stage may hold of a stage; a field that is not known here may be anything
PUBLISHED = (
    *("captioner", "prompts", "status", "cleaning", "quality", "judged_by", "asked_about", "order", "found"),
    *("text_encoder", "text_encoder_revision", "text_encoder_digest", "text_encoder_prompt"),
    *("text_encoder_prompt_name", "text_embed_dim", "max_tokens", "long_captions", "normalised", "several_captions"),
    *("captions", "captions_over_window", "captions_digest", "image_ids_digest", "versions"),
)
MODELS = {"model", "adapter", "text_encoder", "quality_encoder", "clip_scorer", "file"}  # names, perhaps of folders
# Fields that say where, with what rights or on whose behalf, and examples of keys, which may be paths
NOT_PUBLISHED = re.compile(r"url|host|endpoint|user|journal|key|token|secret|password|_env$|examples")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
MODEL_NAME = re.compile(rf"(hf-hub:)?{HUB_ID.pattern}(:[\w.-]+)?")  # also of a version, as in llava:7b
WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\[^\s,;'\"]+")
TOKEN = re.compile(TOKENS.pattern.decode())


@dataclass
class Origin:
    """
    Attributes:
        images: where the images lie; None where that is not known.
        is_local: whether that is a folder of this machine, or one that is gone.
        captions: the `stage.json` of the captions; None where they are a column of the data.
    """

    images: Source | None
    is_local: bool
    captions: dict[str, Any] | None

    @classmethod
    def of(cls, folder: str | Path) -> "Origin":
        """Follows a stage in a folder back to the images."""
        captions: dict[str, Any] | None = None
        named: dict[str, str] = {}
        way: list[Step] = []
        try:
            for step in steps(Source(str(folder))):
                captions = captions or _captions_stage(step.joined()) or _captions_stage(step.stage)
                named = step.source.columns | named
                way.append(step)
        except FileNotFoundError:
            last = way[-1]
            return cls(Source(os.path.join(last.source.name, last.stage["source"])), True, captions)
        last = way[-1]
        holds_images = last.stage is None or last.stage.get("with_images") or last.stage.get("source") is None
        if len(way) == 1 or not holds_images:
            return cls(None, False, captions)
        # By its form: a folder of this name may lie here, and another be meant
        is_local = not HUB_ID.fullmatch(last.source.name)
        return cls(replace(last.source, columns=named), is_local, captions)


def _captions_stage(stage: dict[str, Any] | None) -> dict[str, Any] | None:
    if stage is None:
        return None
    return stage if stage.get("stage") == "captioning" else stage.get("captions_stage")


def public_stage(folder: str | Path, *, with_images: bool = False, images_id: str | None = None) -> dict[str, Any]:
    """
    Args:
        folder: of a stage.
        with_images: whether the images are published too.
        images_id: Hub id of the images, where the stage knows them as a folder.

    Returns:
        Its `stage.json` for everyone: `source` is a Hub id or None, with the bare `source_name` of what was a folder;
        models that were folders are bare names; addresses, paths and examples of keys are gone. `captions_stage` is
        that of captions which were embedded. Rows and columns are to be added.
    """
    stage, origin = read_stage(folder), Origin.of(folder)
    where: dict[str, Any] = {"source": images_id, "source_revision": None}
    if origin.images is not None:
        images = origin.images
        if origin.is_local and images_id is None:
            where["source_name"] = bare_name(str(Path(images.name).resolve()))
        elif not origin.is_local and images_id in (None, images.name):
            where |= {"source": images.name, "source_revision": images.revision}
            where |= {"source_config": images.config} if images.config else {}
        of_images = (columns.IMAGE, columns.LABEL, columns.IMAGE_ID)
        named = {ours: theirs for ours, theirs in images.columns.items() if ours in of_images and ours != theirs}
        where |= {"source_columns": named} if named else {}
    public = {"stage": stage.get("stage"), "published": True, **where, "with_images": with_images, **_said_of(stage)}
    if origin.captions is not None and origin.captions is not stage and stage.get("stage") != "captioning":
        public["captions_stage"] = {"stage": "captioning", **_said_of(origin.captions)}
    return public


def _said_of(stage: dict[str, Any]) -> dict[str, Any]:
    return {name: _public(stage[name], name) for name in PUBLISHED if name in stage}


def _public(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {
            key: _public(inner, key)
            for key, inner in value.items()
            if isinstance(inner, (int, float)) or not NOT_PUBLISHED.search(key)
        }
    if isinstance(value, list):
        return [_public(inner, name) for inner in value]
    if isinstance(value, str):
        return bare_name(value) if name in MODELS or is_path(value) else _without_addresses(value)
    return value


def bare_name(name: str) -> str:
    """A Hub id as it is; of a path or an address the last part alone."""
    if not MODEL_NAME.fullmatch(name):
        parts = [part for part in re.split(r"[\\/]", name.split("?")[0]) if part not in ("", ".", "..", "~")]
        name = parts[-1] if parts else ""
    return _without_addresses(name)


def _without_addresses(text: str) -> str:
    for private in (PRIVATE, WINDOWS_PATH, TOKEN):
        text = private.sub("...", text)
    return text
