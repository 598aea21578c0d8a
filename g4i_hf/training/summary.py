"""What a run was or would be, in a compact block for people to read."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import has_length

from ..data.streamed_images import StreamedImages
from ..losses import UNLABELLED
from ..modeling import AlignedImageClassification
from ..modeling.lora import is_adapter
from ..options import OWN_MODULE
from .alignment_arguments import AlignmentArguments
from .skipped_images import BAD_IMAGES_FILE
from .stopwatch import Stopwatch, knows_epochs
from .trackers import tracker_places

LABEL_WIDTH = 13
RUN_FILES = ("model.safetensors", "ema.safetensors", "train.yaml", "all_results.json")


def as_block(rows: dict[str, list[str]]) -> str:
    """label -> lines, as a block with the labels in a column; labels without lines are left out."""
    lines = []
    for label, texts in rows.items():
        lines += [f"{label if number == 0 else '':{LABEL_WIDTH}}{text}" for number, text in enumerate(texts)]
    return "\n".join(lines)


def describe_training(
    student: str,
    model: AlignedImageClassification,
    dataset: Any,
    args: AlignmentArguments,
    uses: Sequence[str] = (),
) -> list[str]:
    """
    Args:
        student: what the user called it.
        model: the aligned model.
        dataset: [`~g4i_hf.data.dataset.CaptionedImages`] or [`~g4i_hf.data.streamed_images.StreamedImages`] that is
            trained on.
        args: of the training.
        uses: what captions are used for beside alignment.
    """
    adapters = sum(p.numel() for name, p in model.student.named_parameters() if is_adapter(name))
    student_size, projector_size = (
        sum(parameter.numel() for parameter in part.parameters()) for part in (model.student, model.projector)
    )
    alignment = "none: a baseline"
    if args.align_weight > 0:
        alignment = f"{args.align_loss}, weight {args.align_weight:g}; projector of {projector_size:,} parameters"
    if uses:
        alignment = f"{alignment.removesuffix(': a baseline')}; {', '.join(uses)}"
    return [
        f"{student}, {student_size - adapters:,} parameters",
        *_lora(model),
        _images(dataset, len(model.config.id2label)),
        f"alignment: {alignment}",
    ]


def _images(dataset: Any, num_classes: int) -> str:
    number = f"{len(dataset):,} images" if has_length(dataset) else "images"
    if isinstance(dataset, StreamedImages):
        return f"{number} of {num_classes} classes, streamed from {dataset.stream.rows.num_shards:,} shards"
    shares = f"{(dataset.caption_weight > 0).mean():.0%} with a caption"
    labelled = (dataset.labels != UNLABELLED).sum()
    shares += f", {labelled:,} with a label" if labelled < len(dataset) else ""
    return f"{number} of {num_classes} classes, {shares}"


def _lora(model: AlignedImageClassification) -> list[str]:
    lora = model.config.lora
    if lora is None:
        return []
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return [
        f"LoRA of rank {lora['r']} in {len(lora['target_modules'])} layers; {trained:,} trainable parameters, with "
        "classifier and projector"
    ]


def summary_of_run(
    described: list[str], args: AlignmentArguments, state: TrainerState, stopwatch: Stopwatch, metrics: dict[str, Any]
) -> dict[str, list[str]]:
    """
    Args:
        described: see [`describe_training`].
        metrics: those of `all_results.json`.

    Returns:
        Rows of the block about a finished run; [`next_steps`] come after it.
    """
    steps = [f"{state.global_step} steps" + (f", {state.epoch or 0:.3g} epochs" if knows_epochs(state) else "")]
    if stopwatch.first_step:
        steps.append(
            f"resumed from checkpoint-{stopwatch.first_step} (epoch {stopwatch.first_epoch:.3g}): the times are those "
            f"of the {state.global_step - stopwatch.first_step} steps since then"
        )
    if metrics.get("train_nan_steps"):
        steps.append(f"{metrics['train_nan_steps']} steps left out, whose loss or gradient was NaN or infinite")
    if metrics.get("train_bad_images"):
        steps.append(f"{metrics['train_bad_images']} images left out, which could not be read: {BAD_IMAGES_FILE}")
    return {
        "Trained": [*described, *steps],
        "Result": _results(metrics),
        "Time": _times(stopwatch, metrics),
        "Run": _places(args),
    }


def next_steps(args: AlignmentArguments) -> list[str]:
    """The commands that follow a run."""
    words = ["--run", shlex.quote(args.output_dir)]
    if module := os.environ.get(OWN_MODULE):
        words += ["--module", shlex.quote(module)]
    return [f"g4i {command} {' '.join(words)}" for command in ("evaluate", "release")]


def _results(metrics: dict[str, Any]) -> list[str]:
    found = []
    for name in (key.removesuffix("_samples") for key in metrics if key.endswith("_samples")):
        shares = {"accuracy": f"{name}_accuracy", "caption retrieval R@5": f"{name}_recall_at_5"}
        parts = [f"{what} {metrics[key]:.1%}" for what, key in shares.items() if key in metrics]
        if parts:
            found.append(f"{name}: {', '.join(parts)} ({metrics[f'{name}_samples']:,} images)")
    loss = f"mean loss {metrics['train_loss']:.4g}" if "train_loss" in metrics else ""
    return found or ([loss] if loss else [])


def _times(stopwatch: Stopwatch, metrics: dict[str, Any]) -> list[str]:
    took = f"{tqdm.format_interval(metrics['train_runtime'])} in all"
    if stopwatch.seconds_per_epoch is not None:
        took += f", {stopwatch.seconds_per_epoch:.3g} s an epoch"
    if stopwatch.images_per_second is not None:
        took += f", {stopwatch.images_per_second:.0f} images/s"
    parts = {"loading data": "data", "steps": "step", "evaluation": "evaluation", "saving": "saving"}
    return [took, ", ".join(f"{what} {stopwatch.seconds[part]:.1f} s" for what, part in parts.items())]


def _places(args: AlignmentArguments) -> list[str]:
    run = Path(args.output_dir)
    files = [name for name in RUN_FILES if (run / name).is_file()]
    checkpoints = sorted((path.name for path in run.glob("checkpoint-*")), key=lambda name: int(name.split("-")[1]))
    return [str(run), ", ".join([*files, *checkpoints]), *tracker_places(args)]
