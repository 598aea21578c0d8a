"""
Views of images: any encoder with its own weights and preprocessing, class names by text towers, scores of other
models. Tiny random encoders, saved on the spot.
"""

import json
import re
import signal
import subprocess
from pathlib import Path

import make
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from caption_doors import WORKERS
from datasets import ClassLabel, Dataset, DatasetDict, Image, List, Value
from doors import TWO_PROCESSES, spelled, succeed
from loaded import PYTHON
from safetensors.torch import load_file, save_file
from tiny_encoders import WORDS, word_tokenizer
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    ViTConfig,
    ViTImageProcessor,
)

from g4i_hf import View, embed_view
from g4i_hf.label_model.views import IMAGE_FEATURES
from g4i_hf.running import main
from g4i_hf.training import features
from g4i_hf.views import making, stages
from g4i_hf.views.encoders import WORDINGS
from g4i_hf.views.kinds import KINDS, ViewKind, taught_by, view_in_words
from g4i_hf.views.stages import read_view

VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
VISION |= {"intermediate_size": 48, "projection_dim": 16}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT |= {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
TEXT |= {"max_position_embeddings": 16, "projection_size": 32, "projection_dim": 16}
BOTH = {"text_config": TEXT, "vision_config": VISION}
SQUARE, CROP = {"height": 32, "width": 32}, {"size": {"shortest_edge": 32}, "crop_size": 32}
BY_BOTH = {
    "clip": (CLIPConfig(**BOTH, projection_dim=16), CLIPImageProcessor(**CROP)),
    "siglip": (SiglipConfig(**BOTH), SiglipImageProcessor(size=SQUARE)),
}
ENCODERS = BY_BOTH | {"vit": (ViTConfig(**VISION), ViTImageProcessor(size=SQUARE))}
CLASSES = ["red_car", "LABEL_3", "owl, blue bird"]


def images_of(number: int, labels: bool = False, seed: int = 0, classes: list[str] = CLASSES) -> Dataset:
    ids, unlabelled = [str(row) for row in range(number)], [None] * number if labels else None
    draw = {"draw": lambda row: make.noise(1000 * seed + row, 48, 40)}
    return make.rows(number, classes, **draw, label=unlabelled, image_id=ids).cast_column("image", Image())


def saved(name: str, folder: Path) -> str:
    config, processor = ENCODERS[name]
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    for weight in model.parameters():  # large enough for images and texts to differ
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def stored(folder: Path, table: str = "train") -> np.ndarray:
    return np.array(pq.read_table(folder / f"{table}.parquet")["values"].to_pylist(), dtype=np.float32)


def read(folder: Path, images: Dataset, classes: list[str] = CLASSES) -> View:
    """As `g4i fit` reads it."""
    return read_view(folder, images.cast_column("image", Image(decode=False)), dict(enumerate(classes)))[1]


def unit(values: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(getattr(values, "pooler_output", values), dim=-1).numpy()


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_features_are_those_of_the_encoder_with_its_own_preprocessing(tmp_path, name):
    encoder, images = saved(name, tmp_path / name), images_of(6)
    folder = embed_view(images, f"image:{encoder}", tmp_path)
    model, (_, processor) = AutoModel.from_pretrained(encoder).eval(), ENCODERS[name]
    inputs = processor(images["image"][:], return_tensors="pt")
    if name == "vit":  # what a student gives to its last layer
        wanted = model(**inputs).last_hidden_state[:, 0].numpy()
    else:
        wanted = unit(model.get_image_features(**inputs))
    np.testing.assert_allclose(stored(folder), wanted, atol=1e-5)
    stage = json.loads((folder / "stage.json").read_text())
    assert stage["view"] == f"image:{name}" and not set(folder.name) & set(':/\\ "*?<>|')
    assert (folder / "classes.parquet").exists() is False


@torch.no_grad()
def test_a_folder_that_timm_saved_is_an_encoder(tmp_path):
    """It names the number of classes twice, which transformers passes on twice."""
    torch.manual_seed(0)
    model, images = timm.create_model("test_efficientnet", num_classes=5).eval(), images_of(3)
    timm.models.save_for_hf(model, tmp_path / "net")
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    folder = embed_view(images, f"image:{tmp_path / 'net'}", tmp_path)
    pixels = torch.stack([transform(image) for image in images["image"]])
    wanted = model.forward_head(model.forward_features(pixels), pre_logits=True)
    np.testing.assert_allclose(stored(folder), wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", BY_BOTH)
@torch.no_grad()
def test_class_names_are_the_mean_of_wordings_by_the_text_tower(tmp_path, name):
    encoder, images = saved(name, tmp_path / name), images_of(4, labels=True)
    folder = embed_view(images, f"image:{encoder}", tmp_path)
    names = stored(folder, "classes")
    assert pq.read_table(folder / "classes.parquet")["class_name"].to_pylist() == CLASSES
    assert not names[1].any(), "LABEL_3 says nothing"
    model, texts = AutoModel.from_pretrained(encoder).eval(), [w.format("red car") for w in WORDINGS]
    padded = {"padding": True} if name == "clip" else {"padding": "max_length", "max_length": 16}
    tokens = AutoTokenizer.from_pretrained(encoder)(texts, return_tensors="pt", **padded)
    wanted = unit(model.get_text_features(**tokens)).mean(0)
    np.testing.assert_allclose(names[0], wanted / np.linalg.norm(wanted), atol=1e-5)
    view = read(folder, images)
    named = view.class_values[[0, 2]]
    np.testing.assert_allclose(named.mean(0), view.values.mean(0), atol=1e-5)
    assert view.self_trains and not view.class_values[1].any()


class Places(stages.Maker):
    is_computed = True

    def make(self, inputs: stages.Inputs) -> stages.NewView:
        return stages.NewView.of(self.view, View(np.array(inputs.images[self.what][:])))


def test_a_new_kind_of_view_is_an_entry_and_its_maker(tmp_path, monkeypatch):
    kind = ViewKind("gps", "gps:COLUMN", "making:Places", "places", "places in {}", self_trains=True)
    monkeypatch.setitem(KINDS, "gps", kind)
    monkeypatch.setattr(making, "Places", Places, raising=False)
    images = images_of(3).add_column("where", [[48.8, 2.3], [51.5, 0.1], [52.5, 13.4]])
    assert not making.checked_view("gps:where"), "it names no classes, so labels are needed"
    folder = embed_view(images, "gps:where", tmp_path)
    view = read(folder, images)
    assert KINDS["image"].words == IMAGE_FEATURES, "the vote that image encoders share with views of no source"
    np.testing.assert_allclose(view.values, images["where"][:], rtol=1e-6)
    assert view.source == "places"
    assert view_in_words("gps:where", 0.5) == "places in where tell the class of 50% of the images"
    assert taught_by({"gps:where": {}, "image": {}}) == ["places"]
    with pytest.raises(ValueError, match="There is no view 'gps'"):
        embed_view(images, "gps", tmp_path)


def test_a_view_is_made_again_only_for_what_has_changed(tmp_path, monkeypatch):
    encoder, images = saved("clip", tmp_path / "clip"), images_of(6, labels=True)
    folder = embed_view(images, f"image:{encoder}", tmp_path)
    before, computed = stored(folder), []
    compute = features._compute
    monkeypatch.setattr(features, "_compute", lambda *args: (computed.append(len(args[2])), compute(*args)))
    written = (folder / "train.parquet").stat().st_mtime_ns
    embed_view(images, f"image:{encoder}", tmp_path)
    assert not computed and (folder / "train.parquet").stat().st_mtime_ns == written
    other = images_of(2, labels=True, seed=1)
    changed = Dataset.from_list([*other, *list(images)[2:]], features=images.features)
    with pytest.raises(ValueError, match="2 of 6 images have no value there, or have changed since: '0'"):
        read(folder, changed)
    embed_view(changed, f"image:{encoder}", tmp_path)
    after = stored(folder)
    assert computed == [2] and np.array_equal(after[2:], before[2:]) and not (after[:2] == before[:2]).any()
    with pytest.raises(ValueError, match="was made for other classes than those of the data"):
        read(folder, changed, ["a", "b"])


MALFORMED = {
    "texts": ({"values": ["x"] * 4}, "column 'values' holds string, not lists of numbers"),
    "lists of texts": ({"values": [["x"]] * 4}, "column 'values' holds list<"),
    "other lengths": ({"values": [[1.0, 2.0]] * 3 + [[1.0]]}, "column 'values', row 3: 1 numbers, not 2"),
    "nulls": ({"values": [[1.0, 2.0], None, None, None]}, "column 'values', row 1: None numbers, not 2"),
    "without values": ({"values": None}, "no column 'values'"),
    "without ids": ({"image_id": None}, "no column 'image_id'"),
    "no Parquet": (None, "damaged"),
    "names of other classes": ({}, "1 class names of 3 numbers, not 3 of 16"),
    "no name": ({}, "stage.json names no view or no classes"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_view_is_named_with_its_file(tmp_path, name):
    images, (columns, words) = images_of(4, labels=True), MALFORMED[name]
    folder = embed_view(images, f"image:{saved('clip', tmp_path / 'clip')}", tmp_path)
    file = folder / "train.parquet"
    if columns is None:
        file.write_bytes(b"PAR1 of no table")
    elif name == "names of other classes":
        file = folder / "classes.parquet"
        pq.write_table(pa.table({"values": [[1.0, 2.0, 3.0]]}), file)
    elif name == "no name":
        file = folder
        stage = json.loads((folder / "stage.json").read_text())
        (folder / "stage.json").write_text(json.dumps({key: stage[key] for key in stage if key != "view"}))
    else:
        table = pq.read_table(file).to_pydict() | columns
        pq.write_table(pa.table({key: values for key, values in table.items() if values is not None}), file)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        read(folder, images)
    assert str(file) in str(error.value) and "\n" not in str(error.value) and "g4i embed" in str(error.value)


def test_the_student_of_a_view_can_be_named_and_its_weights_count(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder, images = saved("vit", tmp_path / "vit"), images_of(3)
    DatasetDict(train=images).save_to_disk(tmp_path / "images")
    named = embed_view(images, f"image:{encoder}", tmp_path / "out")
    main(["embed", "images", "--view", "image:student", "--student", encoder, "-o", "out"])
    assert "View image:student: out/views/image_student" in capsys.readouterr().out
    assert np.array_equal(stored(tmp_path / "out/views/image_student"), stored(named))
    before = stored(named)
    torch.manual_seed(5)
    AutoModel.from_config(ENCODERS["vit"][0]).save_pretrained(encoder)
    changed = stored(embed_view(images, f"image:{encoder}", tmp_path / "out"))
    assert not np.allclose(changed, before), "other weights in the same folder are another encoder"


def test_check_says_what_each_view_is_worth(tmp_path, capsys):
    truth = np.arange(60) % 3
    images = images_of(60).add_column("p", [[0.1 + 0.8 * (each == n) for n in range(3)] for each in truth])
    labels = np.where(np.arange(60) < 3, (truth + 1) % 3, truth)
    images = images.add_column("label", labels).cast_column("label", ClassLabel(names=CLASSES))
    folder = embed_view(images, f"image:{saved('clip', tmp_path / 'clip')}", tmp_path / "out")
    DatasetDict(train=images).save_to_disk(tmp_path / "images")
    out = ("--check_dir", str(tmp_path / "check"))
    main(["check", str(tmp_path / "images"), *out, "--views", "scores:p", str(folder)])
    said = capsys.readouterr().out
    assert re.search(r"Scores in p tell the class of \d+% of the images \(95% interval", said)
    assert "Features of clip tell the class of" in said and "3 of 60 labels are suspicious" in said


SHARES = np.array([[0.7, 0.2, 0.1], [0, 0.6, 0.4]] * 20)
ROUNDED, EMPTY = SHARES.copy(), SHARES.copy()
ROUNDED[0], EMPTY[3] = [0.7, 0.2, 0.08], 0
MANY = np.random.default_rng(0).dirichlet([0.3] * 30, 40)
ABOVE = SHARES / SHARES.max(1, keepdims=True)  # of their highest number, so that sums differ
ABOVE[2] *= 1 + 1e-7
SCORES = {
    "p": SHARES,
    "off by rounding": ROUNDED,
    "a row of zeros": EMPTY,
    "not quite zero": SHARES - 1e-9,
    "percent": 100 * SHARES,
    "rounded percentages": (100 * ROUNDED).round(),
    "per mille": 1000 * SHARES,
    "bytes": (255 * SHARES).round(),
    "10 votes": (10 * SHARES).round(),
    "51 votes": (51 * SHARES).round(),
    "500 votes": 500 * SHARES,
    "halves": 0.5 * SHARES,
    "votes, a few missing": (50 * ROUNDED).round(),
    "rounded percentages of 30 classes": (100 * MANY).round(),
    "from 0 to 1, one by rounding above": ABOVE,
    "logits": np.log(SHARES + 1e-9) + 5,
    "positive logits": np.log(SHARES + 1e-9) + 25,
}


@pytest.mark.parametrize("name", SCORES)
def test_shares_of_any_whole_are_probabilities_and_other_numbers_logits(tmp_path, caplog, name):
    wanted = MANY.copy() if SCORES[name].shape == MANY.shape else SHARES.copy()
    classes = [*CLASSES, *map("kind {}".format, range(wanted.shape[1]))][: wanted.shape[1]]
    scored = images_of(40, labels=True, classes=classes).add_column("p", SCORES[name].tolist())
    found = stored(embed_view(scored, "scores:p", tmp_path))
    if name == "a row of zeros":
        wanted[3] = np.nan
        assert "1 of 40 rows are all zeros and count as unknown, the first is row 3 ('3')" in caplog.text
    np.testing.assert_allclose(found, wanted, atol=0.02)
    assert ("zeros" in caplog.text) == (name == "a row of zeros")


ODD = SHARES.copy()
ODD[7] = [-3, 3, 1]
NOT_SCORES = {
    "a row of logits": (
        ODD,
        r"row 7 \('7'\): -3, 3, 1; the other rows are shares that sum to 1. Correct it, or give null",
    ),
    "too large": (250 * np.random.default_rng(0).random((40, 3)), r"row 0 \('0'\): 159.2, 67.45, 10.24; neither sh"),
    "distances": (1 - SHARES, r"row 0 \('0'\): 0.3, 0.8, 0.9; the given label has the lowest number .* 40 of 40"),
}


@pytest.mark.parametrize("name", NOT_SCORES)
def test_what_are_no_scores_is_an_error_with_the_row_and_its_numbers(tmp_path, name):
    scores, words = NOT_SCORES[name]
    images = images_of(40).add_column("p", scores.tolist())
    images = images.add_column("label", SHARES.argmax(1), feature=ClassLabel(names=CLASSES))
    with pytest.raises(ValueError, match=rf"View 'scores:p' \(views\), {words}"):
        embed_view(images, "scores:p", tmp_path)


def test_a_view_without_class_names_is_one_of_any_classes(tmp_path, static_folder):
    feature = List(Value("float16"), length=6)  # which another encoder made, so that names cannot stand beside them
    images = images_of(4, labels=True).add_column("text_embeds", np.eye(4, 6).tolist(), feature=feature)
    folder = embed_view(images, "caption", tmp_path, text_encoder=str(static_folder))
    assert read(folder, images, ["a", "b"]).class_values is None


@pytest.mark.slow
def test_a_killed_embed_resumes_to_the_same_bits_and_two_processes_make_the_same(tmp_path):
    encoder, images = saved("vit", tmp_path / "vit"), images_of(60)
    whole = stored(embed_view(images, f"image:{encoder}", tmp_path / "whole"))
    DatasetDict(train=images).save_to_disk(tmp_path / "images")
    words = {"dataset_name": tmp_path / "images", "view": f"image:{encoder}", "embeddings_dir": tmp_path / "out"}
    code = "from g4i_hf.training import features; features.ROWS_A_FILE = 16; "
    code += "from g4i_hf.running import main; main(sys.argv[1:])"
    deadly = [PYTHON, WORKERS / "deadly.py", "g4i_hf.training.features._write", "3", code, "embed"]
    assert subprocess.run([*deadly, *spelled((words,))]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("out/features/*/*.parquet"))) == 2 and not list(tmp_path.glob("out/views/*"))
    assert np.array_equal(stored(embed_view(images, f"image:{encoder}", tmp_path / "out")), whole)
    words["embeddings_dir"] = tmp_path / "two"
    said = succeed("embed", words, launcher=TWO_PROCESSES).out
    assert said.count("for g4i fit --views") == 1
    np.testing.assert_allclose(stored(next(tmp_path.glob("two/views/*"))), whole, atol=1e-5)


def test_a_gated_model_names_the_remedy(hub, tmp_path):
    hub.create("me/gated")
    hub.fault("/me/gated/resolve/", 403, "GatedRepo")
    with hub.here(), pytest.raises(ValueError) as error:
        embed_view(images_of(2), "image:me/gated", tmp_path / "out")
    what = "it is gated: accept its terms on its page on the Hub, and log in with `hf auth login`"
    assert str(error.value) == f"View 'image:me/gated' (views): student 'me/gated' cannot be loaded: {what}."


def test_mistakes_end_in_one_line(tmp_path):
    images = images_of(3, labels=True)
    scores = {"two": [[0.1, 0.9]] * 3, "some": [[0.1, None, 0.2]] * 3, "words": ["a", "b", "c"]}
    for name, values in scores.items():
        images = images.add_column(name, values)
    wordless, bert, naflex = (tmp_path / name for name in ("wordless", "bert", "naflex"))
    saved("clip", wordless)
    weights = load_file(wordless / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("text_")}
    save_file(weights, wordless / "model.safetensors", metadata={"format": "pt"})
    for folder, kind in ((bert, "bert"), (naflex, "siglip2")):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    for view, words in {
        "clicks": "There is no view 'clicks'.*caption, answer, image:student, .*scores:COLUMN",
        "scores:": "There is no view 'scores:'",
        "caption": "no column 'caption'",
        "answer": "View 'answer' .*no training image has one that tells a class",
        "scores:none": "View 'scores:none' .*the data has no such column. Its columns: ",
        "scores:two": "View 'scores:two' .*row 0: 2 numbers; a list of 3 numbers is wanted",
        "scores:some": "row 0: some numbers are NaN",
        "scores:words": "row 0: 'a'; a list of 3 numbers",
        f"image:{bert}": "a model of the kind 'bert' is no image encoder",
        f"image:{naflex}": "NaFlex variant of SigLIP 2.*such as google/siglip2-base-patch16-224",
        f"image:{wordless}": "wordless.*it holds no whole text tower",
    }.items():
        with pytest.raises((ValueError, OSError), match=words) as error:
            embed_view(images, view, tmp_path / "out")
        assert "\n" not in str(error.value)
