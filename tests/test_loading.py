"""One argument opens every kind of image data set, with the same columns, ids and class names."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage

from g4i_hf import load_images
from g4i_hf.data.checks import DataError, check_split
from g4i_hf.data.loading import class_names, open_images
from g4i_hf.data.naming import check_dataset_name
from g4i_hf.data.stage import Source, write_stage

EMOJI_STYLES = Path(__file__).parent.parent / "recipes" / "emoji_styles"
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dög"]), "caption": Value("string")})


def picture(seed: int) -> PILImage.Image:
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8))


def rows(count: int, first: int = 0) -> Dataset:
    """Different pictures without file names, two classes, a caption each."""
    columns = {
        "image": [picture(seed) for seed in range(first, first + count)],
        "label": [seed % 2 for seed in range(first, first + count)],
        "caption": [f"caption {seed}" for seed in range(first, first + count)],
    }
    return Dataset.from_dict(columns, features=FEATURES)


def save_pictures(folder: Path, files: list[str], captions_in: str | None = None) -> None:
    """Picture files; with `captions_in`, a metadata.jsonl in that folder whose captions name the file."""
    for seed, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(folder / file)
    if captions_in is not None:
        root = folder / captions_in
        inside = [
            Path(file).relative_to(captions_in).as_posix() for file in files if (folder / file).is_relative_to(root)
        ]
        lines = [json.dumps({"file_name": file, "caption": f"that of {file}"}, ensure_ascii=False) for file in inside]
        (root / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def sizes(splits: DatasetDict) -> dict[str, int]:
    return {name: len(split) for name, split in splits.items()}


def labels_by_id(splits: DatasetDict, split: str = "train") -> dict[str, str]:
    """image_id -> class name"""
    splits, id2label = class_names(splits)
    return {row["image_id"]: id2label[row["label"]] for row in splits[split]}


# --- Folders of Parquet ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files, expected",
    [
        (["train", "test", "test_novel"], {"train": 1, "test": 2, "test_novel": 3}),
        (["train-00000-of-00002", "train-00001-of-00002"], {"train": 3}),
        (["data/train-00000-of-00001-0a1b2c3d", "data/test-00000-of-00001-9f8e7d6c"], {"train": 1, "test": 2}),
        (["default/train/0000", "default/train/0001", "default/test/0000"], {"train": 3, "test": 3}),
        (["data/part-0", "data/part-1"], {"train": 3}),
        (["Épreuve [1]"], {"Épreuve_1_": 1}),
    ],
    ids=["files", "shards", "hashed-shards", "folders", "numbers-alone", "odd-name"],
)
def test_folder_of_parquet_has_one_split_a_name(tmp_path, files, expected):
    for number, file in enumerate(files):
        path = tmp_path / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows(number + 1, first=10 * number).to_parquet(path)
    splits = open_images(str(tmp_path))
    assert sizes(splits) == expected
    for split in splits.values():
        assert split.features["label"] == FEATURES["label"]
        assert len(set(split["image_id"][:])) == len(split)


def test_emoji_styles_has_its_four_splits():
    splits = open_images(str(EMOJI_STYLES))
    assert sizes(splits) == {"train": 2897, "validation": 316, "test": 1192, "test_novel": 222}
    _, id2label = class_names(splits)
    assert len(id2label) == 58 and "animal-bird" in id2label.values()
    for split in splits.values():
        assert len(set(split["image_id"][:])) == len(split)
        assert {"image", "label", "caption", "image_id"} <= set(split.column_names)


def test_stage_and_hidden_folders_inside_are_no_data(tmp_path):
    rows(2).to_parquet(tmp_path / "train.parquet")
    write_stage(tmp_path / "embeddings", {"train": Dataset.from_dict({"image_id": ["a"]})}, {"source": ".."})
    (tmp_path / ".embeddings.parts").mkdir()
    Dataset.from_dict({"caption": ["a"]}).to_parquet(tmp_path / ".embeddings.parts" / "0.parquet")
    assert sizes(open_images(str(tmp_path))) == {"train": 2}


# --- Imagefolders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("captions", [False, True], ids=["class-folders", "class-folders-and-metadata"])
def test_imagefolder_has_classes_from_folders_and_captions_from_metadata(tmp_path, captions):
    files = ["cat/1.png", "cat/2.png", "dög/1.png", "dög/ß 3.png"]
    save_pictures(tmp_path, files, captions_in="." if captions else None)
    splits = open_images(str(tmp_path))
    assert labels_by_id(splits) == {"cat/1.png": "cat", "cat/2.png": "cat", "dög/1.png": "dög", "dög/ß 3.png": "dög"}
    if captions:
        train = splits["train"]
        assert dict(zip(train["image_id"], train["caption"], strict=True)) == {f: f"that of {f}" for f in files}


def test_imagefolder_takes_captions_from_metadata_in_parquet(tmp_path):
    save_pictures(tmp_path, ["cat/1.png", "dog/2.png"])
    table = {"file_name": ["dog/2.png", "cat/1.png"], "caption": ["of dog", "of cat"]}
    Dataset.from_dict(table).to_parquet(tmp_path / "metadata.parquet")
    splits = open_images(str(tmp_path))
    assert labels_by_id(splits) == {"cat/1.png": "cat", "dog/2.png": "dog"}
    captions = dict(zip(splits["train"]["image_id"], splits["train"]["caption"], strict=True))
    assert captions == {"cat/1.png": "of cat", "dog/2.png": "of dog"}


@pytest.mark.parametrize("captions", [False, True], ids=["plain", "with-metadata"])
@pytest.mark.parametrize("train, test", [("train", "test"), ("Training", "test_novel")])
def test_split_folders_share_one_list_of_classes(tmp_path, train, test, captions):
    """Class numbers agree although `test` has neither all classes nor, in the last case, more than one."""
    for folder, classes in ((train, ("cat", "dog", "elk")), (test, ("elk",))):
        files = [f"{folder}/{name}/{number}.png" for name in classes for number in (1, 2)]
        save_pictures(tmp_path, files, captions_in=folder if captions else None)
    splits = open_images(str(tmp_path))
    assert sizes(splits) == {"train": 6, test: 2}
    splits, id2label = class_names(splits)
    assert list(id2label.values()) == ["cat", "dog", "elk"]
    assert splits["train"]["label"][:] == [0, 0, 1, 1, 2, 2] and splits[test]["label"][:] == [2, 2]
    if captions:
        assert splits[test]["caption"][:] == ["that of elk/1.png", "that of elk/2.png"]


def test_a_class_or_file_called_train_is_no_split(tmp_path):
    """`datasets` would load the pictures of that class, or that one file, and leave out all others."""
    save_pictures(tmp_path / "flat", ["bus/1.png", "car/a test of brakes.png", "train/1.png"])
    expected = {"bus/1.png": "bus", "car/a test of brakes.png": "car", "train/1.png": "train"}
    assert labels_by_id(open_images(str(tmp_path / "flat"))) == expected

    save_pictures(tmp_path / "split", ["train/bus/1.png", "train/train/2.png", "test/bus/3.png", "test/train/4.png"])
    splits = open_images(str(tmp_path / "split"))
    assert labels_by_id(splits) == {"bus/1.png": "bus", "train/2.png": "train"}
    assert labels_by_id(splits, "test") == {"bus/3.png": "bus", "train/4.png": "train"}


def test_captions_are_needed_of_the_training_images_alone(tmp_path):
    """Metadata in one split; `datasets` wants the same columns, and the same kind of files, in all."""
    save_pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png"], captions_in="train")
    save_pictures(tmp_path, ["validation/cat/3.png", "validation/dog/4.png"])
    splits = open_images(str(tmp_path))
    assert splits["train"]["caption"][:] == ["that of cat/1.png", "that of dog/2.png"]
    assert "caption" not in splits["validation"].column_names
    assert labels_by_id(splits) == {"cat/1.png": "cat", "dog/2.png": "dog"}
    assert labels_by_id(splits, "validation") == {"cat/3.png": "cat", "dog/4.png": "dog"}


@pytest.mark.parametrize("others", ["dog", "elk"])
def test_labels_of_metadata_beside_class_folders(tmp_path, others):
    """The classes of both, also where the folders are of one class."""
    save_pictures(tmp_path, ["train/1.png", "train/2.png", "train/3.png", f"validation/{others}/4.png"])
    lines = [{"file_name": "1.png", "label": "dog"}, {"file_name": "2.png", "label": "cat"}, {"file_name": "3.png"}]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    if others == "elk":  # no name that the metadata knows, and a single folder: no class
        assert "label" not in open_images(str(tmp_path))["validation"].column_names
        return
    splits, id2label = class_names(open_images(str(tmp_path)))
    assert list(id2label.values()) == ["cat", "dog"]
    labels = dict(zip(splits["train"]["image_id"], splits["train"]["label"], strict=True))
    assert labels == {"train/1.png": 1, "train/2.png": 0, "train/3.png": None}
    assert splits["validation"]["label"][:] == [1]


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled", "unlabelled/batch 1"])
def test_a_folder_called_unlabelled_is_no_class(tmp_path, name):
    files = ["train/cat/1.png", "train/dog/2.png", f"train/{name}/3.png", "test/cat/4.png", "test/dog/5.png"]
    save_pictures(tmp_path, files)
    splits, id2label = class_names(open_images(str(tmp_path)))
    assert list(id2label.values()) == ["cat", "dog"]
    train = splits["train"]
    labels = dict(zip(train["image_id"], train["label"], strict=True))
    assert labels == {"cat/1.png": 0, "dog/2.png": 1, f"{Path(name).name}/3.png": None}
    with pytest.raises(DataError, match="--require_labels false"):
        check_split(train, "train", num_labels=2)


def test_images_beside_class_folders_are_of_the_class_called_as_the_folder(tmp_path):
    save_pictures(tmp_path / "pets", ["1.png", "cat/2.png"])
    assert sorted(labels_by_id(open_images(str(tmp_path / "pets"))).values()) == ["cat", "pets"]


def test_images_that_metadata_does_not_name_are_told(tmp_path, caplog):
    save_pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png"], captions_in="train")
    open_images(str(tmp_path))
    assert "left out" not in caplog.text
    save_pictures(tmp_path, ["train/dog/3.png", "train/__MACOSX/4.png"])
    assert sizes(open_images(str(tmp_path))) == {"train": 2}
    assert "Split 'train': 1 of 3 images are in no line of its metadata file" in caplog.text


def test_archives_are_to_be_unpacked(tmp_path):
    save_pictures(tmp_path / "loose", ["cat/1.png", "dog/2.png"])
    shutil.make_archive(str(tmp_path / "archived" / "pictures"), "zip", tmp_path / "loose")
    with pytest.raises(ValueError, match=r"unpack pictures\.zip"):
        open_images(str(tmp_path / "archived"))


@pytest.mark.parametrize(
    "files", [["cat/1.png", "dog/2.png"], ["train/1.png", "test/2.png"]], ids=["classes", "splits"]
)
def test_imagefolder_with_a_stage_inside_opens_as_before(tmp_path, files):
    save_pictures(tmp_path, files)
    before = open_images(str(tmp_path))
    write_stage(tmp_path / "embeddings", {"train": Dataset.from_dict({"image_id": ["a"]})}, {"source": ".."})
    after = open_images(str(tmp_path))
    assert sizes(after) == sizes(before) == ({"train": 2} if files[0] == "cat/1.png" else {"test": 1, "train": 1})
    assert after["train"][:] == before["train"][:]


# --- Folders of save_to_disk -------------------------------------------------------------------------------------


def test_save_to_disk_folder_of_a_dataset_is_the_split_train(tmp_path):
    rows(3).save_to_disk(tmp_path)
    splits = open_images(str(tmp_path))
    assert sizes(splits) == {"train": 3}
    assert [row["bytes"] for row in splits["train"]["image"]] == [
        row["bytes"] for row in rows(3).cast_column("image", Image(decode=False))["image"]
    ]


def test_save_to_disk_folder_of_several_splits(tmp_path):
    DatasetDict(train=rows(3), test_novel=rows(2, first=5)).save_to_disk(tmp_path)
    splits = open_images(str(tmp_path))
    assert sizes(splits) == {"train": 3, "test_novel": 2}
    assert class_names(splits)[1] == {0: "cat", 1: "dög"}


# --- Column names ------------------------------------------------------------------------------------------------


def test_columns_are_renamed_to_ours(tmp_path):
    theirs = rows(3).rename_columns({"image": "Bild", "label": "Klasse", "caption": "text"})
    theirs = theirs.add_column("number", [7, 8, 9]).add_column("label", ["in the way"] * 3)
    theirs.save_to_disk(tmp_path)
    named = {"image": "Bild", "label": "Klasse", "caption": "text", "image_id": "number"}
    files = sorted(tmp_path.rglob("*"))
    train = open_images(Source(str(tmp_path), columns=named))["train"]
    assert sorted(tmp_path.rglob("*")) == files  # the images are not written again
    assert set(train.column_names) == {"image", "label", "caption", "image_id"}
    assert train["label"][:] == [0, 1, 0] and train["caption"][:] == ["caption 0", "caption 1", "caption 2"]
    assert train["image_id"][:] == ["7", "8", "9"]  # ids are text, whatever the data holds


@pytest.mark.parametrize("column", ["image", "label", "caption", "image_id"])
def test_a_named_column_that_is_missing_is_an_error(tmp_path, column):
    rows(1).save_to_disk(tmp_path)
    message = rf"Split 'train' has no column 'oops' \(given as {column}_column\). Its columns: image, label, caption"
    with pytest.raises(ValueError, match=message):
        open_images(Source(str(tmp_path), columns={column: "oops"}))


@pytest.mark.parametrize(
    "column, values, message",
    [
        ("pictures", [1, 2], r"Split 'train' has no column 'image'. Its columns: pictures. .*--image_column"),
        ("image", [1, 2], r"Split 'train', column 'image': .*int64.* is no image. .*--image_column"),
        ("image", ["nowhere.png"], r"Split 'train', column 'image', row 0: there is no file 'nowhere.png'. Add"),
    ],
)
def test_a_column_without_images_is_an_error_that_names_it(tmp_path, column, values, message):
    Dataset.from_dict({column: values}).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_images(str(tmp_path))


def test_a_null_image_is_an_error_that_names_its_row(tmp_path):
    features = Features({"image": Image()})
    Dataset.from_dict({"image": [picture(0), None]}, features=features).save_to_disk(tmp_path)
    with pytest.raises(
        ValueError, match="Split 'train', column 'image', row 1: null. Add the image or remove the row"
    ):
        open_images(str(tmp_path))


@pytest.mark.parametrize("name", ["./pictures", "/nowhere/pictures", "pictures/", "my/own/pictures"])
def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match=f"dataset_name is '{name}', but there is no such folder"):
        open_images(name)


def test_a_folder_without_images_is_an_error_that_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("no pictures")
    with pytest.raises(FileNotFoundError, match="neither Parquet nor images"):
        open_images(str(tmp_path))


# --- Class names -------------------------------------------------------------------------------------------------


def with_labels(values: list, feature=None) -> Dataset:
    return rows(len(values)).remove_columns("label").add_column("label", values, feature=feature)


@pytest.mark.parametrize(
    "values, names, expected",
    [
        (["ßeta", "alpha", None, "ßeta"], ["alpha", "ßeta"], [1, 0, None, 1]),
        ([2, 0, None, 2], ["0", "1", "2"], [2, 0, None, 2]),
    ],
    ids=["strings", "integers"],
)
def test_class_names_from_a_column_without_names(values, names, expected):
    splits, id2label = class_names(DatasetDict(train=with_labels(values)))
    assert list(id2label.values()) == names
    assert splits["train"].features["label"] == ClassLabel(names=names)
    assert splits["train"]["label"][:] == expected


@pytest.mark.parametrize(
    "other",
    [
        with_labels([0, 1], ClassLabel(names=["dög", "cat"])),
        with_labels(["dög", "cat"]),
        with_labels([1, 0]),
    ],
    ids=["other-order", "strings", "integers"],
)
def test_all_splits_get_the_class_numbers_of_the_first(other):
    splits, id2label = class_names(DatasetDict(train=rows(2), test=other))
    assert id2label == {0: "cat", 1: "dög"}
    assert splits["test"]["label"][:] == [1, 0]
    assert splits["test"].features["label"] == splits["train"].features["label"]


def test_a_split_without_labels_stays_without():
    splits, _ = class_names(DatasetDict(train=rows(2), test=rows(2).remove_columns("label")))
    assert "label" not in splits["test"].column_names


@pytest.mark.parametrize(
    "labels, message",
    [
        (
            with_labels([[0], [0, 1]]),
            "Column 'label' of split 'test' holds lists: multi-label data is not supported. Give",
        ),
        (with_labels([0.5, 1.0]), "Column 'label' holds .*float64.* Store labels as strings, integers or ClassLabel"),
        (with_labels(["cat", "elk"]), "Split 'test', column 'label', row 1: 'elk' is none of the 2 classes"),
        (with_labels([0], ClassLabel(names=["elk"])), "Split 'test', column 'label', row 0: 'elk' is none of the 2"),
    ],
    ids=["multi-label", "floats", "unknown-name", "unknown-class"],
)
def test_labels_that_are_no_classes_are_refused_by_name(labels, message):
    train = with_labels([1.0, 0.5]) if "float64" in message else rows(2)
    with pytest.raises(ValueError, match=message):
        class_names(DatasetDict(train=train, test=labels))


def test_no_label_column_anywhere_is_an_error_with_a_remedy():
    message = "No column 'label' in the data. Its columns: caption, image. .*--label_column"
    with pytest.raises(ValueError, match=message):
        class_names(DatasetDict(train=rows(2).remove_columns("label")))


# --- Ids ---------------------------------------------------------------------------------------------------------


def named_images(names: list[str | None], seeds: list[int]) -> Dataset:
    """Pictures in a table, with the file names they had, as a published imagefolder has them."""
    encoded = rows(max(seeds) + 1).cast_column("image", Image(decode=False))["image"][:]
    images = [{"bytes": encoded[seed]["bytes"], "path": name} for name, seed in zip(names, seeds, strict=True)]
    return Dataset.from_dict(
        {"image": images, "seed": seeds}, features=Features({"image": Image(), "seed": Value("int32")})
    )


@pytest.mark.parametrize(
    "names",
    [
        [None] * 5,
        ["a.png", "b.png", "c.png", "d.png", "e.png"],
        ["image.png"] * 5,
        ["image.png", "image.png", "b.png", None, "no_suffix"],
    ],
    ids=["nameless", "names", "one-name-for-all", "mixed"],
)
def test_made_ids_are_unique_and_stay_with_their_image_under_reordering(tmp_path, names):
    data = named_images(names, seeds=[0, 1, 2, 3, 4])
    ids = {}
    for name, order in (("forward", [0, 1, 2, 3, 4]), ("shuffled", [3, 1, 4, 0, 2])):
        data.select(order).save_to_disk(tmp_path / name)
        train = open_images(str(tmp_path / name))["train"]
        assert len(set(train["image_id"][:])) == 5
        ids[name] = dict(zip(train["seed"], train["image_id"], strict=True))
    assert ids["forward"] == ids["shuffled"]


def test_the_same_image_twice_gets_two_ids(tmp_path):
    named_images([None, None, None, "a.png", "a.png"], seeds=[1, 1, 0, 1, 1]).save_to_disk(tmp_path)
    assert len(set(open_images(str(tmp_path))["train"]["image_id"])) == 5


def test_ids_of_an_imagefolder_do_not_depend_on_where_it_lies(tmp_path):
    save_pictures(tmp_path / "here", ["cat/1.png", "dog/1.png"])
    (tmp_path / "here").rename(tmp_path / "there")
    assert open_images(str(tmp_path / "there"))["train"]["image_id"][:] == ["cat/1.png", "dog/1.png"]


# --- Stages ------------------------------------------------------------------------------------------------------


@pytest.fixture
def images_and_stage(tmp_path):
    """(folder of images with ids 0 to 3, function that writes a stage beside it with the given ids)"""
    DatasetDict(
        train=rows(4).add_column("image_id", list("0123")), test=rows(2).add_column("image_id", list("ab"))
    ).save_to_disk(tmp_path / "images")

    def stage(ids: list[str], **columns) -> str:
        features = Features({"image_id": Value("string"), "text_embeds": List(Value("float16"), length=2)})
        embeds = [[float(ord(image_id)), 0.5] for image_id in ids]
        train = Dataset.from_dict({"image_id": ids, "text_embeds": embeds}, features=features)
        for name, values in columns.items():
            train = train.add_column(name, values)
        write_stage(tmp_path / "stage", {"train": train}, {"stage": "embedding", "source": "../images"})
        return str(tmp_path / "stage")

    return tmp_path / "images", stage


@pytest.mark.parametrize("ids", ["0123", "3102", "9031x2"], ids=["same-order", "other-order", "more-rows"])
def test_a_stage_is_joined_by_image_id(images_and_stage, ids):
    _, stage = images_and_stage
    splits = open_images(stage(list(ids)))
    assert splits["train"]["image_id"][:] == list("0123")
    assert [embed[0] for embed in splits["train"]["text_embeds"]] == [float(ord(i)) for i in "0123"]
    assert splits["train"].features["text_embeds"] == List(Value("float16"), length=2)
    assert splits["train"]["caption"][:] == [f"caption {i}" for i in range(4)]
    assert "text_embeds" not in splits["test"].column_names  # the stage has no such split


def test_joining_reads_the_images_from_where_they_are(images_and_stage):
    """Nothing is copied: the joined table still lies in the file of the images."""
    images, stage = images_and_stage
    before = {path: path.stat().st_mtime_ns for path in images.rglob("*")}
    train = open_images(stage(list("2310")))["train"]
    files = {file["filename"] for file in train.cache_files}
    assert str(next((images / "train").glob("*.arrow"))) in files
    assert {path: path.stat().st_mtime_ns for path in images.rglob("*")} == before


def test_a_stage_replaces_columns_of_the_same_name(images_and_stage):
    _, stage = images_and_stage
    train = open_images(stage(list("0123"), caption=["new 0", "new 1", "new 2", "new 3"]))["train"]
    assert train["caption"][:] == ["new 0", "new 1", "new 2", "new 3"]


@pytest.mark.parametrize(
    "ids, message",
    [
        ("012", r"split 'train': 1 of 4 images have no row there, the first is '3'. Run the stage again"),
        ("01232", r"Split 'train', column 'image_id', row 4: '2', which row 2 has too"),
    ],
    ids=["missing-row", "doubled-row"],
)
def test_a_stage_that_does_not_fit_is_an_error(images_and_stage, ids, message):
    _, stage = images_and_stage
    with pytest.raises(ValueError, match=message):
        open_images(stage(list(ids)))


def test_a_stage_moves_together_with_its_images(images_and_stage, tmp_path):
    _, stage = images_and_stage
    stage(list("0123"))
    (tmp_path / "moved").mkdir()
    for name in ("images", "stage"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert "text_embeds" in open_images(str(tmp_path / "moved" / "stage"))["train"].column_names


def test_a_stage_without_its_images_says_where_they_were(images_and_stage, tmp_path):
    images, stage = images_and_stage
    folder = stage(list("0123"))
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"those of \.\./images, .*that folder is gone. Put it back"):
        open_images(folder)


def test_a_stage_never_replaces_a_folder_of_other_things(tmp_path):
    save_pictures(tmp_path, ["cat/1.png"])
    with pytest.raises(ValueError, match="holds other files, which a stage would replace. Choose a folder of its own"):
        write_stage(tmp_path, {"train": Dataset.from_dict({"image_id": ["a"]})}, {})
    assert (tmp_path / "cat" / "1.png").is_file()


@pytest.mark.parametrize("name", ["./gone", "runs/pictures/gone", "gone/"])
def test_a_folder_that_is_not_there_is_said_without_asking_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check_dataset_name(name)
    check_dataset_name("user/pictures")
    (tmp_path / name).mkdir(parents=True)
    check_dataset_name(name)


# --- Files at fault --------------------------------------------------------------------------------------------------


def test_an_image_that_metadata_names_twice_is_an_error(tmp_path):
    save_pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png"], captions_in="train")
    metadata = tmp_path / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text() + "\n" + metadata.read_text().splitlines()[0])
    with pytest.raises(ValueError, match=r"'train'.* names the image .*cat/1\.png 2 times.*Keep one line"):
        load_images(tmp_path)


def one_line(folder: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_images(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_broken_line_of_metadata_is_named(tmp_path):
    save_pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png"], captions_in="train")
    metadata = tmp_path / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().rstrip()[:-3])
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
    assert re.search(f"neither Parquet nor images of the split '{split}' there. Add images", one_line(tmp_path))


def test_embeddings_that_are_damaged_are_named(images_and_stage):
    _, stage = images_and_stage
    file = Path(stage(list("0123"))) / "train.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    assert re.search(rf"{re.escape(str(file))} is damaged", one_line(file.parent))
