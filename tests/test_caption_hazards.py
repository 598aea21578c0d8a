"""`recipes/caption.py` where a mistake would cost answers, images or trust."""

import contextlib
import io
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from PIL import Image as PILImage
from test_caption_endpoint import picture_of, serve  # noqa: F401
from test_caption_recipe import CAPTIONER, caption, shapes
from test_recipes import ROOT

from g4i_hf.captioning.stage import PRIVATE
from g4i_hf.captioning.store import AnswerStore
from g4i_hf.data import open_images


def saved(folder: Path, **columns) -> str:
    """Four equally large pictures and some columns, as a `save_to_disk` folder."""
    content = []
    for number in range(4):
        buffer = io.BytesIO()
        PILImage.new("RGB", (8, 8), (60 * number, 0, 0)).save(buffer, "BMP")
        content.append({"bytes": buffer.getvalue(), "path": None})
    features = Features({"image": Image(decode=False)} | {name: feature for name, (feature, _) in columns.items()})
    values = {"image": content} | {name: value for name, (_, value) in columns.items()}
    DatasetDict(train=Dataset.from_dict(values, features=features)).save_to_disk(folder / "data")
    return "./data"


LOCAL = ["--captions_dir", "captions", "--captioner_model", str(CAPTIONER), "--max_new_tokens", "16"]
LOCAL += ["--report", "false"]


@pytest.mark.parametrize(
    "ids, said", [(["a", "b", "a", "c"], "row 2: 'a', which row 0 has too"), ([None] * 4, "row 0: null")]
)
def test_ids_that_do_not_tell_images_apart_are_refused_before_anything_is_asked(tmp_path, ids, said):
    data = saved(tmp_path, image_id=(Value("string"), ids))
    message = caption(tmp_path, "--dataset_name", data, *LOCAL, fails=True)
    assert said in message and "--image_id_column" in message and not (tmp_path / "captions.journal").exists()


def test_neither_journal_nor_images_are_replaced_by_the_stage(tmp_path):
    shapes(tmp_path, 2)
    inside = ["--journal_dir", "captions/journal"]
    assert "answers would be lost" in caption(tmp_path, "--dataset_name", "pictures", *LOCAL, *inside, fails=True)
    caption(tmp_path, "--dataset_name", "pictures", *LOCAL, "--with_images")
    assert "another folder" in caption(tmp_path, "--dataset_name", "./captions", *LOCAL, fails=True)
    assert len(open_images(str(tmp_path / "captions"))["train"]) == 2


def test_a_stage_that_cannot_be_written_is_said_before_anything_is_asked(tmp_path):
    shapes(tmp_path, 2)
    (tmp_path / "file").touch()
    words = ["--dataset_name", "pictures", *LOCAL, "--journal_dir", "journal"]
    message = caption(tmp_path, *words, "--captions_dir", "file/captions", fails=True)
    assert "captions_dir is" in message and "is a file" in message and not (tmp_path / "journal").exists()


def test_numbers_are_no_names_of_classes(tmp_path):
    data = saved(tmp_path, label=(Value("int64"), [0, 1, 0, 1]))
    message = caption(tmp_path, "--dataset_name", data, *LOCAL, "--prompt", "class", fails=True)
    assert "holds numbers, no names of classes" in message
    caption(tmp_path, "--dataset_name", data, *LOCAL)
    assert pq.read_table(tmp_path / "captions" / "train.parquet").num_rows == 4


def test_several_labels_an_image_do_not_keep_it_from_being_described(tmp_path):
    data = saved(tmp_path, label=(List(Value("int64")), [[0, 1], [1], [], [2]]))
    caption(tmp_path, "--dataset_name", data, *LOCAL)
    assert pq.read_table(tmp_path / "captions" / "train.parquet").num_rows == 4


@pytest.mark.parametrize("more", [["--with_images"], ["--partial"]])
def test_a_stream_cannot_keep_images(tmp_path, more):
    data = saved(tmp_path)
    assert "With streaming" in caption(tmp_path, "--dataset_name", data, *LOCAL, "--streaming", *more, fails=True)


def test_some_splits_of_a_stream_with_equal_images_and_a_row_without_class(tmp_path):
    split = load_dataset(str(ROOT / "recipes" / "shapes"), split="train").select([0, 1, 1, 2])
    split = split.remove_columns(["image_id", "label"]).add_column(
        "label", [0, 1, None, 2], feature=ClassLabel(names=["one", "two", "three"])
    )
    DatasetDict(train=split, test=split).save_to_disk(tmp_path / "data")
    options = ["--dataset_name", "./data", *LOCAL, "--streaming", "--caption_splits", "train", "--prompt", "class"]
    caption(tmp_path, *options)
    rows = pq.read_table(tmp_path / "captions" / "train.parquet").to_pylist()
    assert [row["caption_status"] for row in rows] == ["ok", "ok", "missing", "ok"]
    assert [row["image_id"] for row in rows] == open_images(str(tmp_path / "data"))["train"]["image_id"][:]
    assert not (tmp_path / "captions" / "test.parquet").exists()
    assert open_images(str(tmp_path / "captions"))["train"]["caption"][0] == rows[0]["caption"]


