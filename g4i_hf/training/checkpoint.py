"""Checkpoints that are complete or absent, with a record of the data they were trained on."""

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.dataset import CaptionedImages
from ..data.record import RECORD_FILE, Record, differences
from ..names import file_digest

logger = logging.getLogger(__name__)

FACTS_FILE = "checkpoint.json"
STAGING = ".tmp-checkpoint"
AFRESH = "train afresh, into another --output_dir or with --overwrite true"
ORDER_OPTIONS = ["gradient_accumulation_steps", "seed", "data_seed", "train_sampling_strategy"]
ORDER_OPTIONS += ["repeated_augmentation", "dataloader_drop_last"]


class CheckpointError(OSError):
    """A checkpoint, or the weights of a run, could not be written."""


class OtherDataError(ValueError):
    """The data, or its order, is not what a checkpoint was trained on."""


# --- Writing ---------------------------------------------------------------------------------------------------------


def finalize_checkpoint(written: Path, run: Path, data: str, order: dict[str, Any]) -> None:
    """
    Move a checkpoint from its temporary folder to the run folder in one step, once all of it is on disk.
    `checkpoint.json` is written last: size and digest of each file, digest and order of the data. Raises OSError for a
    truncated file.
    """
    digests = {}
    for name in _files(written):
        if _is_cut_short(written / name):
            raise OSError(f"{name} was cut short")
        digests[name] = {"bytes": (written / name).stat().st_size, "blake2b": file_digest(written / name)}
    record = {"files": digests, "data": data, "order": order}
    (written / FACTS_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for path in (*written.rglob("*"), written):
        _to_disk(path)
    shutil.rmtree(run / written.name, ignore_errors=True)
    written.rename(run / written.name)
    _to_disk(run)
    shutil.rmtree(written.parent)


@contextlib.contextmanager
def remaining_checkpoint_named(what: str, run: Path) -> Iterator[None]:
    """
    Raise CheckpointError in place of any error, since json, torch and safetensors raise different ones for a full
    disk. The message names the checkpoint to resume from; incomplete files are removed.
    """
    try:
        yield
    except Exception as error:
        shutil.rmtree(run / STAGING, ignore_errors=True)
        newest, remains = newest_checkpoint(run), "There is no earlier checkpoint."
        if newest is not None:
            size = sum((Path(newest) / name).stat().st_size for name in _files(Path(newest))) / 2**20
            remains = f"{newest} ({size:,.1f} MiB) is whole: the same command goes on from it when there is room."
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        free = shutil.disk_usage(run).free / 2**20
        raise CheckpointError(f"{what} could not be written: {cause}. {free:,.0f} MiB are free. {remains}") from error


def _is_cut_short(path: Path) -> bool:
    """Whether a file of `torch.save`, a ZIP archive, is truncated, which torch 2.6 does not notice."""
    with path.open("rb") as file:
        is_archive = file.read(4) == b"PK\3\4"
    return is_archive and not zipfile.is_zipfile(path)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut. Windows flushes neither like this."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _files(checkpoint: Path) -> list[str]:
    """Paths relative to the checkpoint, including folders, where FSDP and DeepSpeed write."""
    return sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())


# --- Complete or damaged ---------------------------------------------------------------------------------------------


def newest_checkpoint(run: str | Path) -> str | None:
    """The newest complete checkpoint of a run; warns of incomplete ones."""
    for path in checkpoints_of(run):
        missing = missing_of(path)
        if missing is None:
            return str(path)
        logger.warning("%s is not whole and is left out: %s.", path, missing)
    return None


def checkpoints_of(run: str | Path) -> list[Path]:
    """The checkpoint folders of a run, complete or not, the newest first."""
    paths = [path for path in Path(run).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if re.search(r"-\d+$", path.name)]
    return sorted(paths, key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)


def missing_of(checkpoint: str | Path) -> str | None:
    """What a checkpoint lacks, or what is damaged, as text; None if it is complete."""
    record = _facts(checkpoint)
    if record is None:
        return f"its {FACTS_FILE}, which is written last, is missing or damaged"
    for name, known in record["files"].items():
        path = Path(checkpoint) / name
        if not path.is_file():
            return f"{name} is missing"
        stat = path.stat()
        if stat.st_size != known["bytes"]:
            return f"{name} has {stat.st_size:,} bytes of {known['bytes']:,}"
        if _known_digest(path, stat.st_mtime_ns) != known["blake2b"]:
            return f"{name} is not what was written"
    return None


@functools.lru_cache(maxsize=1024)
def _known_digest(path: Path, mtime_ns: int) -> str:
    """Cached, so that a run reads each file once."""
    return file_digest(path)


def _facts(checkpoint: str | Path) -> dict[str, Any] | None:
    """The record of [`finalize_checkpoint`]; None if it is missing or damaged."""
    try:
        record = json.loads((Path(checkpoint) / FACTS_FILE).read_text(encoding="utf-8"))
        return {"files": dict(record["files"]), "data": str(record["data"]), "order": dict(record["order"])}
    except (OSError, ValueError, TypeError, KeyError):
        return None


# --- The data of a checkpoint ----------------------------------------------------------------------------------------


def record_of(dataset: Any, class_names: list[str]) -> Record:
    """The record of the training examples, in the order of the rows; only the number of items that a user passes."""
    if isinstance(dataset, CaptionedImages):
        return Record.of({"train": dataset.split}, class_names)
    return Record.of({}, class_names, inputs={"the number of rows": len(dataset)})


def order_of(args: Any) -> dict[str, Any]:
    """option -> value for every option that the order and augmentation of the training data depend on."""
    batch = args.train_batch_size * args.world_size
    return {"per_device_train_batch_size x processes": batch} | {name: getattr(args, name) for name in ORDER_OPTIONS}


def check_same_data(run: str | Path, data: Record, digest: str | None = None) -> None:
    """Raise OtherDataError, with the differences, for other data than the run's, or than the `digest`."""
    if digest == data.digest:
        return
    earlier = Record.read(run)
    if earlier is None and digest is None:
        logger.warning("%s holds no readable %s: whether the data has changed is not known.", run, RECORD_FILE)
        return
    earlier = earlier and earlier.of_splits(data.splits)
    if earlier is None or digest not in (None, earlier.digest):
        changes = ["not known, as the run holds no record of its data"]
    else:
        changes = list(differences(earlier, data).values())
    if changes:
        what = f"The data is not what {run} was trained on. What differs: {', '.join(changes)}"
        raise OtherDataError(f"{what}. Bring back that data, or {AFRESH}.")


def check_resumable(checkpoint: str | Path, data: Record, order: dict[str, Any]) -> None:
    """Raise FileNotFoundError for an incomplete checkpoint, OtherDataError for other data or another order."""
    facts = _facts(checkpoint)
    if facts is None:
        logger.warning("%s holds no readable %s: whether the data has changed is not known.", checkpoint, FACTS_FILE)
        return
    missing = missing_of(checkpoint)
    if missing is not None:
        raise FileNotFoundError(f"{checkpoint} is not whole: {missing}. Resume from another checkpoint.")
    check_same_data(Path(checkpoint).parent, data, facts["data"])
    earlier = facts["order"]
    changed = [name for name in earlier | order if earlier.get(name) != order.get(name)]
    if changed:
        options = ", ".join(f"{name} ({earlier.get(name)} there, {order.get(name)} here)" for name in changed)
        what = f"{checkpoint} is of a run that had the training data in another order: {options}"
        raise OtherDataError(f"{what}. Give what it had, or {AFRESH}.")
