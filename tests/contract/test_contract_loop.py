"""From images to a student: what every command leaves, and what its cards and pages hold."""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from doors import ROOT, files_in, refused_by_windows
from drawings import ENCODER, STUDENT, TRAINING

pytestmark = pytest.mark.slow  # `make test` has the options, the mistakes and the front door

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")
RUN = {"model.safetensors", "config.json", "preprocessor_config.json", "all_results.json", "trainer_state.json"}
RUN |= {"train.yaml", "predictions/validation.parquet"}


def test_windows_takes_the_name_of_every_file(loop):
    assert len(list(loop.rglob("*"))) > 50 and not refused_by_windows(loop)


@pytest.mark.parametrize("run", ["aligned", "baseline"])
def test_a_run_folder_is_whole(loop, run):
    files = files_in(loop / run)
    assert files >= RUN and not [name for name in files if name.endswith(PICKLES)]
    results = json.loads((loop / run / "all_results.json").read_text())
    assert results["validation_samples"] == 9 and 0 <= results["validation_accuracy"] <= 1
    assert {"train_loss", "train_samples_per_second", "validation_ece", "validation_nll"} <= set(results)
    state = json.loads((loop / run / "trainer_state.json").read_text())
    assert state["global_step"] == TRAINING["max_steps"]
    options = yaml.safe_load((loop / run / "train.yaml").read_text())
    assert options["align_weight"] == (0.3 if run == "aligned" else 0) and options["dataset_name"] == "../embeddings"
    rows = pq.read_table(loop / run / "predictions" / "validation.parquet").to_pylist()
    assert len(rows) == 9 and {"image_id", "label", "prediction", "score"} <= set(rows[0])
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert results["validation_accuracy"] == pytest.approx(right / 9)


def test_no_path_of_this_machine_is_in_what_was_made(loop):
    for name in files_in(loop):
        if name.endswith((".json", ".md", ".yaml", ".html", ".parquet")) and not name.startswith("pictures"):
            content = (loop / name).read_bytes()
            assert str(loop).encode() not in content and str(ROOT).encode() not in content, name


def test_a_dry_run_of_training_writes_nothing(quick, loop, tmp_path):
    before = files_in(loop)
    data = {"dataset_name": loop / "pictures", "output_dir": "run", "dry_run": "true"}
    done = quick.succeed("train", data, STUDENT, TRAINING, ENCODER, cwd=tmp_path)
    assert "resnet18" in done.out and "18 images" in done.out and "27" in done.out, "what, on what, what to embed"
    data |= {"dataset_name": loop / "embeddings", "supervision": "auto"}
    assert "Estimates: Captions tell the class of" in quick.succeed("train", data, STUDENT, TRAINING, cwd=tmp_path).out
    assert list(tmp_path.iterdir()) == [] and files_in(loop) == before
