"""What is asked of a captioner and what comes back: the words that all captioners and the journal share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

OK = "ok"
# Why a row has no caption. `empty`, and mostly `refused`, are found by looking at the answer, others while asking
FAILURES = {
    "undecodable": "the image cannot be read",
    "rejected": "the server refused this request (400, 413, 422)",
    "timeout": "no answer in time, after all attempts",
    "failed": "an error at every attempt",
    "empty": "an answer without text",
    "refused": "the model declined to describe the image",
}


@dataclass(frozen=True)
class Question:
    """
    One prompt about one image.

    Attributes:
        image_id: the row's.
        image: `{"bytes", "path"}`, as `datasets.Image(decode=False)` gives it; not opened yet.
        prompt: filled in.
        key, place: digests by which the journal knows the answer, see [`~g4i_hf.captioning.journal.keys.Keys`].
        source: digest of the image's bytes.
        size: of the image in bytes.
        mtime: of its file, in nanoseconds; None where the bytes lie in a table.
    """

    image_id: str
    image: dict[str, Any]
    prompt: str
    key: str
    place: str
    source: str
    size: int
    mtime: int | None = None


@dataclass
class Answer:
    """
    Attributes:
        status: `ok` or one of [`FAILURES`].
        text: as the model gave it.
        reason: of a failure, in a sentence.
        finish_reason: `stop`, or `length` when the model was cut off.
        prompt_tokens, completion_tokens: where they are known.
        seconds: from the first attempt to the answer.
        attempts: how often was asked; 0 for an image that could not be sent.
    """

    status: str
    text: str | None = None
    reason: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    attempts: int = 1


def whole_characters(text: str) -> str:
    """
    The text with U+FFFD for each half of a character (a lone surrogate), as servers send of an emoji that they cut in
    two: no table can hold that.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


Deliver = Callable[[Question, Answer], None]


class Captioner(Protocol):
    """
    Attributes:
        provenance: what an answer depends on beside image and prompt (model, revision, decoding, preprocessing), as
            JSON values. It is part of every key and of `stage.json`, so it holds no host, path or token.
    """

    provenance: dict[str, Any]

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """
        Answers questions in any order. A question that fails gets an answer that says so.

        Args:
            questions: read only as fast as they are asked.
            deliver: takes each answer, from this thread; returns at once.
            allow: called before every request, perhaps from another thread; False means that no more may be sent.
                Questions that were not sent by then get no answer.

        Raises:
            CaptionerError: when nothing can be answered any more: says why, and what to do.
        """


class CaptionerError(RuntimeError):
    """The captioner as a whole does not work: wrong token, no such model, a server that is gone."""
