"""Files of captions: JSON lines and CSV with a key, and lists in the order of the images."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ...data.image_ids import IMAGE_SUFFIXES

Caption = str | list[str] | None

# Names of fields, the likeliest first. Those of `wufeim/imagenet1k_captions_minigpt4` (one CSV file of 567 MB) are
# documented nowhere: its card does not give them, and we had no copy of the file. So they are looked for, whatever
# stands beside them and in whatever order, and `--file_key` and `--file_caption` name others.
KEY_FIELDS = (
    *("image_id", "file_name", "filename", "file", "image_path", "image_file", "image_name", "filepath", "path"),
    *("image", "img", "key", "id"),
)
CAPTION_FIELDS = ("caption", "captions", "text", "texts", "description", "descriptions")
LIST_SUFFIXES = {".txt", ".json", ".pth", ".pt"}
DELIMITERS = ",;\t"
HALF = re.compile("[\ud800-\udfff]")  # JSON can write them


class Entry(NamedTuple):
    """
    Attributes:
        line: where it starts in the file, from 1.
        key: what names the image; None in a list.
        caption: None for an empty one.
    """

    line: int
    key: str | None
    caption: Caption


@dataclass(frozen=True)
class CaptionFile:
    """
    The entries of a JSONL, CSV or TSV file, read from its start each time it is iterated, one entry at a time.

    Attributes:
        path: of the file. CSV has a header; without one, it has two columns, and one of them holds names of image
            files. Quotes inside a quoted field are doubled, newlines in it are kept.
        file_key: field that names the image; found by its name if None.
        file_caption: field that holds the caption, or a list of captions; found by its name if None.

    Raises:
        ValueError: while iterating, with the line that cannot be read.
    """

    path: str | Path
    file_key: str | None = None
    file_caption: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        return self._entries(with_key=True)

    @property
    def name(self) -> str:
        return Path(self.path).name

    def _entries(self, with_key: bool) -> Iterator[Entry]:
        path = Path(self.path)
        if not path.is_file():
            raise FileNotFoundError(f"captions_file is {str(self.path)!r}, but there is no such file.")
        suffix = path.suffix.lower()
        if suffix not in (".jsonl", ".ndjson", ".csv", ".tsv"):
            lists = " It looks like a list of captions: see --captioner list." if suffix in LIST_SUFFIXES else ""
            raise ValueError(f"{self.name}: captions with a key are read from .jsonl, .csv and .tsv files.{lists}")
        with path.open(encoding="utf-8-sig", newline="") as file:
            try:
                yield from self._of_json(file, with_key) if "json" in suffix else self._of_csv(file, suffix, with_key)
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.name} is no UTF-8 ({error}). Save it as UTF-8.") from error

    def _of_json(self, file: Iterable[str], with_key: bool) -> Iterator[Entry]:
        key_field = caption_field = None
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{self.name}, line {line}: no JSON ({error}). Correct or remove it.") from error
            if not isinstance(record, dict):
                raise ValueError(
                    f'{self.name}, line {line}: {text.strip()[:60]!r} is no object such as {{"image_id": "cat/1.jpg", '
                    '"caption": "a cat"}.'
                )
            if caption_field is None:
                key_field, caption_field = self._fields(list(record), with_key)
            for field in (key_field, caption_field):
                if field is not None and field not in record:
                    raise ValueError(f"{self.name}, line {line}: no field {field!r}. Add it, or remove the line.")
            yield self._entry(line, record.get(key_field), record[caption_field], with_key)

    def _of_csv(self, file: Iterable[str], suffix: str, with_key: bool) -> Iterator[Entry]:
        lines = iter(file)
        first = next(lines, "")
        delimiter = "\t" if suffix == ".tsv" else max(DELIMITERS, key=first.count)
        # Strict: a quote that is never closed would otherwise swallow the lines after it without a word
        reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        line = 1
        try:
            header = next(reader, [])
            key, caption, has_header = self._columns(header, with_key)
            rows: Iterable[list[str]] = reader if has_header else chain([header], reader)
            line = reader.line_num + 1 if has_header else 1
            for row in rows:
                if row:
                    if len(row) != len(header):
                        raise ValueError(
                            f"{self.name}, line {line}: {len(row)} fields, but line 1 has {len(header)}. Put quotes "
                            f"around fields that hold {delimiter!r}."
                        )
                    yield self._entry(line, row[key] if with_key else None, row[caption], with_key)
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"{self.name}, line {line}: {error}. Fields that hold quotes are quoted, and their quotes doubled."
            ) from error

    def _columns(self, header: list[str], with_key: bool) -> tuple[int, int, bool]:
        """Which column holds the key, which the caption, and whether the first line is a header."""
        named = self.file_key is None and self.file_caption is None
        images = [i for i, cell in enumerate(header) if Path(cell.strip()).suffix.lower() in IMAGE_SUFFIXES]
        if with_key and named and len(header) == 2 and len(images) == 1:
            return images[0], 1 - images[0], False
        key, caption = self._fields(header, with_key)
        return header.index(key) if key is not None else -1, header.index(caption), True

    def _fields(self, fields: list[str], with_key: bool) -> tuple[str | None, str]:
        key = _field(self.name, fields, self.file_key, KEY_FIELDS, "file_key") if with_key else None
        return key, _field(self.name, fields, self.file_caption, CAPTION_FIELDS, "file_caption")

    def _entry(self, line: int, key: Any, caption: Any, with_key: bool) -> Entry:
        if type(key) is int:
            key = str(key)
        if with_key and (not isinstance(key, str) or not key):
            raise ValueError(f"{self.name}, line {line}: the key is {key!r}; it must name an image.")
        try:
            return Entry(line, key, checked(caption))
        except TypeError as error:
            raise ValueError(f"{self.name}, line {line}: {error}.") from error


def checked(caption: Any) -> Caption:
    """
    A caption as it is; None for an empty one, and without the empty ones of a list.

    Raises:
        TypeError: for anything but text, a list of texts and None, and for text that no table takes.
    """
    texts = caption if isinstance(caption, list) else [caption]
    if any(isinstance(text, str) and HALF.search(text) for text in texts):
        raise TypeError(
            "the caption holds half of a character, as of an emoji that was cut in two, which no table takes"
        )
    if isinstance(caption, str):
        return caption if caption.strip() else None
    if caption is None:
        return None
    if isinstance(caption, list) and all(text is None or isinstance(text, str) for text in caption):
        return [text for text in caption if text and text.strip()] or None
    raise TypeError(f"the caption is of type {type(caption).__name__}; it must be text or a list of texts")


def _field(file: str, fields: list[str], given: str | None, usual: tuple[str, ...], option: str) -> str:
    if given is not None:
        if given in fields:
            return given
        raise ValueError(f"{file} has no field {given!r} (given as {option}). Its fields: {', '.join(fields)}.")
    names: dict[str, str] = {}
    for field in fields:
        names.setdefault(field.strip().lower(), field)
    for name in usual:
        if name in names:
            return names[name]
    raise ValueError(
        f"{file}: no field is called {', '.join(usual)}. Its fields: {', '.join(map(repr, fields)) or 'none'}. Name "
        f"the right one with --{option}."
    )


def read_list(path: str | Path, file_caption: str | None = None) -> list[str | None]:
    """
    A list of captions without keys.

    Args:
        path: .txt (a line a caption; an empty line is no caption), .json (a list of strings), .pth or .pt (a list of
            strings written by `torch.save`), or the caption field of a .jsonl, .csv or .tsv file.
        file_caption: that field; found by its name if None.

    Raises:
        ValueError: when the file holds anything else. A .pth file that would have to run code is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"captions_file is {str(path)!r}, but there is no such file.")
    suffix = path.suffix.lower()
    if suffix not in LIST_SUFFIXES:
        captions: Any = [entry.caption for entry in CaptionFile(path, None, file_caption)._entries(with_key=False)]
    elif suffix in (".pth", ".pt"):
        captions = _saved_by_torch(path)
    else:
        try:
            with path.open(encoding="utf-8-sig") as file:
                captions = json.load(file) if suffix == ".json" else [line.rstrip("\n") for line in file]
        except json.JSONDecodeError as error:
            lines = " Are these JSON lines? Then call the file .jsonl." if "Extra data" in str(error) else ""
            raise ValueError(f"{path.name}: no JSON ({error}).{lines}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path.name} is no UTF-8 ({error}). Save it as UTF-8.") from error
    if not isinstance(captions, list | tuple):
        raise ValueError(f"{path.name} holds a {type(captions).__name__}; it must hold a list of captions.")
    for i, caption in enumerate(captions):
        if caption is not None and not isinstance(caption, str):
            raise ValueError(
                f"{path.name}, entry {i + 1}: a {type(caption).__name__}; a list in the order of the images holds one "
                "text an image. Several captions, or captions with the names of their images, go into a .jsonl file."
            )
    return [caption if caption and caption.strip() else None for caption in captions]


def _saved_by_torch(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} is refused: reading it would run code that it brings along, or it is no file of torch. Only "
            "lists of strings are read. If you trust where it comes from, write its captions into a .txt or .json "
            "file elsewhere."
        ) from error
    except (EOFError, RuntimeError, OSError) as error:
        why = (str(error).splitlines() or ["it is empty"])[0]
        raise ValueError(f"{path.name} cannot be read: {why}. Download it again if it was cut off.") from error
