"""A model in this process: each row gets the answer to its own image and prompt, and failures end nothing else."""

import io
import json
import shutil
from pathlib import Path

import make
import pytest
import tiny_captioners
import torch
from huggingface_hub import constants
from PIL import Image
from tiny_captioners import FAMILIES
from transformers import AutoModelForImageTextToText, AutoProcessor

from g4i_hf.captioning.answers import Answer, CaptionerError, Question
from g4i_hf.captioning.local import FAILURES_IN_A_ROW, LocalCaptioner
from g4i_hf.options import Decoding, LocalCaptionerArguments

PROMPTS = ["Describe this image in detail.", "what is it?", "a"]
SIZES = [(32, 32), (64, 32), (40, 80), (16, 16)]
NEW_TOKENS = 8


def question(name: int | str, image: bytes | Image.Image | None, prompt: str = PROMPTS[0]) -> Question:
    image = make.stored(image) if isinstance(image, Image.Image) else {"bytes": image, "path": None}
    return Question(str(name), image, prompt, key=f"key {name}")


def questions(count: int) -> list[Question]:
    return [question(number, make.noise(number, 32)) for number in range(count)]


def captioner(folder: Path, batch_size: int = 8, **decoding) -> LocalCaptioner:
    local = LocalCaptionerArguments(caption_batch_size=batch_size)
    return LocalCaptioner(str(folder), Decoding(**{"max_new_tokens": NEW_TOKENS} | decoding), local=local)


def answers(of: LocalCaptioner, asked: list[Question], allow=lambda: True) -> dict[str, Answer]:
    pairs: list[tuple[Question, Answer]] = []
    of.run(iter(asked), pairs.extend, allow)
    found = {one.image_id: answer for one, answer in pairs}
    assert len(found) == len(pairs), "answered twice"
    return found


def texts(found: dict[str, Answer]) -> dict[str, str]:
    return {name: answer.text for name, answer in found.items()}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return tiny_captioners.save("qwen2_5_vl", tmp_path_factory.mktemp("captioner") / "my-qwen2_5_vl")


