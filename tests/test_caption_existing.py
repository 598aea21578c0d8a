"""Captions that exist already: every layout of a file and every way to name an image; nothing is guessed or run."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, List, Value
from PIL import Image as PILImage
from transformers import AutoModel, AutoProcessor

from g4i_hf.captioning.existing import existing_captions
from g4i_hf.data.loading import open_images
from g4i_hf.options import ExistingCaptionsArguments


def splits(**image_ids) -> DatasetDict:
    return DatasetDict({name: Dataset.from_dict({"image_id": ids}) for name, ids in image_ids.items()})


def from_file(tmp_path, data: DatasetDict, name: str, content: str | bytes, **options):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return existing_captions(data, ExistingCaptionsArguments(captions_file=str(tmp_path / name), **options))


def joined(tmp_path, data: DatasetDict, lines: list, **options):
    """Joins (key, caption) pairs written as JSON lines."""
    text = "".join(json.dumps({"file": key, "caption": caption}) + "\n" for key, caption in lines)
    return from_file(tmp_path, data, "c.jsonl", text, **options)


@pytest.mark.parametrize(
    "key",
    ["C:\\imagenet\\{folder}\\{stem}.JPEG", "/data/train/{folder}/{stem}.JPEG", "{stem}_{folder}.JPEG", "{stem}"],
)
def test_ways_to_name_an_image(tmp_path, key):
    """The third is that of ILSVRC/imagenet-1k."""
    names = [(f"n0000000{i % 3}", f"n0000000{i % 3}_{i}") for i in range(30)]
    lines = [(key.format(folder=folder, stem=stem), f"caption {stem}") for folder, stem in names]
    result = joined(tmp_path, splits(train=[f"{folder}/{stem}.JPEG" for folder, stem in names]), lines[::-1])
    assert result == {"train": [[f"caption {stem}"] for _, stem in names]}


THREE = [("a/1.jpg", "A1"), ("a/2.jpg", "A2"), ("b/1.jpg", "B1")]


@pytest.mark.parametrize(
    "ids, lines, captions, ambiguous, unknown",
    [
        (["a/1.jpg", "b/1.jpg", "b/2.jpg"], [("1.jpg", "one"), ("2.jpg", "two")], [None, None, "two"], 1, 0),
        (["1.jpg", "2.jpg"], [("a/1.jpg", "one"), ("b/1.jpg", "other"), ("a/2.jpg", "two")], [None, "two"], 2, 0),
        # One rule for the whole file: the strictest of those that match three
        ([key for key, _ in THREE] + ["b/3.jpg"], [*THREE, ("3.jpg", "?")], ["A1", "A2", "B1", None], 0, 1),
    ],
)
def test_a_key_that_fits_several_rows_or_none_goes_to_none(tmp_path, caplog, ids, lines, captions, ambiguous, unknown):
    assert joined(tmp_path, splits(train=ids), lines) == {"train": [[text] if text else [] for text in captions]}
    assert f"c.jsonl: {unknown} keys name no image" in caplog.text and f"and {ambiguous} fit several" in caplog.text


def test_splits_with_equal_names_are_told_apart_by_their_folders(tmp_path):
    data = splits(train=["a/1.jpg", "a/2.jpg"], validation=["a/1.jpg"], test_novel=["a/1.jpg"])
    lines = [("x/val/a/1.jpg", "v1"), ("train/a/1.jpg", "t1"), ("train/a/2.jpg", "t2"), ("test_novel/a/1.jpg", "n1")]
    found = joined(tmp_path, data, lines)
    assert found == {"train": [["t1"], ["t2"]], "validation": [["v1"]], "test_novel": [["n1"]]}
    result = joined(tmp_path, data, [("a/1.jpg", "which?"), ("a/2.jpg", "t2")])
    assert result == {"train": [[], ["t2"]], "validation": [[]], "test_novel": [[]]}


def test_a_file_of_other_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none of its 1 keys .* first keys are \['17'\], the first image_ids \['a/1"):
        joined(tmp_path, splits(train=["a/1.jpg"]), [("17", "x")])


def test_repeated_lines_count_once_and_several_captions_are_kept(tmp_path):
    data = splits(train=["1.jpg", "2.jpg", "3.jpg"])
    lines = [("1.jpg", "a"), ("2.jpg", ""), ("1.jpg", "a"), ("2.jpg", "b"), ("3.jpg", None)]
    assert joined(tmp_path, data, lines)["train"] == [["a"], ["b"], []]
    assert joined(tmp_path, data, [*lines, ("1.jpg", "A")])["train"] == [["a", "A"], ["b"], []]


def test_captions_of_a_column():
    data, arguments = splits(train=["1.jpg", "2.jpg"], test=["3.jpg"]), ExistingCaptionsArguments()
    with pytest.raises(ValueError, match="has no column 'caption'. Its columns: image_id"):
        existing_captions(data, arguments)
    data["train"] = data["train"].add_column("caption", ["a", " "])
    assert existing_captions(data, arguments) == {"train": [["a"], []]}
    data["test"] = data["test"].add_column("caption", [["b", "c"]], feature=List(Value("string")))
    assert existing_captions(data, arguments) == {"train": [["a"], []], "test": [["b", "c"]]}


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.csv", b"\xef\xbb\xbfFileName,Caption\na/1.jpg,a cat\nb/2.jpg,a dog\n"),
        ("c.tsv", "path\tdescription\na/1.jpg\ta cat\nb/2.jpg\ta dog\n"),
        ("c.csv", "file_name;caption\na/1.jpg;a cat\nb/2.jpg;a dog\n"),
        ("c.jsonl", '{"image_id": "a/1.jpg", "caption": "a cat"}\n\n{"caption": "a dog", "image_id": "b/2.jpg"}'),
    ],
)
def test_layouts_are_told_from_the_file(tmp_path, name, text):
    assert from_file(tmp_path, splits(train=["a/1.jpg", "b/2.jpg"]), name, text)["train"] == [["a cat"], ["a dog"]]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("c.csv", "x,y\n1,2\n", "record 1: no field image_id or .* among 'x', 'y'.*--file_key"),
        ("c.csv", "file,caption\na.jpg,a cat, a dog\n", "record 1: line 2 has more cells than the first line"),
        ("c.csv", "file,caption\na.jpg,a cat\nb.jpg\n", "record 2: line 3 has fewer cells than the first line"),
        ("c.csv", 'file,caption\na.jpg,x\nb.jpg,"never closed\nc.jpg,y\n', "record 2: unexpected end of data"),
        ("c.jsonl", '{"file": "a.jpg", "caption": "x"}\n{"file": "b.j', "record 2: line 2 is no JSON object"),
        ("c.jsonl", '{"file": "a.jpg", "caption": "x"}\n{"file": "", "caption": "b"}', "record 2: field 'file' is ''"),
        ("c.xml", "a cat\n", "from .jsonl, .csv, .tsv files that name each image"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=name + ".*" + message):
        from_file(tmp_path, splits(train=["a.jpg", "b.jpg", "c.jpg"]), name, text)


# --- `recipes/imagenet_resnet50/check_order.py` ----------------------------------------------------------------------

SCRIPT = Path(__file__).parent.parent / "recipes" / "imagenet_resnet50" / "check_order.py"


class Clip:
    """Processor and model: the nearer the colour that a text names to that of the image, the better."""

    def eval(self) -> "Clip":
        return self

    def __call__(self, text=None, images=None, named=None, seen=None, **_):
        if text is not None:  # as the processor
            return {"named": [[int(part) for part in one.split()] for one in text], "seen": images.getpixel((0, 0))}
        self.logits_per_image = -torch.tensor(named).sub(torch.tensor(seen)).abs().float().mean(1)[None]
        return self


def test_a_list_is_in_the_order_of_its_images_or_is_refused(tmp_path, monkeypatch, capsys):
    colours = np.random.default_rng(0).integers(0, 256, size=(40, 3)).tolist()
    for number, colour in enumerate(colours):
        folder = tmp_path / "train" / f"class{number // 10}"
        folder.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (8, 8), tuple(colour)).save(folder / f"{number:02}.png")
    captions = [" ".join(map(str, colour)) for colour in colours]
    for loader in (AutoModel, AutoProcessor):
        monkeypatch.setattr(loader, "from_pretrained", lambda *_, **__: Clip())
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "train"), str(tmp_path / "captions.pth"), "clip"])
    torch.save(captions[1:] + captions[:1], tmp_path / "captions.pth")
    with pytest.raises(SystemExit, match="of other images or in another order"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    torch.save(captions, tmp_path / "captions.pth")
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "32 images fit their own captions best" in capsys.readouterr().out
    found = existing_captions(
        open_images(str(tmp_path)), ExistingCaptionsArguments(captions_file=str(tmp_path / "captions.jsonl"))
    )
    assert found["train"] == [[caption] for caption in captions]
