"""From rows to questions, from answers to columns: nothing is asked twice or lands in another row; limits hold."""

import hashlib
import itertools
import os
import random
from pathlib import Path

import make
import pytest
from caption_doors import asking, caption, draw_numbers
from datasets import Dataset
from PIL import Image as PILImage

from g4i_hf import columns
from g4i_hf.captioning.answers import OK, Answer, AnswerStore, Captioner, Keys
from g4i_hf.captioning.questions import Prompts, Questions
from g4i_hf.captioning.runner import Asking, Budget, Share
from g4i_hf.captioning.stage import RAW, STATUS, answered_columns
from g4i_hf.data.images import content_of
from g4i_hf.data.loading import open_images


def text_of(image: dict) -> str:
    return f"Picture {hashlib.blake2b(content_of(image), digest_size=8).hexdigest()}"


class Digesting(Captioner):
    """Describes an image by its bytes, so many questions at a time, and notes what it was asked."""

    provenance = {"captioner": "test", "model": "digest", "revision": "1"}

    def __init__(self, stop_after: int = 1000, together: int = 1):
        self.asked: list[str] = []
        self.stop_after, self.together = stop_after, together

    def run(self, questions, deliver, allow):
        allowed = itertools.takewhile(lambda _: allow(), questions)
        while batch := list(itertools.islice(allowed, self.together)):
            if len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked += [question.image_id for question in batch]
            deliver([(question, Answer(OK, text_of(question.image), finish_reason="stop")) for question in batch])


@pytest.fixture
def folder(tmp_path) -> Path:
    return make.folder(tmp_path / "pictures", [f"train/{('dog', 'cat')[n % 2]}/{n}.png" for n in range(12)])


@pytest.fixture
def journal(tmp_path) -> Path:
    return tmp_path / "journal"


def opened(folder: Path) -> Dataset:
    return open_images(str(folder))["train"]


def questions_of(split: Dataset) -> Questions:
    return Questions(split, "train", Prompts(["plain"], split.features, "train"), Keys(Digesting.provenance))


def ask(split: Dataset, journal: Path, captioner=None, share: Share = Share()) -> Digesting:  # noqa: B008
    captioner = captioner or Digesting()
    with AnswerStore(journal, share.rank) as store:
        Asking(captioner, [questions_of(split)], store, share=share).run()
    return captioner


def rows_of(split: Dataset, journal: Path) -> list[dict]:
    with AnswerStore(journal) as store:
        return answered_columns(questions_of(split), store).to_list()


def assert_captions_are_of_their_images(split: Dataset, journal: Path) -> None:
    rows = rows_of(split, journal)
    assert [row["image_id"] for row in rows] == split["image_id"][:]
    for row, image in zip(rows, split["image"], strict=True):
        assert row[columns.CAPTION] == row[RAW] == [text_of(image)] and row[STATUS] == [OK]


def test_a_changed_image_is_asked_again_and_a_moved_or_touched_one_is_not(folder, journal):
    assert len(ask(opened(folder), journal).asked) == 12
    assert ask(opened(folder), journal).asked == []
    PILImage.new("RGB", (9, 9), (0, 0, 255)).save(folder / "train" / "cat" / "3.png")
    (folder / "train" / "cat" / "5.png").rename(folder / "train" / "cat" / "5b.png")
    os.utime(folder / "train" / "cat" / "7.png", (1, 1))
    split = opened(folder)
    assert ask(split, journal).asked == ["cat/3.png"]
    assert_captions_are_of_their_images(split, journal)
    with AnswerStore(journal) as store:  # which finds answers without opening an image
        found = [answer for _, answers in questions_of(split).answers(store) for answer in answers]
    assert len(found) == 12 and None not in found, "their new places were noted"


def test_images_of_one_size_and_time_that_change_places_take_their_captions_along(folder, journal):
    """As those of an archive, which have the time of the archive."""
    places = [folder / "train" / "cat" / name for name in ("one.bmp", "two.bmp", "three.bmp")]
    for number, place in enumerate(places[:2]):
        PILImage.new("RGB", (9, 9), (0, number, 255)).save(place)
        os.utime(place, (1, 1))
    ask(opened(folder), journal)
    for old, new in ((0, 2), (1, 0), (2, 1)):
        places[old].rename(places[new])
    assert ask(opened(folder), journal).asked == []
    assert_captions_are_of_their_images(opened(folder), journal)


def test_bytes_of_the_same_size_in_a_table_of_the_same_ids_are_asked_about_anew(journal):
    split = make.rows(12)
    changed = make.rows(12, image=[image | {"bytes": image["bytes"][:-1] + b"x"} for image in split["image"]])
    assert len(ask(split, journal).asked) == len(ask(changed, journal).asked) == 12
    assert_captions_are_of_their_images(changed, journal)


@pytest.mark.parametrize("together", [1, 20])
def test_the_same_image_in_two_rows_is_asked_once_also_while_it_is_under_way(folder, journal, together):
    (folder / "train" / "cat" / "copy.png").write_bytes((folder / "train" / "cat" / "1.png").read_bytes())
    split = opened(folder)
    assert len(split) == 13 and len(ask(split, journal, Digesting(together=together)).asked) == 12
    assert_captions_are_of_their_images(split, journal)


def test_processes_share_the_rows_and_what_one_left_is_asked_by_whoever_comes_next(folder, journal):
    split = opened(folder)
    with pytest.raises(KeyboardInterrupt):
        ask(split, journal, Digesting(stop_after=2), share=Share(1, 2))
    first = ask(split, journal, share=Share(0, 2))
    assert len(first.asked) == 6 and ["missing"] in [row[STATUS] for row in rows_of(split, journal)]
    rest = ask(split, journal)  # alone: any number of processes may go on
    assert len(rest.asked) == 4 and not set(rest.asked) & set(first.asked)
    assert_captions_are_of_their_images(split, journal)


def test_an_answer_is_kept_though_its_writing_is_interrupted(folder, journal, monkeypatch):
    """It is paid for."""
    split, put, interrupts = opened(folder), AnswerStore.put, iter([KeyboardInterrupt])

    def interrupted(store: AnswerStore, *args) -> None:
        for interrupt in interrupts:
            raise interrupt
        put(store, *args)

    monkeypatch.setattr(AnswerStore, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(split, journal)
    assert len(ask(split, journal).asked) == 11


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
        budget.spent(Answer(OK, "A dog.", prompt_tokens=1000, completion_tokens=rng.randint(150, 250)))
        open_requests -= 1
    assert 0.95 <= budget.cost <= 1.0 + 3 * 0.0003 * in_flight**0.5
    assert budget.reason.startswith("max_cost (1) is reached: ")


def test_a_cost_that_cannot_be_known_ends_the_run():
    budget = Budget(max_cost=1.0, price_input=1.0, price_output=1.0)
    budget.spent(Answer("timeout"))  # says nothing about the captioner
    assert budget.allow()
    budget.spent(Answer(OK, "A dog."))
    assert not budget.allow() and "max_cost (1) cannot be kept" in budget.reason


def test_training_splits_alone_are_captioned_unless_others_are_named(serve, tmp_path):
    """Images of the test split cost no request, and stay on this machine."""
    pictures = draw_numbers(tmp_path / "pictures", 5)
    (pictures / "test").mkdir()
    (pictures / "train" / "class0").rename(pictures / "test" / "class0")
    server = serve()
    caption(tmp_path, *asking(server))
    assert server.stats()["requests"] == 3
    caption(tmp_path, *asking(server, "--captions_dir", "all", "--caption_splits", "train", "test"))
    assert server.stats()["requests"] == 3 + 5
