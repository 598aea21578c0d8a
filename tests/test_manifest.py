"""The manifest of a released folder: what it names, and by which hashes the Hub may know each file."""

import hashlib
import json

import pytest

from g4i_hf.hub.privacy import list_files
from g4i_hf.hub.push import MANIFEST, read_manifest, write_manifest

FILES = [".eval_results/a.yaml", "README.md", "aligned/b.json", "aligned/config.json"]


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_it_names_every_other_file_that_is_published(folder):
    assert read_manifest(folder) is None
    for name in ("__pycache__/a.py", ".git/HEAD", "aligned/c.PYC", "d.pyc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    written = write_manifest(folder)
    assert list(written) == FILES and read_manifest(folder) == read_manifest(folder / MANIFEST) == written
    assert [name for name, _ in list_files(folder)] == sorted([MANIFEST, *FILES])
    git = hashlib.sha1(b"blob 2\0{}").hexdigest()
    assert written["README.md"] == [hashlib.sha256(b"{}").hexdigest(), git]
    (folder / "README.md").unlink()
    write_manifest(folder)
    assert list(read_manifest(folder)) == [name for name in FILES if name != "README.md"]


def test_a_write_that_fails_leaves_the_earlier_one(folder, monkeypatch):
    write_manifest(folder)
    (folder / "README.md").unlink()

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.replace", full)
        with pytest.raises(OSError, match="No space"):
            write_manifest(folder)
    assert list(read_manifest(folder)) == FILES
    assert not list(folder.glob("*.tmp*")) and not list(folder.glob(".*.tmp*"))


def test_those_of_version_0_1_have_names_alone(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps({"files": FILES}))
    assert read_manifest(tmp_path) == dict.fromkeys(FILES, [])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "7", '{"files": "a"}', '{"files": [1]}', '{"files": {"a": 1}}', "[" * 100_000, "\udcff"],
)
def test_what_is_no_manifest_is_an_error(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"\.g4i_hf\.json is no manifest of a release"):
        read_manifest(tmp_path)
