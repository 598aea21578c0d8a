"""Stages as datasets for everyone: what is in them, what is not, and that they open again."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import datasets
import make
import pyarrow.parquet as pq
import pytest
from datasets import Image, load_dataset
from drawings import STUDENT, TRAINING, draw_folder
from fitting import few_labels
from PIL import ExifTags
from PIL import Image as PILImage
from test_card import snippets

from g4i_hf.data.loading import load_data, load_reviewed, open_images, source_of
from g4i_hf.data.record import content_digest
from g4i_hf.data.stage import read_stage, write_stage
from g4i_hf.embedding.embed import EmbeddingStage
from g4i_hf.hub.dataset import build_dataset
from g4i_hf.hub.push import check_publishable
from g4i_hf.options import DataArguments, EncoderArguments
from g4i_hf.running import main

SECRET = "/home/ann/secret"
NASTY = {"source": f"{SECRET}/pictures", "journal": f"{SECRET}/journal", "host": "gpu-box", "unknown": SECRET}
NASTY["prompts"] = [f"Describe it, as {SECRET}/prompt.txt says, with hf_{'y' * 34}", "Is it a cat/dog?"]
NASTY["captioner"] = {
    "captioner": "endpoint",
    "model": f"{SECRET}/llava",
    "base_url": "http://gpu-box.corp:8000/v1",
    "endpoints": ["http://gpu-box.corp:8000/v1", "10.1.2.3:8000"],
    "api_key": f"hf_{'x' * 34}",
    "api_key_env": "ANN_TOKEN",
    "user": "ann",
    "temperature": 0.5,
}


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory, monkeypatch):
    """`datasets` 5.2 knows a local folder with a card by its path, and would give what was there before."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def captions_stage(folder: Path, ids: list[str], **stage) -> Path:
    split = make.rows(len(ids), image=None, label=None, image_id=ids, caption=[f"of {each}" for each in ids])
    stage = {"stage": "captioning", "source": None, "captioner": {"captioner": "column"}} | stage
    write_stage(folder, {"train": split}, stage)
    return folder


@pytest.fixture(scope="module")
def stages(tmp_path_factory, static_folder) -> Path:
    """
    `pictures`, one of them a turned JPEG with a position; `runs/captions` of 12 in `train` and none of 4 in
    `validation`; `runs/embeddings` of them. The folder's name is one that must not be published.
    """
    folder = tmp_path_factory.mktemp("secret-of-ann")
    files = [f"{('validation', 'train')[row % 4 > 0]}/{('owl', 'car')[row % 2]}/{row}.png" for row in range(16)]
    turned = make.folder(folder / "pictures", files) / "train" / "car" / "1.png"
    tags = PILImage.Exif()
    tags[ExifTags.Base.Orientation] = 6
    tags.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (48.0, 8.0, 1.5), 29: "canary-position"})
    make.noise(1, 32, 20).save(turned.with_suffix(".jpg"), exif=tags)
    turned.unlink()
    splits = {}
    for name, split in open_images(str(folder / "pictures")).items():
        ids, is_train = split["image_id"][:], name == "train"
        captions = [f"a red {each.split('/')[0]}" if is_train else None for each in ids]
        status = ["ok" if is_train else "not asked"] * len(ids)
        columns = {"image_id": ids, "caption": captions, "caption_status": status}
        splits[name] = make.rows(len(ids), image=None, label=None, **columns)
    stage = {"stage": "captioning", "source": "../../pictures", "prompts": ["Describe this {label}."]}
    stage["captioner"] = {"captioner": "local", "model": "captioner"}
    write_stage(folder / "runs" / "captions", splits, stage)
    data, encoder = DataArguments(str(folder / "runs" / "captions")), EncoderArguments(text_encoder=str(static_folder))
    EmbeddingStage(load_data(data), encoder, folder / "runs" / "embeddings", source=source_of(data)).write()
    return folder


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


