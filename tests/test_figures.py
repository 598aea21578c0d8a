"""Figures of a release: of the released weights, and the same in every form that is published."""

import json

import pytest
from released_runs import COMMIT, LINEAGE, RESULTS, a_run, shifted

from g4i_hf.hub.figures import comparison, measured, model_index_results
from g4i_hf.options import ReleaseArguments

PHOTOS = {"dataset_name": "them/photos", "dataset_type": "them/photos", "dataset_revision": COMMIT}


@pytest.fixture
def runs(tmp_path):
    """A run and its baseline, with accuracies of `test` of 52 and 50 percent."""
    a_run(tmp_path / "aligned0", model=False, seed=0)
    a_run(tmp_path / "baseline0", model=False, results=shifted(-0.02), seed=0, align_weight=0)
    return tmp_path


def arguments(folder) -> ReleaseArguments:
    return ReleaseArguments(run=str(folder / "aligned0"), baseline=str(folder / "baseline0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"baseline0 is no baseline of .*aligned0: .*another seed \(1, not 0\).*--align_weight 0"),
        ({"learning_rate": 0.5, "student": "vit"}, r"another learning_rate .*, student \('vit', not 'resnet18'"),
        ({"align_weight": 0.3}, r"learned from captions too \(align_weight 0.3\).*--supervision none"),
        ({"supervision": "auto"}, r"learned from captions too \(supervision auto\)"),
    ],
)
def test_a_baseline_that_is_none_is_refused(runs, change, message):
    (runs / "baseline0" / "lineage.json").unlink()
    a_run(runs / "baseline0", **{"model": False, "seed": 0, "align_weight": 0} | change)
    with pytest.raises(ValueError, match=message):
        comparison(arguments(runs))


def test_a_baseline_may_lack_all_that_belongs_to_the_captions(runs):
    """And it may be trained on the images themselves, where the run was on the stage of their captions."""
    images = LINEAGE | {"sources": [{"id": "them/photos", "images": True}], "captions": None, "text_encoder": None}
    options = {"align_weight": 0, "align_loss": "siglip", "text_encoder": None, "projector_type": "linear"}
    options |= {"dataset_name": "them/photos", "caption_column": "text", "logging_steps": 7, "unlabelled": "drop"}
    a_run(runs / "aligned0", model=False, seed=0, dataset_name="me/embedded")
    a_run(runs / "baseline0", model=False, seed=0, lineage=images, **options)
    rows = comparison(arguments(runs))
    assert [row.figure for row in rows if row.baseline is not None] == ["accuracy", "accuracy"]


def test_figures_of_other_weights_are_not_shown(runs, caplog):
    (runs / "aligned0" / "all_results.json").write_text(json.dumps(RESULTS | {"test_weights": "ema"}))
    assert {row.split for row in comparison(arguments(runs))} == {"validation"}
    assert "test was not evaluated with the raw weights" in caplog.text
    assert [each["split"] for each in measured(arguments(runs))["intervals"]] == ["validation"]


def test_an_interval_is_over_labelled_images(runs):
    more = {"validation_labelled": 20, "validation_suspicious_labels": 2, "validation_accuracy": 0.5}
    (runs / "aligned0" / "all_results.json").write_text(json.dumps(RESULTS | more))
    validation, test = measured(arguments(runs))["intervals"]
    assert (validation["images"], validation["interval"], validation["suspicious"]) == (20, "30 to 70", 2)
    assert (test["images"], test["interval"], test["suspicious"]) == (1192, "49.2 to 54.8", None)


def test_model_index_has_the_numbers_of_the_table(runs):
    args = arguments(runs)
    rows = comparison(args)
    index = {result.metric_name: result for result in model_index_results(rows, PHOTOS, "raw")}
    assert len(index) == len(rows) and {each.dataset_type for each in index.values()} == {"them/photos"}
    for row in rows:
        own = index[f"{row.measure.title} ({row.split})"]
        assert own.metric_value == pytest.approx(row.aligned) and own.metric_args == {"weights": "raw"}
