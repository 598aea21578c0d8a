"""The model card of a student: a pure function of what the run folder holds."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .. import __version__
from ..data.stage import is_path
from ..evaluation.comparison import ComparisonRow, as_markdown, seeds_as_markdown
from ..options import aligns, learned_from_captions
from ..training.lineage import is_hub_id
from ..zero_shot.checkpoint import TextSide
from .card_metadata import check_model_card
from .card_tables import class_list, options_table
from .eval_results import METRICS, EvaluatedData, model_index_results
from .figures import Seeds
from .licences import licence_fields
from .markdown import plain
from .origin import bare_name, limits_of, origin_table, terms_of
from .plain_pixels import PlainPixels

TEMPLATE = Path(__file__).parent.parent / "hub_cards" / "student.md.j2"
NO_NAME = "student"
CONTROLS = {
    "class_name": "by the names of the classes",
    "random": "by a random vector for each distinct caption",
    "shuffle_class": "by captions of other images of the class",
    "shuffle": "by captions of other images",
}


@dataclass
class Adapter:
    """What a LoRA adapter was trained beside: a Hub id, and its branch, tag or commit."""

    base: str
    revision: str | None = None


@dataclass
class Picture:
    """A picture of the card: its file within the release, what it says to those who cannot see it, and its text."""

    file: str
    alt: str
    text: str


@dataclass
class Contents:
    """What a release holds beside the plain checkpoint."""

    aligned: bool = False
    onnx: bool = False
    adapter: Adapter | None = None
    pictures: list[Picture] = field(default_factory=list)


def student_card(
    *,
    architecture: str,
    num_labels: int,
    num_parameters: int,
    image_size: int | None = None,
    classes: list[str] | None = None,
    pixels: PlainPixels | None = None,
    options: dict[str, Any],
    rows: list[ComparisonRow] = (),
    seeds: Seeds | None = None,
    lineage: dict[str, Any] | None = None,
    contents: Contents | None = None,
    is_timm: bool = False,
    module: str | None = None,
    model_id: str = "path/to/student",
    weights: str = "raw",
    license: str | None = None,
) -> ModelCard:
    """
    Args:
        architecture: name of the student's architecture.
        num_labels, num_parameters: how many the student has.
        image_size: side of its input in pixels.
        classes: their names, in the order of the logits.
        pixels: what its image processor does, for the ONNX graph; None where it takes the processor itself.
        options: the run's `train.yaml`; only those that are no paths are shown.
        rows: figures, perhaps beside the baseline's.
        seeds: the same over seeds.
        lineage: the run's `lineage.json`.
        contents: what the release holds beside the plain checkpoint.
        is_timm: whether timm loads it too.
        module: of its maker's own, which registers the architecture; None for one of timm or transformers.
        model_id: what a reader passes to `from_pretrained`.
        weights: `"raw"` or `"ema"`, see [`~g4i_hf.hub.release_student`].
        license: of what is released; `other` by default.

    Raises:
        ValueError: for a licence or other metadata that the Hub would refuse.
    """
    contents, lineage, rows = contents or Contents(), lineage or {}, list(rows)
    options = {name: value for name, value in options.items() if not is_path(value)}
    weight, licence = float(options.get("align_weight") or 0), licence_fields(license)
    is_local = not is_hub_id(model_id) or model_id.startswith("path/")
    card = ModelCard.from_template(
        _metadata(model_id, is_local, weight, rows, seeds, lineage, contents, is_timm, weights, licence),
        template_path=str(TEMPLATE),
        architecture=plain(architecture),
        **{"num_labels": num_labels, "image_size": image_size, "is_timm": is_timm, "module": module},
        number_of_parameters=f"{num_parameters / 1e6:.1f}",
        is_average=weights == "ema",
        pixels=pixels.code() if pixels is not None else None,
        training=options_table(options, image_size),
        **_names(model_id, is_local) | vars(contents) | class_list(classes),
        **_of_training(options, lineage, rows) | _of_figures(rows, seeds),
        terms=terms_of(licence, lineage),
        version=__version__,
    )
    return _checked(str(card))


def _checked(card: str) -> ModelCard:
    # Conditions of the template leave runs of blank lines
    card = re.sub(r"\n{3,}", "\n\n", card).rstrip() + "\n"
    check_model_card(card)
    return ModelCard(card)


def _names(model_id: str, is_local: bool) -> dict[str, Any]:
    """What each library calls the student."""
    return {
        "model_id": model_id,
        "is_local": is_local,
        "timm_id": f"local-dir:{model_id}" if is_local else f"hf-hub:{model_id}",
    }


def _of_training(options: dict[str, Any], lineage: dict[str, Any], rows: list[ComparisonRow]) -> dict[str, Any]:
    """What the template says of the run."""
    weight = float(options.get("align_weight") or 0)
    old = {"soft": options.get("teacher_weight"), "pseudo": options.get("unlabelled") == "pseudo_label"}  # version 0.1
    supervision = next((kind for kind, is_set in old.items() if is_set), options.get("supervision") or "none")
    splits = list(dict.fromkeys(row.split for row in rows))
    limits = limits_of(
        lineage, splits, learned_from_captions(options) is not None, options.get("train_split") or "train"
    )
    known = lineage.get("text_encoder") or {}
    encoder = TextSide.from_record(known if known.get("text_encoder") else options)
    return {
        "align_weight": weight,
        "supervision": supervision,
        "caption_control": CONTROLS.get(options.get("caption_control")),
        "label_fraction": float(options.get("label_fraction") or 1),
        "is_baseline": aligns(options) is False and learned_from_captions(options) is None,
        "best_by": plain(options.get("metric_for_best_model")) if options.get("load_best_model_at_end") else None,
        "chosen_on": options.get("eval_split") if options.get("eval_split") in splits else None,
        "ema_decay": plain(options["ema_decay"]) if options.get("ema_decay") else None,
        "text_encoder": encoder.text_encoder,
        "encoder_folder": bare_name(encoder.text_encoder) if encoder.text_encoder_is_folder else None,
        "seed": plain(options.get("seed", 42)) if options else None,
        "limits": "\n".join(f"- {limit}" for limit in limits),
        "origin": origin_table(lineage),
    }


def _of_figures(rows: list[ComparisonRow], seeds: Seeds | None) -> dict[str, Any]:
    """What the template says of the figures."""
    return {
        "results": as_markdown(rows) if rows else "",
        "has_baseline": any(row.baseline is not None for row in rows),
        "retrieval": any(METRICS[row.measure] != "accuracy" for row in rows),
        "seed_results": seeds_as_markdown(seeds.rows) if seeds else "",
        "seeds": seeds.seeds if seeds else [],
        "is_paired": bool(seeds) and any(row.paired for row in seeds.rows),
    }


def _metadata(
    model_id: str,
    is_local: bool,
    weight: float,
    rows: list[ComparisonRow],
    seeds: Seeds | None,
    lineage: dict[str, Any],
    contents: Contents,
    is_timm: bool,
    weights: str,
    licence: dict[str, str],
) -> ModelCardData:
    """Only what there is: the Hub refuses a field that is null or empty."""
    datasets = [source["id"] for source in lineage.get("sources") or [] if source.get("id")]
    base = contents.adapter.base if contents.adapter else (lineage.get("student") or {}).get("id")
    fields: dict[str, Any] = dict(licence)
    if datasets:
        fields["datasets"] = list(dict.fromkeys(datasets))
    if base:
        fields |= {"base_model": base, "base_model_relation": "adapter" if contents.adapter else "finetune"}
    evaluated = EvaluatedData.of(lineage)
    if rows and evaluated is not None:
        results = model_index_results(rows, seeds, evaluated, weights)
        name = NO_NAME if is_local else model_id.split("/")[-1]
        fields |= {"metrics": ["accuracy"], "model_name": name, "eval_results": results}
    return ModelCardData(
        library_name="peft" if contents.adapter else "timm" if is_timm else "transformers",
        pipeline_tag="image-classification",
        tags=["image-classification", *(["g4i_hf", "captions"] if weight else ["g4i_hf"])],
        **fields,
    )
