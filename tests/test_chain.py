"""Stages that name other stages for their images: all who follow them arrive, or say that there is no end."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from test_captions_name import IDS, NEW, captions_of, new_captions, save_images

from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import Source, is_path, steps, write_stage
from g4i_hf.hub.dataset import build_dataset, public_stage
from g4i_hf.hub.dataset_card import captions_card
from g4i_hf.hub.privacy import bare_name
from g4i_hf.options import DataArguments, StudentArguments
from g4i_hf.training.lineage import lineage_of


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Folders here stand for data sets of the Hub."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def published(name: str, source: str | None, **more) -> None:
    new_captions(Path(name), stage={"published": True, "source": source} | more)


# --- Rings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [["me/a"], ["me/a", "me/b"], ["me/a", "me/./b", "me/../me/c"]], ids=len)
def test_stages_that_name_each_other_for_their_images_have_none(ring):
    for name, further in zip(ring, [*ring[1:], ring[0]], strict=True):
        published(name, further)
    with pytest.raises(ValueError, match="holds no images and names .*, which leads back to .*--captions_name me/"):
        open_images("me/a")
    new_captions(Path("e"), stage={"source": "../me/a"})
    with pytest.raises(ValueError, match="which leads back to"):
        public_stage("e")


def test_a_ring_in_which_one_holds_images_ends_there(here):
    rows = {"image": [PILImage.new("RGB", (8, 8))] * 4, "image_id": IDS, "caption": NEW}
    features = Features({"image": Image(), "image_id": Value("string"), "caption": Value("string")})
    whole = {"train": Dataset.from_dict(rows, features=features)}
    stage = {"stage": "captioning", "captioner": {"captioner": "column"}, "published": True, "source": "me/whole"}
    write_stage(here / "me" / "whole", whole, stage | {"with_images": True})
    assert open_images("me/whole")["train"]["caption"][:] == NEW
    assert [step.source.name for step in steps(Source("me/whole"))] == ["me/whole"]
    found = lineage_of(open_images("me/whole"), DataArguments(dataset_name="me/whole"), StudentArguments())
    assert [source["images"] for source in found["sources"]] == [True]
    new_captions(Path("e"), stage={"source": "me/whole"})
    assert public_stage("e")["source"] == "me/whole"


# --- What lies in the current folder plays no part -------------------------------------------------------------------


def test_images_of_the_hub_are_called_so_whatever_lies_here(here):
    stage = new_captions(here / "s", stage={"source": "me/images", "source_revision": "v1"})
    folder = build_dataset(stage, here / "out", repo_id="me/captions")
    said = (folder / "README.md").read_text(), (folder / "stage.json").read_text()
    save_images(here / "me" / "images")
    (here / "gpt-x").mkdir()
    again = build_dataset(stage, here / "again", repo_id="me/captions")
    assert ((again / "README.md").read_text(), (again / "stage.json").read_text()) == said
    assert "[`me/images`]" in said[0] and "its maker's machine" not in said[0]
    assert json.loads(said[1])["source"] == "me/images"
    local = {"stage": "captioning", "source": "../pictures", "num_rows": {"train": 1}, "columns": ["caption"]}
    assert "its maker's machine" in str(captions_card(local, date="2026-01-01"))


@pytest.mark.parametrize(
    "name",
    ["/home/x", "~/x", "~ann/x", "./x", "../x", ".cache/x", ".", "..", "~", "C:\\x", "D:/x", "file:///x"],
)
def test_paths_by_their_form(name):
    assert is_path(name)


@pytest.mark.parametrize("name", ["me/x", "x", "x-1.5", "Is it a cat/dog?", "... and then?", "~5 words", "", None, 3])
def test_no_paths_by_their_form(name, here):
    (here / "me" / "x").mkdir(parents=True)
    (here / "x").mkdir()
    assert not is_path(name)


def test_images_within_the_folder_of_their_stage_are_a_path_too(here):
    save_images(here / "me" / "images")
    assert Source("me/images").recorded(here)["source"] == "./me/images"
    assert Source.read({"source": "./me/images"}, here).name == str(here / "me" / "images")


@pytest.mark.parametrize("name", ["cosine", "org/model", "hf-hub:timm/vit.a1", "~/x", "models/ann/x", "/x/y/"])
def test_every_card_says_bare_names(name, here):
    (here / "cosine").mkdir()
    (here / "org" / "model").mkdir(parents=True)
    assert bare_name(name) == (name if not is_path(name) and name.count("/") < 2 else name.strip("/").split("/")[-1])


# --- Lineage ---------------------------------------------------------------------------------------------------------


def test_captions_that_were_joined_come_before_those_that_were_there(here):
    """Those of embedded data are gone then, and their encoder too."""
    old = {"stage": "embedding", "text_encoder": "org/old", "published": True, "with_images": True, "source": None}
    old["captions_stage"] = {"stage": "captioning", "captioner": {"captioner": "local", "model": "org/old"}}
    write_stage(here / "emb", {"train": captions_of(IDS)}, old)
    new_captions(here / "cap", stage={"captioner": {"captioner": "local", "model": "org/new"}})
    splits = {"train": captions_of(IDS).remove_columns("text_embeds")}
    data = DataArguments(dataset_name="emb", captions_name="cap")
    found = lineage_of(splits, data, StudentArguments())
    assert found["captions"]["model"] == "org/new" and found["text_encoder"] is None
    assert [source["name"] for source in found["sources"]] == ["emb", "cap"]
    found = lineage_of(splits, DataArguments(dataset_name="emb"), StudentArguments())
    assert found["captions"]["model"] == "org/old" and found["text_encoder"]["text_encoder"] == "org/old"
