"""Captions that exist already: every layout of a file and every way to name an image; nothing is guessed or run."""

import json
import os
import pickle
import random

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from PIL import Image as PILImage
from torchvision.datasets import ImageFolder

from g4i_hf.captioning.existing import existing_captions
from g4i_hf.data.loading import open_images
from g4i_hf.options import ExistingCaptionsArguments


def splits(**image_ids) -> DatasetDict:
    return DatasetDict({name: Dataset.from_dict({"image_id": ids}) for name, ids in image_ids.items()})


def written(tmp_path, name: str, content: str | bytes):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / name


def from_file(data: DatasetDict, path, **options):
    return existing_captions(data, ExistingCaptionsArguments(captions_file=str(path), **options))


def joined(tmp_path, data: DatasetDict, lines: list, **options):
    """Joins (key, caption) pairs written as JSON lines."""
    text = "".join(json.dumps({"file": key, "caption": caption}) + "\n" for key, caption in lines)
    return from_file(data, written(tmp_path, "c.jsonl", text), **options)


def listed(tmp_path, data: DatasetDict, captions):
    return from_file(data, written(tmp_path, "c.json", json.dumps(captions)))


# --- Which row a key means -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule, key",
    [
        ("image_id", "{folder}/{stem}.JPEG"),
        ("folder/file", "C:\\imagenet\\{folder}\\{stem}.JPEG"),
        ("split/folder/file", "/data/train/{folder}/{stem}.JPEG"),
        ("folder/file", "{stem}_{folder}.JPEG"),  # as ILSVRC/imagenet-1k calls it
        ("folder/file", "{folder}/{stem}"),
        ("file", "images/{stem}.JPEG"),
        ("file", "{stem}"),
    ],
)
def test_ways_to_name_an_image(tmp_path, rule, key):
    names = [(f"n0000000{i % 3}", f"n0000000{i % 3}_{i}") for i in range(30)]
    lines = [(key.format(folder=folder, stem=stem), f"caption {stem}") for folder, stem in names]
    random.Random(0).shuffle(lines)
    result = joined(tmp_path, splits(train=[f"{folder}/{stem}.JPEG" for folder, stem in names]), lines)
    assert result.report["matched_by"] == rule
    assert result.captions == {"train": [f"caption {stem}" for _, stem in names]}


@pytest.mark.parametrize(
    "ids, lines, captions, ambiguous, unknown",
    [
        (["a/1.jpg", "b/1.jpg", "b/2.jpg"], [("1.jpg", "one"), ("2.jpg", "two")], [None, None, "two"], 1, 0),
        (["1.jpg", "2.jpg"], [("a/1.jpg", "one"), ("b/1.jpg", "other"), ("a/2.jpg", "two")], [None, "two"], 2, 0),
        # One rule for the whole file: the strictest of those that match three
        (
            ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg"],
            [("a/1.jpg", "A1"), ("a/2.jpg", "A2"), ("b/1.jpg", "B1"), ("3.jpg", "?")],
            ["A1", "A2", "B1", None],
            0,
            1,
        ),
    ],
)
def test_a_key_that_fits_several_rows_or_none_goes_to_none(tmp_path, ids, lines, captions, ambiguous, unknown):
    result = joined(tmp_path, splits(train=ids), lines)
    assert result.captions == {"train": captions}
    assert (result.report["ambiguous"], result.report["captions_without_row"]) == (ambiguous, unknown)
    assert result.report["splits"]["train"] == {"rows": len(ids), "without_caption": captions.count(None)}


def test_splits_with_equal_names_are_told_apart_by_their_folders(tmp_path):
    data = splits(train=["a/1.jpg", "a/2.jpg"], validation=["a/1.jpg"], test_novel=["a/1.jpg"])
    lines = [("x/val/a/1.jpg", "v1"), ("train/a/1.jpg", "t1"), ("train/a/2.jpg", "t2"), ("test_novel/a/1.jpg", "n1")]
    assert joined(tmp_path, data, lines).captions == {
        "train": ["t1", "t2"],
        "validation": ["v1"],
        "test_novel": ["n1"],
    }
    result = joined(tmp_path, data, [("a/1.jpg", "which?"), ("a/2.jpg", "t2")])
    assert result.captions == {"train": [None, "t2"], "validation": [None], "test_novel": [None]}


