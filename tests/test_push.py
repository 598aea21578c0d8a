"""Pushes over HTTP: whole or not at all, whatever happens on the way, and the same after a repetition."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_client import serving
from hub_server.accounts import ME_READ, ME_WRITE
from huggingface_hub import HfApi, ModelCard, SpaceCard

from g4i_hf.hub import push as pushing
from g4i_hf.hub.publisher import StudentPublisher
from g4i_hf.hub.push import MANIFEST, PushError, read_manifest
from g4i_hf.options import ReleaseArguments
from g4i_hf.training import AlignmentArguments
from g4i_hf.workflows import release

CARD = """---
license: apache-2.0
tags:
- g4i_hf
---

# A student
"""


class Pusher:
    """A process that pushes: huggingface_hub reads its environment only when imported."""

    def __init__(self, hub, home: Path, **environment: str):
        command = [sys.executable, str(Path(__file__).parent / "workers" / "pusher.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=hub.environment(home, **environment), text=True, **pipes)
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
    return found and {
        name: size for name, size in found["branches"]["main"]["files"].items() if name != ".gitattributes"
    }


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


# --- What is somebody else's stays ----------------------------------------------------------------------------------


def test_what_a_release_no_longer_has_is_deleted_and_what_others_added_stays(hub, push, repo, folder):
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_text("of an earlier release")
    push(folder, repo)
    theirs = ["NOTES.md", "teacher/model.safetensors", "extra-lora.safetensors", "images/logo.png", "onnx/theirs.onnx"]
    hub.act("commit", repo=repo, files=dict.fromkeys([*theirs, ".eval_results/imagenet-real.yaml"], "by hand"))
    (folder / "aligned" / "model.safetensors").unlink()
    (folder / "onnx" / "model.onnx").unlink()
    assert "url" in push(folder, repo)
    assert files_of(hub, repo) == sizes(folder) | dict.fromkeys([*theirs, ".eval_results/imagenet-real.yaml"], 7)
    assert list(read_manifest(folder)) == ["README.md", "config.json", "model.safetensors"]


HAND_MADE = {"changed": ("README.md", "their own page"), "put there": ("onnx/model.onnx", "their own graph")}


@pytest.mark.parametrize("what", HAND_MADE)
def test_a_file_made_by_hand_is_not_written_over_without_a_word(hub, push, repo, folder, what):
    push(folder, repo)
    name, text = HAND_MADE[what]
    hub.act("commit", repo=repo, files={name: text})
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(CARD.replace("A student", "A better student"))
    before = files_of(hub, repo)
    answer = push(folder, repo)
    assert answer["error"] == "PushError" and files_of(hub, repo) == before
    assert f"put there or changed by hand: {name}. Nothing was pushed" in answer["message"]
    assert "--replace true" in answer["message"]
    assert "url" in push(folder, repo, replace=True)
    assert files_of(hub, repo) == sizes(folder)


def test_a_file_changed_by_hand_is_not_deleted_with_the_release_that_it_was_of(hub, push, repo, folder):
    push(folder, repo)
    hub.act("commit", repo=repo, files={"config.json": "theirs"})
    (folder / "config.json").unlink()
    assert "url" in push(folder, repo)
    assert files_of(hub, repo) == sizes(folder) | {"config.json": 6}


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_repository_of_somebody_else_is_refused_and_left_alone(hub, push, repo, folder, kind):
    make(hub, repo, kind)
    theirs = {f"data/train-0000{i}-of-00009.parquet": "images" for i in range(9)} | {"config.json": "their model"}
    hub.act("commit", repo=repo, type=kind, files=theirs)
    card(folder, kind)
    before = hub.state()[f"{kind}s/{repo}"]
    answer = push(folder, repo, repo_type=kind)
    assert answer["error"] == "PushError"
    words = r"holds files that no release has left there: .*config\.json, .* and \d+ more.*--repo_id.*--replace true"
    assert re.search(words, answer["message"]), answer
    assert "pushed" in answer["message"] and hub.state()[f"{kind}s/{repo}"] == before and sent(hub) == 0


def test_replace_writes_over_and_deletes_nothing(hub, push, repo, folder):
    make(hub, repo)
    hub.act("commit", repo=repo, files={"config.json": "theirs", "data/a.parquet": "theirs", "onnx/b.onnx": "theirs"})
    assert "url" in push(folder, repo, replace=True)
    kept = {"data/a.parquet": 6, "onnx/b.onnx": 6}
    assert files_of(hub, repo) == sizes(folder) | kept
    (folder / "aligned" / "model.safetensors").unlink()
    assert "url" in push(folder, repo), "it holds a release now"
    assert files_of(hub, repo) == sizes(folder) | kept


@pytest.mark.parametrize(
    ("readme", "is_empty"),
    [
        ("---\nlicense: mit\n---\n", True),
        ("---\n---\n\nCheck out the configuration reference at https://huggingface.co/docs\n", True),
        ("", True),
        ("---\nlicense: mit\n---\n# My model\n\nIt was trained for years.\n", False),
        ("# My model\n\nIt was trained for years.\n\n---\nThe end\n\n---\n", False),
    ],
)
def test_a_readme_alone_is_content_when_somebody_has_written_it(hub, push, repo, folder, readme, is_empty):
    make(hub, repo)
    hub.act("commit", repo=repo, files={"README.md": readme})
    answer = push(folder, repo)
    assert ("url" in answer) == is_empty and ("left there: README.md. " in answer.get("message", "")) != is_empty


@pytest.mark.parametrize("text", ["{", "[]", '{"files": 7}'])
def test_a_manifest_that_cannot_be_read_deletes_nothing(hub, push, repo, folder, text):
    push(folder, repo)
    hub.act("commit", repo=repo, files={MANIFEST: text})
    (folder / "config.json").unlink()
    before = files_of(hub, repo)
    answer = push(folder, repo)
    assert answer["error"] == "PushError" and f"its {MANIFEST} does not say" in answer["message"]
    assert files_of(hub, repo) == before
    assert "url" in push(folder, repo, replace=True)
    assert files_of(hub, repo) == sizes(folder) | {"config.json": 2}


@pytest.mark.parametrize("text", ["{}", "of somebody else"])
def test_a_manifest_deletes_only_what_it_knows_by_its_hash(hub, push, repo, folder, text):
    """Neither a file that has gone meanwhile, nor one that was changed, nor one that somebody else has listed."""
    push(folder, repo)
    named = json.loads((folder / MANIFEST).read_text())["files"] | {"gone.json": ["0" * 64], "data.csv": ["0" * 64]}
    hub.act("commit", repo=repo, files={MANIFEST: json.dumps({"files": named}), "config.json": text, "data.csv": "1"})
    (folder / "config.json").unlink()
    assert "url" in push(folder, repo)
    assert files_of(hub, repo) == sizes(folder) | {"data.csv": 1} | (
        {} if text == "{}" else {"config.json": len(text)}
    )


def test_of_a_manifest_of_version_0_1_files_are_written_over_and_none_is_deleted(hub, push, repo, folder):
    push(folder, repo)
    hub.act("commit", repo=repo, files={MANIFEST: json.dumps({"files": ["config.json", "README.md", "precious.txt"]})})
    hub.act("commit", repo=repo, files={"precious.txt": "theirs", "README.md": "of 0.1"})
    (folder / "config.json").unlink()
    assert "url" in push(folder, repo)
    assert files_of(hub, repo) == sizes(folder) | {"config.json": 2, "precious.txt": 6}


def test_a_branch_of_a_foreign_repository_is_not_made(hub, push, repo, folder):
    make(hub, repo)
    hub.act("commit", repo=repo, files={"weights.h5": "theirs"})
    assert "holds files" in push(folder, repo, revision="v2")["message"]
    assert list(hub.state()[f"models/{repo}"]["branches"]) == ["main"]


def test_a_name_without_namespace_is_ones_own(hub, push, repo, folder):
    bare = repo.split("/")[1]
    push(folder, bare)
    hub.act("commit", repo=repo, files={MANIFEST: "{"})
    hub.clear_log()
    assert f"{repo}: its {MANIFEST} does not say" in push(folder, bare)["message"]
    assert not hub.log("repos/create"), "looked at by its whole name, before it would be made"


@pytest.fixture
def space(tmp_path):
    """The app of the student, which tells where a data set lies."""
    (tmp_path / "space").mkdir()
    card(tmp_path / "space", "space")
    (tmp_path / "space" / "app.py").write_text("path = '/mnt/photos/cats'")
    return tmp_path / "space"


@pytest.fixture
def asked(monkeypatch):
    """What would be asked of the Hub, and is not."""
    calls = []

    def commit(api, repo_id, operations, **more):
        calls.append(repo_id)
        return SimpleNamespace(commit_url="https://hub")

    monkeypatch.setattr(pushing, "check_repository", lambda *args, **more: calls.append("check") or (None, []))
    monkeypatch.setattr(pushing, "create_repository", lambda api, repo_id, *args: repo_id)
    monkeypatch.setattr(ModelCard, "validate", lambda *args, **kwargs: calls.append("card"))
    monkeypatch.setattr(SpaceCard, "validate", lambda *args, **kwargs: calls.append("card"))
    monkeypatch.setattr(HfApi, "create_commit", commit)
    return calls


def test_none_is_pushed_before_all_are_checked(asked, folder, space):
    released = [(folder, "me/student", "model"), (space, "me/space", "space")]
    with pytest.raises(ValueError, match=r"app\.py holds a path"):
        pushing.push_folders(released, folders=["/mnt/photos"])
    assert not asked
    urls = pushing.push_folders(released)
    assert asked == ["card", "card", "check", "check"], "before the first one is asked for"
    assert list(urls) == ["https://hub"] * 2 and asked[4:] == ["check", "me/student", "check", "me/space"]


def release_args(tmp_path: Path, **more) -> ReleaseArguments:
    """Of a run whose images lie on another disk."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.yaml").write_text("dataset_name: /mnt/photos\n")
    return ReleaseArguments(run=str(tmp_path / "run"), repo_id="me/student", space=True, **more)


