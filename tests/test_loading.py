"""One name opens every kind of image dataset, with the same columns, ids and class names, or one line says why not."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from shards import save_parquet, save_webdataset

from g4i_hf import load_images
from g4i_hf.data.checks import labels_of
from g4i_hf.data.classes import class_names
from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import write_stage
from g4i_hf.data.transforms import open_rgb

FEATURES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dög"]), "caption": Value("string")})


def picture(seed: int) -> PILImage.Image:
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8))


def rows(count: int, first: int = 0) -> Dataset:
    """Different pictures without file names, two classes, a caption each."""
    seeds = range(first, first + count)
    columns = {"image": list(map(picture, seeds)), "label": [seed % 2 for seed in seeds]}
    columns["caption"] = [f"caption {seed}" for seed in seeds]
    return Dataset.from_dict(columns, features=FEATURES)


def save_pictures(folder: Path, files: list[str], captions_in: str | None = None) -> None:
    """Picture files; with `captions_in`, a metadata.jsonl in that folder whose captions name the file."""
    for seed, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(folder / file)
    if captions_in is not None:
        root = folder / captions_in
        inside = [(folder / file).relative_to(root).as_posix() for file in files if root in (folder / file).parents]
        lines = [json.dumps({"file_name": file, "caption": f"that of {file}"}, ensure_ascii=False) for file in inside]
        (root / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def sizes(splits: DatasetDict) -> dict[str, int]:
    return {name: len(split) for name, split in splits.items()}


def by_id(split: Dataset, column: str) -> dict:
    return dict(zip(split["image_id"], split[column], strict=True))


def classes_by_id(folder: Path, split: str = "train") -> dict[str, str]:
    """image_id -> class name"""
    splits, id2label = class_names(open_images(str(folder)))
    return {image_id: id2label[label] for image_id, label in by_id(splits[split], "label").items()}


# --- Folders of Parquet, and of save_to_disk -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files, expected",
    [
        (["train", "test", "test_novel"], {"train": 1, "test": 2, "test_novel": 3}),
        (["train-00000-of-00002", "train-00001-of-00002"], {"train": 3}),
        (["data/train-00000-of-00001-0a1b2c3d", "data/test-00000-of-00001-9f8e7d6c"], {"train": 1, "test": 2}),
        (["default/train/0000", "default/train/0001", "default/test/0000"], {"train": 3, "test": 3}),
        (["data/part-0", "data/part-1"], {"train": 3}),
        (["Épreuve [1]"], {"Épreuve_1_": 1}),
        (["train", "val", "val_novel"], {"train": 1, "validation": 2, "val_novel": 3}),
    ],
    ids=["files", "shards", "hashed shards", "folders", "numbers alone", "odd name", "other names"],
)
def test_folder_of_parquet_has_one_split_a_name(tmp_path, files, expected):
    for number, file in enumerate(files):
        path = tmp_path / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows(number + 1, first=10 * number).to_parquet(path)
    # Stages and hidden folders inside are no data
    write_stage(tmp_path / "embeddings", {"train": Dataset.from_dict({"image_id": ["a"]})}, {"source": ".."})
    (tmp_path / ".parts").mkdir()
    Dataset.from_dict({"caption": ["a"]}).to_parquet(tmp_path / ".parts" / "0.parquet")
    splits = open_images(str(tmp_path))
    assert sizes(splits) == expected
    for split in splits.values():
        assert split.features["label"] == FEATURES["label"] and len(set(split["image_id"][:])) == len(split)


def test_archives_of_a_webdataset_open_as_the_same_rows_in_parquet_do(tmp_path):
    """By the members of a key; an empty text is no caption."""
    save_parquet(tmp_path / "parquet", [9, 6])
    save_webdataset(tmp_path / "archives", [9, 6])
    expected = load_images(tmp_path / "parquet")
    named = {"image": "png", "label": "cls", "caption": "txt", "image_id": "__key__"}
    found = load_images(tmp_path / "archives", **{f"{ours}_column": theirs for ours, theirs in named.items()})
    assert sizes(found) == sizes(expected) == {"train": 15, "validation": 6}
    for split in expected:
        assert found[split]["image_id"][:] == expected[split]["image_id"][:]
        assert labels_of(found[split]).tolist() == labels_of(expected[split]).tolist()
        assert [caption or None for caption in found[split]["caption"]] == expected[split]["caption"][:]
        pixels = [[open_rgb(image).tobytes() for image in splits[split]["image"]] for splits in (found, expected)]
        assert pixels[0] == pixels[1]


def test_save_to_disk_folders_have_one_split_or_several(tmp_path):
    rows(3).save_to_disk(tmp_path / "one")
    one = open_images(str(tmp_path / "one"))
    assert sizes(one) == {"train": 3}
    assert one["train"]["image"][:] == rows(3).cast_column("image", Image(decode=False))["image"][:]
    DatasetDict(train=rows(3), test_novel=rows(2, first=5)).save_to_disk(tmp_path / "several")
    several = open_images(str(tmp_path / "several"))
    assert sizes(several) == {"train": 3, "test_novel": 2} and class_names(several)[1] == {0: "cat", 1: "dög"}


# --- Folders of images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [None, "jsonl", "parquet"])
def test_classes_are_folders_and_captions_come_from_metadata(tmp_path, metadata):
    files, here = ["cat/1.png", "cat/2.png", "dög/1.png", "dög/ß 3.png"], tmp_path / "here"
    save_pictures(here, files, captions_in="." if metadata == "jsonl" else None)
    if metadata == "parquet":
        table = {"file_name": files[::-1], "caption": [f"that of {file}" for file in files[::-1]]}
        Dataset.from_dict(table).to_parquet(here / "metadata.parquet")
    assert classes_by_id(here) == {file: file.split("/")[0] for file in files}
    train = load_images(here)["train"]
    if metadata is not None:
        assert by_id(train, "caption") == {file: f"that of {file}" for file in files}
    here.rename(tmp_path / "moved")
    assert load_images(tmp_path / "moved")["train"]["image_id"][:] == train["image_id"][:]


@pytest.mark.parametrize("captions", [False, True], ids=["plain", "with metadata"])
@pytest.mark.parametrize("train, test", [("train", "test"), ("Training", "test_novel")])
def test_split_folders_share_one_list_of_classes(tmp_path, train, test, captions):
    """Class numbers agree although `test` has one class alone; captions are wanted of the training images alone."""
    files = [f"{train}/{name}/{number}.png" for name in ("cat", "dog", "elk") for number in (1, 2)]
    save_pictures(tmp_path, files, captions_in=train if captions else None)
    save_pictures(tmp_path, [f"{test}/elk/1.png", f"{test}/elk/2.png"])
    splits = load_images(tmp_path)
    assert sizes(splits) == {"train": 6, test: 2} and splits[test].features["label"].names == ["cat", "dog", "elk"]
    assert splits["train"]["label"][:] == [0, 0, 1, 1, 2, 2] and splits[test]["label"][:] == [2, 2]
    assert ("caption" in splits["train"].column_names) == captions and "caption" not in splits[test].column_names


def test_a_class_or_file_called_train_is_no_split(tmp_path):
    """`datasets` would load the pictures of that class, or that one file, and leave out all others."""
    save_pictures(tmp_path / "flat", ["bus/1.png", "car/a test of brakes.png", "train/1.png"])
    expected = {"bus/1.png": "bus", "car/a test of brakes.png": "car", "train/1.png": "train"}
    assert classes_by_id(tmp_path / "flat") == expected
    save_pictures(tmp_path / "split", ["train/bus/1.png", "train/train/2.png", "test/bus/3.png", "test/train/4.png"])
    assert classes_by_id(tmp_path / "split") == {"bus/1.png": "bus", "train/2.png": "train"}
    assert classes_by_id(tmp_path / "split", "test") == {"bus/3.png": "bus", "train/4.png": "train"}


def test_images_beside_the_class_folders_have_no_class(tmp_path):
    save_pictures(tmp_path / "pets", ["1.png", "cat/2.png", "dog/3.png"])
    train = load_images(tmp_path / "pets")["train"]
    assert train.features["label"].names == ["cat", "dog"]
    assert by_id(train, "label") == {"pets/1.png": None, "cat/2.png": 0, "dog/3.png": 1}


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled", "unlabelled/batch 1"])
def test_a_folder_called_unlabelled_is_no_class(tmp_path, name):
    files = ["train/cat/1.png", "train/dog/2.png", f"train/{name}/3.png", "test/cat/4.png", "test/dog/5.png"]
    save_pictures(tmp_path, files)
    train = load_images(tmp_path)["train"]
    assert train.features["label"].names == ["cat", "dog"]
    assert by_id(train, "label") == {"cat/1.png": 0, "dog/2.png": 1, f"{Path(name).name}/3.png": None}


def test_images_that_metadata_does_not_name_are_told(tmp_path, caplog):
    save_pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png"], captions_in="train")
    open_images(str(tmp_path))
    assert "left out" not in caplog.text
    others = ["train/dog/3.png", "train/__MACOSX/4.png", "train/5.png", "train/unlabelled/6.png", "train/owl/7.png"]
    save_pictures(tmp_path, others)
    train = load_images(tmp_path)["train"]
    captions = {"cat/1.png": "that of cat/1.png", "dog/2.png": "that of dog/2.png"}
    assert by_id(train, "caption") == captions | {"dog/3.png": None, "owl/7.png": None}
    assert by_id(train, "label") == {"cat/1.png": 0, "dog/2.png": 1, "dog/3.png": 1, "owl/7.png": 2}
    assert "Split 'train': 2 of 6 images have no line in its metadata file. They have the label" in caplog.text
    assert (
        "Split 'train': 2 of 6 images are in no line of its metadata file and in no folder of a class" in caplog.text
    )


def test_metadata_beside_the_splits_is_no_captions(tmp_path):
    files = ["train/cat/1.png", "train/dog/2.png", "validation/cat/3.png"]
    save_pictures(tmp_path, files, captions_in=".")
    assert re.search(r"metadata\.jsonl is not read, .*\(train, validation\).*within its folder", one_line(tmp_path))


# --- Columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_renamed_to_ours_and_the_images_stay_where_they_are(tmp_path):
    theirs = rows(3).rename_columns({"image": "Bild", "label": "Klasse", "caption": "text"})
    theirs.add_column("number", [7, 8, 9]).add_column("label", ["in the way"] * 3).save_to_disk(tmp_path)
    files = sorted(tmp_path.rglob("*"))
    named = {"image_column": "Bild", "label_column": "Klasse", "caption_column": "text", "image_id_column": "number"}
    train = load_images(tmp_path, **named)["train"]
    assert sorted(tmp_path.rglob("*")) == files
    assert set(train.column_names) == {"image", "label", "caption", "image_id"}
    assert train["label"][:] == [0, 1, 0] and train["caption"][:] == ["caption 0", "caption 1", "caption 2"]
    assert train["image_id"][:] == ["7", "8", "9"]  # ids are text, whatever the data holds


@pytest.mark.parametrize(
    "column, values, message",
    [
        ("pictures", [1, 2], r"Split 'train' has no column 'image'. Its columns: pictures. .*--image_column"),
        ("image", [1, 2], r"Split 'train', column 'image': .*int64.* is no image. .*--image_column"),
        ("image", ["nowhere.png"], r"Split 'train', column 'image', row 0: there is no file 'nowhere.png'. Add"),
        ("image", [{"bytes": b"x", "path": None}, None], "Split 'train', column 'image', row 1: null. Add the image"),
    ],
    ids=["another name", "numbers", "no such file", "null"],
)
def test_a_column_without_images_is_an_error_that_names_it(tmp_path, column, values, message):
    Dataset.from_dict({column: values}).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_images(str(tmp_path))


# --- Ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        [None] * 5,
        ["a.png", "b.png", "c.png", "d.png", "e.png"],
        ["image.png"] * 5,
        ["image.png", "image.png", "b.png", None, "no_suffix"],
    ],
    ids=["nameless", "names", "one name for all", "mixed"],
)
def test_made_ids_are_unique_and_stay_with_their_image_under_reordering(tmp_path, names):
    """Of pictures in a table, with the file names they had."""
    stored = rows(5).cast_column("image", Image(decode=False))["image"][:]
    images = [{"bytes": image["bytes"], "path": name} for image, name in zip(stored, names, strict=True)]
    features = Features({"image": Image(), "seed": Value("int32")})
    ids = {}
    for order in ([0, 1, 2, 3, 4], [3, 1, 4, 0, 2]):
        columns = {"image": [images[row] for row in order], "seed": order}
        Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / str(order[0]))
        train = open_images(str(tmp_path / str(order[0])))["train"]
        assert len(set(train["image_id"][:])) == 5
        ids[order[0]] = dict(zip(train["seed"], train["image_id"], strict=True))
    assert ids[0] == ids[3]
    twice = {"image": [images[0], images[0], images[1]], "seed": [0, 0, 1]}  # the same image twice has two ids
    Dataset.from_dict(twice, features=features).save_to_disk(tmp_path / "twice")
    assert len(set(open_images(str(tmp_path / "twice"))["train"]["image_id"])) == 3


# --- Files at fault --------------------------------------------------------------------------------------------------


def one_line(folder: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_images(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_dataset_of_several_configurations_names_them_and_the_option(tmp_path):
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        rows(2).to_parquet(tmp_path / name / "train.parquet")
    listed = "".join(f"- config_name: {name}\n  data_files: {name}/train.parquet\n" for name in ("small", "large"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    assert re.search(r"--dataset_config_name: \['small', 'large'\]\.$", one_line(tmp_path))
    assert len(load_images(tmp_path, dataset_config_name="small")["train"]) == 2


def test_archives_are_to_be_unpacked(tmp_path):
    save_pictures(tmp_path / "loose", ["cat/1.png", "dog/2.png"])
    shutil.make_archive(str(tmp_path / "archived" / "pictures"), "zip", tmp_path / "loose")
    assert "unpack pictures.zip" in one_line(tmp_path / "archived")


def test_faults_of_metadata_are_named(tmp_path):
    save_pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png"], captions_in="train")
    metadata = tmp_path / "train" / "metadata.jsonl"
    lines = metadata.read_text()
    metadata.write_text(lines + "\n" + lines.splitlines()[0])
    assert re.search(r"'train'.* names the image .*cat/1\.png 2 times.*Keep one line", one_line(tmp_path))
    metadata.write_text(lines.rstrip()[:-3])
    assert f"{metadata}, line 2 is no JSON object. Correct the line." in one_line(tmp_path)


def test_a_file_name_that_is_not_utf_8_is_named(tmp_path):
    save_pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png"])
    try:
        os.rename(tmp_path / "train/cat/1.png", os.fsencode(tmp_path / "train/cat") + b"/caf\xe9.png")
    except OSError:
        pytest.skip("file names are UTF-8 here")
    assert r"caf\xe9.png' is not UTF-8. Rename the file" in one_line(tmp_path)


@pytest.mark.parametrize("damage", ["shortened", "overwritten", "footer", "empty"])
def test_a_parquet_file_at_fault_is_named(tmp_path, damage):
    table = pa.table({"image_id": [f"{row}" for row in range(1000)]})
    for split in ("train", "validation"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    file = tmp_path / "validation.parquet"
    content = bytearray(file.read_bytes())
    if damage == "shortened":
        file.write_bytes(content[:-50])
    elif damage == "empty":
        pq.write_table(table.slice(0, 0), file)
    else:
        place = slice(4, 200) if damage == "overwritten" else slice(-100, -20)
        content[place] = bytes(len(content[place]))
        file.write_bytes(content)
    said = r"has no rows\. Remove it" if damage == "empty" else r"is damaged \(.*\)\. Make or download it again"
    assert re.search(rf"{re.escape(str(file))} {said}", one_line(tmp_path))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_images_is_named(tmp_path, split):
    save_pictures(tmp_path, [f"{other}/cat/1.png" for other in ("train", "validation") if other != split])
    (tmp_path / split).mkdir()
    (tmp_path / split / "notes.txt").touch()
    assert f"neither Parquet nor images of the split '{split}' there. Add images" in one_line(tmp_path)
