"""All repositories, and where their bytes are: a folder that can be looked at, and opened again by the next server."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from .accounts import Accounts, Token
from .refusals import Refusal, no_repository
from .repository import Commit, File, Repository, blob_oid
from .templates import first_files

KINDS = ("model", "dataset", "space")
NAME = re.compile(r"(?!.*(--|\.\.))(?![-.])[\w.-]{1,96}(?<![-.])", re.ASCII)


class Store:
    """
    Folder layout: `<kind>s/<namespace>/<name>/` with `repository.json` (commits and branches), `objects/` (contents by
    their id) and `main/` (the files of that branch, as links to the contents).

    Args:
        folder (`Path`): created, or read when a server was there before.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.accounts = Accounts()
        self.lock = threading.RLock()  # one request at a time changes or reads the state
        self.repositories: dict[tuple[str, str], Repository] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for state in folder.glob("*/*/*/repository.json"):
            repository = Repository.from_json(json.loads(state.read_text()))
            self.repositories[repository.kind, repository.id] = repository

    def place(self, repository: Repository) -> Path:
        return self.folder / f"{repository.kind}s" / repository.id

    def visible(self, kind: str, id: str, token: Token | None) -> Repository:
        """
        Raises:
            Refusal: where there is none, or a private one of others.
        """
        repository = self.repositories.get((kind, id))
        hidden = repository is None or (
            repository.private and not (token and self.accounts.owns(token.user, repository.namespace))
        )
        if hidden:
            raise no_repository(token is None)
        return repository

    def writable(self, repository: Repository, token: Token | None, *, for_pull: bool = False) -> Token:
        """
        Raises:
            Refusal: 401 or 403 for who may not write there; everyone may open a pull request.
        """
        token = self.accounts.writer(token)
        if not for_pull and not self.accounts.owns(token.user, repository.namespace):
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return token

    def create(self, kind: str, id: str, user: str, *, private: bool, settings: dict) -> Repository:
        """A repository with the first commit that the Hub makes."""
        repository = Repository(kind, id, private, settings=settings)
        self.repositories[kind, id] = repository
        files = {path: self.put(repository, text.encode()) for path, text in first_files(kind, id, settings).items()}
        repository.add_commit("main", None, files, title="initial commit", message="", author=user)
        self.save(repository)
        return repository

    def delete(self, repository: Repository) -> None:
        del self.repositories[repository.kind, repository.id]
        shutil.rmtree(self.place(repository), ignore_errors=True)

    def move(self, repository: Repository, id: str) -> None:
        source = self.place(repository)
        del self.repositories[repository.kind, repository.id]
        repository.id = id
        self.repositories[repository.kind, id] = repository
        self.place(repository).parent.mkdir(parents=True, exist_ok=True)
        source.rename(self.place(repository))
        self.save(repository)

    def content(self, repository: Repository, oid: str) -> Path:
        """Where the bytes of a file are, by its id; a repository has its own, as on the Hub."""
        return self.place(repository) / "objects" / oid

    def read(self, repository: Repository, file: File) -> bytes:
        return self.content(repository, file.stored_as).read_bytes()

    def put(self, repository: Repository, content: bytes) -> File:
        """Stores a file of a commit itself."""
        file = File(blob_oid(content), len(content))
        path = self.content(repository, file.oid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return file

    def put_lfs(self, repository: Repository, sha256: str, size: int, pieces: Iterable[bytes]) -> None:
        """
        Stores an uploaded file, once all of it has come and is what was announced.

        Raises:
            Refusal: 400 for other bytes, or another number of them.
        """
        path = self.content(repository, sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, length = hashlib.sha256(), 0
        handle, name = tempfile.mkstemp(dir=path.parent, prefix="incoming-")
        try:
            with os.fdopen(handle, "wb") as incoming:
                for piece in pieces:
                    digest.update(piece)
                    length += len(piece)
                    incoming.write(piece)
            if length != size or digest.hexdigest() != sha256:
                raise Refusal(400, f"Got {length} bytes with sha256 {digest.hexdigest()}, not {size} with {sha256}")
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)

    def stored_lfs(self, repository: Repository, sha256: str) -> int | None:
        """Size of a file in LFS; None where it was never uploaded to this repository."""
        path = self.content(repository, sha256)
        return path.stat().st_size if path.exists() else None

    def commit(self, repository: Repository, ref: str, parent: Commit, files: dict, **about) -> Commit:
        """As `Repository.add_commit`, and on disk."""
        commit = repository.add_commit(ref, parent, files, **about)
        self.save(repository)
        return commit

    def save(self, repository: Repository) -> None:
        """Writes the state of a repository, whole or not at all, and shows the files of main."""
        place = self.place(repository)
        place.mkdir(parents=True, exist_ok=True)
        state = place / "repository.json"
        fresh = state.with_suffix(".new")
        fresh.write_text(json.dumps(repository.to_json(), indent=1))
        fresh.replace(state)
        shown = place / "main"
        shutil.rmtree(shown, ignore_errors=True)
        for path, file in repository.head("main").files.items():
            target = shown / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # a name that this file system does not take is still served
                os.link(self.content(repository, file.stored_as), target)
