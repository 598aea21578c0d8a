"""Accuracy on corrupted images, and the recipe with all measures."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from released_runs import a_run
from students import ID2LABEL, aligned_model
from test_recipes import ACCELERATE, ROOT, TWO_PROCESSES
from transformers import TimmWrapperImageProcessor

from g4i_hf import columns
from g4i_hf.embedding import encoders
from g4i_hf.evaluation import corruptions
from g4i_hf.evaluation.corruptions import CorruptingTransform, corrupted, corrupted_accuracies, parameter
from g4i_hf.evaluation.measures import ALL_MEASURES, CORRUPTIONS, FIGURES, STRENGTHS
from g4i_hf.evaluation.predict import predict
from g4i_hf.modeling.processing import EvalTransform, ImageSettings, generic_processor
from g4i_hf.options import MEASURES
from g4i_hf.running import main
from g4i_hf.training.run_folder import read_options, write_options
from g4i_hf.workflows.evaluate import Evaluation

ALL_BUT_SPEED = ",".join(measure for measure in MEASURES if measure != "speed")


def picture(size: int, seed: int = 0) -> torch.Tensor:
    """A checkerboard with some texture, (3, size, size) uint8."""
    rng = np.random.default_rng(seed)
    board = np.kron(rng.integers(40, 215, (3, 8, 8)), np.ones((size // 8, size // 8)))
    return torch.from_numpy((board + rng.integers(-8, 8, board.shape)).astype(np.uint8))


# --- What a corruption does -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_strength_changes_more_than_the_one_before(kind, size):
    clean = picture(size)
    changes = []
    for strength in STRENGTHS:
        found = corrupted(clean, kind, strength)
        assert found.dtype == torch.uint8 and found.shape == clean.shape
        changes.append((found.float() - clean.float()).abs().mean().item())
    assert changes[0] > 0.5 and all(np.diff(changes) > 0), changes


def test_noise_is_that_of_the_image_and_leaves_the_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = corrupted(picture(32), "noise", 3)
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(1)
    assert torch.equal(corrupted(picture(32), "noise", 3), first)
    grey = [torch.full((3, 32, 32), value, dtype=torch.uint8) for value in (127, 128)]
    noise = [corrupted(one, "noise", 1).float() - one for one in grey]
    assert (noise[0] - noise[1]).abs().mean() > 5  # another image, other noise


def test_strengths_follow_the_size():
    assert [parameter("blur", strength, 32) for strength in STRENGTHS] == [0.4, 0.6, 0.7, 0.8, 1.0]
    assert [parameter("blur", strength, 224) for strength in STRENGTHS] == pytest.approx([1, 2, 3, 4, 6])
    assert parameter("blur", 5, 16) == 1.0 and parameter("blur", 5, 512) == pytest.approx(6)
    assert parameter("jpeg", 1, round((32 * 224) ** 0.5)) == pytest.approx((80 * 25) ** 0.5, rel=0.01)
    assert corrupted(picture(8), "blur", 5).shape == (3, 8, 8)  # the kernel fits


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_it_is_done_to_the_image_as_the_student_sees_it(kind, monkeypatch):
    settings = ImageSettings(48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1), crop_pct=0.9)
    processor = generic_processor(settings)
    if kind == "timm":
        processor = TimmWrapperImageProcessor(settings.pretrained_cfg(), architecture="resnet18")
    image = PILImage.fromarray(picture(96).permute(1, 2, 0).numpy()).resize((120, 80))
    transform = CorruptingTransform(processor, "contrast", 5)
    expected = EvalTransform(processor)(image)
    pale = transform.drawn(transform.fixed(image))
    assert pale.shape == (3, 48, 48) and (pale.std((1, 2)) < 0.3 * expected.std((1, 2))).all()
    monkeypatch.setattr(corruptions, "corrupted", lambda pixels, *_: pixels)
    torch.testing.assert_close(transform.drawn(transform.fixed(image)), expected, atol=1e-4, rtol=0)


# --- Accuracies -----------------------------------------------------------------------------------------------------


def images(n: int, unlabelled: tuple[int, ...] = (), captions: bool = True, start: int = 0) -> Dataset:
    arrays = [picture(48, seed).permute(1, 2, 0).numpy() for seed in range(start, start + n)]
    features = {"image": Image(), "label": ClassLabel(names=list(ID2LABEL.values())), "image_id": Value("string")}
    rows = {
        "image": [PILImage.fromarray(array) for array in arrays],
        "label": [None if row in unlabelled else row % 5 for row in range(n)],
        "image_id": [str(row) for row in range(start, start + n)],
    }
    if captions:
        features |= {"caption": Value("string"), "text_embeds": columns.text_embeds_features(384)["text_embeds"]}
        rows["caption"] = [None if row == 3 else f"a picture of number {row % 7}" for row in range(n)]
        rows["text_embeds"] = [None if row == 3 else np.eye(384, dtype=np.float16)[row % 7] for row in range(n)]
    return Dataset.from_dict(rows, features=Features(features))


def test_accuracy_of_each_kind_and_strength_over_labelled_rows(monkeypatch):
    """Corruptions are painted black or white here, and the student tells by the brightness."""
    model = aligned_model("timm-resnet").eval()
    monkeypatch.setattr(model.student, "forward", lambda pixel_values: Answer(pixel_values))
    monkeypatch.setattr(
        corruptions, "corrupted", lambda pixels, kind, strength: torch.full_like(pixels, 255 * (strength > 3))
    )
    split = images(6, unlabelled=(1, 2))  # the labels of the others are 0, 3, 4, 0
    processor = generic_processor(ImageSettings(48))
    found = corrupted_accuracies(model, processor, split, Accelerator(cpu=True), batch_size=4)
    assert set(found) == {name for name in FIGURES if name.split("_")[0] in (*CORRUPTIONS, "corrupted")}
    for kind in CORRUPTIONS:
        assert [found[f"{kind}_{strength}_accuracy"] for strength in STRENGTHS] == [0.5, 0.5, 0.5, 0.25, 0.25]
        assert found[f"{kind}_accuracy"] == pytest.approx(0.4)
    assert found["corrupted_accuracy"] == pytest.approx(0.4)
    assert corrupted_accuracies(model, processor, images(2, unlabelled=(0, 1)), Accelerator(cpu=True)) == {}


class Answer:
    """Class 0 for a dark image, 4 for a bright one."""

    def __init__(self, pixels: torch.Tensor):
        is_bright = (pixels.mean((1, 2, 3)) > 0).long()
        self.logits = torch.eye(5)[4 * is_bright]


def test_features_of_predictions_are_in_the_order_of_the_split():
    model, processor = aligned_model("timm-resnet").eval(), generic_processor(ImageSettings(48))
    split = images(5)
    found = predict(model, processor, split, Accelerator(cpu=True), batch_size=2, output_features=True)
    pixels = torch.stack([EvalTransform(processor)(image) for image in split["image"]])
    with torch.no_grad():
        expected = model(pixels, output_features=True).features
    torch.testing.assert_close(torch.from_numpy(found.features), expected)
    assert predict(model, processor, split, Accelerator(cpu=True)).features is None


# --- The recipe -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run, and data with unlabelled rows, a row and a split without captions."""
    folder = tmp_path_factory.mktemp("measures")
    validation, plain = images(11, unlabelled=(2,), start=40), images(4, captions=False, start=60)
    unlabelled = images(3, unlabelled=(0, 1, 2), start=70)
    splits = DatasetDict(train=images(23, unlabelled=(7,)), validation=validation, plain=plain, unlabelled=unlabelled)
    splits.save_to_disk(folder / "data")
    run = a_run(folder / "run", results=None, lineage=None)
    write_options(run, read_options(run) | {"dataset_name": str(folder / "data"), "student": "resnet18"})
    return run


