"""The batch API of a server: files of questions, their answers in any order, and stops at any moment."""

import json
from pathlib import Path

import caption_doors
import pytest
from caption_doors import Worker, all_right, caption, captions_of_numbers, draw_numbers, rows_of

from g4i_hf.captioning import batch_api

serve = caption_doors.serve
IMAGES = 24
ONCE = {str(number): 1 for number in range(IMAGES)}


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    """Three batches of at most ten questions, asked for often."""
    monkeypatch.setattr(batch_api, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 10)


@pytest.fixture
def folder(tmp_path) -> Path:
    draw_numbers(tmp_path / "pictures", IMAGES)
    return tmp_path


def words(server: Worker) -> list[str]:
    options = ["--dataset_name", "pictures", "--captions_dir", "captions", "--report", "false", "--batch_api", "true"]
    return [*options, "--base_url", f"{server.url}/v1", "--captioner_model", "tiny"]


def batch_server(serve, *options: object) -> Worker:
    return serve(*options, script="batch_server.py")


def assert_right_and_asked_once(folder: Path, server: Worker) -> None:
    assert captions_of_numbers(folder / "captions") == all_right(IMAGES) and server.get("/asked") == ONCE


def test_every_image_has_its_own_caption_and_nothing_is_asked_twice(folder, serve):
    """Also where a fifth of the requests fail, and the reply about the first batch is lost."""
    server = batch_server(serve, "--fault_rate", 0.2, "--seed", 3, "--lose", 1)
    caption(folder, *words(server))
    assert_right_and_asked_once(folder, server)
    assert not list((folder / "captions.journal" / "batches").iterdir())
    assert "All 24 answers were there already." in caption(folder, *words(server))
    assert server.get("/asked") == ONCE


@pytest.mark.parametrize("moment", ["_collect", "_deliver", "the id is not written down"])
def test_a_run_that_was_stopped_finds_its_batches_again(folder, serve, monkeypatch, moment):
    def stop(*_):
        raise KeyboardInterrupt

    server = batch_server(serve)
    with monkeypatch.context() as patched:
        patched.setattr(batch_api.BatchCaptioner, moment if moment.startswith("_") else "_collect", stop)
        assert "the same command resumes" in caption(folder, *words(server), fails=True)
    if moment == "the id is not written down":
        for path in (folder / "captions.journal" / "batches").iterdir():
            path.write_text(json.dumps(json.loads(path.read_text()) | {"id": ""}))
    caption(folder, *words(server))
    assert_right_and_asked_once(folder, server)


def test_a_batch_that_the_server_knows_no_more_is_named_with_its_file(folder, serve, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    server = batch_server(serve)
    with monkeypatch.context() as patched:
        patched.setattr(batch_api.BatchCaptioner, "_collect", stop)
        caption(folder, *words(server), fails=True)
    first, *_ = sorted((folder / "captions.journal" / "batches").iterdir())
    first.write_text(json.dumps(json.loads(first.read_text()) | {"id": "batch-99"}))
    said = caption(folder, *words(server), fails=True)
    assert "does not know batch batch-99 any more" in said and f"remove captions.journal/batches/{first.name}" in said
    first.unlink()
    caption(folder, *words(server))
    assert captions_of_numbers(folder / "captions") == all_right(IMAGES)


def test_expired_questions_are_sent_again_by_the_same_command(folder, serve):
    server = batch_server(serve, "--expire", 0.3)
    assert "questions were not answered in time" in caption(folder, *words(server))
    assert not (folder / "captions").exists()
    for _ in range(30):
        if not (folder / "captions").exists():
            caption(folder, *words(server))
    assert_right_and_asked_once(folder, server)


def test_a_rejected_image_has_a_reason_and_the_others_a_caption(folder, serve):
    caption(folder, *words(batch_server(serve, "--reject", 5)))
    assert captions_of_numbers(folder / "captions") == all_right(IMAGES) | {5: None}
    [row] = [row for row in rows_of(folder / "captions") if row["image_id"].endswith("/5.png")]
    assert (row["caption_status"], row["caption_reason"]) == ("rejected", "400: this picture is not allowed")


def test_a_batch_that_is_refused_and_a_server_without_batches_are_one_line(folder, serve):
    said = caption(folder, *words(batch_server(serve, "--refuse", "no such model")), fails=True)
    assert "error: The server refused a batch: no such model" in said
    assert "Does it have a batch API?" in caption(folder, *words(serve()), fails=True)
