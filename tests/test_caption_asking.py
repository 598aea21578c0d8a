"""From rows to questions, from answers to columns: nothing is asked twice, nothing lands in another row."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetInfo, Features, Image, Value
from datasets.table import InMemoryTable
from PIL import Image as PILImage

from g4i_hf import columns
from g4i_hf.captioning.answers import OK, Answer
from g4i_hf.captioning.projection import Budget
from g4i_hf.captioning.prompts import Prompts
from g4i_hf.captioning.questions import Questions, facts_of
from g4i_hf.captioning.runner import Asking, Share, _interrupted_once
from g4i_hf.captioning.stage import RAW, REASON, STATUS, answered_columns, given_columns, needs_another_try
from g4i_hf.captioning.store import AnswerStore, Keys
from g4i_hf.data.images import image_paths
from g4i_hf.data.loading import open_images

PROVENANCE = {"captioner": "test", "model": "digest", "revision": "1"}


def content(image: dict) -> bytes:
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def text_of(image: dict, prompt: str) -> str:
    """What a captioner that looks at the bytes says."""
    return f"Picture {hashlib.blake2b(content(image), digest_size=8).hexdigest()} asked {prompt}"


class Digesting:
    """Describes an image by its bytes, and notes what it was asked."""

    provenance = PROVENANCE

    def __init__(self, fails: dict[str, Answer] | None = None, stop_after: int | None = None):
        self.asked: list[tuple[str, str]] = []
        self.fails, self.stop_after = fails or {}, stop_after

    def run(self, questions, deliver, allow):
        for question in questions:
            if not allow():
                return
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append((question.image_id, question.prompt))
            answer = self.fails.get(question.image_id)
            if answer is None:
                try:
                    answer = Answer(OK, text_of(question.image, question.prompt), finish_reason="stop")
                except (OSError, TypeError):
                    answer = Answer("undecodable", reason="no such file")
            deliver([(question, answer)])


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures as files, in two classes."""
    for number in range(12):
        place = tmp_path / "pictures" / "train" / ("cat" if number % 2 else "dog_house")
        place.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4 + number, 4), (number, 0, 0)).save(place / f"{number}.png")
    return tmp_path / "pictures"


def opened(folder: Path) -> Dataset:
    return open_images(str(folder))["train"]


def in_a_table(split: Dataset) -> Dataset:
    """The same rows with the images' bytes in the table."""
    features = Features({"image": Image(decode=False), "image_id": Value("string"), "label": Value("int64")})
    images = [{"bytes": content(image), "path": None} for image in split["image"]]
    return Dataset.from_dict(
        {"image": images, "image_id": split["image_id"][:], "label": split["label"][:]}, features=features
    )


def questions_of(split: Dataset, *templates: str) -> dict[str, Questions]:
    prompts = Prompts(list(templates or ["Describe it."]), split.features, "train")
    return {"train": Questions(split, "train", prompts, Keys(PROVENANCE))}


def ask(split: Dataset, journal: Path, captioner=None, templates=(), **options) -> tuple[Digesting, Asking]:
    captioner = captioner or Digesting()
    share = options.get("share", Share())
    with AnswerStore(journal, share.rank) as store:
        asking = Asking(captioner, questions_of(split, *templates).values(), store, **options)
        asking.run()
    return captioner, asking


def rows_of(split: Dataset, journal: Path, templates=()) -> list[dict]:
    questions = questions_of(split, *templates)["train"]
    with AnswerStore(journal) as store:
        return answered_columns(questions, store, True).to_list()


def answered(split: Dataset, journal: Path) -> int:
    """Questions whose answer is found without opening an image."""
    with AnswerStore(journal) as store:
        return sum(record is not None for row in questions_of(split)["train"].records(store) for record in row)


def arrow_of(split: Dataset) -> pa.ChunkedArray:
    return split.select_columns(["image"]).with_format("arrow")[:]["image"]


