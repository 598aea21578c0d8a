"""`make hub-demo`: captions out, in by name, a student out, in by name where this package is not."""

import pytest
from hub_client import serving
from hub_demo import demonstrate

pytestmark = pytest.mark.slow


def test_a_process_without_this_package_predicts_what_evaluate_did(tmp_path):
    few = ["--max_requests", "64", "--partial", "true"]
    steps = ["--max_steps", "20", "--eval_strategy", "no", "--save_strategy", "no"]
    with serving(tmp_path / "hub") as hub:
        expected, found = demonstrate(tmp_path, hub, caption=few, train=steps)
        state = hub.state()
    assert len(expected) == 300 and set(found) == set(expected)
    assert {name: row["label"] for name, row in found.items()} == {
        name: row["label"] for name, row in expected.items()
    }
    assert all(found[name]["score"] == pytest.approx(row["score"], abs=1e-6) for name, row in expected.items())
    assert len({row["label"] for row in expected.values()}) > 1, "a student that always says the same proves little"
    names = {"datasets/me/shapes-captions", "datasets/me/shapes-embedded", "models/me/shapes-student"}
    assert set(state) == names and all(repository["private"] for repository in state.values())
    assert "me/shapes-" in (tmp_path / "hub" / "models" / "me" / "shapes-student" / "README.md").read_text()
