"""A vision-language model in this process."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage

from ...options import LocalCaptionerArguments
from ..answers import Answer, CaptionerError, Deliver, Question, decoding_provenance
from ..images import UndecodableImage, batches_of_similar_size, decode
from .model import Source

if TYPE_CHECKING:
    import torch

    from .generation import Generator

logger = logging.getLogger(__name__)

DECODING_THREADS = 4
# So many failures in a row raise the question whether the captioner works at all
FAILURES_IN_A_ROW = 20
Row = tuple[Question, PILImage.Image]


class LocalCaptioner:
    """
    Implements [`~g4i_hf.captioning.answers.Captioner`] with a model that `AutoModelForImageTextToText` loads. Its
    weights are loaded when the first image is described.

    An answer depends on image, prompt and provenance alone, also with a temperature: what is drawn is seeded by the
    key of the question. The other images of a batch change the last bits of the scores at most.

    Args:
        model: Hub id or folder of a vision-language model.
        revision: branch, tag or commit on the Hub.
        max_new_tokens: longest answer.
        temperature: of sampling; 0 takes the likeliest token each time.
        top_p: sample among the likeliest tokens of this total probability.
        seed: of sampling.
        max_side: images are shrunk to this longest side in pixels, and never enlarged.
        local: batch size, dtype, adapter.
        device: where the model runs.

    Raises:
        CaptionerError: when there is no such model, or it does not describe images.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float | None = None,
        seed: int = 0,
        max_side: int = 768,
        local: LocalCaptionerArguments | None = None,
        device: "str | torch.device" = "cpu",
    ):
        self.local = local or LocalCaptionerArguments()
        self.source = Source(model, revision, self.local)
        self.max_side, self.device = max_side, device
        self.batch_size = self.local.caption_batch_size
        self.provenance: dict[str, Any] = {
            "captioner": "local",
            **self.source.identity,
            # As it was asked for: machines of one run may differ in what `auto` is to them
            "dtype": "auto",
            **decoding_provenance(max_new_tokens, temperature, top_p, seed, max_side),
        }

    @cached_property
    def generator(self) -> "Generator":
        """
        The loaded model.

        Raises:
            CaptionerError: when it cannot be loaded.
        """
        from .generation import Generator

        model, processor = self.source.load(self.device)
        logger.info("Captioner %s: %s on %s.", self.source.model, model.dtype, model.device)
        asked = self.provenance
        return Generator(
            model,
            processor,
            self.source.model_type,
            max_new_tokens=asked["max_new_tokens"],
            temperature=asked["temperature"],
            top_p=asked["top_p"],
            seed=asked["seed"] or 0,
        )

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]. Questions are read some batches ahead."""
        trial = Trial(self._answer_alone)
        with contextlib.closing(self._decoded(questions)) as batches:
            for batch in batches:
                rows: list[Row] = []
                may_go_on = True
                for question, image in batch:
                    if isinstance(image, UndecodableImage):
                        trial.ready.append((question, Answer("undecodable", reason=str(image), attempts=0)))
                    elif may_go_on := may_go_on and allow():
                        rows.append((question, image))
                for (question, image), answer in self._answered(rows):
                    trial.take(question, image, answer)
                deliver(trial.hand_over())
                if not may_go_on:
                    break
        trial.release()
        deliver(trial.hand_over())

    def _decoded(
        self, questions: Iterable[Question]
    ) -> Iterator[list[tuple[Question, PILImage.Image | UndecodableImage]]]:
        """Batches with their images; those of the next one are decoded while the model works on one."""
        questions = iter(questions)
        first = next(questions, None)
        if first is None:
            return
        same_prompt = not self.generator.has_chat_template  # such models may count the padding as positions
        batches = batches_of_similar_size(
            _chained(first, questions), self.local.caption_batch_size, self.max_side, same_prompt=same_prompt
        )
        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            waiting = None
            for batch in batches:
                decoding = [(question, pool.submit(_decoded, question, self.max_side)) for question in batch]
                if waiting is not None:
                    yield [(question, image.result()) for question, image in waiting]
                waiting = decoding
            if waiting is not None:
                yield [(question, image.result()) for question, image in waiting]

    def _answered(self, rows: list[Row]) -> Iterator[tuple[Row, Answer]]:
        """Answers of decoded rows: together, in smaller batches where memory is short, alone where others disturb."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        while rows:
            chunk = rows[: self.batch_size]
            start, is_short = time.monotonic(), False
            try:
                answers = self._ask(chunk)
            except Exception as error:  # any model of any kind runs here; what it raises is told, row by row
                is_short = should_reduce_batch_size(error)
                answers = None
                if len(chunk) == 1:
                    answers = [Answer("failed", reason=_reason(error, is_short))]
            if is_short:
                clear_device_cache(garbage_collection=True)
            if answers is None and is_short:
                self.batch_size = len(chunk) // 2
                logger.warning(
                    "Out of memory with %d images; going on with --caption_batch_size %d.", len(chunk), self.batch_size
                )
                continue
            rows = rows[len(chunk) :]
            if answers is None:
                for row in chunk:
                    yield row, self._answer_alone(row, attempts=2)
                continue
            seconds = time.monotonic() - start
            for row, answer in zip(chunk, answers, strict=True):
                answer.seconds = seconds
                yield row, answer

    def _answer_alone(self, row: Row, attempts: int = 1) -> Answer:
        start = time.monotonic()
        try:
            answer = self._ask([row])[0]
        except Exception as error:
            answer = Answer("failed", reason=_reason(error, is_short=False))
        answer.seconds, answer.attempts = time.monotonic() - start, attempts
        return answer

    def _ask(self, rows: list[Row]) -> list[Answer]:
        questions = [question for question, _ in rows]
        return self.generator.answer(
            [image for _, image in rows],
            [question.prompt for question in questions],
            [question.key for question in questions],
        )


