"""The whole loop over HTTP: captions out, in by name, a student out, in by name where this package is not."""

import json
from pathlib import Path

import pytest
from hub_client import serving
from hub_demo import Demo, demonstrate, read_predictions
from hub_server.accounts import ME_WRITE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
EMOJI = ROOT / "recipes" / "emoji_styles"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def shown(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    expected, found = demonstrate(folder, hub, "--num_train_epochs", "2")
    return folder, expected, found


def test_a_process_without_this_package_predicts_what_evaluate_did(shown):
    _, expected, found = shown
    assert len(expected) == 300 and set(found) == set(expected)
    assert {name: row["label"] for name, row in found.items()} == {
        name: row["label"] for name, row in expected.items()
    }
    assert all(found[name]["score"] == pytest.approx(row["score"], abs=1e-6) for name, row in expected.items())
    assert len({row["label"] for row in expected.values()}) > 1, "a student that always says the same proves little"


def test_everything_is_private_and_nothing_else_was_pushed(hub, shown):
    state = hub.state()
    names = {"datasets/me/shapes-captions", "datasets/me/shapes-embedded", "models/me/shapes-student"}
    assert names <= set(state) and all(state[name]["private"] for name in names)
    files = {name: set(state[name]["branches"]["main"]["files"]) for name in names}
    assert {"README.md", "stage.json", "data/train-00000-of-00001.parquet"} <= files["datasets/me/shapes-embedded"]
    student = files["models/me/shapes-student"]
    assert {"README.md", "config.json", "model.safetensors", "aligned/model.safetensors"} <= student
    assert not any(name.endswith((".bin", ".pt", "train.yaml", "trainer_state.json")) for name in student)


def test_the_embedded_set_names_the_captions_and_the_student_names_the_data(hub, shown):
    stage = json.loads(text_of(hub, "datasets/me/shapes-embedded", "stage.json"))
    assert stage["source"] == "me/shapes-captions" and stage["captions_stage"]["captioner"]["model"] == "captioner"
    assert "These captions are machine-made" in text_of(hub, "datasets/me/shapes-embedded", "README.md")
    assert "me/shapes-" in text_of(hub, "models/me/shapes-student", "README.md")


def test_no_folder_of_this_machine_is_in_a_published_file(hub, shown):
    folder, *_ = shown
    for name, repository in hub.state().items():
        for path in repository["branches"]["main"]["files"]:
            content = bytes_of(hub, name, path)
            for canary in (str(folder), str(ROOT), str(Path.home()), ME_WRITE):
                assert canary == "/" or canary.encode() not in content, (name, path, canary)


def bytes_of(hub, repository: str, path: str) -> bytes:
    place = f"/{repository.removeprefix('models/')}/resolve/main/{path}"
    status, headers, body = hub.ask("GET", place, token=ME_WRITE)
    if status == 302:
        status, _, body = hub.ask("GET", "/" + headers["Location"].split("/", 3)[3])
    assert status == 200
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def text_of(hub, repository: str, path: str) -> str:
    return bytes_of(hub, repository, path).decode()


# --- Pushes while a student trains -----------------------------------------------------------------------------------
def options(folder: Path, name: str, **more) -> list[str]:
    """A short run of Emoji Styles that is pushed."""
    options = {"num_train_epochs": 2, "push_to_hub": "true", "hub_model_id": f"me/{name}", "disable_tqdm": "true"}
    options |= {"output_dir": folder / name, "embeddings_dir": folder / "embeddings", "hub_always_push": "true"} | more
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    return ["train", "--config", str(EMOJI / "train.yaml"), *words]


@pytest.fixture(scope="module")
def demo(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    return Demo(folder, hub.environment(folder / "home"))


def test_checkpoints_are_pushed_as_plain_students_and_the_end_as_a_release(hub, demo):
    said = demo.script(*options(demo.folder, "pushed"))
    assert "Pushed: " in said
    state = hub.state()["models/me/pushed"]
    assert state["private"] and state["branches"]["main"]["title"] == "End of training"
    assert state["commits"] == 4, "the first, one a checkpoint, and the release"
    card = text_of(hub, "models/me/pushed", "README.md")
    assert "In training" not in card and "accuracy" in card
    found = read_predictions(demo, "me/pushed", EMOJI, "validation")
    assert len(found) == 316


def test_a_push_that_fails_in_training_does_not_end_it_and_the_last_one_says_how_to_repeat_it(hub, demo):
    hub.fault("POST .*/commit/", "403", times=None)
    with pytest.raises(SystemExit) as ended:
        demo.script(*options(demo.folder, "unlucky"))
    hub.no_faults()
    message = str(ended.value)
    assert "finished and whole" in message and "was not pushed" in message and "may not write there" in message
    run = demo.folder / "unlucky"
    assert (run / "all_results.json").is_file()
    assert set(hub.state()["models/me/unlucky"]["branches"]["main"]["files"]) <= {".gitattributes"}
    assert f"g4i release --run {run} --repo_id me/unlucky --push_to_hub true" in message
    demo.script("release", "--run", run, "--repo_id", "me/unlucky", "--push_to_hub", "true")
    assert "model.safetensors" in hub.state()["models/me/unlucky"]["branches"]["main"]["files"]


def test_a_token_that_may_not_write_is_noticed_before_training(hub, demo):
    with pytest.raises(SystemExit, match="may not write there"):
        demo.script(*options(demo.folder, "foreign", hub_model_id="somebody-else/student"))
    assert not (demo.folder / "foreign" / "checkpoint-46").exists()
    assert not list((demo.folder / "foreign").glob("checkpoint-*"))
