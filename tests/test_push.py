"""Pushes over HTTP: whole or not at all, nothing of others is lost, and a repetition succeeds."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from doors import files_in
from hub import ME_WRITE
from students import aligned_model
from tiny_training import arguments, rows

from g4i_hf import AlignmentTrainer
from g4i_hf.hub import StudentPublisher
from g4i_hf.hub.push import MANIFEST, PushError, push_folder

CARD = "---\nlicense: apache-2.0\ntags:\n- g4i_hf\n---\n\n# A student\n"


@pytest.fixture(autouse=True)
def here(hub):
    with hub.here():
        yield
    hub.faults.clear()


@pytest.fixture
def repo(request) -> str:
    """A name of its own for each test."""
    return "me/" + re.sub(r"\W+", "-", request.node.name.replace("_", "-"))[-60:].strip("-")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small release: a card, a configuration, and weights."""
    root = tmp_path / "student"
    (root / "aligned").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    (root / "config.json").write_text("{}")
    for name in ("model.safetensors", "aligned/model.safetensors"):
        (root / name).write_bytes((8).to_bytes(8, "little") + b"{}      ")
    return root


def pushed(hub, repo: str, kind: str = "model") -> dict[str, bytes]:
    """What a reader of the main branch sees."""
    files = hub.repositories[f"{kind}s/{repo}"].at("main").files
    return {name: content for name, content in files.items() if name not in (".gitattributes", MANIFEST)}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_push_is_one_commit_in_a_private_repository_and_the_same_again_is_none(hub, repo, folder, kind):
    url = push_folder(folder, repo, kind)
    assert url.startswith(hub.url) and repo in url
    state = hub.state()[f"{kind}s/{repo}"]
    assert state["private"] and state["commits"] == 2 and MANIFEST in state["files"]
    assert pushed(hub, repo, kind) == contents(folder)
    assert push_folder(folder, repo, kind) == url and hub.state()[f"{kind}s/{repo}"] == state


def test_a_push_deletes_what_the_last_one_has_left(hub, repo, folder):
    push_folder(folder, repo)
    (folder / "config.json").unlink()
    push_folder(folder, repo)
    assert pushed(hub, repo) == contents(folder)


# What somebody has committed before the first push, or after the last one
COMMITS = {
    "before": {"config.json": "theirs", "data/a.parquet": "theirs", "notes.txt": "theirs"},
    "another file": {"README.md": CARD + "Theirs.", "notes.txt": "theirs"},
    "another manifest": {MANIFEST: '{"files": {}, "parent": "00"}'},
    "no manifest": {MANIFEST: "[" * 100_000},
}


@pytest.mark.parametrize("what", COMMITS)
def test_commits_of_others_are_written_over_with_replace_alone(hub, repo, folder, what):
    hub.create(repo) if what == "before" else push_folder(folder, repo)
    hub.commit(repo, COMMITS[what])
    before = hub.state()[f"models/{repo}"]
    words = rf"commits that no g4i release has pushed, the last is {before['sha'][:8]}.*--repo_id.*--replace true"
    with pytest.raises(PushError, match=words):
        push_folder(folder, repo)
    assert hub.state()[f"models/{repo}"] == before
    push_folder(folder, repo, replace=True)
    theirs = {name: text.encode() for name, text in COMMITS[what].items() if name != MANIFEST}
    assert pushed(hub, repo) == theirs | contents(folder)
    after = hub.state()[f"models/{repo}"]
    push_folder(folder, repo)  # after it, the last commit is a push again
    assert hub.state()[f"models/{repo}"] == after


def test_somebody_who_pushes_in_between_is_not_overwritten(hub, repo, folder):
    push_folder(folder, repo)
    (folder / "config.json").write_text('{"ours": true}')
    hub.fault("POST .*/preupload/", lambda hub: hub.commit(repo, {"aligned/theirs.json": "{}"}))
    with pytest.raises(PushError, match="pushed there meanwhile"):
        push_folder(folder, repo)
    assert pushed(hub, repo)["config.json"] == b"{}" and "aligned/theirs.json" in pushed(hub, repo)


def test_public_on_request_and_what_exists_keeps_its_visibility(hub, repo, folder):
    """An id without a namespace is that of the token."""
    push_folder(folder, repo, private=False)
    (folder / "config.json").write_text('{"a": 1}')
    push_folder(folder, repo.removeprefix("me/"))
    assert not hub.state()[f"models/{repo}"]["private"] and pushed(hub, repo) == contents(folder)


AGAIN = "same command again"
FAULTS = {
    # the request, the status and code of the answer, and words of the message
    "conflict": ("POST .*/commit/", 409, "", f"pushed there meanwhile.*{AGAIN}"),
    "expired": ("/commit/", 401, "", "hf auth login"),
    "forbidden": ("/preupload/", 403, "", "may not write there.*role `write`"),
    "gone": ("/commit/", 404, "RepoNotFound", "no such repository"),
    "out of order": ("/commit/", 500, "", f"has failed.*Nothing of this push is visible.*{AGAIN}"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_nothing_is_half_there_and_a_repetition_succeeds(hub, repo, folder, name):
    push_folder(folder, repo)
    (folder / "config.json").write_text('{"version": 2}')
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b"2")
    before = hub.state()[f"models/{repo}"]
    *fault, words = FAULTS[name]
    hub.fault(*fault)
    with pytest.raises(PushError, match=words) as error:
        push_folder(folder, repo)
    assert ME_WRITE not in str(error.value) and hub.state()[f"models/{repo}"] == before
    hub.faults.clear()
    push_folder(folder, repo)
    assert pushed(hub, repo) == contents(folder)


def test_what_cannot_be_pushed_or_known_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match="hub_strategy is every_save; a student is pushed at the end alone"):
        arguments(tmp_path, hub_strategy="every_save")
    with pytest.raises(ValueError, match="hub_revision is v2; a student is pushed to main"):
        arguments(tmp_path, hub_revision="v2")
    args = arguments(tmp_path, push_to_hub=True, hub_model_id="me/student")
    with pytest.raises(ValueError, match=r"\(resnet\) does not say how large.*processing_class"):
        AlignmentTrainer(aligned_model("resnet"), args, rows(), publisher=StudentPublisher(args))


@pytest.mark.slow
def test_the_end_of_training_is_pushed_as_a_release(hub, tmp_path, monkeypatch):
    """As by the code of docs/guides/publish.md, which makes a private repository first."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "guides" / "publish.md").read_text()
    seen = {"model": aligned_model("timm-resnet"), "images": rows(4)}
    exec(re.search(r"<!-- test: publisher -->\n```python\n(.*?)```", page, re.S)[1], seen)
    main = hub.state()["models/me/pictures-student"]
    assert main["private"] and main["title"] == "End of training" and main["commits"] == 2
    assert {"config.json", "model.safetensors"} <= set(main["files"])
    card = hub.repositories["models/me/pictures-student"].at("main").files["README.md"].decode()
    assert "48 x 48 pixels" in card
    hub.create("me/notes")
    hub.commit("me/notes", {"notes.txt": "mine"})
    with pytest.raises(OSError, match="has commits that no g4i release.*--hub_model_id"):
        StudentPublisher(replace(seen["args"], hub_model_id="me/notes")).start()
