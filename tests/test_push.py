"""Pushes over HTTP: whole or not at all, nothing of others is lost, and a repetition succeeds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_client import serving
from hub_server.accounts import ME_READ, ME_WRITE
from released_runs import training_arguments, training_rows
from students import ID2LABEL, aligned_model

from g4i_hf import AlignmentTrainer
from g4i_hf.hub import StudentPublisher
from g4i_hf.hub.push import MANIFEST, PushError, clear_errors, read_manifest

CARD = "---\nlicense: apache-2.0\ntags:\n- g4i_hf\n---\n\n# A student\n"
# A process that pushes: huggingface_hub reads its environment only when imported. A line of JSON for each push
PUSHER = """
import json, sys
from g4i_hf.hub.push import push_folders
print("ready", flush=True)
for line in sys.stdin:
    try:
        answer = {"urls": list(push_folders(**json.loads(line)))}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def push_all(hub, tmp_path_factory):
    """Pushes (folder, repository, kind) tuples; gives what `push_folders` does, or its error."""
    environment = hub.environment(tmp_path_factory.mktemp("home"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", PUSHER], env=environment, text=True, **pipes)
    assert process.stdout.readline().strip() == "ready"

    def push_all(*released, **options) -> dict:
        released = [[str(folder), repo, kind] for folder, repo, kind in released]
        print(json.dumps({"released": released} | options), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    yield push_all
    process.stdin.close()
    process.wait(timeout=20)
    process.stdout.close()


@pytest.fixture
def push(push_all):
    return lambda folder, repo, kind="model", **options: push_all((folder, repo, kind), **options)


@pytest.fixture
def repo(hub, request):
    """A name of its own for each test, and no fault left over."""
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
        (root / name).write_bytes((8).to_bytes(8, "little") + b"{}      " + bytes([seed]) * 300_000)
    return root


OF_ITS_OWN = {".gitattributes", MANIFEST}


def files_of(hub, repo: str, kind: str = "model") -> dict[str, int] | None:
    """What a reader of the main branch sees; None without a repository."""
    found = hub.state().get(f"{kind}s/{repo}")
    return found and {
        name: size for name, size in found["branches"]["main"]["files"].items() if name not in OF_ITS_OWN
    }


def sizes(folder: Path) -> dict[str, int]:
    found = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return {name: size for name, size in found.items() if name not in OF_ITS_OWN}


def sent(hub) -> int:
    """Bytes of large files that have gone up."""
    return sum(line["bytes"] for line in hub.log("PUT "))


def make(hub, repo: str, kind: str = "model") -> None:
    """A repository as its owner makes it."""
    assert hub.ask("POST", "/api/repos/create", {"name": repo.split("/")[1], "type": kind}, ME_WRITE)[0] == 200


def a_dataset(folder: Path) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# It\n")
    return folder


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_push_is_one_commit_in_a_private_repository_and_the_same_again_is_none(hub, push, repo, folder, kind):
    first = push(folder, repo, kind)
    assert first["urls"][0].startswith(hub.url) and repo in first["urls"][0]
    state = hub.state()[f"{kind}s/{repo}"]
    assert state["private"] and state["commits"] == 2 and files_of(hub, repo, kind) == sizes(folder)
    assert MANIFEST in state["branches"]["main"]["files"]
    hub.clear_log()
    assert push(folder, repo, kind) == first
    assert hub.state()[f"{kind}s/{repo}"] == state and sent(hub) == 0


# --- What is somebody else's stays ----------------------------------------------------------------------------------

# Of a file that the earlier release had and this one has not: what happened meanwhile, and what is left of it
EARLIER = {
    "as it was": ({}, {}),
    "changed by hand": ({"config.json": "theirs"}, {"config.json": 6}),
    "not of the manifest": ({"onnx/theirs.onnx": "by hand"}, {"onnx/theirs.onnx": 7}),
    "in the manifest with another hash": (
        {MANIFEST: '{"files": {"data.csv": ["00"], "gone.json": ["00"]}}', "data.csv": "1"},
        {"config.json": 2, "data.csv": 1},
    ),
}


@pytest.mark.parametrize("what", EARLIER)
def test_a_push_deletes_only_what_an_earlier_one_left_as_it_is(hub, push, repo, folder, what):
    push(folder, repo)
    meanwhile, left = EARLIER[what]
    hub.act("commit", repo=repo, files=meanwhile)
    (folder / "config.json").unlink()
    assert "urls" in push(folder, repo)
    assert files_of(hub, repo) == sizes(folder) | left


@pytest.mark.parametrize("name", ["README.md", "onnx/model.onnx"])
def test_a_file_made_by_hand_is_not_written_over_without_a_word(hub, push, repo, folder, name):
    push(folder, repo)
    hub.act("commit", repo=repo, files={name: "their own"})
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(CARD + "better")
    before = files_of(hub, repo)
    answer = push(folder, repo)
    assert answer["error"] == "PushError" and files_of(hub, repo) == before
    assert f"put there or changed by hand: {name}. Nothing" in answer["message"] and "--replace" in answer["message"]
    assert "urls" in push(folder, repo, replace=True) and files_of(hub, repo) == sizes(folder)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_repository_of_something_else_is_refused_until_replace_which_deletes_nothing(hub, push, repo, folder, kind):
    make(hub, repo, kind)
    theirs = dict.fromkeys(["config.json", "data/a.parquet", "data/b.parquet", "notes.txt"], "theirs")
    hub.act("commit", repo=repo, type=kind, files=theirs)
    before = hub.state()[f"{kind}s/{repo}"]
    for options in ({}, {"revision": "v2"}):
        answer = push(folder, repo, kind, **options)
        words = r"holds files that no release has left there: .*config\.json, .* more.*--repo_id.*--replace true"
        assert answer["error"] == "PushError" and re.search(words, answer["message"]), answer
        assert hub.state()[f"{kind}s/{repo}"] == before and sent(hub) == 0, "and no branch is made"
    assert "urls" in push(folder, repo, kind, replace=True)
    theirs.pop("config.json")
    assert files_of(hub, repo, kind) == sizes(folder) | dict.fromkeys(theirs, 6)


READMES = {
    "metadata": ("---\nlicense: mit\n---\n", True),
    "a line": ("---\n---\n\nCheck out the configuration reference at https://huggingface.co/docs\n", True),
    "a page": ("# My model\n\nIt was trained for years.\n\n---\nThe end\n\n---\n", False),
}


@pytest.mark.parametrize("what", READMES)
def test_a_readme_alone_is_content_when_somebody_has_written_it(hub, push, repo, folder, what):
    make(hub, repo)
    readme, is_empty = READMES[what]
    hub.act("commit", repo=repo, files={"README.md": readme})
    answer = push(folder, repo)
    assert ("urls" in answer) == is_empty and ("left there: README.md. " in answer.get("message", "")) != is_empty


def test_a_manifest_that_cannot_be_read_deletes_nothing(hub, push, repo, folder):
    push(folder, repo.split("/")[1])  # without a namespace it is that of the token
    hub.act("commit", repo=repo, files={MANIFEST: '{"files": 7}'})
    (folder / "config.json").unlink()
    answer = push(folder, repo)
    assert answer["error"] == "PushError" and f"its {MANIFEST} does not say" in answer["message"]
    assert "urls" in push(folder, repo, replace=True) and "config.json" in files_of(hub, repo)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"files": [1]}', '{"files": {"a": 1}}', "[" * 100_000, "\udcff"]
)
def test_what_is_no_manifest_is_an_error(tmp_path, text):
    assert read_manifest(tmp_path) is None
    (tmp_path / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"\.g4i_hf\.json is no manifest of a release"):
        read_manifest(tmp_path)


def test_somebody_who_pushes_in_between_is_not_overwritten(hub, push, repo, folder):
    push(folder, repo)
    (folder / "config.json").write_text('{"ours": true}')
    hub.fault("POST .*/preupload/", "commit", arguments={"repo": repo, "files": {"aligned/theirs.json": "{}"}})
    assert "pushed there meanwhile" in push(folder, repo)["message"]
    assert files_of(hub, repo)["config.json"] == 2 and "aligned/theirs.json" in files_of(hub, repo)


# --- Visibility, branches, checks ------------------------------------------------------------------------------------


def test_public_on_request_and_what_exists_keeps_its_visibility_and_its_main_branch(hub, push, repo, folder):
    push(folder, repo, private=False)
    (folder / "config.json").write_text('{"a": 1}')
    assert "urls" in push(folder, repo, revision="v2")
    state = hub.state()[f"models/{repo}"]
    assert not state["private"]
    assert [state["branches"][name]["files"]["config.json"] for name in ("main", "v2")] == [2, 8]


def test_a_card_that_the_hub_refuses_makes_no_repository(hub, push, repo, folder):
    (folder / "README.md").write_text(CARD.replace("apache-2.0", "/home/ann/license"))
    answer = push(folder, repo)
    assert answer["error"] == "ValueError" and "license" in answer["message"]
    assert files_of(hub, repo) is None and sent(hub) == 0


def test_none_is_pushed_before_all_are_checked(hub, push_all, repo, folder, tmp_path):
    data = a_dataset(tmp_path / "data")
    (data / "app.py").write_text("path = '/mnt/photos/cats'")
    released = [(folder, repo, "model"), (data, f"{repo}-data", "dataset")]
    answer = push_all(*released, folders=["/mnt/photos"])
    assert answer["error"] == "ValueError" and "app.py holds a path" in answer["message"] and hub.log() == []
    make(hub, f"{repo}-data", "dataset")
    hub.act("commit", repo=f"{repo}-data", type="dataset", files={"theirs.py": "", "README.md": "# Theirs\n\nText.\n"})
    assert "holds files" in push_all(*released)["message"] and files_of(hub, repo) is None
    assert len(push_all(*released, replace=True)["urls"]) == 2 and files_of(hub, repo) == sizes(folder)


RELEASE = """
import json, sys
from pathlib import Path
from g4i_hf.options import ReleaseArguments
from g4i_hf.workflows.release import Release, Released
student, data, repo = sys.argv[1:]
release, lines = Release(ReleaseArguments(run=student)), []
release.released = [Released(Path(student), repo, "model"), Released(Path(data), f"{repo}-data", "dataset")]
try:
    lines += release.push()
except OSError:
    lines.append("failed")
print(json.dumps(lines))
"""


def test_what_was_pushed_is_said_also_when_the_next_push_fails(hub, repo, folder, tmp_path):
    hub.fault(match="datasets/.*/commit/", kind=500, times=None)
    said = hub.run(RELEASE, tmp_path / "home", folder, a_dataset(tmp_path / "data"), repo)
    assert len(said) == 2 and said[0].startswith(f"Pushed {folder} to ") and said[1] == "failed"


# --- Faults: the repository is as it was, the message says what to do, a repetition succeeds -------------------------

AGAIN = "same command again"
FAULTS = {
    # what happens, and words of the message
    "conflict": ({"match": "POST .*/commit/", "kind": 409}, f"pushed there meanwhile.*{AGAIN}"),
    "expired": ({"match": "/commit/", "kind": "expire_token", "token": ME_WRITE}, "hf auth login"),
    "forbidden": ({"match": "/preupload/", "kind": 403}, "may not write.*role `write`"),
    "gone": ({"match": "/commit/", "kind": 404}, "no such repository.*deleted, renamed or closed"),
    "too large": ({"match": "lfs/objects/batch", "kind": 413}, "the Hub refuses.*Nothing of this push is visible"),
    "out of order": ({"match": "/commit/", "kind": 500, "times": None}, f"out of order.*{AGAIN} later"),
    "cut": ({"match": "/commit/", "kind": "cut", "times": None}, f"connection.*{AGAIN}"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_nothing_is_half_there_and_a_repetition_succeeds(hub, push, repo, folder, name):
    fault, words = FAULTS[name]
    push(folder, repo)
    (folder / "config.json").write_text('{"version": 2}')
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b"2")
    before = hub.state()[f"models/{repo}"]
    hub.clear_log()
    hub.fault(**fault)
    answer = push(folder, repo)
    hub.no_faults()
    hub.act("add_token", token=ME_WRITE, user="me")
    assert answer["error"] == "PushError" and re.search(words, answer["message"], re.S), answer
    assert ME_WRITE not in answer["message"]
    assert hub.state()[f"models/{repo}"] == before
    arrived = sent(hub)
    hub.clear_log()
    assert "urls" in push(folder, repo) and files_of(hub, repo) == sizes(folder)
    if "/commit/" in fault["match"]:
        assert arrived > 0 and sent(hub) == 0, "what has arrived is not sent twice"


def test_a_token_that_may_only_read_and_a_foreign_namespace(hub, push, repo, folder):
    for target, options in ((repo, {"token": ME_READ}), ("somebody-else/student", {})):
        answer = push(folder, target, **options)
        assert answer["error"] == "PushError" and "may not write there" in answer["message"]


ROUTE = "domain: https://huggingface.co/api/models/me/student/xet-write-token/main"
XET = [  # in the words of hf_xet 1.8
    (f"Network error: HTTP status client error (401 Unauthorized), {ROUTE}", "expired.*hf auth login"),
    (f"Network error: HTTP status client error (403 Forbidden), {ROUTE}", "may not write.*role `write`"),
    (f"Network error: HTTP status server error (503 Service Unavailable), {ROUTE}", AGAIN),
    ("Network error: error sending request for url (https://cas:4010/)", "the connection to the Hub broke"),
]


@pytest.mark.parametrize(("text", "words"), XET)
def test_what_the_xet_client_calls_a_connection_may_be_the_token(text, words):
    with pytest.raises(PushError, match=f"(?s)me/student: .*{words}") as error, clear_errors("me/student"):
        raise ConnectionError(text)
    assert "http" not in str(error.value)


def test_xet_storage_that_refuses_is_no_file_that_may_not_be_read():
    hf_xet = pytest.importorskip("hf_xet")
    with pytest.raises(PushError, match=r"may have expired or may not write there.*hf auth login"), clear_errors("x"):
        raise RuntimeError("while uploading") from hf_xet.XetAuthenticationError("token of https://cas")
    with pytest.raises(PermissionError, match="model"), clear_errors("x"):
        raise PermissionError(13, "Permission denied", "model.safetensors")


# --- After training --------------------------------------------------------------------------------------------------


def test_what_cannot_be_pushed_or_known_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match="hub_strategy is every_save; a student is pushed at the end alone"):
        training_arguments(tmp_path, hub_strategy="every_save")
    args = training_arguments(tmp_path, push_to_hub=True, hub_model_id="me/student")
    with pytest.raises(ValueError, match=r"\(resnet\) does not say how large.*processing_class"):
        AlignmentTrainer(aligned_model("resnet"), args, training_rows(), publisher=StudentPublisher(args))


TRAINING = """
import json, os, sys
from dataclasses import replace
os.chdir(sys.argv[1])
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from students import aligned_model
from released_runs import training_rows
from transformers import pipeline

model, images = aligned_model("timm-resnet"), training_rows(4)
{code}
api, found = HfApi(), {{}}
found["answers"] = len(pipeline("image-classification", model="me/pictures-student")(Image.new("RGB", (60, 50))))
found["card"] = ModelCard.load("me/pictures-student").text
api.create_repo("me/notes")
api.upload_file(repo_id="me/notes", path_in_repo="notes.txt", path_or_fileobj=b"mine")
try:
    StudentPublisher(replace(args, hub_model_id="me/notes")).start()
except OSError as error:
    found["other files"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def trained(hub, tmp_path_factory) -> dict:
    """What the code of docs/guides/publish.md pushes."""
    page = (Path(__file__).parent.parent / "docs" / "guides" / "publish.md").read_text()
    code = re.search(r"<!-- test: publisher -->\n```python\n(.*?)```", page, re.S)[1]
    folder = tmp_path_factory.mktemp("trained")
    found = hub.run(TRAINING.format(code=code), folder / "home", folder)
    return found | {"state": hub.state()["models/me/pictures-student"]}


@pytest.mark.slow
def test_training_makes_a_private_repository_first(trained):
    assert trained["state"]["private"]
    assert "notes.txt" in trained["other files"] and "--hub_model_id" in trained["other files"]


STARTING = """
import json, sys
from released_runs import training_arguments
from g4i_hf.hub import StudentPublisher
try:
    StudentPublisher(training_arguments(sys.argv[1], push_to_hub=True, hub_model_id=sys.argv[2])).start()
except OSError as error:
    print(json.dumps(str(error)))
"""


def test_a_training_does_not_begin_that_would_write_over_changes_on_the_hub(hub, push, repo, folder, tmp_path):
    push(folder, repo)
    hub.act("commit", repo=repo, files={"README.md": "their own"})
    assert "changed by hand: README.md" in hub.run(STARTING, tmp_path / "home", tmp_path / "run", repo)


@pytest.mark.slow
def test_the_end_of_training_is_pushed_as_a_release(trained):
    main = trained["state"]["branches"]["main"]
    assert main["title"] == "End of training" and trained["state"]["commits"] == 2
    assert {"README.md", "config.json", "model.safetensors"} <= set(main["files"])
    assert "48 x 48 pixels" in trained["card"] and trained["answers"] == len(ID2LABEL)