def test_reports_hold_no_paths_and_a_file_of_other_images_is_refused(tmp_path):
    lines = [("/home/ann/data/train/a/1.jpg", "x"), ("/home/ann/data/train/a/9.jpg", "y")]
    report = json.dumps(joined(tmp_path, splits(train=["a/1.jpg"]), lines).report)
    assert "/home" not in report and str(tmp_path) not in report
    with pytest.raises(ValueError, match=r"none of its 1 keys .* first keys are \['17'\], the first image_ids \['a/1"):
        joined(tmp_path, splits(train=["a/1.jpg"]), [("17", "x")])


def test_repeated_lines_count_once_and_several_captions_are_asked_for(tmp_path):
    data = splits(train=["1.jpg", "2.jpg", "3.jpg"])
    lines = [("1.jpg", "a"), ("2.jpg", ""), ("1.jpg", "a"), ("2.jpg", "b"), ("3.jpg", None)]
    assert joined(tmp_path, data, lines).captions["train"] == ["a", "b", None]
    with pytest.raises(ValueError, match=r"c.jsonl: '1.jpg' has another caption .*--several_captions"):
        joined(tmp_path, data, [*lines, ("1.jpg", "A")])
    several = joined(tmp_path, data, [*lines, ("1.jpg", "A")], several_captions=True)
    assert several.captions["train"] == [["a", "A"], ["b"], None]


def test_captions_of_a_column():
    data, arguments = splits(train=["1.jpg", "2.jpg"], test=["3.jpg"]), ExistingCaptionsArguments()
    with pytest.raises(ValueError, match="No column 'caption' in the data. Its columns: image_id"):
        existing_captions(data, arguments)
    data["train"] = data["train"].add_column("caption", ["a", " "])
    assert existing_captions(data, arguments).captions == {"train": ["a", None]}
    data["test"] = data["test"].add_column("caption", [["b", "c"]], feature=List(Value("string")))
    assert existing_captions(data, arguments).captions == {"train": [["a"], None], "test": [["b", "c"]]}


# --- Files with keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.csv", ",caption,score,file_name\n0,a cat,1,a/1.jpg\n1,a dog,2,b/2.jpg\n"),
        ("c.csv", b"\xef\xbb\xbfFileName,Caption\na/1.jpg,a cat\nb/2.jpg,a dog\n"),
        ("c.tsv", "path\tdescription\na/1.jpg\ta cat\nb/2.jpg\ta dog\n"),
        ("c.csv", "file_name;caption\na/1.jpg;a cat\nb/2.jpg;a dog\n"),
        ("c.jsonl", '{"image_id": "a/1.jpg", "caption": "a cat"}\n\n{"caption": "a dog", "image_id": "b/2.jpg"}'),
    ],
)
def test_layouts_are_told_from_the_file(tmp_path, name, text):
    result = from_file(splits(train=["a/1.jpg", "b/2.jpg"]), written(tmp_path, name, text))
    assert result.captions["train"] == ["a cat", "a dog"]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("c.csv", "x,y\n1,2\n", "record 1: no field image_id or .* among 'x', 'y'.*--file_key"),
        ("c.csv", "file,caption\na.jpg,a cat, a dog\n", "record 1: not as many fields as in the header; put quotes"),
        ("c.csv", 'file,caption\na.jpg,x\nb.jpg,"never closed\nc.jpg,y\n', "record 2: unexpected end of data"),
        ("c.csv", b"file,caption\na.jpg,caf\xe9\n", "record 1: 'utf-8' codec"),
        ("c.jsonl", '{"file": "a.jpg", "caption": "x"}\n{"file": "b.j', "record 2: Unterminated string"),
        ("c.jsonl", '{"file": "a.jpg", "caption": "x"}\n{"caption": "b"}\n', "record 2: field 'file' is None"),
        ("c.jsonl", r'{"file": "a.jpg", "caption": "half \ud83d"}', "key 'a.jpg': the caption is .*; it must be text"),
        ("c.xml", "a cat\n", "from .jsonl, .csv, .tsv files, lists from .txt"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=name + ".*" + message):
        from_file(splits(train=["a.jpg", "b.jpg", "c.jpg"]), written(tmp_path, name, text))


# --- Lists without keys ----------------------------------------------------------------------------------------------


