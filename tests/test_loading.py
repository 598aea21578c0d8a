"""One name opens every kind of image dataset, with the same columns, ids and class names, or one line says why not."""

import io
import os
import re
import tarfile
from pathlib import Path

import make
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from g4i_hf import load_images
from g4i_hf.data.checks import UNLABELLED, labels_of, readable_rows
from g4i_hf.data.images import BadImageError
from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import write_stage


def rows(count: int, first: int = 0, **columns) -> Dataset:
    """Different images without ids, two classes, a caption each."""
    seeds = range(first, first + count)
    columns = {"image": [make.stored(make.noise(seed)) for seed in seeds], "image_id": None} | columns
    columns = {"label": [seed % 2 for seed in seeds], "caption": [f"caption {seed}" for seed in seeds]} | columns
    return make.rows(count, classes=("cat", "dög"), **columns)


def sizes(splits: DatasetDict) -> dict[str, int]:
    return {name: len(split) for name, split in splits.items()}


def by_id(split: Dataset, column: str) -> dict:
    return dict(zip(split["image_id"], split[column], strict=True))


def classes_by_id(folder: Path, split: str = "train") -> dict[str, str | None]:
    """image_id -> class name, None where there is no label."""
    found = load_images(folder)[split]
    if "label" not in found.column_names:
        return dict.fromkeys(found["image_id"])
    names = found.features["label"].names
    return {key: None if label is None else names[label] for key, label in by_id(found, "label").items()}


