"""What training learns from captions beside alignment: soft labels; labels that captions contradict; `g4i check`."""

import csv
import re
from pathlib import Path

import make
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from doors import spelled
from drawings import STUDENT, TRAINING, draw_folder
from PIL import Image as PILImage
from tiny_encoders import save_static_encoder

from g4i_hf.cli import parse_options
from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.options import OPTIONS_OF, RunArguments
from g4i_hf.running import main
from g4i_hf.training.supervision import Supervised, supervise
from g4i_hf.workflows.train import TrainingRun

pytestmark = pytest.mark.usefixtures("few_draws")

CLASSES, DIM, ROWS = ["ant", "bee", "cat", "dog", "elk"], 8, 400
TRUTH = np.arange(ROWS) % len(CLASSES)


def vectors(truth: np.ndarray, spread: float = 0.2, seed: int = 0) -> np.ndarray:
    """Of each class near an axis; a spread of 0.2 leaves no doubt, one of 100 tells nothing."""
    found = np.eye(DIM)[truth] + spread * np.random.default_rng(seed).normal(size=(len(truth), DIM))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def captioned(labels: np.ndarray, embeds: np.ndarray, image=None, **columns) -> Dataset:
    """Rows with NaN embeddings have no caption."""
    columns["label"] = [label if label >= 0 else None for label in np.asarray(labels).tolist()]
    columns["text_embeds"] = [None if np.isnan(vector).any() else vector.tolist() for vector in embeds]
    return make.rows(len(labels), CLASSES, image=image, **columns)


def with_pictures(labels: np.ndarray, embeds: np.ndarray, **columns) -> Dataset:
    colours = [(row % 200, 20 * int(TRUTH[row]), 0) for row in range(len(labels))]
    images = [make.stored(PILImage.new("RGB", (16, 16), colour)) for colour in colours]
    return captioned(labels, embeds, images, **columns)


def supervised(split: Dataset, image_features=None, supervision="auto", unlabelled="keep", **more) -> Supervised:
    run = RunArguments(supervision=supervision, unlabelled=unlabelled)
    features = None if image_features is None else lambda: image_features
    return supervise(split, run, num_labels=len(CLASSES), seed=0, image_features=features, **more)


def few(count: int, truth: np.ndarray = TRUTH) -> np.ndarray:
    """Labels of the first rows; the others have none."""
    return np.where(np.arange(len(truth)) < count, truth, -100)


def noisy() -> np.ndarray:
    """Half of them wrong."""
    rng = np.random.default_rng(1)
    others = (TRUTH + rng.integers(1, len(CLASSES), ROWS)) % len(CLASSES)
    return np.where(rng.random(ROWS) < 0.5, others, TRUTH)


def soft_of(split: Dataset) -> np.ndarray:
    return np.asarray(split["soft_labels"][:], dtype=np.float32)


