"""Pushes over HTTP: whole or not at all, nothing of others is lost, and a repetition succeeds."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hub import ME_WRITE
from students import aligned_model
from tiny_training import arguments, rows

from g4i_hf import AlignmentTrainer
from g4i_hf.hub import StudentPublisher
from g4i_hf.hub.push import MANIFEST, push_folder

CARD = "---\nlicense: apache-2.0\ntags:\n- g4i_hf\n---\n\n# A student\n"


@pytest.fixture(scope="module")
def push(hub):
    """Gives what `push_folder` does, or its error."""

    def push(folder, repo, kind="model", **options) -> dict:
        try:
            return {"url": push_folder(folder, repo, kind, **options)}
        except Exception as error:
            return {"error": type(error).__name__, "message": str(error)}

    with hub.here():
        yield push


@pytest.fixture
def repo(hub, request):
    """A name of its own for each test, and no fault left over."""
    hub.log.clear()
    yield "me/" + re.sub(r"\W+", "-", request.node.name.replace("_", "-"))[-60:].strip("-")
    hub.faults.clear()


@pytest.fixture
def folder(tmp_path):
    """A small release: a card, a configuration, and weights."""
    root = tmp_path / "student"
    (root / "aligned").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    (root / "config.json").write_text("{}")
    for name in ("model.safetensors", "aligned/model.safetensors"):
        (root / name).write_bytes((8).to_bytes(8, "little") + b"{}      ")
    return root


OF_ITS_OWN = {".gitattributes", MANIFEST}


def files_of(hub, repo: str, kind: str = "model") -> dict[str, int] | None:
    """What a reader of the main branch sees; None without a repository."""
    found = hub.state().get(f"{kind}s/{repo}")
    return found and {name: size for name, size in found["files"].items() if name not in OF_ITS_OWN}


def sizes(folder: Path) -> dict[str, int]:
    found = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return {name: size for name, size in found.items() if name not in OF_ITS_OWN}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_push_is_one_commit_in_a_private_repository_and_the_same_again_is_none(hub, push, repo, folder, kind):
    first = push(folder, repo, kind)
    assert first["url"].startswith(hub.url) and repo in first["url"]
    state = hub.state()[f"{kind}s/{repo}"]
    assert state["private"] and state["commits"] == 2 and files_of(hub, repo, kind) == sizes(folder)
    assert MANIFEST in state["files"]
    hub.log.clear()
    assert push(folder, repo, kind) == first
    assert hub.state()[f"{kind}s/{repo}"] == state and not hub.requests("/commit/")


def test_a_push_deletes_what_the_last_one_has_left(hub, push, repo, folder):
    push(folder, repo)
    (folder / "config.json").unlink()
    assert "url" in push(folder, repo) and files_of(hub, repo) == sizes(folder)


# What somebody has committed before the first push, or after the last one
COMMITS = {
    "before": {"config.json": "theirs", "data/a.parquet": "theirs", "notes.txt": "theirs"},
    "an edited card": {"README.md": CARD + "Theirs."},
    "another file": {"notes.txt": "theirs"},
    "another manifest": {MANIFEST: '{"files": {}, "parent": "00"}'},
    "no manifest": {MANIFEST: "[" * 100_000},
}


@pytest.mark.parametrize("what", COMMITS)
def test_commits_of_others_are_written_over_with_replace_alone(hub, push, repo, folder, what):
    hub.create(repo) if what == "before" else push(folder, repo)
    hub.commit(repo, COMMITS[what])
    before = hub.state()[f"models/{repo}"]
    hub.log.clear()
    answer = push(folder, repo)
    words = rf"commits that no g4i release has pushed, the last is {before['sha'][:8]}.*--repo_id.*--replace true"
    assert answer["error"] == "PushError" and re.search(words, answer["message"]), answer
    assert hub.state()[f"models/{repo}"] == before and not hub.requests("/commit/")
    assert "url" in push(folder, repo, replace=True)
    theirs = {name: len(text) for name, text in COMMITS[what].items() if name != MANIFEST}
    assert files_of(hub, repo) == theirs | sizes(folder)
    after = hub.state()[f"models/{repo}"]
    assert "url" in push(folder, repo), "after it, the last commit is a push again"
    assert hub.state()[f"models/{repo}"] == after


def test_somebody_who_pushes_in_between_is_not_overwritten(hub, push, repo, folder):
    push(folder, repo)
    (folder / "config.json").write_text('{"ours": true}')
    hub.fault("POST .*/preupload/", lambda hub: hub.commit(repo, {"aligned/theirs.json": "{}"}))
    assert "pushed there meanwhile" in push(folder, repo)["message"]
    assert files_of(hub, repo)["config.json"] == 2 and "aligned/theirs.json" in files_of(hub, repo)


def test_public_on_request_and_what_exists_keeps_its_visibility(hub, push, repo, folder):
    """An id without a namespace is that of the token."""
    push(folder, repo, private=False)
    (folder / "config.json").write_text('{"a": 1}')
    assert "url" in push(folder, repo) and not hub.state()[f"models/{repo}"]["private"]
    hub.create(f"{repo}-2")
    assert "url" in push(folder, f"{repo}-2".split("/")[1]) and files_of(hub, f"{repo}-2") == sizes(folder)
    assert not hub.state()[f"models/{repo}-2"]["private"]


AGAIN = "same command again"
FAULTS = {
    # the request, what happens to it, and words of the message
    "conflict": ("POST .*/commit/", 409, f"pushed there meanwhile.*{AGAIN}"),
    "expired": ("/commit/", lambda hub: hub.tokens.discard(ME_WRITE), "hf auth login"),
    "forbidden": ("/preupload/", 403, "may not write there.*role `write`"),
    "gone": ("/commit/", 404, "no such repository"),
    "out of order": ("/commit/", 500, f"has failed.*Nothing of this push is visible.*{AGAIN}"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_nothing_is_half_there_and_a_repetition_succeeds(hub, push, repo, folder, name):
    match, kind, words = FAULTS[name]
    push(folder, repo)
    (folder / "config.json").write_text('{"version": 2}')
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b"2")
    before = hub.state()[f"models/{repo}"]
    hub.log.clear()
    hub.fault(match, kind, "RepoNotFound" if kind == 404 else "")
    answer = push(folder, repo)
    hub.faults.clear()
    hub.tokens.add(ME_WRITE)
    assert answer["error"] == "PushError" and re.search(words, answer["message"], re.S), answer
    assert ME_WRITE not in answer["message"]
    assert hub.state()[f"models/{repo}"] == before
    assert "url" in push(folder, repo) and files_of(hub, repo) == sizes(folder)


def test_what_cannot_be_pushed_or_known_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match="hub_strategy is every_save; a student is pushed at the end alone"):
        arguments(tmp_path, hub_strategy="every_save")
    with pytest.raises(ValueError, match="hub_revision is v2; a student is pushed to main"):
        arguments(tmp_path, hub_revision="v2")
    args = arguments(tmp_path, push_to_hub=True, hub_model_id="me/student")
    with pytest.raises(ValueError, match=r"\(resnet\) does not say how large.*processing_class"):
        AlignmentTrainer(aligned_model("resnet"), args, rows(), publisher=StudentPublisher(args))


@pytest.mark.slow
def test_the_end_of_training_is_pushed_as_a_release(hub, push, tmp_path, monkeypatch):
    """As by the code of docs/guides/publish.md, which makes a private repository first."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "guides" / "publish.md").read_text()
    seen = {"model": aligned_model("timm-resnet"), "images": rows(4)}
    exec(re.search(r"<!-- test: publisher -->\n```python\n(.*?)```", page, re.S)[1], seen)
    main = hub.state()["models/me/pictures-student"]
    assert main["private"] and main["title"] == "End of training" and main["commits"] == 2
    assert {"config.json", "model.safetensors"} <= set(main["files"])
    card = hub.repositories["models/me/pictures-student"].at("main").files["README.md"].content.decode()
    assert "48 x 48 pixels" in card
    hub.create("me/notes")
    hub.commit("me/notes", {"notes.txt": "mine"})
    with pytest.raises(OSError, match="has commits that no g4i release.*--hub_model_id"):
        StudentPublisher(replace(seen["args"], hub_model_id="me/notes")).start()
