"""
`make hub-demo`: captions out and in by name, a student out and in by name, against the test Hub: one commit each,
private, without paths of this machine; and training that pushes.
"""

from functools import partial
from types import SimpleNamespace

import pytest
from doors import run, succeed
from drawings import STUDENT, TRAINING
from hub import FOREIGN, ME_WRITE, serving
from hub_demo import RECIPE, Demo, demonstrate

pytestmark = pytest.mark.slow
# The commands of the demo, made short
SHORT = {"caption": {"max_requests": 64, "partial": "true"}}
SHORT["train"] = {"max_steps": 20, "eval_strategy": "no", "save_strategy": "no", "use_cpu": "true"}


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """The folder of the demo, commands to go on with, and what was predicted by the run and by name."""
    folder = tmp_path_factory.mktemp("pushed")
    online = dict.fromkeys(FOREIGN) | hub.environment(folder / "home")
    commands = SimpleNamespace(run=partial(run, env=online), succeed=partial(succeed, env=online))

    class Short(Demo):
        def g4i(self, command, *words):
            commands.succeed(command, *words, SHORT.get(command, {}))
            if "--dry_run" in words:
                assert "models/me/shapes-student" not in hub.state(), "a dry run pushes nothing"

    yield folder, commands, demonstrate(Short(folder, hub.environment(folder / "home")))


def test_everything_is_private_and_one_commit(hub, pushed):
    state = hub.state()
    assert set(state) == {"datasets/me/shapes-captions", "datasets/me/shapes-embedded", "models/me/shapes-student"}
    for name, repository in state.items():
        assert repository["private"], name
        assert repository["commits"] == 2, f"{name}: the first, which the Hub makes, and the push"
    captions, embedded, student = (set(state[name]["files"]) for name in sorted(state))
    assert embedded >= {"README.md", "stage.json", "data/train-00000-of-00001.parquet"} <= captions
    assert student >= {"README.md", "config.json", "model.safetensors", "aligned/model.safetensors"}
    assert not [name for name in student if name.endswith((".bin", ".pt", "train.yaml"))]


def test_no_path_or_token_was_pushed(hub, pushed):
    folder = pushed[0]
    for name, repository in hub.repositories.items():
        for path, file in repository.at("main").files.items():
            assert str(folder).encode() not in file.content and ME_WRITE.encode() not in file.content, (name, path)


def test_captions_joined_by_name_train_the_same_student(pushed):
    folder, commands, _ = pushed
    joined = {"dataset_name": "me/shapes-captions", "captions_name": "me/shapes-embedded"}
    config = ("--config", RECIPE / "train.yaml")
    commands.succeed("train", *config, joined, {"output_dir": folder / "joined"}, SHORT["train"])
    first, second = ((folder / run / "model.safetensors").read_bytes() for run in ("aligned", "joined"))
    assert first == second


def test_what_is_loaded_by_name_predicts_what_the_run_did(pushed):
    """By a process that cannot import this package."""
    _, _, (expected, found) = pushed
    assert len(expected) == 300 and set(found) == set(expected)
    for name, row in expected.items():
        assert found[name]["label"] == row["label"] and found[name]["score"] == pytest.approx(row["score"], abs=1e-5)
    assert len({row["label"] for row in expected.values()}) > 1, "a student that always says the same proves little"


def trained(commands, folder, name: str, **more):
    data = {"dataset_name": "me/shapes-embedded", "output_dir": name}
    pushed = {"push_to_hub": "true", "hub_model_id": f"me/{name}", "save_strategy": "steps", "save_steps": 1}
    return commands.run("train", data, STUDENT, TRAINING | pushed | more, cwd=folder)


def test_a_push_that_fails_leaves_the_run_whole_and_says_how_to_repeat_it(hub, pushed):
    folder, commands, _ = pushed
    hub.fault("POST .*/commit/", 403, times=None)
    done = trained(commands, folder, "unlucky")
    hub.faults.clear()
    assert done.code != 0 and "finished and whole" in done.err and "may not write there" in done.err
    assert (folder / "unlucky" / "all_results.json").is_file()
    assert "g4i release --run unlucky --repo_id me/unlucky --push_to_hub true" in done.err
    commands.succeed("release", {"run": "unlucky", "repo_id": "me/unlucky", "push_to_hub": "true"}, cwd=folder)
    assert "model.safetensors" in hub.state()["models/me/unlucky"]["files"]
