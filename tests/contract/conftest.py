"""What the contract tests share: commands that start at once, drawings, and one folder of each kind."""

import shutil
from pathlib import Path

import pytest
from doors import Preloaded
from drawings import draw_folder

FIXTURES = Path(__file__).parent / "fixtures_0_1"


@pytest.fixture(scope="session")
def quick():
    """Runs commands without the time of their imports."""
    commands = Preloaded()
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """An image folder with captions; read only."""
    return draw_folder(tmp_path_factory.mktemp("pictures") / "pictures", train=18, validation=9)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Path:
    """A copy of the fixtures (stages `captions`, `embeddings`; runs `aligned`, `baseline`); read only."""
    return shutil.copytree(FIXTURES, tmp_path_factory.mktemp("folders") / "folders")
