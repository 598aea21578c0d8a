"""--verify: stored vectors against what their captions give now."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import DatasetDict, List, Value
from test_embedding import clip_folder, images_with, static_folder  # noqa: F401  (fixtures)

from g4i_hf.data.stage import read_stage, write_stage
from g4i_hf.embedding import EncoderArguments, embed_stage, load_encoder, verify_embeddings

ROOT = Path(__file__).parent.parent
CAPTIONS = ["a red car", "owl", None, "a blue bird a red owl", "long", "a a", "car car car", "owl bird", "red", "blue"]
KNOWN = len(CAPTIONS) - 1


@pytest.fixture
def made(clip_folder, tmp_path):  # noqa: F811
    """(images, arguments, folder of their embeddings)"""
    images = DatasetDict(train=images_with(CAPTIONS, tmp_path / "images")["train"])
    args = EncoderArguments(text_encoder=str(clip_folder))
    embed_stage(images, args, tmp_path / "e", source=str(tmp_path / "images"))
    return images, args, tmp_path / "e"


def edited(images: DatasetDict, row: int, caption: str | None) -> DatasetDict:
    captions = images["train"]["caption"][:]
    captions[row] = caption
    train = images["train"].remove_columns("caption").add_column("caption", captions, feature=Value("string"))
    return DatasetDict(train=train)


def test_embeddings_that_are_right_pass(made):
    images, args, folder = made
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    found = verify_embeddings(images, args, folder, num_captions=4, seed=1)
    assert found["checked"] == 4 and found["captions"] == KNOWN and found["splits"] == ["train"]
    assert 1 - 1e-5 < found["min_cosine"] < 1 + 1e-3 and found["other_settings"] == []
    assert verify_embeddings(images, args, folder, num_captions=99)["checked"] == KNOWN
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_sample_is_drawn_by_the_seed(made, monkeypatch):
    images, args, folder = made
    seen = []
    monkeypatch.setattr(
        "g4i_hf.embedding.verify.encode_captions",
        lambda captions, *rest: seen.append(captions) or (_ for _ in ()).throw(KeyboardInterrupt),
    )
    for seed in (0, 0, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            verify_embeddings(images, args, folder, num_captions=4, seed=seed)
    assert seen[0] == seen[1] and seen[0] not in seen[2:] and {len(captions) for captions in seen} == {4}


def test_rows_in_another_order_are_still_the_same(made):
    images, args, folder = made
    turned = DatasetDict(train=images["train"].select(range(len(CAPTIONS) - 1, -1, -1)))
    assert verify_embeddings(turned, args, folder, num_captions=99)["checked"] == KNOWN


def test_an_edited_caption_is_named(made):
    images, args, folder = made
    message = r"split 'train', row 4 \(bïld-4\).*'owl long' \(cosine .*\); 1 of 9 .*was edited after .*Embed again"
    with pytest.raises(ValueError, match=message):
        verify_embeddings(edited(images, 4, "owl long"), args, folder, num_captions=99)


def test_an_edited_caption_that_was_not_drawn_is_still_an_error(made):
    images, args, folder = made
    for seed in range(4):
        with pytest.raises(ValueError, match="edited after they were embedded|was edited after it was embedded"):
            verify_embeddings(edited(images, 4, "owl long"), args, folder, num_captions=2, seed=seed)


@pytest.mark.parametrize("row, caption", [(1, None), (2, "owl")], ids=["removed", "added"])
def test_captions_come_and_gone_are_named(made, row, caption):
    images, args, folder = made
    said = "no captions, but 1 embedding" if caption is None else "1 caption, but no embeddings"
    with pytest.raises(
        ValueError, match=rf"Split 'train', row {row} \(bïld-{row}\): {said} in the stage.*embed again"
    ):
        verify_embeddings(edited(images, row, caption), args, folder, num_captions=1)


def test_shuffled_rows_are_named(made):
    images, args, folder = made
    stage, train = read_stage(folder), images["train"]
    from datasets import load_dataset

    stored = load_dataset("parquet", data_files=str(folder / "train.parquet"), split="train", keep_in_memory=True)
    order = [0, 3, 2, 1, *range(4, len(CAPTIONS))]
    vectors = [stored["text_embeds"][row] for row in order]
    stored = stored.remove_columns("text_embeds").add_column(
        "text_embeds", vectors, feature=List(Value("float16"), length=6)
    )
    write_stage(folder, {"train": stored}, stage)
    with pytest.raises(
        ValueError, match=r"row 1 \(bïld-1\).*2 of 9 .*It is in row 3: rows were shuffled. Embed again"
    ):
        verify_embeddings(DatasetDict(train=train), args, folder, num_captions=99)


def test_another_encoder_or_prompt_is_said(made, static_folder, tmp_path):  # noqa: F811
    images, args, folder = made
    with pytest.raises(ValueError, match="6 dimensions, but those of static have 5. Give the encoder .*tiny-clip"):
        verify_embeddings(images, EncoderArguments(text_encoder=str(static_folder)), folder, num_captions=3)
    prompted = EncoderArguments(text_encoder=args.text_encoder, text_encoder_prompt="a long")
    with pytest.raises(ValueError, match=r"row .*other settings: text_encoder_prompt \(None there, 'a long' here\)"):
        verify_embeddings(images, prompted, folder, num_captions=3)
    encoder = load_encoder(args.text_encoder)
    encoder.model.text_projection.weight.data.neg_()
    encoder.model.save_pretrained(tmp_path / "tiny-clip")
    encoder.tokenizer.save_pretrained(tmp_path / "tiny-clip")
    other = EncoderArguments(text_encoder=str(tmp_path / "tiny-clip"))
    with pytest.raises(ValueError, match=r"row .*3 of 3 .*other settings: text_encoder_digest \("):
        verify_embeddings(images, other, folder, num_captions=3)


def test_a_folder_without_embeddings_is_an_error(made, tmp_path):
    images, args, _ = made
    with pytest.raises(ValueError, match="holds no embeddings to verify. Embed first, without --verify"):
        verify_embeddings(images, args, tmp_path / "nothing", num_captions=3)


@pytest.mark.slow
def test_the_script_prints_what_was_checked_and_fails_with_the_row(made):
    images, args, folder = made
    place = folder.parent
    command = [sys.executable, ROOT / "recipes" / "embed.py", "--dataset_name", "./images", "--embeddings_dir", "e"]
    command += ["--text_encoder", args.text_encoder, "--verify", "99"]
    images_with(CAPTIONS, place / "images")  # both splits; only one was embedded
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=place)
    assert done.returncode == 2 and "error: e has no embeddings of the split 'test_novel'" in done.stderr
    embed_stage(images_with(CAPTIONS, place / "images2"), args, folder, source=str(place / "images2"))
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        "Verified: 11 of 11 captions of train, test_novel, embedded again, give the vectors in e (smallest"
        in done.stdout
    )
    assert json.loads((folder / "stage.json").read_text())["captions"] == {"train": 9, "test_novel": 2}
