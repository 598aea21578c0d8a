"""Push of a released folder in one commit, after a search for secrets. It overwrites nothing of others by itself."""

import functools
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, LocalTokenNotFoundError

from ..data.stage import STAGE_FILE
from ..names import TOKEN, require

MANIFEST = ".g4i_hf.json"  # in a repository the files of the last push; in a folder an empty mark of a release
# What a folder of a release is called, and files in every one
OF_STUDENT = ("student that was released", MANIFEST, "config.json")
OF_DATASET = ("dataset that was released", MANIFEST, STAGE_FILE)
OF_THE_HUB = {".gitattributes", "README.md"}  # files that the first commit of a repository may have


def read_manifest(path: Path) -> dict[str, Any] | None:
    """None without a manifest, or for another file."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return manifest if all(isinstance(name, str) for name in manifest["files"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


# --- The repository --------------------------------------------------------------------------------------------------


def push_folder(
    folder: str | Path,
    repo_id: str,
    repo_type: str = "model",
    *,
    private: bool = True,
    message: str | None = None,
    token: str | None = None,
    replace: bool = False,
) -> str:
    """
    Push a released folder in one commit, which also deletes files of the last push that this release lacks.

    Args:
        repo_id: Hub id; without a namespace, in that of the token.
        private: visibility of a new repository; an existing one keeps its visibility.
        replace: push over commits of others, see [`last_push`].

    Returns:
        The URL of the commit; of the last one, if nothing has changed.

    Raises:
        ValueError: if a file holds a local path, a host name or a token, or the card is invalid.
        PushError: if the Hub rejects the push, cannot be reached, or has commits of others.
    """
    check_publishable(folder)
    api, folder = HfApi(token=token), Path(folder)
    with clear_errors(repo_id):
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        head, left, last = last_push(api, repo_id, repo_type, replace)
        added = [CommitOperationAdd(name, str(folder / name)) for name, _ in list_files(folder) if name != MANIFEST]
        files = {operation.path_in_repo: operation.upload_info.sha256.hex() for operation in added}
        if last is None or last["files"] != files:  # otherwise the same manifest, so that there is nothing to commit
            last = {"files": files, "parent": head}
        text = json.dumps(last, indent=1, ensure_ascii=False) + "\n"
        # Not upload_folder, which makes several commits of a large folder (huggingface_hub 2.4)
        return api.create_commit(
            repo_id,
            [*added, CommitOperationAdd(MANIFEST, text.encode())]
            + [CommitOperationDelete(name) for name in sorted(left - files.keys())],
            commit_message=message or f"Release {folder.resolve().name}",
            repo_type=repo_type,
            parent_commit=head,  # fails after a push in between
        ).commit_url


def last_push(
    api: HfApi, repo_id: str, repo_type: str = "model", replace: bool = False
) -> tuple[str, set[str], dict[str, Any] | None]:
    """
    The last commit of a repository, the files of the last push that it still has, and its manifest, or None if that
    commit is not a push.

    Each push is the child of the commit that its manifest names as `parent`. Raises PushError, unless `replace`, if
    the last commit is neither a push nor the first commit of the Hub.
    """
    info = api.repo_info(repo_id, repo_type=repo_type)
    present = {file.rfilename for file in info.siblings or ()}
    commits = [commit.commit_id for commit in api.list_repo_commits(repo_id, repo_type=repo_type, revision=info.sha)]
    manifest = None
    if MANIFEST in present:
        path = api.hf_hub_download(repo_id, MANIFEST, repo_type=repo_type, revision=info.sha)
        manifest = read_manifest(Path(path))
    left = present & set(manifest["files"] if manifest else ())
    if manifest and commits[1:2] == [manifest.get("parent")]:
        return info.sha, left, manifest
    if not replace and (len(commits) > 1 or present - OF_THE_HUB):
        raise PushError(
            f"{repo_id} has commits that no g4i release has pushed, the last is {info.sha[:8]}. Nothing was pushed. "
            "Choose another --repo_id (in training, --hub_model_id), or write over them with g4i release --replace "
            "true."
        )
    return info.sha, left, None


# --- Errors and remedies ---------------------------------------------------------------------------------------------

HTTPError = HfHubHTTPError.__bases__[0]  # of httpx2; before huggingface_hub 2 of httpx
AGAIN = "Nothing of this push is visible; run the same command again"
REMEDIES = {
    401: "the Hub does not accept the token, which may have expired. Log in again with `hf auth login`",
    403: "the token may not write there. Use one with the role `write`, and a namespace that you own",
    404: "no such repository, or this token has no access",
    409: f"someone else has pushed there meanwhile. {AGAIN}",
    412: f"someone else has pushed there meanwhile. {AGAIN}",
}


class PushError(OSError):
    """A push that failed: reason and remedy."""


@contextmanager
def clear_errors(repo_id: str) -> Iterator[None]:
    """Raise a PushError with a remedy in place of the errors of the clients."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PushError("There is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN.") from error
    except (HTTPError, ConnectionError, LocalEntryNotFoundError, RuntimeError) as error:
        wraps = isinstance(error, (LocalEntryNotFoundError, RuntimeError)) and error.__cause__ is not None
        cause = error.__cause__ if wraps else error  # the error of an upload or a download
        if not isinstance(cause, (HTTPError, ConnectionError)):
            raise
        status = getattr(getattr(cause, "response", None), "status_code", None)
        # The message of the server in one line, without URLs for uploads
        message = " ".join((getattr(cause, "server_message", None) or str(cause)).split())
        reason = re.sub(r"https?://\S+", "...", message)[:300] or type(cause).__name__
        raise PushError(f"{repo_id}: {REMEDIES.get(status, f'the push has failed. {AGAIN}')} ({reason})") from error


