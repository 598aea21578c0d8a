"""Stages that are found by name, in folders and on the Hub."""

import json
import socket
from pathlib import Path

import pytest
from hub_client import serving
from test_caption_endpoint import Worker
from test_captions_name import IDS, captions_of, save_images

from g4i_hf.data.hub_rows import check_path, is_remote
from g4i_hf.data.stage import find_stage, write_stage
from g4i_hf.hub.dataset import build_dataset

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
    server = Worker("caption_server.py")
    try:
        with serving() as hub:
            words = [folder / "pictures", images, captions, f"{server.url}/v1"]
            found = hub.run(WORKER, folder / "home", *words)
            return found | {"asked of the network": hub.log("/secret.png"), "captioned": server.stats()["requests"]}
    finally:
        server.stop()


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


DOORS = ("load_images", "load_split", "stream_images", "open_rows", "caption.py")
STREAMS = ("stream_images", "open_rows")
TRAPS = ("image", "address", "string", "string without id", "struct", "field", "struct in a field")
TRAPS += ("image of loopback", "string of loopback")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("trap", TRAPS)
def test_a_row_of_the_hub_leads_neither_to_this_machine_nor_into_its_network(found, trap, door):
    said = found["traps"][f"{trap}, {door}"]
    if door in STREAMS and not trap.startswith(("image", "address")):
        assert "has no column of images" in said
    else:
        assert "names the file" in said and "secret.png" in said


def test_nothing_was_opened_on_the_way(found):
    assert len(found["traps"]) == len(TRAPS) * len(DOORS)
    assert found["asked of the network"] == [] and found["captioned"] == 0


def test_columns_of_files_that_nothing_asks_for_are_left_out(found):
    assert set(found["beside images"]) == {"image_id", "caption", "image"}
    assert set(found["beside captions"]) == {"image_id", "caption", "image", "label"}


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


@pytest.fixture
def resolver(monkeypatch):
    """Names of hosts as a server of names may give them; nothing is asked."""
    known = {"inside.example": "8.8.8.8 10.0.0.1", "outside.example": "8.8.8.8 2001:4860:4860::8888"}
    numbers = socket.getaddrinfo

    def resolved(host, *options, **more):
        if host.endswith(".example"):
            if host not in known:
                raise socket.gaierror(socket.EAI_NONAME, "not known")
            return [(None, None, 0, "", (address, 0)) for address in known[host].split()]
        return numbers(host, *options, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "①②⑦.0.0.1", "127.0.0.1.", "0", "localhost"]
    + ["10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "me@127.0.0.1"]
    + ["[0:0:0:0:0:0:0:1]", "[::1]", "[0:0:0:0:0:ffff:7f00:1]", "[0:0:0:0:0:0:7f00:1]", "[64:ff9b:0:0:0:0:7f00:1]"]
    + ["[2002:7f00:1:0:0:0:0:0]", "[fe80:0:0:0:0:0:0:1]", "[fc00:0:0:0:0:0:0:1]", "[fec0:0:0:0:0:0:0:1]"]
    + ["[ff02:0:0:0:0:0:0:1]", "", "[", "inside.example", "inside.example:8000"],
)
@pytest.mark.parametrize("form", ["http://{}/a.png", "https://{}/a.png", "zip://a.png::http://{}/b.zip"])
def test_addresses_inside_of_the_network_are_refused(resolver, host, form):
    with pytest.raises(ValueError, match="me/images, row 0: names the file .* If you trust"):
        check_path(form.format(host), "me/images, row 0")


@pytest.mark.parametrize(
    "path",
    ["http://8.8.8.8/a.png", "http://[2001:4860:4860:0:0:0:0:8888]/a.png", "https://outside.example:8000/a.png?b=c"]
    + ["http://[64:ff9b:0:0:0:0:808:808]/a.png", "https://me@outside.example/a.png", "hf://datasets/me/images/a.png"]
    + ["http://unknown.example/a.png", "zip://a.png::hf://datasets/me/images/b.zip"],
)
def test_public_addresses_are_opened_and_those_of_no_host_left_to_fail(resolver, path):
    check_path(path, "me/images, row 0")
