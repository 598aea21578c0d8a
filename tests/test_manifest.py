"""The manifest of a released folder: what it names, and what it may not."""

import json

import pytest

from g4i_hf.hub.manifest import MANIFEST, list_files, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    for name in ("README.md", "aligned/config.json", "aligned/b.json", ".eval_results/a.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


FILES = [".eval_results/a.yaml", "README.md", "aligned/b.json", "aligned/config.json"]


def test_it_names_every_other_file_that_is_published(folder):
    assert read_manifest(folder) is None
    for name in ("__pycache__/a.py", ".git/HEAD", "aligned/c.PYC", "d.pyc", f"{MANIFEST}.tmp-7"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    path = write_manifest(folder)
    assert path == folder / MANIFEST and json.loads(path.read_text()) == {"files": FILES}
    assert read_manifest(folder) == read_manifest(path) == FILES
    assert [name for name, _ in list_files(folder)] == sorted([MANIFEST, *FILES])


def test_it_is_written_anew_with_the_folder_and_left_alone_otherwise(folder):
    path = write_manifest(folder)
    before = path.stat()
    write_manifest(folder)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (folder / "README.md").unlink()
    write_manifest(folder)
    assert read_manifest(folder) == [name for name in FILES if name != "README.md"]
    path.write_text("broken")
    write_manifest(folder)
    assert "README.md" not in read_manifest(folder)


def test_a_write_that_fails_leaves_the_earlier_one(folder, monkeypatch):
    write_manifest(folder)
    (folder / "README.md").unlink()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("g4i_hf.hub.manifest.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_manifest(folder)
    assert read_manifest(folder) == FILES
    assert not list(folder.glob("*.tmp*")) and not list(folder.glob(".*.tmp*"))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "7", '{"files": "a"}', '{"files": [1]}', '{"files": {"a": 1}}', "[" * 100_000, "\udcff"],
)
def test_what_is_no_manifest_is_an_error(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"\.g4i_hf\.json is no manifest of a release"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "a/../../b", "..", ".", "", "a//b", "./a", "C:\\a", "..\\a", "\\a", "a/", "a\0b"]
)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    (tmp_path / MANIFEST).write_text(json.dumps({"files": ["a.json", name]}))
    with pytest.raises(ValueError, match="not a relative path within its folder"):
        read_manifest(tmp_path)
