"""Where images, captions and models come from: stages that name other stages, names and paths, models in folders."""

from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from g4i_hf import load_images
from g4i_hf.data.stage import write_stage
from g4i_hf.hub.dataset import build_dataset
from g4i_hf.names import folder_digest, is_path
from g4i_hf.options import DataArguments, StudentArguments
from g4i_hf.training.lineage import lineage_of

IDS, CAPTIONS = ["a.png", "b.png"], ["one", "two"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Folders here stand for data sets of the Hub."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def captions_stage(folder: str, source: str | None, images: bool = False, **more) -> str:
    """A stage of captions, with its images or without."""
    rows, features = {"image_id": IDS, "caption": CAPTIONS}, {"image_id": Value("string"), "caption": Value("string")}
    if images:
        rows["image"], features["image"] = [PILImage.new("RGB", (8, 8), (99 * n, 0, 0)) for n in range(2)], Image()
    split = Dataset.from_dict(rows, features=Features(features))
    about = {"stage": "captioning", "captioner": {"captioner": "column"}, "source": source, "with_images": images}
    write_stage(folder, {"train": split}, about | more)
    return folder


@pytest.mark.parametrize("ring", [["me/a"], ["me/a", "me/b"], ["me/a", "me/./b", "me/../me/c"]], ids=len)
def test_stages_that_name_each_other_for_their_images_have_none(ring):
    for name, further in zip(ring, [*ring[1:], ring[0]], strict=True):
        captions_stage(name, further, published=True)
    with pytest.raises(ValueError, match="holds no images and names .*, which leads back to .*--captions_name me/"):
        load_images("me/a")
    stage = captions_stage("mine", "../me/a")
    with pytest.raises(ValueError, match="which leads back to"):
        build_dataset(stage, "out", repo_id="me/captions")


def test_a_ring_in_which_one_holds_images_ends_there():
    captions_stage("me/whole", "me/whole", images=True, published=True)
    splits = load_images("me/whole")
    assert splits["train"]["caption"][:] == CAPTIONS
    found = lineage_of(splits, DataArguments("me/whole"), StudentArguments())
    assert [source["images"] for source in found["sources"]] == [True]


PATHS = ["/home/x", "~/x", "~ann/x", "./x", "../x", ".cache/x", ".", "..", "~", "C:\\x", "D:/x", "file:///x"]
OTHERS = ["me/x", "x", "x-1.5", "Is it a cat/dog?", "... and then?", "~5 words", "", None, 3]


@pytest.mark.parametrize("name", [*PATHS, *OTHERS])
def test_paths_are_known_by_their_form_alone(name, here):
    (here / "me" / "x").mkdir(parents=True)
    assert is_path(name) == (name in PATHS)


def test_a_model_in_a_folder_is_another_when_what_its_outputs_depend_on_changes(here):
    """Its weights, settings, vocabulary or code; not its page, nor what a run has written into folders of it."""
    model = here / "model"
    for name in ("config.json", "model.safetensors", "vocab.txt", "modeling.py", "runs/a/train.yaml"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("before")
    digest = folder_digest(model)
    for name in ("README.md", ".cache/config.json", "runs/a/config.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("more")
    assert folder_digest(model) == digest
    for name in ("config.json", "model.safetensors", "vocab.txt", "modeling.py"):
        (model / name).write_text("behind")
        assert folder_digest(model) != digest, name
        (model / name).write_text("before")