USELESS, GOOD, SEEN = vectors(TRUTH, 100), vectors(TRUTH), vectors(TRUTH, seed=1)
OTHERS = vectors(np.random.default_rng(0).permutation(TRUTH), seed=1)
# Captions, labels, image features -> whether labels are softened, weight of an unlabelled row, what the two lines say
CHOSEN = {
    "few labels": (GOOD, few(100), None, False, 1, ("100% of the images", "75% of the captioned images have no")),
    "half of the labels wrong": (GOOD, noisy(), None, True, 1, ("95% interval", "softened where captions")),
    "all labels right": (GOOD, TRUTH, None, False, 1, ("0% to 1% of the labels are wrong", "kept, as they may all")),
    "one label a class": (GOOD, few(5), None, False, 5 / 395, ("No class has two labels", "together")),
    "one label a class, views agree": (GOOD, few(5), SEEN, False, 1, ("judge each other", "as a label")),
    "one label a class, views differ": (GOOD, few(5), OTHERS, False, 5 / 395, ("agree too rarely", "together")),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_auto_chooses_by_estimates_and_says_why(case):
    embeds, labels, features, relabels, weight, said = CHOSEN[case]
    split = captioned(labels, embeds)
    found = supervised(split, image_features=features)
    assert found.plan.relabels == relabels, found.plan.reasons
    assert found.plan.unlabelled_weight == pytest.approx(weight, rel=1e-3)
    first, second = found.plan.reasons
    assert first.startswith("Estimates: ") and second.startswith("supervision: ")
    assert said[0] in first and said[1] in second
    learns = relabels or (labels < 0).any()
    assert ("soft_labels" in found.split.column_names) == learns and (learns or found.split is split)


def test_auto_believes_a_label_that_a_person_gave():
    given = noisy()
    wrong = np.flatnonzero(given != TRUTH)
    by_a_person, others, alone = wrong[:5], wrong[5:-1], wrong[-1]
    embeds = GOOD.copy()
    embeds[alone] = np.nan
    reviews = np.where(np.isin(np.arange(ROWS), by_a_person), "wrong", "").tolist()
    soft = soft_of(supervised(captioned(given, embeds, review=reviews)).split)
    assert soft[by_a_person, given[by_a_person]] == pytest.approx(1, abs=0.01)
    assert soft[others, given[others]].mean() < 0.5
    assert soft[alone, given[alone]] == 1, "a label without a caption stays sure"


def test_what_is_asked_for_is_not_overruled():
    for weight in (0.5, 0.0):
        assert supervised(captioned(noisy(), GOOD), soft_label_weight=weight).plan.soft_label_weight == weight
    split = captioned(few(100), GOOD)
    assert supervised(split, supervision="none").split is split


def test_rows_learn_by_their_label_or_else_by_their_caption_by_its_weight():
    """Useless captions, which 0 and 100 lack: all that teach by them together count as much as the labels."""
    embeds = USELESS.copy()
    embeds[[0, 100]] = np.nan
    split = captioned(few(100), embeds)
    found = supervised(split)
    soft, weight = soft_of(found.split), found.plan.soft_label_weight
    assert (labels_of(found.split) < 0).all() and not soft[100].any()
    np.testing.assert_array_equal(soft[:100], np.eye(len(CLASSES))[TRUTH[:100]])
    np.testing.assert_allclose(soft[101:].sum(1), 99 / 299, atol=2e-3)
    assert weight * soft.sum() == pytest.approx(ROWS, rel=5e-3), "the mean over rows, by their weights"
    assert supervised(split, unlabelled="drop").split["image_id"][:] == [f"id-{row}" for row in range(100)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with labels of 40 of 90 rows."""
    folder = tmp_path_factory.mktemp("supervision")
    with_pictures(few(40, TRUTH[:90]), GOOD[:90]).to_parquet(folder / "train.parquet")
    with_pictures(TRUTH[:12], GOOD[:12]).to_parquet(folder / "validation.parquet")
    return folder


def run_of(folder: Path, run: Path, *words: str) -> TrainingRun:
    given = STUDENT | TRAINING | {"dataset_name": folder, "output_dir": run, "unlabelled": "keep"}
    return TrainingRun(*parse_options(OPTIONS_OF["train"], [*spelled([given]), *words]))


def loaded(run: TrainingRun) -> np.ndarray:
    """The soft labels with which it would train."""
    run.load()
    return soft_of(run.prepared.splits["train"])


def test_classes_keep_their_weights_where_all_images_learn_from_soft_labels(data, tmp_path):
    def sums(weights: str) -> np.ndarray:
        run = run_of(data, tmp_path / "run", "--supervision", "auto", "--class_weights", weights)
        return loaded(run).sum(0)

    balanced = sums("balanced")
    np.testing.assert_allclose(balanced, balanced.mean(), rtol=2e-3)
    weighted = sums("[1, 1, 4, 1, 1]")
    assert weighted[2] > 3.5 * weighted[[0, 1, 3, 4]].max()
    with pytest.raises(ValueError, match="class_weights has 2 weights for 5 classes"):
        sums("[1, 2]")


def test_without_any_label_class_names_stand_for_labels(tmp_path, capsys, caplog):
    """The names come from the labels of `validation`, or from a file."""
    truth = TRUTH[:60]
    captions = [f"a photo of a {CLASSES[label]}, number {row}" for row, label in enumerate(truth)]
    rows = with_pictures(truth, GOOD[:60], caption=captions).remove_columns("text_embeds")
    data, file = tmp_path / "data", tmp_path / "classes.txt"
    text_encoder = ("--text_encoder", str(save_static_encoder(tmp_path / "words", CLASSES, 128)))
    rows.remove_columns("label").to_parquet(data / "train.parquet")
    file.write_text("\n".join(CLASSES))
    names = ("--class_names_file", str(file))
    main(["check", str(data), *names, *text_encoder, "--check_dir", str(tmp_path / "check")])
    assert "No image has a label: nothing has checked this." in capsys.readouterr().out

    def learned(*names: str) -> None:
        run = run_of(data, tmp_path / "run", "--supervision", "auto", *text_encoder, *names)
        assert (loaded(run).argmax(1) == truth).mean() > 0.7
        first, second = run.supervised.plan.reasons
        assert "No image has a label" in first and "no image with a caption has a label: all learn soft" in second

    learned(*names)
    file.write_text("\n".join([*CLASSES[:-1], "LABEL_4"]))
    learned(*names)
    assert "Names that tell nothing of a class: LABEL_4." in caplog.text
    rows.to_parquet(data / "validation.parquet")
    with_labels(rows, few(0, truth)).to_parquet(data / "train.parquet")  # nulls: splits have the same columns
    learned()


def test_soft_labels_need_the_softmax(data, tmp_path):
    with pytest.raises(ValueError, match="soft_label_weight needs classification_loss: cross_entropy"):
        run_of(data, tmp_path / "run", "--soft_label_weight", "1", "--classification_loss", "bce")
    chosen = run_of(data, tmp_path / "run", "--supervision", "auto", "--classification_loss", "bce")
    with pytest.raises(ValueError, match="Soft labels need classification_loss: cross_entropy"):
        chosen.load()


def test_a_pretrained_student_is_the_second_view(data, student, tmp_path):
    run = run_of(data, tmp_path / "run", "--pretrained", "true", "--supervision", "auto", "--student", student)
    run.student.student_args = None
    run.load()
    assert list(run.supervised.facts["views"]) == ["caption", "image"] and run.prepared.built.model.training


def test_check_lists_labels_that_captions_contradict(tmp_path, capsys):
    """Six labels are wrong, one of a row without a caption; one of several captions may be missing."""
    wrong, unlabelled, without_caption = [0, 11, 22, 33, 44, 55], [60, 61], [55]
    labels, embeds = TRUTH[:120].copy(), vectors(TRUTH[:120])
    labels[wrong] = (labels[wrong] + 1) % len(CLASSES)
    labels[unlabelled], embeds[without_caption] = -100, np.nan
    captions = [None if row in without_caption else [f"picture {row}", None, "third"] for row in range(120)]
    DatasetDict(train=with_pictures(labels, embeds, caption=captions)).save_to_disk(tmp_path / "data")
    main(["check", str(tmp_path / "data"), "--check_dir", str(tmp_path / "check")])
    said = capsys.readouterr().out
    with (tmp_path / "check" / "suspicious_labels.csv").open() as file:
        found = list(csv.DictReader(file))
    assert sorted(line["image_id"] for line in found) == ["id-0", "id-11", "id-22", "id-33", "id-44"]
    for line in found:
        row = int(line["image_id"].removeprefix("id-"))
        assert (line["label"], line["suggested"]) == (CLASSES[(TRUTH[row] + 1) % len(CLASSES)], CLASSES[TRUTH[row]])
        assert line["caption"] == f"picture {row} / third" and float(line["probability"]) < 0.5
    assert "5 of 117 labels are suspicious" in said and "of the labels are wrong (95% interval" in said
    assert re.search(r"Captions tell the class of \d+% of the images \(95% interval", said)
    assert "1 of 120 images have no caption." in said
    table = [line.split() for line in said.splitlines()]
    assert ["split", "images", "classes", "labels", "captions", "unreadable"] in table
    assert ["train", "120", "5", "118", "119", "0"] in table
    page = (tmp_path / "check" / "suspicious_labels.html").read_text()
    assert page.count("<img") == 5 and f"captions say: {found[0]['suggested']}" in page


@pytest.mark.parametrize(
    ("fault", "named"),
    [("unreadable", "1 images of the split 'train'"), ("no class folders", "no classes"), ("no split", "'trian'")],
)
def test_check_ends_with_1_where_the_data_cannot_be_trained_on(tmp_path, capsys, fault, named):
    pictures = draw_folder(tmp_path / "pictures", train=9, captions=False)
    if fault == "unreadable":
        next((pictures / "train" / "cross").iterdir()).write_bytes(b"no image")
    elif fault == "no class folders":
        for path in list(pictures.rglob("*.png")):
            path.rename(pictures / "train" / path.name)
        for path in list((pictures / "train").glob("*/")):
            path.rmdir()
    with pytest.raises(SystemExit) as ended:
        main(["check", str(pictures), *(["--split", "trian"] if fault == "no split" else [])])
    said = capsys.readouterr().out.partition("This data cannot be trained on:")[2]
    assert ended.value.code == 1 and named in said


@pytest.mark.parametrize("tells", [True, False])
def test_check_says_whether_captions_are_better_than_guessing(tmp_path, capsys, tells):
    rng, labels = np.random.default_rng(0), np.arange(120) % 3
    embeds = make.unit(tells * np.eye(8)[labels] + 0.1 * rng.normal(size=(120, 8)))
    DatasetDict(train=make.rows(120, "abc", label=labels, text_embeds=embeds)).save_to_disk(tmp_path / "data")
    main(["check", str(tmp_path / "data"), "--check_dir", str(tmp_path / "check")])
    assert ("not clearly better than guessing (33%)" in capsys.readouterr().out) != tells
