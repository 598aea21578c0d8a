"""The model card of a student: a pure function of what the run folder holds."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .. import __version__
from ..evaluation.comparison import ComparisonRow, as_markdown

TEMPLATE = Path(__file__).parent.parent / "hub_cards" / "student.md.j2"
SHOWN_OPTIONS = (
    "align_loss",
    "align_weight",
    "align_temperature",
    "text_encoder",
    "num_train_epochs",
    "per_device_train_batch_size",
    "learning_rate",
    "weight_decay",
    "label_smoothing_factor",
    "mixup_alpha",
    "cutmix_alpha",
    "pretrained",
    "seed",
)


def student_card(
    *,
    architecture: str,
    num_labels: int,
    num_parameters: int,
    image_size: int | None = None,
    options: dict[str, Any],
    rows: list[ComparisonRow] = (),
    is_timm: bool = False,
    model_id: str = "path/to/student",
    weights: str = "raw",
) -> ModelCard:
    """
    Args:
        architecture: name of the student's architecture.
        num_labels: number of classes.
        num_parameters: of the student.
        image_size: side of its input in pixels.
        options: the run's `train.yaml`; only those that are no paths are shown.
        rows: figures, perhaps beside the baseline's.
        is_timm: whether timm loads it too.
        model_id: what a reader passes to `from_pretrained`.
        weights: `"raw"` or `"ema"`, see [`~g4i_hf.hub.release_student`].
    """
    options = {name: value for name, value in options.items() if not _is_path(value)}
    weight = float(options.get("align_weight") or 0)
    data = ModelCardData(
        library_name="timm" if is_timm else "transformers",
        pipeline_tag="image-classification",
        tags=["image-classification", *(["g4i_hf", "captions"] if weight else ["g4i_hf"])],
        license="other",
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=f"{architecture}, {'aligned with captions' if weight else 'baseline'}",
        architecture=architecture,
        num_labels=num_labels,
        number_of_parameters=f"{num_parameters / 1e6:.1f}",
        best_by=options.get("metric_for_best_model") if options.get("load_best_model_at_end") else None,
        ema_decay=options.get("ema_decay") if weights == "ema" else None,
        image_size=image_size,
        align_weight=weight,
        is_timm=is_timm,
        model_id=model_id,
        timm_id=f"local-dir:{model_id}"
        if "/" not in model_id or model_id.startswith("path/")
        else f"hf-hub:{model_id}",
        results=as_markdown(list(rows)) if rows else "",
        has_baseline=any(row.baseline is not None for row in rows),
        seed=options.get("seed", 42),
        training=_options_table(options),
        version=__version__,
    )


def _options_table(options: dict[str, Any]) -> str:
    shown = [f"| {name} | `{options[name]}` |" for name in SHOWN_OPTIONS if options.get(name) is not None]
    return "\n".join(["| option | value |", "|---|---|", *shown])


def _is_path(value: Any) -> bool:
    """A local folder has no place on a public page."""
    return isinstance(value, str) and (value.startswith((".", "/", "~")) or Path(value).exists())
