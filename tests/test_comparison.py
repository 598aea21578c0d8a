"""Comparisons: cells of a grid, results that survive kills, statistics over seeds and images, tables and figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from PIL import Image as PILImage
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.sandwich_covariance import cov_cluster_2groups

from g4i_hf.cli import parse_options
from g4i_hf.options import OPTIONS_OF, CompareArguments
from g4i_hf.study import (
    Difference,
    Labels,
    Result,
    append_result,
    as_table,
    cells_of,
    command,
    digest_of_rows,
    estimate_difference,
    find,
    finished,
    holm,
    not_scored_now,
    plot_differences,
    read_results,
    write_summary,
)
from g4i_hf.workflows.train import TrainingRun

ROOT = Path(__file__).parent.parent
GRID = {
    "students": {"small": {"student": "resnet18"}, "other": {"student": "vit"}},
    "variants": {"baseline": {"align_weight": 0}, "clip": {"align_weight": 0.3}},
    "seeds": [0, 1, 2],
}


@pytest.fixture
def grid(tmp_path):
    """Arguments of a grid, with options changed."""
    (tmp_path / "train.yaml").write_text("learning_rate: 6e-3\nimage_size: 32\noutput_dir: runs/x\n")

    def make(**options) -> CompareArguments:
        return CompareArguments(**GRID | {"train_config": str(tmp_path / "train.yaml")} | options)

    return make


def result_of(cell, predicted, device="cpu") -> Result:
    training = {"train_loss": 1.0, "seconds": 60.0}
    return Result(cell.student, cell.variant, cell.seed, cell.digest, cell.options, predicted, training, device)


# --- Grid ------------------------------------------------------------------------------------------------------------


def test_cells_differ_in_what_is_named_and_in_nothing_else(grid):
    cells = {cell.name: cell for cell in cells_of(grid())}
    assert len(cells) == 12 and [*cells][:3] == ["small/baseline/0", "small/clip/0", "other/baseline/0"]
    first, second = (cells[f"small/{variant}/1"].argv("train.yaml", "there") for variant in ("baseline", "clip"))
    assert {(a, b) for a, b in zip(first, second, strict=True) if a != b} == {("0", "0.3")}
    part = cells_of(grid(only_students=["other"], only_variants=["clip"], seeds=[2]))
    assert [(cell.name, cell.digest) for cell in part] == [("other/clip/2", cells["other/clip/2"].digest)]


def test_options_reach_the_training_as_they_are(grid, tmp_path):
    options = {"use_peft": True, "pretrained": True, "lora_r": 4}
    options |= {"class_weights": [1, 2.5], "dataset_name": "some images", "student_args": {"depth": 3}}
    cell = cells_of(grid(variants={"baseline": options}, seeds=[3]))[0]
    argv = cell.argv(str(tmp_path / "train.yaml"), tmp_path / "run")
    run = TrainingRun(*parse_options(OPTIONS_OF["train"], argv))
    assert run.student.lora_r == 4 and run.args.class_weights == [1, 2.5]
    assert run.data.dataset_name == "some images" and run.student.student_args == {"depth": 3}
    assert run.args.seed == 3 and run.args.learning_rate == 6e-3


@pytest.mark.parametrize(
    ("train_config", "options", "changed"),
    [
        ("image_size: 32\noutput_dir: runs/y\nlearning_rate: 0.006\n", {}, ()),  # another place, another order
        ("learning_rate: 6e-3\nimage_size: 48\n", {}, ("small", "other")),
        (None, {"options": {"num_train_epochs": 3}}, ("small", "other")),
        (None, {"students": GRID["students"] | {"small": {"student": "resnet18", "learning_rate": 1e-3}}}, ("small",)),
    ],
)
def test_a_cell_is_another_when_any_option_of_it_changes(grid, tmp_path, train_config, options, changed):
    path = tmp_path / "cells.jsonl"
    for cell in cells_of(grid()):
        append_result(path, result_of(cell, {"validation": np.arange(3)}))
    args = grid(**options)
    if train_config:
        (tmp_path / "train.yaml").write_text(train_config)
    cells = cells_of(args)
    assert {cell.name for cell in cells} - set(finished(cells, read_results(path))) == {
        cell.name for cell in cells if cell.student in changed
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"students": {}}, "students"),
        ({"baseline": "none"}, "baseline names 'none'"),
        ({"only_students": ["big"]}, "only_students names 'big'"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"processes": 0}, "processes"),
        ({"variants": {"baseline": 3}}, "baseline must hold options"),
        ({"variants": {"baseline": {"ema_decay": None}}}, "baseline: ema_decay has no value"),
        ({"students": {"tiny": {"hflip": None}}, "variants": {"tiny": {}}}, "tiny: hflip has no value"),
        ({"options": {"text_encoder": None}}, "options: text_encoder has no value"),
        ({"splits": ["test"], "final_splits": ["test"]}, "open, or they are not"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(grid, options, said):
    with pytest.raises(ValueError, match=said):
        grid(**options)


# --- Results ---------------------------------------------------------------------------------------------------------


def test_predictions_come_back_as_they_were_and_the_last_result_of_a_cell_counts(tmp_path, grid):
    path, cells = tmp_path / "new" / "cells.jsonl", cells_of(grid())
    for seed in (0, 1):
        classes = np.random.default_rng(seed).integers(0, 1000, 5000)
        append_result(path, result_of(cells[1], {"validation": classes}))
    found = finished(cells, read_results(path), ["validation"])
    assert [*found] == ["small/clip/0"] and np.array_equal(found["small/clip/0"].predicted["validation"], classes)
    assert finished(cells, read_results(path), ["validation", "test"]) == {}  # another split is wanted now
    before, again = read_results(path)
    assert again.other_than(replace(again)) == ""
    again.training = {"train_loss": 1.5}
    assert again.other_than(before).startswith("other predictions: 49")
    assert again.other_than(before).endswith("of 5000 in validation; train_loss 1.5, which was 1.0")


def test_a_line_that_a_kill_has_cut_is_trained_again_and_harms_no_other(tmp_path, grid):
    path, cells = tmp_path / "cells.jsonl", cells_of(grid())
    for cell in cells[:2]:
        append_result(path, result_of(cell, {"validation": np.arange(3)}))
    path.write_bytes(path.read_bytes()[:-30])
    assert [*finished(cells, read_results(path))] == ["small/baseline/0"]
    append_result(path, result_of(cells[1], {"validation": np.arange(3)}))
    assert [*finished(cells, read_results(path))] == ["small/baseline/0", "small/clip/0"]
    path.write_text('{"student": "small"}\n' + path.read_text())
    with pytest.raises(ValueError, match="line 1 is no result"):
        read_results(path)


# --- Statistics ------------------------------------------------------------------------------------------------------


def simulated(rng, *, effect=0.0, of_seeds=0.02, of_clusters=0.1, seeds=5, clusters=150, students=1):
    """
    Gains (seeds, images) with one image in four decided otherwise, the mean of students that have the chance of a seed
    and of an image in common; the clusters.
    """
    index = np.repeat(np.arange(clusters), 2)
    shared = np.repeat(rng.normal(0, of_clusters, clusters), 2)
    mean = np.clip(effect + rng.normal(0, of_seeds, (seeds, 1)) + shared, -0.25, 0.25)
    drawn = rng.random((students, seeds, len(index)))
    return np.where(drawn < 0.125 + mean / 2, 1, np.where(drawn > 0.875 + mean / 2, -1, 0)).mean(0), index


@pytest.mark.parametrize(
    "sources",
    [
        {},
        {"of_seeds": 0.0},
        {"of_clusters": 0.0},
        {"seeds": 3},
        {"students": 8, "seeds": 3},
        {"effect": 0.03, "of_clusters": 0.05},
    ],
    ids=["both", "no seeds", "no clusters", "three seeds", "eight students", "an effect"],
)
def test_the_interval_covers_the_truth_in_about_95_of_100_grids(sources):
    rng, effect = np.random.default_rng(0), sources.get("effect", 0.0)
    covered, rejected = [], []
    for _ in range(1000):
        found = estimate_difference(*simulated(rng, **sources))
        covered.append(found.low <= effect <= found.high)
        rejected.append(found.p < 0.05)
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert 0.93 <= np.mean(covered) <= 0.99
    assert effect or np.mean(rejected) <= 0.07


@pytest.mark.parametrize("sources", [{"of_seeds": 0.1}, {"of_clusters": 0.3}, {}], ids=["seeds", "clusters", "both"])
def test_the_standard_error_is_the_two_way_clustered_one_of_statsmodels(sources):
    gains, clusters = simulated(np.random.default_rng(0), seeds=30, **sources)
    fitted = sm.OLS(gains.ravel(), np.ones(gains.size)).fit()
    seeds = np.repeat(np.arange(len(gains)), gains.shape[1])
    both, _, _ = cov_cluster_2groups(fitted, seeds, np.tile(clusters, len(gains)))
    found, error = estimate_difference(gains, clusters), np.sqrt(both.item())
    half = (found.high - found.low) / 2
    assert found.mean == pytest.approx(fitted.params.item())
    # Ours takes what single cells share with both sources out without their bias, and Satterthwaite's degrees
    assert stats.t.ppf(0.975, 300) * 0.97 * error < half < stats.t.ppf(0.975, 29) * 1.03 * error


def test_images_of_one_thing_count_as_one():
    """Every image ten times is no more evidence than once."""
    table, clusters = simulated(np.random.default_rng(0), of_seeds=0.0, of_clusters=0.2)
    once = estimate_difference(table, clusters)
    tenfold = estimate_difference(np.repeat(table, 10, axis=1), np.repeat(clusters, 10))
    assert (tenfold.mean, tenfold.low, tenfold.high) == pytest.approx((once.mean, once.low, once.high))
    apart = estimate_difference(np.repeat(table, 10, axis=1), np.arange(10 * len(clusters)))
    assert apart.high - apart.low < once.high - once.low


def test_equal_results_are_no_difference_and_one_seed_is_too_few():
    same = estimate_difference(np.zeros((3, 10)), np.arange(10))
    assert (same.mean, same.p, same.positive, same.seeds) == (0, 1, 0, 3) and same.low <= 0 <= same.high
    with pytest.raises(ValueError, match="two or more seeds"):
        estimate_difference(np.zeros((1, 10)), np.arange(10))


def test_holm_is_that_of_statsmodels():
    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.5, 0.9], [0.2], np.random.default_rng(0).random(20) ** 3):
        assert holm([*p_values]) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([]) == []


# --- Findings --------------------------------------------------------------------------------------------------------


@pytest.fixture
def found(grid):
    """Findings of a grid whose `clip` has one image in ten more right than its baseline, on every seed."""
    args, labels = grid(), Labels(np.arange(100) % 7, np.arange(100) // 2)
    results = {}
    for cell in cells_of(args):
        right = 50 + cell.seed + 10 * (cell.variant == "clip")
        predicted = np.where(np.arange(100) < right, labels.classes, 9)
        results[cell.name] = result_of(cell, {"validation": predicted})
    return args, cells_of(args), results, {"validation": labels}


def rows_of(found) -> dict:
    return {(row.student, row.variant): row for row in find(*found)}


def test_findings_hold_every_student_and_all_of_them(found):
    rows = rows_of(found)
    assert set(rows) == {(student, variant) for student in ("small", "other", None) for variant in GRID["variants"]}
    clip = rows["small", "clip"]
    assert clip.accuracies == {0: 0.60, 1: 0.61, 2: 0.62} and clip.mean == pytest.approx(0.61)
    assert clip.difference.mean == pytest.approx(0.1) and clip.difference.positive == 3
    assert rows["small", "baseline"].difference is None and rows[None, "clip"].difference.mean == pytest.approx(0.1)
    assert clip.p_holm >= clip.difference.p


def test_missing_cells_and_unlabelled_images_are_left_out(found):
    del found[2]["small/baseline/1"]
    found[3]["validation"].classes[50:] = -100  # of these the baseline has none right
    rows = rows_of(found)
    assert rows["small", "clip"].difference.seeds == 2 and len(rows["small", "clip"].accuracies) == 3
    assert rows["small", "baseline"].mean == 1 and rows["small", "clip"].difference.mean == 0


def test_predictions_of_other_images_or_in_another_order_are_refused(found):
    labels, ids = found[3]["validation"], [str(row) for row in range(100)]
    labels.digest = digest_of_rows(ids, ["a", "b"])
    assert find(*found)  # of results that do not say
    for result in found[2].values():
        result.images = {"validation": labels.digest}
    assert find(*found)
    for other in (digest_of_rows(ids[::-1], ["a", "b"]), digest_of_rows(ids, ["b", "a"])):
        found[2]["small/clip/1"].images = {"validation": other}
        with pytest.raises(ValueError, match="small/clip/1 predicted other images of validation"):
            find(*found)
    found[2]["small/clip/1"].images = {}
    labels.classes, labels.clusters = labels.classes[:-1], labels.clusters[:-1]
    with pytest.raises(ValueError, match=r"predicted other images of validation.*\(--results\)"):
        find(*found)


def test_the_table_and_the_plot_show_them(found, tmp_path):
    rows = find(*found)
    assert "| validation | small | clip | 61.0 ± 1.0 | +10.0 |" in as_table(rows)
    nothing = replace(rows[0], difference=Difference(-1e-17, -1e-16, 1e-16, 1.0, 0, 3))
    assert "| +0.0 | +0.0 to +0.0 |" in as_table([nothing])
    plot_differences(rows, tmp_path / "new" / "plot.png")
    assert PILImage.open(tmp_path / "new" / "plot.png").width > 400


def test_a_summary_says_how_it_was_made_and_from_what(found, tmp_path, monkeypatch):
    config = ROOT / "recipes" / "emoji_styles" / "compare.yaml"
    words = ["--config", str(config), "--final", "true", f"--summary={tmp_path / 'figures.json'}"]
    monkeypatch.setattr("sys.argv", [str(ROOT / "g4i_hf" / "recipes" / "compare.py"), *words])
    for number, result in enumerate(found[2].values()):
        result.made = {"commit": "ab"[number % 2]}
    write_summary(tmp_path / "figures.json", found[2], find(*found), [0, 1, 2])
    summary = json.loads((tmp_path / "figures.json").read_text())
    assert list(summary) == ["made", "seeds", "findings"] and len(summary["findings"]) == 6
    made = summary["made"]
    assert set(made) == {"command", "date", "commit", "commits_of_cells", "versions", "machine"}
    assert {"python", "torch", "numpy"} <= set(made["versions"])
    assert made["commits_of_cells"] == ["a", "b"] and len(made["date"]) == 10
    compared = "python g4i_hf/recipes/compare.py --config recipes/emoji_styles/compare.yaml --final true"
    assert made["command"] == f"{compared} --summary=figures.json"
    monkeypatch.setattr("sys.argv", ["/venv/bin/g4i", "compare", "--only_students", "a, 5%"])
    assert command() == "g4i compare --only_students 'a, 5%'"


def test_a_part_of_a_grid_does_not_replace_the_figures_of_the_whole(found, tmp_path):
    path, whole = tmp_path / "figures.json", find(*found)
    assert not_scored_now(path, whole, [0]) == []
    test = [replace(finding, split="test") for finding in whole]
    write_summary(path, found[2], whole + test, [0, 1, 2])
    assert (
        not_scored_now(path, whole, [0, 1, 2]) == ["test"] and not_scored_now(path, whole + test, [0, 1, 2, 3]) == []
    )
    part = [row for row in whole + test if row.student == "small" and row.variant == "baseline"]
    assert not_scored_now(path, part, [0, 1]) == ["other", "clip", "seed 2"]  # of --only_students small --seeds 0 1
