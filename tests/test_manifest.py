"""The manifest of a released folder: what it names, and by which hashes the Hub may know each file."""

import hashlib
import json

import pytest

from g4i_hf.hub.push import MANIFEST, read_manifest, write_manifest

FILES = [".eval_results/a.yaml", "README.md", "aligned/b.json", "aligned/config.json"]


def test_it_names_every_other_file_that_is_published_by_both_hashes(tmp_path):
    assert read_manifest(tmp_path) is None
    for name in [*FILES, "__pycache__/a.py", ".git/HEAD", "aligned/c.PYC", "d.pyc"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    written = write_manifest(tmp_path)
    assert list(written) == FILES and read_manifest(tmp_path) == read_manifest(tmp_path / MANIFEST) == written
    assert written["README.md"] == [hashlib.sha256(b"{}").hexdigest(), hashlib.sha1(b"blob 2\0{}").hexdigest()]
    (tmp_path / "README.md").unlink()
    write_manifest(tmp_path)
    assert list(read_manifest(tmp_path)) == [name for name in FILES if name != "README.md"]


def test_those_of_version_0_1_have_names_alone(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps({"files": FILES}))
    assert read_manifest(tmp_path) == dict.fromkeys(FILES, [])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"files": [1]}', '{"files": {"a": 1}}', "[" * 100_000, "\udcff"]
)
def test_what_is_no_manifest_is_an_error(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"\.g4i_hf\.json is no manifest of a release"):
        read_manifest(tmp_path)
