"""Answers on the disk: found by what was asked and where, durable before they count, one writer a file."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from g4i_hf.captioning.answers import OK, Answer, CaptionerError, Question
from g4i_hf.captioning.store import AnswerStore, Keys

KEYS = Keys({"model": "tiny"})


def question(number: int, prompt: str = "Describe it.", place: bool = True) -> Question:
    key = KEYS.key(f"image {number}", prompt)
    return Question(str(number), {}, prompt, key, KEYS.place(str(number), 1, 1, prompt) if place else "")


def put(folder: Path, *pairs: tuple[int, Answer], rank: int = 0) -> None:
    with AnswerStore(folder, rank) as store:
        store.put([(question(number), answer) for number, answer in pairs])


def texts(folder: Path, *numbers: int) -> list[str | None]:
    with AnswerStore(folder) as store:
        found = [store.find(question(number).key) for number in numbers]
    return [record and record["text"] for record in found]


def test_an_answer_is_found_by_key_and_by_place(tmp_path):
    answer = Answer(OK, "a cat 🐈\n\u2028\ud83d?", None, "stop", 7, 3, 0.5, 2)
    with AnswerStore(tmp_path / "new" / "journal") as store:
        store.put([(question(1), answer), (question(2, place=False), Answer("failed", reason="why"))])
        for _ in range(2):
            record = store.find(question(1).key)
            assert vars(answer).items() <= record.items()
            places = [question(number).place for number in (1, 2, 3)]
            assert store.find_many([*places, ""]) == {places[0]: record}
            assert record["image_id"] == "1" and record["prompt"] == "Describe it."
            assert store.find(question(2).key)["reason"] == "why" and store.find(question(3).key) is None
        assert len(store) == 2


@pytest.mark.parametrize("ranks", [(0, 0), (0, 1), (1, 0)])
def test_a_caption_wins_over_a_failure_and_the_later_over_the_earlier(tmp_path, ranks):
    for answers in ((Answer("failed"), Answer(OK, "a")), (Answer(OK, "a"), Answer("failed"))):
        folder = tmp_path / answers[0].status
        for rank, answer in zip(ranks, answers, strict=True):
            put(folder, (1, answer), rank=rank)
        assert texts(folder, 1) == ["a"]
        put(folder, (1, Answer(OK, "later")), rank=ranks[1])
        assert texts(folder, 1) == ["later"]


def test_another_place_of_a_known_image_is_noted_before_or_after_its_answer(tmp_path):
    with AnswerStore(tmp_path) as store:
        places = [KEYS.place(name, 1, 1, "Describe it.") for name in ("before", "after")]
        store.put([], [(places[0], question(1).key)])
        assert store.find_many(places) == {}
        store.put([(question(1), Answer(OK, "a"))])
        store.put([], [(places[1], question(1).key)])
        assert [store.find_many(places)[place]["text"] for place in places] == ["a", "a"]


def test_a_place_of_an_image_that_once_could_not_be_read_leads_to_its_caption(tmp_path):
    place = question(1).place
    for rank, key, answer in ((1, "unreadable", Answer("undecodable")), (0, "image 1", Answer(OK, "a cat"))):
        with AnswerStore(tmp_path, rank) as store:
            store.put([(Question("1", {}, "Describe it.", KEYS.key(key, "Describe it."), place), answer)])
    for rank in (0, 1):
        with AnswerStore(tmp_path, rank) as store:
            assert store.find_many([place])[place]["text"] == "a cat"


def test_a_file_that_another_process_has_only_begun_is_left_out_and_a_damaged_one_told_of(tmp_path):
    put(tmp_path, (1, Answer(OK, "a")))
    (tmp_path / "00001.sqlite").touch()
    assert texts(tmp_path, 1) == ["a"]
    (tmp_path / "00001.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(OSError, match="00001.sqlite cannot be read.*move it away"):
        AnswerStore(tmp_path)
    (tmp_path / "00001.sqlite").unlink()
    assert texts(tmp_path, 1) == ["a"], "the lock was let go"


def test_a_second_command_with_the_same_answers_is_refused(tmp_path):
    with AnswerStore(tmp_path):
        with pytest.raises(CaptionerError, match="Another process captions.*would pay for the same"):
            AnswerStore(tmp_path)
        with AnswerStore(tmp_path, 1) as other:  # a process of its own number
            other.put([(question(1), Answer(OK, "a"))])
    assert texts(tmp_path, 1) == ["a"]


def test_a_folder_that_cannot_be_written_is_told_of_before_anything_is_asked(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is a file. Give another journal_dir"):
        AnswerStore(tmp_path / "file" / "journal")


# --- Stops -----------------------------------------------------------------------------------------------------------

WRITER = """
import resource, sys
sys.path.insert(0, {tests!r})
from g4i_hf.captioning.answers import OK, Answer
from g4i_hf.captioning.store import AnswerStore
from test_caption_store import question
limit = int(sys.argv[2])
if limit:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with AnswerStore(sys.argv[1]) as store:
    for number in range(100_000):
        try:
            store.put([(question(number), Answer(OK, f"text {{number}} " * 50))])
        except OSError as error:
            print("error", error, flush=True)
            break
        print(number, flush=True)
