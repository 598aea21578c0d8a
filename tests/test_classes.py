"""Labels are read by name, whatever each split or file calls its numbers: one list of classes, nothing lost."""

from pathlib import Path
from unicodedata import normalize

import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from test_loading import one_line, rows

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
        ([-1, 1, None, 0], ["0", "1"], [-1, 1, None, 0]),
    ],
)
def test_class_names_from_a_column_without_names(values, names, expected):
    splits, id2label = class_names(DatasetDict(train=labelled(values), test=rows(2).remove_columns("label")))
    assert list(id2label.values()) == names and splits["train"].features["label"] == ClassLabel(names=names)
    assert splits["train"]["label"][:] == expected and "label" not in splits["test"].column_names


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


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "classes.txt"


def named(folder: Path, values: list, file: Path) -> Dataset:
    """Opened with the classes of the file."""
    DatasetDict(train=labelled(values)).save_to_disk(folder)
    return load_data(DataArguments(str(folder), class_names_file=str(file)))["train"]


@pytest.mark.parametrize("values", [[1, 0, 2], ["1", "0", "2"], ["bee", "ant", normalize("NFD", "cät")]])
@pytest.mark.parametrize("text", ["ant \nbee\ncät", "\ufeffant\r\nbee\r\ncät\r\n\n"])
def test_a_file_names_the_classes(tmp_path, file, text, values):
    """By the numbers of its lines or by name, however an editor ends the file."""
    file.write_text(text, encoding="utf-8", newline="")
    split = named(tmp_path / "data", values, file)
    assert split.features["label"].names == ["ant", "bee", "cät"] and split["label"][:] == [1, 0, 2]


def test_faults_of_a_file_of_names_and_of_labels_that_it_lacks_name_it(tmp_path, file):
    for text in ("ant\nant\n", "ant\n\nbee\n", ""):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"class_names_file is {file}: give every class a line with a name of"):
            named(tmp_path / "data", [0], file)
    file.write_text("ant\nbee\n")
    with pytest.raises(ValueError, match=f"Split 'train', .* 'elk' is none of the 2 classes of {file}. Correct it"):
        named(tmp_path / "data", ["ant", "elk"], file)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="class_names_file is .*, but there is no such file"):
        named(tmp_path / "data", [0], file)


OTHERS = {
    "other order": (labelled([0, 1, 2], ["elk", "cat", "owl"]), ["elk", "cat", "owl"]),
    "more": (labelled([0, 3, 1], ["bee", "elk", "cat", "owl"]), ["bee", "owl", "elk"]),
    "text": (labelled(["elk", "cat"]), ["elk", "cat"]),
    "without captions": (labelled([0, 1], ["elk", "cat"]).remove_columns("caption"), ["elk", "cat"]),
}
CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n"
CARD += "".join(f"  - split: {name}\n    path: {name}*.parquet\n" for name in ("test", "train")) + "---\n"


@pytest.mark.parametrize("way, card", [*((way, False) for way in OTHERS), ("other order", True)])
def test_every_split_of_parquet_files_has_classes_of_its_own(tmp_path, way, card):
    """Whether the splits are found by their names or by a card."""
    other, expected = OTHERS[way]
    labelled([0, 1, 2], NAMES).to_parquet(tmp_path / "train.parquet")
    other.to_parquet(tmp_path / "test.parquet")
    if card:
        (tmp_path / "README.md").write_text(CARD)
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
    for split, name in zip((one, other), SHARDS, strict=True):  # the column that is named counts
        split.rename_column("label", "kind").to_parquet(tmp_path / name)
    with pytest.raises(ValueError, match="split 'train', column 'kind'"):
        load_images(tmp_path, label_column="kind")
