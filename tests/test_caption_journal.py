"""The journal finds every answer again, the best one, and never another."""

import json
import os
import pickle
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from workers.journal_writer import KEYS, question_of

from g4i_hf.captioning.answers import OK, Answer, Question
from g4i_hf.captioning.journal import index as journal_index
from g4i_hf.captioning.journal.reader import Journal, JournalWriter, answer_of


def write(folder: Path, *answers: tuple[Question, Answer]) -> Path:
    with JournalWriter(folder) as writer:
        for question, answer in answers:
            writer.append(question, answer)
    return writer.path


def text(journal: Journal, digest: str) -> str | None:
    return journal.find(digest).read()["text"]


# --- Reading what was written ----------------------------------------------------------------------------------------


def test_an_answer_is_found_by_key_and_by_place(tmp_path):
    question = question_of("a", 1)
    answer = Answer(OK, "a cat", None, "stop", 12, 3, 0.5, 2)
    began = time.time()
    write(tmp_path, (question, answer), (question_of("a", 2), Answer("timeout", reason="no answer")))
    journal = Journal.load(tmp_path)
    assert len(journal) == 2
    for digest in (question.key, question.place):
        entry = journal.find(digest)
        assert entry.ok and entry.digest == digest
        record = journal.read(entry)
        assert answer_of(record) == answer and entry.read() == record
        assert began <= record.pop("time") <= time.time()
        assert record == {
            **{name: getattr(question, name) for name in ("key", "place", "image_id", "size", "mtime", "source")},
            **{"prompt": question.prompt, "status": OK, "text": "a cat", "reason": None, "finish_reason": "stop"},
            **{"prompt_tokens": 12, "completion_tokens": 3, "seconds": 0.5, "attempts": 2},
        }
    assert not journal.find(question_of("a", 2).key).ok
    assert journal.find(question_of("a", 3).key) is None and journal.find("") is None


def test_texts_come_back_as_they_were(tmp_path):
    texts = [
        "😀 𝛼",
        "two\nlines\r\n",
        "\u2028\u2029\x85\x0b",
        '"quoted" \\',
        "\x00",
        "",
        "ü" * 20_000,
        None,
    ]
    asked = [replace(question_of(value or "none", number), prompt="é\n") for number, value in enumerate(texts)]
    path = write(tmp_path, *((question, Answer(OK, value)) for question, value in zip(asked, texts, strict=True)))
    assert len(path.read_bytes().splitlines()) == len(texts) and path.read_bytes().isascii()
    journal = Journal.load(tmp_path)
    assert [text(journal, question.key) for question in asked] == texts
    assert journal.find(asked[0].place).read()["image_id"] == "😀 𝛼-0"


def test_half_a_character_in_an_earlier_answer_is_replaced(tmp_path):
    kept, failed = question_of("a", 1), question_of("a", 2)
    write(tmp_path, (kept, Answer(OK, "\ud83d alone")), (failed, Answer("rejected", reason="no \ude00")))
    journal = Journal.load(tmp_path)
    assert text(journal, kept.key) == "\ufffd alone"
    assert answer_of(journal.find(failed.key).read()).reason == "no \ufffd"


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    missing = Journal.load(tmp_path / "none")
    assert len(missing) == 0 == len(Journal.load(tmp_path)) and missing.find("0" * 32) is None
    assert missing.refresh() == 0 and not (tmp_path / "none").exists()
    write(tmp_path / "none", (question_of("a", 0), Answer(OK, "x")))
    assert missing.refresh() == 1 and text(missing, question_of("a", 0).key) == "x"


def test_nothing_is_made_before_the_first_answer(tmp_path):
    with JournalWriter(tmp_path / "journal") as writer:
        writer.flush()
    assert not (tmp_path / "journal").exists()


def test_files_that_are_no_segments_are_left_alone(tmp_path):
    (tmp_path / "alive").mkdir()
    (tmp_path / "notes.txt").write_text("hello\n")
    write(tmp_path, (question_of("a", 0), Answer(OK, "x")))
    assert len(Journal.load(tmp_path)) == 1


OUTCOMES = {"ok, failed": "ok", "failed, ok": "ok", "failed, refused": "refused", "ok, failed, later": "later"}


