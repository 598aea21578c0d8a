"""All layers in `g4i fit`: a budget, the judge that keeps the best or the last layer, interruptions."""

import json
import re
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import make
import numpy as np
import pytest
import torch
from caption_doors import WORKERS
from doors import ROOT, spelled, succeed
from drawings import draw_folder
from fitting import few_labels, results_of, save_resnet
from loaded import PYTHON
from safetensors.torch import load_file
from test_judging import targets_of
from test_judging import told as told_of

from g4i_hf import AlignedImageClassification, AlignmentTrainer
from g4i_hf.fitting import all_layers
from g4i_hf.fitting.judge import Validation, judged_heads
from g4i_hf.hub import save_student
from g4i_hf.running import main

SHORT = {"FEWEST_STEPS": 4, "USUAL_STEPS": (6, 6), "MOST_EPOCHS": 1, "MOST_STEPS": 6}
NAMES = {"kept", "minutes", "epochs", "last_layer_accuracy", "accuracy"}


@pytest.fixture
def short(monkeypatch):
    """Six steps in place of hundreds, with a look of the judge at every second one."""
    for name, value in SHORT.items():
        monkeypatch.setattr(all_layers, name, value)
    monkeypatch.setattr(all_layers, "LOOKS", (3, 3))


@pytest.fixture
def fitted(fitted):
    """Drawings look like frames of a few scenes, which are not the subject here."""
    return partial(fitted, group_by="none")


@pytest.fixture
def validated(tmp_path) -> Path:
    return draw_folder(tmp_path / "pictures", train=65, validation=24)


def stopped_at(monkeypatch, step: int, stop) -> None:
    """Calls `stop` with the trainer in that step of a training with all layers."""
    original = AlignmentTrainer.training_step

    def training_step(trainer, *args, **kwargs):
        if "all_layers" in trainer.args.output_dir and trainer.state.global_step + 1 == step:
            stop(trainer)
        return original(trainer, *args, **kwargs)

    monkeypatch.setattr(AlignmentTrainer, "training_step", training_step)


@pytest.mark.slow
def test_all_layers_start_from_the_last_layer_that_is_judged_and_ship_unless_they_lose(
    fitted, tmp_path, monkeypatch, short, capsys
):
    """With a learning rate of 0 it predicts the same: norms keep their statistics; no layer saw the kept images."""
    monkeypatch.setattr(all_layers, "RATE", 0)
    folder = few_labels(tmp_path, 3, train=120)
    found = fitted(folder, tmp_path / "out", finetune="auto", minutes=1)
    layers = results_of(tmp_path / "out")["all_layers"]
    assert found.judged_on == "holdout" and found.all_layers == layers and found.finetuned
    assert {*layers} >= NAMES and layers["kept"] is True and layers["epochs"] == 3
    assert layers["accuracy"] == layers["last_layer_accuracy"] == pytest.approx(found.with_views_accuracy)
    assert "no clear loss, so they ship" in capsys.readouterr().out