def one_line(folder: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_images(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


PARQUET = {
    "hashed": (["data/train-00000-of-00001-0a1b2c3d", "data/test-00000-of-00001-9f8e7d6c"], {"train": 1, "test": 2}),
    "folders": (["default/train/0000", "default/train/0001", "default/test/0000"], {"train": 3, "test": 3}),
    "odd name": (["Épreuve [1]"], {"Épreuve_1_": 1}),
    "other names": (["train", "val", "val_novel"], {"train": 1, "validation": 2, "val_novel": 3}),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_folder_of_parquet_has_one_split_a_name(tmp_path, kind):
    files, expected = PARQUET[kind]
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
        assert split.features["label"].names == ["cat", "dög"] and len(set(split["image_id"][:])) == len(split)


def test_archives_of_a_webdataset_are_read_by_the_members_of_a_key(tmp_path):
    """-1 is no label."""
    rows = make.rows(6, "abc", label=[-1, 0, 1, 2, -1, 0], caption=list("uvwxyz"))
    for name, numbers in {"train-00000": range(4), "train-00001": range(4, 6), "validation-00000": range(2)}.items():
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for row in rows.select(numbers):
                label, text = str(row["label"]).encode(), row["caption"].encode()
                for suffix, content in {"png": row["image"]["bytes"], "cls": label, "txt": text}.items():
                    member = tarfile.TarInfo(f"{row['image_id']}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    named = {"image_column": "png", "label_column": "cls", "caption_column": "txt", "image_id_column": "__key__"}
    found = load_images(tmp_path, **named)
    assert sizes(found) == {"train": 6, "validation": 2}
    assert found["train"]["image_id"][:] == rows["image_id"][:]
    assert labels_of(found["train"]).tolist() == [UNLABELLED, 0, 1, 2, UNLABELLED, 0]
    assert found["train"]["caption"][:] == rows["caption"][:]
    assert [image["bytes"] for image in found["train"]["image"]] == [image["bytes"] for image in rows["image"]]


BUS = {"bus/1.png": "bus", "car/a test of brakes.png": "car", "train/1.png": "train"}
PETS = {"cat/1.png": "cat", "dog/2.png": "dog"}
# What lies in a folder -> image_id and class of `train`
PLACES = {
    "class and file called train": (list(BUS), BUS),  # `datasets` would load that class or file alone
    "beside class folders": (["1.png", *PETS], {"pets/1.png": None} | PETS),
}
SPLIT = [*(f"train/{each}" for each in PETS), "test/cat/4.png", "test/dog/5.png"]
for name in ("unlabelled", "Unlabeled", "unlabelled/batch 1"):
    PLACES[name] = ([*SPLIT, f"train/{name}/3.png"], PETS | {f"{Path(name).name}/3.png": None})


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_is_a_class_a_split_or_neither(tmp_path, place):
    files, expected = PLACES[place]
    assert classes_by_id(make.folder(tmp_path / "pets", files)) == expected


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
    "names",
    [[None] * 5, [f"{name}.png" for name in "abcde"], ["a.png", "a.png", "b.png", None, "c"]],
    ids=["nameless", "names", "mixed"],
)
def test_made_ids_are_unique_and_stay_with_their_image_under_reordering(tmp_path, names):
    """Of images in a table, with the file names they had."""
    images = [image | {"path": name} for image, name in zip(rows(5)["image"], names, strict=True)]
    ids = []
    for number, order in enumerate(([0, 1, 2, 3, 4], [3, 1, 4, 0, 2], [0, 0, 1])):  # the same image twice has two ids
        columns = {"image": [images[row] for row in order], "image_id": None, "label": None, "seed": order}
        make.rows(len(order), **columns).save_to_disk(tmp_path / str(number))
        train = open_images(str(tmp_path / str(number)))["train"]
        ids.append(by_id(train, "seed"))
        assert len(ids[-1]) == len(order)
    assert ids[0] == ids[1]


CATS = ["train/cat/1.png", "train/dog/2.png"]


def column(name: str, values: list):
    return lambda place: Dataset.from_dict({name: values}).save_to_disk(place)


def no_validation_images(place: Path) -> None:
    make.folder(place, [*CATS, "validation/notes.png"])
    (place / "validation" / "notes.png").rename(place / "validation" / "notes.txt")


def not_utf_8(place: Path) -> None:
    make.folder(place, CATS)
    try:
        os.rename(place / "train/cat/1.png", os.fsencode(place / "train/cat") + b"/caf\xe9.png")
    except OSError:
        pytest.skip("file names are UTF-8 here")


def parquet(place: Path, rows: int, damage=lambda content: content) -> None:
    """A sound file, and one of so many rows that is damaged."""
    for name, number in (("train", 1000), ("validation", rows)):
        pq.write_table(pa.table({"image_id": [f"{row}" for row in range(number)]}), place / f"{name}.parquet")
    file = place / "validation.parquet"
    file.write_bytes(damage(file.read_bytes()))


FAULTS = {
    "metadata beside the splits": (
        lambda place: make.folder(place, [*CATS, "validation/cat/3.png"], captions_in="."),
        r"metadata\.jsonl is not read, .*\(train, validation\).*within its folder",
    ),
    "an image twice": (
        lambda place: make.folder(place, [CATS[0], CATS[0]], captions_in="train"),
        r"'train'.* names the image .*cat/1\.png 2 times.*Keep one line",
    ),
    "no image column": (column("pictures", [1, 2]), r"no column 'image'. Its columns: pictures. .*image_column='...'"),
    "numbers": (
        column("image", [1, 2]),
        r"Split 'train', column 'image': .*int64.* is no image. .*image_column='...'",
    ),
    "no such file": (column("image", ["nowhere.png"]), r"'image', row 0: there is no file 'nowhere.png'. Add"),
    "archive": (lambda place: (place / "pictures.zip").touch(), r"unpack pictures\.zip"),
    "not UTF-8": (not_utf_8, r"caf\\xe9.png' is not UTF-8. Rename the file"),
    "empty": (lambda place: parquet(place, 0), r"/validation.parquet has no rows\. Remove it"),
    "shortened": (
        lambda place: parquet(place, 1000, lambda content: content[:-50]),
        r"/validation.parquet is damaged \(.*\)\. Make or download",
    ),
    "no validation images": (
        no_validation_images,
        r"neither Parquet nor images of the split 'validation' there\. Add images",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_its_place_and_the_remedy(tmp_path, fault):
    place = tmp_path / "data"
    place.mkdir()
    prepare, says = FAULTS[fault]
    prepare(place)
    assert re.search(says, one_line(place))


def test_rows_that_cannot_be_read_are_left_out_and_named_and_too_many_are_an_error(tmp_path, caplog):
    files = [f"all/{number:02}.png" for number in range(12)]
    split = open_images(str(make.folder(tmp_path, files) / "all"))["train"]
    for number in (0, 5):
        (tmp_path / files[number]).write_bytes(b"\x89PNG\r\n\x1a\n and no picture")
    readable = readable_rows(split, "validation")
    assert readable["image_id"][:] == [file for file in files if file not in ("all/00.png", "all/05.png")]
    assert "Split 'validation': 2 of 12 images cannot be read and are left out: 'all/00.png'" in caplog.text
    assert readable_rows(readable, "validation") is readable
    for file in files[:-1]:
        (tmp_path / file).write_bytes(b"no picture")
    with pytest.raises(BadImageError, match="11 of 12 images cannot be read, too many.*Is the folder"):
        readable_rows(split, "validation")
