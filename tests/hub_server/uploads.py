"""Before a commit: which files go where, what is there already, and the bytes of LFS files."""

import base64
import fnmatch
import hashlib
import hmac
import json
import re

from .commits import REGULAR_LIMIT
from .exchange import Reply, Request
from .refusals import Refusal
from .repository import Commit, Repository
from .store import Store

SHA256 = re.compile(r"[0-9a-f]{64}")
SECRET = b"of links that need no token, as those to the storage of the Hub"


def preupload(store: Store, request: Request, repository: Repository, revision: str) -> Reply:
    """Says for each file whether it goes into the commit or to LFS, and what is stored under its path."""
    store.writable(repository, request.token, for_pull="create_pr" in request.query)
    head = repository.head(revision)
    body = request.json()
    rules = lfs_patterns(store, repository, head)
    ignored = ignore_patterns(store, repository, head, body.get("gitIgnore"))
    answers = []
    for file in body["files"]:
        sample = base64.b64decode(file.get("sample") or "")
        path = file["path"]
        lfs = file["size"] > REGULAR_LIMIT or is_binary(sample) or matches(path, rules)
        answer = {
            "path": path,
            "uploadMode": "lfs" if lfs and file["size"] else "regular",
            "shouldIgnore": matches(path, ignored),
        }
        if path in head.files:
            answer["oid"] = head.files[path].stored_as
        answers.append(answer)
    return Reply(200, {"files": answers, "commitOid": head.oid})


def is_binary(sample: bytes) -> bool:
    try:
        return "\0" in sample.decode()
    except UnicodeDecodeError as error:
        return error.start < len(sample) - 3  # the sample may end in the middle of a character


def lfs_patterns(store: Store, repository: Repository, head: Commit) -> list[str]:
    lines = text_of(store, repository, head, ".gitattributes").splitlines()
    return [line.split()[0] for line in lines if "filter=lfs" in line]


def ignore_patterns(store: Store, repository: Repository, head: Commit, given: str | None) -> list[str]:
    text = text_of(store, repository, head, ".gitignore") if given is None else given
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "!"))]


def text_of(store: Store, repository: Repository, commit: Commit, path: str) -> str:
    file = commit.files.get(path)
    return store.read(repository, file).decode("utf-8", "replace") if file else ""


def matches(path: str, patterns: list[str]) -> bool:
    """Whether a pattern of git names the file, its name or a folder above it; without git's rarer forms."""
    parts = path.split("/")
    folders = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    candidates = {path, *parts, *folders}
    return any(fnmatch.fnmatchcase(name, pattern.strip("/")) for pattern in patterns for name in candidates)


def batch(store: Store, request: Request, repository: Repository) -> Reply:
    """The LFS batch of an upload; what this repository has already needs no action."""
    store.writable(repository, request.token, for_pull=True)
    body = request.json()
    if body.get("operation") != "upload" or body.get("hash_algo", "sha256") != "sha256":
        raise Refusal(422, "Only uploads by sha256 are known")
    if "basic" not in body.get("transfers", ["basic"]):
        raise Refusal(422, "Only the basic transfer is known: set HF_HUB_DISABLE_XET=1")
    objects = []
    for wanted in body["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        answer = {"oid": oid, "size": size}
        if not SHA256.fullmatch(oid) or size <= 0:
            answer["error"] = {"code": 422, "message": "Not a sha256 with a size"}
        elif store.stored_lfs(repository, oid) != size:
            link = f"{request.origin}/lfs/{repository.kind}s/{repository.id}/{oid}"
            answer["actions"] = {
                "upload": {"href": f"{link}?size={size}&signature={signature('PUT', repository, oid)}", "header": {}},
                "verify": {"href": f"{link}/verify", "header": {}},
            }
        objects.append(answer)
    return Reply(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})


def signature(method: str, repository: Repository, oid: str) -> str:
    text = f"{method} {repository.kind} {repository.id} {oid}"
    return hmac.new(SECRET, text.encode(), hashlib.sha256).hexdigest()[:32]


def receive(store: Store, request: Request, repository: Repository, oid: str) -> Reply:
    """The bytes; the link is enough, no token is sent along."""
    if request.query.get("signature") != signature("PUT", repository, oid):
        raise Refusal(403, "This link was not given out")
    store.put_lfs(repository, oid, int(request.query["size"]), request.pieces())
    return Reply(200, b"", {"ETag": f'"{oid}"'})


def verify(store: Store, request: Request, repository: Repository, oid: str) -> Reply:
    store.writable(repository, request.token, for_pull=True)
    body = request.json()
    if body.get("oid") != oid or store.stored_lfs(repository, oid) != body.get("size"):
        raise Refusal(404, json.dumps({"message": "The file was not uploaded", "oid": oid}))
    return Reply(200, {"success": True})
