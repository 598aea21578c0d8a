"""What HfApi does with a repository, all of it once; prints what it found as JSON."""

import contextlib
import json
import sys
import tempfile
import warnings
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    ModelCard,
    hf_hub_download,
    snapshot_download,
)

api = HfApi()
found = {"user": api.whoami()["name"], "organizations": [one["name"] for one in api.whoami()["orgs"]]}


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_bytes().hex() for path in folder.rglob("*") if path.is_file()}


def error_of(function, *args, **kwargs) -> list:
    """Type and status of what it raises."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return [type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)]
    return [None, None]


def main(folder: Path, name: str) -> None:
    url = api.create_repo(name, private=True)
    again = api.create_repo(name, exist_ok=True)
    found["created"] = [url.repo_id, again.repo_id, error_of(api.create_repo, name)]
    id = url.repo_id
    first = api.upload_folder(repo_id=id, folder_path=folder, commit_message="First")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = api.upload_folder(repo_id=id, folder_path=folder, commit_message="Nothing new")
    found["unchanged"] = same.oid == first.oid
    here = Path(snapshot_download(id))
    found["snapshot"] = {path: data for path, data in files(here).items() if path != ".gitattributes"}
    found["one file"] = Path(hf_hub_download(id, "deep/er/weights.bin")).read_bytes().hex()
    found["ranges"] = HfFileSystem().cat_file(f"{id}/deep/er/weights.bin", start=1000, end=1010).hex()
    found["listed"] = api.list_repo_files(id)
    found["tree"] = [one.path for one in api.list_repo_tree(id, recursive=True, expand=True)]
    info = api.model_info(id, files_metadata=True)
    found["private"], found["sha"] = info.private, info.sha == first.oid
    found["card"] = ModelCard.load(id).data.to_dict()
    found["paths"] = [one.path for one in api.get_paths_info(id, ["deep", "notes.txt", "none"], expand=True)]
    commits(id, first.oid)
    names(id)
    refused(id)


def commits(id: str, first: str) -> None:
    operations = [
        CommitOperationDelete("deep/"),
        CommitOperationDelete("empty"),
        CommitOperationAdd("new/notes.txt", b"new"),
        CommitOperationCopy(src_path_in_repo="image.png", path_in_repo="new/image.png"),
    ]
    second = api.create_commit(id, operations, commit_message="Second", parent_commit=first)
    found["after"] = sorted(api.list_repo_files(id))
    late = [CommitOperationAdd("late.txt", b"late")]
    found["late"] = error_of(api.create_commit, id, late, commit_message="Late", parent_commit=first)
    gone = [CommitOperationAdd("half.txt", b"half"), CommitOperationDelete("never.txt")]
    found["gone"] = error_of(api.create_commit, id, gone, commit_message="Gone")
    found["half"] = api.file_exists(id, "half.txt")
    found["history"] = [commit.title for commit in api.list_repo_commits(id)]
    found["head"] = api.list_repo_commits(id)[0].commit_id == second.oid


def names(id: str) -> None:
    main = api.model_info(id).sha
    add = [CommitOperationAdd("pull.txt", b"pull")]
    pull = api.create_commit(id, add, commit_message="Pull", create_pr=True)
    found["pull"] = [
        pull.pr_num,
        api.file_exists(id, "pull.txt"),
        api.file_exists(id, "pull.txt", revision="refs/pr/1"),
    ]
    api.merge_pull_request(id, 1)
    found["merged"] = [api.file_exists(id, "pull.txt"), api.get_discussion_details(id, 1).status]
    api.create_branch(id, branch="dev/one", revision=main)
    api.create_branch(id, branch="dev/one", exist_ok=True)
    api.upload_file(repo_id=id, path_or_fileobj=b"dev", path_in_repo="dev.txt", revision="dev/one")
    api.create_tag(id, tag="v1", revision="dev/one")
    found["branches"] = [branch.name for branch in api.list_repo_refs(id).branches]
    found["dev"] = [
        api.file_exists(id, "dev.txt"),
        api.file_exists(id, "dev.txt", revision="v1"),
        api.file_exists(id, "pull.txt", revision="dev/one"),
        Path(hf_hub_download(id, "dev.txt", revision="dev/one")).read_text(),
    ]
    api.delete_branch(id, branch="dev/one")
    found["missing branch"] = error_of(api.model_info, id, revision="dev/one")
    upload = {"repo_id": id, "path_or_fileobj": b"x", "path_in_repo": "x", "revision": "none"}
    found["commit to a missing branch"] = error_of(api.upload_file, **upload)


def refused(id: str) -> None:
    found["missing"] = {
        "repository": error_of(api.model_info, "me/never-made"),
        "without namespace": error_of(api.dataset_info, "never-made"),
        "file": error_of(hf_hub_download, id, "never.bin"),
        "folder": error_of(lambda: list(api.list_repo_tree(id, "never"))),
        "exists": [api.repo_exists(id), api.repo_exists("me/never-made")],
    }
    found["foreign"] = error_of(api.create_repo, "their-lab/model")
    found["invalid card"] = error_of(
        api.upload_file, repo_id=id, path_in_repo="README.md", path_or_fileobj=b"---\nlicense: my own\n---\n"
    )
    api.update_repo_settings(id, visibility="public")
    found["public"] = not api.model_info(id).private
    api.move_repo(id, "our-lab/moved")
    found["moved"] = [api.repo_exists(id), api.repo_exists("our-lab/moved")]
    api.delete_repo("our-lab/moved")
    found["deleted"] = [api.repo_exists("our-lab/moved"), error_of(api.delete_repo, "our-lab/moved")]
    with contextlib.suppress(Exception):
        api.delete_repo("our-lab/moved", missing_ok=True)
        found["deleted"].append("missing is fine")


with tempfile.TemporaryDirectory() as place:
    folder = Path(place)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "weights.bin").write_bytes(bytes(range(256)) * 200)
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / "notes.txt").write_text("notes with ünicode, é")
    (folder / "empty").touch()
    (folder / "README.md").write_text("---\nlicense: mit\ntags:\n- one\n---\n# A model\n")
    found["sent"] = files(folder)
    main(folder, sys.argv[1])
print(json.dumps(found))
