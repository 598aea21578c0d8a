"""One corrupt image in a million: an error that names it, or a row that is left out and reported."""

from pathlib import Path

import pytest
from datasets import Dataset
from test_checkpoint import split_of

from g4i_hf.data.images import BadImageError, readable_rows

CORRUPT = b"\x89PNG\r\n\x1a\n and no picture"


def corrupted(folder: Path, corrupt: list[int]) -> Dataset:
    """12 rows with images in files, some of them corrupt."""
    split = split_of(folder)
    for number in corrupt:
        (folder / f"{number}.png").write_bytes(CORRUPT)
    return split


def test_rows_that_cannot_be_read_are_left_out_and_named_and_too_many_are_an_error(tmp_path, caplog):
    readable, bad = readable_rows(corrupted(tmp_path, [0, 5]), "validation")
    assert readable["image_id"][:] == [str(row) for row in range(12) if row not in (0, 5)]
    assert [each["image_id"] for each in bad] == ["0", "5"]
    assert "Split 'validation': 2 of 12 images cannot be read and are left out: '0'" in caplog.text
    assert readable_rows(readable, "validation") == (readable, [])
    with pytest.raises(BadImageError, match="11 of 12 images cannot be read, too many.*Is the folder"):
        readable_rows(corrupted(tmp_path, list(range(11))), "validation")
