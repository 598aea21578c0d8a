"""What the contract tests share."""

from pathlib import Path

import pytest
from drawings import draw_folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """An image folder with captions; read only."""
    return draw_folder(tmp_path_factory.mktemp("pictures") / "pictures", train=18, validation=9)