def asked_plainly(folder: Path, asked: list[Question]) -> dict[str, str]:
    """Each image alone, with nothing but transformers."""
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    found = {}
    for one in asked:
        parts, prompt = [{"type": "image"}, {"type": "text", "text": one.prompt}], one.prompt
        if processor.chat_template is not None:
            prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        elif prompt.endswith((".", "?")):  # BLIP-2 is asked as its authors do
            prompt = f"Question: {prompt} Answer:"
        inputs = processor(images=[Image.open(io.BytesIO(one.image["bytes"]))], text=[prompt], return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        found[one.image_id] = processor.decode(new, skip_special_tokens=True).strip()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_sizes_and_prompts_gives_what_each_image_gives_alone(family, tmp_path):
    asked = [question(n, make.noise(n, *SIZES[n % len(SIZES)]), PROMPTS[n % len(PROMPTS)]) for n in range(12)]
    expected = asked_plainly(tiny_captioners.save(family, tmp_path), asked)
    assert len(set(expected.values())) == 12  # otherwise an answer in the wrong row would go unseen
    found = answers(captioner(tmp_path, 5), asked)
    assert texts(found) == expected and {answer.status for answer in found.values()} == {"ok"}


def test_sampled_answers_differ_from_greedy_ones_and_are_those_of_the_seed(qwen):
    sampled, again, nearly, greedy = (
        texts(answers(captioner(qwen, **options), questions(6)))
        for options in [{"temperature": 1.5, "top_p": 0.95}] * 2 + [{"temperature": 1.5, "top_p": 1e-6}, {}]
    )
    assert sampled == again and nearly == greedy
    assert sum(sampled[name] != greedy[name] for name in greedy) >= 5


def test_images_that_cannot_be_read_stop_nobody_else_and_are_not_asked_about(qwen):
    broken = {"text": b"no image at all", "cut": make.content(make.noise(0, 200))[:150], "null": None}
    allowed, good = [], questions(4)
    rows = [*good[:2], *(question(*pair) for pair in broken.items()), *good[2:]]
    found = answers(captioner(qwen), rows, lambda: allowed.append(1) or True)
    reasons = {name: found.pop(name).reason for name in broken}
    assert "no known image format" in reasons["text"] and "truncated" in reasons["cut"] and "null" in reasons["null"]
    assert texts(found) == texts(answers(captioner(qwen), good)) and len(allowed) == 4


def short_of_memory(of: LocalCaptioner, rows: int) -> LocalCaptioner:
    """What a GPU does with more than so many rows."""
    generate = of.generator.model.generate

    def limited(**inputs):
        if len(inputs["input_ids"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")
        return generate(**inputs)

    of.generator.model.generate = limited
    return of


def test_short_memory_makes_batches_smaller_and_an_image_too_large_fails_with_advice(qwen, caplog):
    found = answers(short_of_memory(captioner(qwen), rows=2), questions(11))
    assert texts(found) == texts(answers(captioner(qwen), questions(11)))
    assert [record.args for record in caplog.records if "Out of memory" in record.msg] == [(8, 4), (4, 2)]
    found = answers(short_of_memory(captioner(qwen), rows=0), questions(2))
    assert {answer.status for answer in found.values()} == {"failed"}
    assert all("out of memory" in a.reason and "image_max_side" in a.reason for a in found.values())


def test_a_captioner_that_never_works_is_an_error_and_one_that_works_may_fail_often(qwen):
    """These images are so long and thin that the processor of Qwen2.5-VL refuses them."""
    ribbons, delivered = [question(n, make.noise(n, 700, 1)) for n in range(2 * FAILURES_IN_A_ROW + 5)], []
    with pytest.raises(CaptionerError, match="20 images in a row.*aspect ratio"):
        captioner(qwen).run(ribbons[:30], delivered.extend, lambda: True)
    assert delivered == []
    found = answers(captioner(qwen, 1), [question("good", make.noise(0, 4)), *ribbons])
    assert found.pop("good").status == "ok"
    assert len(found) == 45 and {answer.status for answer in found.values()} == {"failed"}


def test_all_that_changes_answers_is_in_the_key_and_nothing_else(qwen, tmp_path):
    options = [{}, {"max_new_tokens": 9}, {"temperature": 0.5}, {"image_max_side": 20}]
    options.append({"temperature": 0.5, "top_p": 0.5})
    made = [captioner(qwen, **given).provenance for given in options]
    moved = shutil.copytree(qwen, tmp_path / "elsewhere" / "my-qwen2_5_vl")
    assert made[0]["model"] == "my-qwen2_5_vl" and str(qwen.parent) not in json.dumps(made)
    assert captioner(moved).provenance == captioner(qwen, 2, top_p=0.5).provenance == made[0]
    template = moved / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    made.append(captioner(moved).provenance)
    assert all(made.count(provenance) == 1 for provenance in made)


def test_a_revision_is_resolved_to_its_commit_whose_weights_are_loaded(tmp_path, monkeypatch):
    """Two commits of a model in the cache of the Hub; `main` is the second, until the branch moves."""
    commits, repository = ("1" * 40, "2" * 40), tmp_path / "hub" / "models--someone--tiny-qwen"
    (repository / "refs").mkdir(parents=True)
    for number, commit in enumerate(commits):
        tiny_captioners.save("qwen2_5_vl", repository / "snapshots" / commit, seed=number)
        (repository / "refs" / ("v1", "main")[number]).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def made(revision: str | None) -> LocalCaptioner:
        return LocalCaptioner("someone/tiny-qwen", Decoding(8), revision=revision)

    main, first = made(None), made("v1")
    (repository / "refs" / "main").write_text(commits[0])
    assert [of.provenance["revision"] for of in (main, first)] == [commits[1], commits[0]]
    assert {of.provenance["model"] for of in (main, first)} == {"someone/tiny-qwen"}
    said = [texts(answers(of, questions(3))) for of in (main, made(commits[1]), first, made(commits[0]))]
    assert said[0] == said[1] != said[2] == said[3]
