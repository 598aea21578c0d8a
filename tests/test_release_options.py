"""What `release` is told: ids, licences, options that belong together, and the folders that they name."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from released_runs import a_run

from g4i_hf.evaluation.comparison import ComparisonRow, as_text
from g4i_hf.hub import publisher
from g4i_hf.hub.card import HUB_LICENCES, licence_fields, licence_line
from g4i_hf.options import ReleaseArguments, ReleasedDatasetOptions, ReleasedStudentOptions, SpaceOptions
from g4i_hf.running import main
from g4i_hf.training import AlignmentArguments
from g4i_hf.workflows.release import Release

# --- Ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repo_id", "remedy"),
    [
        ("emoji", "without the user or organisation.*write it as NAME/emoji"),
        ("https://huggingface.co/datasets/me/x", "no Hub id: write it as me/my-student"),
        ("me/x/y", "no Hub id: write it as me/my-student"),
        ("me/", "no Hub id: write it as me/my-student"),
    ],
)
@pytest.mark.parametrize("name", ["repo_id", "space_repo_id"])
def test_an_id_is_whole(name, repo_id, remedy):
    with pytest.raises(ValueError, match=f"^{name} is {re.escape(repo_id)}.*{remedy}"):
        ReleaseArguments(run="run", dry_run=True, **{name: repo_id})


def test_ids_that_are_whole_and_images_of_an_old_name_are_taken():
    for repo_id in ("me/x", "datasets/x", "huggingface.co-fans/x"):
        assert ReleaseArguments(run="run", repo_id=repo_id).repo_id == repo_id
    assert ReleaseArguments(stage="stage", images_id="mnist").images_id == "mnist"
    with pytest.raises(ValueError, match="images_id is .*write it as me/my-student"):
        ReleaseArguments(stage="stage", images_id="https://huggingface.co/datasets/me/x")


@pytest.mark.parametrize("is_started", [True, False])
def test_the_card_of_a_training_has_the_whole_id(tmp_path, monkeypatch, is_started):
    """As with stock Trainer, a bare hub_model_id is one of the token's owner."""
    seen = {}
    monkeypatch.setattr(publisher, "check_repository", lambda *_, **__: (None, []))
    monkeypatch.setattr(publisher, "create_repository", lambda _, repo_id, **__: f"me/{repo_id}")
    monkeypatch.setattr(publisher, "push_folder", lambda folder, repo_id, **_: seen.update(id=repo_id, folder=folder))
    monkeypatch.setattr(HfApi, "get_full_repo_name", lambda _, repo_id: f"me/{repo_id}")
    run = a_run(tmp_path / "run")
    pushing = publisher.StudentPublisher(AlignmentArguments(str(run), report_to="none", hub_model_id="emoji"))
    if is_started:
        pushing.start()
    pushing.push_run(run)
    card = (seen["folder"] / "README.md").read_text()
    assert seen["id"] == "me/emoji" and 'model="me/emoji"' in card and '"emoji"' not in card


# --- Licences --------------------------------------------------------------------------------------------------------

