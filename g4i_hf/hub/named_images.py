"""The data set of the Hub that a stage names for its images: whether it is one that the stage's ids fit."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

from datasets import DatasetDict, IterableDataset

from .. import columns
from ..data.joining import id_form, image_id_of
from ..data.stage import Source
from ..data.stream import stream_images

logger = logging.getLogger(__name__)

ROWS = 200  # looked at of a split before it is said that none fits
REMEDY = (
    "Upload the images as files (hf upload ID FOLDER --repo-type dataset), or with a column `image_id` that holds the "
    "ids of the stage, or publish them with --with_images; Parquet files of `push_to_hub` keep the names of files "
    "without their folders. Or leave --images_id out: readers then name their images themselves."
)


def check_named_images(public: dict[str, Any], splits: DatasetDict) -> bool | None:
    """
    Compares ids of the first images there, as far as they can be read, with those of the stage.

    Args:
        public: the public `stage.json`, whose `source` is looked up on the Hub, whatever lies in the current folder.
        splits: rows of the stage, with `image_id`.

    Returns:
        Whether the ids there are a column; None where they cannot be read.

    Raises:
        ValueError: when a column is missing there, or no id can be one of the stage.
    """
    name = public["source"]
    try:
        source = Source(
            f"hf://datasets/{name}",
            public.get("source_revision"),
            public.get("source_config"),
            public.get("source_columns") or {},
        )
        streams = stream_images(source, read_files=False)
    except ValueError as error:
        raise ValueError(
            f"images_id is {name}, which is no data set of these images, or calls its columns otherwise: {error}"
        ) from error
    except Exception as error:  # of the Hub, of the network, of the right to read: none of them is one of the stage
        return _not_read(name, error)
    shared = [split for split in streams if split in splits]
    if not shared:
        raise ValueError(
            f"images_id is {name}, which has the splits {', '.join(streams)}, but the stage has {', '.join(splits)}. "
            "Name the images of the stage."
        )
    seen: dict[str, list[str]] = {}
    for split in shared:
        ours = {_base(image_id) for image_id in splits[split][columns.IMAGE_ID][:]}
        try:
            seen[split] = list(_ids_until(streams[split], ours))
        except Exception as error:
            return _not_read(name, error)
        if seen[split] and _base(seen[split][-1]) in ours:
            return columns.IMAGE_ID in streams[split].features
    _none_fits(name, seen, splits)
    return None


def _ids_until(stream: IterableDataset, ours: set[str]) -> Iterator[str]:
    """The first ids, up to one that is ours."""
    has_column = columns.IMAGE_ID in stream.features
    for row in islice(stream.select_columns([columns.IMAGE_ID if has_column else columns.IMAGE]), ROWS):
        image_id = str(row[columns.IMAGE_ID]) if has_column else image_id_of(row[columns.IMAGE])
        yield image_id
        if _base(image_id) in ours:
            return


def _none_fits(name: str, seen: dict[str, list[str]], splits: DatasetDict) -> None:
    """
    Raises:
        ValueError: unless there are more images there, and ids of the same form.
    """
    split = next((split for split in seen if seen[split] and len(splits[split])), None)
    if split is None:
        return
    theirs, ours = seen[split][0], splits[split][columns.IMAGE_ID][0]
    if _form(theirs) == _form(ours) and any(len(ids) == ROWS for ids in seen.values()):
        said = "images_id: the first %d images of %s are none of the stage's; later ones may be. Their first is %r."
        logger.warning(said, ROWS, name, theirs)
        return
    raise ValueError(
        f"images_id is {name}, but no id there is one of the stage: the first of split {split!r} is {theirs!r}, that "
        f"of the stage {ours!r}. {REMEDY}"
    )


def _not_read(name: str, error: Exception) -> None:
    said = "images_id: %s could not be read (%s); whether its images have the ids of the stage was not looked at."
    logger.warning(said, name, type(error).__name__)


def _base(image_id: str) -> str:
    """Without what tells images of one name apart, which a stream does not know."""
    return image_id.partition("#")[0]


def _form(image_id: str) -> tuple[str, bool]:
    return id_form(image_id), "/" in _base(image_id)
