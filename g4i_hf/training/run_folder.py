"""What a run folder holds: its lock, options, state and lineage."""

import contextlib
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import filelock
import timm
from datasets import Dataset
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import PreTrainedConfig

from .. import __version__, columns
from ..data.loading import source_of
from ..data.record import RECORD_FILE
from ..data.stage import Source, find_stage, known_chain, version
from ..files import read_lines, relative_path, replace_text, yaml_lines
from ..modeling.packaged import PACKAGE, published_name
from ..names import EMA_FILE, OPTIONS_FILE, RESULTS_FILE, is_hub_id
from ..options import OPTIONS_OF, DataArguments, StudentArguments, about, is_secret, marked, names_of
from .arguments import AlignmentArguments
from .checkpoint import AFRESH, STAGING, checkpoints_of, missing_of, newest_checkpoint

logger = logging.getLogger(__name__)

HEAD = "The options of this run; repeat it with --config on this file."
LOCK_FILE = ".lock"
TENSORBOARD_DIR = "tensorboard"
# Files that a run writes, and so may leave behind
WRITTEN_FOLDERS = ("student", "predictions", TENSORBOARD_DIR, STAGING)
WRITTEN_FILES = (*("model.safetensors", EMA_FILE, "trainer_state.json", "lineage.json", RESULTS_FILE, RECORD_FILE),)
REMEDY = "Choose another --output_dir, or replace it with --overwrite true."


# --- One training at a time ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(output_dir: str | Path) -> Iterator[None]:
    """
    Lock a run folder against other trainings while this process lives; raises OSError if another process holds the
    lock. The folder is created, and removed again if it stays empty.
    """
    folder = Path(output_dir).resolve()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    # A singleton, as the command and its trainer both take it
    lock = filelock.FileLock(folder / LOCK_FILE, blocking=False, is_singleton=True)
    holder = ""
    with contextlib.suppress(OSError):
        holder = (folder / LOCK_FILE).read_text()
    try:
        lock.acquire()
        while not (folder / LOCK_FILE).exists():  # another process removed the locked file when it ended
            lock.release(force=True)
            lock.acquire()
    except filelock.Timeout:
        process = f" (process {holder})" if holder else ""
        raise OSError(
            f"Another training writes to {output_dir}{process}. "
            "Wait until it has ended, or choose another --output_dir."
        ) from None
    with contextlib.suppress(OSError):  # Windows locks the content too
        (folder / LOCK_FILE).write_text(str(os.getpid()))
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            (folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()
        for path in made:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


# --- Options ---------------------------------------------------------------------------------------------------------


def resolved_options(parsed: tuple[Any, ...], output_dir: str | Path) -> dict[str, Any]:
    """All our options of a run, and changed ones of Trainer; paths of folders are relative to the run."""
    ours = {name for cls in OPTIONS_OF["train"] for name in names_of(cls)}
    options: dict[str, Any] = {}
    for arguments in parsed:
        for field in [field for field in fields(arguments) if field.init]:
            value = getattr(arguments, field.name)
            value = getattr(value, "value", value)  # enumerations
            default = getattr(field.default, "value", field.default)
            hidden = about(field.name) == "call" or is_secret(field.name)
            is_plain = isinstance(value, (str, int, float, bool, list, dict, type(None)))
            if is_plain and not hidden and (field.name in ours or value != default):
                options[field.name] = value
    if "student" in options:
        options["student"] = published_name(options["student"])
    for name in marked("path"):
        value = options.get(name)
        if value and Path(value).exists():
            options[name] = relative_path(value, output_dir)
    options["output_dir"] = "."
    return options


def write_options(output_dir: str | Path, options: dict[str, Any], head: str = HEAD) -> None:
    """`head`: a line that says what the file is for."""
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    replace_text(Path(output_dir) / OPTIONS_FILE, f"# {head}\n{yaml_lines(options)}")


def read_options(run: str | Path) -> dict[str, Any]:
    """The options of a run; empty for any other folder."""
    path = Path(run) / OPTIONS_FILE
    lines = read_lines(path, as_text=False) if path.is_file() else {}
    return {name: value for name, (value, _) in lines.items()}


def with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a run, with the defaults of the others. Without `num_train_epochs` if `max_steps` replaces it."""
    options = {
        option.name: option.default for cls in OPTIONS_OF["train"] for option in fields(cls) if option.init
    } | options
    if options["max_steps"] > 0:
        options.pop("num_train_epochs")
    return options


# --- An earlier run --------------------------------------------------------------------------------------------------


def open_run(output_dir: str | Path, options: dict[str, Any], overwrite: bool) -> tuple[str, str | None]:
    """
    `("finished", None)`, `("resume", checkpoint)` or `("fresh", None)`, by the content of the run folder. Raises
    ValueError if it holds a run with other options, or only incomplete checkpoints, and `overwrite` is False.
    """
    folder = Path(output_dir)
    if overwrite:
        return "fresh", None
    if not (folder / OPTIONS_FILE).is_file():
        if leftovers := [path.name for path in _written(folder) if path.exists()]:
            raise ValueError(f"{folder} holds {leftovers[0]}, but no run of ours. {REMEDY}")
        return "fresh", None
    earlier, options = with_defaults(read_options(folder)), with_defaults(options)
    differing = []
    for name in sorted({*options, *earlier}):
        there, here = earlier.get(name), options.get(name)
        if there != here and about(name) not in ("running", "call"):
            differing.append(f"{name} ({there!r} there, {here!r} here)")
    if differing:
        raise ValueError(f"{folder} holds a run with other options: {', '.join(differing[:3])}. {REMEDY}")
    if (folder / RESULTS_FILE).is_file():  # written last
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
    # First, so that an interruption does not leave half a run
    (Path(output_dir) / OPTIONS_FILE).unlink(missing_ok=True)
    for path in _written(Path(output_dir)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _written(folder: Path) -> list[Path]:
    names = (*WRITTEN_FOLDERS, *WRITTEN_FILES)
    return [*folder.glob("checkpoint-*"), *(folder / name for name in names)]


# --- Trackers --------------------------------------------------------------------------------------------------------


def name_run(args: AlignmentArguments) -> None:
    """Name the run after its folder, and the project in Weights & Biases as in Trackio, unless they are set."""
    args.run_name = args.run_name or Path(args.output_dir).resolve().name
    if "wandb" in args.report_to:
        os.environ.setdefault("WANDB_PROJECT", args.project)


def forget_local_student(config: PreTrainedConfig) -> None:
    """Reduce the path of a local student to its name, before config.json and trackers publish it."""
    for part in (config, getattr(config, "student_config", None)):
        if place := getattr(part, "_name_or_path", None):
            name = published_name(place)
            part._name_or_path = Path(name).name if Path(name).is_absolute() else name


def tensorboard_folder(args: AlignmentArguments) -> str:
    """`tensorboard/` in the run folder, or `TENSORBOARD_LOGGING_DIR`."""
    return os.path.expanduser(os.getenv("TENSORBOARD_LOGGING_DIR") or os.path.join(args.output_dir, TENSORBOARD_DIR))


# --- Lineage ---------------------------------------------------------------------------------------------------------


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
    for each in chain:
        joined = each.captions_stage()
        sources.append(_described(each.name, each.stage, each.revision, each.config))
        if each.captions:
            named = {**(joined or {"stage": "captions"}), "with_images": False}
            sources.append(_described(each.captions, named, each.captions_revision))
        stages += [part for part in (joined, each.stage) if part]
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
