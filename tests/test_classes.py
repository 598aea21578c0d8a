"""Labels are read by name, whatever each split or file calls its numbers, or by folders; nothing is lost."""

import json
import os
import re
from pathlib import Path
from unicodedata import normalize

import make
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from test_loading import by_id, classes_by_id, one_line, rows

from g4i_hf import load_images
from g4i_hf.data.classes import class_names
from g4i_hf.data.loading import load_data
from g4i_hf.options import DataArguments


def labelled(values: list, feature=None) -> Dataset:
    """Rows with these labels; `feature` may be a list of class names."""
    feature = ClassLabel(names=feature) if isinstance(feature, list) else feature
    return rows(len(values)).remove_columns("label").add_column("label", values, feature=feature)


def names_of(split: Dataset) -> list[str | None]:
    """The class name of each row."""
    feature = split.features["label"]
    return [None if label is None else feature.names[label] for label in split["label"]]


@pytest.mark.parametrize(
    "values, names, expected",
    [
        (["ßeta", "alpha", None, "ßeta"], ["alpha", "ßeta"], [1, 0, None, 1]),
        ([True, False, None, True], ["0", "1"], [1, 0, None, 1]),
        ([-1, 3, None, 0], ["0", "1", "2", "3"], [-1, 3, None, 0]),
    ],
)
def test_class_names_from_a_column_without_names(values, names, expected):
    splits, id2label = class_names(DatasetDict(train=labelled(values)))
    assert list(id2label.values()) == names and splits["train"]["label"][:] == expected


NAMES = ["owl", "cat", "elk"]


@pytest.mark.parametrize(
    "train", [labelled([0, 1, 2], NAMES), labelled(["owl", "cat", "elk"])], ids=["listed", "text"]
)
@pytest.mark.parametrize(
    ("other", "expected", "added"),
    [
        (labelled([0, 1, 2], ["elk", "cat", "owl"]), ["elk", "cat", "owl"], []),
        (labelled([1, None, -1], ["cat", "bee", "ant"]), ["bee", None, None], ["bee"]),
        (labelled([normalize("NFD", "ćat"), "owl"]), ["ćat", "owl"], ["ćat"]),
    ],
    ids=["other order", "one that no row has", "text in another Unicode form"],
)
def test_labels_are_matched_by_name_and_a_class_that_train_lacks_is_added(train, other, expected, added, caplog):
    """Where splits lie in another order too: the list of classes is that of `train`."""
    names = train.features["label"].names if isinstance(train.features["label"], ClassLabel) else sorted(NAMES)
    splits, id2label = class_names(DatasetDict(test=other, train=train))
    assert list(id2label.values()) == [*names, *added]
    found = [None if label is None or label < 0 else id2label[label] for label in splits["test"]["label"]]
    assert found == expected and names_of(splits["train"]) == NAMES
    told = f"Split 'test': {len(added)} of its classes are none of 'train', such as"
    assert (told in caplog.text) == bool(added)


@pytest.mark.parametrize("names", [labelled([0, 1], ["cat", "dog"]), labelled(["cat", "dog"])], ids=["listed", "text"])
@pytest.mark.parametrize("numbers", [labelled([0, 1]), labelled(["0", "1"])], ids=["integers", "digits"])
def test_names_in_one_split_and_numbers_in_another_cannot_be_matched(names, numbers):
    for train, other, first, second in ((names, numbers, "names", "numbers"), (numbers, names, "numbers", "names")):
        said = rf"'label' holds {first} in the split 'train' \(\w+, \w+\) and {second} in the split 'test' .*Store"
        with pytest.raises(ValueError, match=said):
            class_names(DatasetDict(train=train, test=other))


@pytest.mark.parametrize(
    "train, test, message",
    [
        (rows(2), labelled([[0], [0, 1]]), "Column 'label' of split 'test' holds lists: multi-label data is not"),
        (labelled([1.0, 0.5]), labelled([0.5]), "Column 'label' holds float64 in the split 'train'.* Store labels as"),
        (*[rows(2).remove_columns("label")] * 2, "No column 'label' in the data. Its columns: .*--label_column"),
    ],
    ids=["multi-label", "floats", "no column"],
)
def test_labels_that_are_no_classes_are_refused_by_name(train, test, message):
    with pytest.raises(ValueError, match=message):
        class_names(DatasetDict(train=train, test=test))