def test_facts_are_those_of_files_and_of_bytes(folder, monkeypatch):
    split = opened(folder)
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("opened"))
    facts = facts_of(arrow_of(split))
    monkeypatch.undo()
    found = [os.stat(image["path"]) for image in split["image"]]
    assert facts == [(file.st_size, file.st_mtime_ns) for file in found]
    assert facts_of(arrow_of(in_a_table(split))) == [(file.st_size, None) for file in found]
    assert facts_of(arrow_of(split.select([5, 3]))) == [facts[5], facts[3]]


@pytest.mark.parametrize("form", [lambda split: split, in_a_table])
def test_every_row_has_the_caption_of_its_own_image(folder, tmp_path, form):
    split = form(opened(folder))
    captioner, asking = ask(split, tmp_path / "journal")
    assert len(captioner.asked) == 12 and asking.outcome.asked == {OK: 12}
    rows = rows_of(split, tmp_path / "journal")
    assert [row["image_id"] for row in rows] == split["image_id"][:]
    for row, image in zip(rows, split["image"], strict=True):
        assert row[columns.CAPTION] == row[RAW] == text_of(image, "Describe it.") and row[STATUS] == OK


@pytest.mark.parametrize("form", [lambda split: split, in_a_table])
def test_a_resume_opens_no_answered_image_and_asks_nothing(folder, tmp_path, form, monkeypatch):
    split = form(opened(folder))
    ask(split, tmp_path / "journal")
    monkeypatch.setattr("g4i_hf.captioning.questions.content_of", lambda image: pytest.fail("opened"))
    captioner, asking = ask(split, tmp_path / "journal")
    assert captioner.asked == [] and asking.outcome.known == 12
    assert len(rows_of(split, tmp_path / "journal")) == 12


def test_an_interrupted_run_goes_on_where_it_stopped(folder, tmp_path):
    split = opened(folder)
    with pytest.raises(KeyboardInterrupt):
        ask(split, tmp_path / "journal", Digesting(stop_after=5))
    captioner, _ = ask(split, tmp_path / "journal")
    assert len(captioner.asked) == 7
    assert [row[STATUS] for row in rows_of(split, tmp_path / "journal")] == [OK] * 12


def test_a_changed_image_is_asked_again_and_a_moved_one_is_not(folder, tmp_path):
    ask(opened(folder), tmp_path / "journal")
    PILImage.new("RGB", (9, 9), (0, 0, 255)).save(folder / "train" / "cat" / "3.png")
    (folder / "train" / "cat" / "5.png").rename(folder / "train" / "cat" / "5b.png")
    split = opened(folder)
    captioner, _ = ask(split, tmp_path / "journal")
    assert captioner.asked == [("cat/3.png", "Describe it.")]
    for row, image in zip(rows_of(split, tmp_path / "journal"), split["image"], strict=True):
        assert row[columns.CAPTION] == text_of(image, "Describe it.")
    # Its new place was noted, so that it is not even read next time
    assert answered(split, tmp_path / "journal") == 12


def test_another_prompt_or_model_reuses_nothing(folder, tmp_path):
    split = opened(folder)
    ask(split, tmp_path / "journal")
    captioner, _ = ask(split, tmp_path / "journal", templates=["Describe it!"])
    assert len(captioner.asked) == 12
    other = Digesting()
    other.provenance = PROVENANCE | {"revision": "2"}
    keys = Keys(other.provenance)
    questions = Questions(split, "train", Prompts(["Describe it."], split.features, "train"), keys)
    with AnswerStore(tmp_path / "journal") as store:
        Asking(other, [questions], store).run()
    assert len(other.asked) == 12


def test_the_same_image_in_two_rows_is_asked_once(folder, tmp_path):
    (folder / "train" / "cat" / "copy.png").write_bytes((folder / "train" / "cat" / "1.png").read_bytes())
    split = opened(folder)
    captioner, _ = ask(split, tmp_path / "journal")
    assert len(split) == 13 and len(captioner.asked) == 12
    captions = {row["image_id"]: row[columns.CAPTION] for row in rows_of(split, tmp_path / "journal")}
    assert captions["cat/copy.png"] == captions["cat/1.png"] is not None


