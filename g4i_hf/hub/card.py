"""The cards of students, and of captions and embeddings: pure functions of what is known of them."""

import functools
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import CardData, DatasetCard, DatasetCardData, ModelCard, ModelCardData

from .. import __version__, columns
from ..data.labels import GOLD
from ..evaluation.comparison import ComparisonRow, as_markdown, markdown_table, shown_names
from ..files import INVISIBLE
from ..modeling.processing import ImageSettings
from ..names import bare_name, is_bare, is_hub_id, is_path
from ..options import ASKING, about, aligns, learned_from_captions, marked
from ..training.run_folder import with_defaults
from ..views.kinds import view_in_words
from ..words import noise_in_words
from ..zero_shot.checkpoint import TextSide
from .figures import evaluated_data, model_index_results
from .formats import FILES, Format, formats_in_words, formats_table

TEMPLATES = Path(__file__).parent.parent / "hub_cards"
LONGEST = 2000  # characters of a text of others
LONGEST_SETTING = 300  # of a prompt or a setting in the card of a student
MOST_CLASSES = 1000
FEW_IMAGES = 10_000
# Of captions that were given
ORIGINS = {"column": "a column of the data", "file": "a file that names each image"}
SETTINGS = ("max_new_tokens", "temperature", "top_p", "seed", "image_max_side", "dtype")  # of a captioner
BATCH = "per_device_train_batch_size"
OF_FIT = ("student", "pretrained", "image_size", "text_encoder", "seed")  # the other options are the projector's
SHOWN_VERSIONS = ("g4i_hf", "torch", "transformers", "timm", "datasets")


@dataclass
class Student:
    """A released student, as its card describes it."""

    architecture: str
    num_labels: int
    num_parameters: int
    image_size: int | None = None  # side of its input in pixels
    classes: list[str] = field(default_factory=list)  # their names, in the order of the logits
    is_timm: bool = False  # whether timm loads it too
    module: str | None = None  # that registers a custom architecture; None for one of timm or transformers
    weights: str = "raw"  # or "ema"
    options: dict[str, Any] = field(default_factory=dict)  # the run's `train.yaml`; paths are not shown
    lineage: dict[str, Any] = field(default_factory=dict)  # the run's `lineage.json`
    thresholds: dict[str, Any] = field(default_factory=dict)  # by precision, above which to answer
    finds_none: bool = False  # whether a file says which images show none of the classes
    rows: list[ComparisonRow] = field(default_factory=list)  # figures, perhaps beside the baseline's
    speed: str = ""  # a sentence on size and speed
    judgement: str = ""  # of `g4i fit`, in words; left out beside figures of a split that it was not judged by
    labels_summary: str = ""  # how many training images had a label, in words
    taught_by: list[str] | None = None  # beside labels and image features, such as captions; None: see `options`
    intervals: list[dict[str, Any]] = field(default_factory=list)  # see `figures.measured`
    estimates: dict[str, Any] = field(default_factory=dict)  # before training, and the `supervision` that was chosen
    aligned: bool = False  # whether the release holds the aligned model
    formats: list[Format] = field(default_factory=list)  # of other runtimes, as they were judged
    pixels: ImageSettings | None = None  # preprocessing of a timm student, for a graph without timm and torch
    model_id: str = "path/to/student"  # what a reader passes to `from_pretrained`
    license: str | None = None  # `other` by default
    weights_license: str | None = None  # of the pretrained weights that it starts from, where that is known

    @property
    def is_local(self) -> bool:
        return not is_hub_id(self.model_id) or self.model_id.startswith("path/")


