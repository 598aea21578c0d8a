"""Files of captions: every layout is told from the file, faults are named with their line, and no code is run."""

import json
import os
import pickle

import pytest
import torch
from datasets import Dataset, DatasetDict

from g4i_hf.captioning.existing import existing_captions
from g4i_hf.captioning.list_order import read_list
from g4i_hf.options import ExistingCaptionsArguments


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def captions_of(path, ids=("a/1.jpg", "b/2.jpg"), **options):
    data = DatasetDict(train=Dataset.from_dict({"image_id": list(ids)}))
    arguments = ExistingCaptionsArguments(captions_file=str(path), **options)
    return existing_captions(data, arguments).captions["train"]


# --- Files with keys ---

CSV = {
    "plain": ("c.csv", "file,caption\na/1.jpg,a cat\nb/2.jpg,a dog\n"),
    "other order and columns": ("c.csv", ",caption,score,file_name\n0,a cat,1,a/1.jpg\n1,a dog,2,b/2.jpg\n"),
    "no final newline, CRLF": ("c.csv", "file,caption\r\na/1.jpg,a cat\r\nb/2.jpg,a dog"),
    "byte order mark, capitals": ("c.csv", b"\xef\xbb\xbfFileName,Caption\na/1.jpg,a cat\nb/2.jpg,a dog\n"),
    "semicolons": ("c.csv", "image;text\na/1.jpg;a cat\nb/2.jpg;a dog\n"),
    "tabs": ("c.tsv", "path\tdescription\na/1.jpg\ta cat\nb/2.jpg\ta dog\n"),
    "empty lines": ("c.csv", "file,caption\n\na/1.jpg,a cat\n\nb/2.jpg,a dog\n\n"),
    "json lines": (
        "c.jsonl",
        '{"image_id": "a/1.jpg", "caption": "a cat"}\n\n{"caption": "a dog", "image_id": "b/2.jpg"}',
    ),
}


@pytest.mark.parametrize("kind", CSV)
def test_layouts_are_told_from_the_file(tmp_path, kind):
    assert captions_of(written(tmp_path, *CSV[kind])) == ["a cat", "a dog"]


def test_quotes_newlines_delimiters_and_other_scripts(tmp_path):
    text = 'file,caption\na.jpg,"a ""red"" cat,\nand 猫"\nb.jpg,  \nc.jpg,""\nd.jpg,plain "quotes" inside\n'
    captions = captions_of(written(tmp_path, "c.csv", text), ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    assert captions == ['a "red" cat,\nand 猫', None, None, 'plain "quotes" inside']


def test_lists_of_captions_and_numbers_as_keys(tmp_path):
    text = '{"id": 7, "captions": ["a", " ", "b"]}\n{"id": 8, "captions": null}\n{"id": 9, "captions": []}\n'
    captions = captions_of(written(tmp_path, "c.jsonl", text), ["7", "8", "9"])
    assert captions == [["a", "b"], None, None]


def test_fields_can_be_named(tmp_path):
    path = written(tmp_path, "c.csv", "file,nr,caption,blip\na.jpg,1,a cat,cat!\n")
    assert captions_of(path, ["a.jpg"]) == ["a cat"]
    assert captions_of(path, ["1"], file_key="nr", file_caption="blip") == ["cat!"]
    with pytest.raises(ValueError, match="no field clip among 'file', 'nr', 'caption', 'blip'.*--file_caption"):
        captions_of(path, file_caption="clip")
    with pytest.raises(ValueError, match="d.csv, record 1: no field image_id or .* among 'x', 'y'.*--file_key"):
        captions_of(written(tmp_path, "d.csv", "x,y\n1,2\n"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "c.csv",
            "file,caption\na.jpg,a cat, a dog\n",
            "c.csv, record 1: not as many fields as in the header; put quotes around",
        ),
        ("c.csv", 'file,caption\na.jpg,x\nb.jpg,"never closed\nc.jpg,y\n', "c.csv, record 2: unexpected end of data"),
        ("c.tsv", 'file\tcaption\na.jpg\t"red" is the cat\nb.jpg\ty\n', "c.tsv, record 1: '\t' expected after '\"'"),
        ("c.csv", "file,caption\n,a cat\n", "c.csv, record 1: field 'file' is '', but must name an image"),
        ("c.csv", b"file,caption\na.jpg,caf\xe9\n", "c.csv, record 1: 'utf-8' codec"),
        ("c.jsonl", '{"file": "a.jpg", "caption": "x"}\n{"file": "b.j', "c.jsonl, record 2: Unterminated string"),
        ("c.jsonl", '{"file": "a.jpg", "caption": "x"}\n["b"]\n', "c.jsonl, record 2: .*is no object"),
        (
            "c.jsonl",
            '{"file": "a.jpg", "caption": "x"}\n{"caption": "b"}\n',
            "c.jsonl, record 2: field 'file' is None",
        ),
        ("c.jsonl", '{"file": null, "caption": "x"}\n', "c.jsonl, record 1: field 'file' is None, but must name"),
        ("c.xml", "a cat\n", "from .jsonl, .csv, .tsv files, lists in the order of the images from .txt"),
    ],
)
def test_lines_that_cannot_be_read_are_named(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        captions_of(written(tmp_path, name, text), ["a.jpg", "b.jpg", "c.jpg"])


# --- Lists without keys ---


def test_lists_of_all_kinds(tmp_path):
    captions = ["a cat\u2028lies", "", "猫"]
    assert read_list(written(tmp_path, "c.txt", "\ufeffa cat\u2028lies\r\n\n猫\n")) == captions
    assert read_list(written(tmp_path, "c.json", json.dumps(captions))) == captions
    torch.save(captions, tmp_path / "c.pth")
    assert read_list(tmp_path / "c.pth") == captions
    torch.save(["old", "format"], tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_list(tmp_path / "old.pth") == ["old", "format"]


class Malicious:
    def __init__(self, command):
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
        read_list(path)
    assert not witness.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert witness.exists()  # it would have


@pytest.mark.parametrize("content", [{"a": "b"}, ["a", 3], [["a", "b"]]])
def test_files_that_hold_no_list_of_texts(tmp_path, content):
    torch.save(content, tmp_path / "c.pth")
    for path in (tmp_path / "c.pth", written(tmp_path, "c.json", json.dumps(content))):
        with pytest.raises(ValueError, match=f"{path.name} holds no list with one text an image"):
            read_list(path)


def test_lists_that_are_broken(tmp_path):
    torch.save(["a" * 1000] * 50, tmp_path / "c.pth")
    written(tmp_path, "cut.pth", (tmp_path / "c.pth").read_bytes()[:300])
    for name in ("cut.pth", "empty.pth"):
        (tmp_path / "empty.pth").touch()
        with pytest.raises(ValueError, match=f"{name} holds no list with one text an image"):
            read_list(tmp_path / name)
    with pytest.raises(ValueError, match="captions with the names of their images, go into a .jsonl file"):
        read_list(written(tmp_path, "c.json", '{"a": 1}\n{"a": 2}\n'))
    with pytest.raises(FileNotFoundError, match="no such file"):
        arguments = ExistingCaptionsArguments(captions_file=str(tmp_path / "none.txt"))
        existing_captions(DatasetDict(), arguments)