def evaluated(monkeypatch, run, *options: str) -> dict:
    monkeypatch.setattr(Evaluation, "draw_card_pictures", lambda _: None)  # they take longer than all the rest
    monkeypatch.setattr(encoders, "load_encoder", lambda *_, **__: Encoder())
    main(["evaluate", "--run", str(run), *options])
    return json.loads((run / "all_results.json").read_text())


class Encoder:
    """Stands for that of the captions."""

    dim, max_tokens = 384, None

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [1] * len(texts)

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.eye(384, dtype=np.float32)[: len(texts)]


def test_all_measures_of_splits_that_lack_labels_or_captions(run, monkeypatch, capsys):
    options = ("--measures", ALL_BUT_SPEED, "--probe_samples", "20", "--splits", "validation,plain,unlabelled")
    found = evaluated(monkeypatch, run, *options)
    assert {figure for figure in FIGURES if f"validation_{figure}" not in found} == {"bad_images", "int8_accuracy"}
    assert found["validation_probe_samples"] in (19, 20)  # the unlabelled row may be one of those drawn
    assert found["validation_text_to_image_gallery_size"] == 10 and found["validation_gallery_size"] == 7
    of_texts = [figure for figure in FIGURES if "recall" in figure or "captions" in figure or "gallery" in figure]
    assert not any(f"plain_{figure}" in found for figure in of_texts) and "plain_zero_shot_names_accuracy" in found
    assert {"plain_ece", "plain_corrupted_accuracy", "plain_linear_probe_accuracy"} <= set(found)
    of_unlabelled = {name for name in found if name.startswith("unlabelled_")}
    kept = {"samples", "weights", *(figure for figure in of_texts if "zero_shot" not in figure)}
    kept |= {figure for figure in FIGURES if "chance_at" in figure}
    assert of_unlabelled == {f"unlabelled_{figure}" for figure in kept}
    printed = capsys.readouterr().out
    for measure in ALL_MEASURES.values():
        assert measure.title in printed and measure.group in printed
    again = evaluated(monkeypatch, run, "--measures", "none", "--splits", "validation")
    assert {"validation_accuracy", "validation_recall_at_1", "plain_ece"} <= set(again)
    assert not {"validation_ece", "validation_knn_1_accuracy", "validation_corrupted_accuracy"} & set(again)


def test_probes_want_the_training_split(run, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--run", str(run), "--train_split", "training", "--measures", "probe"])
    assert "no split 'training' (train_split), which probes are fitted on" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_take_the_same_figures(run):
    found = []
    for launch in ([sys.executable], [ACCELERATE, "launch", *TWO_PROCESSES]):
        command = [*launch, "recipes/evaluate.py", "--run", str(run), "--measures", ALL_BUT_SPEED]
        command += ["--eval_batch_size", "4"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads((run / "all_results.json").read_text()))
    assert found[0].keys() == found[1].keys() and found[0] == pytest.approx(found[1], abs=1e-6)
