"""`g4i evaluate`: figures, predictions, size and speed of runs on splits of many kinds."""

import json
import re
import shutil

import make
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict, Image
from doors import TWO_PROCESSES, succeed
from released_runs import a_run
from students import ID2LABEL, aligned_model
from transformers import AutoModelForImageClassification, TimmWrapperConfig

from g4i_hf import evaluate_run
from g4i_hf.evaluation.comparison import ALL_MEASURES, METRICS_OF_A_SPLIT
from g4i_hf.evaluation.metrics import results_folder, size_metrics
from g4i_hf.evaluation.predict import load_run, predict
from g4i_hf.modeling.processing import EvalTransform, ImageSettings, generic_processor
from g4i_hf.running import main
from g4i_hf.training.run_folder import read_options, write_options

CPU = Accelerator(cpu=True)
BY_CLASS = ("classes", "accuracy_interval")


def images(n: int, unlabelled: tuple[int, ...] = (), captions: bool = True, start: int = 0, label=None) -> Dataset:
    """Row 3 has no caption. `label` gives the classes of images; by default they are 0 to 4 in turn."""
    pictures = [make.noise(start + row, 48) for row in range(n)]
    labels = [row % 5 for row in range(n)] if label is None else label(pictures)
    columns = {"label": [None if row in unlabelled else labels[row] for row in range(n)]}
    columns["image_id"] = [str(row) for row in range(start, start + n)]
    if captions:
        columns["caption"] = [None if row == 3 else f"a picture of number {row % 7}" for row in range(n)]
        columns["text_embeds"] = [None if row == 3 else np.eye(384)[row % 7] for row in range(n)]
    split = make.rows(n, ID2LABEL.values(), image=list(map(make.stored, pictures)), **columns)
    return split.cast_column("image", Image())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """
    A run, and data whose labels are what it predicts, but for one row of `validation`; with unlabelled rows, a row and
    a split without captions.
    """
    folder = tmp_path_factory.mktemp("evaluation")
    run = a_run(folder / "run", results=None, lineage=None)
    model, processor = load_run(run)

    @torch.no_grad()
    def predicted(pictures) -> list[int]:
        return model(processor(pictures, return_tensors="pt")["pixel_values"]).logits.argmax(-1).tolist()

    def but_for_one(pictures) -> list[int]:
        return [(predicted(pictures[:1])[0] + 1) % 5, *predicted(pictures[1:])]

    splits = DatasetDict(
        train=images(23),
        validation=images(11, unlabelled=(2,), start=40, label=but_for_one),
        plain=images(4, captions=False, start=60, label=predicted),
        unlabelled=images(3, unlabelled=(0, 1, 2), start=70),
    )
    splits.save_to_disk(folder / "data")
    write_options(run, read_options(run) | {"dataset_name": str(folder / "data"), "student": "resnet18"})
    return run


def evaluated(run, *options: str) -> dict:
    main(["evaluate", "--run", str(run), *options])
    return json.loads((run / "all_results.json").read_text())


def test_all_figures_of_splits_that_lack_labels_or_captions(run, capsys):
    found = evaluated(run, "--splits", "validation,plain,unlabelled")
    missing = {f"validation_{figure}" for figure in METRICS_OF_A_SPLIT} - set(found)
    assert not missing, "give `images` of this file the column that they are computed from"
    assert found["validation_samples"] == 11 and found["validation_accuracy"] == 0.9 and found["plain_accuracy"] == 1
    assert found["validation_gallery_size"] == 7
    classes = found["validation_classes"]
    assert sum(each["images"] for each in classes) == 10 == sum(each["predicted"] for each in classes)
    right = sum(round((each["recall"] or 0) * each["images"]) for each in classes)
    assert right == 9 and found["validation_accuracy_interval"] == pytest.approx([0.596, 0.982], abs=1e-3)
    assert not [name for name in found if re.match("plain_.*(recall|captions|gallery)", name)]
    assert {"plain_zero_shot_accuracy", "plain_ece"} <= set(found)
    of_unlabelled = [name for name in found if name.startswith("unlabelled_")]
    assert all(re.search("samples|weights|recall_at|gallery|chance_at", name) for name in of_unlabelled)
    printed = capsys.readouterr().out
    assert all(measure.title in printed and measure.group in printed for measure in ALL_MEASURES.values())
    said = printed.split("\n\n")[0].splitlines()
    assert said[1].startswith("validation: right for 90.0% of 10 images (95% interval 59.6% to 98.2%)")
    assert said[2].split() == ["class", "precision", "recall", "images"] and len(said) == 8
    assert "unlabelled: right" not in printed
    table = pd.read_parquet(run / "predictions" / "validation.parquet").set_index("image_id")
    assert table["label"].isna().sum() == 1 and (table["label"] == table["prediction"]).sum() == 9


