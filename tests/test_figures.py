"""Figures of a release: of the released weights, over seeds, and the same in every form that is published."""

import json
import shutil

import pytest
from released_runs import COMMIT, LINEAGE, RESULTS, a_run, shifted

from g4i_hf.evaluation.comparison import seeds_as_markdown
from g4i_hf.hub.figures import comparison, evaluated_data, measured, model_index_results, over_seeds
from g4i_hf.options import ReleaseArguments

PHOTOS = {"dataset_name": "them/photos", "dataset_type": "them/photos", "dataset_revision": COMMIT}


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    """Runs with their baselines: accuracies of `test` 52, 54, 56 and 50, 51, 52 percent."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        a_run(folder / f"aligned{seed}", model=False, results=shifted(0.02 * seed), seed=seed)
        results = shifted(0.01 * seed - 0.02)
        a_run(folder / f"baseline{seed}", model=False, results=results, seed=seed, align_weight=0)
    return folder


@pytest.fixture
def runs(three_seeds, tmp_path):
    return shutil.copytree(three_seeds, tmp_path / "runs")


def arguments(folder, seeds=(1, 2), baselines=(1, 2), **more) -> ReleaseArguments:
    chosen = {"run": str(folder / "aligned0"), "baseline": str(folder / "baseline0")}
    chosen["seed_runs"] = [str(folder / f"aligned{seed}") for seed in seeds] or None
    chosen["seed_baselines"] = [str(folder / f"baseline{seed}") for seed in baselines] or None
    return ReleaseArguments(**chosen | more)


def beside_its_baseline(folder):
    return comparison(arguments(folder, seeds=(), baselines=()))


# --- Over seeds ------------------------------------------------------------------------------------------------------


def test_the_table_over_seeds_by_hand(runs):
    """Baselines 50, 51, 52 and runs 52, 54, 56: differences 2, 3, 4 points, standard deviation 1, t = 4.303."""
    seeds = over_seeds(arguments(runs))
    assert seeds.seeds == [0, 1, 2]
    # The projector of a baseline is untrained
    assert all((row.paired is not None) == (row.figure == "accuracy") for row in seeds.rows)
    lines = seeds_as_markdown(seeds.rows).splitlines()
    assert lines[2:4] == [
        "| accuracy | validation | 60.0 ± 1.0 | 63.0 ± 2.0 | +3.0 (+0.5 to +5.5) |",
        "| accuracy | test | 51.0 ± 1.0 | 54.0 ± 2.0 | +3.0 (+0.5 to +5.5) |",
    ]  # in the order of the data, not of the alphabet
    alone = over_seeds(arguments(runs, baselines=(), baseline=None))
    assert seeds_as_markdown(alone.rows).splitlines()[2] == "| accuracy | validation | 63.0 ± 2.0 |"


def test_the_released_run_may_be_named_among_the_seeds(runs):
    assert over_seeds(arguments(runs, seeds=(0, 1, 2), baselines=(2, 0, 1))).seeds == [0, 1, 2]
    assert over_seeds(arguments(runs, seeds=(), baselines=())) is None


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"learning_rate": 0.5}, {}, r"aligned1 was trained with another learning_rate \(0\.5\)"),
        ({"seed": 0}, {}, r"aligned1 has the seed 0, as .*aligned0 has"),
        ({"results": {}}, {}, r"aligned1 has no figures of 'test'.*g4i evaluate --run"),
        ({}, {"baselines": (1,)}, r"seeds \[0, 1, 2\], their baselines \[0, 1\]. Give"),
        ({}, {"baseline": None}, "belong to seed_runs and to a baseline of the run itself"),
        ({}, {"seeds": ()}, "belong to seed_runs and to a baseline of the run itself"),
        ({}, {"seeds": (0,), "baselines": (0,)}, r"seeds \[0\], their baselines \[0\]. Give runs of other seeds"),
    ],
)
def test_runs_that_cannot_be_compared(runs, change, options, message):
    if change:
        a_run(runs / "aligned1", **{"model": False, "results": shifted(0.02), "seed": 1} | change)
    with pytest.raises(ValueError, match=message):
        over_seeds(arguments(runs, **options))


# --- Beside a baseline -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"baseline0 is no baseline of .*aligned0: .*another seed \(1, not 0\).*--align_weight 0"),
        ({"learning_rate": 0.5, "student": "vit"}, r"another learning_rate .*, student \('vit', not 'resnet18'"),
        ({"align_weight": 0.3}, r"learned from captions too \(align_weight 0.3\).*--supervision none"),
        ({"supervision": "auto"}, r"learned from captions too \(supervision auto\)"),
        ({"unlabelled": "drop", "train_split": "half"}, "another train_split"),
    ],
)
def test_a_baseline_that_is_none_is_refused(runs, change, message):
    (runs / "baseline0" / "lineage.json").unlink()
    a_run(runs / "baseline0", **{"model": False, "seed": 0, "align_weight": 0} | change)
    with pytest.raises(ValueError, match=message):
        beside_its_baseline(runs)


def test_a_baseline_may_lack_all_that_belongs_to_the_captions(runs):
    """And it may be trained on the images themselves, where the run was on the stage of their captions."""
    images = LINEAGE | {"sources": [{"id": "them/photos", "images": True}], "captions": None, "text_encoder": None}
    options = {"align_weight": 0, "align_loss": "siglip", "text_encoder": None, "projector_type": "linear"}
    options |= {"dataset_name": "them/photos", "caption_column": "text", "logging_steps": 7, "save_total_limit": 1}
    options |= {"report_to": ["wandb"], "push_to_hub": True, "hub_model_id": "me/x", "output_dir": "elsewhere"}
    a_run(runs / "aligned0", model=False, seed=0, dataset_name="me/embedded")
    a_run(runs / "baseline0", model=False, seed=0, lineage=images, **options)
    rows = beside_its_baseline(runs)
    assert [row.figure for row in rows if row.baseline is not None] == ["accuracy", "accuracy"]


def test_a_baseline_may_leave_unlabelled_images_out(runs):
    a_run(runs / "aligned0", model=False, seed=0)
    a_run(runs / "baseline0", model=False, seed=0, align_weight=0, unlabelled="drop")
    assert all(row.baseline is not None for row in beside_its_baseline(runs) if row.figure == "accuracy")


def test_figures_of_other_weights_are_not_shown(runs, caplog):
    (runs / "aligned0" / "all_results.json").write_text(json.dumps(RESULTS | {"test_weights": "ema"}))
    assert {row.split for row in beside_its_baseline(runs)} == {"validation"}
    assert "test was not evaluated with the raw weights" in caplog.text
    assert [each["split"] for each in measured(arguments(runs))["intervals"]] == ["validation"]


def test_an_interval_is_over_labelled_images(runs):
    more = {"validation_labelled": 20, "validation_suspicious_labels": 2, "validation_accuracy": 0.5}
    (runs / "aligned0" / "all_results.json").write_text(json.dumps(RESULTS | more))
    validation, test = measured(arguments(runs))["intervals"]
    assert validation == {"split": "validation", "images": 20, "interval": "30 to 70", "suspicious": 2}
    assert (test["images"], test["interval"], test["suspicious"]) == (1192, "49.2 to 54.8", None)


# --- model-index, which the Hub reads -------------------------------------------------------------------------------


def test_model_index_has_the_numbers_of_the_table(runs):
    args = arguments(runs)
    rows = comparison(args)
    index = {result.metric_name: result for result in model_index_results(rows, PHOTOS, "raw")}
    assert len(index) == len(rows) and {each.dataset_type for each in index.values()} == {"them/photos"}
    for row in rows:
        own = index[f"{row.measure.title} ({row.split})"]
        assert own.metric_value == pytest.approx(row.aligned) and own.metric_args == {"weights": "raw"}


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (LINEAGE["sources"], PHOTOS),
        ([{"name": "Bilder, ä", "images": True}], {"dataset_name": "Bilder, ä", "dataset_type": "Bilder"}),
        ([{"id": "me/all", "images": True}, {"name": "x", "images": True}], {"dataset_name": "me/all"}),
        ([{"id": "me/captions", "images": False}, {"name": "x", "images": True}], {"dataset_name": "x"}),
    ],
)
def test_the_evaluated_data_is_that_of_the_images(sources, expected):
    assert evaluated_data({"sources": sources}).items() >= expected.items()
    assert evaluated_data({"sources": []}) is None
