"""Pushes over HTTP: whole or not at all, whatever happens on the way, and the same after a repetition."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_client import serving
from hub_server.accounts import ME_READ, ME_WRITE

CARD = """---
license: apache-2.0
tags:
- g4i_hf
---

# A student
"""


class Pusher:
    """A process that pushes: huggingface_hub reads its environment only when imported."""

    def __init__(self, hub, home: Path):
        command = [sys.executable, str(Path(__file__).parent / "workers" / "pusher.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=hub.environment(home), text=True, **pipes)
        assert self.process.stdout.readline().strip() == "ready"

    def __call__(self, folder: Path, repo_id: str, **more) -> dict:
        print(json.dumps({"folder": str(folder), "repo_id": repo_id} | more), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def push(hub, tmp_path_factory):
    pusher = Pusher(hub, tmp_path_factory.mktemp("home"))
    yield pusher
    pusher.close()


@pytest.fixture
def repo(hub, request):
    """A name of its own for each test, and no fault left over."""
    hub.no_faults()
    hub.clear_log()
    yield "me/" + re.sub(r"\W+", "-", request.node.name.replace("_", "-"))[-60:].strip("-")
    hub.no_faults()


@pytest.fixture
def folder(tmp_path):
    """A small release: a card, a configuration, and weights that go up as large files."""
    root = tmp_path / "student"
    (root / "aligned").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    (root / "config.json").write_text("{}")
    for seed, name in enumerate(("model.safetensors", "aligned/model.safetensors")):
        header = b"{}" + b" " * 6
        (root / name).write_bytes(len(header).to_bytes(8, "little") + header + bytes([seed]) * 300_000)
    return root


def files_of(hub, repo: str, kind: str = "models") -> dict[str, int] | None:
    """What a reader of the main branch sees; None without a repository."""
    found = hub.state().get(f"{kind}/{repo}")
    return found and {name: size for name, size in found["branches"]["main"]["files"].items() if name[0] != "."}


def sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def sent(hub) -> int:
    """Bytes of large files that have gone up."""
    return sum(line["bytes"] for line in hub.log("PUT "))


def test_a_push_is_one_commit_in_a_private_repository(hub, push, repo, folder):
    answer = push(folder, repo)
    assert answer["url"].startswith(hub.url) and repo in answer["url"]
    state = hub.state()[f"models/{repo}"]
    assert state["private"] and files_of(hub, repo) == sizes(folder)
    assert len(hub.log("/commit/")) == 1


def test_a_push_of_the_same_sends_and_commits_nothing(hub, push, repo, folder):
    first = push(folder, repo)
    commits = hub.state()[f"models/{repo}"]["commits"]
    hub.clear_log()
    assert push(folder, repo) == first
    assert hub.state()[f"models/{repo}"]["commits"] == commits and sent(hub) == 0


def test_what_a_release_no_longer_has_is_deleted_and_what_others_added_stays(hub, push, repo, folder):
    push(folder, repo)
    hub.act("commit", repo=repo, files={"NOTES.md": "by hand", "onnx/model.onnx": "of an earlier release"})
    (folder / "aligned" / "model.safetensors").unlink()
    assert "url" in push(folder, repo)
    assert files_of(hub, repo) == sizes(folder) | {"NOTES.md": 7}


def test_a_public_repository_on_request_and_one_that_exists_keeps_its_visibility(hub, push, repo, folder):
    push(folder, repo, private=False)
    assert not hub.state()[f"models/{repo}"]["private"]
    (folder / "config.json").write_text('{"a": 1}')
    assert "url" in push(folder, repo)
    assert not hub.state()[f"models/{repo}"]["private"]


def test_a_branch_is_made_and_main_left_alone(hub, push, repo, folder):
    assert "url" in push(folder, repo, revision="v2")
    branches = hub.state()[f"models/{repo}"]["branches"]
    assert "model.safetensors" in branches["v2"]["files"] and "model.safetensors" not in branches["main"]["files"]


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_data_sets_and_spaces(hub, push, repo, tmp_path, kind):
    (tmp_path / "made").mkdir()
    metadata = "sdk: gradio\nsdk_version: 6.31.0\napp_file: app.py" if kind == "space" else "license: mit"
    (tmp_path / "made" / "README.md").write_text(f"---\n{metadata}\n---\n# It\n")
    assert "url" in push(tmp_path / "made", repo, repo_type=kind)
    assert files_of(hub, repo, f"{kind}s") == sizes(tmp_path / "made")


def test_a_card_that_the_hub_refuses_makes_no_repository(hub, push, repo, folder):
    (folder / "README.md").write_text(CARD.replace("apache-2.0", "/home/ann/licence"))
    answer = push(folder, repo)
    assert answer["error"] == "ValueError" and "license" in answer["message"]
    assert files_of(hub, repo) is None and sent(hub) == 0


def test_a_finding_stops_before_anything_is_asked_of_the_hub(hub, push, repo, folder):
    (folder / "config.json").write_text(json.dumps({"_name_or_path": str(Path.home() / "runs")}))
    answer = push(folder, repo)
    assert answer["error"] == "ValueError" and "config.json holds a path" in answer["message"]
    assert hub.log("models") == []


# --- Faults: the repository is as it was, the message says what to do, a repetition succeeds -------------------------
FAULTS = {
    # what happens, and words of the message
    "conflict": ({"match": "POST .*/commit/", "kind": "409"}, "pushed there meanwhile.*same command again"),
    "precondition": ({"match": "POST .*/commit/", "kind": "412"}, "pushed there meanwhile.*same command again"),
    "expired at once": ({"match": "repos/create", "kind": "expire_token", "token": ME_WRITE}, "hf auth login"),
    "expired in between": ({"match": "/preupload/", "kind": "expire_token", "token": ME_WRITE}, "hf auth login"),
    "expired at the end": ({"match": "/commit/", "kind": "expire_token", "token": ME_WRITE}, "hf auth login"),
    "forbidden": ({"match": "/preupload/", "kind": "403"}, "may not write.*role `write`"),
    "gone at the end": ({"match": "/commit/", "kind": "404"}, "no such repository.*deleted, renamed or closed"),
    "too large": ({"match": "lfs/objects/batch", "kind": "413"}, "the Hub refuses.*Nothing of this push is visible"),
}
# The client itself tries these again, for half a minute
LASTING_FAULTS = {
    "server errors": ({"match": "/commit/", "kind": "500", "times": None}, "out of order.*same command again later"),
    "cut uploads": ({"match": "PUT ", "kind": "cut", "times": None}, "connection.*same command again"),
    "no reply": ({"match": "/preupload/", "kind": "lost", "times": None}, "connection.*same command again"),
    "busy": ({"match": "/commit/", "kind": "429", "times": None, "seconds": 0}, "busy.*same command again later"),
}


def survive(hub, push, repo: str, folder: Path, fault: dict, words: str, versions=("first", "second")) -> None:
    """Both the first push and a later one fail as they should, change nothing, and succeed when repeated."""
    for version in versions:
        (folder / "config.json").write_text(json.dumps({"version": version}))
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-6] + version[:6].encode().ljust(6))
        before = files_of(hub, repo) or {}
        commits = (hub.state().get(f"models/{repo}") or {}).get("commits")
        hub.fault(**fault)
        answer = push(folder, repo)
        hub.no_faults()
        hub.act("add_token", token=ME_WRITE, user="me", role="write")
        assert answer["error"] == "PushError" and re.search(words, answer["message"], re.S), answer
        assert ME_WRITE not in answer["message"]
        assert (files_of(hub, repo) or {}) == before
        if commits is not None:
            assert hub.state()[f"models/{repo}"]["commits"] == commits
        arrived = sent(hub)
        hub.clear_log()
        assert "url" in push(folder, repo), "a repetition succeeds"
        assert files_of(hub, repo) == sizes(folder)
        if "/commit/" in fault["match"]:
            assert arrived > 0 and sent(hub) == 0, "what has arrived is not sent twice"
        hub.clear_log()


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_nothing_is_half_there_and_a_repetition_succeeds(hub, push, repo, folder, name):
    survive(hub, push, repo, folder, *FAULTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LASTING_FAULTS)
def test_a_fault_that_lasts(hub, push, repo, folder, name):
    survive(hub, push, repo, folder, *LASTING_FAULTS[name], versions=("first",))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [{"match": "lfs/objects/batch", "kind": "503"}, {"match": "PUT ", "kind": "cut"}], ids=str
)
def test_a_fault_that_passes_is_not_noticed(hub, push, repo, folder, fault):
    hub.fault(**fault)
    assert "url" in push(folder, repo)
    assert files_of(hub, repo) == sizes(folder)


def test_somebody_who_pushes_in_between_is_not_overwritten(hub, push, repo, folder):
    push(folder, repo)
    (folder / "config.json").write_text('{"ours": true}')
    theirs = {"kind": "commit", "repo": repo, "files": {"aligned/theirs.json": "{}"}}
    hub.fault("POST .*/preupload/", theirs.pop("kind"), arguments=theirs)
    answer = push(folder, repo)
    assert "pushed there meanwhile" in answer["message"]
    assert files_of(hub, repo)["config.json"] == 2 and "aligned/theirs.json" in files_of(hub, repo)


def test_a_token_that_may_only_read_and_a_foreign_namespace(hub, push, repo, folder):
    for arguments in ({"token": ME_READ}, {"repo_id": "somebody-else/student"}):
        answer = push(folder, **{"repo_id": repo} | arguments)
        assert answer["error"] == "PushError" and "may not write there" in answer["message"]


def test_a_repository_that_went_private_is_not_found_by_others(hub, push, repo, folder):
    push(folder, repo, private=False)
    hub.act("make_private", repo=repo)
    hub.act("add_token", token="hf_of_another", user="another", role="write")
    answer = push(folder, repo, token="hf_of_another")
    assert answer["error"] == "PushError" and hub.state()[f"models/{repo}"]["commits"] == 2
