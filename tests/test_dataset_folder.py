"""Stages as data sets for everyone: what is in them, what is not, and that they open again."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from huggingface_hub import DatasetCard
from PIL import ExifTags
from PIL import Image as PILImage
from test_caption_recipe import CAPTIONER, caption, shapes
from test_embedding import clip_folder, images_with, static_folder  # noqa: F401

from g4i_hf.cli import parse_options
from g4i_hf.commands import train
from g4i_hf.data.loading import load_data, open_images, source_of
from g4i_hf.data.stage import find_stage, read_stage, write_stage
from g4i_hf.embedding import EncoderArguments, embed_stage
from g4i_hf.hub import dataset as dataset_folder
from g4i_hf.hub.dataset import build_dataset, public_stage
from g4i_hf.hub.dataset_card import captions_card
from g4i_hf.hub.privacy import bare_name, check_publishable
from g4i_hf.options import DataArguments

EMBEDS = List(Value("float16"), length=5)


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory, monkeypatch):
    """`datasets` 5.2 knows a local folder with a card by its path, and would give what was there before."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def stages(tmp_path_factory, static_folder) -> Path:  # noqa: F811
    """
    Real stages: 16 pictures with EXIF, described by the small captioner, and the embeddings of what it said. The
    folder's name is one that must not be published.
    """
    folder = tmp_path_factory.mktemp("secret-of-ann")
    pictures = shapes(folder, 16)
    place_a_camera(pictures)
    (pictures / "validation").mkdir()
    for path in list((pictures / "train").rglob("*.png"))[::4]:
        moved = pictures / "validation" / path.parent.name / path.name
        moved.parent.mkdir(exist_ok=True)
        path.rename(moved)
    options = ["--dataset_name", "pictures", "--captioner_model", str(CAPTIONER), "--max_new_tokens", "16"]
    caption(folder, *options, "--captions_dir", "runs/captions", "--caption_splits", "train", "--prompt", "class")
    data = DataArguments(dataset_name=str(folder / "runs" / "captions"))
    args = EncoderArguments(text_encoder=str(static_folder))
    embed_stage(load_data(data), args, folder / "runs" / "embeddings", source=source_of(data))
    return folder


def place_a_camera(pictures: Path) -> None:
    """One picture becomes a turned JPEG with a position."""
    path = next(iter(sorted((pictures / "train").rglob("*.png"))))
    tags = PILImage.Exif()
    tags[ExifTags.Base.Orientation] = 6
    tags.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (48.0, 8.0, 1.5), 29: "canary-position"})
    PILImage.open(path).convert("RGB").crop((0, 0, 32, 20)).save(path.with_suffix(".jpg"), exif=tags)
    path.unlink()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def said_in(folder: Path) -> bytes:
    """Everything that a reader could find: files as they are, and Parquet with its metadata, decompressed."""
    said = b"".join(contents(folder).values())
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path)
        said += repr(pq.read_metadata(path).metadata).encode() + repr(table.schema.metadata).encode()
        said += repr(table.to_pydict()).encode()
    return said


# --- What is there ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded(stages) -> Path:
    return build_dataset(stages / "runs" / "embeddings", stages / "out" / "embedded", repo_id="me/embedded")


def test_one_data_set_holds_captions_and_embeddings(stages, embedded):
    splits = load_dataset(str(embedded))
    expected = open_images(str(stages / "runs" / "embeddings"))
    assert {name: len(split) for name, split in splits.items()} == {"train": 12, "validation": 4}
    names = ["image_id", "caption", "caption_weight", "caption_status", "caption_reason", "caption_raw", "text_embeds"]
    for name, split in splits.items():
        assert split.column_names == names and split.features["text_embeds"] == EMBEDS
        for column in names:
            assert split[column][:] == expected[name][column][:]
    assert all(" on a " in text for text in splits["train"]["caption"])
    assert splits["validation"]["text_embeds"][:] == [None] * 4  # nobody was asked about them
    schema = pq.read_schema(embedded / "data" / "train-00000-of-00001.parquet")
    assert Features.from_arrow_schema(schema)["text_embeds"] == EMBEDS
    assert sorted(contents(embedded)) == [
        "README.md",
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
        "stage.json",
    ]


