"""A sample of the training images, where there are more than `g4i fit` needs or memory holds."""

import numpy as np

from ..data.checks import labels_of
from ..data.labels import reviews_of
from ..data.record import DIGEST
from ..label_model.views import with_rows
from ..options import FitArguments
from ..processes import on_main_process
from .evidence import FitImages

MOST = 300_000  # training images without --sample


def sample_size(args: FitArguments) -> int:
    return args.sample or MOST


def take_sample(images: FitImages) -> int | None:
    """
    Leaves `--sample` of the training images, as [`rows_of_sample`] chooses them. Returns how many there were, None
    where all stay. Gold images and those of other splits stay.
    """
    training, number = images.training, sample_size(images.args)
    if len(training) <= number:
        return None
    is_labelled, is_reviewed = labels_of(training) >= 0, reviews_of(training) != ""

    def chosen() -> np.ndarray:
        digests = images.record.of_splits(["train"]).rows[DIGEST].to_pylist()
        return rows_of_sample(digests, is_labelled, is_reviewed, number)

    rows = on_main_process(chosen)
    images.splits["train"] = training.select(rows)
    images.given = with_rows(images.given, rows, len(training))
    images.say(
        f"Sample: {number:,} of {len(training):,} training images, {is_labelled[rows].sum():,} of the "
        f"{is_labelled.sum():,} labelled ones among them. --sample takes another number."
    )
    return len(training)


def rows_of_sample(
    digests: list[str | None], is_labelled: np.ndarray, is_reviewed: np.ndarray, number: int
) -> np.ndarray:
    """
    `number` rows in their order: reviewed ones first, then labelled ones, then others, each by a digest of its image.
    The same images give the same sample in any order; more images replace few.
    """
    places = np.fromiter((int(digest[:15], 16) if digest else -1 for digest in digests), np.int64, len(digests))
    order = np.lexsort((places, places < 0, ~is_labelled, ~is_reviewed))  # the last key comes first
    return np.sort(order[:number])
