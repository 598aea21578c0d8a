"""What is asked of the Hub, and what it answers."""

import base64
import fnmatch
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import yaml

from .accounts import Token, first_tokens
from .cards import check_card, metadata_of
from .store import Commit, File, Refusal, Repository

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
REGULAR_LIMIT = 10 * 1024 * 1024  # bytes; larger files have to be in LFS


class Request:
    """A request whose body has been read; `origin` is the server as this client calls it."""

    def __init__(self, method: str, target: str, headers, body: bytes, origin: str):
        parts = urlsplit(target)
        self.method, self.path, self.headers, self.body, self.origin = method, parts.path, headers, body, origin
        self.segments = [unquote(segment) for segment in parts.path.strip("/").split("/")]
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.token: Token | None = None

    def json(self) -> dict:
        return json.loads(self.body or b"{}")


@dataclass
class Reply:
    """`content` is bytes, or a JSON value."""

    status: int
    content: object = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


class Api:
    """All repositories and tokens."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.tokens = first_tokens()
        self.repositories: dict[tuple[str, str], Repository] = {}

    def answer(self, request: Request) -> Reply:
        """
        Raises:
            Refusal: for what cannot be answered; 501 for what this server does not know.
        """
        given = (request.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        request.token = self.tokens.get(given)
        if given and request.token is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        match request.method, request.segments:
            case "GET", ["api", "whoami-v2"]:
                return self.who(request)
            case "POST", ["api", "validate-yaml"]:
                body = request.json()
                errors = [{"message": text} for text in check_card(body.get("content", ""), body.get("repoType"))]
                return Reply(400 if errors else 200, {"errors": errors, "warnings": []})
            case "POST", ["api", "repos", "create"]:
                return self.create(request)
            case method, ["api", kind, namespace, name, *rest] if kind in KINDS:
                repository = self.visible(KINDS[kind], f"{namespace}/{name}", request)
                return self.of_repository(request, repository, method, rest)
            case "GET", ["api", kind, name] if kind in KINDS:
                raise Refusal(404, "Repository not found", "RepoNotFound")
            case method, ["lfs", kind, namespace, name, oid, *rest] if kind in KINDS:
                return self.of_lfs(request, self.repositories[KINDS[kind], f"{namespace}/{name}"], method, oid, rest)
            case method, [kind, *segments] if kind in ("datasets", "spaces"):
                return self.of_files(request, KINDS[kind], method, segments)
            case method, segments:
                return self.of_files(request, "model", method, segments)

    def who(self, request: Request) -> Reply:
        if request.token is None:
            raise Refusal(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "a token", "role": request.token.role}}
        return Reply(200, {"type": "user", "name": request.token.user, "orgs": [], "auth": auth})

    def visible(self, kind: str, id: str, request: Request) -> Repository:
        repository, token = self.repositories.get((kind, id)), request.token
        if repository is None or (repository.private and not (token and token.owns(id.split("/")[0]))):
            raise Refusal(404 if token else 401, "Repository not found", "RepoNotFound")
        return repository

    def writer(self, request: Request, namespace: str) -> Token:
        if request.token is None:
            raise Refusal(401, "Invalid username or password.")
        if request.token.role != "write" or not request.token.owns(namespace):
            raise Refusal(403, "Forbidden: you must use a write token of the namespace.", body={"url": None})
        return request.token

    def create(self, request: Request) -> Reply:
        body = request.json()
        namespace = body.get("organization") or (request.token.user if request.token else "")
        token = self.writer(request, namespace)
        made = Repository(body.get("type") or "model", f"{namespace}/{body['name']}", False, self.folder)
        about = {"url": f"{request.origin}/{made.place}", "name": made.id, "id": made.id}
        if (made.kind, made.id) in self.repositories:
            raise Refusal(409, f"You already created this {made.kind} repo", body=about)
        if made.kind == "space" and body.get("sdk") not in ("gradio", "docker", "static"):
            raise Refusal(400, '"sdk" must be one of [gradio, docker, static]')
        made.private = body.get("visibility") == "private" or bool(body.get("private"))
        made.begin(token.user, body.get("sdk"))
        self.repositories[made.kind, made.id] = made
        return Reply(200, about)

    # --- A repository --------------------------------------------------------------------------------------------

    def of_repository(self, request: Request, repository: Repository, method: str, rest: list[str]) -> Reply:
        match method, rest:
            case "GET", []:
                return Reply(200, info(repository, repository.at("main")))
            case "GET", ["revision", revision]:
                return Reply(200, info(repository, repository.at(revision)))
            case "GET", ["tree", revision, *path]:
                return tree(request, repository.at(revision), "/".join(path))
            case "POST", ["paths-info", revision]:
                at, form = repository.at(revision), parse_qs(request.body.decode())
                lines = [listed(at, path.strip("/")) for path in form.get("paths", [])]
                return Reply(200, [line for line in lines if line])
            case "GET", ["commits", revision]:
                return Reply(200, history(repository, repository.at(revision)))
            case "GET", ["refs"]:
                found = [
                    {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
                    for name, oid in repository.branches.items()
                ]
                return Reply(200, {"branches": found, "tags": [], "converts": []})
        self.writer(request, repository.id.split("/")[0])
        match method, rest:
            case "POST", ["preupload", branch]:
                return preupload(request, repository.head(branch))
            case "POST", ["commit", branch]:
                return add_commit(request, repository, branch)
            case "POST", ["branch", name]:
                if name in repository.branches:
                    raise Refusal(409, f"Reference already exists: refs/heads/{name}")
                repository.branches[name] = repository.at(request.json().get("startingPoint") or "main").oid
                return Reply(200, {})
        raise unknown(request)

    def of_files(self, request: Request, kind: str, method: str, segments: list[str]) -> Reply:
        match method, segments:
            case "POST", [namespace, name, "info", "lfs", "objects", "batch"]:
                repository = self.visible(kind, f"{namespace}/{name.removesuffix('.git')}", request)
                self.writer(request, namespace)
                return batch(request, repository)
            case "GET" | "HEAD", [namespace, name, "resolve", revision, *path] if path:
                return resolve(request, self.visible(kind, f"{namespace}/{name}", request), revision, "/".join(path))
            case "GET" | "HEAD", [_, "resolve", *_]:  # a name without namespace
                raise Refusal(404, "Repository not found", "RepoNotFound")
        raise unknown(request)

    def of_lfs(self, request: Request, repository: Repository, method: str, oid: str, rest: list[str]) -> Reply:
        """The storage of large files, which asks for no token."""
        match method, rest:
            case "PUT", []:
                if File(request.body).sha256 != oid:
                    raise Refusal(400, "These bytes are not those that were announced")
                repository.uploaded[oid] = request.body
                return Reply(200)
            case "POST", ["verify"]:
                self.writer(request, repository.id.split("/")[0])
                return Reply(200 if oid in repository.uploaded else 404, {})
            case "GET" | "HEAD", ["content"]:
                return ranged(request, repository.uploaded[oid], {"ETag": f'"{oid}"'})
        raise unknown(request)


def unknown(request: Request) -> Refusal:
    remedy = ": set HF_HUB_DISABLE_XET=1" if "/xet-" in request.path else ""
    return Refusal(501, f"This test server does not know {request.method} {request.path}{remedy}")


# --- Reading ---------------------------------------------------------------------------------------------------------


def info(repository: Repository, commit: Commit) -> dict:
    card = metadata_of(commit.text("README.md")) or {}
    library = card.get("library_name") or ("transformers" if "model_type" in commit.text("config.json") else None)
    state = {
        "_id": commit.oid[:24],
        "id": repository.id,
        "sha": commit.oid,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "createdAt": commit.date,
        "lastModified": commit.date,
        "tags": [str(tag) for tag in card.get("tags") or []],
        "cardData": json.loads(json.dumps(card, default=str)),
        "siblings": [{"rfilename": path} for path in sorted(commit.files)],
    }
    if repository.kind == "model":
        about = {"library_name": library, "pipeline_tag": card.get("pipeline_tag"), "evalResults": results(commit)}
        state |= {name: value for name, value in about.items() if value}
    return state


def results(commit: Commit) -> list[dict]:
    """Entries of .eval_results/*.yaml."""
    found = [path for path in sorted(commit.files) if re.fullmatch(r"\.eval_results/[^/]+\.ya?ml", path)]
    return [
        {"filename": path, "verified": False, "data": json.loads(json.dumps(entry, default=str))}
        for path in found
        for entry in yaml.safe_load(commit.text(path))
        if isinstance(entry, dict)
    ]


def listed(commit: Commit, path: str) -> dict | None:
    if path in commit.files:
        return commit.files[path].listed(path)
    folder = {"type": "directory", "oid": commit.oid, "size": 0, "path": path}
    return folder if path in commit.folders() else None


def tree(request: Request, commit: Commit, path: str) -> Reply:
    under = f"{path}/" if path else ""
    inside = sorted(name for name in {*commit.files, *commit.folders()} if name.startswith(under))
    if path and not inside:
        raise Refusal(404, f"{path} does not exist", "EntryNotFound", commit.oid)
    if request.query.get("recursive", "").lower() != "true":
        inside = [name for name in inside if "/" not in name[len(under) :]]
    return Reply(200, [listed(commit, name) for name in inside])


def history(repository: Repository, commit: Commit) -> list[dict]:
    lines = []
    while True:
        about = {"id": commit.oid, "title": commit.title, "message": "", "date": commit.date}
        lines.append(about | {"authors": [{"user": commit.author}]})
        if commit.parent is None:
            return lines
        commit = repository.commits[commit.parent]


def resolve(request: Request, repository: Repository, revision: str, path: str) -> Reply:
    """The bytes of a file; those of LFS are elsewhere, behind a redirect, as on the Hub."""
    commit = repository.at(revision)
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", commit.oid)
    file = commit.files[path]
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if not file.in_lfs:
        return ranged(request, file.content, headers)
    elsewhere = request.origin.replace("//127.0.0.1:", "//localhost:")  # of its own origin the client would follow
    headers["Location"] = f"{elsewhere}/lfs/{repository.kind}s/{repository.id}/{file.sha256}/content"
    return Reply(302, b"", headers | {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))})


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Reply:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "").strip())
    if not asked:
        return Reply(200, content, headers)
    first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    if first > last:
        raise Refusal(416, "Range not satisfiable")
    return Reply(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


# --- Writing ---------------------------------------------------------------------------------------------------------


def preupload(request: Request, head: Commit) -> Reply:
    """Says for each file whether it goes into the commit or to LFS, and what is stored under its path."""
    rules = [line.split()[0] for line in head.text(".gitattributes").splitlines() if "filter=lfs" in line]
    answers = []
    for file in request.json()["files"]:
        path, sample = file["path"], base64.b64decode(file.get("sample") or "")
        in_lfs = file["size"] > REGULAR_LIMIT or b"\0" in sample
        in_lfs |= any(fnmatch.fnmatchcase(path.split("/")[-1], rule) for rule in rules)
        answer = {"path": path, "uploadMode": "lfs" if in_lfs and file["size"] else "regular", "shouldIgnore": False}
        answers.append(answer | ({"oid": head.files[path].etag} if path in head.files else {}))
    return Reply(200, {"files": answers, "commitOid": head.oid})


def batch(request: Request, repository: Repository) -> Reply:
    """The LFS batch of an upload; what this repository has already needs no action."""
    objects = []
    for wanted in request.json()["objects"]:
        link = f"{request.origin}/lfs/{repository.kind}s/{repository.id}/{wanted['oid']}"
        actions = {"upload": {"href": link, "header": {}}, "verify": {"href": f"{link}/verify", "header": {}}}
        objects.append(wanted | ({} if wanted["oid"] in repository.uploaded else {"actions": actions}))
    return Reply(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})


def add_commit(request: Request, repository: Repository, branch: str) -> Reply:
    """One commit; where any of it is refused, nothing has changed."""
    head = repository.head(branch)
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header, files = lines[0]["value"], dict(head.files)
    if header.get("parentCommit") not in (None, head.oid):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    for line in lines[1:]:
        key, value, path = line["key"], line["value"], line["value"]["path"]
        if key == "file":
            files[path] = File(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in repository.uploaded:
                raise Refusal(400, f"An LFS pointer pointed to a file that does not exist. Offending file: {path}")
            files[path] = File(repository.uploaded[value["oid"]], in_lfs=True)
        elif path not in files:
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound", head.oid)
        else:
            del files[path]
    if "README.md" in files and (errors := check_card(files["README.md"].content.decode(), repository.kind)):
        raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
    made = repository.commit(branch, files, header["summary"], request.token.user)
    url = f"{request.origin}/{repository.place}/commit/{made.oid}"
    return Reply(200, {"success": True, "commitOid": made.oid, "commitUrl": url})
