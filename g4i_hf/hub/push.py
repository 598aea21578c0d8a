"""Pushing released folders: all are checked first, then each is one commit, there as a whole or not at all."""

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_session, hf_raise_for_status
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from ..data.stage import STAGE_FILE
from ..files import replace_text
from .privacy import check_publishable, list_files

MANIFEST = ".g4i_hf.json"
# What is released in a repository of each type, and the files by one of which it is known
RELEASES = {
    "model": ("student", {"config.json", "adapter_config.json"}),
    "dataset": ("dataset", {STAGE_FILE}),
}
HTTPError = HfHubHTTPError.__bases__[0]  # of httpx2; before huggingface_hub 2 of httpx
README, OF_THE_HUB = "README.md", {".gitattributes"}
LARGE = 10_000_000  # bytes; the Hub knows larger files by their SHA-256, smaller ones by that or by git's SHA-1
SHOWN = 3  # names of files in a message
XET_REFUSAL = "XetAuthenticationError"  # of hf_xet, which need not be installed: a PermissionError as those of files
# The Xet client tells the status of the server in words alone
XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})\b")
AGAIN = "Nothing of this push is visible; give the same command again"
REMEDIES = {
    401: "the Hub does not accept the token, which may have expired. Log in again with `hf auth login`",
    403: "the token may not write there. Use one with the role `write`, and a namespace of your own",
    404: "no such repository, or one that this token may not see. It may have been deleted, renamed or closed",
    409: f"somebody else has pushed there meanwhile. {AGAIN}",
    412: f"somebody else has pushed there meanwhile. {AGAIN}",
    429: f"the Hub is busy or out of order. {AGAIN} later",
}


def write_manifest(folder: str | Path) -> None:
    """Writes what a release has made, by which a later one knows what it may delete."""
    replace_text(Path(folder) / MANIFEST, _manifest(hashed_files(folder)))


def _manifest(files: dict[str, list[str]]) -> str:
    return json.dumps({"files": files}, indent=1, ensure_ascii=False) + "\n"


def hashed_files(folder: str | Path) -> dict[str, list[str]]:
    """The files of a released folder as they are now, each with its hashes."""
    return {name: _hashes(Path(folder) / name, size) for name, size in list_files(folder) if name != MANIFEST}


def check_release(folder: Path, repo_type: str, remedy: str) -> None:
    """ValueError, with the remedy, where a folder does not hold a `model` or `dataset` that was released."""
    name, files = RELEASES[repo_type]
    released = read_manifest(folder) if folder.is_dir() else None
    if not (released or {}).keys() & files:
        raise ValueError(f"{folder} holds no {name} that was released. {remedy}")