@pytest.mark.parametrize("way", ["dry_run", "push_to_hub"])
def test_release_looks_for_the_folders_of_the_run_in_all_folders_first(asked, folder, space, tmp_path, way):
    of_run = release.Release(release_args(tmp_path, **{way: True}))
    of_run.released = [
        release.Released(folder, "me/student", "model"),
        release.Released(space, "me/student-space", "space"),
    ]
    with pytest.raises(ValueError, match=r"app\.py holds a path"):
        of_run.look_through() if way == "dry_run" else of_run.push()
    assert not asked
    (space / "app.py").write_text("path = 'photos'")
    of_run.look_through()
    if way == "push_to_hub":
        assert of_run.push() == [f"Pushed {place} to https://hub" for place in (folder, space)]
        return
    listed = re.findall(r"^ *[\d.]+ k?B  (.*)$", "\n".join(of_run.listed()), re.M)
    assert listed == [*sorted(sizes(folder)), *sorted(sizes(space))] and listed.count(MANIFEST) == 2 and not asked


def test_training_looks_for_the_folders_of_its_run_too(monkeypatch, folder, tmp_path):
    seen = {}
    monkeypatch.setattr("g4i_hf.hub.publisher.push_folder", lambda *args, **more: seen.update(more))
    run = Path(release_args(tmp_path).run)
    publisher = StudentPublisher(AlignmentArguments(str(run), report_to="none", hub_model_id="me/student"))
    publisher._push(folder, "Step 1")
    assert seen["folders"] == {run, Path("/mnt/photos")}