def test_all_layers_ship_where_they_judge_better(fitted, validated, tmp_path, monkeypatch, capsys):
    """The last batch of 65 images has one. The comparison stays on last layers."""
    for name, value in {"FEWEST_STEPS": 10, "MOST_STEPS": 40, "RATE": 0.01}.items():
        monkeypatch.setattr(all_layers, name, value)
    out, names = tmp_path / "out", [f"train/circle/n{row}.png" for row in range(24)]
    for row, name in enumerate(names):
        make.noise(row, 32).save(validated / name)
    taken_out = [json.dumps({"file_name": name, "label": None, "none": True}) + "\n" for name in names]
    (validated / "labels.jsonl").write_text("".join(taken_out))
    found = fitted(validated, out, minutes=5, finetune="auto", release="with_views")
    layers, said = results_of(out)["all_layers"], capsys.readouterr().out
    assert layers["kept"] is found.finetuned is True and layers["accuracy"] > layers["last_layer_accuracy"]
    assert found.with_views_accuracy == layers["last_layer_accuracy"] and layers["classifier"] == "with_views"
    figures = "^All layers, .* minutes: .*% where the last layer alone has .*% \\(gain .* points, .* to .*\\)\\. With"
    assert re.search(figures, said, re.MULTILINE) and "with all layers trained" in said
    assert "captions the last layer is right for about" in said and len(re.findall("minutes: ", said)) == 1
    run = out / "all_layers"
    assert not [*run.glob("checkpoint-*"), *run.glob("best*"), *run.glob("looks*")]
    shipped, trained, last = (load_weights(folder) for folder in (out / "classifier", run, out / "with_views"))
    assert all(torch.equal(shipped[key], trained[f"student.timm_model.{key}"]) for key in shipped)
    noise = [make.noise(100 + row, 32) for row in range(20)]
    assert found.predict(noise)["decision"].count("none") >= 12
    scores = [load_file(out / name / "none_of_these.safetensors") for name in ("classifier", "with_views")]
    assert not torch.equal(*(score["weight"] for score in scores)), "features of the trained layers have their score"
    moved = {key for key in last if not torch.equal(last[key], trained[key])}
    assert "student.timm_model.conv1.weight" in moved and not [key for key in moved if "running_" in key]
    main(["evaluate", str(out), "--splits", "validation"])
    of_evaluate = json.loads((out / "validation_results.json").read_text())["all_layers_accuracy"]
    said = capsys.readouterr().out
    assert f"all layers {of_evaluate:.1%}; g4i fit had said {layers['accuracy']:.1%}" in said
    card = " ".join((out / "classifier" / "README.md").read_text().split())
    assert "All its layers were trained" in card and "captions and image features tell together" in card
    last_layer = f"with the last layer alone for about {100 * layers['last_layer_accuracy']:.0f}%"
    assert last_layer in results_of(out / "all_layers")["judgement"]
    labels_only = fitted(validated, out, minutes=5, finetune="auto", release="labels_only")
    assert not labels_only.finetuned


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_network_that_is_better_than_the_image_view_wins():
    """
    Captions tell little, and image features more, which are wrong for a third of the images: a network that is right
    for all would lose to the last layer by the probabilities of both views.
    """
    classes, truth = 3, np.repeat(np.arange(3), 200)[np.random.default_rng(0).permutation(600)]
    seen = np.eye(classes)[told_of(truth, 0.66, 1, classes)]
    features = np.random.default_rng(2).normal(seen, 0.1).astype(np.float32)
    captions = np.random.default_rng(3).normal(np.eye(classes)[truth], 0.9).astype(np.float32)
    labels = np.where(np.arange(600) < 60, truth, -1)
    targets, judge = targets_of(features, labels, captions, np.arange(600))
    judged_heads(targets, features, judge)
    right = np.eye(classes)[truth[judge.rows]]
    assert (judge.logits["with_views"].argmax(1) == right.argmax(1)).mean() < 0.8
    by_all, rows = judge.probabilities, np.arange(len(right))
    assert by_all[rows, right.argmax(1)].mean() < by_all[rows, judge.logits["with_views"].argmax(1)].mean()
    last = judge.logits["with_views"].argmax(1)
    assert judge.can_choose_layers and judge.gain("with_views", right.argmax(1)[None]).interval[0] > 0
    assert judge.gain("with_views", last[None]).share == 0
    del targets.evidence.views["caption"]
    assert not judge.can_choose_layers, "nothing but the image view"


def test_the_best_of_ten_looks_gains_nothing_by_chance():
    """
    Of 30 frames each look is wrong for others, as often as the last layer: the best look has 3 more right by chance.
    Frames of one scene are alike, so that they widen the interval.
    """
    generator, gains, holds = np.random.default_rng(0), [], []
    for _ in range(400):
        groups = np.repeat(np.arange(15), 2)
        answers = (generator.random((11, 15)) < 0.3).astype(int)[:, groups]
        judge = Validation(np.arange(30), np.zeros((30, 1)), np.eye(2)[np.zeros(30, dtype=int)], groups=groups)
        judge.logits = {"with_views": np.eye(2)[answers[0]]}
        gain = judge.gain("with_views", answers[1:])
        gains.append(gain.share)
        holds.append(gain.interval[0] <= 0 <= gain.interval[1])
    assert abs(np.mean(gains)) < 0.025 and np.mean(holds) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(("minutes", "steps"), [(3, 27), (8, 72), (1000, 300), (None, 120)])
