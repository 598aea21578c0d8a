"""What the files of a folder can lead to: to what lies beside it by relative names of a stage, and nowhere else."""

import json
import os

import pytest
from datasets import Dataset
from PIL import Image

from g4i_hf.data import open_images
from g4i_hf.data.stage import read_stage, write_stage
from g4i_hf.hub.dataset import build_dataset


@pytest.fixture
def pictures(tmp_path):
    """A folder of one picture, and beside it one that nobody has named."""
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    for path in (tmp_path / "pictures" / "cats" / "1.png", tmp_path / "secret.png"):
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "pictures"


def stage_in(folder, images: str, **more) -> None:
    rows = Dataset.from_dict({"image_id": ["cats/1.png"], "caption": ["a cat"]})
    write_stage(folder, {"train": rows}, {"stage": "captioning", "source": images})
    stage = json.loads((folder / "stage.json").read_text()) | more
    (folder / "stage.json").write_text(json.dumps(stage))


@pytest.mark.parametrize("name", ["../secret.png", "{}/secret.png", "cats/../../secret.png", "file://{}/secret.png"])
def test_metadata_that_name_a_file_elsewhere_are_refused(pictures, tmp_path, name):
    lines = [{"file_name": "cats/1.png", "caption": "a"}, {"file_name": name.format(tmp_path), "caption": "b"}]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"its files cannot be read: .*secret\.png") as error:
        open_images(str(pictures))
    assert str(pictures) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["{", '{"caption": "no name"}', '{"file_name": 5}', "[1]", '{"file_name": "gone.png"}']
)
def test_metadata_that_are_broken_are_named(pictures, text):
    (pictures / "metadata.jsonl").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        open_images(str(pictures))
    assert str(pictures) in str(error.value)


def test_a_link_is_a_name_that_the_owner_of_the_folder_gave(pictures):
    """As in collections that are made of links to a store of images."""
    os.symlink("../../secret.png", pictures / "cats" / "2.png")
    assert sorted(open_images(str(pictures))["train"]["image_id"][:]) == ["cats/1.png", "cats/2.png"]


def test_a_stage_lies_anywhere_beside_its_images(pictures, tmp_path):
    stage_in(tmp_path / "runs" / "captions", "../../pictures")
    assert open_images(str(tmp_path / "runs" / "captions"))["train"]["caption"][:] == ["a cat"]


@pytest.mark.parametrize("field", ["source", "captions_name"])
@pytest.mark.parametrize("form", ["{}", "file://{}", "~"])
def test_a_stage_that_names_an_absolute_path_is_refused(pictures, tmp_path, field, form):
    stage_in(tmp_path / "captions", "../pictures", **{field: form.format(pictures)})
    with pytest.raises(ValueError, match="not relative to its folder"):
        open_images(str(tmp_path / "captions"))


def test_what_was_published_leads_to_no_folder(pictures, tmp_path):
    """A data set of the Hub that was downloaded: a path in it is of another machine, or a trap."""
    stage_in(tmp_path / "captions", "../pictures", published=True)
    with pytest.raises(ValueError, match="does not say where they are"):
        open_images(str(tmp_path / "captions"))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "", ".hidden", "a\nb"])
def test_a_split_is_no_path(tmp_path, name):
    (tmp_path / "stage.json").write_text(json.dumps({"source": None, "num_rows": {name: 1}, "columns": []}))
    with pytest.raises(ValueError, match="is not what a stage writes"):
        read_stage(tmp_path)
    with pytest.raises(ValueError, match="is not what a stage writes"):
        build_dataset(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"num_rows": 5}', '{"source": 5}', "[" * 100_000, "\udcff"])
def test_a_stage_file_that_is_none_is_named(tmp_path, text):
    (tmp_path / "stage.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"stage\.json is not what a stage writes"):
        read_stage(tmp_path)
