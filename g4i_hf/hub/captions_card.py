"""The data set card of captions: a pure function of the stage's `stage.json`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from .. import __version__

TEMPLATE = Path(__file__).parent.parent / "hub_cards" / "captions.md.j2"
COLUMNS = {
    "image_id": "names the image: its file in its class folder, or a hash of its content",
    "caption": "the description; null where there is none",
    "caption_raw": "the answer as it came",
    "caption_status": "`ok`, or why there is no caption",
    "caption_reason": "of a failure",
    "caption_weight": "0 to 1: how far the caption is trusted in training",
    "image": "the image",
    "label": "the class",
}
ORIGINS = {"column": "a column of the data", "file": "a file that names each image", "list": "a list in file order"}
FIGURES = {
    "captions": "captions",
    "below_half": "captions with a weight below 0.5",
    "names_label": "share that names its class",
    "nearer_to_another_class": "share nearer to another class than to its own",
    "mean_weight": "mean weight",
    "mean_margin": "mean margin of its own class",
    "mean_score": "mean score of image and caption",
    "share_of_duplicates": "share of captions that several images have",
}
# of a captioner's provenance, what a reader wants to know first
KNOWN_FACTS = {"captioner": "captioner", "model": "model", "revision": "revision"}


def captions_card(
    stage: dict[str, Any], *, repo_id: str = "path/to/captions", date: str, license: str | None = None
) -> DatasetCard:
    """
    Args:
        stage: of the captioning stage. A source or model that is a local folder is not named.
        repo_id: what a reader passes to `load_dataset`.
        date: of the run.
        license: of the captions, which the terms of the captioner may bind.
    """
    splits = stage["num_rows"]
    captioner = stage["captioner"]
    machine_made = captioner["captioner"] in ("local", "endpoint")
    source = stage["source"]
    data = DatasetCardData(
        license=license or "other",
        task_categories=["image-classification", "image-to-text"],
        tags=["g4i_hf", "captions", *(["machine-generated"] if machine_made else [])],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}.parquet"} for split in splits],
            }
        ],
    )
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title="Machine-made captions" if machine_made else "Captions",
        machine_made=machine_made,
        origin=ORIGINS.get(captioner["captioner"], "elsewhere"),
        num_rows=", ".join(f"{count:,} of `{split}`" for split, count in splits.items()),
        with_images=bool(stage.get("with_images")),
        images_of="a data set of images on its maker's machine" if _is_path(source) else f"`{source}`",
        columns=[(name, COLUMNS[name]) for name in stage["columns"] if name in COLUMNS],
        facts=_facts(stage, date),
        terms=_terms(captioner, machine_made, license),
        status_table=_table(stage["status"], "status"),
        cleaning_table=_table(
            {name: {"all": count} for name, count in stage["cleaning"].items()}, "step", skip_empty=True
        ),
        quality_table=_quality(stage.get("quality") or {}),
        repo_id=repo_id,
        first_split=next(iter(splits)),
        version=__version__,
        date=date,
    )


def _facts(stage: dict[str, Any], date: str) -> list[tuple[str, str]]:
    captioner = stage["captioner"]
    facts = [(title, f"`{captioner[name]}`") for name, title in KNOWN_FACTS.items() if captioner.get(name) is not None]
    facts += [
        ("prompt" if len(stage["prompts"]) == 1 else f"prompt {i + 1}", _cell(text))
        for i, text in enumerate(stage["prompts"])
    ]
    settings = {name: value for name, value in captioner.items() if name not in KNOWN_FACTS and value is not None}
    if settings:
        facts.append(("settings", _cell(", ".join(f"{name} {value}" for name, value in settings.items()))))
    if stage.get("order"):
        facts.append(("order of the list", _cell(stage["order"])))
    return [*facts, ("date", date)]


def _terms(captioner: dict[str, Any], machine_made: bool, license: str | None) -> str:
    if not machine_made:
        return "The terms of the captions are those of where they come from."
    said = (
        f"The maker gives them under: {license}."
        if license
        else "Look them up before you use or publish the captions."
    )
    return f"What `{captioner['model']}` writes is bound by the terms of that model, and perhaps of its host. {said}"


def _table(counts: dict[str, dict[str, int]], first: str, skip_empty: bool = False) -> str:
    """Rows by name, a column for each inner name."""
    rows = {name: inner for name, inner in counts.items() if any(inner.values()) or not skip_empty}
    if not rows:
        return ""
    heads = list(dict.fromkeys(head for inner in rows.values() for head in inner))
    lines = [f"| {first} | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    lines += [
        f"| {name} | " + " | ".join(f"{inner.get(head, 0):,}" for head in heads) + " |" for name, inner in rows.items()
    ]
    return "\n".join(lines)


def _quality(quality: dict[str, dict[str, Any]]) -> str:
    """A row a figure, a column a split."""
    names = list(dict.fromkeys(name for figures in quality.values() for name in figures))
    if not names:
        return ""
    lines = [f"| | {' | '.join(f'`{split}`' for split in quality)} |", "|---|" + "---:|" * len(quality)]
    for name in names:
        cells = [_number(figures.get(name)) for figures in quality.values()]
        lines.append(f"| {FIGURES.get(name, name.replace('_', ' '))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def _cell(text: Any) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _is_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or Path(source).exists()


def write_card(folder: str | Path, stage: dict[str, Any], *, license: str | None = None) -> None:
    """Writes the card of a stage into its folder."""
    card = captions_card(stage, date=datetime.now(UTC).date().isoformat(), license=license)
    card.save(Path(folder) / "README.md")
