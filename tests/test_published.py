"""Stages as datasets: what is published of them, what opens again by name, and that no row leads elsewhere."""

import json
import os
from functools import partial
from pathlib import Path

import make
import pandas as pd
import pytest
from hub import serving
from test_captions_name import IDS, captions_of, save_images

from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import find_stage, read_stage, write_stage
from g4i_hf.hub.dataset import build_dataset
from g4i_hf.running import main

WORKER = Path(__file__).parent / "workers" / "published_data.py"


def stage_of(folder: Path, ids: list[str] = IDS, **more) -> Path:
    stage = {"stage": "embedding", "text_encoder": "org/encoder", "source": "../pictures"} | more
    write_stage(folder, {"train": captions_of(ids)}, stage)
    return folder


# --- By name, from the Hub -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What a client finds of the datasets that it has pushed."""
    folder = tmp_path_factory.mktemp("published")
    save_images(folder / "pictures")
    stage_of(folder / "stage", IDS[::-1])
    with serving() as hub:
        found = hub.run(WORKER, folder / "home", folder)
        return found | {"asked": hub.requests("/secret.png")}


def test_captions_of_the_hub_are_joined_to_their_images(found):
    expected = [[i, int(i.startswith("dog")), f"of {i}", [float(number)] * 3] for number, i in enumerate(IDS)]
    assert found["joined"] == dict.fromkeys(("by its own name", "with images", "to a folder"), expected)
    assert found["alone"] == ["image_id", "caption", "text_embeds"] and found["unchanged"]
    assert found["none"] == [None, None, None]


def test_the_images_of_captions_are_known_by_files_or_a_column_of_ids(found):
    """Rows of `push_to_hub` have lost the folders of their files; images of another name are nowhere."""
    for said in ("is 'dog/2.png', that of the images '1.png#", "hf upload", "a column image_id"):
        assert said in found["rows"] and "\n" not in found["rows"]
    assert "me/nothing" in found["nothing"] and "\n" not in found["nothing"]
    for name in ("files", "images"):
        assert found[f"{name} by the snippet"] == {i: f"of {i}" for i in IDS}


def test_a_row_of_the_hub_leads_neither_to_this_machine_nor_into_its_network(found):
    assert len(found["traps"]) == 9 and found["asked"] == []
    for trap, said in found["traps"].items():
        assert "names the file" in said and "secret.png" in said, trap
    assert set(found["beside"]) == {"image_id", "image"}


def test_files_of_the_hub_have_classes_of_their_own(found):
    """Without a card; two parts of one split must have the same."""
    assert found["classes"] == {"train": ["a", "b", "c"], "validation": ["c", "b", "a"]}
    parts = [f"data/train-0000{number}-of-00002.parquet" for number in (0, 1)]
    said = found["me/shards"]
    assert all(part in said for part in parts) and "class 0 is 'a' in hf://" in said and "Write both" in said


def test_a_dataset_of_a_script_is_one_line(found):
    said = found["me/script"]
    assert "found script.py" in said and "--dataset_revision refs/convert/parquet" in said and "\n" not in said


# --- Names in the files of a folder ----------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of one picture, and beside it one that nobody has named."""
    return make.folder(tmp_path, ["secret.png", "pictures/cat/1.png"]) / "pictures"


ELSEWHERE = ["../secret.png", "{}/secret.png", "cat/../../secret.png", "file://{}/secret.png", r"..\..\secret.png"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_metadata_that_name_a_file_elsewhere_are_refused(pictures, tmp_path, name):
    lines = [{"file_name": "cat/1.png", "caption": "a"}, {"file_name": name.format(tmp_path), "caption": "b"}]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"pictures.*its files cannot be read: .*secret\.png"):
        open_images(str(pictures))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_of_every_format_and_every_field_of_them_is_checked(pictures, suffix):
    """Also where the card names the files."""
    rows = pd.DataFrame({"file_name": ["1.png"], "mask_file_name": ["../../secret.png"], "caption": ["a"]})
    write = {"csv": rows.to_csv, "jsonl": partial(rows.to_json, orient="records", lines=True)}
    write.get(suffix, rows.to_parquet)(pictures / "cat" / f"metadata.{suffix}")
    for card in ("", "---\nconfigs:\n- config_name: default\n  data_files: cat/*\n---\n"):
        (pictures / "README.md").write_text(card)
        with pytest.raises(ValueError, match=r"Invalid metadata file_name '../../secret\.png'"):
            open_images(str(pictures))


