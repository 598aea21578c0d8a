"""Captions that a server is asked for: prompts, limits, failures."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from doors import caption_server, server_stats
from drawings import draw_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def bare(tmp_path) -> Path:
    """Drawings without captions: 12 and 6."""
    return draw_folder(tmp_path / "pictures", captions=False, train=12, validation=6)


def rows_of(stage: Path, split: str = "train") -> dict[str, dict]:
    return {row["image_id"]: row for row in pq.read_table(stage / f"{split}.parquet").to_pylist()}


def texts(row: dict) -> list[str]:
    return [caption for caption in row["caption"] if caption]


def asked(bare: Path, server: str, **more) -> dict:
    options = {"dataset_name": bare, "captions_dir": bare.parent / "captions", "captioner_model": "tiny"}
    return options | {"base_url": f"{server}/v1", "report": "false"} | more


def test_prompts_columns_of_the_data_and_several_captions(quick, bare):
    """The server answers with what it was asked."""
    with caption_server("--answer", "digest", "--echo") as server:
        words = ("--prompt", "plain", "A photo of a {label}.", "--caption_splits", "train")
        quick.succeed("caption", asked(bare, server), *words)
        assert server_stats(server)["requests"] == 24
    rows = rows_of(bare.parent / "captions")
    assert len(rows) == 12
    for image_id, row in rows.items():
        plain, own = texts(row)
        assert "Describe this image in detail." in plain and f"A photo of a {image_id.split('/')[0]}." in own
    stage = json.loads((bare.parent / "captions" / "stage.json").read_text())
    assert stage["num_rows"].get("validation", 6) in (0, 6)


def test_limits_stop_a_run_and_the_same_command_goes_on(quick, bare):
    with caption_server("--answer", "digest") as server:
        done = quick.run("caption", asked(bare, server, max_requests=5))
        assert server_stats(server)["requests"] == 5 and not (bare.parent / "captions").exists(), done.said
        quick.succeed("caption", asked(bare, server, max_requests=5, partial="true"))
        assert server_stats(server)["requests"] == 10
        every = {**rows_of(bare.parent / "captions"), **rows_of(bare.parent / "captions", "validation")}
        assert sum(bool(texts(row)) for row in every.values()) == 10
        quick.succeed("caption", asked(bare, server))
        assert server_stats(server)["requests"] == 12 and server_stats(server)["asked_again"] == 0
        done = quick.run("caption", asked(bare, server, prompt="Another?"))
        assert done.code == 2 and "--overwrite" in done.err, "captions made otherwise are not replaced"


def test_one_bad_image_ends_nothing_and_failures_are_asked_again_on_request(quick, bare):
    (bare / "train" / "cross" / "1.png").write_bytes(b"no image")
    with caption_server("--answer", "digest") as server:
        quick.succeed("caption", asked(bare, server))
        assert server_stats(server)["requests"] == 11
        rows = rows_of(bare.parent / "captions")
        assert rows["cross/1.png"]["caption_status"] == ["undecodable"] and texts(rows["cross/1.png"]) == []
        assert all(row["caption_status"] == ["ok"] for name, row in rows.items() if name != "cross/1.png")
        shutil.copy(bare / "train" / "cross" / "4.png", bare / "train" / "cross" / "1.png")
        quick.succeed("caption", asked(bare, server, retry_failed="true"))
    assert rows_of(bare.parent / "captions")["cross/1.png"]["caption_status"] == ["ok"]
