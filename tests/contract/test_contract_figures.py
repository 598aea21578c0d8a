"""What is measured, released and compared beyond the plain road of test_contract_loop.py."""

import json
import shutil

import pytest
from doors import files_in
from drawings import ENCODER, STUDENT, TRAINING, draw_folder

pytestmark = pytest.mark.slow


def test_all_measures_and_a_page_of_a_run_alone(quick, folders, tmp_path):
    folder = shutil.copytree(folders, tmp_path / "folders")
    alone = {"run": folder / "aligned", "measures": "all", "report": folder / "page.html"}
    quick.succeed("evaluate", alone | ENCODER)
    results = json.loads((folder / "aligned" / "all_results.json").read_text())
    found = " ".join(results)
    for part in ("accuracy", "recall_at_1", "text_to_image_recall_at_5", "ece", "nll", "brier", "zero_shot"):
        assert part in found, part
    assert (folder / "page.html").stat().st_size > 1e4


def test_figures_of_other_data_do_not_pass_for_the_runs_own(quick, folders, tmp_path):
    folder = shutil.copytree(folders, tmp_path / "folders")
    before = (folder / "aligned" / "all_results.json").read_text()
    other = draw_folder(folder / "other", validation=6)
    quick.succeed("evaluate", {"run": folder / "aligned", "dataset_name": other, "measures": "none"} | ENCODER)
    assert (folder / "aligned" / "all_results.json").read_text() == before
    found = list((folder / "aligned" / "evaluations").rglob("all_results.json"))
    assert len(found) == 1 and json.loads(found[0].read_text())["validation_samples"] == 6


@pytest.mark.onnx
def test_onnx_moving_average_and_no_aligned_model(quick, folders, tmp_path):
    folder, run = tmp_path, {"run": tmp_path / "aligned"}
    options = STUDENT | TRAINING | {"dataset_name": folders / "embeddings", "ema_decay": 0.5}
    quick.succeed("train", options, {"output_dir": folder / "aligned"})
    quick.succeed("evaluate", run, {"weights": "ema", "measures": "none"})
    results = json.loads((folder / "aligned" / "all_results.json").read_text())
    assert results["validation_weights"] == "ema" and results["validation_samples"] == 9
    quick.succeed(
        "release", run, {"onnx": "true", "aligned": "false", "weights": "ema", "student_dir": folder / "student"}
    )
    files = files_in(folder / "student")
    assert "onnx/model.onnx" in files and not [name for name in files if name.startswith("aligned/")]
