"""A captioner that is stopped, short of memory, or fails on some images or on all."""

from pathlib import Path

import pytest
import tiny_captioners
import torch
from local_captioners import answers, captioner, counted, picture, question

from g4i_hf.captioning.answers import CaptionerError, Question
from g4i_hf.captioning.local import FAILURES_IN_A_ROW, LocalCaptioner


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    return tiny_captioners.save("llava", tmp_path_factory.mktemp("captioner") / "llava")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return tiny_captioners.save("qwen2_vl", tmp_path_factory.mktemp("captioner") / "qwen")


def test_no_more_is_asked_than_allowed(llava):
    asked = []
    found = answers(captioner(llava, 4), [question(n, picture(n)) for n in range(20)], counted(asked, limit=6))
    assert len(found) == 6 and all(answer.status == "ok" for answer in found.values())


def test_a_run_without_questions_loads_nothing(llava):
    of = captioner(llava)
    assert answers(of, []) == {}
    assert "generator" not in vars(of)


def short_of_memory(of: LocalCaptioner, rows: int) -> None:
    """What a GPU does with more than so many rows."""
    generate = of.generator.model.generate

    def limited(**inputs):
        if len(inputs["input_ids"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")
        return generate(**inputs)

    of.generator.model.generate = limited


def test_short_memory_makes_batches_smaller(llava, caplog):
    questions = [question(number, picture(number)) for number in range(11)]
    expected = answers(captioner(llava), questions)
    of = captioner(llava)
    short_of_memory(of, rows=2)
    assert {n: a.text for n, a in answers(of, questions).items()} == {n: a.text for n, a in expected.items()}
    assert [record.args for record in caplog.records if "Out of memory" in record.msg] == [(8, 4), (4, 2)]


def test_an_image_too_large_for_the_memory_fails_with_advice(llava):
    of = captioner(llava)
    short_of_memory(of, rows=0)
    found = answers(of, [question(number, picture(number)) for number in range(2)])
    assert {answer.status for answer in found.values()} == {"failed"}
    assert all("out of memory" in a.reason and "image_max_side" in a.reason for a in found.values())


def ribbon(number: int) -> Question:
    """So long and thin that the processor of Qwen2-VL refuses it."""
    return question(number, picture(number, (700, 1)))


def test_an_image_that_the_model_refuses_fails_alone(qwen):
    questions = [ribbon(n) if n in (1, 6) else question(n, picture(n)) for n in range(8)]
    found = answers(captioner(qwen), questions)
    failed = {name: answer for name, answer in found.items() if answer.status != "ok"}
    assert failed.keys() == {"1", "6"}
    assert all(a.status == "failed" and "aspect ratio" in a.reason and a.attempts == 2 for a in failed.values())
    assert found["0"].attempts == 2 and len(found) == 8


def test_a_captioner_that_never_works_is_an_error_and_answers_nothing(qwen):
    delivered = []
    with pytest.raises(CaptionerError, match="20 images in a row.*aspect ratio"):
        captioner(qwen).run(map(ribbon, range(30)), delivered.extend, lambda: True)
    assert delivered == []
    few = answers(captioner(qwen), [ribbon(number) for number in range(5)])
    assert [answer.status for answer in few.values()] == ["failed"] * 5


def test_many_refused_images_do_not_stop_a_captioner_that_works(qwen):
    questions = [question("good", picture(0, (4, 4))), *map(ribbon, range(2 * FAILURES_IN_A_ROW + 5))]
    found = answers(captioner(qwen, 1), questions)
    assert found.pop("good").status == "ok"
    assert len(found) == 45 and {answer.status for answer in found.values()} == {"failed"}


def test_a_captioner_that_breaks_on_the_way_is_an_error(llava):
    of = captioner(llava, 1)
    generate, calls = of.generator.model.generate, []

    def broken(**inputs):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return generate(**inputs)

    of.generator.model.generate = broken
    delivered = []
    with pytest.raises(CaptionerError, match="device-side assert"):
        of.run((question(n, picture(n)) for n in range(40)), delivered.extend, lambda: True)
    assert [answer.status for _, answer in delivered] == ["ok"] * 3