SLIPS = {
    "apache2": "apache-2.0",
    "apache": "apache-2.0",
    "cc-by": "cc-by-4.0",
    "GPLv3": "gpl-3.0",
    "agpl": "agpl-3.0",
    "Apache-2": "apache-2.0",
    "Apache License 2.0": "apache-2.0",
    "Apache Licence, Version 2.0": "apache-2.0",
    "The MIT licence": "mit",
    "CC BY 4.0": "cc-by-4.0",
    "cc-by4.0": "cc-by-4.0",
    "cc-by-nc-sa": "cc-by-nc-sa-4.0",
    "GPL3.0": "gpl-3.0",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_licence_of_the_hub_in_other_words_is_a_slip(slip):
    with pytest.raises(ValueError, match=rf"Did you mean .*{re.escape(SLIPS[slip])}( or [^?]*)?\?"):
        licence_fields(slip)


@pytest.mark.parametrize("own", ["Ann's own terms", "mit-0", "gpl-2.0-or-later", "UN data terms", "Software v1"])
def test_a_licence_of_ones_own_is_said_to_be_one(own):
    assert licence_fields(own)["license"] == "other"
    assert licence_line(own) == f"a licence of your own: {licence_fields(own)['license_name']}"


def test_those_of_the_hub_are_taken_as_they_are_and_none_is_said():
    assert all(licence_fields(known) == {"license": known} for known in HUB_LICENCES)
    assert licence_line("MIT") == "mit"
    assert licence_line(None) == licence_line("other") == "no licence: give one with --license"


# --- Options that belong together ------------------------------------------------------------------------------------

VALUES = {"weights": "ema", "lora": "adapter", "aligned": False, "card_pictures": False, "max_shard_size": "1GB"}
VALUES |= dict.fromkeys(("onnx", "space", "with_images"), True)
VALUES |= dict.fromkeys(("seed_runs", "seed_baselines"), ["other"])
OF_STUDENT = [each.name for group in (ReleasedStudentOptions, SpaceOptions) for each in fields(group)]
OF_STUDENT += ["baseline", "seed_runs", "seed_baselines"]
OF_DATASET = [each.name for each in fields(ReleasedDatasetOptions)]


@pytest.mark.parametrize("name", [*OF_STUDENT, *OF_DATASET])
def test_an_option_of_the_other_kind_is_refused(name):
    value = VALUES.get(name, "me/x")
    own, other = ("run", "stage") if name in OF_STUDENT else ("stage", "run")
    assert getattr(ReleaseArguments(**{own: "folder", name: value}), name) == value
    with pytest.raises(ValueError, match=f"^{name} is an option of .*{other} is folder.*give --{own}"):
        ReleaseArguments(**{other: "folder", name: value})


def test_a_run_and_a_stage_are_two_releases():
    with pytest.raises(ValueError, match="run is r and stage is s"):
        ReleaseArguments(run="r", stage="s")


def refused(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["release", *argv])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_wrong_kind_of_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, file in (("stage", "stage.json"), ("run", "model.safetensors")):
        Path(name).mkdir()
        (Path(name) / file).write_text("{}")
    assert "stage is a stage, no run" in (said := refused(capsys, "--run", "stage"))
    assert "--stage stage" in said and "Train one" not in said
    assert "run is a run, no stage" in (said := refused(capsys, "--stage", "run"))
    assert "--run run" in said
    remedy = "no such folder. Name yours with --run or --stage.\n"
    assert f"There is no stage 'nope': {remedy}" in refused(capsys, "--stage", "nope")
    assert f"There is no run 'nope': {remedy}" in refused(capsys, "--run=nope")
    assert "There is no run 'runs/emoji_styles/aligned'" in refused(capsys)  # of the recipe


def test_a_dataset_lies_beside_its_stage_and_its_path_is_as_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "captions").mkdir(parents=True)
    monkeypatch.setattr("g4i_hf.workflows.release.build_dataset", lambda stage, folder, **_: folder)
    for stage, expected in (("runs/captions/", Path("runs/captions-dataset")), (".", tmp_path.with_name("x"))):
        release = Release(ReleaseArguments(stage=stage))
        release.build()
        (made,) = release.released
        assert made.repo_type == "dataset" and made.folder.parent == expected.parent
        assert made.folder.name == ("captions-dataset" if stage != "." else f"{tmp_path.name}-dataset")
        assert release.lines[0].startswith(f"dataset   {made.folder}  (")
        assert release.lines[1] == "licence   no licence: give one with --license"


def test_the_table_of_a_terminal_has_no_empty_columns():
    rows = [ComparisonRow("test", "accuracy", 0.5), ComparisonRow("test", "recall", 0.2, chance=0.1)]
    text = as_text(rows)
    assert "value" in text and "50.0" in text and "(chance 10.0)" in text
    assert not re.search("baseline|difference|aligned", text)
    text = as_text([ComparisonRow("test", "accuracy", 0.5, 0.4)])
    assert re.search("baseline +aligned +difference\n.* 40.0 +50.0 +[+]10.0$", text)
