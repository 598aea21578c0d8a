"""What Windows does otherwise, imitated: it did not run there."""

import io
import ntpath
import sys
from types import SimpleNamespace

import make
import pytest

from g4i_hf import files
from g4i_hf.running import main


@pytest.fixture
def on_windows(monkeypatch):
    """The paths of Windows, in a folder on C:."""
    paths = {name: getattr(ntpath, name) for name in ("isabs", "join", "abspath")}
    paths["relpath"] = lambda path, base=".": ntpath.relpath(*(ntpath.join("C:\\work", each) for each in (path, base)))
    monkeypatch.setattr(files, "os", SimpleNamespace(path=SimpleNamespace(**paths), sep="\\"))


def test_files_hold_paths_with_slashes_that_every_system_reads(on_windows):
    assert files.relative_path(r"C:\data\pictures", r"C:\work\runs\one") == "../../../data/pictures"
    assert files.relative_path(r"runs\captions", "runs") == "./captions"
    assert files.starts_with_a_dot(r"..\pictures") and not files.starts_with_a_dot("me/pictures")


def test_a_folder_on_another_drive_has_its_whole_path(on_windows):
    assert files.relative_path(r"D:\pictures", r"C:\work\runs") == r"D:\pictures"


def test_a_terminal_without_unicode_shows_what_it_can(tmp_path, monkeypatch):
    """As where the output goes to a file; Python writes that in the code page of the country."""
    pictures = make.folder(tmp_path / "pictures", [f"train/{label}/{n}.png" for label in ("猫", "犬") for n in "ab"])
    (pictures / "train" / "猫" / "c.png").write_bytes(b"no image")
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="cp1252"))
    main(["check", str(pictures), "--on_bad_images", "skip"])
    assert "\\u732b" in printed.getvalue().decode("cp1252")
