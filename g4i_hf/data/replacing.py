"""A folder or a file is there as a whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    """
    Gives an empty folder beside the place, which takes it when all has gone well; then the earlier one is removed.
    After an error, whenever it comes, the earlier one is where it was.
    """
    place = Path(folder).resolve()  # of a link, what it leads to
    staging, earlier = (place.with_name(f".{place.name}.{kind}-{os.getpid()}") for kind in ("tmp", "old"))
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if place.exists():
            shutil.rmtree(earlier, ignore_errors=True)
            place.rename(earlier)
        try:
            staging.rename(place)
        except OSError:
            if earlier.exists():
                earlier.rename(place)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)


def replace_text(path: str | Path, text: str) -> None:
    """Writes a file in one step, in UTF-8: after an error, such as a full disk, the earlier one is where it was."""
    path = Path(path)
    staging = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        staging.write_text(text, encoding="utf-8")
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
