"""Stages that are found by name, in folders and on the Hub."""

import json
from pathlib import Path

import pytest
from hub_client import serving
from test_captions_name import IDS, captions_of, save_images

from g4i_hf.data.opening import is_remote
from g4i_hf.data.published import find_stage
from g4i_hf.data.stage import write_stage
from g4i_hf.hub.dataset_folder import build_dataset

WORKER = Path(__file__).parent / "workers" / "published_data.py"


def test_stage_of_a_folder(tmp_path):
    (tmp_path / "stage.json").write_text(json.dumps({"stage": "captioning", "num_rows": {"train": 2}}))
    assert find_stage(str(tmp_path))["num_rows"] == {"train": 2}


def test_none_where_no_stage_is(tmp_path):
    assert find_stage(str(tmp_path)) is None
    assert find_stage(str(tmp_path / "gone")) is None
    assert find_stage("nobody/nothing") is None  # offline, and not in the cache


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What a client finds of two data sets that it has pushed."""
    folder = tmp_path_factory.mktemp("published")
    save_images(folder / "pictures")
    stage = {"stage": "embedding", "source": "../pictures", "text_encoder": "org/encoder"}
    write_stage(folder / "stage", {"train": captions_of(IDS[::-1])}, stage)
    images = build_dataset(folder / "stage", folder / "images", with_images=True)
    captions = build_dataset(folder / "stage", folder / "captions", images_id="me/images")
    with serving() as hub:
        return hub.run(WORKER, folder / "home", folder / "pictures", images, captions)


@pytest.mark.slow
def test_a_second_push_of_the_same_changes_nothing(found):
    assert found["unchanged"]
    assert {"README.md", "stage.json", "data/train-00000-of-00001.parquet"} <= set(found["files"])


def test_captions_of_the_hub_are_joined_to_their_images(found):
    assert found["alone"] == {"train": ["image_id", "caption", "caption_weight", "text_embeds"]}
    expected = {row["image_id"]: row for row in captions_of(IDS)}
    assert found["source"] == "me/images" and list(found["joined"]) == list(found["with images"])
    for kind in ("joined", "with images", "named"):
        assert [row[0] for row in found[kind]["train"]] == IDS, kind
        for image_id, label, caption, embeds, size in found[kind]["train"]:
            assert caption == expected[image_id]["caption"] and embeds == expected[image_id]["text_embeds"]
            assert label == (0 if image_id.startswith("cat") else 1)
            assert size > 0 or kind == "named"  # whose images lie in files
        assert [row[2] for row in found[kind]["test"]] == [None] * 4


def test_a_data_set_of_the_hub_that_is_no_stage_is_none(found):
    assert found["none"] == [None, None] and found["without stage"] is None


def test_a_data_set_of_the_hub_cannot_have_files_of_this_machine_opened(found):
    assert len(found["pointing"]) == 8
    for message in found["pointing"]:
        assert "names the file" in message and "secret.png" in message


def test_a_stream_of_the_hub_is_known_by_what_is_in_its_files(found):
    first, after_another_file, after_one_of_its_own = found["known by"]
    assert first == after_another_file and first[0].startswith("data/train-00000-of-00001.parquet ")
    assert first[0].split()[:2] != after_one_of_its_own[0].split()[:2]  # name and hash, whatever its rows


@pytest.mark.parametrize(
    "path", ["hf://datasets/me/images/a.png", "http://a.org/a", "zip://a.png::https://a.org/b.zip"]
)
def test_images_on_servers_are_opened(path):
    assert is_remote(path)


@pytest.mark.parametrize(
    "path",
    ["a.png", "/a.png", "file:///a.png", "file:/a.png", "local://a.png", "zip://a.png::/b.zip"]
    + ["zip://a.png::file:///b.zip", "file:///a.png::https://a.org/b", "/a.png::https://a.org/b", "s3://a/b.png"],
)
def test_files_and_what_may_lead_to_them_are_not(path):
    assert not is_remote(path)
