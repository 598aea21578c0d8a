"""Answers on the disk: found by what was asked and where, durable before they count, one writer a file."""

import os
import subprocess
from pathlib import Path

import pytest
from caption_doors import ROOT
from loaded import PYTHON

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


PROVENANCE = {"model": "m", "revision": "r", "decoding": {"temperature": 0.0}, "preprocessing": {"max_side": 768}}


def key(source: str = "s", prompt: str = "p", **changed) -> str:
    return Keys(PROVENANCE | changed).key(source, prompt)


def place(*parts, **changed) -> str:
    return Keys(PROVENANCE | changed).place(*parts)


def test_every_part_of_keys_and_places_counts():
    keys = [key(), key("t"), key(prompt="q"), key(model="n"), key(revision=None), key("", "sp"), key("sp", "")]
    keys += [key(decoding={"temperature": 0.5}), key(decoding={"temperature": 0, "top_p": 0.9}), key(prompt="p\n")]
    keys += [key(preprocessing={"max_side": 512}), key('s", "p', "x"), key("s", 'p", "x'), key(prompt="p\ud83d")]
    keys += [key("i"), place("i", 1, 2, "p", ""), place("j", 1, 2, "p", ""), place("i", 12, 2, "p", "")]
    keys += [place("i", 1, 22, "p", "")]
    keys += [place("i1", 2, 2, "p", ""), place("i", 1, 2, "q", ""), place("i", 1, 2, "p", "train")]
    keys += [place("i", 1, 2, "p", "test"), place("i", 1, None, "p", "train"), place("i", None, None, "p", "train")]
    keys += [place("i", 1, 2, "p", "", model="n")]
    assert len(set(keys)) == len(keys) and all(len(each) == 32 and int(each, 16) >= 0 for each in keys)
    other = {"preprocessing": {"max_side": 768.0}, "decoding": {"temperature": 0}, "revision": "r", "model": "m"}
    assert Keys(other).key("s", "p") == key() and Keys(other).place("i", 1, 2, "p", "") == place("i", 1, 2, "p", "")


WRITER = """
import resource, signal, sys
from g4i_hf.captioning.answers import OK, Answer, AnswerStore
from test_caption_store import question
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with AnswerStore(sys.argv[1]) as store:
    for number in range(100_000):
        try:
            store.put([(question(number), Answer(OK, f"text {number} " * 50))])
        except OSError as error:
            print("error", error, flush=True)
            break
        print(number, flush=True)
"""


def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path):
    """RLIMIT_FSIZE: the kernel refuses to let the file grow, as with a full disk."""
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command, env = [PYTHON, "-c", WRITER, str(tmp_path)], os.environ | path
    printed = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300).stdout
    *said, error = printed.splitlines()
    assert "cannot be written" in error and "Make room" in error and str(tmp_path) in error
    assert len(said) > 20 and texts(tmp_path, *map(int, said)) == [f"text {number} " * 50 for number in said]
    put(tmp_path, (100_000, Answer(OK, "later")))
    assert texts(tmp_path, 100_000) == ["later"]
