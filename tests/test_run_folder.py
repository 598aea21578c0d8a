"""A run folder never loses what is not its own, and tells nobody what is not theirs."""

import pytest
from students import aligned_model

from g4i_hf.hub import release_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.training import AlignmentArguments
from g4i_hf.training.run_folder import clear_run, open_run, resolved_options, write_options


def options(folder, **kwargs) -> dict:
    return resolved_options((AlignmentArguments(str(folder), **kwargs),), folder)


def test_tokens_and_what_depends_on_the_machine_are_not_recorded(tmp_path):
    recorded = options(tmp_path, hub_token="hf_secret", use_cpu=True)
    assert "hf_secret" not in str(recorded)
    assert not {"hub_token", "use_cpu", "dataloader_pin_memory"} & set(recorded)


def test_a_folder_that_is_no_run_is_not_cleared(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(ValueError, match="checkpoint-5, but no run of ours.*--overwrite"):
        open_run(tmp_path, options(tmp_path), overwrite=False)
    assert open_run(tmp_path, options(tmp_path), overwrite=True) == ("fresh", None)


@pytest.mark.parametrize("name, value", [("dataset_name", "other"), ("learning_rate", 0.5)])
def test_another_data_set_or_option_is_another_run(tmp_path, name, value, caplog):
    caplog.set_level("INFO", logger="g4i_hf")
    write_options(tmp_path, {**options(tmp_path), "dataset_name": "one"})
    same = {**options(tmp_path), "dataset_name": "one"}
    assert open_run(tmp_path, same, overwrite=False) == ("fresh", None)
    assert "has written no checkpoint: it begins anew" in caplog.text
    with pytest.raises(ValueError, match=name):
        open_run(tmp_path, {**same, name: value}, overwrite=False)


def test_checkpoints_of_which_none_is_whole_are_not_cleared(tmp_path):
    """As a copy leaves them that was interrupted: to begin again would remove them."""
    write_options(tmp_path, options(tmp_path))
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    message = (
        "none that is whole; of the newest, checkpoint-10: its checkpoint.json, which is written last, is missing"
    )
    with pytest.raises(ValueError, match=message):
        open_run(tmp_path, options(tmp_path), overwrite=False)
    assert open_run(tmp_path, options(tmp_path), overwrite=True) == ("fresh", None)


def test_clearing_leaves_other_files(tmp_path):
    for name in ("model.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoint-3").mkdir()
    clear_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_release_does_not_replace_a_folder_of_something_else(tmp_path):
    aligned_model("vit").save_pretrained(tmp_path / "run")
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="something else than a student"):
        release_student(tmp_path / "run", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").is_file()
