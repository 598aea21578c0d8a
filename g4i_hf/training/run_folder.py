"""The folder of a run: its options, whether it is finished, where to go on."""

import logging
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ..files import read_mapping, replace_text
from ..options import (
    NOT_RECORDED,
    OPTIONS_OF,
    OTHER_TRAINER_OPTIONS,
    is_secret,
    recorded_options,
    translated,
)
from .checkpoint import AFRESH, checkpoints_of, missing_of, newest_checkpoint
from .checkpointing_trainer import STAGING
from .loss_check import BATCH_FILE
from .skipped_images import BAD_IMAGES_FILE

logger = logging.getLogger(__name__)

OPTIONS_FILE = "train.yaml"
# Options that say where and how a run goes on, not what it computes
NOT_COMPARED = {"output_dir", "embeddings_dir", "overwrite", "logging_steps", "disable_tqdm"}
NOT_COMPARED |= {"stop_on_nan", "max_nan_steps", "on_bad_images"}
NOT_COMPARED |= {"report_to", "project", "run_name", "push_to_hub", "hub_model_id", "hub_strategy", "hub_revision"}
NOT_COMPARED |= {"hub_private_repo", "hub_always_push"}
# What a run writes, and so what an earlier run leaves
WRITTEN_FOLDERS = ("student", "predictions", "pictures", "tensorboard", STAGING)
WRITTEN_FILES = ("all_results.json", "model.safetensors", "ema.safetensors", "trainer_state.json", "lineage.json")
WRITTEN_FILES += (BATCH_FILE, BAD_IMAGES_FILE)
PATHS = ("dataset_name", "captions_name", "student", "text_encoder", "output_dir", "embeddings_dir")


def resolved_options(parsed: tuple[Any, ...], output_dir: str | Path) -> dict[str, Any]:
    """
    The options of a run: all of ours, and those of Trainer that differ from their default. Local folders are kept
    relative to the run, so that its `train.yaml` can be used as a `--config` from anywhere.
    """
    options: dict[str, Any] = {}
    for arguments in parsed:
        own = recorded_options(type(arguments))
        for field in fields(arguments):
            value = getattr(arguments, field.name)
            value = getattr(value, "value", value)  # enumerations
            default = getattr(field.default, "value", field.default)
            if (
                field.name.startswith("_")
                or field.name in NOT_RECORDED
                or is_secret(field.name)
                or not isinstance(value, (str, int, float, bool, list, dict, type(None)))
            ):
                continue
            if field.name in own or value != default:
                options[field.name] = value
    for name in ("logging_dir", "run_name", "optim_args", "local_rank"):
        if name in options and options[name] in (None, str(output_dir)):
            del options[name]
    for name in PATHS:
        value = options.get(name)
        if value and Path(value).exists():
            relative = os.path.relpath(value, output_dir)
            options[name] = relative if relative.startswith(".") else f"./{relative}"
    options["output_dir"] = "."
    return options


def write_options(output_dir: str | Path, options: dict[str, Any]) -> None:
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    text = "# The options of this run; repeat it with --config on this file.\n" + yaml.safe_dump(options)
    replace_text(Path(output_dir) / OPTIONS_FILE, text)


def read_options(run: str | Path) -> dict[str, Any]:
    """
    Raises:
        FileNotFoundError: when the folder is no run.
        ValueError: when the file is not what a run writes.
    """
    path = Path(run) / OPTIONS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} is no run folder: it holds no {OPTIONS_FILE}.")
    return read_mapping(path)


def of_any_version(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a run by their present names, with defaults of those that its version lacked; none that are gone."""
    known = {each.name: each.default for cls in OPTIONS_OF["train"] for each in fields(cls) if each.init}
    found = translated(options)[0]
    others = OTHER_TRAINER_OPTIONS.split()
    return known | {name: value for name, value in found.items() if name in known or name in others}


def learned_from_captions(options: dict[str, Any]) -> str | None:
    """By what a run learned from captions, as a message shows it; None for a baseline."""
    # teacher_weight and pseudo_label are of version 0.1
    weights = {name: options.get(name) for name in ("align_weight", "teacher_weight")}
    found = [f"{name} {weight}" for name, weight in weights.items() if weight]
    found += ["unlabelled pseudo_label"] if options.get("unlabelled") == "pseudo_label" else []
    for name, without in (("supervision", "none"), ("label_noise", "keep")):
        value = options.get(name)
        found += [f"{name} {value}"] if value not in (None, without) else []
    return ", ".join(found) or None


def is_finished(run: str | Path) -> bool:
    """`all_results.json` is written last."""
    return (Path(run) / "all_results.json").is_file()


def open_run(output_dir: str | Path, options: dict[str, Any], overwrite: bool) -> tuple[str, str | None]:
    """
    What to do with a run folder that may hold an earlier run.

    Returns:
        `("finished", None)`, `("resume", checkpoint)` or `("fresh", None)`.

    Raises:
        ValueError: when it holds a run with other options, or checkpoints of which none is whole, and `overwrite` is
            False.
    """
    folder = Path(output_dir)
    if overwrite:
        return "fresh", None
    if not (folder / OPTIONS_FILE).is_file():
        others = [path.name for path in _written(folder) if path.exists()]
        if others:
            raise ValueError(
                f"{folder} holds {others[0]}, but no run of ours. Choose another --output_dir, or replace it with "
                "--overwrite true."
            )
        return "fresh", None
    earlier, options = of_any_version(read_options(folder)), of_any_version(options)
    differing = sorted(
        name for name in (set(options) | set(earlier)) - NOT_COMPARED if options.get(name) != earlier.get(name)
    )
    if differing:
        shown = ", ".join(
            f"{name} ({earlier.get(name)!r} there, {options.get(name)!r} here)" for name in differing[:3]
        )
        raise ValueError(
            f"{folder} holds a run with other options: {shown}. Choose another --output_dir, or replace it with "
            "--overwrite true."
        )
    if is_finished(folder):
        return "finished", None
    checkpoint = newest_checkpoint(folder)
    if checkpoint is not None:
        return "resume", checkpoint
    if damaged := checkpoints_of(folder):  # a fresh run would remove them
        raise ValueError(
            f"{folder} holds checkpoints, but none that is whole; of the newest, {damaged[0].name}: "
            f"{missing_of(damaged[0])}. Bring back what is missing, or {AFRESH}, which removes them."
        )
    logger.info("%s holds a run that has written no checkpoint: it begins anew.", folder)
    return "fresh", None


def clear_run(output_dir: str | Path) -> None:
    """Removes what an earlier run left, but nothing that a run does not write."""
    # First, so that what is left of a run after a kill passes for none
    (Path(output_dir) / OPTIONS_FILE).unlink(missing_ok=True)
    for path in _written(Path(output_dir)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _written(folder: Path) -> list[Path]:
    names = (*WRITTEN_FOLDERS, *WRITTEN_FILES)
    return [*folder.glob("checkpoint-*"), *(folder / name for name in names)]