def test_a_budget_is_as_many_steps_as_fit_into_it(fitted, tmp_path, monkeypatch, capsys, minutes, steps):
    """A tenth is for the judge; 300 steps are the most for so few images, and 120 the usual length."""
    planned = []
    monkeypatch.setattr(all_layers, "seconds_per_step", lambda _: 6.0)
    monkeypatch.setattr(AlignmentTrainer, "train", lambda trainer, **_: planned.append(trainer.args.max_steps))
    given = {"finetune": "auto", "minutes": minutes} if minutes else {"finetune": "true"}
    found = fitted(few_labels(tmp_path, 3, train=110), **given)
    assert planned[-1] == steps and f"All layers: {steps} steps of 64 images" in capsys.readouterr().out
    assert found.all_layers["accuracy"] is None and not found.finetuned, "never judged"


def test_too_few_minutes_and_what_cannot_be_judged_leave_the_earlier_result_and_say_what_would_do(
    fitted, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(all_layers, "seconds_per_step", lambda _: 6.0)
    validated, unjudged = draw_folder(tmp_path / "some", train=9, validation=6), few_labels(tmp_path, 1, train=24)
    few = "minutes is 0.5, too few .*: a step takes 6 s, and 20 steps .* minutes 6.8 is enough"
    nothing = "kept only where they judge better.*`validation`.*validation_fraction"
    cases = [(validated, {"minutes": 0.5}, few), (unjudged, {"minutes": 1}, nothing)]
    cases += [(unjudged, {"finetune": "true", "overwrite": True}, nothing)]
    for pictures, given, message in cases:
        out = tmp_path / "fitted" / pictures.name
        fitted(pictures, out)
        with pytest.raises(ValueError, match=message):
            fitted(pictures, out, **({"finetune": "auto"} | given))
        assert not (out / "earlier-1").exists() and capsys.readouterr()
        fitted(pictures, out)
        assert "holds this very result" in capsys.readouterr().out


@pytest.mark.slow
def test_the_last_layers_alone_end_with_how_long_all_would_take(fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(all_layers, "seconds_per_step", lambda _: 0.25)  # of 4 images
    pictures = few_labels(tmp_path, 3, train=120)
    labelled = draw_folder(tmp_path / "labelled", train=110)  # nothing can judge, but labelled images could
    for folder, more in ((pictures, ""), (labelled, " --validation_fraction 0.2")):
        fitted(folder, finetune="auto")
        said = capsys.readouterr().out
        assert f"All layers: training them too would take about 9 minutes here: --minutes 10{more}\n" in said
    assert fitted(pictures, finetune="false") and "--minutes" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 5])