def named(values: list, file: Path) -> Dataset:
    """Opened with the classes of the file."""
    DatasetDict(train=labelled(values)).save_to_disk(file.with_name("data"))
    return load_data(DataArguments(str(file.with_name("data")), class_names_file=str(file)))["train"]


@pytest.mark.parametrize("values", [[1, 0, 2], ["1", "0", "2"], ["bee", "ant", normalize("NFD", "cät")]])
@pytest.mark.parametrize("text", ["ant \nbee\ncät", "\ufeffant\r\nbee\r\ncät\r\n\n"])
def test_a_file_names_the_classes(tmp_path, text, values):
    """By the numbers of its lines or by name, however an editor ends the file."""
    file = tmp_path / "classes.txt"
    file.write_text(text, encoding="utf-8", newline="")
    split = named(values, file)
    assert split.features["label"].names == ["ant", "bee", "cät"] and split["label"][:] == [1, 0, 2]


def test_faults_of_a_file_of_names_and_of_labels_that_it_lacks_name_it(tmp_path):
    file = tmp_path / "classes.txt"
    for text in ("ant\nant\n", "ant\n\nbee\n", ""):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"class_names_file is {file}: give every class a line with a name of"):
            named([0], file)
    file.write_text("ant\nbee\n")
    with pytest.raises(ValueError, match=f"Split 'train', .* 'elk' is none of the 2 classes of {file}. Correct it"):
        named(["ant", "elk"], file)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="class_names_file is .*, but there is no such file"):
        named([0], file)


OTHERS = {
    "other order": (labelled([0, 1, 2], ["elk", "cat", "owl"]), ["elk", "cat", "owl"]),
    "more": (labelled([0, 3, 1], ["bee", "elk", "cat", "owl"]), ["bee", "owl", "elk"]),
    "text": (labelled(["elk", "cat"]), ["elk", "cat"]),
    "without captions": (labelled([0, 1], ["elk", "cat"]).remove_columns("caption"), ["elk", "cat"]),
}


@pytest.mark.parametrize("way", OTHERS)
def test_every_split_of_parquet_files_has_classes_of_its_own(tmp_path, way):
    other, expected = OTHERS[way]
    labelled([0, 1, 2], NAMES).to_parquet(tmp_path / "train.parquet")
    other.to_parquet(tmp_path / "test.parquet")
    found = {name: names_of(split) for name, split in load_images(tmp_path).items()}
    assert found == {"test": expected, "train": NAMES}


SHARDS = [f"train-0000{number}-of-00002.parquet" for number in (0, 1)]


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (labelled([0], ["cat", "dog"]), labelled([0], ["dog", "cat"]), "class 0 is 'cat' in {} and 'dog' in {}"),
        (labelled([0], ["cat", "dog"]), labelled([0], ["cat"]), "class 1 is 'dog' in {} and 'none' in {}"),
        (labelled([0]), labelled([0], ["cat"]), "{} holds numbers and {} numbers with class names"),
        (labelled(["cat"]), labelled([0]), "{} holds names and {} numbers"),
    ],
    ids=["other order", "fewer", "numbers", "text and numbers"],
)
def test_files_of_one_split_with_other_classes_are_refused(tmp_path, one, other, says):
    for split, name in zip((one, other), SHARDS, strict=True):
        split.to_parquet(tmp_path / name)
    said = says.format(*(tmp_path / name for name in SHARDS))
    assert f"split 'train', column 'label': {said}. Write both with" in one_line(tmp_path)


# --- A folder of images: labels of folders and of metadata -----------------------------------------------------------

