"""Stages that are found by name."""

import json

from g4i_hf.data.published import find_stage


def test_stage_of_a_folder(tmp_path):
    (tmp_path / "stage.json").write_text(json.dumps({"stage": "captioning", "num_rows": {"train": 2}}))
    assert find_stage(str(tmp_path))["num_rows"] == {"train": 2}


def test_none_where_no_stage_is(tmp_path):
    assert find_stage(str(tmp_path)) is None
    assert find_stage(str(tmp_path / "gone")) is None
    assert find_stage("nobody/nothing") is None  # offline, and not in the cache
