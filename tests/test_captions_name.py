"""Captions of one data set joined to the images of another, with `captions_name`."""

import logging
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from sentence_transformers import SentenceTransformer
from tiny_encoders import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

from g4i_hf.data import joining
from g4i_hf.data.loading import load_data, source_of
from g4i_hf.data.stage import Source, write_stage
from g4i_hf.embedding import EncoderArguments, with_text_embeds
from g4i_hf.options import DataArguments

IDS = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
EMBEDS = List(Value("float16"), length=3)


def save_images(folder: Path) -> Path:
    """An imagefolder with a train and a test split of two classes; each picture has a colour of its own."""
    for split in ("train", "test"):
        for number, image_id in enumerate(IDS):
            path = folder / split / image_id
            path.parent.mkdir(parents=True, exist_ok=True)
            PILImage.new("RGB", (8, 8), (60 * number, 0, 0)).save(path)
    return folder


def captions_of(ids: list[str | None], **more) -> Dataset:
    """Caption and embedding of each id; the embedding of the n-th of IDS holds n."""
    numbers = [IDS.index(i) if i in IDS else 9 for i in ids]
    rows = {
        "image_id": ids,
        "caption": [f"of {i}" for i in ids],
        "text_embeds": [[float(n)] * 3 for n in numbers],
    }
    features = {"image_id": Value("string"), "caption": Value("string")}
    features |= {"text_embeds": EMBEDS} | {name: feature for name, (_, feature) in more.items()}
    return Dataset.from_dict(rows | {name: v for name, (v, _) in more.items()}, features=Features(features))


@pytest.fixture
def images(tmp_path) -> str:
    return str(save_images(tmp_path / "pictures"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> EncoderArguments:
    """The quickest there is: static word vectors of five numbers."""
    folder = tmp_path_factory.mktemp("encoder")
    words = {word: n for n, word in enumerate(["[UNK]", "of", "new", "cat", "dog", "/", "1", "2", "3", "0", "png"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=5)]).save(str(folder))
    return EncoderArguments(text_encoder=str(folder))


def save_captions(folder: Path, ids: list[str | None], split: str = "train", **more) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    captions_of(ids, **more).to_parquet(folder / f"{split}.parquet")
    return str(folder)


def joined(images: str, captions: str, **more) -> DatasetDict:
    return load_data(DataArguments(dataset_name=images, captions_name=captions, **more))


@pytest.mark.parametrize("limit", [0, 1 << 26], ids=["on disk", "in memory"])
@pytest.mark.parametrize("ids", [IDS[::-1], [*IDS[:2], "gone/1.png", IDS[3]]], ids=["all", "three and another"])
def test_each_image_gets_its_own_caption_or_a_null(images, tmp_path, ids, limit, monkeypatch):
    monkeypatch.setattr(joining, "IN_MEMORY", limit)
    splits = joined(images, save_captions(tmp_path / "captions", ids))
    assert "caption" not in splits["test"].column_names and len(splits["test"]) == 4  # there are none of it
    assert splits["train"].features["text_embeds"] == EMBEDS
    for number, row in enumerate(splits["train"]):
        assert row["image_id"] == IDS[number] and Path(row["image"]["path"]).match(f"train/{IDS[number]}")
        has = IDS[number] in ids
        assert row["caption"] == (f"of {IDS[number]}" if has else None)
        assert row["text_embeds"] == ([number] * 3 if has else None)


def test_what_has_no_counterpart_is_reported(images, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    joined(images, save_captions(tmp_path / "captions", [IDS[0], "gone/1.png", "gone/2.png"]))
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
        joined(images, save_captions(tmp_path / "captions", ids, split))


def test_data_without_ids_captions_or_folders_is_an_error(images, tmp_path):
    captions_of(IDS).rename_column("image_id", "file").to_parquet(tmp_path / "a" / "train.parquet")
    with pytest.raises(ValueError, match="no column 'image_id'.* Its columns: file, caption.*g4i caption"):
        joined(images, str(tmp_path / "a"))
    with pytest.raises(FileNotFoundError, match="captions_name is './c', but there is no such folder"):
        joined(images, "./c")


NEW = [f"new {i}" for i in range(4)]


def save_embedded(folder: Path) -> str:
    """Images that lie in Parquet beside their captions, vectors and weights, in a train and a test split."""
    more = {"image": ([PILImage.new("RGB", (8, 8))] * 4, Image()), "caption_raw": (["OLD"] * 4, Value("string"))}
    for split in ("train", "test"):
        save_captions(folder, IDS, split, **more)
    return str(folder)


def new_captions(folder: Path, splits: tuple[str, ...] = ("train",), stage: dict | None = None) -> str:
    rows = Dataset.from_dict({"image_id": IDS, "caption": NEW})
    about = {"stage": "captioning", "captioner": {"captioner": "column"}, "source": None}
    write_stage(folder, dict.fromkeys(splits, rows), about | (stage or {}))
    return str(folder)


@pytest.mark.parametrize("way", ["captions_name", "stage"])
def test_vectors_and_raw_answers_of_other_captions_are_not_kept(tmp_path, encoder, way, caplog):
    embedded, folder, splits = save_embedded(tmp_path / "emb"), tmp_path / "cap", ("train",)
    if way == "captions_name":
        data = DataArguments(dataset_name=embedded, captions_name=new_captions(folder, splits))
    else:
        data = DataArguments(dataset_name=new_captions(folder, splits, {"source": "../emb"}))
    loaded = load_data(data)
    for name, split in loaded.items():
        is_old = name not in splits
        assert split["caption"][:] == ([f"of {i}" for i in IDS] if is_old else NEW)
        assert "text_embeds" not in split.column_names
        assert is_old == ("caption_raw" in split.column_names)
    assert "Those of the earlier captions are left out (splits test, train): embed anew" in caplog.text
    found = with_text_embeds(loaded, encoder, tmp_path / "e", source=source_of(data))
    again = DatasetDict(train=Dataset.from_dict({"image_id": IDS, "caption": NEW}))
    expected = with_text_embeds(again, encoder, tmp_path / "again", source="x")["train"]
    assert found["train"]["text_embeds"][:] == expected["text_embeds"][:]


def test_a_stage_of_the_hub_names_no_folder_of_this_machine():
    """Somebody may have pushed the folder of a stage as it was."""
    for source in ("../pictures", "/home/ann/pictures", "~/pictures", None):
        assert Source.read({"source": source}, "somebody/captions") is None
    assert Source.read({"source": "somebody/pictures"}, "somebody/captions").name == "somebody/pictures"
