"""Captions of one data set joined to the images of another, with `captions_name`."""

from pathlib import Path

import make
import pytest
from datasets import Dataset, List, Value

from g4i_hf import load_images
from g4i_hf.data import joining
from g4i_hf.data.stage import Source, write_stage

IDS = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
EMBEDS = List(Value("float16"), length=3)


def save_images(folder: Path) -> Path:
    """An imagefolder with a train and a test split of two classes."""
    return make.folder(folder, [f"{split}/{image_id}" for split in ("train", "test") for image_id in IDS])


def captions_of(ids: list[str | None], **more) -> Dataset:
    """Caption and embedding of each id; the embedding of the n-th of IDS holds n."""
    embeds = [[float(IDS.index(each) if each in IDS else 9)] * 3 for each in ids]
    columns = {"image": None, "label": None, "image_id": ids, "caption": [f"of {each}" for each in ids]}
    return make.rows(len(ids), **columns | {"text_embeds": embeds} | more)


@pytest.fixture
def images(tmp_path) -> Path:
    return save_images(tmp_path / "pictures")


def save_captions(folder: Path, ids: list[str | None], split: str = "train", **more) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    captions_of(ids, **more).to_parquet(folder / f"{split}.parquet")
    return str(folder)


@pytest.mark.parametrize("limit", [0, 1 << 26], ids=["on disk", "in memory"])
@pytest.mark.parametrize("ids", [IDS[::-1], [*IDS[:2], "gone/1.png", IDS[3]]], ids=["all", "three and another"])
def test_each_image_gets_its_own_caption_or_a_null(images, tmp_path, ids, limit, monkeypatch):
    monkeypatch.setattr(joining, "IN_MEMORY", limit)
    splits = load_images(images, captions_name=save_captions(tmp_path / "captions", ids))
    assert "caption" not in splits["test"].column_names and len(splits["test"]) == 4  # there are none of it
    assert splits["train"].features["text_embeds"] == EMBEDS
    for number, row in enumerate(splits["train"]):
        assert row["image_id"] == IDS[number] and Path(row["image"]["path"]).match(f"train/{IDS[number]}")
        has = IDS[number] in ids
        assert row["caption"] == (f"of {IDS[number]}" if has else None)
        assert row["text_embeds"] == ([number] * 3 if has else None)


def test_what_has_no_counterpart_is_reported(images, tmp_path, caplog):
    load_images(images, captions_name=save_captions(tmp_path / "captions", [IDS[0], "gone/1.png", "gone/2.png"]))
    for said in (
        "split 'train': 3 of 4 images have no row there and are used without caption: 'cat/2.png', 'dog/1.png', 'dog",
        "split 'train': 2 of 3 rows there belong to no image and are left out: 'gone/1.png', 'gone/2.png'",
        "no captions of the splits test; they are kept without",
    ):
        assert said in caplog.text


@pytest.mark.parametrize(
    "ids, split, message",
    [
        (["a.png", "b.png"], "train", r"'train': no image_id there.* is 'a.png', that .*'cat/1.png'.*--image_id_c"),
        ([IDS[0], IDS[1], IDS[0]], "train", r"captions: Split 'train'.* row 2: 'cat/1.png', which row 0 has too"),
        ([IDS[0], None], "train", "captions: Split 'train', column 'image_id', row 1: null"),
        (IDS, "evening", "has captions of the splits evening, but the images have test, train"),
    ],
)
def test_captions_that_do_not_fit_are_an_error(images, tmp_path, ids, split, message):
    with pytest.raises(ValueError, match=message):
        load_images(images, captions_name=save_captions(tmp_path / "captions", ids, split))


def test_data_without_ids_captions_or_folders_is_an_error(images, tmp_path):
    captions_of(IDS).rename_column("image_id", "file").to_parquet(tmp_path / "a" / "train.parquet")
    with pytest.raises(ValueError, match="no column 'image_id'.* Its columns: file, caption.*g4i caption"):
        load_images(images, captions_name=str(tmp_path / "a"))
    with pytest.raises(FileNotFoundError, match="captions_name is './c', but there is no such folder"):
        load_images(images, captions_name="./c")


@pytest.mark.parametrize("way", ["captions_name", "stage"])
def test_vectors_and_raw_answers_of_other_captions_are_not_kept(tmp_path, way, caplog):
    """Of images in Parquet beside earlier captions, in two splits, of which one gets new captions."""
    embedded, captions, new = tmp_path / "embedded", tmp_path / "captions", [f"new {i}" for i in IDS]
    for name in ("train", "test"):
        save_captions(embedded, IDS, name, image=[make.stored(make.noise())] * 4, caption_raw=["OLD"] * 4)
    about = {"stage": "captioning", "source": "../embedded" if way == "stage" else None}
    write_stage(captions, {"train": Dataset.from_dict({"image_id": IDS, "caption": new})}, about)
    loaded = load_images(captions) if way == "stage" else load_images(embedded, captions_name=str(captions))
    for name, split in loaded.items():
        assert split["caption"][:] == (new if name == "train" else [f"of {i}" for i in IDS])
        assert "text_embeds" not in split.column_names
        assert (name == "test") == ("caption_raw" in split.column_names)
    assert "Those of the earlier captions are left out (splits test, train): embed anew" in caplog.text


def test_a_stage_of_the_hub_names_no_folder_of_this_machine():
    """Somebody may have pushed the folder of a stage as it was."""
    for source in ("../pictures", "/home/ann/pictures", "~/pictures", None):
        assert Source.read({"source": source}, "somebody/captions") is None
    assert Source.read({"source": "somebody/pictures"}, "somebody/captions").name == "somebody/pictures"
