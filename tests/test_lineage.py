"""What a run says of where its supervision comes from."""

import json
import os
from pathlib import Path

import timm
from datasets import Dataset, DatasetDict
from huggingface_hub.constants import HF_HUB_CACHE

from g4i_hf.data.stage import write_stage
from g4i_hf.options import DataArguments, StudentArguments
from g4i_hf.training.lineage import lineage_of

COMMIT = "5503434ddd753f426f4b38109466949a1217c2bb"
CAPTIONER = {"captioner": "local", "model": "me/captioner", "revision": "abc", "temperature": 0.0}
CAPTIONS = {"name": "captions", "stage": "captioning", "images": False}
PHOTOS = {"name": "photos", "images": True}


def rows(**columns) -> DatasetDict:
    return DatasetDict({"train": Dataset.from_dict({"image_id": ["a"]} | columns)})


def captions(folder: Path, source: str, **more) -> None:
    stage = {"stage": "captioning", "source": source, "captioner": CAPTIONER, "prompts": ["What is it?"], **more}
    write_stage(folder, rows(caption=["a cat"]), stage)


def lineage(name, splits=None, revision=None, captions_name=None, **student) -> dict:
    data = DataArguments(dataset_name=str(name), dataset_revision=revision, captions_name=captions_name)
    return lineage_of(splits or rows(), data, StudentArguments(**student))


def test_captions_that_were_joined_to_images_of_another_name(tmp_path):
    captions(tmp_path / "captions", "../elsewhere")
    (tmp_path / "photos").mkdir()
    found = lineage(tmp_path / "photos", captions_name=str(tmp_path / "captions"))
    assert found["sources"] == [PHOTOS, CAPTIONS] and found["captions"]["model"] == "me/captioner"


def test_branches_become_the_commits_that_were_downloaded():
    splits = rows()
    url = f"hf://datasets/them/photos@{COMMIT}/data/train.parquet"
    splits["train"].info.download_checksums = {url: {"num_bytes": 1, "checksum": None}}
    found = lineage("them/photos", splits, revision="main")["sources"]
    assert found == [{"id": "them/photos", "revision": COMMIT, "images": True}]
    assert lineage("them/others", splits, revision="v1")["sources"][0]["revision"] == "v1"
    known = timm.get_pretrained_cfg("resnet10t").hf_hub_id
    repository = Path(HF_HUB_CACHE) / f"models--{known.replace('/', '--')}"
    for file, text in {f"snapshots/{COMMIT}/model.safetensors": "", "refs/main": COMMIT}.items():
        (repository / file).parent.mkdir(parents=True)
        (repository / file).write_text(text)
    found = lineage("them/photos", student="resnet10t", pretrained=True)["student"]
    assert found == {"name": "resnet10t", "pretrained": True, "id": known, "revision": COMMIT}
    found = lineage("them/photos", student="me/vit", pretrained=True, student_revision="v2")["student"]
    assert found == {"name": "me/vit", "pretrained": True, "id": "me/vit", "revision": "v2"}


def test_no_local_path_is_kept(tmp_path, monkeypatch):
    """Not of a folder, nor of one that is gone, wherever it was seen from."""
    captions(tmp_path / "secret" / "captions", "../../hidden/photos")
    (tmp_path / "secret" / "weights").mkdir()
    monkeypatch.chdir(tmp_path / "secret")
    for name in ("captions", "./captions", str(tmp_path / "secret" / "captions")):
        found = lineage(name, student=str(tmp_path / "secret" / "weights"), pretrained=True)
        text = json.dumps(found)
        assert "secret" not in text and "hidden" not in text and os.sep + "photos" not in text
        assert [source["name"] for source in found["sources"]] == ["captions", "photos"]
        assert found["student"]["name"] == "weights"
