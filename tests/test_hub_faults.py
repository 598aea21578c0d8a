"""What goes wrong on the way to the test Hub, and what the real client does about it."""

import json
import time
from pathlib import Path

import hub_client
import pytest
from hub_server.accounts import ME_WRITE, OTHER_WRITE

# Pushes the files of a folder by one commit; prints what came of it and the number of the tries of the client
PUSH = """
import json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi
api, folder = HfApi(), Path(sys.argv[1])
id = api.create_repo(sys.argv[2], exist_ok=True).repo_id
add = [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())]
parent = sys.argv[3] if len(sys.argv) > 3 else api.model_info(id).sha
try:
    made = api.create_commit(id, add, commit_message="Push", parent_commit=parent, num_threads=1)
    print(json.dumps(["done", made.oid]))
except Exception as error:
    error = error.__cause__ if isinstance(error, RuntimeError) else error  # "Error while uploading"
    print(json.dumps([type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)]))
"""
SIZE = 300_000


@pytest.fixture(scope="module")
def hub():
    with hub_client.serving() as hub:
        yield hub


@pytest.fixture
def push(hub, tmp_path):
    """Pushes two files that go to LFS and one that does not."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, name in enumerate(("a.bin", "b.bin")):
        (folder / name).write_bytes(bytes([number]) * SIZE)
    (folder / "note.txt").write_text("note")
    hub.no_faults()
    hub.clear_log()
    return lambda name, *words, **more: hub.run(PUSH, tmp_path / "home", folder, name, *words, **more)


def sizes(hub) -> list[int]:
    return [line["bytes"] for line in hub.log("PUT /lfs")]


def files(hub, id: str) -> dict:
    return hub.state()[f"models/{id}"]["branches"]["main"]["files"]


def test_a_cut_upload_is_repeated_by_the_client(hub, push):
    hub.fault("PUT /lfs", "cut", skip=1, after=1000)
    assert push("cut")[0] == "done"
    assert sizes(hub) == [SIZE, 1000, SIZE]
    assert [line["status"] for line in hub.log("PUT /lfs")] == [200, None, 200]
    assert files(hub, "me/cut")["b.bin"] == SIZE


def test_what_is_stored_is_not_sent_again(hub, push):
    """The first push ends in the middle; the second sends what is missing."""
    hub.fault("PUT /lfs", 403, skip=1)
    assert push("again") == ["HfHubHTTPError", 403]
    assert sizes(hub) == [SIZE, SIZE] and files(hub, "me/again").keys() == {".gitattributes"}
    hub.clear_log()
    assert push("again")[0] == "done"
    assert sizes(hub) == [SIZE]
    hub.clear_log()
    assert push("again")[0] == "done" and sizes(hub) == [] and not hub.log("/commit/")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_the_client_repeats_after(status, hub, push):
    hub.fault("POST .*/batch", status, seconds=0)
    assert push(f"repeated-{status}")[0] == "done"
    assert [line["status"] for line in hub.log("/batch")] == [status, 200]


@pytest.mark.parametrize("status", [401, 409, 412])
def test_the_client_gives_up_after(status, hub, push):
    hub.fault("POST .*/commit/main", status)
    assert push(f"refused-{status}") == ["HfHubHTTPError", status]
    assert files(hub, f"me/refused-{status}").keys() == {".gitattributes"}


def test_a_lost_reply_is_a_commit_all_the_same(hub, push):
    hub.fault("POST .*/commit/main", "lost")
    assert push("lost")[0] in ("RemoteProtocolError", "ReadError")
    assert files(hub, "me/lost")["note.txt"] == 4


def test_somebody_else_commits_in_between(hub, push):
    hub.fault("POST .*/commit/main", "commit", repo="me/between", files={"theirs.txt": "theirs"})
    assert push("between") == ["HfHubHTTPError", 412]
    assert files(hub, "me/between").keys() == {".gitattributes", "theirs.txt"}
    assert push("between")[0] == "done"
    assert files(hub, "me/between").keys() == {".gitattributes", "theirs.txt", "a.bin", "b.bin", "note.txt"}


def test_a_token_expires_in_the_middle(hub, push):
    hub.act("add_token", token="hf_short", user="me")
    hub.fault("POST .*/verify", "expire_token", token="hf_short")
    assert push("expired", token="hf_short") == ["HfHubHTTPError", 401]
    assert push("expired")[0] == "done"
    assert len(sizes(hub)) == 2  # what came before is kept


def test_a_repository_is_gone_or_private_in_the_middle(hub, push):
    hub.fault("POST .*/commit/main", "delete", repo="me/gone")
    assert push("gone") == ["RepositoryNotFoundError", 404]
    status, _, _ = hub.ask("POST", "/api/repos/create", {"name": "hidden"}, ME_WRITE)
    assert status == 200
    hub.fault("/resolve/", "make_private", skip=1, repo="me/hidden")
    assert [hub.ask("GET", "/me/hidden/resolve/main/.gitattributes")[0] for _ in range(2)] == [200, 401]


def test_a_download_ends_early(hub, tmp_path):
    """The client tries again after an end of file, and gives up after a reset."""
    hub.ask("POST", "/api/repos/create", {"name": "down"}, ME_WRITE)
    hub.act("commit", repo="me/down", files={"long.txt": "long " * 50_000})
    script = """
import json, sys
from pathlib import Path
from huggingface_hub import hf_hub_download
try:
    print(Path(hf_hub_download("me/down", "long.txt")).stat().st_size)
except Exception as error:
    print(json.dumps(type(error).__name__))
"""
    for kind, outcome in (("close", 250_000), ("cut", "ReadError")):
        hub.no_faults()
        hub.fault("GET .*long.txt", kind)
        assert hub.run(script, tmp_path / kind) == outcome
    assert [line["status"] for line in hub.log("GET /me/down/resolve")] == [None, 200, None]


def test_a_slow_reply(hub):
    hub.no_faults()
    hub.fault("GET /api/whoami", "slow", seconds=0.3)
    start = time.monotonic()
    assert hub.ask("GET", "/api/whoami-v2", token=ME_WRITE)[0] == 200
    assert time.monotonic() - start >= 0.3


def test_faults_are_listed_and_ended(hub):
    hub.no_faults()
    hub.fault("GET /api/whoami", 403, times=2, skip=1)
    asked = [hub.ask("GET", "/api/whoami-v2", token=OTHER_WRITE)[0] for _ in range(4)]
    assert asked == [200, 403, 403, 200]
    hub.fault("GET /api/whoami", 403, times=None)
    assert [fault["times"] for fault in hub.ask("GET", "/_faults")[2]] == [0, None]
    assert hub.ask("GET", "/api/whoami-v2", token=OTHER_WRITE)[0] == 403
    hub.no_faults()
    assert hub.ask("GET", "/api/whoami-v2", token=OTHER_WRITE)[0] == 200
    assert hub.ask("POST", "/_faults", {"match": "x"})[0] == 400


def test_the_address_is_printed(tmp_path):
    """One line, by which other programs find the server."""
    with hub_client.serving(tmp_path) as hub:
        assert hub.url.startswith("http://127.0.0.1:")
        assert json.dumps(hub.state()) == "{}" and Path(tmp_path).is_dir()
