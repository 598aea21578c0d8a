"""SigLIP towers, decoders and prompts: the vectors are the library's own, whatever else is in the batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from test_embedding import images_with
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Tokenizer,
    SiglipConfig,
)

from g4i_hf.embedding import EncoderArguments, embed_stage, load_encoder

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "car", "owl", "long", "bird", "query", "photo", "of", ":"]
CAPTIONS = ["a red car", "owl", "a blue bird a red owl", "long long car a"]
WINDOW = 12
TEXT = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": WINDOW, "projection_size": 6}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
DECODER = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
DECODER |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0}


def word_tokenizer(**options) -> PreTrainedTokenizerFast:
    """One token a word, in small letters, and an end token."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **options)


def save_random(model: torch.nn.Module, folder: Path) -> None:
    """With weights large enough that captions differ much."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.4, generator=generator)
    model.save_pretrained(folder)


@pytest.fixture(scope="module", params=["siglip", "siglip2"])
def siglip_folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    if request.param == "siglip":
        word_tokenizer(model_input_names=["input_ids"]).save_pretrained(folder)
        config = SiglipConfig(text_config=TEXT, vision_config=VISION | {"image_size": 8, "patch_size": 4})
    else:
        letters = {letter: i for i, letter in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"])}
        letters |= {chr(97 + i): 6 + i for i in range(26)}
        Siglip2Tokenizer(vocab=letters, merges=[]).save_pretrained(folder)
        config = Siglip2Config(text_config=TEXT | {"max_position_embeddings": 24}, vision_config=VISION)
    save_random(AutoModel.from_config(config), folder)
    return folder


def features_of(folder: Path, captions: list[str]) -> np.ndarray:
    """What transformers' own model gives, padded as its authors say."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    window = model.config.text_config.max_position_embeddings
    tokens = tokenizer(captions, padding="max_length", max_length=window, truncation=True, return_tensors="pt")
    with torch.no_grad():
        features = model.get_text_features(**tokens).pooler_output
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def test_siglip_vectors_are_those_of_transformers_in_any_batch(siglip_folder):
    encoder = load_encoder(str(siglip_folder))
    assert encoder.dim == 6 and encoder.max_tokens in (WINDOW, 24)
    expected = features_of(siglip_folder, CAPTIONS)
    assert np.std(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(encoder.encode(CAPTIONS), expected, atol=1e-5)
    for caption, vector in zip(CAPTIONS, expected, strict=True):
        np.testing.assert_allclose(encoder.encode([caption])[0], vector, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)


def test_siglip_letters_become_small_where_the_tokenizer_does_it(siglip_folder):
    encoder = load_encoder(str(siglip_folder))
    np.testing.assert_allclose(encoder.encode(["A Red CAR"]), encoder.encode(["a red car"]), atol=1e-6)


def test_siglip_counts_and_cuts_at_its_window(siglip_folder):
    encoder = load_encoder(str(siglip_folder))
    long = "owl " * 40
    [count] = encoder.count_tokens([long])
    assert count > encoder.max_tokens
    np.testing.assert_allclose(encoder.encode([long]), features_of(siglip_folder, [long]), atol=1e-5)


def test_a_siglip_tower_alone_has_the_same_vectors(siglip_folder, tmp_path):
    """`model_type` is then siglip_text_model or siglip2_text_model."""
    whole = AutoModel.from_pretrained(siglip_folder)
    whole.text_model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(siglip_folder).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"].endswith("_text_model")
    expected = load_encoder(str(siglip_folder)).encode(CAPTIONS)
    np.testing.assert_allclose(load_encoder(str(tmp_path)).encode(CAPTIONS), expected, atol=1e-6)


def test_siglip_through_the_whole_stage(siglip_folder, tmp_path):
    images = images_with([*CAPTIONS, None], tmp_path / "images")
    embed_stage(images, EncoderArguments(text_encoder=str(siglip_folder)), tmp_path / "e", source="images")
    vectors = load_images_column(tmp_path, images)
    np.testing.assert_allclose(vectors[:-1], features_of(siglip_folder, CAPTIONS), atol=1e-3)
    assert vectors[-1] is None


def load_images_column(tmp_path: Path, images) -> list:
    from datasets import load_dataset

    return load_dataset("parquet", data_files=str(tmp_path / "e" / "train.parquet"), split="train")["text_embeds"][:]


def test_a_model_without_text_tower_is_an_error(tmp_path):
    """Its missing weights would be random numbers."""
    word_tokenizer().save_pretrained(tmp_path)
    CLIPVisionModel(CLIPVisionConfig(**VISION, image_size=8, patch_size=4)).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="cannot be loaded: it holds no whole text tower"):
        load_encoder(str(tmp_path))


# --- Decoders -------------------------------------------------------------------------------------------------------