def check_replaceable(folder: Path, repo_type: str, replace: bool = False) -> None:
    """
    ValueError where something else than an earlier release of a `model` or `dataset` would be deleted, or, unless
    `replace`, what was changed in it by hand.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    check_release(folder, repo_type, "It would be deleted: choose another folder, or move it away.")
    if replace:
        return
    released, present = read_manifest(folder) or {}, hashed_files(folder)
    names = sorted(released.keys() | present.keys())
    by_hand = [name for name in names if present.get(name) != released.get(name)]
    if by_hand:
        raise ValueError(
            f"{folder} was changed by hand since its release: {_some(by_hand)}. Move it away, push it as it is with "
            "g4i release --as_is true, or make it anew with --replace true, which also writes over changes on the Hub."
        )


def _hashes(path: Path, size: int) -> list[str]:
    with path.open("rb") as file:
        sha256 = sha_fileobj(file).hex()
    return [sha256] if size > LARGE else [sha256, git_hash(path.read_bytes())]


def read_manifest(place: str | Path) -> dict[str, list[str]] | None:
    """The files of a manifest, or of one in a folder, with hashes; None without one."""
    path = Path(place)
    path = path / MANIFEST if path.is_dir() else path
    if not path.exists():
        return None
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        if all(isinstance(name, str) and isinstance(files[name], list) for name in files):
            return files
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f'{path} is no manifest of a release, which is JSON such as {{"files": {{}}}}.')


def push_folder(folder: str | Path, repo_id: str, repo_type: str = "model", **options) -> str:
    """Pushes one released folder, with the options of [`push_folders`]; returns the address of the commit."""
    return next(push_folders([(folder, repo_id, repo_type)], **options))


def _validate_card(readme: Path, repo_id: str, repo_type: str) -> None:
    """ValueError for a card that the Hub of HF_ENDPOINT refuses; `RepoCard.validate` asks huggingface.co (2.0)."""
    content = {"repoType": repo_type, "content": readme.read_text(encoding="utf-8")}
    plain = {"Accept": "text/plain"}
    with clear_errors(repo_id):
        reply = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=content, headers=plain)
        if reply.status_code == 400:
            raise ValueError(reply.text)
        hf_raise_for_status(reply)


def push_folders(
    released: Sequence[tuple[str | Path, str, str]],
    *,
    private: bool = True,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    replace: bool = False,
    folders: Collection[str | Path] = (),
) -> Iterator[str]:
    """
    Pushes released folders, each as one commit, which also deletes what an earlier release has left and this one has
    not. All are checked before the first is pushed.

    Args:
        released: of each the folder, as `g4i release` writes it, the Hub id (without a namespace, of the token) and
            `"model"` or `"dataset"`.
        private: visibility of a repository that is made now; one that exists keeps its own.
        revision: branch, made where there is none; `main` by default.
        replace: push also where files of somebody else are, see [`check_repository`].
        folders: of this machine, whose paths must not be published either.

    Returns:
        Addresses of the commits (if nothing has changed of the last), each folder pushed in its turn.

    Raises:
        ValueError: when a file holds a local path, a host name or a token, or a card is not valid.
        PushError: when the Hub refuses, cannot be reached, or holds something else there.
    """
    api, manifests = HfApi(token=token), []
    for folder, _, _ in released:
        check_publishable(folder, folders)
        manifests.append(hashed_files(folder))
    for folder, repo_id, repo_type in released:
        _validate_card(Path(folder) / README, repo_id, repo_type)  # before anything is made there
    where: dict[str, Any] = {"revision": revision, "replace": replace}
    checked = list(zip(released, manifests, strict=True))
    for (_, repo_id, repo_type), files in checked:
        check_repository(api, repo_id, repo_type, files, **where)

    def push(folder: Path, repo_id: str, repo_type: str, files: dict[str, list[str]]) -> str:
        with clear_errors(repo_id):
            repo_id = create_repository(api, repo_id, repo_type, private)
            head, gone = check_repository(api, repo_id, repo_type, files, **where)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
            # Not upload_folder, which makes several commits of a large folder (huggingface_hub 2.4)
            return api.create_commit(
                repo_id,
                [CommitOperationAdd(name, str(folder / name)) for name in files]
                + [CommitOperationAdd(MANIFEST, _manifest(files).encode())]
                + [CommitOperationDelete(name) for name in gone],
                commit_message=message or f"Release {folder.resolve().name}",
                repo_type=repo_type,
                revision=revision,
                parent_commit=head,  # of what the deletions were decided on: a push in between makes this one fail
            ).commit_url

    return (push(Path(folder), repo_id, repo_type, files) for (folder, repo_id, repo_type), files in checked)


def create_repository(api: HfApi, repo_id: str, repo_type: str = "model", private: bool = True) -> str:
    """Makes a repository where there is none; returns its whole id, with the namespace."""
    return api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id


def check_repository(
    api: HfApi,
    repo_id: str,
    repo_type: str = "model",
    files: dict[str, list[str]] | None = None,
    *,
    revision: str | None = None,
    replace: bool = False,
) -> tuple[str | None, list[str]]:
    """
    Whether a release may be pushed to a repository: one that is not there yet, that is empty, or that holds an earlier
    release, which its manifest names. A README of no more than metadata and a line does not count.

    Args:
        files: what is to be pushed, with hashes; None before it is known: then no file of an earlier release may have
            been changed.
        revision: branch; `main` by default, and where there is no such branch yet.
        replace: allow any other too. Files of the same name are written over then, and none of others is deleted.

    Returns:
        The last commit, None without repository, and the files of an earlier release that this one has not. PushError
        for a repository that holds something else, or a file that was put there or changed by hand.
    """
    with clear_errors(repo_id):
        try:
            repo_id = repo_id if "/" in repo_id else api.get_full_repo_name(repo_id)
            head = _head(api, repo_id, repo_type, revision)
        except RepositoryNotFoundError:
            return None, []
        tree = api.list_repo_tree(repo_id, recursive=True, repo_type=repo_type, revision=head)
        present = {
            file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in tree if isinstance(file, RepoFile)
        }
        earlier = _earlier(api, repo_id, repo_type, head, replace) if MANIFEST in present else None
        others = sorted(set(present) - OF_THE_HUB) if earlier is None else []
        if others == [README] and _is_empty_card(api, repo_id, repo_type, head):
            others = []
    if others and not replace:
        raise PushError(
            f"{repo_id} holds files that no release has left there: {_some(others)}. Nothing was pushed. Choose "
            "another --repo_id (in training, --hub_model_id), or write over them with g4i release --replace true."
        )
    untouched = [name for name, hashes in (earlier or {}).items() if present.get(name) in hashes]
    without_hashes = [name for name, hashes in (earlier or {}).items() if not hashes]  # written over, and not deleted
    ours = {*untouched, *without_hashes}
    files = dict.fromkeys(earlier or {}, []) if files is None else files
    by_hand = [name for name in files if name in present and name not in ours and present[name] not in files[name]]
    if earlier is not None and by_hand and not replace:
        raise PushError(
            f"{repo_id} holds files that were put there or changed by hand: {_some(by_hand)}. Nothing was pushed. "
            "Choose another --repo_id (in training, --hub_model_id), or write over them with g4i release --replace "
            "true."
        )
    return head, [name for name in untouched if name not in files]


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _head(api: HfApi, repo_id: str, repo_type: str, revision: str | None) -> str:
    try:
        return api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
    except RevisionNotFoundError:  # a branch that is made later, of main
        return api.repo_info(repo_id, repo_type=repo_type).sha


def _earlier(api: HfApi, repo_id: str, repo_type: str, head: str, replace: bool) -> dict[str, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return read_manifest(_download(api, repo_id, repo_type, head, MANIFEST, folder)) or {}
        except ValueError as error:
            if replace:
                return {}
            raise PushError(
                f"{repo_id}: its {MANIFEST} does not say what was released. Nothing was pushed. Choose another "
                "--repo_id, or push with g4i release --replace true, which deletes no files."
            ) from error


def _is_empty_card(api: HfApi, repo_id: str, repo_type: str, head: str) -> bool:
    """Whether a README is no more than what the Hub makes with a repository: metadata and perhaps a line."""
    with tempfile.TemporaryDirectory() as folder:
        text = _download(api, repo_id, repo_type, head, README, folder).read_text(encoding="utf-8", errors="replace")
    return len(re.sub(r"\A\s*---\n(.*?\n)?---", "", text, flags=re.DOTALL).strip().splitlines()) <= 1


def _download(api: HfApi, repo_id: str, repo_type: str, head: str, name: str, folder: str) -> Path:
    return Path(api.hf_hub_download(repo_id, name, repo_type=repo_type, revision=head, local_dir=folder))


# --- What went wrong, in words that say what is there now and what to do ---------------------------------------------


class PushError(OSError):
    """A push that did not happen: what went wrong, what is there now, and what to do."""


@contextmanager
def clear_errors(repo_id: str) -> Iterator[None]:
    """Raises a PushError with the remedy in place of the clients' errors."""
    try:
        yield
    except (OSError, RuntimeError, HTTPError) as error:
        wraps = isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and error.__cause__ is not None
        cause = error.__cause__ if wraps else error  # of an upload, or of a download
        known = (HfHubHTTPError, HTTPError, ConnectionError, LocalTokenNotFoundError)
        if not isinstance(cause, known) and type(cause).__name__ != XET_REFUSAL:
            raise
        raise PushError(_message(repo_id, cause)) from error


def _message(repo_id: str, error: BaseException) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return "There is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        # The server's own words on one line, without addresses that lead to an upload
        text = " ".join((error.server_message or (str(error).splitlines() or [""])[0]).split())
        reason = re.sub(r"https?://\S+", "...", text)[:300] or f"status {status}"
        return f"{repo_id}: {_remedy(status)} ({reason})"
    if type(error).__name__ == XET_REFUSAL:
        return (
            f"{repo_id}: the Hub's storage does not accept the token, which may have expired or may not write there. "
            "Log in again with `hf auth login`, with a token of the role `write`. Nothing of this push is visible"
        )
    if found := XET_STATUS.search(str(error)):
        return f"{repo_id}: {_remedy(int(found[1]))} (the token for large files: status {found[1]})"
    return (
        f"{repo_id}: the connection to the Hub broke ({type(error).__name__}). Nothing of this push is visible there; "
        "give the same command again, what has arrived is not sent twice."
    )


def _remedy(status: int) -> str:
    return REMEDIES.get(429 if status >= 500 else status, "the Hub refuses. Nothing of this push is visible")
