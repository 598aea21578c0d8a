"""Pushing released folders: all are checked first, then each is one commit, there as a whole or not at all."""

import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi, ModelCard, SpaceCard
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from .manifest import MANIFEST, list_files, read_manifest, write_manifest
from .publishable import check_publishable
from .push_errors import PushError, clear_errors

CARDS = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
README, OF_THE_HUB = "README.md", {".gitattributes"}
SHOWN = 3  # names of files in a message


def push_folder(folder: str | Path, repo_id: str, repo_type: str = "model", **options) -> str:
    """
    Pushes one released folder, see [`push_folders`].

    Args:
        folder: as `g4i release` writes it, with a card.
        repo_id: `namespace/name`; without a namespace, that of the token.
        repo_type: `"model"`, `"dataset"` or `"space"`.
        options: of [`push_folders`].

    Returns:
        Address of the commit. When nothing has changed, that of the one that is there.
    """
    return next(push_folders([(folder, repo_id, repo_type)], **options))


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
    Pushes released folders, each as one commit. All are checked before the first is pushed. Large files go up first
    and are not sent again when a push is repeated; they belong to nothing until the commit, so a reader sees the whole
    folder or what was there before. Files that an earlier release has left, by the manifest that is there, and this
    one has not are deleted by the same commit.

    Args:
        released: of each its folder, Hub id and kind of repository, as of [`push_folder`].
        private: visibility of a repository that is made now; one that exists keeps its own.
        revision: branch, made where there is none; `main` by default.
        message: of the commit.
        token: of the Hub; by default the one of `hf auth login` or `HF_TOKEN`.
        replace: push also where files of somebody else are, see [`check_repository`].
        folders: of this machine, whose paths must not be published either.

    Returns:
        Addresses of the commits, one after another: each folder is pushed when its own is asked for.

    Raises:
        ValueError: when a file holds a local path, a host name or a token, or a card is not valid.
        PushError: when the Hub refuses, cannot be reached, or holds something else there.
    """
    api = HfApi(token=token)
    for folder, _, _ in released:
        write_manifest(folder)
        check_publishable(folder, folders)
    for folder, repo_id, repo_type in released:
        with clear_errors(repo_id):
            # The Hub's own opinion of the card, before anything is made there
            CARDS[repo_type].load(Path(folder) / README).validate(repo_type=repo_type)
    for _, repo_id, repo_type in released:
        check_repository(api, repo_id, repo_type, replace, revision)
    return (
        _push(api, Path(folder), repo_id, repo_type, private, revision, message, replace)
        for folder, repo_id, repo_type in released
    )


def _push(
    api: HfApi,
    folder: Path,
    repo_id: str,
    repo_type: str,
    private: bool,
    revision: str | None,
    message: str | None,
    replace: bool,
) -> str:
    with clear_errors(repo_id):
        repo_id = create_repository(api, repo_id, repo_type, private)
        head, earlier = check_repository(api, repo_id, repo_type, replace, revision)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        names = [name for name, _ in list_files(folder)]
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, str(folder / name)) for name in names),
                *(CommitOperationDelete(name) for name in earlier if name not in names),
            ],
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


def check_repository(
    api: HfApi, repo_id: str, repo_type: str = "model", replace: bool = False, revision: str | None = None
) -> tuple[str | None, list[str]]:
    """
    Looks whether a release may be pushed to a repository: one that is not there yet, that is empty, or that holds an
    earlier release, which its manifest names. The files that come with a new repository do not count, nor does a
    README of no more than its metadata and a line.

    Args:
        replace: allow any other too. Files of the same name are written over then, and none is deleted.
        revision: branch; `main` by default, and where there is no such branch yet.

    Returns:
        The last commit, and the files that an earlier release has left there. None and no files without repository.

    Raises:
        PushError: when the repository holds something else, or cannot be read.
    """
    with clear_errors(repo_id):
        try:
            repo_id = repo_id if "/" in repo_id else api.get_full_repo_name(repo_id)
            head = _head(api, repo_id, repo_type, revision)
        except RepositoryNotFoundError:
            return None, []
        present = api.list_repo_files(repo_id, repo_type=repo_type, revision=head)
        if MANIFEST in present:
            return head, [name for name in _earlier(api, repo_id, repo_type, head, replace) if name in present]
        others = sorted(set(present) - OF_THE_HUB)
        if others == [README] and _is_empty_card(api, repo_id, repo_type, head):
            others = []
    if others and not replace:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        raise PushError(
            f"{repo_id} holds files that no release has left there: {', '.join(others[:SHOWN])}{more}. Nothing was "
            "pushed. Choose another --repo_id (in training, --hub_model_id), or push with g4i release --replace true, "
            "which writes over files of the same name and deletes none."
        )
    return head, []


def _head(api: HfApi, repo_id: str, repo_type: str, revision: str | None) -> str:
    try:
        return api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
    except RevisionNotFoundError:  # a branch that is made later, of main
        return api.repo_info(repo_id, repo_type=repo_type).sha


def _earlier(api: HfApi, repo_id: str, repo_type: str, head: str, replace: bool) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return read_manifest(_download(api, repo_id, repo_type, head, MANIFEST, folder)) or []
        except ValueError as error:
            if replace:
                return []
            raise PushError(
                f"{repo_id}: its {MANIFEST} does not say which files an earlier release has left there. Nothing was "
                "pushed. Choose another --repo_id, or push with g4i release --replace true, which deletes none."
            ) from error


def _is_empty_card(api: HfApi, repo_id: str, repo_type: str, head: str) -> bool:
    """Whether a README is no more than what the Hub makes with a repository: metadata, and a line for a Space."""
    with tempfile.TemporaryDirectory() as folder:
        text = _download(api, repo_id, repo_type, head, README, folder).read_text(encoding="utf-8", errors="replace")
    return len(re.sub(r"\A\s*---\n(.*?\n)?---", "", text, flags=re.DOTALL).strip().splitlines()) <= 1


def _download(api: HfApi, repo_id: str, repo_type: str, head: str, name: str, folder: str) -> Path:
    return Path(api.hf_hub_download(repo_id, name, repo_type=repo_type, revision=head, local_dir=folder))
