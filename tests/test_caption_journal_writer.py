"""An answer counts once it is on the disk; kills, full disks and other processes take nothing away."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_caption_journal import text, write
from workers.journal_writer import question_of, text_of

from g4i_hf.captioning.answers import OK, Answer
from g4i_hf.captioning.journal.reader import Journal, JournalWriter

WORKER = Path(__file__).parent / "workers" / "journal_writer.py"
SEED = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10_000)))


def start(folder: Path, name: str, count: int, characters: int, *ending: str) -> subprocess.Popen:
    command = [sys.executable, str(WORKER), str(folder), name, str(count), str(characters), *ending]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_an_answer_counts_once_it_is_on_the_disk(tmp_path, monkeypatch):
    """At the call, its line lies below what was last forced to the disk, and so does the folder's entry."""
    forced, allowed, real = {}, threading.Event(), os.fsync

    def fsync(descriptor: int) -> None:
        allowed.wait(10)
        real(descriptor)
        forced[os.readlink(f"/proc/self/fd/{descriptor}")] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", fsync)
    writer, done = JournalWriter(tmp_path / "new" / "journal"), []

    def durable(number: int) -> None:
        content = writer.path.read_bytes()[: forced[str(writer.path)]]
        assert f'"text": "{number}."'.encode() in content
        assert str(tmp_path / "new" / "journal") in forced and str(tmp_path / "new") in forced
        done.append(number)

    began = time.monotonic()
    for number in range(20):
        writer.append(question_of("a", number), Answer(OK, f"{number}."), lambda number=number: durable(number))
    time.sleep(0.1)
    assert not done and time.monotonic() - began < 5  # append has not waited for the disk, and nothing counts before
    assert writer.path.read_bytes().count(b"\n") == 20  # but every line is written: a kill takes none
    allowed.set()
    writer.flush()
    assert done == list(range(20))
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append(question_of("a", 0), Answer(OK, ""))


def test_answers_that_come_together_share_one_wait(tmp_path, monkeypatch):
    waits, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (waits.append(1), time.sleep(0.05), real(descriptor)))
    with JournalWriter(tmp_path) as writer:
        for number in range(500):
            writer.append(question_of("a", number), Answer(OK, "x"))
    assert len(waits) < 20 and len(Journal.load(tmp_path)) == 500


def test_a_slow_disk_holds_up_the_answers_instead_of_filling_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("g4i_hf.captioning.journal.writer.MAX_QUEUED_BYTES", 100_000)
    real, most = os.fsync, 0
    monkeypatch.setattr(os, "fsync", lambda descriptor: (time.sleep(0.02), real(descriptor)))
    with JournalWriter(tmp_path) as writer:
        for number in range(100):
            writer.append(question_of("a", number), Answer(OK, "x" * 10_000))
            most = max(most, writer._queued_bytes)
    assert most < 120_000 and len(Journal.load(tmp_path)) == 100


def test_two_processes_write_while_a_third_reads(tmp_path):
    writers = [start(tmp_path, name, 1500, 400) for name in ("a", "b")]
    journal, rounds = Journal.load(tmp_path), 0
    while any(writer.poll() is None for writer in writers):
        rounds += journal.refresh() > 0
        for name in ("a", "b"):
            entry = journal.find(question_of(name, 7).key)
            assert entry is None or entry.read()["text"] == text_of(name, 7, 400)
    for writer in writers:
        out, error = writer.communicate()
        assert out.split() == [b"%d" % number for number in range(1500)] and not error
    journal.refresh()
    assert len(journal) == 3000 and len(list(tmp_path.iterdir())) == 2 and rounds > 1
    for name in ("a", "b"):
        for number in range(1500):
            question = question_of(name, number)
            assert text(journal, question.key) == text_of(name, number, 400) == text(journal, question.place)


def test_killed_at_any_moment_nothing_durable_is_lost(tmp_path):
    print(f"KILL_SEED={SEED}")  # gives the same moments again, as far as two runs are alike
    rng, torn = random.Random(SEED), 0
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        characters, ending = ((200_000, ["pieces"]), (200_000, []), (200, []))[attempt % 3]
        writer = start(folder, "a", 1_000_000, characters, *ending)
        writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.2))
        (segment,) = folder.iterdir()
        while ending and segment.read_bytes().endswith(b"\n"):  # it waits for the disk: let it write on
            time.sleep(0.001)
        writer.send_signal(signal.SIGKILL)
        said = [0, *map(int, writer.communicate()[0].split())]
        assert writer.returncode == -signal.SIGKILL
        journal = Journal.load(folder)
        torn += not segment.read_bytes().endswith(b"\n")
        for number in said:
            assert text(journal, question_of("a", number).key) == text_of("a", number, characters), number
        write(folder, (question_of("b", 0), Answer(OK, "later")))  # is not harmed by what was left
        assert journal.refresh() == 1 and text(journal, question_of("b", 0).place) == "later"
        assert len(Journal.load(folder)) == len(journal) >= len(said) + 1
    assert torn, "no kill has found a line half written"


