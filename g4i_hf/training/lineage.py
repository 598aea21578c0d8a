"""Provenance of a run: images, captions, text embeddings, pretrained weights. No local paths."""

import contextlib
import json
import logging
import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import timm
from datasets import Dataset
from huggingface_hub.constants import HF_HUB_CACHE

from .. import __version__, columns
from ..data.loading import source_of
from ..data.stage import Source, find_stage, known_chain
from ..files import replace_text
from ..modeling.packaged import PACKAGE, published_name
from ..names import is_hub_id
from ..options import DataArguments, StudentArguments

logger = logging.getLogger(__name__)

LINEAGE_FILE = "lineage.json"
PACKAGES = (
    *("torch", "torchvision", "transformers", "timm", "datasets", "accelerate", "sentence-transformers", "peft"),
    *("numpy", "pillow"),
)
ENCODER_FACTS = (
    *("text_encoder", "text_encoder_revision", "text_encoder_digest", "text_encoder_prompt", "text_embed_dim"),
)


def lineage_of(
    splits: Mapping[str, Dataset],
    data: DataArguments | None,
    student: StudentArguments | None,
    embeddings: str | Path | None = None,
) -> dict[str, Any]:
    """
    The lineage of a run: `sources`, from the opened dataset to the images, each with Hub `id` and `revision`, or
    `name` of a folder; `rows` by split; `captions`: captioner, its settings and `prompts`, None without captions;
    `text_encoder` of the stage of the embeddings that it made or found, and `student`, None if unknown; `versions` of
    the libraries.
    """
    sources, stages = ([], []) if data is None else _sources(source_of(data))
    _add_commits(sources, splits)
    # Where captions came after the embeddings, no stage has embedded them
    embedded = _first(stages, "embedding", "captioning") if embeddings is None else find_stage(str(embeddings))
    is_known = embedded is not None and embedded["stage"] == "embedding"
    captions = {"captioner": "column", "prompts": []}
    if captioned := _first(stages, "captioning"):
        captions = {**captioned.get("captioner", {}), "prompts": captioned.get("prompts", [])}
    elif not any(columns.CAPTION in split.column_names for split in splits.values()):
        captions = None
    return {
        "sources": sources,
        "rows": {name: split.num_rows for name, split in splits.items()},
        "captions": captions,
        "text_encoder": {fact: embedded.get(fact) for fact in ENCODER_FACTS} if is_known else None,
        "student": None if student is None else student_source(student),
        "versions": versions(),
    }


def write_lineage(run: str | Path, lineage: dict[str, Any], resumed: bool = False) -> None:
    """A run that is `resumed` keeps the versions that it had before; a warning names those that differ."""
    if resumed:
        lineage = lineage | {"versions": _with_earlier_versions(run, lineage["versions"])}
    replace_text(Path(run) / LINEAGE_FILE, json.dumps(lineage, indent=2, ensure_ascii=False) + "\n")


def read_lineage(run: str | Path) -> dict[str, Any]:
    """The lineage of a run, empty if it has none."""
    path = Path(run) / LINEAGE_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _with_earlier_versions(run: str | Path, now: dict[str, str]) -> dict[str, str]:
    earlier = read_lineage(run).get("versions", {})
    before = {name: known.split(", ")[-1] for name, known in earlier.items()}
    changed = [name for name in before if before[name] != now.get(name)]
    if changed:
        words = ", ".join(f"{name} ({before[name]} before, {now.get(name, 'none')} now)" for name in changed)
        text = "%s resumes under other versions: %s. Its weights can differ from those of an uninterrupted run."
        logger.warning(text, run, words)
    return now | {name: f"{earlier[name]}, {now.get(name, 'none')}" for name in changed}


def _described(
    name: str, stage: dict[str, Any] | None = None, revision: str | None = None, config: str | None = None
) -> dict[str, Any]:
    """A link of the provenance chain; `images` says whether it holds the images."""
    is_folder = Path(name).is_dir() or not is_hub_id(name)
    link = {"name": Path(os.path.abspath(name)).name} if is_folder else {"id": name, "revision": revision}
    link |= {"config": config} if config else {}
    link |= {"stage": stage["stage"]} if stage else {}
    return link | {"images": not stage or bool(stage.get("with_images"))}


def _sources(source: Source) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All sources from the opened dataset to the images, with joined captions; the stages, the latest first."""
    sources: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    chain = known_chain(source)
    for link, stage in chain:
        joined = link.captions_stage()
        sources.append(_described(link.name, stage, link.revision, link.config))
        if link.captions:
            named = {**(joined or {"stage": "captions"}), "with_images": False}
            sources.append(_described(link.captions, named, link.captions_revision))
        stages += [part for part in (joined, stage) if part]
    unnamed = (chain[-1].stage or {}).get("source_name")  # a published stage, without a published source
    return [*sources, *([_described(f"./{unnamed}")] if unnamed else [])], stages


def _add_commits(sources: list[dict[str, Any]], splits: Mapping[str, Dataset]) -> None:
    """Replace branches by commits, from the addresses that `datasets` downloaded."""
    downloaded = {url for split in splits.values() for url in split.info.download_checksums or {}}
    matches = [re.match(r"hf://datasets/(.+?)@([0-9a-f]{40})/", url) for url in sorted(downloaded)]
    commits = {match[1]: match[2] for match in matches if match}
    for source in sources:
        if source.get("id"):
            cached = _cached_commit(source["id"], source["revision"], "dataset")
            source["revision"] = commits.get(source["id"]) or cached or source["revision"]


def _first(stages: list[dict[str, Any]], *kinds: str) -> dict[str, Any] | None:
    """The latest stage of these kinds; published embeddings contain the stage of their captions."""
    every = [inner for stage in stages for inner in (stage, stage.get("captions_stage")) if inner]
    return next((stage for stage in every if stage.get("stage") in kinds), None)


def student_source(student: StudentArguments) -> dict[str, Any]:
    """`id` and `revision` are those of pretrained weights on the Hub; a `package` had the same weights."""
    name = published_name(student.student)
    facts: dict[str, Any] = {"pretrained": student.pretrained, "id": None, "revision": None}
    if Path(name).is_dir():
        return {"name": Path(name).resolve().name} | facts
    if student.pretrained:
        facts["id"] = timm.get_pretrained_cfg(name).hf_hub_id if timm.is_model(name) else name
        if name != student.student:
            facts["package"] = PACKAGE.replace("_", "-")
        facts["revision"] = _cached_commit(facts["id"], student.student_revision) or student.student_revision
    return {"name": name} | facts


def _cached_commit(repository: str | None, revision: str | None, kind: str = "model") -> str | None:
    """The commit of a branch or tag in the cache, without a request to the Hub."""
    place = Path(HF_HUB_CACHE, f"{kind}s--{(repository or '').replace('/', '--')}", "refs", revision or "main")
    return place.read_text(encoding="utf-8") if place.is_file() else None


def versions() -> dict[str, str]:
    installed = {"g4i_hf": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed
