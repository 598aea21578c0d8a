"""Describing images with a model in this process: each row gets the answer to its own image and prompt."""

import io
import struct
import zlib
from pathlib import Path

import pytest
import tiny_captioners
from local_captioners import NEW_TOKENS, PROMPTS, answers, captioner, counted, picture, png, question
from PIL import Image
from tiny_captioners import FAMILIES
from transformers import AutoModelForImageTextToText, AutoProcessor

from g4i_hf.captioning.answers import Question
from g4i_hf.captioning.images import UndecodableImage, decode
from g4i_hf.captioning.local import Generator

SIZES = [(32, 32), (64, 32), (40, 80), (16, 16)]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    folders = {}

    def made(family: str) -> Path:
        if family not in folders:
            folders[family] = tiny_captioners.save(family, tmp_path_factory.mktemp("captioner") / family)
        return folders[family]

    return made


@pytest.fixture(scope="module")
def llava(folder_of) -> Path:
    return folder_of("llava")


# --- Every architecture ---------------------------------------------------------------------------------------------


def asked_plainly(folder: Path, questions: list[Question]) -> dict[str, str]:
    """Each image alone, with nothing but transformers."""
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    texts = {}
    for asked in questions:
        parts = [{"type": "image"}, {"type": "text", "text": asked.prompt}]
        prompt = asked.prompt
        if processor.chat_template is not None:
            prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        elif prompt.endswith((".", "?")):
            prompt = f"Question: {prompt} Answer:"
        image = Image.open(io.BytesIO(asked.image["bytes"]))
        inputs = processor(images=[image], text=[prompt], return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        texts[asked.image_id] = processor.decode(new, skip_special_tokens=True).strip()
    return texts


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_sizes_and_prompts_gives_what_each_image_gives_alone(family, folder_of):
    questions = [
        question(number, picture(number, SIZES[number % len(SIZES)]), PROMPTS[number % len(PROMPTS)])
        for number in range(12)
    ]
    expected = asked_plainly(folder_of(family), questions)
    assert len(set(expected.values())) == 12  # otherwise an answer in the wrong row would go unseen
    for batch_size in (12, 5, 1):
        found = answers(captioner(folder_of(family), batch_size), questions)
        assert {name: answer.text for name, answer in found.items()} == expected
        assert {answer.status for answer in found.values()} == {"ok"}
        assert not any("describe this image in detail" in answer.text for answer in found.values())


def swapped(images: list) -> list:
    return [images[1], images[0], *images[2:]]


def constant(images: list) -> list:
    return [images[0]] * len(images)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sabotage, wrong_rows", [(swapped, 2), (constant, 5)])
def test_a_swapped_or_ignored_image_is_noticed(family, sabotage, wrong_rows, folder_of, monkeypatch):
    """By the comparison of the test above: prompts and sizes are the same here, so only the image tells rows apart."""
    questions = [question(number, picture(number)) for number in range(6)]
    expected = asked_plainly(folder_of(family), questions)
    inputs = Generator.inputs
    monkeypatch.setattr(Generator, "inputs", lambda self, images, prompts: inputs(self, sabotage(images), prompts))
    found = answers(captioner(folder_of(family)), questions)
    assert sum(found[name].text != text for name, text in expected.items()) == wrong_rows


def test_tokens_are_counted_row_by_row(llava):
    questions = [question(number, picture(number), prompt) for number, prompt in enumerate(PROMPTS)]
    together, alone = (answers(captioner(llava, size), questions) for size in (3, 1))
    assert [together[str(row)].prompt_tokens for row in range(3)] == [24, 22, 19]
    for name, answer in alone.items():
        counted = (answer.prompt_tokens, answer.completion_tokens, answer.finish_reason)
        row = together[name]
        assert counted == (row.prompt_tokens, row.completion_tokens, row.finish_reason)
        assert (row.finish_reason == "length") <= (row.completion_tokens == NEW_TOKENS) and row.seconds > 0


def test_blip_2_is_asked_as_its_authors_do(folder_of):
    generator = captioner(folder_of("blip_2")).generator
    tokenizer = generator.processor.tokenizer
    inputs = generator.inputs([picture(0)] * 2, ["What is it?", "a image of"])
    texts = tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
    assert [text.strip() for text in texts] == ["question : what is it ? answer :", "a image of"]


# --- Sampling -------------------------------------------------------------------------------------------------------


def test_sampled_answers_differ_from_greedy_ones_and_are_those_of_the_seed(llava):
    questions = [question(number, picture(number)) for number in range(6)]
    first, again = (answers(captioner(llava, temperature=1.5, top_p=0.95), questions) for _ in range(2))
    greedy = answers(captioner(llava), questions)
    assert {name: answer.text for name, answer in first.items()} == {n: a.text for n, a in again.items()}
    assert sum(first[name].text != greedy[name].text for name in first) >= 5
    nearly = answers(captioner(llava, temperature=1.5, top_p=1e-6), questions)
    assert {name: answer.text for name, answer in nearly.items()} == {n: a.text for n, a in greedy.items()}


# --- Images ---------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG that says it has 30,000 x 30,000 pixels."""
    small = png(picture(0))
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


@pytest.mark.parametrize(
    "image, reason",
    [
        (b"no image at all", "no known image format"),
        (png(picture(0, (200, 200)))[:150], "truncated"),
        (b"", "no known image format"),
        (None, "null"),
        (bomb(), "more pixels than can be opened safely"),
    ],
    ids=["text", "truncated", "empty", "null", "bomb"],
)
def test_an_image_that_cannot_be_read_stops_nobody_else(image, reason, llava):
    questions = [question(number, picture(number)) for number in range(4)]
    expected = answers(captioner(llava), questions)
    asked = []
    found = answers(captioner(llava), [*questions[:2], question("broken", image), *questions[2:]], counted(asked))
    broken = found.pop("broken")
    assert broken.status == "undecodable" and reason in broken.reason and broken.text is None
    assert {name: answer.text for name, answer in found.items()} == {n: a.text for n, a in expected.items()}
    assert len(asked) == 4  # nothing was asked about the broken one


def test_a_file_that_is_gone_is_said_without_its_path(tmp_path):
    gone = {"bytes": None, "path": str(tmp_path / "a.png")}
    with pytest.raises(UndecodableImage, match="^there is no such file$"):
        decode(gone, 768)
    picture(0).save(tmp_path / "a.png")
    assert decode(gone, 768).size == (32, 32)


def test_images_are_upright_and_shrunk_but_never_enlarged():
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = question(0, png(picture(0, (300, 150)), format="JPEG", exif=exif)).image
    assert decode(lying, 768).size == (150, 300)
    assert decode(lying, 100).size == (50, 100)
    assert decode(question(0, picture(0, (1000, 1))).image, 100).size == (100, 1)
    assert decode(question(0, picture(0, (16, 16))).image, 100).size == (16, 16)
    assert decode(question(0, picture(0).convert("P")).image, 100).mode == "RGB"
