"""Repositories: commits, branches and files."""

import hashlib
import posixpath
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

BINARY = "7z arrow bin bz2 ckpt gz h5 joblib model msgpack npy npz onnx parquet pickle pkl pt pth safetensors tar zip"
MEDIA = "wav mp3 bmp gif png tiff jpg jpeg webp mp4"


class Refusal(Exception):
    """
    A request that is answered with an error.

    Args:
        status: of HTTP.
        message: for the user.
        code: by which clients choose their exception.
        commit: that lacks a file, so that the client remembers it.
        body: more of the JSON.
    """

    def __init__(self, status: int, message: str, code: str = "", commit: str = "", body: dict | None = None):
        super().__init__(message)
        self.status, self.body = status, {"error": message} | (body or {})
        self.headers = {"X-Error-Message": " ".join(message.split())}
        self.headers |= {"X-Error-Code": code} if code else {}
        self.headers |= {"X-Repo-Commit": commit} if commit else {}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class File:
    """A file of a commit; `in_lfs` where the commit holds a pointer to it."""

    content: bytes = field(repr=False)
    in_lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @property
    def oid(self) -> str:
        return git_oid(self.pointer if self.in_lfs else self.content)

    @property
    def etag(self) -> str:
        return self.sha256 if self.in_lfs else self.oid

    def listed(self, path: str) -> dict:
        line = {"type": "file", "oid": self.oid, "size": len(self.content), "path": path}
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return line | ({"lfs": lfs} if self.in_lfs else {})


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    author: str
    date: str
    files: dict[str, File]

    def folders(self) -> set[str]:
        found = set()
        for path in self.files:
            while path := posixpath.dirname(path):
                found.add(path)
        return found

    def text(self, path: str) -> str:
        return self.files[path].content.decode("utf-8", "replace") if path in self.files else ""


@dataclass
class Repository:
    """`uploaded` is what LFS has received, by its SHA-256."""

    kind: str
    id: str
    private: bool
    shown: Path | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def begin(self, user: str, sdk: str | None) -> None:
        """The first commit, which the Hub makes."""
        endings = f"{BINARY} {MEDIA}" if self.kind == "dataset" else BINARY
        attributes = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in endings.split())
        files = {".gitattributes": File(attributes.encode())}
        if self.kind == "space":
            header = f"title: {self.id}\nemoji: 🐠\ncolorFrom: blue\ncolorTo: green\nsdk: {sdk}\npinned: false\n"
            files["README.md"] = File(f"---\n{header}---\n\nThe configuration of a Space.\n".encode())
        self.commit("main", files, "initial commit", user)

    def commit(self, branch: str, files: dict[str, File], title: str, author: str) -> Commit:
        parent, date = self.branches.get(branch), now()
        text = f"{self.id} {len(self.commits)} {parent} {title} {date} {sorted(files)}"
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), parent, title, author, date, files)
        self.commits[made.oid], self.branches[branch] = made, made.oid
        if self.shown is not None and branch == "main":
            for path, file in files.items():
                place = self.shown / f"{self.kind}s" / self.id / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.content)
        return made

    def head(self, branch: str) -> Commit:
        if branch not in self.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        return self.commits[self.branches[branch]]

    def at(self, revision: str) -> Commit:
        """The commit of a branch or of an id."""
        return self.commits[revision] if revision in self.commits else self.head(revision)

    def state(self) -> dict:
        """What tests look at."""
        branches = {
            name: {
                "sha": oid,
                "title": self.commits[oid].title,
                "files": {path: len(file.content) for path, file in sorted(self.commits[oid].files.items())},
            }
            for name, oid in self.branches.items()
        }
        return {"private": self.private, "commits": len(self.commits), "branches": branches}