def test_several_prompts_give_lists_in_their_order(folder, tmp_path):
    split, templates = opened(folder), ("What is it?", "Describe the {label}.")
    captioner, _ = ask(split, tmp_path / "journal", templates=templates)
    assert len(captioner.asked) == 24
    names = split.features["label"].names
    for row, image, label in zip(
        rows_of(split, tmp_path / "journal", templates), split["image"], split["label"], strict=True
    ):
        name = names[label].replace("_", " ")
        assert row[columns.CAPTION] == [text_of(image, "What is it?"), text_of(image, f"Describe the {name}.")]
        assert row[STATUS] == [OK, OK]


def test_failures_end_nothing_and_are_asked_again_only_on_demand(folder, tmp_path):
    fails = {
        "cat/1.png": Answer("undecodable", reason="broken"),
        "cat/3.png": Answer(OK, "I'm sorry, but I can't help with that."),
        "cat/5.png": Answer(OK, " "),
    }
    split = opened(folder)
    ask(split, tmp_path / "journal", Digesting(fails))
    found = {row["image_id"]: row for row in rows_of(split, tmp_path / "journal")}
    assert [found[name][STATUS] for name in fails] == ["undecodable", "refused", "empty"]
    assert all(found[name][columns.CAPTION] is None and found[name][REASON] for name in fails)
    assert found["cat/3.png"][RAW].startswith("I'm sorry")
    assert sum(row[STATUS] == OK for row in found.values()) == 9
    again, _ = ask(split, tmp_path / "journal")
    assert again.asked == []
    retry, _ = ask(split, tmp_path / "journal", ask_again=needs_another_try(True))
    assert {name for name, _ in retry.asked} == set(fails)
    assert {row[STATUS] for row in rows_of(split, tmp_path / "journal")} == {OK}


def test_a_file_that_is_gone_is_a_row_without_caption(folder, tmp_path):
    split = opened(folder)
    (folder / "train" / "cat" / "7.png").unlink()
    captioner, _ = ask(split, tmp_path / "journal")
    found = {row["image_id"]: row[STATUS] for row in rows_of(split, tmp_path / "journal")}
    assert found.pop("cat/7.png") == "undecodable" and set(found.values()) == {OK}


def test_an_image_that_cannot_be_read_for_a_moment_gets_no_caption_of_another(folder, tmp_path, monkeypatch):
    from g4i_hf.captioning import questions

    def fails(image):
        raise OSError(5, "Input/output error")

    split = opened(folder)
    monkeypatch.setattr(questions, "content_of", fails)
    captioner, _ = ask(split.select([0]), tmp_path / "journal")
    monkeypatch.undo()
    [row] = rows_of(split.select([0]), tmp_path / "journal")
    assert row[STATUS] == "undecodable" and len(captioner.asked) == 1
    ask(split, tmp_path / "journal", ask_again=needs_another_try(True))
    for row, image in zip(rows_of(split, tmp_path / "journal"), split["image"], strict=True):
        assert row[columns.CAPTION] == text_of(image, "Describe it.")


def test_a_budget_stops_cleanly(folder, tmp_path):
    split = opened(folder)
    captioner, asking = ask(split, tmp_path / "journal", budget=Budget(max_requests=5))
    assert len(captioner.asked) == 5 == asking.budget.requests and "5" in asking.budget.reason
    statuses = [row[STATUS] for row in rows_of(split, tmp_path / "journal")]
    assert sorted(statuses) == ["missing"] * 7 + [OK] * 5
    rest, _ = ask(split, tmp_path / "journal")
    assert len(rest.asked) == 7


def test_shares_are_disjoint_and_complete_and_read_together(folder, tmp_path):
    split = opened(folder)
    second, _ = ask(split, tmp_path / "journal", share=Share(1, 2))
    first, _ = ask(split, tmp_path / "journal", share=Share(0, 2))
    assert len(first.asked) == len(second.asked) == 6 and not set(first.asked) & set(second.asked)
    assert {row[STATUS] for row in rows_of(split, tmp_path / "journal")} == {OK}


def test_what_a_lost_process_left_is_asked_by_whoever_comes_next(folder, tmp_path):
    split = opened(folder)
    with pytest.raises(KeyboardInterrupt):
        ask(split, tmp_path / "journal", Digesting(stop_after=2), share=Share(1, 2))
    ask(split, tmp_path / "journal", share=Share(0, 2))
    rest, _ = ask(split, tmp_path / "journal")  # alone: any number of processes may go on
    assert len(rest.asked) == 4
    assert {row[STATUS] for row in rows_of(split, tmp_path / "journal")} == {OK}


