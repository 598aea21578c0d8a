"""`caption` as people start it, where a mistake would cost answers, images or trust."""

import json
import sys
from pathlib import Path

import make
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caption_doors import CAPTIONER, asking, caption, draw_numbers, picture_of, rows_of
from datasets import DatasetDict
from doors import TWO_PROCESSES, imports_of, succeed

from g4i_hf import load_images
from g4i_hf.cli import build_options
from g4i_hf.options import OPTIONS_OF
from g4i_hf.workflows.caption import Captioning


def test_a_dry_run_by_a_server_imports_no_torch(serve, tmp_path):
    draw_numbers(tmp_path / "pictures", 3)
    env = {"PYTHONPROFILEIMPORTTIME": "1"}
    done = succeed("caption", *asking(serve(), "--dry_run", 2), cwd=tmp_path, env=env, python=sys.executable)
    imported = imports_of(done)
    assert "datasets" in imported and not imported & {"torch", "accelerate"}


def test_a_column_that_goes_along_with_the_label_is_refused_for_evaluation(tmp_path):
    images = make.rows(4, wnid=["n1", "n2", "n1", "n2"])
    DatasetDict(train=images).save_to_disk(tmp_path / "data")
    local = ["--captions_dir", "captions", "--captioner_model", CAPTIONER, "--max_new_tokens", 16]
    data = ["--dataset_name", "./data", *local, "--prompt", "See {wnid}."]
    said = caption(tmp_path, *data, "--train_splits", "training", fails=True)
    assert "the column 'wnid', which tells the class, and split 'train' is for evaluation" in said
    caption(tmp_path, *data)


def test_prompts_columns_of_the_data_and_several_captions(tmp_path, serve):
    """The server answers with what it was asked."""
    draw_numbers(tmp_path / "pictures", 6)
    caption(tmp_path, *asking(serve("--echo"), "--prompt", "plain", "A photo of a {label}."))
    for row in rows_of(tmp_path / "captions"):
        plain, own = row["caption"]
        assert "Describe this image in detail." in plain and f"A photo of a {row['image_id'].split('/')[0]}." in own


def test_limits_stop_a_run_and_the_same_command_goes_on(tmp_path, serve):
    draw_numbers(tmp_path / "pictures", 12)
    server = serve()
    caption(tmp_path, *asking(server, "--max_requests", 4 + 5))  # the check takes four
    assert server.stats()["requests"] == 5 and not (tmp_path / "captions").exists()
    caption(tmp_path, *asking(server, "--max_requests", 5, "--partial"))
    assert sum(row["caption"] != [None] for row in rows_of(tmp_path / "captions")) == 10
    caption(tmp_path, *asking(server))
    assert (server.stats()["requests"], server.stats()["asked_again"]) == (12, 0)
    said = caption(tmp_path, *asking(server, "--prompt", "Another?"), fails=True)
    assert "--overwrite" in said, "captions made otherwise are not replaced"


def test_a_dry_run_in_which_everything_fails_says_why_and_leaves_nothing(tmp_path, serve):
    """The server has the model under another name."""
    draw_numbers(tmp_path / "pictures", 4)
    said = caption(tmp_path, *asking(serve("--always", 400, "--say", '"wrong model"'), "--dry_run", 3), fails=True)
    assert "None of 3 images got a caption" in said and "wrong model" in said and "127.0.0.1" in said
    server = serve()
    caption(tmp_path, *asking(server))
    assert server.stats()["requests"] == 4


@pytest.mark.parametrize("named", [True, False])
def test_a_file_of_captions_names_the_images_of_a_table_by_their_files_or_ids(tmp_path, named):
    images = [make.stored(make.noise(n)) | {"path": f"{n}.png" if named else None} for n in range(3)]
    split = make.rows(3, image=images, image_id=None, label=None)
    DatasetDict(train=split).save_to_disk(tmp_path / "data")
    key = "2.png" if named else load_images(tmp_path / "data")["train"]["image_id"][2]
    (tmp_path / "captions.jsonl").write_text(json.dumps({"file": key, "caption": "a cat"}))
    caption(tmp_path, "--dataset_name", "./data", "--captions_dir", "out", "--captions_file", "captions.jsonl")
    assert [row["caption"] for row in rows_of(tmp_path / "out")] == [[None], [None], ["a cat"]]


def test_what_servers_say_is_published_in_whole_characters_and_without_addresses(tmp_path, serve):
    draw_numbers(tmp_path / "pictures", 3)
    said = r'"bad \ud83d, see http://10.1.2.3:8000/v1 (10.1.2.3:8000), /home/alice/log or ~/x/y; try 3/4 and/or 1"'
    caption(tmp_path, *asking(serve("--message", r'{"content": "a cat \ud83d"}', "--reject", 1, "--say", said)))
    rows = {Path(row["image_id"]).stem: row for row in rows_of(tmp_path / "captions")}
    assert [rows[name]["caption_raw"] for name in "012"] == [["a cat \ufffd"], [None], ["a cat \ufffd"]]
    assert rows["1"]["caption_reason"] == ["400: bad \ufffd, see ... (...), ... or ...; try 3/4 and/or 1"]


def test_processes_that_share_the_captions_share_the_budget(tmp_path, serve, monkeypatch):
    """A request costs 3, and 18 images wait: with a budget of 24 two processes send 4 each."""
    for shard in range(2):
        images = [make.stored(picture_of(9 * shard + row)) for row in range(9)]
        pq.write_table(pa.table({"image": images}), tmp_path / f"{shard}.parquet")
    given, server = {"shards": str(tmp_path / "*.parquet"), "out": str(tmp_path / "out")}, serve()
    given |= {"captioner_model": "tiny", "base_url": f"{server.url}/v1", "max_concurrency": 1, "check_vision": False}
    given |= {"max_cost": 24, "price_input": 0, "price_output": 1e6}
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        options = build_options(OPTIONS_OF["caption"], given)
        with pytest.raises(ValueError, match="max_cost .* is reached: 4 requests were sent"):
            Captioning(*options, say=str).over_shards(options[1])
    assert server.stats()["requests"] == 8


@pytest.mark.slow
def test_a_limit_that_the_second_process_alone_met_leaves_no_captions_that_pass_for_whole(tmp_path, serve):
    draw_numbers(tmp_path / "pictures", 6)
    server, places = serve(), {"dataset_name": tmp_path / "pictures", "captions_dir": tmp_path / "captions"}

    def run(*more: str) -> str:
        return succeed("caption", *asking(server, *more), places, launcher=TWO_PROCESSES).out

    said = run("--max_requests", "5")
    assert "the same command asks for as many more" in said
    assert not (tmp_path / "captions").exists()
    run("--max_requests", "0", "--partial")
    assert [row["caption_status"] for row in rows_of(tmp_path / "captions")].count(["missing"]) == 1
