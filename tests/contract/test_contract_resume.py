"""Killed by SIGKILL in the middle, the same command goes on: no caption is paid twice, weights have the same bits."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from doors import ROOT, WAIT, caption_server, files_in, server_stats, start
from drawings import draw_folder

CONCURRENCY = 4
IMAGES = 36
# 18 rows in batches of 4: a checkpoint in the middle of an epoch, dropout, a schedule, mixup and a moving average
TRAINED = {
    "student": "vit_tiny_patch16_224",
    "student_args": '{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_rate": 0.1}',
    "image_size": 32,
    "max_steps": 120,
    "per_device_train_batch_size": 4,
    "learning_rate": "1e-3",
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "color_jitter": 0.3,
    "mixup_alpha": 0.2,
    "ema_decay": 0.9,
    "save_strategy": "steps",
    "save_steps": 7,
    "logging_steps": 5,
    "use_cpu": "true",
    "disable_tqdm": "true",
}


def kill_when(process, happened: Callable[[], bool]) -> None:
    """SIGKILL, as by the kernel when memory is short; nothing of the process runs after it."""
    deadline = time.monotonic() + WAIT
    while not happened():
        assert process.poll() is None, f"it ended before it could be killed\n{process.communicate()[1][-3000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_captioning_killed_in_the_middle_asks_for_nothing_twice_but_what_was_under_way(quick, tmp_path):
    pictures = draw_folder(tmp_path / "pictures", captions=False, train=24, validation=12)
    options = {"dataset_name": pictures, "captions_dir": tmp_path / "captions", "captioner_model": "tiny"}
    options |= {"max_concurrency": CONCURRENCY, "report": "false"}
    with caption_server("--answer", "digest", "--latency", "0.1", "--capacity", str(CONCURRENCY)) as server:
        options["base_url"] = f"{server}/v1"
        for answered in (7, 20):
            kill_when(
                start("caption", options, cwd=ROOT), lambda count=answered: server_stats(server)["whole"] >= count
            )
            assert not (tmp_path / "captions" / "stage.json").exists()
        time.sleep(0.2)  # the server notices that the client is gone
        before = server_stats(server)
        assert before["whole"] < IMAGES, "killed too late to show anything"
        quick.succeed("caption", options)
        after = server_stats(server)
        assert IMAGES <= after["requests"] <= IMAGES + 2 * CONCURRENCY
        assert after["requests"] - before["requests"] <= IMAGES - 20 + 2 * CONCURRENCY
        quick.succeed("caption", options)
        assert server_stats(server)["requests"] == after["requests"], "whole: nothing is asked"
    rows = pq.read_table(tmp_path / "captions" / "train.parquet").to_pylist()
    captions = [row["caption"] if isinstance(row["caption"], str) else row["caption"][0] for row in rows]
    assert len(rows) == 24 and len(set(captions)) == 24 and all(captions)


@pytest.fixture(scope="module")
def undisturbed(quick, loop, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    quick.succeed("train", TRAINED | {"dataset_name": loop / "embeddings", "output_dir": run})
    return run


@pytest.mark.slow
def test_training_killed_in_the_middle_ends_with_the_same_bits(quick, loop, undisturbed, tmp_path):
    options = TRAINED | {"dataset_name": loop / "embeddings", "output_dir": tmp_path / "run"}
    process = start("train", options)
    kill_when(process, lambda: (tmp_path / "run" / "checkpoint-21").exists())
    assert not (tmp_path / "run" / "all_results.json").exists(), "killed too late to show anything"
    done = quick.succeed("train", options)
    assert "checkpoint-" in done.said, "it says from where it goes on"
    for name in ("model.safetensors", "ema.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert {"all_results.json", "trainer_state.json", "train.yaml"} <= files_in(tmp_path / "run")


@pytest.mark.slow
def test_the_same_command_trains_the_same_bits_and_a_finished_run_no_more(quick, loop, undisturbed, tmp_path):
    options = TRAINED | {"dataset_name": loop / "embeddings", "output_dir": tmp_path / "run"}
    quick.succeed("train", options)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    quick.succeed("train", options)
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    done = quick.run("train", options | {"learning_rate": "1e-2"})
    assert done.code == 2 and "learning_rate" in done.err and "--overwrite" in done.err
    other = quick.succeed("train", options | {"seed": 5, "overwrite": "true", "max_steps": 14})
    assert other.code == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != (undisturbed / "model.safetensors").read_bytes()
