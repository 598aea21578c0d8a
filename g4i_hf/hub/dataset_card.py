"""The dataset card of captions and embeddings: a pure function of `stage.json`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from .. import __version__, columns
from ..evaluation.comparison import markdown_table
from ..names import is_bare, is_hub_id
from ..options import ASKING
from .card import ORIGINS, TEMPLATES, captioner_rows, code, code_cell, license_in_words, plain

ENCODER = {
    "text_encoder": "text encoder",
    "text_encoder_revision": "its revision",
    "text_encoder_digest": "digest of its files",
    "text_encoder_prompt": "text before every caption",
    "text_embed_dim": "dimensions",
    "max_tokens": "window in tokens",
}
SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
SMALL_WINDOW = 0.01  # share of truncated captions from which the card mentions it


def captions_card(
    stage: dict[str, Any], *, repo_id: str = "path/to/captions", date: str, license: str | None = None
) -> DatasetCard:
    """The card of a stage of captions or embeddings, without names of local folders. `date`: of the run."""
    splits = stage["num_rows"]
    captions = stage if "captioner" in stage else stage.get("captions_stage") or {}
    captioner = captions.get("captioner") or {"captioner": "column"}
    machine_made = captioner["captioner"] in ASKING
    embedded = columns.TEXT_EMBEDS in stage["columns"]
    without = stage.get("nulls", {}).get(columns.CAPTION, {})
    captioned = [split for split in splits if without.get(split, 0) < splits[split]]
    images_id = stage["source"] if stage["source"] and is_hub_id(stage["source"]) else None
    return DatasetCard.from_template(
        _metadata(stage, images_id, machine_made, license),
        template_path=str(TEMPLATES / "captions.md.j2"),
        title=_title(stage, images_id, machine_made),
        machine_made=machine_made,
        embedded=embedded,
        origin=ORIGINS.get(captioner["captioner"], "elsewhere"),
        num_rows=", ".join(f"{count:,} in {code(split)}" for split, count in splits.items()),
        with_images=bool(stage.get("with_images")),
        columns=stage["columns"],
        missing={column: _missing(stage, column) for column in stage["columns"]},
        unlabelled=bool(stage.get("nulls", {}).get(columns.LABEL, {}).get("train")),
        facts=_facts(captions, captioner, date) if captions else [("date", date)],
        encoder=[(title, code_cell(stage[name])) for name, title in ENCODER.items() if stage.get(name) is not None],
        license_in_words=license_in_words(license),
        is_licensed=license is not None,
        captioner=code(captioner.get("model")),
        status_table=_statuses(captions.get("status") or {}),
        tells_class=any("{label}" in prompt for prompt in captions.get("prompts") or []),
        cut=_cut(stage) if embedded else "",
        images_id=images_id,
        source_name=code_cell(stage["source_name"]) if stage.get("source_name") else "",
        repo_id=repo_id,
        first_split=next(iter(captioned or splits)),
        version=__version__,
        date=date,
    )


def _metadata(
    stage: dict[str, Any], images_id: str | None, machine_made: bool, license: str | None
) -> DatasetCardData:
    """The tasks for which the rows are enough. The language of the captions is unknown."""
    splits, with_images = stage["num_rows"], bool(stage.get("with_images"))
    tasks = {"image-classification": columns.LABEL, "image-to-text": columns.CAPTION} if with_images else {}
    tags = {"text-embeddings": columns.TEXT_EMBEDS in stage["columns"], "machine-generated": machine_made}
    where = "data/{}-*.parquet" if stage.get("published") else "{}.parquet"
    files = [{"split": split, "path": where.format(split)} for split in splits]
    return DatasetCardData(
        license=license or "other",
        pretty_name=_title(stage, images_id, machine_made),
        task_categories=[task for task, column in tasks.items() if column in stage["columns"]] or None,
        tags=["g4i_hf", "captions", *(tag for tag, is_present in tags.items() if is_present)],
        size_categories=[next((size for most, size in SIZES if sum(splits.values()) < most), "n>10M")],
        source_datasets=[images_id] if images_id else None,
        configs=[{"config_name": "default", "data_files": files}],
    )


def _title(stage: dict[str, Any], images_id: str | None, machine_made: bool) -> str:
    name = images_id.split("/")[-1] if images_id else stage.get("source_name")
    title = ("Machine-made captions" if machine_made else "Captions") + (f" of {plain(name)}" if name else "")
    return title + " and their embeddings" * (columns.TEXT_EMBEDS in stage["columns"])


def _facts(stage: dict[str, Any], captioner: dict[str, Any], date: str) -> list[tuple[str, str]]:
    facts = [("captioner", _captioner(captioner))]
    facts += [("revision", code_cell(captioner["revision"]))] if captioner.get("revision") is not None else []
    return [*facts, *captioner_rows(captioner, stage.get("prompts")), ("date", date)]


def _captioner(captioner: dict[str, Any]) -> str:
    kind, model = captioner["captioner"], captioner.get("model")
    if kind == "local" and is_bare(model):  # a folder, as models on the Hub have an owner
        return f"a local model ({code_cell(model)})"
    if model:
        return code_cell(model) + (", behind an endpoint" if kind == "endpoint" else "")
    return f"none: the captions are {ORIGINS[kind]}" if kind in ORIGINS else code_cell(kind)


def _cut(stage: dict[str, Any]) -> str:
    """The shares of captions that the window of the encoder truncates; empty for few."""
    over = {split: counts["share"] for split, counts in (stage.get("captions_over_window") or {}).items()}
    cut = {split: share for split, share in over.items() if share >= SMALL_WINDOW}
    return ", ".join(f"{share:.0%} of {code(split)}" for split, share in cut.items())


def _missing(stage: dict[str, Any], column: str) -> str:
    """In how many rows of each split a column is null."""
    nulls = {split: count for split, count in stage.get("nulls", {}).get(column, {}).items() if count}
    rows = [
        f"in {count:,} of {stage['num_rows'][split]:,} rows of {code_cell(split)}" for split, count in nulls.items()
    ]
    return ("; null " if column == columns.LABEL else ": ") * bool(rows) + ", ".join(rows)


def _statuses(counts: dict[str, dict[str, int]]) -> str:
    """A row for each status, a column for each split."""
    splits = list(dict.fromkeys(split for inner in counts.values() for split in inner))
    cells = [[plain(name), *(f"{inner.get(split, 0):,}" for split in splits)] for name, inner in counts.items()]
    return markdown_table(["status", *map(plain, splits)], cells) if counts else ""


def write_card(folder: str | Path, stage: dict[str, Any]) -> None:
    card = captions_card(stage, date=datetime.now(UTC).date().isoformat())
    card.save(Path(folder) / "README.md")