def test_a_link_is_a_name_that_the_owner_of_the_folder_gave(pictures):
    """As in collections that are made of links to a store of images."""
    os.symlink("../../secret.png", pictures / "cat" / "2.png")
    assert sorted(open_images(str(pictures))["train"]["image_id"][:]) == ["cat/1.png", "cat/2.png"]


def test_a_stage_leads_to_what_lies_beside_it_and_nowhere_else(pictures, tmp_path):
    stage_of(tmp_path / "runs" / "captions", ["cat/1.png"], source="../../pictures")
    assert open_images(str(tmp_path / "runs" / "captions"))["train"]["caption"][:] == ["of cat/1.png"]
    for field in ("source", "captions_name"):
        for form in ("{}", "file://{}", "~"):
            stage = stage_of(tmp_path / "captions", ["cat/1.png"]) / "stage.json"
            stage.write_text(json.dumps(json.loads(stage.read_text()) | {field: form.format(pictures)}))
            with pytest.raises(ValueError, match="not relative to its folder"):
                open_images(str(tmp_path / "captions"))
    stage_of(tmp_path / "captions", ["cat/1.png"], published=True)  # downloaded: a path in it may be a trap
    with pytest.raises(ValueError, match="does not say where they are"):
        open_images(str(tmp_path / "captions"))


NO_STAGES = ["", "[]", "null", "{", '{"num_rows": 5}', '{"source": 5}', "[" * 100_000, "\udcff"]
NO_SPLITS = ["../secret", "/etc/passwd", "a/b", "", ".hidden", "a\nb"]
NO_STAGES += [json.dumps({"source": None, "num_rows": {name: 1}, "columns": []}) for name in NO_SPLITS]


@pytest.mark.parametrize("text", NO_STAGES, ids=lambda text: ascii(text[-40:]))
def test_a_stage_file_that_is_none_is_named_and_a_split_is_no_path(tmp_path, text):
    assert find_stage(str(tmp_path)) is None
    (tmp_path / "stage.json").write_bytes(text.encode(errors="surrogateescape"))
    for opened in (read_stage, lambda folder: build_dataset(folder, tmp_path / "out")):
        with pytest.raises(ValueError, match=r"stage\.json is not what a stage writes"):
            opened(tmp_path)


# --- What is published -----------------------------------------------------------------------------------------------


def test_the_card_says_that_the_prompt_told_the_class(tmp_path):
    said = "The prompt told the class, so captions hold it: no score on these rows may read them."
    for prompt in ("Describe the {label}.", "Describe it."):
        stage = {"stage": "captioning", "captioner": {"captioner": "local", "model": "me/vlm"}, "prompts": [prompt]}
        folder = build_dataset(stage_of(tmp_path / "stage", **stage), tmp_path / "out")
        assert (said in (folder / "README.md").read_text()) == ("{label}" in prompt)


def test_a_path_in_a_caption_ends_the_release(tmp_path, monkeypatch, capsys):
    """A captioner that repeats the name of the file it was given; nothing is asked of the Hub."""
    monkeypatch.setenv("HOME", "/home/ann")
    stage = stage_of(tmp_path / "stage", IDS)
    rows = captions_of(IDS).map(lambda row: {"caption": f"/home/ann/pictures/{row['image_id']} shows a cat."})
    write_stage(stage, {"train": rows}, read_stage(stage))
    for way in ("--dry_run", "--push_to_hub"):
        with pytest.raises(SystemExit) as ended:
            main(["release", "--stage", str(stage), "--repo_id", "me/captions", way, "true"])
        assert ended.value.code == 2
        assert "data/train-00000-of-00001.parquet holds a path of this machine" in capsys.readouterr().err