def test_images_come_with_their_labels_from_where_they_are(stages, tmp_path):
    stage = stages / "runs" / "embeddings"
    folder = build_dataset(stage, tmp_path / "out", with_images=True)
    expected, splits = open_images(str(stage)), load_dataset(str(folder))
    for name, split in splits.items():
        assert split["label"][:] == expected[name]["label"][:]
        assert split.features["label"] == expected[name].features["label"]
        for row, original in zip(split, expected[name].cast_column("image", Image()), strict=True):
            assert [row["image_id"], row["caption"]] == [original["image_id"], original["caption"]]
            assert row["image"].size == original["image"].size
            assert row["image"].tobytes() == original["image"].tobytes()
    assert (20, 32) in {row["image"].size for row in splits["train"]}  # turned, as before
    raw = splits.cast_column("image", Image(decode=False))["train"]["image"]
    assert all(Path(image["path"]).name == image["path"] for image in raw)
    assert open_images(str(folder))["train"]["caption"][:] == expected["train"]["caption"][:]
    said = said_in(folder)
    assert not any(secret.encode() in said for secret in ("secret-of-ann", str(Path.home()), "canary", "GPS"))
    check_publishable(folder)


def test_reviewed_labels_are_published_with_the_images(stages, tmp_path):
    """A corrected one, a new class, one of no class, and a gold one, of a turned JPEG that loses its metadata."""
    shutil.copytree(stages, tmp_path / "all")
    pictures, stage = tmp_path / "all" / "pictures", tmp_path / "all" / "runs" / "embeddings"
    given = {
        "train/owl/2.png": {"label": "car", "pick": "wrong", "by": "ann"},
        "train/car/3.png": {"label": "bus", "new_class": True, "note": str(tmp_path)},
        "train/owl/6.png": {"label": None, "none": True},
        "train/car/1.jpg": {"label": "car", "pick": "gold"},
        "validation/owl/0.png": {"label": "car"},
    }
    with open(pictures / "labels.jsonl", "w") as file:
        for name, answer in given.items():
            digest = content_digest((pictures / name).read_bytes())
            file.write(json.dumps({"file_name": name, "digest": digest} | answer) + "\n")
    folder = build_dataset(stage, tmp_path / "out", with_images=True)
    assert contents(build_dataset(stage, tmp_path / "again", with_images=True)) == contents(folder)
    published = load_dataset(str(folder))
    names = published["train"].features["label"].names
    labels = dict(zip(published["train"]["image_id"], published["train"]["label"], strict=True))
    assert names == ["car", "owl", "bus"] and len(labels) == 12 and "review" not in published["train"].column_names
    assert [labels[name] for name in ("owl/2.png", "car/3.png", "owl/6.png", "car/1.jpg")] == [0, 2, None, 0]
    assert published["validation"]["label"][:] == [0, 1, 1, 1]
    expected = load_reviewed(DataArguments(str(pictures)))
    found = load_reviewed(DataArguments(str(folder), labels_file=str(folder / "labels.jsonl")))
    assert {name: len(split) for name, split in found.items()} == {"train": 10, "validation": 4, "gold": 1}
    for name, split in found.items():
        for column in {"image_id", "label", "review"} & set(expected[name].column_names):
            assert split[column][:] == expected[name][column][:]
    said = (folder / "labels.jsonl").read_text()
    assert "ann" not in said and str(tmp_path) not in said and str(tmp_path).encode() not in said_in(folder)
    assert not (build_dataset(stage, folder) / "labels.jsonl").exists()  # labels go with images


def test_what_a_stage_says_of_its_machine_is_left_out(tmp_path):
    folder = build_dataset(captions_stage(tmp_path / "s", ["a", "b"], **NASTY), tmp_path / "out")
    said = said_in(folder)
    for secret in (b"/home", b"secret", b"ann", b"gpu-box", b"10.1.2.3", b"xxxx", b"yyyy", b"8000", b"ANN_TOKEN"):
        assert secret not in said, secret
    stage = read_stage(folder)
    assert stage["source"] is None and stage["source_name"] == "pictures"
    assert stage["captioner"] == {"captioner": "endpoint", "model": "llava", "temperature": 0.5}
    assert stage["prompts"] == ["Describe it, as ... says, with ...", "Is it a cat/dog?"]


