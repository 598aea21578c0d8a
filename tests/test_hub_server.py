"""The test Hub against the real clients, and what its interface promises them, trap by trap."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hub_client
import pytest
import yaml
from hub_server.accounts import ME_EXPIRED, ME_READ, ME_WRITE, OTHER_WRITE
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

CLIENTS = Path(__file__).parent / "hub_clients"
BYTES = bytes(range(256)) * 8


@pytest.fixture(scope="module")
def hub():
    with hub_client.serving() as hub:
        yield hub


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def create(hub, name: str, **body) -> str:
    status, _, answer = hub.ask("POST", "/api/repos/create", {"name": name} | body, ME_WRITE)
    assert status == 200, answer
    return f"me/{name}"


def upload(hub, id: str, content: bytes, *, sent: bytes | None = None, store: str | None = None):
    """A file through LFS by hand; `sent` differs from what was announced. Status of the upload and of verify."""
    oid = sha256(content)
    batch = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": len(content)}]}
    _, _, answer = hub.ask("POST", f"/{store or id}.git/info/lfs/objects/batch", batch, ME_WRITE)
    actions = answer["objects"][0].get("actions")
    if actions is None:
        return None
    path = actions["upload"]["href"].removeprefix(hub.url)
    put, _, _ = hub.send("PUT", path, content if sent is None else sent)
    verified, _, _ = hub.ask("POST", path.split("?")[0] + "/verify", {"oid": oid, "size": len(content)}, ME_WRITE)
    return put, verified


def commit(hub, id: str, *operations, token=ME_WRITE, parent=None, revision="main", kind="models"):
    header = {"summary": "By hand"} | ({"parentCommit": parent} if parent else {})
    lines = [{"key": "header", "value": header}, *({"key": key, "value": value} for key, value in operations)]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    return hub.send("POST", f"/api/{kind}/{id}/commit/{revision}", body, token)


def text(path: str, content: str):
    return "file", {"path": path, "content": content, "encoding": "utf-8"}


def lfs(path: str, content: bytes):
    return "lfsFile", {"path": path, "algo": "sha256", "oid": sha256(content), "size": len(content)}


@pytest.mark.parametrize("page", [1000, 2])
def test_repositories(page, tmp_path):
    with hub_client.serving(page=page) as hub:
        found = hub.run(CLIENTS / "repositories.py", tmp_path, "all")
    sent = found["sent"]
    assert found["created"] == ["me/all", "me/all", ["HfHubHTTPError", 409]]
    assert found["unchanged"] and found["snapshot"] == sent
    assert found["one file"] == sent["deep/er/weights.bin"]
    assert bytes.fromhex(found["ranges"]) == bytes.fromhex(sent["deep/er/weights.bin"])[1000:1010]
    assert found["listed"] == [".gitattributes", *sorted(sent)]
    assert found["tree"] == sorted([".gitattributes", *sent, "deep", "deep/er"])
    assert found["private"] and found["sha"] and found["card"] == {"license": "mit", "tags": ["one"]}
    assert found["paths"] == ["deep", "notes.txt"]
    after = [".gitattributes", "README.md", "image.png", "new/image.png", "new/notes.txt", "notes.txt"]
    assert found["after"] == after
    assert found["late"] == ["HfHubHTTPError", 412]
    assert found["gone"] == ["RemoteEntryNotFoundError", 404] and not found["half"]
    assert found["history"] == ["Second", "First", "initial commit"] and found["head"]
    assert found["pull"] == [1, False, True] and found["merged"] == [True, "merged"]
    assert found["branches"] == ["main", "dev/one"] and found["dev"] == [False, True, False, "dev"]
    assert found["missing branch"] == found["commit to a missing branch"] == ["RevisionNotFoundError", 404]
    assert found["missing"] == {
        "repository": ["RepositoryNotFoundError", 404],
        "without namespace": ["RepositoryNotFoundError", 404],
        "file": ["RemoteEntryNotFoundError", 404],
        "folder": ["RemoteEntryNotFoundError", 404],
        "exists": [True, False],
    }
    assert found["foreign"] == ["HfHubHTTPError", 403] and found["invalid card"] == ["ValueError", None]
    assert found["public"] and found["moved"] == [False, True]
    assert found["deleted"] == [False, ["RepositoryNotFoundError", 404], "missing is fine"]


def test_data_sets(hub, tmp_path):
    found = hub.run(CLIENTS / "data_sets.py", tmp_path, "me/data")
    shards = [f"data/train-0000{number}-of-00002.parquet" for number in (0, 1)]
    assert found["files"] == [".gitattributes", "README.md", "data/test-00000-of-00001.parquet", *shards]
    rows = [[index * 10, index % 2, index] for index in range(13)]
    assert found["train"] == found["streamed"] == rows[:6] and found["test"] == rows[6:8]
    assert found["features"]
    assert found["files after"][2:] == [f"data/{split}-00000-of-00001.parquet" for split in ("test", "train")]
    assert found["train after"] == rows[10:13] and found["train before"] == 6
    assert found["configurations"] == ["default", "small"] and found["small"] == 1
    assert found["history"] == 4  # the initial commit and one a push, whatever its shards
    assert found["branch"] == [1, 3] and found["folder"] == rows[:2]


@pytest.mark.slow
def test_models(hub, tmp_path):
    found = hub.run(CLIENTS / "models.py", tmp_path, "me/vit")
    assert found["whole"] and found["processor"] == 8
    assert found["task"] == "image-classification" and found["pipeline"] == 3
    assert found["shards"] > 2 and found["sharded"]
    assert found["revision"] == [True, True] and found["pull request"]
    assert found["metric"] == 0.5
    assert '"base_model" with value "/home/ann/folder"' in found["local path"].replace("\\", "")
    assert found["trained"] and found["trainer's card"] == "google/vit-base" and found["trainer's commits"]
    assert found["timm"] and found["adapter"] and found["adapter by its own name"]


def test_errors_have_the_codes_that_clients_look_at(hub):
    id = create(hub, "codes")
    commit(hub, id, text("folder/a.txt", "a"))
    for path, code in {
        "/api/models/me/none": "RepoNotFound",
        "/api/datasets/codes": "RepoNotFound",
        "/api/datasets/me/codes": "RepoNotFound",
        f"/api/models/{id}/revision/none": "RevisionNotFound",
        f"/api/models/{id}/tree/main/none": "EntryNotFound",
        f"/{id}/resolve/main/none": "EntryNotFound",
        f"/{id}/resolve/none/folder/a.txt": "RevisionNotFound",
    }.items():
        status, headers, _ = hub.ask("GET", path, token=ME_WRITE)
        assert (status, headers["X-Error-Code"]) == (404, code), path
    _, headers, _ = hub.ask("HEAD", f"/{id}/resolve/main/none")
    assert len(headers["X-Repo-Commit"]) == 40  # so that the client remembers the absence
    status, headers, _ = hub.ask("GET", "/api/models/me/none")
    assert (status, headers["X-Error-Code"]) == (401, "RepoNotFound")  # not logged in
    status, _, body = hub.ask("POST", "/api/repos/create", {"name": "codes"}, ME_WRITE)
    assert (status, body["url"]) == (409, f"{hub.url}/{id}")


def test_files_come_whole_or_in_part(hub):
    id = create(hub, "parts")
    assert upload(hub, id, BYTES) == (200, 200)
    status, _, made = commit(hub, id, text("a.txt", "0123456789"), lfs("b.bin", BYTES))
    assert status == 200
    status, headers, body = hub.ask("GET", f"/{id}/resolve/main/a.txt", headers={"Range": "bytes=2-4"})
    assert (status, body, headers["Content-Range"]) == (206, 234, "bytes 2-4/10")
    assert headers["X-Repo-Commit"] == made["commitOid"]
    status, _, body = hub.ask("GET", f"/{id}/resolve/main/a.txt", headers={"Range": "bytes=-3"})
    assert (status, body) == (206, 789)
    status, headers, _ = hub.ask("GET", f"/{id}/resolve/main/a.txt", headers={"Range": "bytes=10-"})
    assert (status, headers["Content-Range"]) == (416, "bytes */10")
    status, headers, _ = hub.ask("HEAD", f"/{id}/resolve/main/b.bin")
    assert (status, headers["X-Linked-Size"], headers["X-Linked-Etag"]) == (302, "2048", f'"{sha256(BYTES)}"')
    stored = "/" + headers["Location"].split("/", 3)[3]
    assert hub.ask("GET", stored)[2] == BYTES
    assert hub.ask("GET", stored[:-1])[0] == 403
    assert hub.send("PUT", f"/lfs/models/{id}/{sha256(b'c')}?size=1", b"c")[0] == 403
    assert hub.ask("GET", f"/{id}/resolve/{made['commitOid'][:7]}/a.txt")[0] == 200


def test_other_bytes_than_announced_are_refused(hub):
    id = create(hub, "bytes")
    other = BYTES[:-1] + b"x"
    assert upload(hub, id, BYTES, sent=other) == (400, 404)
    assert upload(hub, id, BYTES, sent=BYTES[:-1]) == (400, 404)
    assert commit(hub, id, lfs("b.bin", BYTES))[0] == 400
    assert upload(hub, id, BYTES) == (200, 200)
    assert upload(hub, id, BYTES) is None  # is there
    assert upload(hub, create(hub, "bytes-2"), BYTES) == (200, 200)  # each repository has its own


def test_a_commit_is_done_whole_or_not_at_all(hub):
    id = create(hub, "whole")
    commit(hub, id, text("kept.txt", "kept"))
    before = hub.state()[f"models/{id}"]
    for operation, status in (
        (lfs("missing.bin", b"never sent"), 400),
        (text("kept.txt/inside.txt", "a file is no folder"), 400),
        (text("../out.txt", "out"), 400),
        (text("/root.txt", "root"), 400),
        (text("README.md", "---\nlicense: my own\n---\n"), 400),
        (text("large.txt", "x" * (10 * 2**20 + 1)), 400),
        (("deletedFile", {"path": "none.txt"}), 404),
        (("deletedFolder", {"path": "none/"}), 404),
        (("unknown", {"path": "a"}), 400),
    ):
        assert commit(hub, id, text("new.txt", "new"), operation)[0] == status, operation[0]
        assert commit(hub, id, text("new.txt", "new"), operation, revision="none")[0] == 404
    assert hub.state()[f"models/{id}"] == before
    parent = before["branches"]["main"]["sha"]
    assert commit(hub, id, text("one.txt", "1"), parent=parent)[0] == 200
    assert commit(hub, id, text("two.txt", "2"), parent=parent)[0] == 412
    assert "two.txt" not in hub.state()[f"models/{id}"]["branches"]["main"]["files"]


def test_of_commits_at_once_one_wins(hub):
    id = create(hub, "race")
    parent = hub.state()[f"models/{id}"]["branches"]["main"]["sha"]

    def of(number):  # so many that storing them leaves time for the others
        return commit(hub, id, *(text(f"{number}/{file}.txt", "x") for file in range(500)), parent=parent)[0]

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(of, range(8))) == [200] + [412] * 7
    assert hub.state()[f"models/{id}"]["commits"] == 2


def test_results_are_read_from_their_files(hub, tmp_path):
    id = create(hub, "results")
    entry = EvalResultEntry("me/images", "default", 0.5, notes="one crop")
    good = yaml.safe_dump(eval_result_entries_to_yaml([entry]))
    commit(hub, id, text(".eval_results/good.yaml", good), text(".eval_results/wrong.yaml", "- value: 1\n"))
    script = "import json; from huggingface_hub import HfApi; info = HfApi().model_info('me/results')\n"
    script += "print(json.dumps([[one.dataset_id, one.value, one.notes] for one in info.eval_results]))"
    assert hub.run(script, tmp_path) == [["me/images", 0.5, "one crop"]]
    raw = hub.ask("GET", f"/api/models/{id}")[2]["evalResults"]
    assert [one["filename"] for one in raw if "error" in one] == [".eval_results/wrong.yaml"]


def test_who_may_do_what(hub):
    id = create(hub, "mine", visibility="private")
    commit(hub, id, text("a.txt", "a"))
    path = f"/{id}/resolve/main/a.txt"
    asked = {token: hub.ask("GET", path, token=token)[0] for token in (ME_WRITE, ME_READ, OTHER_WRITE, None)}
    assert asked == {ME_WRITE: 200, ME_READ: 200, OTHER_WRITE: 404, None: 401}
    for token in (ME_WRITE, OTHER_WRITE):
        listed = {one["id"] for one in hub.ask("GET", "/api/models", token=token)[2]}
        assert (id in listed) == (token == ME_WRITE)
    assert hub.ask("GET", "/api/whoami-v2", token=ME_READ)[2]["auth"]["accessToken"]["role"] == "read"
    assert hub.ask("GET", "/api/whoami-v2")[0] == 401
    for token in (ME_EXPIRED, "hf_unknown"):
        status, headers, _ = hub.ask("GET", f"/api/models/{id}", token=token)
        assert (status, headers["X-Error-Code"]) == (401, None)

    hub.act("make_public", repo=id)
    assert hub.ask("GET", path)[0] == 200
    for token, status in ((None, 401), (ME_READ, 403), (OTHER_WRITE, 403), (ME_EXPIRED, 401)):
        assert commit(hub, id, text("b.txt", "b"), token=token)[0] == status
        assert hub.ask("POST", f"/api/models/{id}/branch/b", {}, token)[0] == status
        assert hub.ask("PUT", f"/api/models/{id}/settings", {"visibility": "private"}, token)[0] == status
    status, _, _ = hub.ask("POST", "/api/repos/create", {"name": "x", "organization": "our-lab"}, ME_WRITE)
    assert status == 200
    for name in ("a--b", "a..b", "-a", "a.git", "", "a" * 97):
        assert hub.ask("POST", "/api/repos/create", {"name": name}, ME_WRITE)[0] == 400, name


def test_a_space(hub):
    create(hub, "app", type="space", sdk="gradio")
    assert hub.ask("POST", "/api/repos/create", {"name": "app2", "type": "space"}, ME_WRITE)[0] == 400
    stage = lambda: hub.ask("GET", "/api/spaces/me/app/runtime")[2]["stage"]  # noqa: E731
    assert stage() == "NO_APP_FILE"
    commit(hub, "me/app", text("app.py", "print()"), kind="spaces")
    assert stage() == "BUILDING"
    assert hub.ask("GET", "/spaces/me/app/resolve/main/app.py")[0] == 200


def test_the_next_server_opens_the_folder_of_the_last(tmp_path):
    with hub_client.serving(tmp_path) as hub:
        id = create(hub, "kept", visibility="private")
        upload(hub, id, BYTES)
        commit(hub, id, text("folder/a.txt", "a"), lfs("b.bin", BYTES))
        hub.ask("POST", f"/api/models/{id}/tag/main", {"tag": "v1"}, ME_WRITE)
        before = hub.state()
    shown = tmp_path / "models" / "me" / "kept" / "main"
    assert (shown / "folder" / "a.txt").read_text() == "a" and (shown / "b.bin").read_bytes() == BYTES
    with hub_client.serving(tmp_path, visitor=ME_READ) as hub:
        assert hub.state() == before
        _, headers, _ = hub.ask("GET", f"/{id}/resolve/v1/b.bin")
        assert hub.ask("GET", "/" + headers["Location"].split("/", 3)[3])[2] == BYTES
        assert upload(hub, id, BYTES) is None
        assert b"folder/a.txt" in hub.ask("GET", f"/{id}")[2]
        assert b"me/kept" in hub.ask("GET", "/")[2]


def test_what_the_server_does_not_know_is_no_500(hub):
    """Which clients would repeat for 23 seconds."""
    id = create(hub, "unknown")
    assert hub.ask("GET", f"/api/models/{id}/lfs-files", token=ME_WRITE)[0] == 501
    assert hub.ask("POST", f"/api/models/{id}/preupload/main", {"wrong": 1}, ME_WRITE)[0] == 501
    assert hub.send("POST", f"/api/models/{id}/commit/main", b"no json", ME_WRITE)[0] == 400
    _, _, body = hub.ask("GET", f"/api/models/{id}/xet-write-token/main", token=ME_WRITE)
    assert "HF_HUB_DISABLE_XET=1" in body["error"]
