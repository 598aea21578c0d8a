"""
Captions out and in by name, a student out and in by name, against the test Hub: one commit each, private, without
paths of this machine; training that pushes; and `make hub-demo`.
"""

import json

import pyarrow.parquet as pq
import pytest
from doors import Preloaded, caption_server
from drawings import ENCODER, STUDENT, TRAINING, draw_folder
from hub_client import serving
from hub_demo import Demo, demonstrate
from hub_server.accounts import ME_WRITE

pytestmark = pytest.mark.slow
PUSHED = {"license": "apache-2.0", "push_to_hub": "true"}
LOADED = """
import json, sys
sys.modules["g4i_hf"] = None
from datasets import load_dataset
from transformers import pipeline

rows = load_dataset("me/drawings", split="validation")
answers = pipeline("image-classification", model="me/student", device="cpu")(list(rows["image"]), top_k=1)
print(json.dumps({name: answer[0] for name, answer in zip(rows["image_id"], answers)}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """The folder of the road, of which every part that is read has been pushed and loaded by name."""
    folder = tmp_path_factory.mktemp("pushed")
    draw_folder(folder / "pictures", captions=False, train=18, validation=9)
    commands = Preloaded(hub.environment(folder / "home"))

    def go(command, *words):
        return commands.succeed(command, *words, cwd=folder)

    with caption_server("--answer", "digest") as server:
        asked = {"dataset_name": "./pictures", "captions_dir": "captions", "base_url": f"{server}/v1"}
        go("caption", asked, {"captioner_model": "tiny", "report": "false"})
    go("release", {"stage": "captions", "with_images": "true", "repo_id": "me/drawings"}, PUSHED)
    go("embed", {"dataset_name": "me/drawings", "embeddings_dir": "embeddings"}, ENCODER)
    go("release", {"stage": "embeddings", "repo_id": "me/embedded"}, PUSHED)
    go("train", {"dataset_name": "me/embedded", "output_dir": "aligned"}, STUDENT, TRAINING)
    joined = {"dataset_name": "./pictures", "captions_name": "me/embedded", "output_dir": "joined"}
    go("train", joined, STUDENT, TRAINING)
    go("evaluate", {"run": "aligned"})
    go("release", {"run": "aligned", "repo_id": "me/student", "dry_run": "true"}, {"license": "apache-2.0"})
    assert "models/me/student" not in hub.state(), "a dry run pushes nothing"
    go("release", {"run": "aligned", "repo_id": "me/student"}, PUSHED)
    yield folder, commands
    commands.close()


def test_everything_is_private_and_one_commit(hub, pushed):
    state = hub.state()
    assert set(state) == {"datasets/me/drawings", "datasets/me/embedded", "models/me/student"}
    for name, repository in state.items():
        assert repository["private"], name
        assert repository["commits"] == 2, f"{name}: the first, which the Hub makes, and the push"
    files = {name: set(repository["branches"]["main"]["files"]) for name, repository in state.items()}
    data = {"README.md", "stage.json", "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"}
    assert files["datasets/me/embedded"] >= data <= files["datasets/me/drawings"]
    assert files["models/me/student"] >= {"README.md", "config.json", "model.safetensors", "aligned/model.safetensors"}
    assert not [name for name in files["models/me/student"] if name.endswith((".bin", ".pt", "train.yaml"))]


def test_no_path_or_token_was_pushed(hub, pushed):
    folder, _ = pushed
    for name, repository in hub.state().items():
        for path in repository["branches"]["main"]["files"]:
            place = f"/{name.removeprefix('models/')}/resolve/main/{path}"
            status, headers, body = hub.ask("GET", place, token=ME_WRITE)
            if status == 302:
                status, _, body = hub.ask("GET", "/" + headers["Location"].split("/", 3)[3])
            assert status == 200
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            assert str(folder).encode() not in content and ME_WRITE.encode() not in content, (name, path)


def test_captions_joined_by_name_train_the_same_student(pushed):
    folder, _ = pushed
    assert (folder / "aligned" / "model.safetensors").read_bytes() == (
        folder / "joined" / "model.safetensors"
    ).read_bytes()


def test_what_is_loaded_by_name_predicts_what_the_run_did(pushed):
    folder, commands = pushed
    found = json.loads(commands.python(LOADED).splitlines()[-1])
    rows = pq.read_table(folder / "aligned" / "predictions" / "validation.parquet").to_pylist()
    assert set(found) == {row["image_id"] for row in rows} and len(rows) == 9
    for row in rows:
        assert found[row["image_id"]]["label"] == row["prediction"]
        assert found[row["image_id"]]["score"] == pytest.approx(row["score"], abs=1e-5)


# --- Training that pushes --------------------------------------------------------------------------------------------


def trained(commands, folder, name: str, **more):
    data = {"dataset_name": "me/embedded", "output_dir": name, "push_to_hub": "true", "hub_model_id": f"me/{name}"}
    saving = {"save_strategy": "steps", "save_steps": 1}
    return commands.run("train", data, STUDENT, TRAINING | saving | more, cwd=folder)


def test_a_training_pushes_its_release_at_the_end_alone(hub, pushed):
    folder, commands = pushed
    done = trained(commands, folder, "watched")
    assert done.code == 0 and "Pushed: " in done.out, done.said[-3000:]
    state = hub.state()["models/me/watched"]
    assert state["private"] and state["commits"] == 2, "the first, which the Hub makes, and the release"
    assert state["branches"]["main"]["title"] == "End of training"
    assert not [name for name in state["branches"]["main"]["files"] if name.endswith((".bin", ".pt", "train.yaml"))]


def test_a_push_that_fails_leaves_the_run_whole_and_says_how_to_repeat_it(hub, pushed):
    folder, commands = pushed
    hub.fault("POST .*/commit/", 403, times=None)
    done = trained(commands, folder, "unlucky")
    hub.no_faults()
    assert done.code != 0 and "finished and whole" in done.err and "may not write there" in done.err
    assert (folder / "unlucky" / "all_results.json").is_file()
    assert "g4i release --run unlucky --repo_id me/unlucky --push_to_hub true" in done.err
    commands.succeed("release", {"run": "unlucky", "repo_id": "me/unlucky", "push_to_hub": "true"}, cwd=folder)
    assert "model.safetensors" in hub.state()["models/me/unlucky"]["branches"]["main"]["files"]


def test_a_token_that_may_not_write_is_noticed_before_training(pushed):
    folder, commands = pushed
    done = trained(commands, folder, "foreign", hub_model_id="somebody-else/student")
    assert done.code != 0 and "may not write there" in done.err
    assert not list((folder / "foreign").glob("checkpoint-*"))


# --- make hub-demo ---------------------------------------------------------------------------------------------------

SHORT = {"caption": {"max_requests": 64, "partial": "true"}}
SHORT["train"] = {"max_steps": 20, "eval_strategy": "no", "save_strategy": "no", "use_cpu": "true"}


def test_make_hub_demo(hub, pushed, tmp_path):
    """Its commands, made short by options; the last process cannot import this package."""
    _, commands = pushed

    class Short(Demo):
        def g4i(self, command, *words):
            commands.succeed(command, *words, SHORT.get(command, {}))

    expected, found = demonstrate(Short(tmp_path, hub.environment(tmp_path / "home")))
    assert len(expected) == 300 and set(found) == set(expected)
    assert {name: row["label"] for name, row in found.items()} == {
        name: row["label"] for name, row in expected.items()
    }
    assert all(found[name]["score"] == pytest.approx(row["score"], abs=1e-6) for name, row in expected.items())
    assert len({row["label"] for row in expected.values()}) > 1, "a student that always says the same proves little"
    names = {"datasets/me/shapes-captions", "datasets/me/shapes-embedded", "models/me/shapes-student"}
    assert names <= set(hub.state()) and all(hub.state()[name]["private"] for name in names)
