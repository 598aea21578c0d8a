"""From rows to questions, from answers to columns: nothing is asked twice or lands in another row; limits hold."""

import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from caption_doors import ROOT, answers_in
from datasets import Dataset, DatasetInfo, Features, Image, Value
from datasets.table import InMemoryTable
from PIL import Image as PILImage

from g4i_hf import columns
from g4i_hf.captioning.answers import OK, Answer
from g4i_hf.captioning.projection import Budget, project
from g4i_hf.captioning.prompts import Prompts
from g4i_hf.captioning.questions import Questions, sizes_and_times
from g4i_hf.captioning.runner import Asking, Share, _interrupted_once
from g4i_hf.captioning.stage import RAW, REASON, STATUS, answered_columns, given_columns, needs_another_try
from g4i_hf.captioning.store import AnswerStore, Keys
from g4i_hf.data.loading import open_images

PROVENANCE = {"captioner": "test", "model": "digest", "revision": "1"}


def content(image: dict) -> bytes:
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def text_of(image: dict, prompt: str) -> str:
    """What a captioner that looks at the bytes says."""
    return f"Picture {hashlib.blake2b(content(image), digest_size=8).hexdigest()} asked {prompt}"


class Digesting:
    """Describes an image by its bytes, so many questions at a time, and notes what it was asked."""

    def __init__(self, fails: dict[str, Answer] | None = None, stop_after: int = 1000, together: int = 1, **changed):
        self.asked: list[tuple[str, str]] = []
        self.fails, self.stop_after, self.together = fails or {}, stop_after, together
        self.provenance = PROVENANCE | changed

    def run(self, questions, deliver, allow):
        allowed = itertools.takewhile(lambda _: allow(), questions)
        while batch := list(itertools.islice(allowed, self.together)):
            if len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked += [(question.image_id, question.prompt) for question in batch]
            deliver([(question, self.answer(question)) for question in batch])

    def answer(self, question) -> Answer:
        if question.image_id in self.fails:
            return self.fails[question.image_id]
        if question.image["bytes"] is None:
            return Answer("undecodable", reason="no such file")
        return Answer(OK, text_of(question.image, question.prompt), finish_reason="stop")


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
    rows = {name: split[name][:] for name in ("image_id", "label")}
    images = [{"bytes": content(image), "path": None} for image in split["image"]]
    features = Features({"image_id": Value("string"), "label": Value("int64"), "image": Image(decode=False)})
    return Dataset.from_dict(rows | {"image": images}, features=features)


def questions_of(split: Dataset, templates=("Describe it.",), provenance=PROVENANCE) -> Questions:
    return Questions(split, "train", Prompts(templates, split.features, "train"), Keys(provenance))


def ask(split: Dataset, journal: Path, captioner=None, templates=("Describe it.",), **options) -> Digesting:
    captioner = captioner or Digesting()
    with AnswerStore(journal, options.get("share", Share()).rank) as store:
        Asking(captioner, [questions_of(split, templates, captioner.provenance)], store, **options).run()
    return captioner


def rows_of(split: Dataset, journal: Path, templates=("Describe it.",)) -> list[dict]:
    with AnswerStore(journal) as store:
        return answered_columns(questions_of(split, templates), store, True).to_list()


def assert_captions_are_of_their_images(split: Dataset, journal: Path) -> None:
    rows = rows_of(split, journal)
    assert [row["image_id"] for row in rows] == split["image_id"][:]
    for row, image in zip(rows, split["image"], strict=True):
        assert row[columns.CAPTION] == row[RAW] == text_of(image, "Describe it.") and row[STATUS] == OK


def answered_unopened(split: Dataset, journal: Path) -> int:
    """Questions whose answer is found without opening an image."""
    with AnswerStore(journal) as store:
        return sum(record is not None for row in questions_of(split).records(store) for record in row)


# --- Rows and their answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda split: split, in_a_table], ids=["files", "table"])
def test_every_row_has_the_caption_of_its_own_image_and_a_resume_asks_nothing(folder, tmp_path, form):
    split = form(opened(folder))
    assert len(ask(split, tmp_path / "journal").asked) == 12
    assert_captions_are_of_their_images(split, tmp_path / "journal")
    assert ask(split, tmp_path / "journal").asked == []
    assert answered_unopened(split, tmp_path / "journal") == 12


def test_a_changed_image_is_asked_again_and_a_moved_or_touched_one_is_not(folder, tmp_path):
    ask(opened(folder), tmp_path / "journal")
    PILImage.new("RGB", (9, 9), (0, 0, 255)).save(folder / "train" / "cat" / "3.png")
    (folder / "train" / "cat" / "5.png").rename(folder / "train" / "cat" / "5b.png")
    os.utime(folder / "train" / "cat" / "7.png", (1, 1))
    split = opened(folder)
    assert ask(split, tmp_path / "journal").asked == [("cat/3.png", "Describe it.")]
    assert_captions_are_of_their_images(split, tmp_path / "journal")
    assert answered_unopened(split, tmp_path / "journal") == 12, "their new places were noted"
    for path in (folder / "train").rglob("*.png"):
        os.utime(path, (2, 2))
    assert_captions_are_of_their_images(opened(folder), tmp_path / "journal")