FILES = ["train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "train/dog/4.png"]
LABELS = {"cat/1.png": "cat", "cat/2.png": "cat", "dog/3.png": "dog", "dog/4.png": "dog"}


def write_metadata(folder: Path, lines: list[dict], suffix: str = "jsonl") -> None:
    """A metadata file in the folder."""
    file, table = folder / f"metadata.{suffix}", pd.DataFrame(lines)
    if suffix == "jsonl":
        file.write_text("\n".join(map(json.dumps, lines)))
    else:
        table.to_csv(file, index=False) if suffix == "csv" else table.to_parquet(file)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("others", [{}, {"label": None}], ids=["no label", "null"])
def test_a_label_of_a_line_wins_and_other_images_keep_their_folder(tmp_path, caplog, suffix, others):
    """As when a wrong label is corrected by a line: those of all other images stay. It may be a new class."""
    make.folder(tmp_path, [*FILES, "train/unlabelled/5.png"])
    given = {"cat/1.png": "dog", "dog/3.png": "dog", "unlabelled/5.png": "elk"}
    lines = [{"file_name": file, "label": label} for file, label in given.items()]
    write_metadata(tmp_path / "train", [*lines, {"file_name": "cat/2.png"} | others], suffix)
    assert classes_by_id(tmp_path) == LABELS | given
    told = f"Split 'train': 1 images have a label in the metadata that is not their folder, and counts: {tmp_path}"
    assert f"{told}/train/cat/1.png is 'dog'." in caplog.text


@pytest.mark.parametrize("folders", [["images"], ["batch 1", "batch 2"]])
def test_folders_that_are_no_classes_give_no_label(tmp_path, caplog, folders):
    """Images that only metadata labels may lie in any folders."""
    files = [f"{folder}/{number}.png" for folder in folders for number in range(4)]
    make.folder(tmp_path / "train", files)
    own = [{"label": "cat"}, {"label": "dog"}, {"label": None}, {}] * len(folders)
    write_metadata(tmp_path / "train", [{"file_name": file} | label for file, label in zip(files, own, strict=True)])
    assert list(classes_by_id(tmp_path).values()) == ["cat", "dog", None, None] * len(folders)
    shown = ", ".join(folders)
    told = f"Split 'train': {2 * len(folders)} images are unlabelled, as their folders ({shown}) are none of the"
    assert told in caplog.text


def test_a_class_folder_that_only_another_split_has(tmp_path, caplog):
    """It is a class beside one that is known. Alone it may be a place for unlabelled images, which is told."""
    make.folder(tmp_path, [*FILES, "validation/cat/1.png", "validation/bird/2.png", "test/dogs/3.png"])
    assert load_images(tmp_path)["train"].features["label"].names == ["cat", "dog", "bird"]
    assert classes_by_id(tmp_path, "validation") == {"cat/1.png": "cat", "bird/2.png": "bird"}
    assert "Split 'validation': 1 of its classes are none of 'train', such as 'bird'. They are added" in caplog.text
    assert classes_by_id(tmp_path, "test") == {"dogs/3.png": None}
    assert "Split 'test': 1 images are unlabelled, as their folders (dogs) are none of the classes" in caplog.text
    assert "known (bird, cat, dog). Did you mean 'dog'? If they are classes" in caplog.text


def test_class_folders_in_two_unicode_forms_are_one_and_in_two_cases_are_told(tmp_path, caplog):
    forms = [normalize(form, "café") for form in ("NFC", "NFD")]
    make.folder(tmp_path, [f"train/{forms[0]}/1.png", "train/Tree/2.png", f"validation/{forms[1]}/3.png"])
    make.folder(tmp_path, ["validation/tree/4.png"])
    splits = load_images(tmp_path)
    assert splits["train"].features["label"].names == ["Tree", "café", "tree"]
    assert splits["train"]["label"][:] == [0, 1] and sorted(splits["validation"]["label"][:]) == [1, 2]
    assert "Classes whose names differ only in case: 'Tree' and 'tree'. If they are one, rename it." in caplog.text


def test_links_are_followed_but_not_in_circles(tmp_path):
    make.folder(tmp_path, [*FILES, "elsewhere/elk/5.png"])
    os.symlink(tmp_path / "elsewhere" / "elk", tmp_path / "train" / "elk")
    os.symlink(tmp_path / "train", tmp_path / "train" / "dog" / "loop")
    os.symlink(tmp_path / "nowhere", tmp_path / "train" / "dog" / "6.png")
    assert classes_by_id(tmp_path) == LABELS | {"elk/5.png": "elk"}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_line_finds_its_image_in_another_folder(tmp_path, caplog, suffix):
    """To correct a label, an image is moved into the folder of its class; its line need not be edited."""
    files = [*FILES, f"train/dog/{normalize('NFC', 'é')}.png"]
    make.folder(tmp_path, files)
    lines = [{"file_name": (name := file.removeprefix("train/")), "caption": f"that of {name}"} for file in files]
    write_metadata(tmp_path / "train", lines, suffix)
    moved = {"cat/1.png": "dog/1.png", "dog/é.png": normalize("NFD", "cat/é.png")}
    for old, new in moved.items():
        (tmp_path / "train" / old).rename(tmp_path / "train" / new)
    captions = {moved.get(file := line["file_name"], file): line["caption"] for line in lines}
    assert by_id(load_images(tmp_path)["train"], "caption") == captions
    assert {image_id: image_id[:3] for image_id in captions} == classes_by_id(tmp_path)
    told = f"metadata.{suffix}: the images of 2 lines were moved, and are found by their file names: the first is "
    assert f"{told}{tmp_path}/train/dog/1.png." in caplog.text


TRAIN = [file.removeprefix("train/") for file in FILES]
MISSING = {
    # where the first image goes, and the names in the lines
    "there twice": (["dog/1.png", "elk/1.png"], TRAIN),
    "a line of its own": (["cat/1.png"], ["cat/3.png", *TRAIN[1:]]),
    "two lines": (["dog/1.png"], [*TRAIN, "elk/1.png"]),
    "another name": (["dog/5.png"], TRAIN),
}


@pytest.mark.parametrize("name", [*MISSING, "outside"])
def test_an_image_that_is_not_the_only_one_of_its_name_is_missing(tmp_path, name):
    """Nor is it looked for outside of the folder of its metadata."""
    places, lines = MISSING.get(name, (["dog/1.png"], ["1.png"]))
    train = make.folder(tmp_path, FILES) / "train"
    content = (train / "cat" / "1.png").read_bytes()
    (train / "cat" / "1.png").unlink()
    for place in places:
        (train / place).parent.mkdir(exist_ok=True)
        (train / place).write_bytes(content)
    write_metadata(train / "cat" if name == "outside" else train, [{"file_name": line} for line in lines])
    assert re.search(r"metadata.jsonl: there is no file '.*\d\.png'.* Add the images, or remove", one_line(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"\n \n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"], ids=["0", "lines", "mark", "both"]
)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_metadata_without_lines_are_no_metadata(tmp_path, caplog, suffix, content):
    make.folder(tmp_path, [*FILES, "train/unlabelled/5.png"])
    (tmp_path / "train" / f"metadata.{suffix}").write_bytes(content)
    assert classes_by_id(tmp_path) == LABELS | {"unlabelled/5.png": None}
    assert f"{tmp_path}/train/metadata.{suffix} has no lines." in caplog.text


@pytest.mark.parametrize("captions", [["NA", "null", "nan", "None"], ["007", "12", "1e3", "-0"], ["2020-01-01"] * 4])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_texts_of_metadata_are_texts(tmp_path, suffix, captions):
    """Not missing, nor numbers or dates, whatever they look like."""
    make.folder(tmp_path, FILES)
    lines = [{"file_name": file, "caption": text} for file, text in zip(LABELS, captions, strict=True)]
    write_metadata(tmp_path / "train", lines, suffix)
    assert load_images(tmp_path)["train"]["caption"][:] == captions


MIXED = b'{"file_name": "cat/1.png", "x": 1}\n{"file_name": "cat/2.png", "x": "a"}'
FAULTS = [
    ("jsonl", b'{"caption": "a"}', ": there is no column file_name among 'caption'. It names"),
    ("csv", b"file_name,caption\ncat/1.png,a cat, asleep", ": line 2 has more cells than the first line. Put texts"),
    ("jsonl", b'{"file_name": "cat/1.png", "caption": "caf\xe9"}', ": it is not UTF-8. Save it as UTF-8."),
    ("jsonl", MIXED, ": 'x' is of several kinds in its lines"),
    ("jsonl", b'{"file_name": 1}', ": row 0 has the invalid file_name 1. Name a file in the folder"),
    ("jsonl", b"[" * 100_000, ": line 1 is no JSON object. Correct the line."),
    ("parquet", b"PAR1", ": it is damaged ("),
]


@pytest.mark.parametrize(("suffix", "content", "says"), FAULTS)
def test_a_fault_of_metadata_names_its_file(tmp_path, suffix, content, says):
    make.folder(tmp_path, FILES)
    file = tmp_path / "train" / f"metadata.{suffix}"
    file.write_bytes(content)
    assert f"its files cannot be read: {file}{says}" in one_line(tmp_path)
