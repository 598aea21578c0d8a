"""Reading ahead and decoding: batches of similar images, and no image that stops a run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from PIL import Image as PILImage

from ...data.bad_images import why_unreadable
from ...data.images import open_image, to_rgb
from ..answers import Question

WINDOW = 16  # batches that are read ahead and sorted
ORIENTATION = 0x0112  # EXIF tag; from 5 on the image lies on its side
# Of an image that cannot even be opened, which decoding will tell, and of one that would have to be fetched for it
UNKNOWN = (0, 0)


@dataclass(frozen=True)
class Unreadable:
    """Why an image could not be decoded, in a sentence."""

    reason: str


def batches_of_similar_size(
    questions: Iterable[Question], batch_size: int, max_side: int, *, same_prompt: bool = False
) -> Iterator[list[Question]]:
    """
    Batches of images that need little padding. Some batches' worth of questions are read ahead and sorted by the size
    that the images will have; only their headers are read for that.

    Args:
        questions: read a window at a time.
        batch_size: questions a batch, at most.
        max_side: longest side in pixels to which images will be shrunk.
        same_prompt: put only equal prompts into a batch.
    """
    unread = iter(questions)
    while window := list(islice(unread, batch_size * WINDOW)):
        sizes = {id(question): size_of(question, max_side) for question in window}
        groups = [window]
        if same_prompt:
            by_prompt = sorted(window, key=lambda question: question.prompt)
            groups = [list(group) for _, group in groupby(by_prompt, key=lambda question: question.prompt)]
        for group in groups:
            group.sort(key=lambda question: sizes[id(question)])
            yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


def size_of(question: Question, max_side: int) -> tuple[int, int]:
    """Width and height in pixels of the upright image after shrinking, from its header; [`UNKNOWN`] without one."""
    if _is_remote(question):
        return UNKNOWN
    try:
        with _opened(question) as image:
            width, height = image.size
            # Of a PNG, this would decode the image
            if image.format in ("JPEG", "MPO") and image.getexif().get(ORIENTATION, 1) >= 5:
                width, height = height, width
            return shrunk(width, height, max_side)
    except Exception:  # Pillow's readers raise about anything on a broken file
        return UNKNOWN


def shrunk(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The size with a longest side of at most `max_side` pixels, in proportion; never a larger one."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def decode(question: Question, max_side: int) -> PILImage.Image | Unreadable:
    """The upright RGB image with a longest side of at most `max_side` pixels, or why there is none."""
    try:
        with _opened(question) as stored:
            image = to_rgb(stored)
            size = shrunk(*image.size, max_side)
            return image if size == image.size else image.resize(size, PILImage.Resampling.LANCZOS)
    except Exception as error:  # as above; one broken file must not end the run
        return Unreadable(f"The image cannot be read: {why_unreadable(error)}")


def _opened(question: Question) -> PILImage.Image:
    image = question.image
    if image.get("bytes") is None and not image.get("path"):
        raise ValueError("null")
    if _is_remote(question):
        from datasets.utils.file_utils import xopen

        with xopen(image["path"], "rb") as file:
            image = {"bytes": file.read(), "path": None}
    return open_image(image)


def _is_remote(question: Question) -> bool:
    """On a server, or within an archive."""
    return question.image.get("bytes") is None and "://" in (question.image.get("path") or "")