def test_a_list_is_paired_in_the_order_of_torchvision(tmp_path):
    """Names whose order differs between Python, human and case-blind sorting, and between folders and strings."""
    for folder in ("b", "B", "a", "a b", "a-b", "n10", "n2", "ä"):
        (tmp_path / "data" / "train" / folder).mkdir(parents=True)
        for i, file in enumerate(("10.png", "2.png", "1.png", "a.PNG", "B.png", "a_1.png", "a.b.png", "é.jpg")):
            PILImage.new("RGB", (4, 4), (i, 7, 9)).save(tmp_path / "data" / "train" / folder / file)
    theirs = [path for path, _ in ImageFolder(tmp_path / "data" / "train").samples]
    captions = ["/".join(path.split("/")[-2:]) for path in theirs]  # says which image it is of
    data, digests = open_images(str(tmp_path / "data")), set()
    shuffled = DatasetDict(train=data["train"].shuffle(seed=1))
    assert shuffled["train"]["image_id"][:] != data["train"]["image_id"][:]
    for rows in (data, shuffled):
        result = listed(tmp_path, rows, captions)
        assert result.captions["train"] == rows["train"]["image_id"][:]
        assert result.report["order"] == "unverified" and result.report["split"] == "train"
        digests.add(result.report["files_digest"])
    fewer = DatasetDict(train=data["train"].select(range(1, len(captions))))
    assert len(digests) == 1 and listed(tmp_path, fewer, captions[1:]).report["files_digest"] not in digests


@pytest.mark.parametrize(
    "data, message",
    [
        (splits(train=["a/1.jpg"], test=["a/3.jpg"]), "holds 2 captions, the data has 1 train, 1 test.*--caption_sp"),
        (splits(validation=["1.jpg"], test=["2.jpg"]), "the data has 1 validation, 1 test images.*--caption_splits"),
        (splits(train=["a/1.jpg", "0f" * 12]), "row 1, image_id '0f0f.*no file name"),
        (splits(train=["a/1.jpg#" + "a" * 24, "a/1.jpg#" + "b" * 24]), "several files are called 'a/1.jpg'"),
        (splits(train=["a/1.jpg", "2.jpg"]), "some images have a class folder and others have none"),
    ],
)
def test_a_list_is_refused_where_its_order_is_unknown(tmp_path, data, message):
    with pytest.raises(ValueError, match=message + ".*give captions with the names of their images"):
        listed(tmp_path, data, ["x", "y"])


def test_a_list_is_refused_where_folders_are_no_classes(tmp_path):
    rows = {"image_id": ["1.jpg", "2.jpg"], "label": [1, 0]}
    features = Features({"image_id": Value("string"), "label": ClassLabel(names=["a", "b"])})
    with pytest.raises(ValueError, match="of 2 classes, but in 1 folders"):
        listed(tmp_path, DatasetDict(train=Dataset.from_dict(rows, features=features)), ["x", "y"])
    for name in ("a/z/1.png", "a/z/2.png", "b/a/1.png", "b/a/3.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4, 4)).save(tmp_path / "data" / name)
    with pytest.raises(ValueError, match="/a and .*/b both have folders of images"):
        listed(tmp_path, open_images(str(tmp_path / "data")), ["x"] * 4)


@pytest.mark.parametrize("kind", [".txt", ".json", ".pth", "old.pth"])
def test_lists_of_all_kinds(tmp_path, kind):
    captions, path = ["a cat\u2028lies", "", "猫"], tmp_path / f"c{kind}"
    if kind == ".txt":
        path.write_bytes("\ufeffa cat\u2028lies\r\n\n猫\n".encode())
    elif kind == ".json":
        path.write_text(json.dumps(captions))
    else:
        torch.save(captions, path, _use_new_zipfile_serialization=kind == ".pth")
    found = from_file(splits(train=["1.jpg", "2.jpg", "3.jpg"]), path)
    assert found.captions["train"] == ["a cat\u2028lies", None, "猫"] and found.report["from"] == "list"


class Malicious:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["torch", "torch, old format", "pickle"])
def test_a_pickle_that_would_run_code_does_not(tmp_path, kind):
    witness, path = tmp_path / "ran", tmp_path / "captions.pth"
    content = ["a caption", Malicious(f"touch {witness}")]
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(ValueError, match="captions.pth holds no list .* refused if reading it would run code"):
        from_file(splits(train=["1.jpg", "2.jpg"]), path)
    assert not witness.exists()


@pytest.mark.parametrize("content", ['{"a": "b"}', '["a", 3]', ""])
def test_files_that_hold_no_list_of_texts(tmp_path, content):
    with pytest.raises(ValueError, match="c.json holds no list of texts.*go into a .jsonl file"):
        from_file(splits(train=["1.jpg", "2.jpg"]), written(tmp_path, "c.json", content))
