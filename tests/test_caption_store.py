"""Answers on the disk: found by what was asked and where, durable before they count, one writer a file."""

import contextlib
from pathlib import Path

import pytest

from g4i_hf.captioning.answers import OK, Answer, AnswerStore, CaptionerError, Keys, Question

KEYS = Keys({"model": "tiny"})


def question(number: int) -> Question:
    place = KEYS.place(str(number), 1, 1, "Describe it.", "train")
    return Question(str(number), {}, "Describe it.", KEYS.key(f"image {number}", "Describe it."), place)


def put(folder: Path, *pairs: tuple[int, Answer], rank: int = 0) -> None:
    with AnswerStore(folder, rank) as store:
        store.put([(question(number), answer) for number, answer in pairs])


def texts(folder: Path, *numbers: int) -> list[str | None]:
    with AnswerStore(folder) as store:
        found = [store.find(question(number).key) for number in numbers]
    return [answer and answer.text for answer in found]


@pytest.mark.parametrize("ranks", [(0, 0), (0, 1), (1, 0)])
def test_a_caption_wins_over_a_failure_and_the_later_over_the_earlier(tmp_path, ranks):
    for answers in ((Answer("failed"), Answer(OK, "a")), (Answer(OK, "a"), Answer("failed"))):
        folder = tmp_path / answers[0].status
        for rank, answer in zip(ranks, answers, strict=True):
            put(folder, (1, answer), rank=rank)
        assert texts(folder, 1) == ["a"]
        put(folder, (1, Answer(OK, "later")), rank=ranks[1])
        assert texts(folder, 1) == ["later"]


def test_a_second_command_with_the_same_answers_is_refused(tmp_path):
    with AnswerStore(tmp_path):
        with pytest.raises(CaptionerError, match="Another process captions.*would pay for the same"):
            AnswerStore(tmp_path)
        put(tmp_path, (1, Answer(OK, "a")), rank=1)  # a process of its own number
    assert texts(tmp_path, 1) == ["a"]


def test_every_part_of_keys_and_places_counts():
    about = {"model": "m", "revision": "r", "decoding": {"temperature": 0.0}}
    keys, others = Keys(about), [Keys(about | {"model": "n"}), Keys(about | {"decoding": {"temperature": 0.5}})]
    of_keys = [("i", "p"), ("j", "p"), ("i", "q"), ("", "ip"), ("ip", ""), ('i", "p', "x"), ("i", 'p", "x')]
    of_places = [("i", 1, 2, "p", ""), ("j", 1, 2, "p", ""), ("i", 12, 2, "p", ""), ("i", 1, 22, "p", "")]
    of_places += [("i1", 2, 2, "p", ""), ("i", 1, 2, "q", ""), ("i", 1, None, "p", ""), ("i", None, None, "p", "")]
    of_places += [("i", 1, 2, "p", "train"), ("i", 1, 2, "p", "test")]
    made = [keys.key(*parts) for parts in of_keys] + [keys.place(*parts) for parts in of_places]
    made += [other.key("i", "p") for other in others] + [other.place("i", 1, 2, "p", "") for other in others]
    assert len(set(made)) == len(made)
    same = Keys({"decoding": {"temperature": 0}, "revision": "r", "model": "m"})
    assert same.key("i", "p") == made[0], "neither the order nor the kind of a number matters"


def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path):
    """RLIMIT_FSIZE: the kernel refuses to let the file grow, as with a full disk."""
    resource = pytest.importorskip("resource")
    limits, done = resource.getrlimit(resource.RLIMIT_FSIZE), []
    with AnswerStore(tmp_path) as store, contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OSError, match=f"cannot be written to {tmp_path}.*Make room"):
            for number in range(100_000):
                store.put([(question(number), Answer(OK, f"text {number} " * 50))])
                done.append(number)
    assert len(done) > 20 and texts(tmp_path, *done) == [f"text {number} " * 50 for number in done]
    put(tmp_path, (100_000, Answer(OK, "later")))
    assert texts(tmp_path, 100_000) == ["later"]