def decoder(folder: Path, config, padding_side: str, pooling: str = "lasttoken") -> Path:
    word_tokenizer(padding_side=padding_side, model_max_length=16).save_pretrained(folder / "plain")
    save_random(AutoModel.from_config(config), folder / "plain")
    transformer = Transformer(str(folder / "plain"))
    SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling)], device="cpu"
    ).save(str(folder / "encoder"))
    return folder / "encoder"


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**DECODER),
        GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=32),  # absolute positions
    ],
    ids=["llama", "gpt2"],
)
def test_decoders_do_not_depend_on_the_batch(tmp_path, config, padding_side):
    folder = decoder(tmp_path, config, padding_side)
    encoder = load_encoder(str(folder))
    alone = np.concatenate([encoder.encode([caption]) for caption in CAPTIONS])
    np.testing.assert_allclose(encoder.encode(CAPTIONS), alone, atol=1e-5)
    assert encoder.count_tokens(CAPTIONS) == [4, 2, 7, 5]
    # And it is the end token of the decoder itself
    model = AutoModel.from_pretrained(tmp_path / "plain").eval()
    for caption, vector in zip(CAPTIONS, alone, strict=True):
        tokens = AutoTokenizer.from_pretrained(tmp_path / "plain")(caption, return_tensors="pt")
        assert tokens["input_ids"][0, -1] == 1
        with torch.no_grad():
            last = model(input_ids=tokens["input_ids"]).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, torch.nn.functional.normalize(last, dim=0), atol=1e-5)
    assert np.std(alone, axis=0).max() > 0.1


def test_a_decoder_cuts_before_its_end_token(tmp_path):
    folder = decoder(tmp_path, LlamaConfig(**DECODER), "left")
    encoder = load_encoder(str(folder))
    assert encoder.max_tokens == 16
    cut, whole = encoder.encode(["owl car " * 20, ("owl car " * 8)[:-5]])  # 15 words and the end
    np.testing.assert_allclose(cut, whole, atol=1e-5)


# --- Prompts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory) -> Path:
    """A sentence encoder with two named prompts, none of them the default."""
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(**{key: value for key, value in DECODER.items() if key != "num_key_value_heads"})
    place = decoder(folder, config, "right", pooling="mean")
    model = SentenceTransformer(str(place), device="cpu", prompts={"query": "query: ", "photo": "a photo of "})
    model.save(str(folder / "prompted"))
    return folder / "prompted"


def test_a_prompt_goes_before_every_caption_and_is_counted(bert_folder):
    library = SentenceTransformer(str(bert_folder), device="cpu")
    plain = load_encoder(str(bert_folder))
    given = load_encoder(str(bert_folder), prompt="query: ")
    named = load_encoder(str(bert_folder), prompt_name="photo")
    assert plain.prompt == "" and given.prompt == "query: " and named.prompt == "a photo of "
    for encoder, options in ((given, {"prompt": "query: "}), (named, {"prompt_name": "photo"}), (plain, {})):
        expected = library.encode(CAPTIONS, normalize_embeddings=True, **options)
        np.testing.assert_allclose(encoder.encode(CAPTIONS), expected, atol=1e-6)
    assert np.abs(plain.encode(CAPTIONS) - given.encode(CAPTIONS)).max() > 0.05
    counts = [np.asarray(encoder.count_tokens(CAPTIONS)) for encoder in (plain, given, named)]
    assert (counts[1] == counts[0] + 2).all() and (counts[2] == counts[0] + 3).all()


def test_a_prompt_goes_before_captions_of_towers_too(siglip_folder):
    encoder = load_encoder(str(siglip_folder), prompt="a photo of ")
    expected = features_of(siglip_folder, ["a photo of " + caption for caption in CAPTIONS])
    np.testing.assert_allclose(encoder.encode(CAPTIONS), expected, atol=1e-5)
    plain = load_encoder(str(siglip_folder))
    assert encoder.count_tokens(["owl"]) == plain.count_tokens(["a photo of owl"])
    with pytest.raises(OSError, match="'query'.*towers define no prompts.*text_encoder_prompt"):
        load_encoder(str(siglip_folder), prompt_name="query")


def test_an_empty_prompt_turns_the_default_off(bert_folder, tmp_path):
    model = SentenceTransformer(str(bert_folder), device="cpu")
    model.default_prompt_name = "query"
    model.save(str(tmp_path))
    assert load_encoder(str(tmp_path)).prompt == "query: "
    off = load_encoder(str(tmp_path), prompt="")
    np.testing.assert_allclose(off.encode(CAPTIONS), load_encoder(str(bert_folder)).encode(CAPTIONS), atol=1e-6)


def test_an_unknown_prompt_name_says_which_there_are(bert_folder):
    with pytest.raises(OSError, match="'passage', which the model does not define: it has photo, query"):
        load_encoder(str(bert_folder), prompt_name="passage")
    with pytest.raises(OSError, match="'document', which the model does not define"):  # empty in every model
        load_encoder(str(bert_folder), prompt_name="document")
    with pytest.raises(ValueError, match="are both given; give one"):
        EncoderArguments(text_encoder_prompt="a", text_encoder_prompt_name="query")


def test_another_prompt_makes_another_stage(bert_folder, tmp_path):
    images = images_with([*CAPTIONS, None], tmp_path / "images")
    stages = []
    for options in ({}, {"text_encoder_prompt": "query: "}, {"text_encoder_prompt_name": "photo"}):
        args = EncoderArguments(text_encoder=str(bert_folder), **options)
        stages.append(embed_stage(images, args, tmp_path / "e", source="images"))
        assert "reused" not in stages[-1]
        assert embed_stage(images, args, tmp_path / "e", source="images")["reused"]
    assert [stage["text_encoder_prompt"] for stage in stages] == [None, "query: ", "a photo of "]
    assert [stage["text_encoder_prompt_name"] for stage in stages] == [None, None, "photo"]
