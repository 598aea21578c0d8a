"""The manifest of a released folder: the files that are this package's, which a later release may take away."""

import contextlib
import json
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

MANIFEST = ".g4i_hf.json"
_TEMPORARY = f"{MANIFEST}.tmp-"
LEFT_OUT = {"__pycache__", ".cache", ".git", ".gradio"}  # folders that are never published


def list_files(folder: str | Path) -> list[tuple[str, int]]:
    """Name and size in bytes of every file of a released folder that is published, sorted by name."""
    root = Path(folder)
    files = [path for path in root.rglob("*") if path.is_file() and _is_published(path.relative_to(root))]
    return sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in files)


def _is_published(name: Path) -> bool:
    return not (LEFT_OUT & set(name.parts) or name.suffix.lower() == ".pyc" or name.as_posix().startswith(_TEMPORARY))


def write_manifest(folder: str | Path) -> Path:
    """
    Writes `{"files": [...]}`: the names of all files that are published, without its own. It is there as a whole or
    not at all; one that says the same already is left as it is.

    Returns:
        The manifest.
    """
    path = Path(folder) / MANIFEST
    files = [name for name, _ in list_files(folder) if name != MANIFEST]
    with contextlib.suppress(ValueError):
        if read_manifest(path) == files:
            return path
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"files": files}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_manifest(place: str | Path) -> list[str] | None:
    """
    Args:
        place: a manifest, or a folder that may hold one.

    Returns:
        The names that it holds, as relative paths with `/`; None where there is no manifest.

    Raises:
        ValueError: when it is no such file, or a name leads out of the folder.
    """
    path = Path(place)
    path = path / MANIFEST if path.is_dir() else path
    if not path.exists():
        return None
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'{path} is no manifest of a release, which is JSON such as {{"files": []}}.') from error
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ValueError(f"{path} is no manifest of a release: its files are not a list of names.")
    for name in files:
        if not _lies_within(name):
            raise ValueError(f"{path} names {name!r}, which is not a relative path within its folder.")
    return files


def _lies_within(name: str) -> bool:
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    is_plain = path.as_posix() == name and name != "." and "\0" not in name
    return is_plain and not (path.is_absolute() or windows.anchor or {".."} & {*path.parts, *windows.parts})