def test_images_come_with_their_labels_from_where_they_are(stages, tmp_path):
    for number, stage in enumerate(("captions", "embeddings")):
        folder = build_dataset(stages / "runs" / stage, tmp_path / str(number), with_images=True)
        expected = open_images(str(stages / "runs" / stage))
        splits = load_dataset(str(folder))
        for name, split in splits.items():
            assert split["label"][:] == expected[name]["label"][:]
            assert split.features["label"] == expected[name].features["label"]
            for row, original in zip(split, expected[name].cast_column("image", Image()), strict=True):
                assert row["image_id"] == original["image_id"] and row["caption"] == original["caption"]
                assert row["image"].size == original["image"].size
                assert row["image"].tobytes() == original["image"].tobytes()
        assert (20, 32) in {row["image"].size for row in splits["train"]}  # turned, as before
        raw = splits.cast_column("image", Image(decode=False))
        assert all(Path(row["image"]["path"]).name == row["image"]["path"] for row in raw["train"])
        reopened = open_images(str(folder))
        assert reopened["train"]["caption"][:] == expected["train"]["caption"][:]


def test_captions_of_a_column_of_the_data_come_along(tmp_path, static_folder):  # noqa: F811
    images_with(["owl", None, "car"], tmp_path / "data")
    renamed = DatasetDict.load_from_disk(str(tmp_path / "data")).rename_columns({"caption": "text", "image": "img"})
    renamed.save_to_disk(tmp_path / "images")
    data = DataArguments(dataset_name=str(tmp_path / "images"), caption_column="text", image_column="img")
    args = EncoderArguments(text_encoder=str(static_folder))
    embed_stage(load_data(data), args, tmp_path / "e", source=source_of(data))
    split = load_dataset(str(build_dataset(tmp_path / "e", tmp_path / "out")), split="train")
    assert split.column_names == ["image_id", "caption", "text_embeds"]
    assert split["caption"][:] == ["owl", None, "car"] and split["text_embeds"][1] is None
    assert read_stage(tmp_path / "out")["source_columns"] == {"image": "img"}


def test_several_captions_and_splits_of_which_some_have_none(tmp_path):
    features = Features({"image_id": Value("string"), "caption": List(Value("string"))})
    rows = {"image_id": ["a", "b"], "caption": [["one", "two"], []]}
    splits = {
        "test": Dataset.from_dict(rows, features=features),
        "test_novel": Dataset.from_dict({"image_id": ["c"], "caption_status": ["missing"]}),
    }
    stage = {"stage": "captioning", "source": "user/pictures", "captioner": {"captioner": "column"}}
    write_stage(tmp_path / "s", splits, stage)
    splits = load_dataset(str(build_dataset(tmp_path / "s", tmp_path / "out")))
    assert splits["test"]["caption"][:] == rows["caption"] and splits["test_novel"]["caption"][:] == [None]
    assert splits["test_novel"]["image_id"][:] == ["c"] and splits["test"]["caption_status"][:] == [None] * 2


def captions_stage(folder: Path, ids: list[str], **stage) -> Path:
    digits = np.random.default_rng(0).integers(0, 10, (len(ids), 300))  # which do not compress to nothing
    rows = {"image_id": ids, "caption": ["".join(map(str, row)) for row in digits]}
    split = Dataset.from_dict(rows)
    stage = {"stage": "captioning", "source": None, "captioner": {"captioner": "column"}} | stage
    write_stage(folder, {"train": split}, stage)
    return folder