def test_bytes_of_the_same_size_in_a_table_of_the_same_ids_are_asked_about_anew(folder, tmp_path):
    split = in_a_table(opened(folder))
    changed = split.map(
        lambda row: {"image": {"bytes": row["image"]["bytes"][:-1] + b"x", "path": None}}, features=split.features
    )
    ask(split, tmp_path / "journal")
    assert len(ask(changed, tmp_path / "journal").asked) == 12
    assert_captions_are_of_their_images(changed, tmp_path / "journal")


def test_another_prompt_or_model_reuses_nothing(folder, tmp_path):
    for captioner, templates in (({}, "Describe it."), ({}, "Describe it!"), ({"revision": "2"}, "Describe it.")):
        asked = ask(opened(folder), tmp_path / "journal", Digesting(**captioner), [templates]).asked
        assert len(asked) == 12, (captioner, templates)


@pytest.mark.parametrize("together", [1, 20])
def test_the_same_image_in_two_rows_is_asked_once_also_while_it_is_under_way(folder, tmp_path, together):
    (folder / "train" / "cat" / "copy.png").write_bytes((folder / "train" / "cat" / "1.png").read_bytes())
    split = opened(folder)
    assert len(split) == 13 and len(ask(split, tmp_path / "journal", Digesting(together=together)).asked) == 12
    assert_captions_are_of_their_images(split, tmp_path / "journal")


def test_several_prompts_give_lists_in_their_order(folder, tmp_path):
    split, templates = opened(folder), ("What is it?", "Describe the {label}.")
    assert len(ask(split, tmp_path / "journal", templates=templates).asked) == 24
    names = [split.features["label"].names[label].replace("_", " ") for label in split["label"]]
    rows = rows_of(split, tmp_path / "journal", templates)
    for row, image, name in zip(rows, split["image"], names, strict=True):
        assert row[columns.CAPTION] == [text_of(image, "What is it?"), text_of(image, f"Describe the {name}.")]
        assert row[STATUS] == [OK, OK]


def test_failures_end_nothing_and_are_asked_again_only_on_demand(folder, tmp_path):
    fails = {"cat/1.png": Answer("undecodable", reason="broken"), "cat/5.png": Answer(OK, " ")}
    fails["cat/3.png"] = Answer(OK, "I'm sorry, but I can't help with that.")
    split = opened(folder)
    (folder / "train" / "cat" / "7.png").rename(tmp_path / "gone.png")
    ask(split, tmp_path / "journal", Digesting(fails))
    found = {row["image_id"]: row for row in rows_of(split, tmp_path / "journal")}
    failed = {name: row[STATUS] for name, row in found.items() if row[STATUS] != OK}
    expected = {"cat/1.png": "undecodable", "cat/3.png": "refused", "cat/5.png": "empty", "cat/7.png": "undecodable"}
    assert failed == expected
    assert all(found[name][columns.CAPTION] is None and found[name][REASON] for name in failed)
    assert found["cat/3.png"][RAW].startswith("I'm sorry")
    assert {name for name, _ in ask(split, tmp_path / "journal").asked} <= {"cat/7.png"}
    (tmp_path / "gone.png").rename(folder / "train" / "cat" / "7.png")
    again = ask(split, tmp_path / "journal", ask_again=needs_another_try(True))
    assert {name for name, _ in again.asked} == set(failed)
    assert_captions_are_of_their_images(split, tmp_path / "journal")


def test_processes_share_the_rows_and_what_one_left_is_asked_by_whoever_comes_next(folder, tmp_path):
    split = opened(folder)
    with pytest.raises(KeyboardInterrupt):
        ask(split, tmp_path / "journal", Digesting(stop_after=2), share=Share(1, 2))
    first = ask(split, tmp_path / "journal", share=Share(0, 2))
    assert len(first.asked) == 6 and {row[STATUS] for row in rows_of(split, tmp_path / "journal")} == {OK, "missing"}
    rest = ask(split, tmp_path / "journal")  # alone: any number of processes may go on
    assert len(rest.asked) == 4 and not set(rest.asked) & set(first.asked)
    assert_captions_are_of_their_images(split, tmp_path / "journal")
    for number, processes in ((10, 8), (1, 8), (100, 16)):
        assert sum(Share(rank, processes).part_of(number) for rank in range(processes)) == number


