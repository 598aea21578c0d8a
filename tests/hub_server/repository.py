"""A repository as the Hub shows it: files by path, commits, branches, tags and pull requests."""

import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from .refusals import no_entry, no_revision

COMMIT = re.compile(r"[0-9a-fA-F]{5,40}")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def blob_oid(content: bytes) -> str:
    """Git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class File:
    """
    Attributes:
        oid: git's id of the content, or of the pointer to it.
        size: bytes of the content.
        sha256: of a file in LFS; None for one that is in the commit itself.
    """

    oid: str
    size: int
    sha256: str | None = None

    @classmethod
    def in_lfs(cls, sha256: str, size: int) -> "File":
        return cls(blob_oid(pointer(sha256, size)), size, sha256)

    @property
    def stored_as(self) -> str:
        return self.sha256 or self.oid


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class Commit:
    """One state of all files, and how it came about."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]

    def folders(self) -> dict[str, str]:
        """Path and id of every folder; the ids change with what is inside."""
        inside: dict[str, list[str]] = {}
        for path, file in sorted(self.files.items()):
            parent = posixpath.dirname(path)
            while parent:
                inside.setdefault(parent, []).append(f"{path} {file.oid}")
                parent = posixpath.dirname(parent)
        return {path: hashlib.sha1("\n".join(lines).encode()).hexdigest() for path, lines in inside.items()}


@dataclass
class Repository:
    """
    Attributes:
        kind: model, dataset or space.
        id: namespace/name.
        branches, tags, pulls: commit id by name; pulls by ref, as refs/pr/1.
        discussions: what was opened, oldest first.
        settings: of a Space: sdk, secrets, variables.
    """

    kind: str
    id: str
    private: bool
    created: str = field(default_factory=now)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    discussions: list[dict] = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def web_path(self) -> str:
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def head(self, ref: str) -> Commit:
        """
        The last commit of a branch or pull request, which can be committed to.

        Raises:
            Refusal: 404 where it is none.
        """
        oid = self.branches.get(ref.removeprefix("refs/heads/")) or self.pulls.get(ref)
        if oid is None:
            raise no_revision(ref)
        return self.commits[oid]

    def at(self, revision: str) -> Commit:
        """
        The commit of a branch, tag, pull request or (short) id.

        Raises:
            Refusal: 404 where there is none.
        """
        oid = self.branches.get(revision.removeprefix("refs/heads/")) or self.pulls.get(revision)
        oid = oid or self.tags.get(revision.removeprefix("refs/tags/"))
        if oid is None and COMMIT.fullmatch(revision):
            oid = next((known for known in self.commits if known.startswith(revision.lower())), None)
        if oid is None:
            raise no_revision(revision)
        return self.commits[oid]

    def file(self, commit: Commit, path: str) -> File:
        """
        Raises:
            Refusal: 404 with the commit, where it has no such file.
        """
        if path not in commit.files:
            raise no_entry("Entry not found", commit.oid)
        return commit.files[path]

    def history(self, commit: Commit) -> Iterator[Commit]:
        """From a commit back to the first."""
        while True:
            yield commit
            if commit.parent is None:
                return
            commit = self.commits[commit.parent]

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The commit that last changed a file or anything in a folder."""

        def state(of: Commit):
            return of.files.get(path) or of.folders().get(path)

        changed = commit
        for older in self.history(commit):
            if state(older) != state(commit):
                break
            changed = older
        return changed

    def add_commit(self, ref: str, parent: Commit | None, files: dict[str, File], *, title, message, author) -> Commit:
        """Adds a commit and moves a branch or pull request to it."""
        date = now()
        number = len(self.commits)  # two equal commits of one millisecond differ too
        text = f"{self.id} {number} {parent.oid if parent else ''} {title} {author} {date} {sorted(files.items())}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        commit = Commit(oid, parent.oid if parent else None, title, message, author, date, files)
        self.commits[oid] = commit
        (self.pulls if ref.startswith("refs/pr/") else self.branches)[ref.removeprefix("refs/heads/")] = oid
        return commit

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, state: dict) -> "Repository":
        commits = {
            oid: Commit(**commit | {"files": {path: File(**file) for path, file in commit["files"].items()}})
            for oid, commit in state["commits"].items()
        }
        return cls(**state | {"commits": commits})


def parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path