def test_large_splits_become_several_files_in_order(tmp_path):
    stage = captions_stage(tmp_path / "s", [f"id-{number}" for number in range(1000)])
    whole = build_dataset(stage, tmp_path / "whole")
    size = sum(len(content) for content in contents(whole / "data").values())
    folder = build_dataset(stage, tmp_path / "parts", max_shard_size=size // 4)
    files = contents(folder / "data")
    assert len(files) >= 4 and max(map(len, files.values())) < size // 3
    count = len(files)
    assert sorted(files) == [f"train-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    assert load_dataset(str(folder), split="train")["image_id"][:] == [f"id-{number}" for number in range(1000)]


@pytest.mark.parametrize("options", [{}, {"with_images": True}])
def test_the_same_stage_gives_the_same_bytes(stages, tmp_path, options):
    first = contents(build_dataset(stages / "runs" / "embeddings", tmp_path / "a", **options))
    assert contents(build_dataset(stages / "runs" / "embeddings", tmp_path / "b", **options)) == first
    before = (tmp_path / "a").stat().st_ino
    assert contents(build_dataset(stages / "runs" / "embeddings", tmp_path / "a", **options)) == first
    assert (tmp_path / "a").stat().st_ino != before and sorted(os.listdir(tmp_path)) == ["a", "b"]


# --- What is not there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_images", [False, True])
def test_nothing_of_this_machine_is_published(stages, tmp_path, with_images):
    folder = build_dataset(stages / "runs" / "embeddings", tmp_path / "out", with_images=with_images)
    said = said_in(folder)
    for secret in ("secret-of-ann", str(stages), str(Path.home()), str(CAPTIONER), "canary", "GPS", ".journal"):
        assert secret.encode() not in said, secret
    assert b'"source_name": "pictures"' in said and b"captioner" in said
    check_publishable(folder)


NASTY = {
    "stage": "captioning",
    "source": "/home/ann/secret/pictures",
    "journal": "/home/ann/secret/journal",
    "host": "gpu-box",
    "captioner": {
        "captioner": "endpoint",
        "model": "/home/ann/secret/llava",
        "adapter": "C:\\Users\\ann\\secret\\lora",
        "base_url": "http://gpu-box.corp:8000/v1",
        "endpoints": ["http://gpu-box.corp:8000/v1", "10.1.2.3:8000"],
        "api_key": "hf_" + "x" * 34,
        "api_key_env": "ANN_TOKEN",
        "user": "ann",
        "temperature": 0.5,
    },
    "prompts": ["Describe it, as /home/ann/secret/prompt.txt says, with hf_" + "y" * 34, "Is it a cat/dog?"],
    "judged_by": {"clip_scorer": "../../home/ann/secret/clip", "quality_encoder": "org/model"},
    "found": {"from": "file", "captions_without_row": {"count": 2, "examples": ["ann/secret/1.jpg"]}},
    "status": {"ok": {"train": 2}},
    "unknown": "/home/ann/secret",
}


def test_what_a_stage_says_of_its_machine_is_left_out(tmp_path):
    folder = build_dataset(captions_stage(tmp_path / "s", ["a", "b"], **NASTY), tmp_path / "out")
    said = said_in(folder)
    for secret in (b"/home", b"secret", b"ann", b"gpu-box", b"10.1.2.3", b"xxxx", b"yyyy", b"8000", b"ANN_TOKEN"):
        assert secret not in said, secret
    stage = read_stage(folder)
    assert stage["source"] is None and stage["source_name"] == "pictures"
    assert stage["captioner"] == {"captioner": "endpoint", "model": "llava", "adapter": "lora", "temperature": 0.5}
    assert stage["prompts"] == ["Describe it, as ... says, with ...", "Is it a cat/dog?"]
    assert stage["judged_by"] == {"clip_scorer": "clip", "quality_encoder": "org/model"}
    assert stage["found"] == {"from": "file", "captions_without_row": {"count": 2}}


@pytest.mark.parametrize(
    "name, bare",
    [
        ("org/model-7B.v1", "org/model-7B.v1"),
        ("llava:7b", "llava:7b"),
        ("org/model:fastest", "org/model:fastest"),
        ("/models/llava/", "llava"),
        ("~/llava", "llava"),
        ("./llava", "llava"),
        ("..", ""),
        ("models/ann/llava", "llava"),
        ("gpu-box.corp:8000/llava", "llava"),
        ("http://gpu-box.corp:8000/v1/llava?key=1", "llava"),
        ("D:\\models\\llava", "llava"),
        ("10.1.2.3", "..."),
    ],
)
def test_models_have_bare_names(name, bare):
    assert bare_name(name) == bare


def test_images_of_the_hub_keep_their_name_and_version(tmp_path):
    source = {"source": "user/pictures", "source_revision": "v1", "source_config": "small"}
    stage = captions_stage(tmp_path / "s", ["a"], **source)
    assert source.items() <= public_stage(stage).items()
    other = public_stage(stage, images_id="me/pictures")
    assert (other["source"], other["source_revision"], "source_config" in other) == ("me/pictures", None, False)
    card = str(captions_card(public_stage(stage) | {"num_rows": {"train": 1}, "columns": ["image_id", "caption"],
                                                    "ids_from": "column"}, date="2026-01-01"))  # fmt: skip
    assert 'load_dataset("user/pictures", "small", revision="v1", split="train")' in card
    assert DatasetCard(card).data.source_datasets == ["user/pictures"]


def test_a_chain_of_stages_goes_back_to_images_and_captioner(stages, embedded):
    stage = read_stage(embedded)
    assert stage["stage"] == "embedding" and stage["text_encoder"] == "static" and stage["published"]
    assert stage["captions_stage"]["captioner"]["model"] == "captioner"
    assert "{label}" in stage["captions_stage"]["prompts"][0]
    named = read_stage(
        build_dataset(stages / "runs" / "embeddings", stages / "out" / "named", images_id="me/pictures")
    )
    assert named["source"] == "me/pictures" and "source_name" not in named


# --- Opened again ----------------------------------------------------------------------------------------------------


def test_a_set_without_images_is_joined_to_those_that_are_named(stages, embedded):
    with pytest.raises(ValueError, match="published without its images.*--dataset_name, and with --captions_name"):
        open_images(str(embedded))
    data = DataArguments(dataset_name=str(stages / "pictures"), captions_name=str(embedded))
    expected = open_images(str(stages / "runs" / "embeddings"))
    for name, split in load_data(data).items():
        for column in ("image_id", "image", "label", "caption", "caption_weight", "text_embeds"):
            assert split[column][:] == expected[name][column][:], column
    stage = DataArguments(dataset_name=str(stages / "pictures"), captions_name=str(stages / "runs" / "embeddings"))
    assert load_data(stage)["train"]["text_embeds"][:] == expected["train"]["text_embeds"][:]


def test_a_set_whose_images_have_a_name_is_joined_by_its_own(stages, tmp_path, monkeypatch):
    """A folder `me/pictures` stands for the one on the Hub; there are fewer images by now, and one more."""
    monkeypatch.chdir(tmp_path)
    build_dataset(stages / "runs" / "captions", tmp_path / "captions", images_id="me/pictures")
    shutil.copytree(stages / "pictures", tmp_path / "me" / "pictures")
    gone = next((tmp_path / "me" / "pictures" / "train").rglob("*.png"))
    gone.rename(gone.with_name("new.png"))
    split = open_images("captions")["train"]
    captions = {row["image_id"]: row["caption"] for row in load_dataset("captions", split="train")}
    assert len(split) == 12
    for row in split:
        assert row["caption"] == captions.get(row["image_id"])
    assert split["caption"][:].count(None) == 1
    assert find_stage("captions")["source"] == "me/pictures"


def test_published_captions_can_be_embedded_and_published_again(stages, tmp_path, monkeypatch, static_folder):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    build_dataset(stages / "runs" / "captions", tmp_path / "me" / "captions", images_id="me/pictures")
    build_dataset(stages / "runs" / "captions", tmp_path / "me" / "whole", with_images=True)
    shutil.copytree(stages / "pictures", tmp_path / "me" / "pictures")
    for number, data in enumerate(
        (
            DataArguments(dataset_name="me/captions"),
            DataArguments(dataset_name="me/whole"),
            DataArguments(dataset_name="me/pictures", captions_name="me/captions"),
        )
    ):
        place = f"e{number}"
        embed_stage(load_data(data), EncoderArguments(text_encoder=str(static_folder)), place, source=source_of(data))
        folder = build_dataset(place, f"out{number}", images_id="me/pictures")
        stage = read_stage(folder)
        assert stage["source"] == "me/pictures" and stage["captions_stage"]["captioner"]["model"] == "captioner"
        expected = open_images(str(stages / "runs" / "embeddings"))["train"]
        assert load_dataset(str(folder), split="train")["text_embeds"][:] == expected["text_embeds"][:]


# --- Refused ---------------------------------------------------------------------------------------------------------


def test_what_is_no_stage_or_something_else_is_refused(stages, embedded, tmp_path):
    with pytest.raises(ValueError, match="is no stage: it holds no stage.json"):
        build_dataset(stages / "pictures", tmp_path / "out")
    with pytest.raises(ValueError, match="made of a stage already"):
        build_dataset(embedded, tmp_path / "out")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    for place in (tmp_path / "thesis", tmp_path / "thesis" / "thesis.tex", stages / "runs" / "captions"):
        with pytest.raises(ValueError, match="something else than such a dataset.*--dataset_dir"):
            build_dataset(stages / "runs" / "embeddings", place)
    assert (tmp_path / "thesis" / "thesis.tex").is_file() and sorted(os.listdir(tmp_path)) == ["thesis"]


def test_a_misspelt_license_is_refused_and_one_of_ones_own_has_a_name(tmp_path):
    stage = captions_stage(tmp_path / "s", ["a"])
    with pytest.raises(ValueError, match="Did you mean cc-by-4.0"):
        build_dataset(stage, tmp_path / "out", license="cc-by4.0")
    data = DatasetCard.load(build_dataset(stage, tmp_path / "out", license="Our terms") / "README.md").data
    assert data.license == "other" and data["license_name"] == "our-terms"


@pytest.mark.parametrize("with_images_id", [False, True])
@pytest.mark.parametrize("repo_id", ["me/pictures", "Me/Pictures", "pictures"])
def test_captions_are_not_published_as_their_own_images(tmp_path, repo_id, with_images_id):
    (tmp_path / "photos").mkdir()
    stage = captions_stage(tmp_path / "stage", ["a"], source="../photos" if with_images_id else "me/pictures")
    images_id = "me/pictures" if with_images_id else None
    with pytest.raises(ValueError, match=f"repo_id is {repo_id}, and the images are me/pictures.*point at itself"):
        build_dataset(stage, tmp_path / "out", repo_id=repo_id, images_id=images_id)
    assert not (tmp_path / "out").exists()
    build_dataset(stage, tmp_path / "out", repo_id="me/pictures-captions", images_id=images_id)
    build_dataset(stage, tmp_path / "out", repo_id="other/pictures", images_id=images_id)


@pytest.mark.parametrize("image_id", ["/home/ann/1.jpg", "~/1.jpg", "C:\\Users\\ann\\1.jpg", "file:///home/1.jpg"])
def test_ids_that_are_paths_are_refused(tmp_path, image_id):
    with pytest.raises(ValueError, match="Split 'train', column 'image_id': .* is a path of this machine"):
        build_dataset(captions_stage(tmp_path / "s", ["cat/1.jpg", image_id]), tmp_path / "out")


def test_equal_ids_are_refused(tmp_path):
    with pytest.raises(ValueError, match="row 2: 'a', which row 0 has too"):
        build_dataset(captions_stage(tmp_path / "s", ["a", "b", "a"]), tmp_path / "out")


def test_a_broken_image_is_named_and_an_earlier_data_set_stays(stages, tmp_path):
    shutil.copytree(stages, tmp_path / "all")
    stage = tmp_path / "all" / "runs" / "embeddings"
    before = contents(build_dataset(stage, tmp_path / "out", with_images=True))
    broken = sorted((tmp_path / "all" / "pictures" / "train").rglob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:100])
    image_id = f"{broken.parent.name}/{broken.name}"
    with pytest.raises(ValueError, match=rf"split 'train', row \d+, image '{image_id}': .*Repair the image"):
        build_dataset(stage, tmp_path / "out", with_images=True)
    assert contents(tmp_path / "out") == before and sorted(os.listdir(tmp_path)) == ["all", "out"]


def test_a_card_that_does_not_fit_its_files_is_not_published(stages, tmp_path, monkeypatch):
    card = captions_card({"num_rows": {"train": 1, "test": 1}, "columns": [], "source": None}, date="2026-01-01")
    monkeypatch.setattr(dataset_folder, "captions_card", lambda *_, **__: card)
    with pytest.raises((ValueError, FileNotFoundError)):
        build_dataset(stages / "runs" / "captions", tmp_path / "out")
    assert not os.listdir(tmp_path)


def test_captions_whose_images_are_gone_are_published_all_the_same(stages, tmp_path):
    shutil.copytree(stages / "runs", tmp_path / "runs")
    folder = build_dataset(tmp_path / "runs" / "embeddings", tmp_path / "out")
    assert load_dataset(str(folder), split="train").num_rows == 12
    with pytest.raises(FileNotFoundError, match="that folder is gone"):
        build_dataset(tmp_path / "runs" / "embeddings", tmp_path / "out", with_images=True)


# --- The card --------------------------------------------------------------------------------------------------------


def snippets(card: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.S)


def data_without_names(folder: Path, count: int = 4) -> DatasetDict:
    """Images that have neither ids nor file names: their ids are made from their content."""
    noise = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    features = Features({"image": Image(), "caption": Value("string")})
    rows = {"image": [PILImage.fromarray(pixels) for pixels in noise], "caption": [f"no. {i}" for i in range(count)]}
    Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    return open_images(str(folder))


@pytest.mark.parametrize("kind", ["file", "content", "column"])
@pytest.mark.parametrize("images_id", [None, "me/pictures"])
def test_snippets_of_the_card_run(stages, tmp_path, monkeypatch, kind, images_id, static_folder, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    pictures = stages / "pictures" if kind == "file" else tmp_path / "data"
    if kind == "content":
        data_without_names(pictures)
    elif kind == "column":
        images_with(["owl", "car"], tmp_path / "saved")
        DatasetDict.load_from_disk(str(tmp_path / "saved"))["train"].to_parquet(pictures / "train.parquet")
    if kind == "file":
        stage = stages / "runs" / "embeddings"
    else:
        stage = Path("e")
        data = DataArguments(dataset_name=str(pictures))
        args = EncoderArguments(text_encoder=str(static_folder))
        embed_stage(load_data(data), args, stage, source=source_of(data))
    build_dataset(stage, "me/captions", images_id=images_id, repo_id="me/captions")
    card = Path("me/captions/README.md").read_text()
    assert not re.search(r"\n\n\n|\|\n\n+\|", card)
    place = images_id or "path/to/images"
    shutil.copytree(pictures, place)
    opened = open_images(place)["train"]
    first, joining = snippets(card)
    exec(first, {})
    assert opened["image_id"][0] in capsys.readouterr().out or kind == "file"
    if kind == "content" and images_id is None:  # such images are never a folder of pictures
        joining = joining.replace('"imagefolder", data_dir=', "")
    seen: dict = {}
    exec(joining, seen)
    joined = seen["joined"]
    expected = {row["image_id"]: row for row in load_dataset("me/captions", split="train")}
    assert len(joined) == len(opened) > 0
    for row, image_id in zip(joined, seen["image_ids"], strict=True):
        assert row["text_embeds"] == expected[image_id]["text_embeds"] and row["image"].size
        assert row["caption"] == expected[image_id]["caption"]
    (command,) = snippets(card, "sh")
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["g4i", "train"]
    _, data, *_ = parse_options(train.OPTIONS, words[2:])
    joined = load_data(data)["train"]
    assert joined["image_id"][:] == opened["image_id"][:]
    assert joined["text_embeds"][:] == [expected[image_id]["text_embeds"] for image_id in joined["image_id"]]


def test_card_says_where_everything_comes_from(embedded, stages, tmp_path):
    card = (embedded / "README.md").read_text()
    for said in (
        "# Machine-made captions of pictures and their embeddings",
        'load_dataset("me/embedded", split="train")',
        "`pictures`, a data set of images on its maker's machine",
        "| captioner | a local model (`captioner`) |",
        "| text encoder | `static` |",
        "| dimensions | `5` |",
        "| prompt |",
        "--captions_name me/embedded",
        "Its maker has not chosen a licence: ask before",
        "bound by the terms of that model",
        "it is on no package index",
        "Captions can name what is not in the image",
        "fits vectors of that encoder alone",
        "| ok | 12 | 0 |",
        "The prompt told the class",
        "names the image, by its file",
        "Rows without the images, each joined to its own by `image_id`: 12 in `train`, 4 in `validation`.",
    ):
        assert said in card, said
    data = DatasetCard.load(embedded / "README.md").data
    assert data.license == "other" and data.size_categories == ["n<1K"] and data.language is None
    assert data.pretty_name == "Machine-made captions of pictures and their embeddings"
    assert data.task_categories is None and set(data.tags[2:]) == {"text-embeddings", "machine-generated"}
    folder = build_dataset(stages / "runs" / "captions", tmp_path / "out", with_images=True, license="cc-by-4.0")
    card = (folder / "README.md").read_text()
    for said in ("Rows with their images: 12 in", "the pixels are the same", "releases it under `cc-by-4.0`.",
                 "terms of their own", "--dataset_name path/to/captions", "--text_encoder"):  # fmt: skip
        assert said in card, said
    assert "captions_name" not in card and "concatenate" not in card
    data = DatasetCard.load(folder / "README.md").data
    assert data.license == "cc-by-4.0" and data.task_categories == ["image-classification", "image-to-text"]


def test_a_card_of_captions_that_no_machine_wrote():
    stage = {"num_rows": {"train": 1}, "columns": ["image_id", "caption"], "source": "me/emoji_styles",
             "captioner": {"captioner": "column"}}  # fmt: skip
    card = captions_card(stage, date="2026-01-01")
    assert card.data.pretty_name == "Captions of emoji_styles" and "# Captions of emoji_styles\n" in card.text
    assert "has not chosen a licence: ask before" in card.text and card.data.license == "other"
    assert "those of where they come from" in card.text
    assert "| captioner | none: the captions are a column of the data |" in card.text
    unnamed = captions_card(stage | {"source": None, "captioner": {"captioner": "local", "model": "them/vlm"}},
                            date="2026-01-01")  # fmt: skip
    assert "# Machine-made captions\n" in unnamed.text and "| captioner | `them/vlm` |" in unnamed.text


def test_images_in_a_folder_are_said_to_be_out_of_reach(tmp_path, caplog):
    (tmp_path / "photos").mkdir()
    stage = captions_stage(tmp_path / "stage", ["a"], source="../photos")
    build_dataset(stage, tmp_path / "out", images_id="me/pictures")
    assert "--images_id" not in caplog.text
    build_dataset(stage, tmp_path / "out")
    assert "The images are a local folder (photos)" in caplog.text and "--images_id" in caplog.text


def test_card_says_how_many_captions_were_cut(tmp_path):
    over = {"train": {"share": 0.25}, "test": {"share": 0.001}}
    stage = {"stage": "embedding", "num_rows": {"train": 1, "test": 1}, "columns": ["image_id", "text_embeds"],
             "source": None, "long_captions": "truncate", "captions_over_window": over}  # fmt: skip
    assert "were cut there: 25% of `train`." in str(captions_card(stage, date="2026-01-01"))
    assert "cut there" not in str(captions_card(stage | {"long_captions": "chunk_mean"}, date="2026-01-01"))


def test_stage_file_is_json_that_can_be_read(embedded):
    stage = json.loads((embedded / "stage.json").read_text(encoding="utf-8"))
    assert stage["num_rows"] == {"train": 12, "validation": 4} and stage["ids_from"] == "file"