def test_captions_that_exist_become_the_same_columns():
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
    assert sizes_and_times(split.with_format("arrow")[:]["image"]) == [(220_000, None)] * 10_000


# --- Other processes, and signals ------------------------------------------------------------------------------------

ASKING = """
import sys, time
from pathlib import Path
from test_caption_asking import Digesting, answered_unopened, ask, opened

class Slow(Digesting):
    def run(self, questions, deliver, allow):
        def slowly(pairs):
            deliver(pairs)
            print("answered", flush=True)
            time.sleep(0.2)
        super().run(questions, slowly, allow)

split, journal = opened(Path(sys.argv[1])), Path(sys.argv[2])
print(answered_unopened(split, journal), flush=True)
ask(split, journal, Slow())
"""


@pytest.mark.slow
def test_sigterm_keeps_what_was_answered_and_another_process_knows_the_table(folder, tmp_path):
    """The place of bytes in a table holds the fingerprint of the split, which has to be the same."""
    (tmp_path / "data").mkdir()
    in_a_table(opened(folder)).to_parquet(tmp_path / "data" / "train.parquet")
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    for known in (0, 4):
        process = subprocess.Popen(
            [sys.executable, "-c", ASKING, tmp_path / "data", tmp_path / "journal"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | path,
        )  # fmt: skip
        assert int(process.stdout.readline()) >= known
        for _ in range(4):
            assert process.stdout.readline() == "answered\n"
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert "KeyboardInterrupt" in errors and process.returncode != 0
    kept = answers_in(tmp_path / "journal")
    assert 8 <= kept < 12
    assert len(ask(opened(tmp_path / "data"), tmp_path / "journal").asked) == 12 - kept


def test_a_second_signal_is_ignored_while_answers_are_written():
    written = False
    with pytest.raises(KeyboardInterrupt), _interrupted_once():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)
            written = True
            raise
    assert written


# --- Limits and projection -------------------------------------------------------------------------------------------


def answer(prompt_tokens: int | None = 1000, completion_tokens: int | None = 100, **more) -> Answer:
    return Answer("ok", "A dog.", prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, **more)


@pytest.mark.parametrize("in_flight", [1, 10, 64])
def test_a_limit_of_the_cost_counts_what_is_in_flight(in_flight):
    """An answer costs 0.003 on average, give or take; `in_flight` requests are open at any time."""
    rng, open_requests = random.Random(in_flight), 0
    budget = Budget(max_cost=1.0, price_input=1.0, price_output=10.0)
    while True:
        while open_requests < in_flight and budget.allow():
            open_requests += 1
        if not open_requests:
            break
        budget.spent(answer(1000, rng.randint(150, 250)))
        open_requests -= 1
    assert 0.95 <= budget.cost <= 1.0 + 3 * 0.0003 * in_flight**0.5
    assert budget.reason.startswith("max_cost (1) is reached: ")


def test_repeated_requests_are_not_in_flight_for_ever():
    """Each question takes three requests, of which the last is answered: all of the budget is used."""
    budget, questions = Budget(max_cost=1.0, price_input=1.0, price_output=0.0), 0
    while budget.allow() and budget.allow() and budget.allow():
        budget.spent(answer(1000, 100, attempts=3))
        questions += 1
    assert 995 <= questions <= 1000


def test_a_cost_that_cannot_be_known_ends_the_run():
    budget = Budget(max_cost=1.0, price_input=1.0, price_output=1.0)
    budget.spent(Answer("timeout"))  # says nothing about the captioner
    assert budget.allow()
    budget.spent(answer(None, None))
    assert not budget.allow() and "does not say how many tokens" in budget.reason
    unlimited = Budget(max_requests=5)
    unlimited.spent(answer(None, None))
    assert unlimited.allow()


def test_projection_against_numbers_worked_out_by_hand():
    """4 answers in 8 s, two processes; 10,000 - 6 are left; a mean of 100 tokens written, so 0.003 an answer."""
    measured = [answer(completion_tokens=tokens) for tokens in (90, 110, 80, 120)]
    assert project(measured, 6, 10_000, seconds=8.0, processes=2, prices=(2.0, 10.0)) == [
        "4 answers were measured; 9,994 are still to come.",
        "Requests: 9,994",
        "Tokens read: 9,994,000",
        "Tokens written: 999,400",
        "Time: 2.8 hours, at the measured rate in every process",
        "Cost: 29.98",
    ]
    repeated = [answer(attempts=3), answer(), Answer("timeout", reason="no answer", attempts=8)]
    lines = project(repeated, 3, 103, 3.0, prices=(1.0, None))
    assert "Requests: 400" in lines and "Tokens read: 100,000" in lines and lines[-1].startswith("Cost: unknown")
    assert "Tokens: the captioner does not say." in project([answer(None, None)], 1, 100, 3.0)
