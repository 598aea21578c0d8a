"""Asking a captioner in this process, for tests."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from g4i_hf.captioning.answers import Answer, Decoding, Question
from g4i_hf.captioning.local import LocalCaptioner
from g4i_hf.options import LocalCaptionerArguments

PROMPTS = ["Describe this image in detail.", "what is it?", "a"]
NEW_TOKENS = 8


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Sixteen fields of random colours."""
    fields = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(fields).resize(size, Image.Resampling.NEAREST)


def png(image: Image.Image, **options) -> bytes:
    output = io.BytesIO()
    image.save(output, options.pop("format", "PNG"), **options)
    return output.getvalue()


def question(name: int | str, image: bytes | Image.Image | None, prompt: str = PROMPTS[0]) -> Question:
    content = png(image) if isinstance(image, Image.Image) else image
    return Question(str(name), {"bytes": content, "path": None}, prompt, key=f"key {name}")


def captioner(folder: Path, batch_size: int = 8, max_new_tokens: int = NEW_TOKENS, **options) -> LocalCaptioner:
    local = LocalCaptionerArguments(caption_batch_size=batch_size)
    return LocalCaptioner(str(folder), Decoding(max_new_tokens, **options), local=local)


def answers(of: LocalCaptioner, questions: list[Question], allow=lambda: True) -> dict[str, Answer]:
    found = {}

    def deliver(pairs: list[tuple[Question, Answer]]) -> None:
        for question, answer in pairs:
            assert question.image_id not in found, "answered twice"
            found[question.image_id] = answer

    of.run(iter(questions), deliver, allow)
    return found


def counted(asked: list, limit: int = 1000) -> Callable[[], bool]:
    """Allows so many requests, and notes each in `asked`."""

    def allow() -> bool:
        if len(asked) == limit:
            return False
        asked.append(1)
        return True

    return allow
