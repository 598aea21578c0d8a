"""Several captions an image; folders that several data sets or runs share."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from PIL import Image as PILImage
from test_embedding import clip_folder, images_with, static_folder  # noqa: F401  (fixtures)

from g4i_hf.data.checks import DataError, check_split
from g4i_hf.embedding import EncoderArguments, embed_stage, load_encoder, verify_embeddings, with_text_embeds
from g4i_hf.embedding.encoders import SentenceEncoder

SEVERAL = [["a red car", "owl"], ["bird"], [], None, ["", "  ", None], [None, "owl", "a a"], ["red", "red"]]
KEPT = [["a red car", "owl"], ["bird"], [], [], [], ["owl", "a a"], ["red", "red"]]


@pytest.fixture
def args(static_folder) -> EncoderArguments:  # noqa: F811
    return EncoderArguments(text_encoder=str(static_folder), text_encoder_batch_size=2)


def several_images(captions: list, folder: Path) -> DatasetDict:
    train = images_with(["x"] * len(captions), folder)["train"].remove_columns("caption")
    train = train.add_column("caption", captions, feature=List(Value("string")))
    return DatasetDict(train=train, validation=train.select([0, 3]))


def read(folder: Path, split: str = "train") -> Dataset:
    return load_dataset("parquet", data_files=str(folder / f"{split}.parquet"), split="train", keep_in_memory=True)


# --- Several captions -----------------------------------------------------------------------------------------------


def test_every_caption_of_a_row_has_its_vector(args, tmp_path, monkeypatch):
    encoded = []
    encode = SentenceEncoder.encode
    monkeypatch.setattr(SentenceEncoder, "encode", lambda self, texts: encoded.extend(texts) or encode(self, texts))
    images = several_images(SEVERAL, tmp_path / "images")
    joined = with_text_embeds(images, args, tmp_path / "e", source="images")
    assert sorted(encoded) == ["a a", "a red car", "bird", "owl", "red"]  # each once
    assert joined["train"].features["text_embeds"] == List(List(Value("float16"), length=5))
    encoder = load_encoder(args.text_encoder)
    for texts, vectors in zip(KEPT, joined["train"]["text_embeds"], strict=True):
        if not texts:
            assert vectors is None
            continue
        np.testing.assert_allclose(vectors, encoder.encode(texts), atol=1e-3)
    stage = embed_stage(images, args, tmp_path / "e", source="images")
    assert stage["reused"] and stage["captions"] == {"train": 7, "validation": 2}
    assert stage["num_rows"] == {"train": 7, "validation": 2}


def test_with_images_keeps_the_lists(args, tmp_path):
    args.with_images = True
    images = several_images(SEVERAL, tmp_path / "images")
    embed_stage(images, args, tmp_path / "e", source="images")
    train = read(tmp_path / "e")
    assert train["caption"][:] == SEVERAL
    assert [None if v is None else len(v) for v in train["text_embeds"]] == [len(texts) or None for texts in KEPT]


def test_one_caption_in_a_list_is_another_stage_than_one_caption(args, tmp_path):
    embed_stage(several_images([["owl"], ["car"], [], []], tmp_path / "a"), args, tmp_path / "e", source="images")
    assert read(tmp_path / "e").features["text_embeds"] == List(List(Value("float16"), length=5))
    train = images_with(["owl", "car", None, None], tmp_path / "b")["train"]
    images = DatasetDict(train=train, validation=train.select([0, 3]))  # the same texts in the same rows
    embed_stage(images, args, tmp_path / "e", source="images")
    assert read(tmp_path / "e").features["text_embeds"] == List(Value("float16"), length=5)


def test_a_caption_moved_within_its_list_or_to_another_row_is_embedded_again(args, tmp_path):
    for number, captions in enumerate([[["owl", "car"], ["a"]], [["car", "owl"], ["a"]], [["car"], ["owl", "a"]]]):
        images = several_images([*captions, [], []], tmp_path / str(number))
        assert "reused" not in embed_stage(images, args, tmp_path / "e", source="images")


def test_lists_are_verified_too(args, tmp_path):
    images = several_images(SEVERAL, tmp_path / "images")
    embed_stage(images, args, tmp_path / "e", source="images")
    found = verify_embeddings(images, args, tmp_path / "e", num_captions=99)
    assert found["checked"] == found["captions"] == 9
    edited = several_images([["a red car", "bird"], *SEVERAL[1:]], tmp_path / "edited")
    with pytest.raises(ValueError, match=r"row 0 \(bïld-0\).*'bird'"):
        verify_embeddings(edited, args, tmp_path / "e", num_captions=99)
    fewer = several_images([*SEVERAL[:5], ["owl"], SEVERAL[6]], tmp_path / "fewer")
    with pytest.raises(ValueError, match=r"row 5 \(bïld-5\): 1 caption, but 2 embeddings in the stage, in lists"):
        verify_embeddings(fewer, args, tmp_path / "e", num_captions=1)


def test_lists_without_any_caption_stay_a_column_of_lists(args, tmp_path):
    embed_stage(several_images([None] * 4, tmp_path / "images"), args, tmp_path / "e", source="images")
    assert read(tmp_path / "e").features["text_embeds"] == List(List(Value("float16"), length=5))
    assert read(tmp_path / "e")["text_embeds"][:] == [None] * 4


# --- Checks of the column -------------------------------------------------------------------------------------------

UNIT = np.eye(4).tolist()


NESTED = List(List(Value("float16"), length=4))


def nested(rows: list, feature: List = NESTED) -> Dataset:
    features = {"image": Image(), "image_id": Value("string"), "label": Value("int64"), "text_embeds": feature}
    images, ids = [PILImage.new("RGB", (4, 4))] * len(rows), list(map(str, range(len(rows))))
    data = {"image": images, "image_id": ids, "label": [0] * len(rows), "text_embeds": rows}
    return Dataset.from_dict(data, features=Features(features)).cast_column("image", Image(decode=False))


def check(split: Dataset, dim: int | None = 4) -> dict[str, int]:
    return check_split(split, "train", num_labels=1, text_embed_dim=dim)


def test_nested_embeddings_pass_and_rows_without_any_are_counted(caplog):
    what = "rows without text_embeds, trained on their label alone"
    assert check(nested([UNIT, UNIT[:1], None, [], UNIT[2:]])) == {what: 2}
    assert f"Split 'train', column 'text_embeds' (first: row 2): {what}: 2" in caplog.text


@pytest.mark.parametrize(
    "fault, message",
    [
        ([UNIT[0], [np.nan, 0, 0, 0]], "row 3: NaN or infinite"),
        ([UNIT[0], [0, 0, 0, 0]], "row 3: a norm of zero"),
        ([UNIT[0], UNIT[1], [0, 2, 0, 0]], "row 3: a norm other than 1"),
        ([UNIT[0], None], "row 3: one of several embeddings is null. Leave it out of the row's list"),
    ],
    ids=["nan", "zero", "long", "null"],
)
def test_faults_of_nested_embeddings_name_the_row(fault, message):
    with pytest.raises(DataError, match=message):
        check(nested([UNIT, None, UNIT[:3], fault, UNIT]))
    with pytest.raises(DataError, match="every row: 4 dimensions, but the model expects 5"):
        check(nested([UNIT]), 5)


def test_embeddings_of_any_depth_or_length_are_an_error():
    for feature in (List(List(Value("float16"))), List(List(List(Value("float16"), length=1)))):
        with pytest.raises(DataError, match="is no list of floats of fixed length.*several a row as a List of these"):
            check(nested([None], feature), None)


# --- Folders shared -------------------------------------------------------------------------------------------------


def test_data_sets_that_share_a_folder_do_not_replace_each_other(args, tmp_path):
    ours, theirs = (images_with([text, "car"], tmp_path / text) for text in ("owl", "bird"))
    shared = tmp_path / "runs" / "embeddings"
    for _ in range(2):
        for images, name in ((ours, "owl"), (theirs, "bird")):
            with_text_embeds(images, args, shared, source=str(tmp_path / name), shared=True)
    folders = sorted(path.name for path in shared.iterdir())
    assert [name.rsplit("-", 1)[0] for name in folders] == ["bird-static", "owl-static"]
    times = {path: (path / "stage.json").stat().st_mtime_ns for path in shared.iterdir()}
    joined = with_text_embeds(ours, args, shared, source=str(tmp_path / "owl"), shared=True)
    assert {path: (path / "stage.json").stat().st_mtime_ns for path in shared.iterdir()} == times
    expected = load_encoder(args.text_encoder).encode(["owl", "car"])
    np.testing.assert_allclose(joined["train"]["text_embeds"][:], expected, atol=1e-3)
    args.text_encoder_prompt = "red "
    with_text_embeds(ours, args, shared, source=str(tmp_path / "owl"), shared=True)
    assert len(list(shared.iterdir())) == 3


def test_a_folder_given_is_used_as_it_is(args, tmp_path):
    images = images_with(["owl", "car"], tmp_path / "images")
    with_text_embeds(images, args, tmp_path / "e", source="images")
    assert sorted(path.name for path in (tmp_path / "e").iterdir())[0] == "stage.json"


def test_two_runs_at_once_into_one_folder(args, tmp_path, monkeypatch):
    """Both are encoding at the same moment, and both end with the whole stage."""
    images = images_with(["owl", "car", "bird"], tmp_path / "images")
    barrier, encode, failures = threading.Barrier(2, timeout=30), SentenceEncoder.encode, []

    def slow(self, texts):
        barrier.wait()
        return encode(self, texts)

    monkeypatch.setattr(SentenceEncoder, "encode", slow)
    running, numbers = [os.getpid(), os.getppid()], {}  # two threads stand for two processes
    monkeypatch.setattr("os.getpid", lambda: numbers.setdefault(threading.get_ident(), running[len(numbers) > 0]))

    def run() -> None:
        try:
            embed_stage(images, args, tmp_path / "e", source="images")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert read(tmp_path / "e")["text_embeds"][0] is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "images"]
