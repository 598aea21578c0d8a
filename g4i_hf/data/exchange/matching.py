"""Which image a name in a file of another tool means. Nothing is guessed: a name that fits several images is none."""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote, urlsplit

from ..classes import same_form

NO_ROW, SEVERAL = -1, -2
_ENDING = re.compile(r"\.[^./]{1,5}$")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio puts a hash before the name of an uploaded file
_NOT_UPLOADED = re.compile(r"[^-\w.]")  # characters that it leaves out; it writes _ for spaces


class ImageNames:
    """The names of all images, (N,) paths with `/`: a name means the image with which it shares most last parts."""

    def __init__(self, names: Sequence[str]):
        self.names = names
        self._rows: dict[str, int] = {}  # of ends of paths, with and without the ending
        self._uploaded: dict[str, int] = {}
        paths = [_path(name) for name in names]
        for row, path in enumerate(paths):
            for form in {path, _ENDING.sub("", path)}:
                for end in _ends(form):
                    self._rows[end] = row if self._rows.get(end, row) == row else SEVERAL
            uploaded = _as_uploaded(path)
            self._uploaded[uploaded] = row if self._uploaded.get(uploaded, row) == row else SEVERAL
        self._rows |= {path: row for row, path in enumerate(paths)}

    def rows_of(self, names: Iterable[str]) -> dict[str, int]:
        """
        The row of each image, `NO_ROW`, or `SEVERAL` if a name fits several images. Where any name shares its folder
        with an image, all that have one must: `cats/4.jpg` is not `dogs/4.jpg`.
        """
        paths = {name: _path(name) for name in names}
        rows = {name: self._row_of(path) for name, path in paths.items()}
        with_folder = any(shared > 1 for _, shared in rows.values())
        return {
            name: NO_ROW if with_folder and shared == 1 and "/" in paths[name] else row
            for name, (row, shared) in rows.items()
        }

    def _row_of(self, path: str) -> tuple[int, int]:
        """And how many parts it shares."""
        parts = path.count("/") + 1
        for number, ends in enumerate(zip(_ends(path), _ends(_ENDING.sub("", path)), strict=True)):
            for end in ends:
                if end in self._rows:
                    return self._rows[end], parts - number
        base = path.rpartition("/")[2]
        if _UPLOADED.match(base):
            return self._uploaded.get(_UPLOADED.sub("", base), NO_ROW), parts
        return NO_ROW, 0


def _path(name: str) -> str:
    name = name.strip()
    if "?d=" in name:  # a local file of Label Studio
        name = unquote(name.partition("?d=")[2].partition("&")[0])
    elif "://" in name:
        name = unquote(urlsplit(name).path)
    elif name.startswith("/data/upload/"):
        name = unquote(name)
    parts = same_form(name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def _ends(path: str) -> Iterable[str]:
    """The path and its last parts, from long to short."""
    parts = path.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _as_uploaded(path: str) -> str:
    return _NOT_UPLOADED.sub("", path.rpartition("/")[2].replace(" ", "_"))
