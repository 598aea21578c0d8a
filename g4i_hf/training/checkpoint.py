"""What a checkpoint says of itself: whether it is whole, and which data and which order of it were trained on."""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.fingerprint import PARTS

logger = logging.getLogger(__name__)

RECORD_FILE = "checkpoint.json"
AFRESH = "train afresh, into another --output_dir or with --overwrite true"


class CheckpointError(OSError):
    """A checkpoint, or the weights of a run, could not be written."""


class OtherDataError(ValueError):
    """The data, or its order, is not what a checkpoint was trained on."""


def write_record(checkpoint: str | Path, data: dict[str, Any], order: dict[str, Any]) -> None:
    """
    Written last into a checkpoint.

    Args:
        checkpoint: its folder.
        data: see [`~g4i_hf.data.fingerprint.fingerprint`].
        order: option -> value, of all that the order of the data depends on.
    """
    files = {name: size for name, size in _sizes(checkpoint).items() if name != RECORD_FILE}
    record = {"files": files, "data": data, "order": order}
    (Path(checkpoint) / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def missing_of(checkpoint: str | Path) -> str | None:
    """What a checkpoint lacks, in words; None when it is whole."""
    record = _record(checkpoint)
    if record is None:
        is_there = (Path(checkpoint) / RECORD_FILE).is_file()
        return f"its {RECORD_FILE}, which is written last, is {'damaged' if is_there else 'missing'}"
    for name, size in record["files"].items():
        path = Path(checkpoint) / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes of {size:,}"
    return None


def checkpoints_of(run: str | Path) -> list[Path]:
    """The folders of a run's checkpoints, whole or not, the newest first."""
    found = [path for path in Path(run).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if re.search(r"-\d+$", path.name)]
    return sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)


def newest_checkpoint(run: str | Path) -> str | None:
    """The newest whole checkpoint of a run; those that are not whole are named in a warning."""
    for path in checkpoints_of(run):
        missing = missing_of(path)
        if missing is None:
            return str(path)
        logger.warning("%s is not whole and is left out: %s.", path, missing)
    return None


def check_resumable(checkpoint: str | Path, data: dict[str, Any], order: dict[str, Any]) -> None:
    """
    Args:
        checkpoint: that training is to go on from. Nothing is known of one without a record.
        data, order: those of now, see [`write_record`].

    Raises:
        FileNotFoundError: when it is not whole.
        OtherDataError: when the data or its order has changed.
    """
    record = _record(checkpoint)
    if record is None:
        logger.warning("%s holds no readable %s: whether the data has changed is not known.", checkpoint, RECORD_FILE)
        return
    missing = missing_of(checkpoint)
    if missing is not None:
        raise FileNotFoundError(f"{checkpoint} is not whole: {missing}. Go on from another checkpoint.")
    changed = [name for name in record["data"] | data if record["data"].get(name) != data.get(name)]
    if changed:
        rows = [each.get("rows") for each in (record["data"], data)]
        is_told = "rows" in changed and None not in rows
        numbers = f" ({rows[0]:,} there, {rows[1]:,} here)" if is_told else ""
        what = ", ".join(PARTS[name] for name in PARTS if name in changed)
        raise OtherDataError(
            f"The training data is not what {checkpoint} was trained on. What differs: {what}{numbers}. Bring back "
            f"that data, or {AFRESH}."
        )
    differing = [name for name in record["order"] | order if record["order"].get(name) != order.get(name)]
    if differing:
        shown = ", ".join(f"{name} ({record['order'].get(name)} there, {order.get(name)} here)" for name in differing)
        raise OtherDataError(
            f"{checkpoint} is of a run that had the training data in another order: {shown}. Give what it had, or "
            f"{AFRESH}."
        )


@contextlib.contextmanager
def telling_what_remains(what: str, run: str | Path, staging: Path | None = None) -> Iterator[None]:
    """
    Args:
        what: is written.
        run: its folder.
        staging: a folder that is removed after an error.

    Raises:
        CheckpointError: in place of any error; it says what is left to go on from. json, torch and safetensors each
            have an error of their own for a full disk.
    """
    try:
        yield
    except Exception as error:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        newest = newest_checkpoint(run)
        remains = "There is no earlier checkpoint."
        if newest is not None:
            size = sum(_sizes(newest).values())
            remains = (
                f"{newest} ({size / 2**20:,.1f} MiB) is whole: the same command goes on from it when there is room."
            )
        free = shutil.disk_usage(run).free / 2**20
        cause = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise CheckpointError(f"{what} could not be written: {cause}. {free:,.0f} MiB are free. {remains}") from error


def _sizes(checkpoint: str | Path) -> dict[str, int]:
    """Path relative to a checkpoint -> bytes; FSDP and DeepSpeed write into folders of it."""
    files = sorted(path for path in Path(checkpoint).rglob("*") if path.is_file())
    return {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}


def _record(checkpoint: str | Path) -> dict[str, Any] | None:
    """What [`write_record`] wrote; None where there is none, or what is there is none."""
    path = Path(checkpoint) / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    if not all(isinstance(record.get(name), dict) for name in ("files", "data", "order")):
        return None
    return record if all(isinstance(size, int) for size in record["files"].values()) else None
