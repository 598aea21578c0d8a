"""
Captions out and in by name, a student out and in by name, against the test Hub: one commit each, private, without
paths of this machine; and training that pushes. `make hub-demo` runs it.
"""

import json

import pyarrow.parquet as pq
import pytest
from doors import ROOT, python, run, spelled, succeed
from drawings import ENCODER, STUDENT, TRAINING
from hub import FOREIGN, ME_WRITE

pytestmark = pytest.mark.slow
RECIPE = ROOT / "recipes" / "shapes"
# The commands of the recipe, made short
SHORT = {"caption": {"max_requests": 64, "partial": "true"}}
SHORT["train"] = {"max_steps": 20, "eval_strategy": "no", "save_strategy": "no", "use_cpu": "true"}
READER = """
import json, sys
sys.modules["g4i_hf"] = None  # as where it is not installed: an import of it fails
from datasets import load_dataset
from transformers import pipeline

images = load_dataset("me/shapes-captions", split="test")
classifier = pipeline("image-classification", model="me/shapes-student")
print(json.dumps(dict(zip(images["image_id"], [classifier(image)[0] for image in images["image"]]))))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pushed")


@pytest.fixture(scope="module")
def online(hub, folder):
    """Where and with which variables commands are run."""
    return {"env": dict.fromkeys(FOREIGN) | hub.environment(folder / "home"), "cwd": folder}


@pytest.fixture(scope="module")
def pushed(hub, online):
    def g4i(command: str, recipe: str | None = None, **options) -> None:
        config = ("--config", RECIPE / f"{recipe}.yaml") if recipe else ()
        succeed(command, *config, options | SHORT.get(command, {}), **online)

    given = {"push_to_hub": "true", "license": "apache-2.0"}
    g4i("caption", "caption", captions_dir="captions")
    g4i("release", stage="captions", with_images="true", repo_id="me/shapes-captions", **given)
    g4i("embed", "embed", dataset_name="me/shapes-captions", embeddings_dir="embeddings", **ENCODER)
    g4i("release", stage="embeddings", repo_id="me/shapes-embedded", **given)
    for recipe, name in (("train", "aligned"), ("baseline", "baseline")):
        g4i("train", recipe, dataset_name="me/shapes-embedded", output_dir=name, disable_tqdm="true")
    runs = {"run": "aligned", "baseline": "baseline"}
    g4i("evaluate", "evaluate", **runs, report="report.html")
    g4i("release", **runs, repo_id="me/shapes-student", dry_run="true")
    assert "models/me/shapes-student" not in hub.state(), "a dry run pushes nothing"
    g4i("release", **runs, repo_id="me/shapes-student", **given)


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


def test_no_path_or_token_was_pushed(hub, pushed, folder):
    for name, repository in hub.repositories.items():
        for path, content in repository.at("main").files.items():
            assert str(folder).encode() not in content and ME_WRITE.encode() not in content, (name, path)


def test_captions_joined_by_name_train_the_same_student(pushed, folder, online):
    joined = {"dataset_name": "me/shapes-captions", "captions_name": "me/shapes-embedded", "output_dir": "joined"}
    succeed("train", "--config", RECIPE / "train.yaml", joined | SHORT["train"], **online)
    first, second = ((folder / run / "model.safetensors").read_bytes() for run in ("aligned", "joined"))
    assert first == second


def test_what_is_loaded_by_name_predicts_what_the_run_did(pushed, folder, online):
    """By a process that cannot import this package."""
    found = json.loads(python(READER, **online).splitlines()[-1])
    rows = pq.read_table(folder / "aligned" / "predictions" / "test.parquet").to_pylist()
    assert len(rows) == 300 and set(found) == {row["image_id"] for row in rows}
    for row in rows:
        expected = {"label": row["prediction"], "score": pytest.approx(row["score"], abs=1e-5)}
        assert found[row["image_id"]] == expected
    assert len({row["prediction"] for row in rows}) > 1, "a student that always says the same proves little"


def test_a_push_that_fails_leaves_the_run_whole_and_says_how_to_repeat_it(hub, pushed, folder, online):
    hub.fault("POST .*/commit/", 403)
    given = {"dataset_name": "me/shapes-embedded", "output_dir": "unlucky", "hub_model_id": "me/unlucky"}
    given |= {"push_to_hub": "true"} | TRAINING | {"save_strategy": "steps", "save_steps": 1}
    done = run("train", STUDENT, given, **online)
    hub.faults.clear()
    assert done.code != 0 and "finished and whole" in done.err and "may not write there" in done.err
    assert (folder / "unlucky" / "all_results.json").is_file()
    again = {"run": "unlucky", "repo_id": "me/unlucky", "push_to_hub": "true"}
    assert f"g4i release {' '.join(spelled((again,)))}" in done.err
    succeed("release", again, **online)
    assert "model.safetensors" in hub.state()["models/me/unlucky"]["files"]
