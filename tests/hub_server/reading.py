"""What is shown of a repository: its state, files, history and their contents."""

import hmac
import json
import re
from pathlib import Path
from urllib.parse import quote, urlencode

import yaml

from .cards import metadata_of
from .exchange import Reply, Request
from .refusals import Refusal, no_entry
from .repository import Commit, File, Repository, pointer
from .store import Store
from .uploads import signature, text_of

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def info(store: Store, repository: Repository, revision: str = "main", *, blobs: bool = False) -> dict:
    """State of a repository at a revision, as model_info, dataset_info and space_info read it."""
    commit = repository.at(revision)
    card = metadata_of(text_of(store, repository, commit, "README.md")) or {}
    state = {
        "_id": commit.oid[:24],
        "id": repository.id,
        "author": repository.namespace,
        "sha": commit.oid,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "createdAt": repository.created,
        "lastModified": commit.date,
        "downloads": 0,
        "likes": 0,
        "tags": tags_of(repository, card),
        "cardData": json.loads(json.dumps(card, default=str)),
        "siblings": [sibling(path, file, blobs) for path, file in sorted(commit.files.items())],
        "usedStorage": sum(file.size for file in commit.files.values() if file.sha256),
    }
    if repository.kind == "model":
        state |= {"modelId": repository.id} | model_state(store, repository, commit, card)
    elif repository.kind == "space":
        state |= {"sdk": card.get("sdk"), "runtime": runtime(store, repository), "subdomain": "none"}
    return state


def sibling(path: str, file: File, blobs: bool) -> dict:
    if not blobs:
        return {"rfilename": path}
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": len(pointer(file.sha256 or "", file.size))}
    return {"rfilename": path, "size": file.size, "blobId": file.oid} | ({"lfs": lfs} if file.sha256 else {})


def tags_of(repository: Repository, card: dict) -> list[str]:
    def several(field):
        value = card.get(field) or []
        return [str(item) for item in (value if isinstance(value, list) else [value])]

    tags = [card["library_name"]] if isinstance(card.get("library_name"), str) else []
    tags += several("tags")
    for prefix, field in (("license", "license"), ("dataset", "datasets"), ("base_model", "base_model")):
        tags += [f"{prefix}:{value}" for value in several(field)]
    return list(dict.fromkeys([*tags, *several("language"), "region:us"]))


def model_state(store: Store, repository: Repository, commit: Commit, card: dict) -> dict:
    """What the Hub finds out about a model from its files."""
    try:
        config = json.loads(text_of(store, repository, commit, "config.json") or "{}")
    except ValueError:
        config = {}
    library, tag = card.get("library_name"), card.get("pipeline_tag")
    if library is None and "adapter_config.json" in commit.files:
        library = "peft"
    elif library is None and "model_type" in config:
        library = "transformers"
    if tag is None and any("ForImageClassification" in name for name in config.get("architectures") or []):
        tag = "image-classification"
    shown = {key: config[key] for key in ("architectures", "model_type") if key in config}
    state = {"config": shown, "library_name": library, "pipeline_tag": tag, "model-index": card.get("model-index")}
    results = eval_results(store, repository, commit)
    return {key: value for key, value in state.items() if value} | ({"evalResults": results} if results else {})


def eval_results(store: Store, repository: Repository, commit: Commit) -> list[dict]:
    """Entries of .eval_results/*.yaml; of a wrong file its error."""
    entries = []
    for path in sorted(commit.files):
        if not re.fullmatch(r"\.eval_results/[^/]+\.ya?ml", path):
            continue
        try:
            for entry in yaml.safe_load(text_of(store, repository, commit, path)):
                if not all(isinstance(entry["dataset"][key], str) for key in ("id", "task_id")):
                    raise ValueError("dataset.id and dataset.task_id must be strings")
                if entry["value"] is None:
                    raise ValueError("value must not be null")
                data = json.loads(json.dumps(entry, default=str))
                entries.append({"filename": path, "verified": False, "data": data})
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            entries.append({"filename": path, "error": f"{type(error).__name__}: {error}"})
    return entries


def runtime(store: Store, repository: Repository) -> dict:
    """Of a Space: whether it could be built. It is not run."""
    head = repository.head("main")
    card = metadata_of(text_of(store, repository, head, "README.md")) or {}
    default = {"gradio": "app.py", "docker": "Dockerfile", "static": "index.html"}.get(card.get("sdk"))
    if default is None:
        stage = "CONFIG_ERROR"
    elif card.get("app_file", default) not in head.files:
        stage = "NO_APP_FILE"
    else:
        stage = "BUILDING"
    hardware = repository.settings.get("hardware", "cpu-basic")
    return {"stage": stage, "hardware": {"current": None, "requested": hardware}, "storage": None, "replicas": {}}


