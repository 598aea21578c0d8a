"""What a commit is made of: lines of JSON become files, all or none."""

import base64
import binascii
import json

from .cards import check_card
from .refusals import Refusal, no_entry
from .repository import COMMIT, Commit, File, Repository, parents
from .store import Store

REGULAR_LIMIT = 10 * 1024 * 1024  # bytes; larger files have to be in LFS


def read_lines(body: bytes) -> tuple[dict, list[tuple[str, dict]]]:
    """
    Args:
        body: JSON, one operation a line, the header first.

    Returns:
        The header, and the operations by key and value.

    Raises:
        Refusal: 400 for anything else.
    """
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        operations = [(line["key"], line["value"]) for line in lines]
    except (ValueError, TypeError, KeyError):
        raise Refusal(400, "A commit is lines of JSON, each with a key and a value") from None
    if not operations or operations[0][0] != "header":
        raise Refusal(400, "The first line of a commit must be its header")
    header = operations[0][1]
    if not header.get("summary"):
        raise Refusal(400, '"summary" is not allowed to be empty')
    return header, operations[1:]


def check_parent(header: dict, head: Commit) -> None:
    """
    Raises:
        Refusal: 412 when somebody has committed since the parent that the client knows.
    """
    known = header.get("parentCommit")
    if known is None:
        return
    if not COMMIT.fullmatch(known):
        raise Refusal(400, '"parentCommit" is not a commit id')
    if not head.oid.startswith(known.lower()):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")


def apply(store: Store, repository: Repository, head: Commit, operations: list[tuple[str, dict]]) -> dict[str, File]:
    """
    The files after a commit; the commit before it stays what it was.

    Raises:
        Refusal: 400 or 404 for the first operation that cannot be done.
    """
    files = dict(head.files)
    for key, value in operations:
        path = checked_path(value.get("path"), folder=key == "deletedFolder")
        if key == "file":
            files[path] = store.put(repository, regular_content(path, value, repository.kind))
        elif key == "lfsFile":
            files[path] = lfs_file(store, repository, path, value)
        elif key == "deletedFile":
            if path not in files:
                raise no_entry("A file with this name doesn't exist", head.oid)
            del files[path]
        elif key == "deletedFolder":
            inside = [name for name in files if name.startswith(f"{path}/")]
            if not inside:
                raise no_entry("A folder with this name doesn't exist", head.oid)
            for name in inside:
                del files[name]
        else:
            raise Refusal(400, f"Unknown operation {key!r} in a commit")
    for path in files:
        if any(folder in files for folder in parents(path)):
            raise Refusal(400, f"{path} lies in a folder that is a file in the same commit")
    return files


def checked_path(path: object, folder: bool = False) -> str:
    if not isinstance(path, str) or not path:
        raise Refusal(400, '"path" must be a non-empty string')
    path = path.rstrip("/") if folder else path
    parts = path.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts) or "\\" in path or "\0" in path:
        raise Refusal(400, f"Invalid path in a commit: {path!r}")
    return path


def regular_content(path: str, value: dict, kind: str) -> bytes:
    if value.get("encoding", "utf-8") == "base64":
        try:
            content = base64.b64decode(value["content"], validate=True)
        except (binascii.Error, ValueError, KeyError):
            raise Refusal(400, f"The content of {path} is not base64") from None
    else:
        content = str(value.get("content", "")).encode()
    if len(content) > REGULAR_LIMIT:
        raise Refusal(400, f"{path} is larger than 10 MB and has to be uploaded with LFS")
    if path == "README.md":
        errors, _ = check_card(content.decode("utf-8", "replace"), kind)
        if errors:
            raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
    return content


def lfs_file(store: Store, repository: Repository, path: str, value: dict) -> File:
    stored = store.stored_lfs(repository, value.get("oid", "-"))
    if value.get("algo") != "sha256":
        raise Refusal(400, f"{path}: only sha256 is known")
    if stored is None or value.get("size", stored) != stored:
        message = "Your push was rejected because an LFS pointer pointed to a file that does not exist."
        raise Refusal(400, f"{message} Offending file: {path}")
    return File.in_lfs(value["oid"], stored)
