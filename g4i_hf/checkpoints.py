"""Files of a model: the run that it belongs to, and its identity, as a commit on the Hub or a digest of its folder."""

import hashlib
from pathlib import Path

EMA_FILE = "ema.safetensors"  # in a run with ema_decay, beside model.safetensors
# Weights, settings, vocabularies, chat templates and a model's own code: all that its outputs can depend on
DIGESTED_SUFFIXES = {".bin", ".jinja", ".json", ".model", ".pt", ".pth", ".py", ".safetensors", ".txt"}


def commit_of(repository: str, revision: str | None = None, file: str = "config.json") -> str | None:
    """
    The commit of a branch or tag on the Hub, read from the path of a cached file: configurations have lost it
    (transformers 5.24).

    Args:
        repository: Hub id.
        revision: branch, tag or commit.
        file: one that the repository holds.

    Raises:
        OSError: when it cannot be found.
    """
    from transformers.utils.hub import cached_file, extract_commit_hash

    return extract_commit_hash(cached_file(repository, file, revision=revision), None) or revision


def run_of(folder: str | Path) -> Path:
    """The run that a checkpoint belongs to, or the run itself."""
    folder = Path(folder)
    is_checkpoint = folder.name.startswith("checkpoint-") and not (folder / "train.yaml").is_file()
    return folder.parent if is_checkpoint else folder


def folder_digest(folder: str | Path) -> str:
    """
    Hash of the names and contents of a model's files. Folders in it that hold a stage or a run are left out.
    """
    digest = hashlib.blake2b(digest_size=16)
    root = Path(folder)
    outputs = {path.parent for name in ("stage.json", "train.yaml") for path in root.glob(f"*/**/{name}")}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.suffix not in DIGESTED_SUFFIXES or any(part.startswith(".") for part in inside.parts):
            continue
        if outputs & set(path.parents):
            continue
        digest.update(f"{inside.as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return f"blake2b:{digest.hexdigest()}"