def test_release_passes_on_that_files_may_be_written_over(monkeypatch, folder, tmp_path):
    seen = {}
    monkeypatch.setattr(release, "push_folders", lambda released, **more: seen.update(more) or iter(["https://hub"]))
    for replace in (False, True):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        args = release_args(tmp_path, push_to_hub=True, replace=replace, hub_revision="v2", private=False)
        of_run = release.Release(args)
        of_run.released = [release.Released(folder, "me/student", "model")]
        of_run.push()
        assert (seen["replace"], seen["revision"], seen["private"]) == (replace, "v2", False)


def make(hub, repo: str, kind: str = "model") -> None:
    """A repository as its owner makes it."""
    value = {"name": repo.split("/")[1], "type": kind} | ({"sdk": "gradio"} if kind == "space" else {})
    assert hub.ask("POST", "/api/repos/create", value, ME_WRITE)[0] == 200


def card(folder: Path, kind: str) -> None:
    metadata = "sdk: gradio\nsdk_version: 6.31.0\napp_file: app.py" if kind == "space" else "license: mit"
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n# It\n")


# --- Visibility, branches, kinds -------------------------------------------------------------------------------------


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
    card(tmp_path / "made", kind)
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


# --- The Xet client, which has errors of its own --------------------------------------------------------------------

