"""Checkpoints that are whole or absent, and that know the data they were trained on."""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .. import columns
from ..data.dataset import CaptionedImages
from ..data.images import content_of
from ..data.stage import ids_digest
from ..data.texts import numbered, values_of
from ..names import file_digest

logger = logging.getLogger(__name__)

RECORD_FILE = "checkpoint.json"
STAGING = ".tmp-checkpoint"
AFRESH = "train afresh, into another --output_dir or with --overwrite true"
ORDER_OPTIONS = ["gradient_accumulation_steps", "seed", "data_seed", "train_sampling_strategy"]
ORDER_OPTIONS += ["repeated_augmentation", "dataloader_drop_last"]
SAMPLE = 4096  # images whose bytes are read, evenly spaced
BATCH = 10_000  # rows or vectors read together
PARTS = {
    "rows": "number of rows",
    "image_ids": "image ids or their order",
    "labels": "labels",
    "captions": "which captions are equal",
    "text_embeds": "text embeddings",
    "caption_weight": "caption weights",
    "images": "bytes of the images",
}


class CheckpointError(OSError):
    """A checkpoint, or the weights of a run, could not be written."""


class OtherDataError(ValueError):
    """The data, or its order, is not what a checkpoint was trained on."""


# --- Writing ---------------------------------------------------------------------------------------------------------


def finalize_checkpoint(written: Path, run: Path, data: dict[str, Any], order: dict[str, Any]) -> None:
    """
    Moves a checkpoint from the folder it was written into to the run folder, in one step, once all of it is on the
    disk. Its record is written last: size and digest of each file, the fingerprint of the data, and its order. An
    OSError for a file that was cut short.
    """
    digests = {}
    for name in _files(written):
        if _is_cut_short(written / name):
            raise OSError(f"{name} was cut short")
        digests[name] = {"bytes": (written / name).stat().st_size, "blake2b": file_digest(written / name)}
    record = {"files": digests, "data": data, "order": order}
    (written / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for path in (*written.rglob("*"), written):
        _to_disk(path)
    shutil.rmtree(run / written.name, ignore_errors=True)
    written.rename(run / written.name)
    _to_disk(run)
    shutil.rmtree(written.parent)


@contextlib.contextmanager
def remaining_checkpoint_named(what: str, run: Path) -> Iterator[None]:
    """
    Raises CheckpointError in place of any error, as json, torch and safetensors each have one of their own for a full
    disk. It names the checkpoint to resume from; what was half written is removed.
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
    """
    Whether this is a file of `torch.save`, a ZIP archive, without its end: torch 2.6 does not notice when the last
    bytes do not fit on the disk.
    """
    with path.open("rb") as file:
        is_archive = file.read(4) == b"PK\3\4"
    return is_archive and not zipfile.is_zipfile(path)


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _files(checkpoint: Path) -> list[str]:
    """Relative to the checkpoint, also those in folders, where FSDP and DeepSpeed write."""
    return sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())


# --- Whole or damaged ------------------------------------------------------------------------------------------------


def newest_checkpoint(run: str | Path) -> str | None:
    """The newest whole checkpoint of a run; warns of those that are not whole."""
    for path in checkpoints_of(run):
        missing = missing_of(path)
        if missing is None:
            return str(path)
        logger.warning("%s is not whole and is left out: %s.", path, missing)
    return None


def checkpoints_of(run: str | Path) -> list[Path]:
    """The folders of a run's checkpoints, whole or not, the newest first."""
    found = [path for path in Path(run).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if re.search(r"-\d+$", path.name)]
    return sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)


def missing_of(checkpoint: str | Path) -> str | None:
    """What a checkpoint lacks, or what of it is damaged, in words; None when it is whole."""
    record = _record(checkpoint)
    if record is None:
        return f"its {RECORD_FILE}, which is written last, is missing or damaged"
    for name, known in record["files"].items():
        path = Path(checkpoint) / name
        if not path.is_file():
            return f"{name} is missing"
        found = path.stat()
        if found.st_size != known["bytes"]:
            return f"{name} has {found.st_size:,} bytes of {known['bytes']:,}"
        if _known_digest(path, found.st_mtime_ns) != known["blake2b"]:
            return f"{name} is not what was written"
    return None


