"""A folder takes its place as a whole; after an error the earlier one is there as it was."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from g4i_hf.data.naming import check_dataset_name
from g4i_hf.files import replacing, take_back


@pytest.fixture
def place(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old.txt").write_text("earlier")
    return tmp_path / "made"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_new_folder_takes_the_place_of_the_earlier_one_and_nothing_else_is_left(place):
    for target in (place, place.parent / "deep" / "fresh"):
        with replacing(target) as folder:
            assert names(folder) == [] and folder.parent == target.parent
            (folder / "new.txt").write_text("later")
        assert names(target) == ["new.txt"]
    assert names(place.parent) == ["deep", "deep/fresh", "deep/fresh/new.txt", "made", "made/new.txt"]


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(place):
    link = place.parent / "link"
    link.symlink_to(place)
    with replacing(link) as folder:
        (folder / "new.txt").touch()
    assert link.is_symlink() and names(place) == ["new.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_after_an_error_within_the_earlier_one_is_untouched(place, error):
    with pytest.raises(type(error)), replacing(place) as folder:
        (folder / "new.txt").touch()
        raise error
    assert names(place.parent) == ["made", "made/old.txt"]


def test_after_a_failed_renaming_the_earlier_one_is_back(place, monkeypatch):
    original = Path.rename

    def rename(path, target):
        if ".tmp-" in path.name:
            raise OSError("device busy")
        return original(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="device busy"), replacing(place) as folder:
        (folder / "new.txt").touch()
    assert names(place.parent) == ["made", "made/old.txt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from g4i_hf.files import replacing
original = Path.rename
def rename(path, target):
    if sys.argv[2] in path.name:  # the process ends instead
        os.kill(os.getpid(), signal.SIGKILL)
    return original(path, target)
Path.rename = rename
with replacing(sys.argv[1]) as folder:
    (folder / "new.txt").touch()
    if sys.argv[2] == "within":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["within", ".tmp-"])
def test_after_a_kill_the_earlier_one_is_back_and_nothing_else_is_left(place, moment):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(place), moment])
    assert ended.returncode == -signal.SIGKILL
    assert len(list(place.parent.iterdir())) == 2 and place.exists() == (moment == "within")
    check_dataset_name(str(place))  # as whoever opens it does first
    assert names(place.parent) == ["made", "made/old.txt"]


def test_what_a_running_process_writes_is_left_alone(place):
    with replacing(place) as folder:
        take_back(place)
        (folder / "new.txt").touch()
    assert names(place) == ["new.txt"]
