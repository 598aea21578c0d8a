"""The way from a data set back to its images: a stage names the data that it was made of, and so on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .published import find_stage
from .source import Source


@dataclass(frozen=True)
class Step:
    """
    Attributes:
        source: a data set on the way, and the captions that were joined to it.
        stage: its `stage.json`; None where no stage has made it, so that it holds the images.
    """

    source: Source
    stage: dict[str, Any] | None

    def joined(self) -> dict[str, Any] | None:
        """The `stage.json` of the captions that were joined to it; None without, and where no stage has made them."""
        captions = self.source.captions
        return None if captions is None else find_stage(captions, self.source.captions_revision)


def steps(source: Source) -> Iterator[Step]:
    """
    From what is opened to its images, one data set after the other, each looked up when it is asked for. The last one
    is no stage, or a stage that does not say where its images are.

    Raises:
        FileNotFoundError: for a folder that is gone.
        ValueError: when stages without images name each other as their images.
    """
    seen, holds_images = set(), False
    while True:
        stage = find_stage(source.name, source.revision)
        yield Step(source, stage)
        further = None if stage is None else Source.read(stage, source.name)
        if further is None:
            return
        seen.add(_place(source))
        holds_images |= bool(stage.get("with_images"))
        if _place(further) in seen:
            if holds_images:  # which names itself, or what was made of it
                return
            raise ValueError(
                f"{source.name} holds no images and names {further.name} for them, which leads back to {source.name}. "
                f"Name the images with --dataset_name, and with --captions_name {source.name}."
            )
        source = further


def _place(source: Source) -> tuple[str, str | None]:
    return (os.path.realpath(source.name) if Path(source.name).is_dir() else source.name), source.revision