def test_a_limit_with_partial_writes_what_there_is(tmp_path):
    shapes(tmp_path, 9)
    options = ["--dataset_name", "pictures", *LOCAL, "--max_requests"]
    assert "max_requests is reached" in caption(tmp_path, *options, "4")
    assert not (tmp_path / "captions").exists()
    caption(tmp_path, *options, "2", "--partial")
    statuses = pq.read_table(tmp_path / "captions" / "train.parquet")["caption_status"].to_pylist()
    assert sorted(statuses) == ["missing"] * 3 + ["ok"] * 6


def test_reasons_of_failures_name_no_path(tmp_path):
    """Rows that point at files: one is no picture, one has become a folder."""
    images = shapes(tmp_path, 3)
    paths = sorted(images.rglob("*.png"))
    rows = [{"image": {"bytes": None, "path": str(path)}, "image_id": path.stem} for path in paths]
    features = Features({"image": Image(decode=False), "image_id": Value("string")})
    (tmp_path / "data").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    paths[0].write_bytes(b"no picture")
    paths[1].unlink()
    paths[1].mkdir()
    caption(tmp_path, "--dataset_name", "data", *LOCAL)
    table = pq.read_table(tmp_path / "captions" / "train.parquet").to_pylist()
    reasons = {row["image_id"]: row["caption_reason"] for row in table if row["caption_status"] == "undecodable"}
    assert len(reasons) == 2 and not any("/" in reason for reason in reasons.values()), reasons


def test_what_servers_say_is_published_without_addresses():
    said = "no connection to http://10.1.2.3:8000/v1 (10.1.2.3:8000), see /home/alice/log or ~/x/y; try 3/4 and/or 1"
    assert PRIVATE.sub("...", said) == "no connection to ... (...), see ... or ...; try 3/4 and/or 1"


def test_captions_that_were_made_otherwise_are_replaced_only_on_demand(tmp_path):
    shapes(tmp_path, 3)
    options = ["--dataset_name", "pictures", *LOCAL]
    caption(tmp_path, *options)
    before = pq.read_table(tmp_path / "captions" / "train.parquet")
    message = caption(tmp_path, *options, "--prompt", "What is it?", fails=True)
    assert "other prompts" in message and "--overwrite" in message
    assert pq.read_table(tmp_path / "captions" / "train.parquet") == before
    caption(tmp_path, *options, "--prompt", "What is it?", "--overwrite")
    stage = json.loads((tmp_path / "captions" / "stage.json").read_text())
    assert stage["prompts"] == ["What is it?"] and stage["asked_about"] == ["train"]


def test_a_dry_run_in_which_everything_fails_says_why_and_leaves_nothing(tmp_path):
    """The server has the model under another name."""
    shapes(tmp_path, 4)
    command = [sys.executable, str(ROOT / "tests" / "workers" / "caption_server.py"), "--always", "400"]
    server = subprocess.Popen([*command, "--say", "wrong model"], stdout=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{json.loads(server.stdout.readline())['port']}/v1"
        options = ["--dataset_name", "pictures", "--captions_dir", "captions", "--captioner_model", "tiny"]
        message = caption(tmp_path, *options, "--base_url", url, "--dry_run", "3", fails=True)
    finally:
        server.kill()
    assert "None of 3 images got a caption" in message and "wrong model" in message and "127.0.0.1" in message
    with AnswerStore(tmp_path / "captions.journal") as store:
        assert len(store) == 0


@pytest.mark.parametrize("kept", [False, True])
def test_half_a_character_of_a_server_keeps_no_stage_from_its_end(tmp_path, serve, kept):  # noqa: F811
    """Also one that a segment of version 0.1 holds, which kept it as it came."""
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        picture_of(number).save(tmp_path / "pictures" / f"{number}.png")
    half = "?" if kept else r"\ud83d"
    server = serve("--message", f'{{"content": "a cat {half}"}}', "--reject", 1, "--say", f"bad {half} picture")
    options = ["--dataset_name", "pictures", "--captions_dir", "captions", "--captioner_model", "tiny"]
    options += ["--base_url", f"{server.url}/v1"]
    caption(tmp_path, *options)
    if kept:
        [database] = (tmp_path / "captions.journal").glob("*.sqlite")
        with contextlib.closing(sqlite3.connect(database)) as answers:
            lines = [record for (record,) in answers.execute("SELECT record FROM answers")]
        database.with_suffix(".jsonl").write_text("\n".join(lines).replace(" ?", r" \ud83d"))
        database.unlink()
        shutil.rmtree(tmp_path / "captions")
        caption(tmp_path, *options)
    rows = pq.read_table(tmp_path / "captions" / "train.parquet").to_pylist()
    assert [row["caption_raw"] for row in rows] == ["a cat \ufffd", None, "a cat \ufffd"]
    assert rows[1]["caption_reason"] == "400: bad \ufffd picture"
    assert server.stats()["requests"] == 3


def test_a_mistyped_name_of_a_prompt_is_noticed(tmp_path):
    shapes(tmp_path, 2)
    message = caption(tmp_path, "--dataset_name", "pictures", *LOCAL, "--prompt", "clas", fails=True)
    assert "did you mean 'class'" in message
