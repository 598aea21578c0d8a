"""Repositories: commits, branches and files."""

import hashlib
import posixpath
from dataclasses import dataclass, field
from datetime import UTC, datetime

LARGE = ["arrow", "bin", "gz", "npy", "npz", "onnx", "parquet", "pickle", "pt", "pth", "safetensors", "tar", "zip"]
MEDIA = ["bmp", "gif", "png", "tiff", "jpg", "jpeg", "webp"]


class Refusal(Exception):
    """
    A request that is answered with an error.

    Args:
        status: of HTTP.
        message: for the user.
        code: by which clients choose their exception.
        headers, body: more of the reply.
    """

    def __init__(self, status: int, message: str, code: str = "", headers: dict | None = None, body=None):
        super().__init__(message)
        self.status, self.body = status, {"error": message} | (body or {})
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (headers or {})


@dataclass(frozen=True)
class File:
    """A file of a commit; `in_lfs` where the commit holds a pointer to it."""

    content: bytes = field(repr=False)
    in_lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        content = text.encode() if self.in_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def listed(self, path: str) -> dict:
        line = {"type": "file", "oid": self.oid, "size": len(self.content), "path": path}
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return line | ({"lfs": lfs} if self.in_lfs else {})


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    date: str
    files: dict[str, File]

    def described(self, author: str) -> dict:
        line = {"id": self.oid, "title": self.title, "message": "", "date": self.date}
        return line | {"authors": [{"user": author}]}

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
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def begin(self) -> None:
        """The first commit, which the Hub makes."""
        endings = LARGE + MEDIA * (self.kind == "dataset")
        rules = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in endings)
        self.commit("main", {".gitattributes": File(rules.encode())}, "initial commit")

    def commit(self, branch: str, files: dict[str, File], title: str) -> Commit:
        parent, date = self.branches.get(branch), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        text = f"{self.id} {len(self.commits)} {parent} {title} {date} {sorted(files)}"
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), parent, title, date, files)
        self.commits[made.oid], self.branches[branch] = made, made.oid
        return made

    def at(self, revision: str) -> Commit:
        """The commit of a branch or of an id."""
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        """From the commit of a revision to the first."""
        found = [self.at(revision)]
        while (parent := found[-1].parent) is not None:
            found.append(self.commits[parent])
        return found

    def state(self) -> dict:
        """What tests look at."""
        branches = {}
        for name, oid in self.branches.items():
            commit = self.commits[oid]
            files = {path: len(file.content) for path, file in sorted(commit.files.items())}
            branches[name] = {"sha": oid, "title": commit.title, "files": files}
        return {"private": self.private, "commits": len(self.commits), "branches": branches}
