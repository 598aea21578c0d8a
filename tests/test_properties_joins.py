"""Captions joined to images by ids of any Unicode, in any order, with some missing, left over or twice."""

import json

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from hypothesis import assume, given
from hypothesis import strategies as st

from g4i_hf.captioning.existing import existing_captions
from g4i_hf.data.joining import join_captions, told_apart
from g4i_hf.options import ExistingCaptionsArguments

# All that a string of Arrow can hold: no halves of characters
ids_of = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), unique=True, min_size=1, max_size=6)
FEATURES = Features({"image": Image(decode=False), "image_id": Value("string")})


def images_of(ids: list[str]) -> DatasetDict:
    content = [{"bytes": f"{row}".encode(), "path": None} for row in range(len(ids))]
    return DatasetDict(train=Dataset.from_dict({"image": content, "image_id": ids}, features=FEATURES))


def captions_of(ids: list[str]) -> Dataset:
    return Dataset.from_dict({"image_id": ids, "caption": [f"of {image_id}" for image_id in ids]})


@given(ids_of, ids_of, st.randoms(use_true_random=False))
def test_every_image_gets_its_own_caption_or_none(ids, others, random):
    known = [image_id for image_id in ids if random.random() < 0.7]
    theirs = list(dict.fromkeys(known + others))
    random.shuffle(theirs)
    captions = {"train": captions_of(theirs)}
    if not set(ids) & set(theirs):
        with pytest.raises(ValueError, match="no image_id there is one of the images"):
            join_captions(images_of(ids), captions, "captions")
        return
    joined = join_captions(images_of(ids), captions, "captions")["train"]
    assert joined["image_id"][:] == ids
    assert [image["bytes"] for image in joined["image"]] == [f"{row}".encode() for row in range(len(ids))]
    assert joined["caption"][:] == [f"of {image_id}" if image_id in theirs else None for image_id in ids]


@given(ids_of, st.integers(0, 5))
def test_an_id_twice_is_named(ids, place):
    twice = [*ids, ids[place % len(ids)]]
    with pytest.raises(ValueError) as error:
        join_captions(images_of(ids), {"train": captions_of(twice)}, "captions")
    assert repr(twice[-1]) in str(error.value) and f"row {len(ids)}" in str(error.value)


@given(ids_of, st.randoms(use_true_random=False))
def test_a_file_of_captions_names_images_by_any_id(tmp_path, ids, random):
    assume(all(ids))  # an empty key names nothing
    order = random.sample(ids, len(ids))
    path = tmp_path / "captions.jsonl"
    lines = [
        json.dumps({"image_id": key, "caption": f"of {key}"}, ensure_ascii=random.random() < 0.5) for key in order
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = existing_captions(images_of(ids), ExistingCaptionsArguments(captions_file=str(path)))
    assert found.captions["train"] == [f"of {image_id}" for image_id in ids]


@given(st.lists(st.sampled_from(["a/1.png", "1.png", "a/#.png"]), max_size=8), st.integers(1, 2))
def test_ids_that_are_told_apart_are_unique(ids, kinds):
    found = told_apart(ids, lambda row: f"{row % kinds:024}")
    assert len(set(found)) == len(found) == len(ids)
