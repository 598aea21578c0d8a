"""Captioning killed by SIGKILL in the middle: the same command goes on, and no caption is paid twice."""

import time
from collections.abc import Callable

import pyarrow.parquet as pq
from doors import ROOT, WAIT, caption_server, server_stats, start
from drawings import draw_folder
from loaded import kill

CONCURRENCY = 4
IMAGES = 36


def kill_when(process, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not happened():
        assert process.poll() is None, f"it ended before it could be killed\n{process.communicate()[1][-3000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    kill(process)
    process.communicate()


def test_captioning_killed_in_the_middle_asks_for_nothing_twice_but_what_was_under_way(quick, tmp_path):
    pictures = draw_folder(tmp_path / "pictures", captions=False, train=IMAGES)
    options = {"dataset_name": pictures, "captions_dir": tmp_path / "captions", "captioner_model": "tiny"}
    options |= {"max_concurrency": CONCURRENCY, "report": "false"}
    under_way = CONCURRENCY + 2  # an answer may be there and not yet on the disk, while its place is taken again
    with caption_server("--answer", "digest", "--latency", "0.1", "--capacity", str(CONCURRENCY)) as server:
        options["base_url"] = f"{server}/v1"
        for answered in (7, 20):
            process = start("caption", options, cwd=ROOT)
            kill_when(process, lambda count=answered: server_stats(server)["whole"] >= count)
            assert not (tmp_path / "captions" / "stage.json").exists()
        time.sleep(0.2)  # the server notices that the client is gone
        before = server_stats(server)
        assert before["whole"] < IMAGES, "killed too late to show anything"
        quick.succeed("caption", options)
        after = server_stats(server)
        assert IMAGES <= after["requests"] <= IMAGES + 2 * under_way
        assert after["requests"] - before["requests"] <= IMAGES - 20 + 2 * under_way
        quick.succeed("caption", options)
        assert server_stats(server)["requests"] == after["requests"], "whole: nothing is asked"
    rows = pq.read_table(tmp_path / "captions" / "train.parquet").to_pylist()
    captions = [row["caption"] if isinstance(row["caption"], str) else row["caption"][0] for row in rows]
    assert len(rows) == len(set(captions)) == IMAGES and all(captions)