@pytest.mark.parametrize("order", OUTCOMES)
@pytest.mark.parametrize("segments", ["one", "several", "several merged", "refreshed", "refreshed merged"])
def test_a_caption_wins_over_a_failure_and_the_later_over_the_earlier(tmp_path, monkeypatch, order, segments):
    monkeypatch.setattr(journal_index, "LARGE", 1 if "merged" in segments else 1 << 16)
    question, journal = question_of("a", 0), Journal.load(tmp_path)
    answers = {
        "ok": Answer(OK, "ok"),
        "later": Answer(OK, "later"),
        "failed": Answer("failed", "failed"),
        "refused": Answer("refused", "refused"),
    }
    steps = [(question, answers[step]) for step in order.split(", ")]
    if segments == "one":
        write(tmp_path, *steps)
    for number, step in enumerate(steps if segments != "one" else ()):
        write(tmp_path, step).rename(tmp_path / f"{9 - number}.jsonl")  # only the time tells which is later
        if "refreshed" in segments:
            assert journal.refresh() == 1
    journal.refresh()
    for digest in (question.key, question.place):
        assert journal.find(digest).ok == (OUTCOMES[order] in ("ok", "later"))
        assert text(journal, digest) == OUTCOMES[order]
    assert len(journal) == 1


def test_equal_times_are_settled_by_the_order_of_the_files(tmp_path):
    write(tmp_path / "made", (question_of("a", 0), Answer(OK, "first")))
    record = json.loads(next((tmp_path / "made").iterdir()).read_text())
    for name, value in (("b", "last"), ("a", "first")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**record, "text": value}) + "\n")
    assert text(Journal.load(tmp_path), record["key"]) == "last"


def test_one_image_in_two_places_is_one_answer(tmp_path):
    first = question_of("a", 0)
    write(tmp_path, (first, Answer(OK, "x")), (replace(first, place=KEYS.place("moved", 0, 1, "p")), Answer(OK, "x")))
    journal = Journal.load(tmp_path)
    assert len(journal) == 1 and journal.find(first.place) and journal.find(KEYS.place("moved", 0, 1, "p"))
    write(tmp_path, (replace(question_of("a", 1), place=""), Answer(OK, "no place")))
    assert journal.refresh() == 1 and len(journal) == 2 and text(journal, question_of("a", 1).key) == "no place"


@pytest.mark.parametrize("large", [1, 7, 1 << 16])
def test_sorted_and_recent_entries_are_all_found(tmp_path, monkeypatch, large):
    """Also after merging, and with digests that share their first half."""
    monkeypatch.setattr(journal_index, "LARGE", large)
    rng = random.Random(large)
    asked = [replace(question_of("a", n), key=f"{n // 3:016x}{rng.getrandbits(64):016x}") for n in range(60)]
    journal = Journal.load(tmp_path)
    for start_at in range(0, 60, 5):
        group = asked[start_at : start_at + 5]
        write(tmp_path, *((question, Answer(OK, question.image_id)) for question in group))
        assert journal.refresh() == 5 and len(journal) == start_at + 5
    copy = pickle.loads(pickle.dumps(journal))
    for known in (journal, copy, Journal.load(tmp_path)):
        for question in asked:
            assert text(known, question.key) == text(known, question.place) == question.image_id
        assert known.find("f" * 32) is None and known.find(f"{0:016x}{0:016x}") is None
    write(tmp_path, (question_of("b", 0), Answer(OK, "new")))
    assert copy.refresh() == 1 and len(copy) == 61 and len(journal) == 60


def test_more_segments_than_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr("g4i_hf.captioning.journal.reader.OPEN_FILES", 3)
    for number in range(10):
        write(tmp_path, (question_of("a", number), Answer(OK, str(number))))
    before = len(os.listdir("/proc/self/fd"))
    journal = Journal.load(tmp_path)
    for number in [*range(10), *reversed(range(10))]:
        assert text(journal, question_of("a", number).key) == str(number)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    journal.close()
    assert len(os.listdir("/proc/self/fd")) == before and text(journal, question_of("a", 4).key) == "4"


