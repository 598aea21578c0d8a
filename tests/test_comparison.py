"""Comparisons: what a grid is made of, what is kept of a cell, and what is said of its results."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from g4i_hf.cli import OptionError, parse_options
from g4i_hf.commands import train
from g4i_hf.comparison.findings import Labels, as_table, find
from g4i_hf.comparison.grid import cells_of
from g4i_hf.comparison.openings import note_opening
from g4i_hf.comparison.pixel_neighbours import labelled_pixels, neighbour_predictions
from g4i_hf.comparison.plots import lines_of, plot_curves, plot_differences
from g4i_hf.comparison.results import (
    Result,
    append_result,
    check_device,
    digest_of_rows,
    finished,
    other_than,
    pack,
    read_results,
    unpack,
)
from g4i_hf.comparison.statistics import Difference, estimate_difference, holm
from g4i_hf.comparison.summary import command, left_out, write_summary
from g4i_hf.options import CompareArguments
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
    return Result(cell.student, cell.variant, cell.seed, cell.digest, cell.options, predicted, {}, training, device)


# --- Grid ------------------------------------------------------------------------------------------------------------


def test_cells_differ_in_what_is_named_and_in_nothing_else(grid):
    cells = {cell.name: cell for cell in cells_of(grid())}
    assert len(cells) == 12 and [*cells][:4] == [
        "small/baseline/0",
        "small/clip/0",
        "other/baseline/0",
        "other/clip/0",
    ]
    for seed in range(3):
        first = cells[f"small/baseline/{seed}"].argv("train.yaml", "somewhere")
        second = cells[f"small/clip/{seed}"].argv("train.yaml", "somewhere")
        differing = {(a, b) for a, b in zip(first, second, strict=True) if a != b}
        assert differing == {("0", "0.3")}


def test_data_can_differ_by_student_and_seed(grid):
    options = {"dataset_name": "runs/of {student}/{seed}", "student_args": {"name": "{seed}"}}
    cells = cells_of(grid(variants={"baseline": {}, "own": options}, seeds=[3, 4]))
    found = [cell.argv("train.yaml", "out") for cell in cells if cell.variant == "own"]
    assert [words[words.index("--dataset_name") + 1] for words in found] == [
        f"runs/of {student}/{seed}" for seed in (3, 4) for student in ("small", "other")
    ]
    assert all(words[words.index("--student_args") + 1] == '{"name": "{seed}"}' for words in found)
    assert all(cell.options == options | cell.student_options for cell in cells if cell.variant == "own")


def test_a_cell_is_another_when_any_option_of_it_changes(grid, tmp_path):
    before = {cell.name: cell.digest for cell in cells_of(grid())}
    assert len(set(before.values())) == len(before)
    changed = {cell.name: cell.digest for cell in cells_of(grid(options={"num_train_epochs": 3}))}
    assert not set(before.values()) & set(changed.values())
    faster = GRID["students"] | {"small": {"student": "resnet18", "learning_rate": 1e-3}}
    of_one = {cell.name: cell.digest for cell in cells_of(grid(students=faster))}
    assert {name for name in before if before[name] != of_one[name]} == {name for name in before if "small" in name}
    (tmp_path / "train.yaml").write_text("learning_rate: 6e-3\nimage_size: 48\noutput_dir: runs/x\n")
    assert not set(before.values()) & {cell.digest for cell in cells_of(grid())}


def test_neither_the_place_of_a_run_nor_the_order_of_options_makes_another_cell(grid, tmp_path):
    before = [cell.digest for cell in cells_of(grid())]
    (tmp_path / "train.yaml").write_text("image_size: 32\noutput_dir: runs/y\nlearning_rate: 0.006\n")
    assert [cell.digest for cell in cells_of(grid())] == before


def test_a_part_of_the_grid_has_the_same_cells(grid):
    whole = {cell.digest for cell in cells_of(grid())}
    part = cells_of(grid(only_students=["other"], only_variants=["clip"], seeds=[2]))
    assert [cell.name for cell in part] == ["other/clip/2"] and part[0].digest in whole


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"students": {}}, "students"),
        ({"baseline": "none"}, "baseline names 'none'"),
        ({"against": {"clip": "nothing"}}, "against names 'nothing'"),
        ({"only_students": ["big"]}, "only_students names 'big'"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"processes": 0}, "processes"),
        ({"variants": {"baseline": 3}}, "baseline must hold options"),
        ({"variants": {"baseline": {"ema_decay": None}}}, "baseline: ema_decay has no value"),
        ({"options": {"text_encoder": None}}, "options: text_encoder has no value"),
        ({"splits": ["test"], "final_splits": ["test"]}, "open, or they are not"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(grid, options, said):
    with pytest.raises(ValueError, match=said):
        grid(**options)


def test_lists_reach_the_training_as_lists(grid, tmp_path):
    options = {
        "use_peft": True,
        "pretrained": True,
        "lora_target_modules": ["attn.qkv", "attn.proj"],
        "class_weights": [1, 2.5],
        "dataset_name": "x",
    }
    cell = cells_of(grid(variants={"baseline": options}))[0]
    run = TrainingRun(*parse_options(train.OPTIONS, cell.argv(str(tmp_path / "train.yaml"), tmp_path / "run")))
    assert run.student.lora_target_modules == ["attn.qkv", "attn.proj"]
    assert run.args.class_weights == [1, 2.5]


def test_a_grid_is_read_from_yaml_with_numbers_as_numbers(tmp_path):
    (tmp_path / "train.yaml").write_text("image_size: 32\n")
    (tmp_path / "compare.yaml").write_text(
        "train_config: ./train.yaml\nstudents: {a: {student: resnet18, learning_rate: 6e-3}}\n"
        "variants: {baseline: {align_weight: 0}}\nseeds: [3]\n"
    )
    (args,) = parse_options((CompareArguments,), ["--config", str(tmp_path / "compare.yaml"), "--seeds", "4", "5"])
    assert args.students["a"]["learning_rate"] == 0.006 and args.seeds == [4, 5]
    with pytest.raises(OptionError):
        parse_options((CompareArguments,), ["--config", str(tmp_path / "compare.yaml"), "--seed", "4"])


# --- Results ---------------------------------------------------------------------------------------------------------


def test_predictions_come_back_as_they_were(tmp_path, grid):
    classes = np.random.default_rng(0).integers(0, 1000, 5000)
    assert np.array_equal(unpack(pack(classes)), classes)
    cell = cells_of(grid())[1]
    append_result(tmp_path / "new" / "cells.jsonl", result_of(cell, {"validation": classes}))
    (read,) = read_results(tmp_path / "new" / "cells.jsonl")
    assert np.array_equal(read.predicted["validation"], classes)
    assert (read.student, read.variant, read.seed, read.options) == ("small", "clip", 0, cell.options)


def test_a_cell_trained_again_is_told_by_its_predictions_and_by_its_loss(grid):
    before = result_of(cells_of(grid())[0], {"validation": np.arange(4), "test": np.arange(3)})
    assert other_than(before, replace(before)) == ""
    again = replace(before, predicted=before.predicted | {"test": np.array([0, 2, 1])})
    assert other_than(before, again) == "other predictions: 2 of 3 in test"
    again = replace(again, training={"train_loss": 1.5})
    assert other_than(before, again) == "other predictions: 2 of 3 in test; train_loss 1.5, which was 1.0"


def test_a_line_that_a_kill_has_cut_is_trained_again_and_harms_no_other(tmp_path, grid):
    path, cells = tmp_path / "cells.jsonl", cells_of(grid())
    for cell in cells[:2]:
        append_result(path, result_of(cell, {"validation": np.arange(3)}))
    path.write_bytes(path.read_bytes()[:-30])
    assert [*finished(cells, read_results(path))] == ["small/baseline/0"]
    append_result(path, result_of(cells[1], {"validation": np.arange(3)}))
    assert [*finished(cells, read_results(path))] == ["small/baseline/0", "small/clip/0"]


def test_a_line_that_is_whole_but_no_result_is_an_error(tmp_path, grid):
    path, cells = tmp_path / "cells.jsonl", cells_of(grid())
    path.write_text('{"student": "small"}\n')
    append_result(path, result_of(cells[0], {"validation": np.arange(3)}))
    with pytest.raises(ValueError, match="line 1 is no result"):
        read_results(path)


def test_cells_of_other_options_do_not_count_and_the_last_of_equal_ones_does(tmp_path, grid):
    path, cells = tmp_path / "cells.jsonl", cells_of(grid())
    for cell in cells_of(grid(options={"num_train_epochs": 3})):
        append_result(path, result_of(cell, {"validation": np.zeros(3, dtype=int)}))
    assert finished(cells, read_results(path)) == {}
    for value in (1, 2):
        append_result(path, result_of(cells[0], {"validation": np.full(3, value)}))
    assert finished(cells, read_results(path))["small/baseline/0"].predicted["validation"].tolist() == [2, 2, 2]


def test_a_cell_that_did_not_predict_a_split_which_is_wanted_now_is_missing(tmp_path, grid):
    path, cells = tmp_path / "cells.jsonl", cells_of(grid())
    append_result(path, result_of(cells[0], {"validation": np.arange(3)}))
    assert [*finished(cells, read_results(path), ["validation"])] == [cells[0].name]
    assert finished(cells, read_results(path), ["validation", "test"]) == {}


def test_kinds_of_devices_are_not_mixed(grid):
    results = {"small/clip/0": result_of(cells_of(grid())[1], {}, device="NVIDIA H100")}
    check_device(results, "NVIDIA H100")
    with pytest.raises(ValueError, match="NVIDIA H100, this machine has cpu"):
        check_device(results, "cpu")


def test_an_opening_is_noted_once_a_time(tmp_path, capsys):
    path = tmp_path / "LOG.md"
    path.write_text("# Log")
    for _ in range(2):
        note_opening(str(path), ["test"], "cells.jsonl")
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and all("test opened for `cells.jsonl`" in line for line in lines[1:])
    note_opening(None, ["test"], "cells.jsonl")
    assert "test opened" in capsys.readouterr().out


def test_the_command_is_noted_as_it_can_be_given_again(tmp_path, monkeypatch):
    whole = "g4i compare --module my_student.py --config compare.yaml"
    monkeypatch.setattr(sys, "argv", [str(Path(sys.executable).with_name("g4i")), *whole.split()[1:]])
    note_opening(str(tmp_path / "LOG.md"), ["test"], "cells.jsonl")
    assert (tmp_path / "LOG.md").read_text().endswith(f"by `{whole}`\n")
    write_summary(tmp_path / "summary.json", {}, [], {}, [0])
    assert json.loads((tmp_path / "summary.json").read_text())["made"]["command"] == whole


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
        found = estimate_difference(*simulated(rng, **sources), resamples=0)
        covered.append(found.low <= effect <= found.high)
        rejected.append(found.p < 0.05)
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert 0.93 <= np.mean(covered) <= 0.99
    assert effect or np.mean(rejected) <= 0.07


def test_an_effect_is_found_by_more_seeds_and_not_by_the_bootstraps_wider_interval():
    rng = np.random.default_rng(1)
    few, many, wider = [], [], []
    for _ in range(100):
        gains, clusters = simulated(rng, effect=0.03, of_seeds=0.01, of_clusters=0.05, seeds=10)
        found = estimate_difference(gains, clusters, resamples=300)
        many.append(found.low > 0)
        few.append(estimate_difference(gains[:3], clusters, resamples=0).low > 0)
        wider.append(found.bootstrap_high - found.bootstrap_low > found.high - found.low)
    assert np.mean(many) > np.mean(few) + 0.3 and np.mean(wider) > 0.8


def test_images_of_one_thing_count_as_one():
    """Every image ten times is no more evidence than once."""
    table, clusters = simulated(np.random.default_rng(0), of_seeds=0.0, of_clusters=0.2)
    once = estimate_difference(table, clusters, resamples=0)
    tenfold = estimate_difference(np.repeat(table, 10, axis=1), np.repeat(clusters, 10), resamples=0)
    assert (tenfold.mean, tenfold.low, tenfold.high) == pytest.approx((once.mean, once.low, once.high))
    apart = estimate_difference(np.repeat(table, 10, axis=1), np.arange(10 * len(clusters)), resamples=0)
    assert apart.high - apart.low < once.high - once.low


def test_equal_results_are_no_difference_and_one_seed_is_too_few():
    same = estimate_difference(np.zeros((3, 10)), np.arange(10), resamples=50)
    assert (same.mean, same.p, same.positive, same.seeds) == (0, 1, 0, 3) and same.low <= 0 <= same.high
    with pytest.raises(ValueError, match="two or more seeds"):
        estimate_difference(np.zeros((1, 10)), np.arange(10))


def test_holm_corrects_as_published():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


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


def test_findings_hold_every_student_and_all_of_them(found):
    rows = {(row.student, row.variant): row for row in find(*found)}
    assert set(rows) == {(student, variant) for student in ("small", "other", None) for variant in GRID["variants"]}
    clip = rows["small", "clip"]
    assert clip.accuracies == {0: 0.60, 1: 0.61, 2: 0.62} and clip.mean == pytest.approx(0.61)
    assert clip.difference.mean == pytest.approx(0.1) and clip.difference.positive == 3
    assert rows["small", "baseline"].difference is None
    assert rows[None, "clip"].difference.mean == pytest.approx(0.1)
    assert rows["small", "clip"].p_holm >= rows["small", "clip"].difference.p


def test_pairs_with_a_missing_cell_are_left_out(found):
    args, cells, results, labels = found
    del results["small/baseline/1"]
    row = next(row for row in find(args, cells, results, labels) if (row.student, row.variant) == ("small", "clip"))
    assert row.difference.seeds == 2 and len(row.accuracies) == 3


def test_a_variant_can_be_compared_with_another_one(found):
    args, cells, results, labels = found
    args.against = {"baseline": "clip"}
    rows = {(row.student, row.variant): row for row in find(args, cells, results, labels)}
    assert rows["small", "baseline"].difference.mean == pytest.approx(-0.1)
    assert rows["small", "clip"].difference is None


def test_what_a_variant_is_compared_with_keeps_its_own_comparison(grid):
    variants = {name: {} for name in ("baseline", "mixup", "mixup without captions")}
    args = grid(variants=variants, against={"mixup": "mixup without captions"})
    assert {name: args.reference_of(name) for name in variants} == {
        "baseline": None,
        "mixup": "mixup without captions",
        "mixup without captions": "baseline",
    }


def test_images_without_a_label_are_not_scored(found):
    args, cells, results, labels = found
    labels["validation"].classes[50:] = -100  # of these the baseline has none right
    rows = {(row.student, row.variant): row for row in find(args, cells, results, labels)}
    assert rows["small", "baseline"].mean == 1 and rows["small", "clip"].difference.mean == 0


def test_predictions_of_images_in_another_order_are_refused(found):
    args, cells, results, labels = found
    ids = [str(row) for row in range(100)]
    labels["validation"].digest = digest_of_rows(ids, ["a", "b"])
    assert find(args, cells, results, labels)  # of results that do not say
    for result in results.values():
        result.images = {"validation": labels["validation"].digest}
    assert find(args, cells, results, labels)
    for other in (digest_of_rows(ids[::-1], ["a", "b"]), digest_of_rows(ids, ["b", "a"])):
        results["small/clip/1"].images = {"validation": other}
        with pytest.raises(ValueError, match="small/clip/1 predicted other images of validation"):
            find(args, cells, results, labels)


def test_predictions_of_other_data_are_refused(found):
    args, cells, results, labels = found
    labels["validation"].classes = labels["validation"].classes[:-1]
    with pytest.raises(ValueError, match="the data has changed"):
        find(args, cells, results, labels)


def test_the_table_and_the_plot_show_them(found, tmp_path):
    rows = find(*found)
    table = as_table(rows, {"validation": 0.55})
    assert "| validation | small | clip | 61.0 ± 1.0 | +10.0 |" in table
    nothing = replace(rows[0], difference=Difference(-1e-17, -1e-16, 1e-16, 1.0, 0, 3, 0.0, 0.0))
    assert "| +0.0 | +0.0 to +0.0 |" in as_table([nothing], {})
    assert "| validation | all | baseline | 51.0 ± 1.0 (below the nearest neighbour) |" in table
    assert "small | baseline | 51.0 ± 1.0 |" in as_table(rows, {"validation": 0.55}, few_labels={"small"})
    plot_differences(rows, tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").stat().st_size > 5000
    json.dumps([row.to_dict() for row in rows])


def test_a_summary_says_how_it_was_made_and_from_what(found, tmp_path, monkeypatch):
    config = ROOT / "recipes" / "emoji_styles" / "compare.yaml"
    words = ["--config", str(config), "--final", "true", f"--summary={tmp_path / 'figures.json'}"]
    monkeypatch.setattr("sys.argv", [str(ROOT / "g4i_hf" / "recipes" / "compare.py"), *words])
    for number, result in enumerate(found[2].values()):
        result.made = {"commit": "ab"[number % 2]}
    write_summary(tmp_path / "figures.json", found[2], find(*found), {"validation": 0.5}, [0, 1, 2])
    summary = json.loads((tmp_path / "figures.json").read_text())
    assert list(summary) == ["made", "seeds", "nearest_neighbour", "findings"]
    made = summary["made"]
    assert set(made) == {"command", "date", "commit", "commits_of_cells", "versions", "machine"}
    assert {"python", "torch", "numpy"} <= set(made["versions"])
    assert made["commits_of_cells"] == ["a", "b"] and len(made["date"]) == 10
    compared = "python recipes/compare.py --config recipes/emoji_styles/compare.yaml --final true"
    assert made["command"] == f"{compared} --summary=figures.json"
    monkeypatch.chdir(config.parent)
    assert command(["../compare.py", "--config", "compare.yaml", "--final", "true"]) == compared
    assert command(["x.py", "--only_students", "resnet, 5%"]) == "python x.py --only_students 'resnet, 5%'"


def test_splits_of_a_summary_that_are_not_scored_now_are_named(found, tmp_path):
    path, validation = tmp_path / "figures.json", find(*found)
    assert left_out(path, validation, [0]) == []
    test = [replace(finding, split="test") for finding in validation]
    write_summary(path, found[2], validation + test, {}, [0, 1, 2])
    assert left_out(path, validation, [0, 1, 2]) == ["test"] and left_out(path, validation + test, [0, 1, 2, 3]) == []


def test_a_part_of_a_grid_does_not_replace_the_figures_of_the_whole(found, tmp_path):
    """As of `--only_students small --seeds 0 1`."""
    path, whole = tmp_path / "figures.json", find(*found)
    write_summary(path, found[2], whole, {}, [0, 1, 2])
    part = [row for row in whole if row.student == "small" and row.variant == "baseline"]
    assert left_out(path, part, [0, 1]) == ["other", "clip", "seed 2"]
    assert left_out(path, whole, [0, 1, 2]) == []


def test_curves_join_students_that_differ_in_the_option_alone(grid, tmp_path):
    students = {"small": {"student": "resnet18"}, "small, 20%": {"student": "resnet18", "label_fraction": 0.2}}
    args, labels = grid(students=students | {"other": {"student": "vit"}}), Labels(np.arange(50) % 5, np.arange(50))
    cells = cells_of(args)
    assert lines_of(cells, "label_fraction", {"small": 1, "small, 20%": 0.2, "other": 1}) == {
        "small": ["small, 20%", "small"],
        "other": ["other"],
    }
    results = {cell.name: result_of(cell, {"validation": np.arange(50) % 4}) for cell in cells}
    findings = find(args, cells, results, {"validation": labels})
    plot_curves(findings, cells, "label_fraction", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="No student has the option 'image_size'"):
        plot_curves(findings, cells, "image_size", tmp_path / "curves.png")


def test_the_nearest_neighbour_is_a_labelled_image():
    greys, labels = [0, 60, 200], [1, None, 0]
    train, asked = (
        Dataset.from_dict(
            {"image": [PILImage.new("RGB", (8, 8), (grey,) * 3) for grey in shown], "label": labels[: len(shown)]},
            features=Features({"image": Image(), "label": ClassLabel(names=["dark", "light"][::-1])}),
        ).cast_column("image", Image(decode=False))
        for shown in (greys, [70, 190])
    )
    assert neighbour_predictions(labelled_pixels(train), asked).tolist() == [1, 0]
