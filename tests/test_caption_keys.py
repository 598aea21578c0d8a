"""Keys and places: what an answer is found by."""

import os
import zipfile

import pyarrow as pa
import pytest

from g4i_hf.captioning.images import content_of
from g4i_hf.captioning.questions import facts_of
from g4i_hf.captioning.store import Keys, image_digest

PROVENANCE = {"model": "m", "revision": "r", "decoding": {"temperature": 0.0}, "preprocessing": {"max_side": 768}}


def test_every_part_of_a_key_counts():
    def key(source="s", prompt="p", **changed) -> str:
        return Keys({**PROVENANCE, **changed}).key(source, prompt)

    variants = [
        key(),
        key(source="t"),
        key(prompt="q"),
        key(model="n"),
        key(revision=None),
        key(decoding={"temperature": 0.5}),
        key(decoding={"temperature": 0, "top_p": 0.9}),
        key(preprocessing={"max_side": 512}),
        key(prompt="sp", source=""),
        key(prompt="", source="sp"),
        key(prompt='p", "x', source="s"),
        key(prompt="x", source='s", "p'),
        key(prompt="p\ud83d"),
        key(prompt="p\n"),
    ]
    assert len(set(variants)) == len(variants)
    assert all(len(variant) == 32 and int(variant, 16) >= 0 for variant in variants)


def test_equal_parts_give_equal_keys():
    other = {"preprocessing": {"max_side": 768.0}, "decoding": {"temperature": 0}, "revision": "r", "model": "m"}
    assert Keys(PROVENANCE).key("s", "p") == Keys(other).key("s", "p") == Keys(PROVENANCE).key("s", "p")
    assert Keys(PROVENANCE).place("i", 1, 2, "p") == Keys(other).place("i", 1, 2, "p")
    assert Keys({"flag": True}).key("s", "p") != Keys({"flag": 1}).key("s", "p")


def test_keys_are_those_of_every_other_process():
    """What a digest is made of must not change: all that was paid for would be asked again."""
    assert Keys(PROVENANCE).key("s", "p") == "ab060c725c56da7989d203994d3c4eb6"
    assert Keys(PROVENANCE).place("i", 1, 2, "p", "train") == "31cb43a9c70761eb7bc0d7c89fa0c57f"


def test_every_part_of_a_place_counts():
    keys = Keys(PROVENANCE)
    variants = [
        keys.place("i", 1, 2, "p"),
        keys.place("j", 1, 2, "p"),
        keys.place("i", 12, 2, "p"),
        keys.place("i", 1, 22, "p"),
        keys.place("i", 1, 2, "q"),
        keys.place("i", 1, 2, "p", "train"),
        keys.place("i", 1, 2, "p", "test"),
        keys.place("i", 1, None, "p", "train"),
        keys.place("i", None, None, "p", "train"),
        keys.place("i1", 2, 2, "p"),
        keys.key("i", "p"),
        Keys({**PROVENANCE, "model": "n"}).place("i", 1, 2, "p"),
    ]
    assert len(set(variants)) == len(variants)


def test_without_mtime_and_table_there_is_no_place():
    assert Keys(PROVENANCE).place("i", 1, None, "p") == ""


def test_an_image_is_known_by_its_bytes_wherever_they_lie(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"content" * 100_000)
    os.utime(file, ns=(5, 1_700_000_000_123_456_789))
    in_file, in_table = {"bytes": None, "path": str(file)}, {"bytes": b"content" * 100_000, "path": "gone.jpg"}
    found = image_digest(content_of(in_file))
    assert facts_of(pa.array([in_file, in_table])) == [(700_000, 1_700_000_000_123_456_789), (700_000, None)]
    assert image_digest(content_of(in_table)) == found
    assert image_digest(b"other") != found and len(found) == 32
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(file, "a.jpg")
    in_archive = {"bytes": None, "path": f"zip://a.jpg::{tmp_path / 'a.zip'}"}  # as streaming gives it
    assert image_digest(content_of(in_archive)) == found


def test_images_that_are_not_there(tmp_path):
    for image in (None, {"bytes": None, "path": None}, {"bytes": None, "path": ""}):
        with pytest.raises(ValueError, match="null"):
            content_of(image)
    with pytest.raises(FileNotFoundError):
        content_of({"bytes": None, "path": str(tmp_path / "none.jpg")})


def test_a_provenance_must_be_json():
    for wrong in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            Keys(wrong)