def test_what_is_no_stage_or_would_replace_something_else_is_refused(stages, tmp_path):
    released = build_dataset(stages / "runs" / "captions", tmp_path / "released")
    for folder, words in ((stages / "pictures", "is no such stage"), (released, "is a dataset already")):
        with pytest.raises(ValueError, match=words):
            build_dataset(folder, tmp_path / "out")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    for place in (tmp_path / "thesis", tmp_path / "thesis" / "thesis.tex", stages / "runs" / "captions"):
        with pytest.raises(ValueError, match="holds no dataset that was released"):
            build_dataset(stages / "runs" / "embeddings", place)
    assert (tmp_path / "thesis" / "thesis.tex").is_file() and sorted(os.listdir(tmp_path)) == ["released", "thesis"]


def test_captions_do_not_replace_their_images(tmp_path):
    for source, images_id in (("me/pictures", None), ("../photos", "me/pictures")):
        stage = captions_stage(tmp_path / "stage", ["a"], source=source)
        for repo_id in ("Me/Pictures", "pictures"):
            with pytest.raises(ValueError, match=f"repo_id is {repo_id}, that of the images"):
                build_dataset(stage, tmp_path / "out", repo_id=repo_id, images_id=images_id)
    build_dataset(stage, tmp_path / "out", repo_id="me/pictures-captions", images_id=images_id)


def test_ids_that_are_paths_are_refused(tmp_path):
    for image_id in ("/home/ann/1.jpg", "~/1.jpg", "C:\\Users\\ann\\1.jpg", "file:///home/1.jpg"):
        with pytest.raises(ValueError, match="Split 'train', column 'image_id': .* is a path of this machine"):
            build_dataset(captions_stage(tmp_path / "s", ["cat/1.jpg", image_id]), tmp_path / "out")


def test_a_broken_image_is_named_and_captions_alone_are_published_all_the_same(stages, tmp_path):
    shutil.copytree(stages, tmp_path / "all")
    stage, broken = tmp_path / "all" / "runs" / "embeddings", tmp_path / "all" / "pictures/train/car/3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"split 'train', row \d+, image 'car/3.png': .*Repair the image"):
        build_dataset(stage, tmp_path / "out", with_images=True)
    shutil.rmtree(tmp_path / "all" / "pictures")
    assert load_dataset(str(build_dataset(stage, tmp_path / "out")), split="train").num_rows == 12


def test_the_card_says_what_is_missing_and_its_command_trains(words, tmp_path, monkeypatch, capsys):
    """Images with captions of their own, most of them without a label; `test`, which comes first, has no captions."""
    monkeypatch.chdir(tmp_path)
    few_labels(tmp_path, 1, train=9)
    draw_folder(Path("pictures"), captions=False, test=3)
    main(["caption", "pictures", "--caption_column", "caption", "--captions_dir", "captions"])
    where = ["--output_dir", "me/pictures", "--repo_id", "me/pictures"]
    main(["release", "--stage", "captions", "--with_images", *where])
    card = Path("me/pictures/README.md").read_text()
    assert not re.search(r"\n\n\n|\|\n\n+\|", card)
    assert "| `label` | the class; null in 6 of 9 rows of `train` |" in card
    assert "null in place of one that is missing: in 3 of 3 rows of `test` |" in card
    assert "The images have other terms" not in card and "## Limits" not in card
    capsys.readouterr()
    exec(snippets(card)[0], {})
    assert "a red" in capsys.readouterr().out
    (command,) = snippets(card, "sh")
    small = {"text_encoder": words} | STUDENT | TRAINING
    main([*shlex.split(command.replace("\\\n", " "))[1:], *(f"--{name}={value}" for name, value in small.items())])
    assert json.loads(Path("runs/aligned/all_results.json").read_text())["train_loss"] > 0