def entry(repository: Repository, commit: Commit, path: str, *, expand: bool) -> dict | None:
    """One line of a listing; None where nothing has that path."""
    if path in commit.files:
        file = commit.files[path]
        line = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
        if file.sha256:
            size = len(pointer(file.sha256, file.size))
            line["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": size}
        if expand:
            clean = {"status": "safe", "avScan": {"status": "safe"}, "pickleImportScan": {"status": "safe"}}
            line["securityFileStatus"] = clean
    elif path in (folders := commit.folders()):
        line = {"type": "directory", "oid": folders[path], "size": 0, "path": path}
    else:
        return None
    if expand:
        last = repository.last_change(commit, path)
        line["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    return line


def tree(request: Request, repository: Repository, revision: str, path: str, page: int) -> Reply:
    """
    Args:
        page: how many lines at most; the client follows a link to more.
    """
    commit = repository.at(revision)
    under = f"{path}/" if path else ""
    names = [*commit.files, *commit.folders()]
    inside = sorted(name for name in names if name.startswith(under))
    if path and not inside:
        raise no_entry(f"{path} does not exist on {revision!r}", commit.oid)
    if request.query.get("recursive", "").lower() != "true":
        inside = [name for name in inside if "/" not in name[len(under) :]]
    start = int(request.query.get("cursor", 0))
    page = min(page, int(request.query.get("limit", page)))
    expand = request.query.get("expand", "").lower() == "true"
    lines = [entry(repository, commit, name, expand=expand) for name in inside[start : start + page]]
    headers = {}
    if start + page < len(inside):
        more = urlencode(request.query | {"cursor": start + page})
        headers["Link"] = f'<{request.origin}{request.path}?{more}>; rel="next"'
    return Reply(200, lines, headers)


def paths_info(request: Request, repository: Repository, revision: str) -> Reply:
    commit = repository.at(revision)
    form = request.form()
    expand = form.get("expand", ["false"])[0].lower() == "true"
    wanted = dict.fromkeys(path.strip("/") for path in form.get("paths", []))
    lines = [entry(repository, commit, path, expand=expand) for path in wanted]
    return Reply(200, [line for line in lines if line])


def refs(repository: Repository, *, pulls: bool) -> dict:
    def listed(prefix, commits):
        return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in commits.items()]

    shown = {
        "branches": listed("refs/heads/", repository.branches),
        "tags": listed("refs/tags/", repository.tags),
        "converts": [],
    }
    return shown | ({"pullRequests": listed("", repository.pulls)} if pulls else {})


def commits(repository: Repository, revision: str) -> list[dict]:
    return [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "date": commit.date,
            "authors": [{"user": commit.author}],
        }
        for commit in repository.history(repository.at(revision))
    ]


def resolve(store: Store, request: Request, repository: Repository, revision: str, path: str) -> Reply:
    """The bytes of a file; those of LFS are elsewhere, behind a redirect, as on the Hub."""
    commit = repository.at(revision)
    file = repository.file(commit, path)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if file.sha256 is None:
        return ranged(request, store.content(repository, file.oid), headers)
    elsewhere = request.origin.replace("//127.0.0.1:", "//localhost:")  # of its own origin the client would follow
    link = f"{elsewhere}/cdn/{repository.kind}s/{repository.id}/{file.sha256}/{quote(path.rsplit('/', 1)[-1])}"
    headers["Location"] = f"{link}?signature={signature('GET', repository, file.sha256)}"
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    return Reply(302, b"", headers)


def stored(store: Store, request: Request, repository: Repository, oid: str) -> Reply:
    """A file of LFS by a link of `resolve`; no token is needed."""
    given = request.query.get("signature", "")
    if not hmac.compare_digest(given, signature("GET", repository, oid)):
        raise Refusal(403, "This link was not given out")
    return ranged(request, store.content(repository, oid), {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def ranged(request: Request, content: Path, headers: dict) -> Reply:
    """A file, or the part of it that is asked for."""
    asked = RANGE.fullmatch(request.headers.get("Range", "").strip())
    if not asked or asked.groups() == ("", ""):
        return Reply(200, content, headers)
    size = content.stat().st_size
    first, last = asked.groups()
    if first:
        start, end = int(first), min(int(last or size), size - 1)
    else:
        start, end = max(0, size - int(last)), size - 1
    if start >= size or end < start:
        raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return Reply(206, content, headers | {"Content-Range": f"bytes {start}-{end}/{size}"}, (start, end))
