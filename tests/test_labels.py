"""`labels.jsonl`: what a person said of an image counts, for as long as it is that image."""

import json
import logging
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from drawings import draw_folder

from g4i_hf import load_images
from g4i_hf.data.labels import answers_to, line_of, read_answers
from g4i_hf.data.loading import load_data, load_reviewed
from g4i_hf.data.record import content_digest
from g4i_hf.options import DataArguments


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Circles are 0, 3, 6, 9, crosses 1, 4, 7, 10, squares the others; `test` has 12 to 17."""
    return draw_folder(tmp_path / "pictures", captions=False, train=12, test=6)


def answer(folder: Path, name: str, label: str | None, pick: str = "manual", **more) -> None:
    digest = more.pop("digest", None) or content_digest((folder / name).read_bytes())
    with open(folder / "labels.jsonl", "a", encoding="utf-8") as file:
        file.write(line_of(name, "file_name", digest, pick, label, **more))


def labels(folder: Path, split: str = "train") -> dict[str, str | None]:
    """By number of the drawing."""
    rows = load_images(folder)[split]
    names = rows.features["label"].names
    of_rows = zip(rows["image_id"], rows["label"], strict=True)
    return {name.split("/")[1].split(".")[0]: None if label is None else names[label] for name, label in of_rows}


def test_the_last_line_of_an_image_is_its_label_in_every_split(pictures, caplog):
    caplog.set_level(logging.INFO)
    answer(pictures, "train/circle/0.png", "cross")
    answer(pictures, "train/circle/0.png", "square", "wrong")
    answer(pictures, "train/circle/3.png", "circle", "next")
    answer(pictures, "train/cross/1.png", "square")
    answer(pictures, "train/cross/1.png", None)
    answer(pictures, "test/circle/12.png", "cross")
    found = labels(pictures)
    assert (found["0"], found["3"], found["1"], len(found)) == ("square", "circle", "cross", 12)
    assert labels(pictures, "test")["12"] == "cross"
    assert "labels of test: 1 changed; labels of train: 1 changed, 1 confirmed." in caplog.text
    assert "review" not in load_data(DataArguments(str(pictures)))["train"].column_names


def test_names_as_other_systems_write_them(pictures):
    """With backslashes, or `é` as one character where the file has two."""
    (pictures / "train" / "circle" / "0.png").rename(pictures / "train" / "circle" / "cafe\u0301.png")
    lines = [{"file_name": name, "label": "square"} for name in ("train\\circle\\café.png", "train\\cross\\1.png")]
    (pictures / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = labels(pictures)
    assert found["1"] == "square" and list(found.values()).count("square") == 4 + 2


def test_gold_images_and_those_of_no_class_are_not_trained_on(pictures, caplog):
    caplog.set_level(logging.INFO)
    shutil.copy(pictures / "train/circle/0.png", pictures / "train/cross/copy.png")
    answer(pictures, "train/circle/0.png", "circle", "gold")
    answer(pictures, "train/cross/1.png", "square", "gold")
    answer(pictures, "train/square/2.png", None, "none", none=True)
    answer(pictures, "train/square/5.png", None, "gold", none=True)
    assert set(labels(pictures)) == {"3", "4", "6", "7", "8", "9", "10", "11"}
    assert labels(pictures, "gold") == {"0": "circle", "1": "square", "5": None}
    for said in ("2 of no class", "3 gold images are kept out of training, and 1 equal ones"):
        assert said in caplog.text


def test_a_gold_image_stays_gold_under_another_name_or_where_only_a_copy_is_left(pictures, caplog):
    caplog.set_level(logging.INFO)
    train = pictures / "train"
    shutil.copy(train / "cross/1.png", train / "cross/copy.png")
    answer(pictures, "train/cross/copy.png", "cross", "next")
    for name in ("circle/0.png", "cross/1.png", "square/2.png"):
        answer(pictures, f"train/{name}", "square", "gold")
    (train / "circle/0.png").rename(train / "cross/renamed.png")
    (train / "cross/1.png").unlink()
    (train / "square/2.png").unlink()
    assert set(labels(pictures)) == {"3", "4", "5", "6", "7", "8", "9", "10", "11"}
    assert labels(pictures, "gold") == {"copy": "square", "renamed": "square"}
    assert "2 gold images have other names now; labels of train: 2 changed; 1 line is left out" in caplog.text
    answer(pictures, "train/cross/renamed.png", "cross")  # a later line of the image counts
    assert labels(pictures)["renamed"] == "cross"


def test_a_line_of_another_image_is_told_and_left_out(pictures, caplog):
    caplog.set_level(logging.INFO)
    answer(pictures, "train/circle/0.png", "cross")
    answer(pictures, "train/circle/3.png", "cross")
    shutil.copy(pictures / "train/cross/1.png", pictures / "train/circle/3.png")
    answer(pictures, "gone.png", "cross", digest="0" * 32)
    found = labels(pictures)
    assert (found["0"], found["3"]) == ("cross", "circle")
    assert "2 lines are left out, as their images are not there or another one now ('train/circle/3" in caplog.text
    answer(pictures, "6.png", "cross", digest="0" * 32)
    assert labels(pictures)["6"] == "circle" and "('6.png': write 'train/circle/6.png')" in caplog.text


def test_a_class_that_is_none_is_told_with_the_nearest_unless_a_line_says_that_it_is_new(pictures):
    answer(pictures, "train/circle/0.png", "star", is_new=True)
    answer(pictures, "train/cross/1.png", "star")  # as any class, once a line names it
    assert [name for name, label in labels(pictures).items() if label == "star"] == ["0", "1"]
    answer(pictures, "train/circle/3.png", "sqare")
    with pytest.raises(ValueError, match=r"labels.jsonl, line 3: 'sqare' is none of the 4 classes. Did you mean 'squ"):
        labels(pictures)


@pytest.mark.parametrize("left", ['{"file_name": "train/ci', '{"file_name": "train/\udcc3'])
def test_what_a_killed_process_had_begun_is_no_answer(pictures, left):
    file = pictures / "labels.jsonl"
    answer(pictures, "train/circle/0.png", "cross")
    whole = file.read_text()
    file.write_bytes((whole + left).encode(errors="surrogateescape"))
    assert labels(pictures)["0"] == "cross"
    with answers_to(file) as append:
        append(whole.replace("train/circle/0.png", "train/circle/3.png"))
        assert list(read_answers(file)) == ["train/circle/0.png", "train/circle/3.png"]  # on disk already
    file.write_bytes(f"{left[:5]}\n{whole}".encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"labels.jsonl, line 1: .* is no answer of g4i label. Correct or remove it"):
        labels(pictures)
    file.write_text(whole.strip())  # of an editor that ends no line
    with answers_to(file) as append:
        append(whole)
    assert file.read_text() == whole * 2


def test_every_beginning_of_a_line_is_no_answer_and_gives_way_to_the_next(tmp_path):
    file, last = tmp_path / "labels.jsonl", line_of("c", "file_name", None, "next", "cross")
    begun = line_of('é "}', "file_name", None, "none", None, none=True, is_new=True).encode()
    with answers_to(file) as append:
        for end in range(len(begun) - 1):
            file.write_bytes(begun[:end])
            assert not read_answers(file)
            append(last)
            assert file.read_text() == last


@pytest.mark.parametrize(
    "by_hand",
    [
        '{"file_name":"b","label":"x"},',
        '{"file_name":"b" "label":"x"}',
        '{"file_name":"b,"label":"x"}',
        '{"file_name":"b","label":True}',
        "{'file_name':'b','label':'x'}",
        "b x",
    ],
)
def test_the_last_line_of_a_person_stays_and_is_named_if_it_is_wrong(tmp_path, by_hand):
    file = tmp_path / "labels.jsonl"
    first, answered = (line_of(name, "file_name", None, "next", "cross") for name in "ac")
    said = r"labels.jsonl, line 2: .* is no answer of g4i label. Correct or remove it"
    file.write_bytes((first + by_hand).encode())
    with pytest.raises(ValueError, match=said):
        read_answers(file)
    with answers_to(file) as append:
        append(answered)
    assert file.read_bytes() == f"{first}{by_hand}\n{answered}".encode()
    with pytest.raises(ValueError, match=said):
        read_answers(file)


@pytest.mark.parametrize(("before", "end"), [("\ufeff", "\r\n"), ("\n \n", "\n\n"), ("", "\r")])
def test_an_editor_may_leave_a_byte_order_mark_other_line_breaks_and_blank_lines(pictures, before, end):
    file = pictures / "labels.jsonl"
    lines = [json.dumps({"file_name": f"train/circle/{name}.png", "label": "cross"}) for name in (0, 3)]
    file.write_bytes((before + "".join(line + end for line in lines)).encode())
    with answers_to(file) as append:
        append(lines[0].replace("/0.png", "/6.png") + "\n")
    found = labels(pictures)
    assert [found[name] for name in ("0", "3", "6")] == ["cross"] * 3


def test_an_answer_is_in_the_file_that_is_there_now_and_the_lock_holds(tmp_path):
    file, other = tmp_path / "labels.jsonl", tmp_path / "of an editor"
    lines = [line_of(name, "file_name", None, "next", "cross") for name in "abcd"]
    with answers_to(file) as append:
        append(lines[0])
        other.write_text(lines[3])
        os.replace(other, file)  # as sed -i, vim, git and rsync do
        append(lines[1])
        assert file.read_text() == lines[3] + lines[1]
        file.unlink()
        append(lines[2])
        assert file.read_text() == lines[2]
        with pytest.raises(ValueError, match="Another g4i label writes to"), answers_to(file):
            pass


def test_an_answer_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path):
    file, line = tmp_path / "labels.jsonl", line_of("a", "file_name", None, "next", "cross")
    with answers_to(file) as append:
        append(line)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * len(line) - 1, limit[1]))  # all but the line break fits
            with pytest.raises(OSError, match="File too large"):
                append(line)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert file.read_text() == line
        append(line)
    assert file.read_text() == line * 2


def test_two_writers_are_one_too_many(tmp_path):
    file, said = tmp_path / "labels.jsonl", r"Another g4i label writes to .*Close it first"
    with answers_to(file), pytest.raises(ValueError, match=said), answers_to(file):
        pass
    with answers_to(file) as append:
        append("")


def test_labels_of_a_dataset_that_cannot_be_written_to_are_in_a_file_of_their_own(pictures, tmp_path):
    file, folder = tmp_path / "labels.jsonl", str(tmp_path / "data")
    load_data(DataArguments(str(pictures)))["train"].to_parquet(tmp_path / "data" / "train.parquet")
    file.write_text(json.dumps({"image_id": "circle/0.png", "label": "cross"}) + "\n")  # by hand, without a digest
    assert load_reviewed(DataArguments(folder))["train"]["label"][0] == 0
    for found in (load_reviewed(DataArguments(folder), tmp_path), load_images(folder, labels_file=str(file))):
        assert np.bincount(found["train"]["label"][:]).tolist() == [3, 5, 4]
    with pytest.raises(FileNotFoundError, match="labels_file is 'none.jsonl'"):
        load_images(folder, labels_file="none.jsonl")