def test_images_that_cannot_be_read_are_left_out_on_request(run):
    pictures = [{"bytes": b"no image", "path": None}, *(make.stored(make.noise(row, 48)) for row in range(2))]
    DatasetDict(test=make.rows(3, ID2LABEL.values(), image=pictures)).save_to_disk(run.parent / "broken")
    given = {"dataset_name": str(run.parent / "broken"), "splits": ["test"]}
    found = evaluate_run(run, on_bad_images="skip", **given)["aligned"]
    assert found["test_samples"] == 2
    with pytest.raises(ValueError, match="with on_bad_images='skip'"):
        evaluate_run(run, **given)


def test_retrieval_is_shown_of_an_aligned_run_alone(run, tmp_path, capsys):
    baseline = shutil.copytree(run, tmp_path / "baseline")
    options = {"align_weight": 0.0, "dataset_name": str(run.parent / "data")}
    write_options(baseline, read_options(baseline) | options)
    for runs, values in ((["--run", run, "--baseline", baseline], 1), (["--run", baseline], None)):
        main(["evaluate", *map(str, runs), "--splits", "validation"])
        printed = capsys.readouterr().out
        shown = re.search(r"^caption retrieval R@1 +validation((?: +[\d.]+)+)", printed, flags=re.M)
        assert (shown and len(shown[1].split())) == values
        paired = "validation, 10 images: labels only 90.0% -> with captions 90.0%, +0.0 points (95% interval -16.9 to"
        assert (paired in printed) == bool(values)


def test_figures_go_into_the_run_only_for_its_own_data(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    own = {"dataset_name": "../../pictures"}
    assert results_folder(run, own, {"dataset_name": "pictures/"}) == run
    assert results_folder(run, own, {"dataset_name": "user/pictures"}) == run / "evaluations" / "user_pictures"
    hub = {"dataset_name": "user/pictures", "dataset_revision": "v1"}
    assert results_folder(run, hub, hub) == run
    assert results_folder(run, hub, hub | {"dataset_revision": "v2"}) == run / "evaluations" / "user_pictures-v2"
    assert results_folder(run, hub, hub | {"label_column": "kind"}) == run / "evaluations" / "user_pictures-v1-kind"


@pytest.mark.slow
def test_two_processes_take_the_same_figures(run):
    options = ("--eval_batch_size", "4")
    alone = evaluated(run, *options)
    succeed("evaluate", {"run": run}, *options, launcher=TWO_PROCESSES)
    found = json.loads((run / "all_results.json").read_text())
    for results in (alone, found):
        for name in ("validation", "plain"):
            assert all(results.pop(f"{name}_{figure}") for figure in BY_CLASS)
    assert alone.keys() == found.keys() and alone == pytest.approx(found, abs=1e-6)


def test_predictions_are_in_the_order_of_the_split_and_lie_in_files():
    model, processor = aligned_model("timm-resnet").eval(), generic_processor(ImageSettings(48))
    split = images(5)
    found = predict(model, processor, split, CPU, batch_size=2, output_features=True)
    pixels = torch.stack([EvalTransform(processor)(image) for image in split["image"]])
    with torch.no_grad():
        expected = model(pixels, output_features=True, output_image_embeds=True)
    for name in ("features", "logits", "image_embeds"):
        values = getattr(found, name)
        torch.testing.assert_close(torch.from_numpy(values), expected[name], atol=1e-5, rtol=1e-4)
        assert isinstance(values, np.memmap)
    assert predict(model, processor, split, CPU).features is None


def test_size_is_that_of_the_literature():
    """Of the table of timm: github.com/huggingface/pytorch-image-models/blob/main/results/model_benchmark*."""
    config = TimmWrapperConfig(architecture="deit_tiny_patch16_224", num_labels=1000)
    student = AutoModelForImageClassification.from_config(config).eval()
    assert size_metrics(student, 224) == pytest.approx({"parameters": 5.72e6, "macs": 1.26e9}, rel=0.01)


def test_speed_is_in_results_terminal_report_and_card(run, capsys):
    found = evaluated(run, "--speed", "true", "--splits", "validation", "--report", str(run / "report.html"))
    main(["release", "--run", str(run)])
    assert found["latency_ms"] > 0 and found["cpu_threads"] == torch.get_num_threads()
    said = f"{found['parameters'] / 1e6:.2f} million parameters, {found['macs'] / 1e6:.2f} million multiply-adds and "
    said += f"{found['latency_ms']:.2f} ms an image"
    card, page = ((run / file).read_text() for file in ("student/README.md", "report.html"))
    assert said in capsys.readouterr().out and said in page and said in card
    judged = {"accuracy": 0.91, "interval": [0.84, 0.95], "agreement": 0.996, "megabytes": 13.6, "milliseconds": 6.2}
    judged |= {"format": "onnx", "judged_on": "gold", "images": 150}
    (run / "student" / "formats.json").write_text(json.dumps([judged]))
    again = evaluated(run, "--splits", "validation", "--report", str(run / "report.html"))
    assert "latency_ms" not in again, "of earlier weights"
    page = " ".join(re.sub("<[^>]+>", " ", (run / "report.html").read_text()).split())
    assert "Judged on 150 images of gold" in page and "onnx 13.6 6.2 91.0 % 84 % to 95 % 99.6 %" in page
