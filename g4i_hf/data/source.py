"""Where the rows of a stage come from, as its `stage.json` tells those who open it."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATH = re.compile(r"(~[\w-]*|\.[^\s/\\]*)?[/\\]|[A-Za-z]:[/\\]|file:/|(~|\.{1,2})$")


def is_path(value: Any) -> bool:
    """Whether it is a text of the form of a path, as no Hub id has: what lies in the current folder plays no part."""
    return isinstance(value, str) and PATH.match(value) is not None


@dataclass(frozen=True)
class Source:
    """
    Args:
        name: Hub id or folder of the images.
        revision, config: of a Hub data set.
        columns: what it calls its columns, by our names, where that differs.
        captions, captions_revision: data set whose captions were joined to the images, see
            [`~g4i_hf.data.loading.open_images`].
    """

    name: str
    revision: str | None = None
    config: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    captions: str | None = None
    captions_revision: str | None = None

    @classmethod
    def of(cls, source: "str | Source", revision: str | None = None) -> "Source":
        return source if isinstance(source, Source) else cls(source, revision)

    def recorded(self, folder: str | Path) -> dict[str, Any]:
        """
        Fields of the `stage.json` in `folder`. Folders are relative to it, so that all can be moved together and no
        absolute path is kept.
        """
        more = {
            "source_config": self.config,
            "source_columns": self.columns,
            "captions_name": self.captions and _portable(self.captions, folder),
            "captions_revision": self.captions_revision,
        }
        return {
            "source": _portable(self.name, folder),
            "source_revision": self.revision,
            **{name: value for name, value in more.items() if value},
        }

    @classmethod
    def read(cls, stage: dict[str, Any], folder: str | Path) -> "Source | None":
        """
        Args:
            stage: its `stage.json`.
            folder: where that lies.

        Returns:
            None where the images are nowhere on the Hub, for a stage that is or was there.

        Raises:
            FileNotFoundError: for a folder that is gone.
        """
        name, captions = stage.get("source"), stage.get("captions_name")
        is_published = bool(stage.get("published")) or not Path(folder).is_dir()
        if name is None or (is_published and is_path(name)):  # of the machine where it was made
            return None
        return cls(
            _found(name, folder),
            stage.get("source_revision"),
            stage.get("source_config"),
            stage.get("source_columns") or {},
            captions and _found(captions, folder),
            stage.get("captions_revision"),
        )


def check_relative(stage: dict[str, Any], folder: str | Path) -> None:
    """
    Raises:
        ValueError: for a `stage.json` that names a folder other than relative to its own: no stage writes that, and
            what somebody else wrote could lead anywhere on this machine.
    """
    for name in (stage.get("source"), stage.get("captions_name")):
        if is_path(name) and not name.startswith(".") and not stage.get("published"):
            raise ValueError(
                f"{folder}: its stage.json names {name!r} for images or captions, not relative to its folder. Run the "
                "stage again, or correct the file if you trust where it comes from."
            )


def _portable(name: str, folder: str | Path) -> str:
    if not Path(name).is_dir():
        return name
    inside = os.path.relpath(name, folder)
    return inside if is_path(inside) else f"./{inside}"  # a Hub id could look like it


def _found(name: str, folder: str | Path) -> str:
    beside = Path(folder) / name
    if not Path(name).is_absolute() and beside.exists():
        return str(beside)
    if name.startswith("."):
        raise FileNotFoundError(
            f"{folder} holds no images: they are those of {name}, seen from there, and that folder is gone. Put it "
            "back, or run the stage again on the images."
        )
    return name
