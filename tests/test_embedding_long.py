"""Captions beyond the encoder's window: cut and counted, or embedded in chunks that lose nothing."""

import logging
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from test_embedding import images_with
from test_embedding_encoders import DECODER, decoder
from transformers import BertConfig

from g4i_hf.embedding import EncoderArguments, embed_stage, load_encoder
from g4i_hf.embedding.long_captions import split_captions

SHORT = ["a red car", "owl", "a blue bird: a red owl", "long long car a", "bird " * 15]
LONG = "A red car. A long blue owl of a bird. " * 3 + "Owl bird car " * 12 + "."
WINDOW = 16  # 15 words and the end token


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    config = BertConfig(**{key: value for key, value in DECODER.items() if key != "num_key_value_heads"})
    return decoder(tmp_path_factory.mktemp("bert"), config, "right", pooling="mean")


def vectors_of(captions: list, args: EncoderArguments, place: Path, folder: Path) -> tuple[dict, list]:
    stage = embed_stage(images_with(captions, folder / f"images of {place.name}"), args, place, source="images")
    return stage, load_dataset("parquet", data_files=str(place / "train.parquet"), split="train")["text_embeds"][:]


def test_the_parts_of_a_caption_are_all_there_and_fit(folder):
    encoder = load_encoder(str(folder))
    captions = [LONG, "owl " * 100, "owl。car！" * 20, "a red car\n" * 9, "é" * 3000, "owl" * 40 + "? " + LONG]
    for caption, chunks in split_captions(captions, encoder).items():
        assert len(chunks) > 1 or encoder.count_tokens([caption])[0] <= WINDOW
        assert max(encoder.count_tokens(chunks)) <= WINDOW
        assert "".join("".join(chunks).split()) == "".join(caption.split())


def test_sentences_stay_whole_and_fill_the_window(folder):
    encoder = load_encoder(str(folder))
    caption = "A red car: a bird. Owl? A long blue car of a bird! " + "car " * 20
    assert split_captions([caption], encoder)[caption] == [
        "A red car: a bird. Owl?",  # 7 and 2 tokens; the next sentence has 8
        "A long blue car of a bird! car car car car car car car",
        "car " * 12 + "car",
    ]


def test_the_mean_of_chunks_is_weighted_by_their_tokens(folder, tmp_path):
    args = EncoderArguments(text_encoder=str(folder), long_captions="chunk_mean", text_encoder_batch_size=2)
    stage, vectors = vectors_of([LONG, "owl", None], args, tmp_path / "chunks", tmp_path)
    encoder = load_encoder(str(folder))
    chunks = split_captions([LONG], encoder)[LONG]
    words = np.asarray(encoder.count_tokens(chunks)) - 1
    assert len(set(words)) > 1
    mean = (words[:, None] * encoder.encode(chunks)).sum(axis=0)
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-3)
    plain = encoder.encode(chunks).mean(axis=0)
    assert np.abs(vectors[0] - plain / np.linalg.norm(plain)).max() > 2e-3
    assert stage["captions_over_window"]["train"] == {
        "captions": 1,
        "share": 0.5,
        "tokens_lost": 0,
        "chunks": len(chunks),
    }


def test_captions_that_fit_have_the_same_bits_in_both_modes(folder, tmp_path):
    captions = [LONG, *SHORT, "car " * 99, *(f"{a} {b} car" for a in ("a", "red", "long") for b in ("owl", "bird"))]
    found = {}
    for mode in ("truncate", "chunk_mean"):
        args = EncoderArguments(text_encoder=str(folder), long_captions=mode, text_encoder_batch_size=4)
        stage, found[mode] = vectors_of(captions, args, tmp_path / mode, tmp_path)
        assert stage["long_captions"] == mode
    same = [cut == whole for cut, whole in zip(found["truncate"], found["chunk_mean"], strict=True)]
    assert same == [caption in SHORT or len(caption) < 20 for caption in captions]
    np.testing.assert_allclose(np.linalg.norm(found["chunk_mean"], axis=1), 1, atol=1e-3)


def test_another_mode_makes_another_stage(folder, tmp_path):
    images = images_with(SHORT, tmp_path / "images")
    for mode in ("truncate", "chunk_mean"):
        args = EncoderArguments(text_encoder=str(folder), long_captions=mode)
        assert "reused" not in embed_stage(images, args, tmp_path / "e", source="images")
        assert embed_stage(images, args, tmp_path / "e", source="images")["reused"]


@pytest.mark.parametrize("mode", ["truncate", "chunk_mean"])
def test_share_and_loss_are_always_said(folder, tmp_path, caplog, mode):
    args = EncoderArguments(text_encoder=str(folder), long_captions=mode)
    with caplog.at_level(logging.INFO, logger="g4i_hf"):
        stage, _ = vectors_of([*SHORT, "owl. " * 20], args, tmp_path / "e", tmp_path)
    over = stage["captions_over_window"]
    assert over["test_novel"] == {"captions": 0, "share": 0.0, "tokens_lost": 0, "chunks": 0}
    assert "Split 'test_novel': 0 of 2 captions (0.0%) are longer" in caplog.text
    assert "Split 'train': 1 of 6 captions (16.7%) are longer than the encoder's window of 16 tokens" in caplog.text
    lost = 20 * 2 + 1 - WINDOW
    if mode == "truncate":
        assert over["train"]["tokens_lost"] == lost and f"{lost} tokens are lost" in caplog.text
    else:
        assert over["train"]["chunks"] == 3 and "embedded in 3 chunks; no token is lost" in caplog.text


def test_the_prompt_is_before_every_chunk_and_takes_its_room(folder):
    encoder = load_encoder(str(folder), prompt="query: ")
    chunks = split_captions(["car " * 30], encoder)["car " * 30]
    assert [len(chunk.split()) for chunk in chunks] == [13, 13, 4]
    full = load_encoder(str(folder), prompt="query: " * 8)
    with pytest.raises(ValueError, match="prompt .* fills its window of 16 tokens.*--text_encoder_prompt"):
        split_captions(["car " * 30], full)


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ValueError, match="long_captions is 'cut'; choose one of truncate, chunk_mean"):
        EncoderArguments(long_captions="cut")