def test_a_number_is_shared_whole():
    for number, processes in ((10, 8), (1, 8), (100, 16)):
        assert sum(Share(rank, processes).part_of(number) for rank in range(processes)) == number


def test_given_captions_become_the_same_columns():
    split = Dataset.from_dict({"image_id": ["a", "b", "c"]})
    found = given_columns(split, ["The image shows a dog.", None, "I'm sorry, I can't see it."], False, True)
    assert found["caption"][:] == ["A dog.", None, None]
    assert found[STATUS][:] == [OK, "missing", "refused"] and found[RAW][0] == "The image shows a dog."
    lists = given_columns(split, [["a dog", "two dogs"], None, []], True, True)
    assert lists["caption"][:] == [["a dog", "two dogs"], [], []]


def test_tables_of_large_images_are_not_copied():
    """Ten thousand rows of 220 KB would not even fit into one array of bytes."""
    chunk = pa.array([{"bytes": b"x" * 220_000, "path": "a.png"}] * 1000)
    features = Features({"image": Image(decode=False)})
    table = pa.table({"image": pa.chunked_array([chunk] * 10)}).cast(features.arrow_schema)
    split = Dataset(InMemoryTable(table), info=DatasetInfo(features=features), fingerprint="large")
    assert facts_of(arrow_of(split)) == [(220_000, None)] * 10_000
    assert [*image_paths(split)] == [("a.png", True)] * 10_000


@pytest.mark.slow
def test_a_resume_in_another_process_knows_the_table(folder, tmp_path):
    """The place of bytes in a table holds the fingerprint of the split, which has to be the same."""
    (tmp_path / "data").mkdir()
    in_a_table(opened(folder)).to_parquet(tmp_path / "data" / "train.parquet")
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from g4i_hf.data import open_images
from test_caption_asking import answered, ask
split, journal = open_images({str(tmp_path / "data")!r})["train"], Path({str(tmp_path / "journal")!r})
print(answered(split, journal))
ask(split, journal)
"""
    for known in (0, 12):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == str(known), done.stderr[-2000:]


def test_an_interruption_while_answers_are_written_loses_none(folder, tmp_path, monkeypatch):
    put, interrupted = AnswerStore.put, []

    def interrupt_once(self, answers, places=()):
        if answers and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        put(self, answers, places)

    monkeypatch.setattr(AnswerStore, "put", interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        ask(opened(folder), tmp_path / "journal")
    assert answered(opened(folder), tmp_path / "journal") == 1


def test_a_file_that_was_touched_after_it_was_described_keeps_its_caption(folder, tmp_path):
    split = opened(folder)
    ask(split, tmp_path / "journal")
    for path in (folder / "train").rglob("*.png"):
        os.utime(path, (1, 1))
    assert [row[STATUS] for row in rows_of(opened(folder), tmp_path / "journal")] == [OK] * 12


def test_a_second_signal_is_ignored():
    written = False
    with pytest.raises(KeyboardInterrupt), _interrupted_once():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)  # while answers are written down
            written = True
            raise
    assert written


@pytest.mark.slow
def test_sigterm_keeps_what_was_answered(folder, tmp_path):
    """A real process, terminated in the middle."""
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_caption_asking import Digesting, ask, opened

class Slow(Digesting):
    def run(self, questions, deliver, allow):
        def slowly(pairs):
            deliver(pairs)
            print("answered", flush=True)
            time.sleep(0.2)
        super().run(questions, slowly, allow)

ask(opened(Path({str(folder)!r})), Path({str(tmp_path / "journal")!r}), Slow())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(4):
        assert process.stdout.readline() == "answered\n"
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors and process.returncode != 0
    with AnswerStore(tmp_path / "journal") as store:
        kept = len(store)
    assert 4 <= kept < 12
    rest, _ = ask(opened(folder), tmp_path / "journal")
    assert len(rest.asked) == 12 - kept
