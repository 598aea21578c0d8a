"""Whether the images that a published stage names have its ids, and whether its card can tell how to join them."""

import logging
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value, load_dataset
from hub_client import serving
from PIL import Image as PILImage
from test_captions_name import IDS, captions_of, save_images
from test_dataset_folder import fresh_cache, snippets  # noqa: F401

from g4i_hf.data import stream
from g4i_hf.data.joining import image_id_of
from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import Source, read_stage, write_stage
from g4i_hf.hub import dataset as published
from g4i_hf.hub.dataset import build_dataset

WORKER = Path(__file__).parent / "workers" / "named_images.py"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """Folders in it are what can be read of the Hub; what is local is never asked for."""

    def opened(name: str, *options, **more):
        place = tmp_path / "hub" / name.removeprefix("hf://datasets/")
        if not name.startswith("hf://datasets/") or not place.is_dir():
            raise ConnectionError(name)
        return load_dataset(str(place), *options, **more)

    monkeypatch.setattr(stream, "load_dataset", opened)
    return tmp_path / "hub" / "me"


def stage_of(folder: Path, ids: list[str] = IDS, **splits) -> Path:
    rows = {"train": captions_of(ids)} | splits
    write_stage(folder, rows, {"stage": "embedding", "text_encoder": "org/encoder", "source": "../pictures"})
    return folder


