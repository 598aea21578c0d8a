"""A census of a folder of images: its splits, the class folder of each file, and a word on all that is not read."""

import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from datasets.data_files import SPLIT_KEYWORDS

from ..files import some
from .class_file import CLASSES_FILE
from .classes import same_form
from .images import HEIC_REMEDY, IMAGE_SUFFIXES, UNOPENED_SUFFIXES
from .labels import LABELS_FILE

logger = logging.getLogger(__name__)

STAGE_FILE = "stage.json"  # in the folders of stages, see `stage`
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
# Names of files and folders that are splits, as in `datasets`; folders may have a suffix, as in test_novel
SPLIT_OF = {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}
UNLABELLED_FOLDERS = {"unlabelled", "unlabeled"}
TABLES = {".csv", ".jsonl", ".numbers", ".ods", ".tsv", ".xls", ".xlsm", ".xlsx"}
ARCHIVES = {".7z", ".gz", ".rar", ".tar", ".tgz", ".zip"}
DOCUMENTS = {"", ".cff", ".html", ".json", ".md", ".pdf", ".py", ".txt", ".yaml", ".yml"}  # as beside any data
_NO_CLASSES = {*UNLABELLED_FOLDERS, *SPLIT_OF}
OF_THE_SYSTEM = {"desktop.ini", "ehthumbs.db", "thumbs.db"}
EXCEL = "In Excel: File > Save As > CSV UTF-8 (Comma delimited)."


class Census:
    """
    Attributes:
        roots: the folders of each split; the folder itself is `train` if it has none.
        class_of: by split, every file below it that is not hidden, and its class folder or None.
        empty: by split, the class folders without an image.
        notes: lines for the user, beside those on files that are not read.
    """

    def __init__(self, folder: str | Path):
        self.name, self.folder = str(folder), os.path.abspath(folder)
        self.roots = _roots_of_splits(Path(folder))
        self.notes: list[str] = []
        self._aside: list[str] = []  # hidden files and folders, those of the system, and stages
        self._broken: list[str] = []  # links
        # Each file and each folder: its split, and the folders between the two
        self._files: dict[str, tuple[str | None, tuple[str, ...]]] = {}
        self._folders: list[tuple[str | None, tuple[str, ...]]] = []
        self._split_of = {root: split for split, roots in self.roots.items() for root in roots}
        self._walk(self.folder, None, (), ())
        self._find_classes()
        self.read = {path for files in self.class_of.values() for path in files if _is_read(path)}
        self.add_read(os.path.join(self.folder, name) for name in (LABELS_FILE, CLASSES_FILE))

    def _walk(self, folder: str, split: str | None, inside: tuple[str, ...], above: tuple[str, ...]) -> None:
        """Follows no link back to a parent."""
        real = os.path.realpath(folder)
        if real in above:
            return
        if folder in self._split_of:
            split, inside = self._split_of[folder], ()
        place = split, inside
        self._folders.append(place)
        for entry in os.scandir(folder):
            if entry.name.startswith((".", "__")) and entry.is_dir():
                self._aside.append(entry.path)
            elif entry.is_dir():
                if os.path.isfile(os.path.join(entry.path, STAGE_FILE)):
                    self._aside.append(entry.path)
                else:
                    self._walk(entry.path, split, (*inside, entry.name), (*above, real))
            elif not entry.is_file():
                self._broken.append(entry.path)
            elif entry.name.startswith(".") or entry.name.lower() in OF_THE_SYSTEM:
                self._aside.append(entry.path)
            else:
                self._files[entry.path] = place

    def add_read(self, paths: Iterable[str]) -> None:
        """Files that are read whatever their name."""
        self.read |= self._files.keys() & paths

    def _find_classes(self) -> None:
        """The first folder below the split is the class, however deep an image lies."""
        in_splits = {path: inside for path, (split, inside) in self._files.items() if split is not None}
        images = [inside for path, inside in in_splits.items() if suffix_of(path) in IMAGE_SUFFIXES]
        labelled = [inside for inside in images if not _is_unlabelled(inside)]
        # Next to unlabelled images, an empty folder is a class that waits for its images
        above = _folder_of_classes(labelled + (self._empty_folders() if len(labelled) < len(images) else []))
        depth = len(above)
        self.class_of: dict[str, dict[str, str | None]] = {split: {} for split in self.roots}
        self.empty: dict[str, set[str]] = {}
        self.nested: dict[str, str] = {}  # images in a folder of their class folder -> that folder
        for path, (split, inside) in self._files.items():
            if split is not None:
                has_class = len(inside) > depth and not _is_unlabelled(inside)
                self.class_of[split][path] = same_form(inside[depth]) if has_class else None
                if has_class and len(inside) > depth + 1:
                    self.nested[path] = os.path.join(*inside)
        for split, files in self.class_of.items():
            # A folder of other files alone, such as notes, is not a class
            named = {name for path, name in files.items() if suffix_of(path) not in UNOPENED_SUFFIXES}
            places = {inside for other, inside in self._folders if other == split and inside[:depth] == above}
            folders = {same_form(inside[-1]) for inside in places if len(inside) == depth + 1}
            self.empty[split] = {name for name in folders - named if name.lower() not in _NO_CLASSES}
        if above:
            self.notes.append(
                f"{self.name}: the classes are the folders in {'/'.join(above)}, the only folder with images there."
            )

    def _empty_folders(self) -> list[tuple[str, ...]]:
        """The folders below the splits that may be classes and hold no file, or only images that are not opened."""
        full = {inside for path, (_, inside) in self._files.items() if suffix_of(path) not in UNOPENED_SUFFIXES}
        full = {inside[:level] for inside in full for level in range(len(inside) + 1)}
        empty = {inside for split, inside in self._folders if split is not None} - full - {()}
        return [inside for inside in empty if _NO_CLASSES.isdisjoint(part.lower() for part in inside)]

    # --- What is said ------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Log what is unusual."""
        if logger.isEnabledFor(logging.WARNING):  # what is not shown is not told
            _log_once(self.folder, (*self.notes, *self._unread_in_words()))

    def in_words(self) -> str:
        """How many files there are of each suffix, and how many are read."""
        aside = sum(len(names) for path in self._aside for *_, names in os.walk(path))
        aside += sum(map(os.path.isfile, self._aside))
        read = _by_suffix(path for path in self._files if path in self.read)
        unread = _by_suffix(path for path in self._files if path not in self.read)
        unread |= {"hidden, of the system or of stages": aside, "broken links": len(self._broken)}
        parts, total = [], sum(read.values()) + sum(unread.values())
        for what, counts in (("Read", read), ("Not read", unread)):
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
            parts.append(f"{what}: {sum(counts.values()):,}{f' ({kinds})' * bool(kinds)}.")
        return f"Files in {self.name}: {total:,}. {' '.join(parts)}"

    def _unread_in_words(self) -> list[str]:
        """A line for each kind of file that is not read, and what to do about it."""
        unread: dict[str, list[str]] = {"links to no file": self._broken}
        for path in self._files:
            if path not in self.read:
                unread.setdefault(self._kind(path), []).append(path)
        split = "train" if "train" in self.roots else next(iter(self.roots))
        root = self.roots[split][0]
        place = os.path.join(root, "metadata.csv")[len(self.folder) + 1 :]
        there = next((name for name in METADATA if os.path.isfile(os.path.join(root, name))), None)
        how = (
            f"add its rows to {os.path.basename(root)}/{there},"
            if there
            else f"save it as {place}, or metadata.jsonl,"
        )
        remedies = {
            "HEIC images": HEIC_REMEDY,
            "images beside the splits": f"Move them into one of {', '.join(self.roots)}; those without a label into "
            f"{split}/unlabelled.",
            "tables": f"To use one, {how} with the columns file_name (such as cats/1.jpg) and label, caption or both. "
            f"{EXCEL}",
            "archives": "Unpack them.",
            "links to no file": "Correct or remove them.",
            "other files": "If photographs are among them, convert those to JPEG.",
        }
        return [
            f"{self.name}: {kind} are not read: {len(paths):,} ({some(sorted(paths))}). {remedy}"
            for kind, remedy in remedies.items()
            if (paths := [path[len(self.folder) + 1 :] for path in unread.get(kind, ())])
        ]

    def _kind(self, path: str) -> str:
        suffix = suffix_of(path)
        if suffix in UNOPENED_SUFFIXES:
            return "HEIC images"
        if suffix in IMAGE_SUFFIXES:
            return "images beside the splits"
        if suffix in TABLES:
            return "tables"
        if suffix in ARCHIVES:
            return "archives"
        is_document = suffix in DOCUMENTS and os.path.dirname(path) == self.folder
        return "documents" if is_document else "other files"