"""


def writer(folder: Path, limit: int = 0) -> subprocess.Popen:
    code = WRITER.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", code, str(folder), str(limit)], stdout=subprocess.PIPE, text=True)


def test_killed_at_any_moment_what_counted_is_there(tmp_path):
    for _ in range(3):
        process = writer(tmp_path)
        process.stdout.readline()
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.communicate()[0].split()]
        assert process.returncode == -signal.SIGKILL and said
        assert texts(tmp_path, *said) == [f"text {number} " * 50 for number in said]


def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path):
    """RLIMIT_FSIZE: the kernel refuses to let the file grow, as with a full disk."""
    process = writer(tmp_path, limit=200_000)
    *said, error = process.communicate(timeout=60)[0].splitlines()
    assert "cannot be written" in error and "Make room" in error and str(tmp_path) in error
    assert len(said) > 50 and texts(tmp_path, *map(int, said)) == [f"text {number} " * 50 for number in said]
    put(tmp_path, (100_000, Answer(OK, "later")))
    assert texts(tmp_path, 100_000) == ["later"]


def test_a_million_answers_are_opened_at_once_in_little_memory(tmp_path):
    """Here fifty thousand, against the same with one: nothing is read that nobody asks for."""
    put(tmp_path / "one", (0, Answer(OK, "x" * 800)))
    with AnswerStore(tmp_path / "many") as store:
        for start in range(0, 50_000, 5000):
            store.put([(question(number), Answer(OK, "x" * 800)) for number in range(start, start + 5000)])
    reader = (
        f"import sys, resource; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from g4i_hf.captioning.store import AnswerStore; from test_caption_store import question\n"
        "store = AnswerStore(sys.argv[1]); assert store.find(question(0).key)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    memory = [
        int(subprocess.run([sys.executable, "-c", reader, tmp_path / name], capture_output=True, check=True).stdout)
        for name in ("one", "many")
    ]
    assert memory[1] - memory[0] < 10_000  # KB; the file has 60,000
    assert resource.getpagesize()


# --- Segments of version 0.1 -----------------------------------------------------------------------------------------


def segment(folder: Path, name: str, *pairs: tuple[int, str], end: str = "\n", when: float = 1e9) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [
        json.dumps({"key": question(number).key, "place": question(number).place, "image_id": str(number), "size": 1,
                    "mtime": 1, "source": "x", "prompt": "Describe it.", "status": "ok", "text": text, "time": when})
        for number, text in pairs
    ]  # fmt: skip
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(lines) + end)
    return path


def test_segments_are_taken_over_once_and_again_when_they_have_grown(tmp_path, monkeypatch):
    path = segment(tmp_path, "a", (1, "one"), (2, "half \ud83d"))
    assert texts(tmp_path, 1, 2) == ["one", "half \ufffd"]
    monkeypatch.setattr("g4i_hf.captioning.store._records_in", lambda path: pytest.fail("read again"))
    assert texts(tmp_path, 1) == ["one"]
    monkeypatch.undo()
    with open(path, "a") as file:
        file.write(segment(tmp_path / "other", "b", (3, "three")).read_text())
    assert texts(tmp_path, 1, 3) == ["one", "three"]
    assert path.exists()


def test_later_answers_are_not_replaced_by_those_of_a_segment(tmp_path):
    put(tmp_path, (1, Answer(OK, "new")))
    segment(tmp_path, "a", (1, "old"))
    assert texts(tmp_path, 1) == ["new"]


@pytest.mark.parametrize(
    "damage", ['{"key": "0', "\0" * 20, "[]", '{"key": 1, "place": "", "status": "ok"}', "{" * 9999]
)
def test_a_damaged_line_costs_one_answer_and_is_told_of(tmp_path, caplog, damage):
    path = segment(tmp_path, "a", (1, "one"), (2, "two"))
    first, second = path.read_text().splitlines()
    path.write_text("\n".join([first, damage, second, second[:40]]))
    assert texts(tmp_path, 1, 2) == ["one", "two"]
    assert "1 damaged lines" in caplog.text, "and not the last, which was cut off"
    assert os.path.exists(path)