def rows_of(paths: list[str], **columns) -> Dataset:
    """Rows as `push_to_hub` writes them: of the path of an image its file name alone is left."""
    images = []
    for number, path in enumerate(paths):
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (8, 8), (60 * number % 256, number // 256, 0)).save(place)
        images.append({"path": place.name, "bytes": place.read_bytes()})
    features = {"image": Image()} | {name: Value("string") for name in columns}
    return Dataset.from_dict({"image": images} | columns, features=Features(features))


def test_images_uploaded_as_files_fit(hub, tmp_path, caplog):
    save_images(hub / "files")
    built = build_dataset(stage_of(tmp_path / "s"), tmp_path / "out", images_id="me/files")
    assert (read_stage(built)["source"], read_stage(built)["ids_from"]) == ("me/files", "file")
    assert "images_id" not in caplog.text


@pytest.mark.parametrize("with_column", [False, True])
def test_rows_that_have_lost_their_folders_fit_only_with_a_column_of_ids(hub, tmp_path, monkeypatch, with_column):
    monkeypatch.chdir(tmp_path)
    columns = {"image_id": IDS} if with_column else {}
    rows_of([f"pictures/{i}" for i in IDS], **columns).to_parquet(hub / "rows" / "data" / "train.parquet")
    save_images(Path("me/rows"))  # a folder of that name, which would fit, is not meant
    stage = stage_of(tmp_path / "s")
    if with_column:
        card = (build_dataset(stage, "out", images_id="me/rows") / "README.md").read_text()
        assert 'image_ids = list(map(str, images["image_id"]))' in card
        return
    with pytest.raises(ValueError, match="images_id is me/rows, but no id there is one of the stage") as error:
        build_dataset(stage, "out", images_id="me/rows")
    for said in ("split 'train' is '1.png'", "that of the stage 'cat/1.png'", "hf upload", "`image_id`", "--with_im"):
        assert said in str(error.value)
    assert not Path("out").exists()


def test_other_images_are_refused_and_others_of_their_kind_may_come_later(hub, tmp_path, monkeypatch, caplog):
    stage = stage_of(tmp_path / "s", IDS[3:])
    save_images(hub / "pictures")
    monkeypatch.setattr(published, "SEEN_IDS", 3)
    with caplog.at_level(logging.WARNING):
        build_dataset(stage, tmp_path / "out", images_id="me/pictures")
    assert "the first 3 images of me/pictures are none of the stage's; later ones may be" in caplog.text
    monkeypatch.setattr(published, "SEEN_IDS", 5)
    with pytest.raises(ValueError, match="no id there is one of the stage: the first of split 'train' is 'cat/1.png'"):
        build_dataset(stage_of(tmp_path / "s2", ["cat/9.png"]), tmp_path / "out2", images_id="me/pictures")
    with pytest.raises(ValueError, match="me/pictures, which has the splits .*, but the stage has evening"):
        write_stage(tmp_path / "s3", {"evening": captions_of(IDS)}, {"stage": "captioning", "source": "../pictures"})
        build_dataset(tmp_path / "s3", tmp_path / "out3", images_id="me/pictures")


def test_images_without_the_columns_that_readers_would_ask_for_are_refused(hub, tmp_path):
    write_stage(tmp_path / "s", {"train": captions_of(IDS)},
                {"stage": "captioning", "source": "../pictures", "source_columns": {"image": "photo"}})  # fmt: skip
    save_images(tmp_path / "pictures")
    save_images(hub / "pictures")
    with pytest.raises(ValueError, match="calls its columns otherwise: Split '.*' has no column 'photo'"):
        build_dataset(tmp_path / "s", tmp_path / "out", images_id="me/pictures")


def test_what_cannot_be_read_is_said_and_published_all_the_same(hub, tmp_path, caplog, monkeypatch):
    stage = stage_of(tmp_path / "s")
    with caplog.at_level(logging.WARNING):
        assert read_stage(build_dataset(stage, tmp_path / "out", images_id="me/private"))["source"] == "me/private"
    assert "me/private could not be read (ConnectionError); whether its images have the ids" in caplog.text
    save_images(hub / "files")
    monkeypatch.setattr(published, "image_id_of", lambda image: 1 / 0)  # half-way
    build_dataset(stage, tmp_path / "out", images_id="me/files")
    assert "me/files could not be read (ZeroDivisionError)" in caplog.text


def test_published_images_are_their_own(tmp_path, caplog):
    """Nothing is joined then, and nothing looked up."""
    save_images(tmp_path / "pictures")
    build_dataset(stage_of(tmp_path / "s"), tmp_path / "out", images_id="me/pictures", with_images=True)
    assert "images_id" not in caplog.text


@pytest.mark.slow
def test_images_that_were_pushed_in_three_ways(tmp_path):
    save_images(tmp_path / "pictures")
    stage_of(tmp_path / "stage", IDS[::-1], test=captions_of(IDS))
    with serving() as hub:
        found = hub.run(WORKER, tmp_path / "home", tmp_path)
    assert "me/rows, but no id there is one of the stage" in found["rows"] and "is '1.png'" in found["rows"]
    assert found["streamed"] == IDS and found["as stored"] == [True] * 4
    assert (found["files"], found["whole"], found["nothing"]) == ("file", "column", "file")
    for name in ("files", "whole"):
        assert found[f"{name} joined"] == found[f"{name} by the snippet"] == {i: f"of {i}" for i in IDS}


@pytest.mark.parametrize("column", ["image", "picture"])
def test_images_of_a_stream_are_as_they_were_stored(hub, tmp_path, monkeypatch, column):
    """Neither decoded nor encoded again on the way, so that their ids are those of the data set that is downloaded."""
    monkeypatch.chdir(tmp_path)
    rows = rows_of(["pictures/0.jpg", "pictures/1.png"])
    rows.rename_columns({"image": column}).to_parquet(hub / "rows" / "train.parquet")
    named = {"image": column}
    streamed = list(stream.stream_images(Source("hf://datasets/me/rows", columns=named))["train"])
    stored = open_images(Source(str(hub / "rows"), columns=named))["train"]
    assert [row["image"] for row in streamed] == stored["image"][:]
    assert [image_id_of(row["image"]) for row in streamed] == stored["image_id"][:] == ["0.jpg", "1.png"]
    with pytest.raises(ValueError, match="has no column 'label'"):
        stream.stream_images(Source("hf://datasets/me/rows", columns={"image": "label"}))


# --- Ids of the card's snippet ---------------------------------------------------------------------------------------


def test_ids_that_are_numbers_are_joined_by_the_snippet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = rows_of([f"pictures/{number}.png" for number in range(4)]).add_column("image_id", [7, 5, 3, 1])
    rows.to_parquet(tmp_path / "path" / "to" / "images" / "train.parquet")
    images = open_images("path/to/images")
    assert images["train"]["image_id"][:] == ["7", "5", "3", "1"]
    captions = captions_of(IDS).remove_columns("image_id").add_column("image_id", ["1", "3", "5", "7"])
    write_stage(tmp_path / "s", {"train": captions}, {"stage": "captioning", "source": "path/to/images"})
    build_dataset("s", "me/captions", repo_id="me/captions")
    seen: dict = {}
    exec(snippets(Path("me/captions/README.md").read_text())[1], seen)
    assert seen["joined"]["caption"][:] == [f"of {i}" for i in IDS[::-1]]


@pytest.mark.parametrize(
    "ids, ids_from",
    [
        (["a/0.png", "a/1.png", "0.png#b0e04e15e40be1d99e4bd2b5"], None),
        (["a/0.png", "b0e04e15e40be1d99e4bd2b5"], None),
        (["b0e04e15e40be1d99e4bd2b5", "b0e04e15e40be1d99e4bd2b6#2"], None),
        (["a/0.png", "b.JPEG"], "file"),
        (["b0e04e15e40be1d99e4bd2b5"], "content"),
        (["a/0.png", "4711"], "column"),
        (["4711#1", "4711#2"], "column"),
    ],
)
def test_the_card_has_a_snippet_where_every_id_can_be_made_by_it(tmp_path, ids, ids_from):
    folder = build_dataset(stage_of(tmp_path / "s", ids), tmp_path / "out")
    assert read_stage(folder)["ids_from"] == ids_from
    card = (folder / "README.md").read_text()
    assert ("With their images, by `datasets` alone" in card) == (ids_from is not None)
    assert "--captions_name path/to/captions" in card and "`image_id` | names the image" in card