def test_ctrl_c_keeps_the_best_so_far_and_writes_the_result(
    fitted, validated, tmp_path, monkeypatch, capsys, short, step
):
    """In step 2 nothing has been judged yet."""

    def stop(_):
        raise KeyboardInterrupt

    stopped_at(monkeypatch, step, stop)
    monkeypatch.setattr(all_layers, "RATE", 0.05)
    out = tmp_path / "out"
    found = fitted(validated, out, minutes=1, finetune="auto", release="with_views")
    layers, said = results_of(out)["all_layers"], capsys.readouterr().out
    assert "All layers: interrupted." in said and (layers["accuracy"] is None) == (step == 2)
    assert layers["epochs"] == (step - 1) / 2 and found.released == "with_views"
    fitted(validated, out, minutes=1, finetune="auto", release="with_views")
    assert "holds this very result" in capsys.readouterr().out


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_with_the_last_good_weights(
    fitted, validated, tmp_path, monkeypatch, capsys, short
):
    def stop(trainer):
        with torch.no_grad():
            next(trainer.model.student.parameters()).fill_(torch.nan)

    stopped_at(monkeypatch, 5, stop)
    found = fitted(validated, tmp_path / "out", minutes=1, finetune="auto")
    said = capsys.readouterr().out
    assert re.search("All layers: In step 5 of 6 .* NaN or infinite.* What was best before that is kept", said)
    assert found.all_layers["accuracy"] is not None
    shipped = load_weights(found.classifier)
    assert all(torch.isfinite(tensor).all() for tensor in shipped.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_students_with_layer_norms_train(fitted, validated, tmp_path, monkeypatch, short, kind):
    students = {
        "vit": ("vit_tiny_patch16_224", {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}),
        "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    }
    name, args = students[kind]
    what = {"id2label": {0: "ant", 1: "bee"}, "text_embed_dim": 8, "image_size": 32, "student_args": args}
    torch.manual_seed(2)
    save_student(AlignedImageClassification.from_student(name, **what), tmp_path / "student")
    found = fitted(validated, tmp_path / "out", student=str(tmp_path / "student"), minutes=9, finetune="true")
    assert found.all_layers["accuracy"] >= 0 and found.all_layers["epochs"] == 3


@pytest.mark.slow
def test_all_layers_that_are_killed_resume_to_the_same_weights(student, words, tmp_path):
    """After the second look of the judge, before its checkpoint. A changed student begins anew, and says so."""
    pictures = draw_folder(tmp_path / "pictures", train=65, validation=24)
    options = {"student": student, "image_size": 32, "text_encoder": words, "minutes": 1, "release": "with_views"}
    code = "from g4i_hf.fitting import all_layers; "
    code += "; ".join(f"all_layers.{name} = {value}" for name, value in (SHORT | {"LOOKS": (3, 3)}).items())
    code += "; all_layers.RATE = 0.05; from g4i_hf.running import main; main(sys.argv[1:])"
    place = "g4i_hf.fitting.all_layers:Best._look"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for out, call, ends in ((whole, "100", 0), (cut, "2", -signal.SIGKILL), (cut, "100", 0)):
        run = [PYTHON, WORKERS / "deadly.py", place, call, code, "fit", pictures, "-o", out, *spelled((options,))]
        assert subprocess.run(run).returncode == ends
    one, other = (results_of(out)["all_layers"] | {"minutes": 0} for out in (whole, cut))
    assert one == other
    one, other = (load_weights(out / "classifier") for out in (whole, cut))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    shutil.rmtree(student)
    save_resnet(Path(student), seed=3)
    assert "Changed since the last run" in succeed("fit", pictures, "-o", cut, options | {"dry_run": "true"}).out


@pytest.mark.slow
def test_all_layers_leave_a_pretrained_network_what_it_knows(fitted, tmp_path, monkeypatch, capsys):
    """Photographs of eight classes, 13 a class for training and as many to judge; the fewest steps."""
    for name, value in {"MOST_EPOCHS": 10, "MOST_STEPS": 20}.items():
        monkeypatch.setattr(all_layers, name, value)
    demo = ROOT / "recipes/photos_demo/pictures/test"
    for folder in sorted(demo.iterdir())[1::4]:
        files = sorted(folder.glob("*.jpg"))
        for split, some in (("train", files[0::2]), ("validation", files[1::2])):
            (tmp_path / "pictures" / split / folder.name).mkdir(parents=True)
            for file in some:
                shutil.copy(file, tmp_path / "pictures" / split / folder.name)
    found = fitted(tmp_path / "pictures", student=None, image_size=64, minutes=60, finetune="auto").all_layers
    (gained,) = re.findall(r"step 20 of 20: ([-+.\d]+) points", capsys.readouterr().out)
    assert found["epochs"] == 10 and float(gained) > -5, found  # +2.1; -18.1 with the statistics of each batch
