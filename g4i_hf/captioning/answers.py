"""What is asked of a captioner and what comes back: the words that all captioners share."""

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
TRANSIENT = {"timeout", "failed"}  # the next attempt may succeed


@dataclass(frozen=True)
class Question:
    """
    One prompt about one image.

    Attributes:
        image_id: the row's.
        image: `{"bytes", "path"}`, as `datasets.Image(decode=False)` gives it.
        prompt: filled in.
        key, place: digests by which the answer is found again, see [`~g4i_hf.captioning.store.Keys`].
    """

    image_id: str
    image: dict[str, Any]
    prompt: str
    key: str
    place: str = ""


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


Deliver = Callable[[list[tuple[Question, Answer]]], None]


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
            deliver: takes answers as they come, from this thread.
            allow: called before every request, perhaps from another thread; False means that no more may be sent.
                Questions that were not sent by then get no answer.

        Raises:
            CaptionerError: when nothing can be answered any more: says why, and what to do.
        """


class CaptionerError(RuntimeError):
    """The captioner as a whole does not work: wrong token, no such model, a server that is gone."""


def decoding_provenance(
    max_new_tokens: int, temperature: float, top_p: float | None, seed: int, max_side: int
) -> dict[str, Any]:
    """
    Args:
        max_new_tokens: longest answer.
        temperature: of sampling; at 0 neither `top_p` nor `seed` change anything, and neither is recorded.
        top_p: sample among the likeliest tokens of this total probability.
        seed: of sampling.
        max_side: longest side of images in pixels.
    """
    is_sampled = temperature > 0
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p if is_sampled else None,
        "seed": seed if is_sampled else None,
        "image_max_side": max_side,
    }