# --- What must not be published: paths, host names, tokens, pickles --------------------------------------------------


SECRETS = "The scan for secrets before a push"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
NOISY = {"ArtifactoryDetector", "IPPublicDetector"}  # these match ordinary words and version numbers
SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)(_|$)|(^|_)(PASS|AUTH)(_|$)")
SHORTEST_SECRET, SHORTEST_HOST = 12, 6  # shorter ones are ordinary words


def list_files(folder: str | Path) -> list[tuple[str, int]]:
    """Name and size in bytes of every file of a released folder, sorted by name."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)


def check_publishable(folder: str | Path) -> None:
    """
    Search every file that is published: all bytes, or the header of safetensors, and texts and bytes of Parquet in
    columns of any type. Other encodings (UTF-16, base64, escapes, compression) are not searched. Raises ValueError,
    with file and kind but without the secret, for the home or working folder, the name of this machine, a secret, or
    the suffix of a pickle; ImportError without detect-secrets.
    """
    patterns = local_patterns()
    for name, _ in list_files(folder):
        path = Path(folder) / name
        if path.suffix.lower() in PICKLES:
            raise ValueError(f"{name} may be a pickle, which runs code when opened: it is not published.")
        kind = next(filter(None, (_kind(text, patterns) for text in _texts_of(path))), None)
        if kind is not None:
            raise ValueError(
                f"{name} holds {kind}, which would be published. Nothing was pushed. Remove it where it comes from "
                "and release again."
            )


def local_patterns() -> dict[str, re.Pattern[bytes]]:
    """Kinds of matches on this machine (paths, its name, secrets of the environment), each with its pattern."""
    folders = {str(way) for place in (Path.home(), Path.cwd()) for way in (place, place.resolve())} - {"/"}
    ways = "|".join(map(re.escape, sorted(folders)))
    # Not as a part of a longer path or name
    patterns = {"a path of this machine": re.compile(rf"(?<![\w.~-])(?:{ways})(?![\w-]|\.\w)".encode())}
    host = socket.gethostname()
    # A name without digit, dot or hyphen may be an ordinary word, such as laptop or student
    if len(host) >= SHORTEST_HOST and re.search(r"[\d.-]", host) and not host.startswith("localhost"):
        patterns["the name of this machine"] = re.compile(rf"(?<![\w-]){re.escape(host)}(?![\w-])".encode())
    secrets = {name: value for name, value in os.environ.items() if SECRET_NAME.search(name.upper())}
    for name, value in {**secrets, "of the Hub": get_token() or ""}.items():
        if len(value) >= SHORTEST_SECRET:
            patterns[f"a token or password of this environment ({name})"] = re.compile(re.escape(os.fsencode(value)))
    return patterns


def _kind(text: bytes, patterns: dict[str, re.Pattern[bytes]]) -> str | None:
    for kind, pattern in patterns.items():
        if pattern.search(text):
            return kind
    printable = b"\n".join(re.findall(rb"[ -~\t\r\n]{12,}", text)).decode("ascii")
    if TOKEN.search(printable):
        return "what looks like a token"
    for kind, detector in _detectors().items():
        if any(True for _ in detector.analyze_string(printable)):
            return f"what looks like a secret ({kind})"
    return None


@functools.cache
def _detectors() -> dict[str, Any]:
    """Detectors of detect-secrets for tokens, private keys and passwords in URLs."""
    kinds = require("detect_secrets.core.plugins.util", "hub", SECRETS).get_mapping_from_secret_type_to_class()
    from detect_secrets.plugins.base import RegexBasedDetector

    classes = {kind: cls for kind, cls in kinds.items() if issubclass(cls, RegexBasedDetector)}
    return {kind: cls() for kind, cls in classes.items() if cls.__name__ not in NOISY}


def _texts_of(path: Path) -> Iterator[bytes]:
    """All bytes of a file, or the header of safetensors; metadata and cells of a Parquet file."""
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(b"PAR1"):
            yield from _parquet(path)
        else:
            yield head + file.read(int.from_bytes(head, "little") if path.suffix == ".safetensors" else -1)


def _parquet(path: Path) -> Iterator[bytes]:
    """Metadata of a Parquet file, and its texts and bytes, also within lists, structs, maps and dictionaries."""
    with pq.ParquetFile(path) as table:
        yield b"\n".join(word for pair in (table.metadata.metadata or {}).items() for word in pair)
        yield str(table.schema_arrow.names).encode()
        leaves = map(table.schema.column, range(len(table.schema)))
        texts = (leaf for leaf in leaves if leaf.physical_type.endswith("BYTE_ARRAY"))
        paths = [leaf.path for leaf in texts if str(leaf.logical_type) != "Float16"]  # embeddings
        for batch in table.iter_batches(batch_size=50, columns=paths) if paths else ():
            yield b"\n".join(_texts(batch.to_pylist()))


def _texts(value: Any) -> Iterator[bytes]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _texts(item)
    if isinstance(value, (str, bytes)):
        yield value.encode(errors="replace") if isinstance(value, str) else value