class Trial:
    """
    Tells images that fail from a captioner that fails. Failures are held back until some image is described: those of
    a captioner that does not work are no answers, and are asked for again once it does.

    Args:
        answer_alone: asks about one row.

    Attributes:
        ready: answers that count.
        held: failures that are held back.
    """

    def __init__(self, answer_alone: Callable[[Row], Answer]):
        self.answer_alone = answer_alone
        self.ready: list[tuple[Question, Answer]] = []
        self.held: list[tuple[Question, Answer]] = []
        self.described: Row | None = None

    def take(self, question: Question, image: PILImage.Image, answer: Answer) -> None:
        """
        Raises:
            CaptionerError: when many images fail in a row, and one that had been described fails now as well.
        """
        if answer.status != "failed":
            self.described = (question, image)
            self.release()
            self.ready.append((question, answer))
            return
        self.held.append((question, answer))
        if len(self.held) < FAILURES_IN_A_ROW:
            return
        if self.described is None or self.answer_alone(self.described).status == "failed":
            raise CaptionerError(
                f"The captioner failed on {len(self.held)} images in a row, the last with: {answer.reason} "
                "These images have no answer yet; run the command again once the captioner works."
            )
        self.release()

    def release(self) -> None:
        """What was held back counts."""
        self.ready += self.held
        self.held = []

    def hand_over(self) -> list[tuple[Question, Answer]]:
        """What is ready, once."""
        ready, self.ready = self.ready, []
        return ready


def _decoded(question: Question, max_side: int) -> PILImage.Image | UndecodableImage:
    try:
        return decode(question.image, max_side)
    except UndecodableImage as error:
        return error


def _chained(first: Question, others: Iterator[Question]) -> Iterator[Question]:
    yield first
    yield from others


def _reason(error: Exception, is_short: bool) -> str:
    """The first line of an error."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    advice = " A smaller image_max_side or max_new_tokens needs less memory." if is_short else ""
    return f"{type(error).__name__}: {line}{advice}"