@functools.lru_cache(maxsize=1024)
def _known_digest(path: Path, mtime_ns: int) -> str:
    """Each file is read once, however often a run asks whether its checkpoint is whole."""
    return file_digest(path)


def _record(checkpoint: str | Path) -> dict[str, Any] | None:
    """What [`finalize_checkpoint`] wrote; None where it is missing or damaged."""
    try:
        record = json.loads((Path(checkpoint) / RECORD_FILE).read_text(encoding="utf-8"))
        return {name: dict(record[name]) for name in ("files", "data", "order")}
    except (OSError, ValueError, TypeError, KeyError):
        return None


# --- The data of a checkpoint ----------------------------------------------------------------------------------------


def fingerprint(dataset: Any) -> dict[str, int | str]:
    """
    Digests of the training data, by part (see `PARTS`), in the order of the rows, after controls such as
    `label_fraction`. Of items of a user's own only the length is known.

    All but the images is read whole. Of more than `SAMPLE` images so many are read: one that was replaced may be
    missed.
    """
    found: dict[str, int | str] = {"rows": len(dataset)}
    if not isinstance(dataset, CaptionedImages):
        return found
    found["image_ids"] = ids_digest(values_of(dataset.image_ids, columns.IMAGE_ID))
    found["labels"] = _digest_of_array(dataset.labels)
    if dataset.texts is not None:
        found["captions"] = _digest_of_array(numbered(dataset.caption_keys))
        found["text_embeds"] = _digest_of_array(dataset.texts.embeds)
        found["caption_weight"] = _digest_of_array(dataset.caption_weight)
    return found | {"images": _digest_of_images(dataset.images)}


def _digest_of_array(array: np.ndarray) -> str:
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    for start in range(0, len(array), BATCH):
        digest.update(np.ascontiguousarray(array[start : start + BATCH]).view(np.uint8))
    return digest.hexdigest()


def _digest_of_images(rows: Dataset) -> str:
    """Of the bytes as stored; those of an image that is null or cannot be read, which training reports, are empty."""
    digest = hashlib.blake2b(digest_size=16)
    for row in np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int).tolist():
        image, content = rows[row][columns.IMAGE], b""
        if isinstance(image, PILImage.Image):
            content = image.tobytes()
        elif image is not None:
            with contextlib.suppress(OSError):
                content = content_of(image)
        digest.update(f"{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def order_of(args: Any) -> dict[str, Any]:
    """option -> value, of all that the order of the training data, and how it is augmented, depends on."""
    batch = args.train_batch_size * args.world_size
    return {"per_device_train_batch_size x processes": batch} | {name: getattr(args, name) for name in ORDER_OPTIONS}


def check_resumable(checkpoint: str | Path, data: dict[str, Any], order: dict[str, Any]) -> None:
    """A FileNotFoundError when the checkpoint is not whole, an OtherDataError for other data or another order."""
    if not Path(checkpoint).is_dir():
        raise FileNotFoundError(f"{checkpoint} is no folder. Resume from another checkpoint.")
    record = _record(checkpoint)
    if record is None:
        logger.warning("%s holds no readable %s: whether the data has changed is not known.", checkpoint, RECORD_FILE)
        return
    missing = missing_of(checkpoint)
    if missing is not None:
        raise FileNotFoundError(f"{checkpoint} is not whole: {missing}. Resume from another checkpoint.")
    if changed := _differing(record["data"], data):
        parts = ", ".join(what + changed[name] * (name == "rows") for name, what in PARTS.items() if name in changed)
        what = f"The training data is not what {checkpoint} was trained on. What differs: {parts}"
        raise OtherDataError(f"{what}. Bring back that data, or {AFRESH}.")
    if changed := _differing(record["order"], order):
        options = ", ".join(name + values for name, values in changed.items())
        what = f"{checkpoint} is of a run that had the training data in another order: {options}"
        raise OtherDataError(f"{what}. Give what it had, or {AFRESH}.")


def _differing(there: dict[str, Any], here: dict[str, Any]) -> dict[str, str]:
    """name -> both values, in words, of what is not the same."""
    names = [name for name in there | here if there.get(name) != here.get(name)]
    return {name: f" ({there.get(name)} there, {here.get(name)} here)" for name in names}