@functools.cache
def _log_once(folder: str, lines: tuple[str, ...]) -> None:
    """For a folder as it is: a command opens it several times."""
    for line in lines:
        logger.warning("%s", line)


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _is_read(path: str) -> bool:
    return suffix_of(path) in IMAGE_SUFFIXES or os.path.basename(path) in METADATA


def _is_unlabelled(inside: Iterable[str]) -> bool:
    return not UNLABELLED_FOLDERS.isdisjoint(part.lower() for part in inside)


def _folder_of_classes(inside: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """`images` if all labelled images lie in that one folder, which holds a folder for each class; mostly nothing."""
    if not inside:
        return ()
    shared = takewhile(lambda level: len(set(level)) == 1, zip(*(folders[:-1] for folders in inside), strict=False))
    return tuple(level[0] for level in shared)


def _by_suffix(paths: Iterable[str]) -> dict[str, int]:
    return dict(Counter(suffix_of(path) or "without a suffix" for path in paths).most_common())


# --- Splits ----------------------------------------------------------------------------------------------------------


def _roots_of_splits(folder: Path) -> dict[str, list[str]]:
    """
    The folders of each split: those named train, validation, test, test_novel or similar; otherwise all images are
    `train`. `datasets` would take a class or an image named `train` for a split, and ignore the rest.
    """
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not (path / STAGE_FILE).is_file()]
    folders = [path for path in inside if not path.name.startswith((".", "__"))]
    named = {path: _split_name(path.name) for path in folders if _split_name(path.name) is not None}
    if len(named) < len(folders):  # next to classes, a folder of images named `train` is a class
        named = {path: name for path, name in named.items() if any(child.is_dir() for child in path.iterdir())}
    roots: dict[str, list[str]] = {}
    for path, name in named.items():
        roots.setdefault(name, []).append(os.path.abspath(path))
    return roots or {"train": [os.path.abspath(folder)]}


def _split_name(folder: str) -> str | None:
    """`train` for Training, `test_novel` for test_novel, None for a folder that is not a split."""
    folder = folder.lower()
    if folder in SPLIT_OF:
        return SPLIT_OF[folder]
    return re.sub(r"\W+", "_", folder) if re.split(r"[\W_\d]", folder)[0] in SPLIT_OF else None