def test_progress_counts_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("g4i_hf.captioning.journal.reader.PROGRESS_BYTES", 1000)
    for _ in range(3):
        write(tmp_path, *((question_of("a", number), Answer(OK, "x" * 300)) for number in range(10)))
    seen, total = [], sum(path.stat().st_size for path in tmp_path.iterdir())
    Journal.load(tmp_path, progress=lambda done, of: seen.append((done, of)))
    done = [number for number, _ in seen]
    assert {of for _, of in seen} == {total} and done == sorted(done) and done[-1] == total and len(done) > 9


def test_a_refresh_that_is_interrupted_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("g4i_hf.captioning.journal.reader.PROGRESS_BYTES", 0)
    for number in range(3):
        write(tmp_path, (question_of("a", number), Answer(OK, "x")), (question_of("b", number), Answer(OK, "x")))

    def interrupt(done: int, total: int) -> None:
        if done > 0.6 * total:  # at the fourth record of six
            raise KeyboardInterrupt

    journal = Journal(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        journal.refresh(interrupt)
    assert len(journal) == 4
    journal.refresh()
    assert len(journal) == 6 and all(journal.find(question_of(name, 2).place) for name in "ab")


# --- Damage ----------------------------------------------------------------------------------------------------------


def test_a_torn_line_is_ignored_wherever_it_was_cut(tmp_path, caplog):
    path = write(tmp_path, *((question_of("a", number), Answer(OK, str(number))) for number in range(2)))
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in [*range(second, len(whole), 5), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        journal = Journal.load(tmp_path)
        assert len(journal) == 1 and text(journal, question_of("a", 0).key) == "0"
        path.write_bytes(whole)  # its writer had only not come to the end of the line
        assert journal.refresh() == 1 and text(journal, question_of("a", 1).key) == "1"
    zeros = b"\0" * (len(whole) - second - 1) + b"\n"
    path.write_bytes(whole[:second] + zeros)  # what another machine may see of a line that is on its way
    journal = Journal.load(tmp_path)
    path.write_bytes(whole)
    assert journal.refresh() == 1 and text(journal, question_of("a", 1).key) == "1"
    path.write_bytes(whole[: second + 50] + b"\n")  # an end of line, but no record
    journal = Journal.load(tmp_path)
    write(tmp_path, (question_of("a", 1), Answer(OK, "again")))
    assert journal.refresh() == 1 and text(journal, question_of("a", 1).key) == "again"
    assert not caplog.records


DAMAGES = {
    "zeros": lambda line: b"\0" * (len(line) - 1) + b"\n",
    "cut": lambda line: line[:60] + b"\n",
    "no JSON": lambda line: b"hello\n",
    "empty": lambda line: b"\n",
    "two in one": lambda line: line[:-1] + line,
    "no object": lambda line: b"[1, 2]\n",
    "no record": lambda line: b'{"key": "00", "place": "", "status": "ok", "time": 1}\n',
    "no time": lambda line: line.replace(b'"time": ', b'"time": NaN, "x": '),
    "no UTF-8": lambda line: b'{"\xff\xfe"}\n',
    "nested": lambda line: b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_costs_one_answer_and_is_told_of(tmp_path, caplog, damage):
    path = write(tmp_path, *((question_of("a", number), Answer(OK, str(number))) for number in range(9)))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = DAMAGES[damage](lines[3])
    path.write_bytes(b"".join(lines))
    journal = Journal.load(tmp_path)
    found = [journal.find(question_of("a", number).key) for number in range(9)]
    assert [number for number, entry in enumerate(found) if entry is None] == [3]
    assert all(text(journal, question_of("a", number).place) == str(number) for number in range(9) if number != 3)
    (message,) = [record.getMessage() for record in caplog.records]
    assert str(path) in message and message.endswith("line 4.")
    assert journal.refresh() == 0 and len(caplog.records) == 1


def test_another_record_is_never_taken_for_the_answer(tmp_path):
    path = write(tmp_path, *((question_of("a", number), Answer(OK, str(number))) for number in range(3)))
    journal = Journal.load(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(reversed(lines)))
    with pytest.raises(ValueError, match="byte 0.*Start again"):
        journal.find(question_of("a", 0).key).read()
    path.write_bytes(lines[0])
    with pytest.raises(ValueError, match="no longer there"):
        journal.find(question_of("a", 2).key).read()
