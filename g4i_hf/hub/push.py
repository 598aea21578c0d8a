"""Pushing a released folder: checked first, then one commit, so that it is there as a whole or not at all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi, ModelCard, SpaceCard
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from .publishable import check_publishable

CARDS = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
# What an earlier release has left in a repository, and a later one takes away when it does not write it again. Files
# that somebody else added stay.
OWNED = {
    "model": (
        "*.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "adapter_config.json",
        "id2label.json",
        "preprocessor_config.json",
        "processor_config.json",
        "aligned/*",
        "onnx/*",
        "images/*",
        ".eval_results/*",
    ),
    "dataset": ("data/*.parquet", "stage.json"),
    "space": ("app.py", "requirements.txt", "g4i_hf/*", "model/*", "gallery/*", "captions*"),
}
LEFT_OUT = {"__pycache__", ".cache", ".git", ".gradio"}


class PushError(OSError):
    """A push that did not happen: what went wrong, what is there now, and what to do."""


def list_files(folder: str | Path) -> list[tuple[str, int]]:
    """Name and size in bytes of every file of a released folder, sorted by name."""
    root = Path(folder)
    files = [path for path in root.rglob("*") if path.is_file() and not LEFT_OUT & set(path.relative_to(root).parts)]
    return sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in files)


def push_folder(
    folder: str | Path,
    repo_id: str,
    repo_type: str = "model",
    *,
    private: bool = True,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """
    Pushes a released folder as one commit. Large files go up first and are not sent again when the push is repeated;
    they belong to nothing until the commit, so a reader sees the whole folder or what was there before. Files that
    an earlier release has left and this one has not are deleted by the same commit.

    Args:
        folder: as `release.py` writes it, with a card.
        repo_id: `namespace/name`; without a namespace, that of the token.
        repo_type: `"model"`, `"dataset"` or `"space"`.
        private: visibility of a repository that is made now; one that exists keeps its own.
        revision: branch, made where there is none; `main` by default.
        message: of the commit.
        token: of the Hub; by default the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        Address of the commit. When nothing has changed, that of the one that is there.

    Raises:
        ValueError: when a file holds a local path, a host name or a token, or the card is not valid.
        PushError: when the Hub refuses, or cannot be reached.
    """
    folder = Path(folder)
    check_publishable(folder)
    api = HfApi(token=token)
    with clear_errors(repo_id):
        # The Hub's own opinion of the card, before anything is made there
        CARDS[repo_type].load(folder / "README.md").validate(repo_type=repo_type)
        repo_id = create_repository(api, repo_id, repo_type, private)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        head = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        commit = api.create_commit(
            repo_id,
            _operations(api, folder, repo_id, repo_type, head),
            commit_message=message or f"Release {folder.resolve().name}",
            repo_type=repo_type,
            revision=revision,
            parent_commit=head,  # of what the deletions were decided on: a push in between makes this one fail
        )
    return commit.commit_url


def create_repository(api: HfApi, repo_id: str, repo_type: str = "model", private: bool = True) -> str:
    """
    Makes a repository where there is none.

    Returns:
        Its whole id, with the namespace.
    """
    sdk = "gradio" if repo_type == "space" else None
    url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
    return url.repo_id


def _operations(api: HfApi, folder: Path, repo_id: str, repo_type: str, head: str) -> list:
    names = [name for name, _ in list_files(folder)]
    present = api.list_repo_files(repo_id, repo_type=repo_type, revision=head)
    stale = [
        name for name in present if name not in names and any(fnmatch(name, pattern) for pattern in OWNED[repo_type])
    ]
    return [
        *(CommitOperationAdd(name, str(folder / name)) for name in names),
        *(CommitOperationDelete(name) for name in stale),
    ]


@contextmanager
def clear_errors(repo_id: str) -> Iterator[None]:
    """
    Raises:
        PushError: in place of the clients' errors, with the remedy.
    """
    try:
        yield
    except (HfHubHTTPError, httpx2.HTTPError, ConnectionError, LocalTokenNotFoundError) as error:
        raise PushError(_message(repo_id, error)) from error
    except RuntimeError as error:  # in which the client wraps what ended the upload of a file
        if not isinstance(error.__cause__, (HfHubHTTPError, httpx2.HTTPError, ConnectionError)):
            raise
        raise PushError(_message(repo_id, error.__cause__)) from error


def _message(repo_id: str, error: BaseException) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return "There is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(error, HfHubHTTPError):
        return f"{repo_id}: {_remedy(error)} ({_reason(error)})"
    return (
        f"{repo_id}: the connection to the Hub broke ({type(error).__name__}). Nothing of this push is visible there; "
        "give the same command again, what has arrived is not sent twice."
    )


def _remedy(error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return "the Hub does not accept the token, which may have expired. Log in again with `hf auth login`"
    if status == 403:
        return "the token may not write there. Use one with the role `write`, and a namespace of your own"
    if status == 404:
        return "no such repository, or one that this token may not see. It may have been deleted, renamed or closed"
    if status in (409, 412):
        return "somebody else has pushed there meanwhile. Nothing of this push is visible; give the same command again"
    if status == 429 or (status or 0) >= 500:
        return "the Hub is busy or out of order. Nothing of this push is visible; give the same command again later"
    return "the Hub refuses. Nothing of this push is visible"


def _reason(error: HfHubHTTPError) -> str:
    """The server's own words on one line, without addresses that lead to an upload."""
    text = error.server_message or str(error).splitlines()[0]
    return re.sub(r"https?://\S+", "...", " ".join(text.split()))[:300] or f"status {error.response.status_code}"