def student_card(student: Student) -> ModelCard:
    """The card of a released student."""
    is_named = not all(re.fullmatch(r"LABEL_\d+", name) for name in student.classes)  # else made up by transformers
    shown = vars(student) | {
        "architecture": plain(student.architecture),
        "classes": ", ".join(map(code, student.classes[:MOST_CLASSES])) if is_named else "",
        "more_classes": len(student.classes) > MOST_CLASSES,
        "is_local": student.is_local,
        "timm_id": f"{'local-dir' if student.is_local else 'hf-hub'}:{student.model_id}",
        "number_of_parameters": f"{student.num_parameters / 1e6:.1f}",
        "is_average": student.weights == "ema",
        "formats": formats_table(student.formats),
        "judged_on": formats_in_words(student.formats),
        "graph": next((FILES[each.format] for each in student.formats if each.format in FILES), None),
        "origin": _origin(student.lineage),
        "license_in_words": license_in_words(student.license),
        "is_pretrained": bool((student.lineage.get("student") or {}).get("pretrained")),
        "weights_license": code(student.weights_license) if student.weights_license else "",
        "is_noncommercial": bool(NONCOMMERCIAL.search(student.weights_license or "")),
        "version": __version__,
    }
    shown |= _of_training(student) | _of_figures(student)
    shown["training"] = options_table(student.options, student.image_size, student.lineage.get("processes"))
    if shown["of_fit"]:
        shown["training"] = options_table(student.options, student.image_size, only=OF_FIT)
    text = _rendered("student.md.j2", _metadata(student), **shown)
    # Conditions of the template leave runs of blank lines
    return ModelCard(re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n")


def _rendered(template: str, metadata: CardData, /, **shown: Any) -> str:
    """As `from_template` does, which compiles the template for each card."""
    return _compiled(template).render(metadata.to_dict() | shown, card_data=metadata.to_yaml())


@functools.cache
def _compiled(template: str) -> jinja2.Template:
    return jinja2.Template((TEMPLATES / template).read_text(encoding="utf-8"))


def _metadata(student: Student) -> ModelCardData:
    """Without null and empty fields, which the Hub rejects."""
    lineage, more = student.lineage, dict[str, Any]()
    datasets = [source["id"] for source in lineage.get("sources") or [] if is_hub_id(source.get("id") or "")]
    base = (lineage.get("student") or {}).get("id")
    if datasets:
        more["datasets"] = list(dict.fromkeys(datasets))
    if base and is_hub_id(base):
        more |= {"base_model": base, "base_model_relation": "finetune"}
    data = evaluated_data(lineage)
    if student.rows and data is not None:
        results = model_index_results(student.rows, data, student.weights)
        name = "student" if student.is_local else student.model_id.split("/")[-1]
        more |= {"metrics": ["accuracy"], "model_name": name, "eval_results": results}
    return ModelCardData(
        license=student.license or "other",
        library_name="timm" if student.is_timm else "transformers",
        pipeline_tag="image-classification",
        tags=["image-classification", "g4i_hf"] + ["captions"] * bool(student.options.get("align_weight")),
        **more,
    )


def _of_training(student: Student) -> dict[str, Any]:
    known = {name: value for name, value in student.options.items() if not is_path(value)}
    supervision = student.estimates.get("supervision") or known.get("supervision") or "none"
    recorded = student.lineage.get("text_encoder") or {}
    encoder = TextSide.from_record(recorded if recorded.get("text_encoder") else known)
    trained = (student.lineage.get("rows") or {}).get(known.get("train_split") or "train", FEW_IMAGES)
    best = known.get("metric_for_best_model") if known.get("load_best_model_at_end") else None
    lines, estimates = [], student.estimates
    for name, line in (estimates.get("views") or {}).items():
        if line["accuracy"] is not None:
            lines.append(view_in_words(name, line["accuracy"]))
    if "label_noise_estimate" in estimates:
        lines.append(noise_in_words(estimates["label_noise_estimate"], estimates["label_noise_interval"]))
    return {
        "align_weight": float(known.get("align_weight") or 0),
        "supervision": supervision,
        "relabels": bool(estimates.get("relabels")),
        "estimates": "; ".join(lines),
        "few_images": f"{trained:,}" if trained < FEW_IMAGES else "",
        "has_captions": learned_from_captions(known) is not None,
        "by_machine": (student.lineage.get("captions") or {}).get("captioner") in ASKING,
        "of_fit": bool(student.judgement) and bool(known.get("freeze_backbone")),
        "all_layers_of_fit": bool(student.judgement) and not known.get("freeze_backbone"),
        "projector": {name: plain(known.get(name)) for name in ("max_steps", BATCH, "learning_rate")},
        "is_baseline": aligns(known) is False and learned_from_captions(known) is None and student.taught_by is None,
        "best_by": plain(best) if best else None,
        "chosen_on": next((row.split for row in student.rows if row.split == known.get("eval_split")), None),
        "ema_decay": plain(known["ema_decay"]) if known.get("ema_decay") else None,
        "text_encoder": encoder.text_encoder,
        "encoder_folder": bare_name(encoder.text_encoder) if encoder.text_encoder_is_folder else None,
        "seed": plain(known.get("seed", 42)) if known else None,
    }


def _of_figures(student: Student) -> dict[str, Any]:
    rows = student.rows
    return {
        "results": as_markdown(rows, shown_names(student.options)) if rows else "",
        "evaluated_on": ", ".join(f"`{split}`" for split in dict.fromkeys(row.split for row in rows)),
        "has_baseline": any(row.baseline is not None for row in rows),
        "judgement": "" if any(row.figure == "accuracy" and row.split != GOLD for row in rows) else student.judgement,
        "retrieval": any(row.figure != "accuracy" for row in rows),
    }


def options_table(
    run_options: dict[str, Any],
    image_size: int | None = None,
    processes: int | None = None,
    only: Collection[str] = (),
) -> str:
    """
    Options that it takes to repeat a run, without paths, and its number of processes; with `only`, no others.
    `image_size`: of the student, where they leave it open.
    """
    if not run_options:
        return ""
    defaults, always = with_defaults({}), marked("in_card")
    known = with_defaults(run_options)
    known["image_size"] = known["image_size"] or image_size
    left_out = set()
    if not aligns(known):
        left_out = {name for name in known if name.startswith("align_")} - {"align_weight"}
    rows = []
    for name in dict.fromkeys((*always, *known)):
        value = _without_paths(known.get(name))
        is_shown = name in always or (about(name) in ("training", "captions") and value != defaults.get(name))
        is_shown = is_shown and name not in left_out and (not only or name in only)
        if is_shown and value not in (None, "", [], {}):
            value = int(value) if isinstance(value, float) and value.is_integer() else value
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
            rows.append([name, code_cell(text)])
    rows += [["processes", code_cell(processes)]] if processes else []
    return markdown_table(["option", "value"], rows, texts=2)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        inner = {key: _without_paths(each) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each is not None}
    if isinstance(value, list):
        return [each for each in map(_without_paths, value) if each is not None]
    return None if is_path(value) else value


def _origin(lineage: dict[str, Any]) -> str:
    """A table of data, captions, text encoder, pretrained weights and libraries; empty where nothing is known."""
    stages = {"embedding": "data with embeddings", "captioning": "data with captions", "captions": "captions"}
    rows = []
    for source in lineage.get("sources") or []:
        kind = stages.get(source["stage"], "data") if source.get("stage") else "images"
        rows.append((kind, _named(source.get("id") or source.get("name"), source.get("revision"))))
    if counts := lineage.get("rows"):
        rows.append(("rows", ", ".join(f"{count:,} of {code_cell(split)}" for split, count in counts.items())))
    if captions := lineage.get("captions"):
        made_by = f"taken from {ORIGINS.get(captions.get('captioner'), 'elsewhere')}"
        if captions.get("captioner") in ASKING:
            made_by = f"written by a machine, {_named(captions.get('model'), captions.get('revision'))}"
        rows += [("captions", made_by), *captioner_rows(captions, captions.get("prompts"), LONGEST_SETTING)]
    encoder = lineage.get("text_encoder") or {}
    if encoder.get("text_encoder"):
        text = _named(encoder["text_encoder"], encoder.get("text_encoder_revision"))
        text += ", a local folder" if TextSide.from_record(encoder).text_encoder_is_folder else ""
        if prompt := encoder.get("text_encoder_prompt"):
            text += f", each caption after {code_cell(prompt, LONGEST_SETTING)}"
        rows.append(("text encoder", text))
    student = lineage.get("student") or {}
    if student.get("name"):
        named = _named(student.get("id") or student["name"], student.get("revision"))
        named += f", from the package {code_cell(student['package'])}" if student.get("package") else ""
        rows.append(("pretrained weights", named if student.get("pretrained") else "from scratch"))
    versions = lineage.get("versions") or {}
    if shown := ", ".join(f"{name} {versions[name]}" for name in SHOWN_VERSIONS if name in versions):
        rows.append(("libraries", plain(shown)))
    return markdown_table(["", ""], rows, texts=2) if rows else ""


def captioner_rows(
    captioner: dict[str, Any], prompts: list[str] | None, longest: int = LONGEST
) -> list[tuple[str, str]]:
    """Prompts and settings of what wrote captions, by its provenance."""
    prompts = prompts or []
    names = ["prompt"] if len(prompts) == 1 else [f"prompt {i + 1}" for i in range(len(prompts))]
    settings = ", ".join(f"{name} {captioner[name]}" for name in SETTINGS if captioner.get(name) is not None)
    rows = list(zip(names, prompts, strict=True)) + [("captioner's settings", settings)] * bool(settings)
    return [(name, plain(text, longest)) for name, text in rows]


def _named(name: Any, revision: Any) -> str:
    if not name:
        return "unnamed"
    return code_cell(bare_name(str(name))) + (f" at {code_cell(revision)}" if revision else "")


NONCOMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research|apple-amlr|seer-license", re.IGNORECASE)


def license_in_words(license: str | None) -> str:
    """The first sentence of the terms of a student or a dataset."""
    if license is None:
        return "Its author has not chosen a license: ask for permission before you use it."
    return f"Its author releases it under {code(license)}."


# --- Captions and embeddings: a pure function of `stage.json` --------------------------------------------------------

ENCODER = {
    "text_encoder": "text encoder",
    "text_encoder_revision": "its revision",
    "text_encoder_digest": "digest of its files",
    "text_encoder_prompt": "prefix of every caption",
    "text_embed_dim": "dimensions",
    "max_tokens": "context window in tokens",
}
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
    text = _rendered(
        "captions.md.j2",
        _metadata_of_captions(stage, images_id, machine_made, license),
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
    return DatasetCard(text)


def _metadata_of_captions(
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


# --- Text that others wrote: it stays text, on its line and in its cell, whatever it holds ---------------------------

_UNSEEN = re.compile(f"[{INVISIBLE}]")
# A pipe ends a cell; the others begin a tag, an entity, a link, an image or code
_ESCAPED = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;", "&": "&amp;", "[": "\\[", "]": "\\]", "`": "\\`"})


def plain(text: Any, longest: int = LONGEST) -> str:
    """One line that Markdown shows as it is, in a cell or elsewhere."""
    return _one_line(text, longest).translate(_ESCAPED)


def code(text: Any, longest: int = LONGEST) -> str:
    """The same as code, for use outside of tables too: a pipe is kept, see [`code_cell`]."""
    line = _one_line(text, longest)
    ticks = max((len(run) for run in re.findall("`+", line)), default=0)
    if not line or not ticks:
        return f"`{line or ' '}`"
    fence = "`" * (ticks + 1)
    return f"{fence} {line} {fence}"


def code_cell(text: Any, longest: int = LONGEST) -> str:
    """Code in a cell of a table, where a pipe has a backslash even within code."""
    return code(text, longest).replace("|", "\\|")


def _one_line(text: Any, longest: int) -> str:
    line = " ".join(_UNSEEN.sub("", str(text)).split())
    return line if len(line) <= longest else f"{line[:longest]}…"