def test_a_full_disk_stops_the_writer_and_loses_nothing(tmp_path):
    """RLIMIT_FSIZE: the kernel writes a part and then refuses, as with a full disk."""
    writer = start(tmp_path, "a", 100_000, 1000, "limit", "100000")
    out, error = writer.communicate(timeout=60)
    assert writer.returncode == 0, error
    said = list(map(int, out.split()))
    messages = error.decode().splitlines()
    assert len(messages) == 3  # of append, flush and close
    for message in messages:
        assert message.startswith("OSError [Errno 27] The journal cannot be written: File too large")
        assert str(tmp_path) in message and "Make room" in message and f"The {len(said):,} answers" in message
    (segment,) = tmp_path.iterdir()
    assert segment.stat().st_size == 100_000 and not segment.read_bytes().endswith(b"\n")
    journal = Journal.load(tmp_path)
    assert all(text(journal, question_of("a", number).key) == text_of("a", number, 1000) for number in said)
    assert len(said) <= len(journal) < 100
    write(tmp_path, (question_of("b", 0), Answer(OK, "later")))
    assert journal.refresh() == 1 and text(journal, question_of("b", 0).key) == "later"


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_after_an_error_nothing_counts_as_done(tmp_path, monkeypatch, failing):
    real, broken, done = getattr(os, failing), threading.Event(), []

    def fail(*args):
        if broken.is_set():
            raise OSError(5, "Input/output error")
        return real(*args)

    monkeypatch.setattr(os, failing, fail)
    writer = JournalWriter(tmp_path)
    writer.append(question_of("a", 0), Answer(OK, "x"), lambda: done.append(0))
    writer.flush()
    broken.set()
    writer.append(question_of("a", 1), Answer(OK, "y"), lambda: done.append(1))
    with pytest.raises(OSError, match="Input/output error.*The 1 answers before that are kept"):
        writer.flush()
    broken.clear()  # a disk that works again does not bring back what it refused
    for _ in range(2):
        with pytest.raises(OSError, match="start the same command again") as raised:
            writer.append(question_of("a", 2), Answer(OK, "z"), lambda: done.append(2))
        assert raised.value.errno == 5
    with pytest.raises(OSError, match="cannot be written"):
        writer.close()
    writer.close()
    assert done == [0] and text(Journal.load(tmp_path), question_of("a", 0).key) == "x"


def test_an_error_of_the_caller_is_not_hidden_by_that_of_the_disk(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(KeyboardInterrupt), JournalWriter(tmp_path) as writer:
        writer.append(question_of("a", 0), Answer(OK, "x"))
        raise KeyboardInterrupt
    assert "No space left on device" in caplog.text


def test_an_error_in_on_durable_reaches_the_caller(tmp_path):
    writer = JournalWriter(tmp_path)
    writer.append(question_of("a", 0), Answer(OK, "x"), lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        writer.flush()
    with pytest.raises(RuntimeError, match="has stopped"):
        writer.close()


def test_on_durable_may_append_but_not_wait(tmp_path):
    writer, errors = JournalWriter(tmp_path), []

    def durable():
        writer.append(question_of("a", 1), Answer(OK, "y"))
        try:
            writer.flush()
        except RuntimeError as error:
            errors.append(str(error))

    writer.append(question_of("a", 0), Answer(OK, "x"), durable)
    writer.flush()
    writer.close()
    assert len(Journal.load(tmp_path)) == 2 and "wait for itself" in errors[0]


def test_a_program_that_forgets_to_close_ends_and_keeps_its_answers(tmp_path):
    writer = start(tmp_path, "a", 2000, 500, "forget")
    _, error = writer.communicate(timeout=60)
    assert writer.returncode == 0 and not error
    assert len(Journal.load(tmp_path)) == 2000


def test_a_forked_process_needs_its_own_writer(tmp_path):
    writer = JournalWriter(tmp_path)
    writer.append(question_of("a", 0), Answer(OK, "x"))
    child = os.fork()
    if child == 0:
        try:
            writer.append(question_of("a", 1), Answer(OK, "y"))
        except RuntimeError as error:
            writer.close()
            os._exit(0 if "each process" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    writer.close()
    assert len(Journal.load(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_told_of_before_anything_is_asked(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file. Give another journal_dir"):
        JournalWriter(tmp_path / "file" / "journal")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(PermissionError, match="no permission"):
        JournalWriter(tmp_path / "journal")