ROUTE = "domain: https://huggingface.co/api/models/me/student/xet-write-token/main"
XET = {
    # in its own words (hf_xet 1.8)
    f"Network error: Request error: HTTP status client error (401 Unauthorized), {ROUTE}": "expired.*hf auth login",
    f"Network error: Request error: HTTP status client error (403 Forbidden), {ROUTE}": "may not write.*role `write`",
    f"Network error: Request error: HTTP status server error (503 Service Unavailable), {ROUTE}": "same command again",
    "Network error: error sending request for url (https://cas:4010/)": "the connection to the Hub broke",
}


def raising(monkeypatch, error: BaseException) -> None:
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(pushing, "check_repository", lambda *args, **more: (None, []))
    monkeypatch.setattr(pushing, "create_repository", lambda api, repo_id, *args: repo_id)
    monkeypatch.setattr(ModelCard, "validate", lambda *args, **kwargs: None)
    monkeypatch.setattr(HfApi, "create_commit", fail)


@pytest.mark.parametrize("text", XET, ids=range(len(XET)))
def test_what_the_xet_client_calls_a_connection_may_be_the_token(monkeypatch, folder, text):
    raising(monkeypatch, ConnectionError(text))
    with pytest.raises(PushError, match=f"(?s)me/student: .*{XET[text]}") as error:
        pushing.push_folder(folder, "me/student")
    assert "http" not in str(error.value)


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_the_xet_client_is_refused_by_its_storage(monkeypatch, folder, is_wrapped):
    hf_xet = pytest.importorskip("hf_xet")
    error = hf_xet.XetAuthenticationError("Authentication error: token of https://cas")
    if is_wrapped:
        wrapper = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
        wrapper.__cause__ = error
        error = wrapper
    raising(monkeypatch, error)
    with pytest.raises(PushError, match=r"may have expired or may not write there.*hf auth login") as error:
        pushing.push_folder(folder, "me/student")
    assert "http" not in str(error.value)


def test_a_file_that_may_not_be_read_is_no_matter_of_tokens(monkeypatch, folder):
    raising(monkeypatch, PermissionError(13, "Permission denied", "model.safetensors"))
    with pytest.raises(PermissionError, match=r"model\.safetensors"):
        pushing.push_folder(folder, "me/student")


@pytest.mark.slow
@pytest.mark.parametrize(("status", "words"), [(401, "may have expired"), (403, "may not write there")])
def test_the_real_xet_client_and_its_token(hub, repo, folder, tmp_path, status, words):
    hub.fault("xet-write-token", status, times=None)
    pusher = Pusher(hub, tmp_path / "home", HF_HUB_DISABLE_XET="0")
    answer = pusher(folder, repo)
    pusher.close()
    assert answer["error"] == "PushError" and words in answer["message"], answer
    assert files_of(hub, repo) == {}
