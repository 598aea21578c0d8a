"""What all captioners share: questions, answers, decoding options, and the interface `Captioner`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

OK = "ok"
# Why a row has no caption. `empty`, and mostly `refused`, are found in the answer, the others while asking
FAILURES = {
    "undecodable": "the image cannot be read",
    "rejected": "the server refused this request (400, 413, 422)",
    "timeout": "no answer in time, after all attempts",
    "failed": "an error at every attempt",
    "empty": "an answer without text",
    "refused": "the model declined to describe the image",
}
TRANSIENT = {"timeout", "failed"}  # another attempt may succeed


@dataclass(frozen=True)
class Question:
    """One prompt about one image. `key` and `place` are those of [`~g4i_hf.captioning.store.Keys`]."""

    image_id: str  # for messages
    image: dict[str, Any]  # `{"bytes", "path"}`, as `datasets.Image(decode=False)` gives it; the path is for messages
    prompt: str  # filled in
    key: str
    place: str = ""
    choices: tuple[str, ...] = ()  # one of which is the answer; none: any text


@dataclass
class Answer:
    """The answer to a question. The store keeps all fields."""

    status: str  # `ok` or one of [`FAILURES`]
    text: str | None = None  # as the model gave it
    reason: str | None = None  # of a failure, in a sentence
    finish_reason: str | None = None  # `stop`, or `length` when the model was cut off
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None  # from the first attempt to the answer
    attempts: int = 1  # requests; 0 for an image that could not be sent


@dataclass(frozen=True)
class Decoding:
    """Image size and generation options."""

    max_new_tokens: int = 128
    temperature: float = 0.0  # of sampling; 0 decodes greedily
    top_p: float | None = None  # sample among the likeliest tokens of this total probability
    max_side: int = 768  # larger images are shrunk to this longest side in pixels

    def tokens_for(self, choices: Sequence[str]) -> int:
        """Most tokens of an answer; one that is a choice is short."""
        return max(1, self.max_new_tokens // 4) if choices else self.max_new_tokens

    @property
    def provenance(self) -> dict[str, Any]:
        """The options that answers depend on: `top_p` and the seed only where the temperature is above 0."""
        is_sampled = self.temperature > 0
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p if is_sampled else None,
            "seed": 0 if is_sampled else None,
            "image_max_side": self.max_side,
        }


Deliver = Callable[[list[tuple[Question, Answer]]], None]


class Captioner(Protocol):
    """Answers questions with a model or a server."""

    # What an answer depends on beside image and prompt, as JSON values: part of every key and of `stage.json`, so it
    # must hold no host, path or token
    provenance: dict[str, Any]
    hosts: Sequence[str] = ()  # with ports, that images are sent to
    why_open: str = ""  # after `run`: why questions have no answer yet, and the remedy

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """
        Answers questions in any order, read only as fast as they are asked. One that fails gets an answer that says
        so. `allow` is called before every request; after False nothing more is sent. `deliver` takes answers as they
        come. All three are perhaps called from other threads.
        """


class CaptionerError(ValueError):
    """The captioner as a whole does not work: wrong token, no such model, a server that is gone."""


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, as servers send when they cut an emoji in two."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
