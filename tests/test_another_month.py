"""What `g4i predict` says of new images as a whole: whether they differ, their classes, and the accuracy there."""

import json
import shutil
from pathlib import Path

import make
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from safetensors.torch import load_file, save_file

from g4i_hf import predict
from g4i_hf.data.labels import line_of
from g4i_hf.data.record import content_digest
from g4i_hf.evaluation.class_shares import share_intervals
from g4i_hf.evaluation.new_images import axes_of, compared
from g4i_hf.hub import release_student
from g4i_hf.inference import another_month, writing
from g4i_hf.inference.page import MOST
from g4i_hf.running import main

CLASSES = ("green", "red")


def photo(seed: int, is_red: bool, light: float = 1.0) -> Image.Image:
    tint = Image.new("RGB", (32, 32), (200, 20, 20) if is_red else (20, 200, 20))
    return ImageEnhance.Brightness(Image.blend(tint, make.noise(seed, 32), 0.5)).enhance(light)


def new_photos(folder: Path, seed: int, green: int, red: int, light: float = 1.0) -> Path:
    """File names that say nothing of the classes."""
    folder.mkdir(parents=True)
    for row in np.random.default_rng(seed).permutation(green + red):
        photo(seed + row, row >= green, light).save(folder / f"{row:03}.png")
    return folder


@pytest.fixture(scope="module")
def fit_folder(fitted, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("month")
    for row in range(160):
        file = place / "pictures" / "train" / CLASSES[row % 2] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(row, bool(row % 2)).save(file)
    fitted(place / "pictures", place / "fit", group_by="none")
    return place / "fit"


def said_of(model: Path | str, images: Path, folder: Path, capsys, *words: str) -> tuple[str, dict]:
    capsys.readouterr()
    main(["predict", str(model), str(images), "-o", str(folder / "p.csv"), "--overwrite", *words])
    return capsys.readouterr().out, json.loads((folder / "summary.json").read_text())


def test_images_of_the_same_kind_have_the_known_accuracy_also_by_a_release(fit_folder, tmp_path, capsys):
    april = new_photos(tmp_path / "april", 1_000, 60, 60)
    said, summary = said_of(fit_folder, april, tmp_path, capsys)
    assert "120 images tell, they differ from those it was fitted on in their mix of classes at most" in said
    assert "Unreviewed: estimated without a label" in said and f"summary: {tmp_path / 'summary.json'}" in said
    assert summary["compared"] == 120 and summary["differs"]["differs"] is False and not summary["differs"]["most"]
    expected = summary["expected_accuracy"]
    assert expected["reviewed"] is False and expected["interval"][0] < 1 <= expected["interval"][1] + 1e-9
    for name in CLASSES:
        line = summary["pool_shares"][name]
        assert line["interval"][0] <= 0.5 <= line["interval"][1] and line["of_fitted"] == 0.5
    released = release_student(fit_folder, tmp_path / "released")
    assert (released / "fitted_on.safetensors").stat().st_size < 100_000
    assert said_of(released, april, tmp_path, capsys)[1]["differs"] == summary["differs"]


def test_another_mix_of_classes_is_no_difference(fit_folder, tmp_path, capsys):
    said, summary = said_of(fit_folder, new_photos(tmp_path / "april", 2_000, 20, 180), tmp_path, capsys)
    assert not summary["differs"]["differs"] and "'red' 9" in said and "was 50%" in said
    line = summary["pool_shares"]["red"]
    assert line["interval"][0] <= 0.9 <= line["interval"][1] and summary["expected_accuracy"]["share"] > 0.9


def test_images_that_differ_have_no_known_accuracy_and_the_command_that_measures_it_works(
    fit_folder, tmp_path, capsys
):
    """Also of a folder of days, which are no classes."""
    march = new_photos(tmp_path / "march" / "monday", 3_000, 30, 30)
    new_photos(tmp_path / "march" / "tuesday", 4_000, 15, 15, light=0.3)
    (again := photo(3_000, False)).putpixel((0, 0), (0, 0, 0))  # a scene of two images, which would limit gold ones
    again.save(march / "again.png")
    said, summary = said_of(fit_folder, march.parent, tmp_path, capsys, "--page", str(tmp_path / "p.html"))
    assert (
        "and not in their mix of classes alone" in said and "These intervals are wide, as the images differ." in said
    )
    most = summary["differs"]["most"]
    assert f"differ most: {', '.join(most)}." in said
    page = (tmp_path / "p.html").read_text()
    _, *after = page.split("differs most</div>")  # the name of the image
    assert len(after) == MOST and most[0] in after[0]
    assert sum("tuesday" in each[:100] for each in after) > 0.7 * MOST, "though two thirds of them are of monday"
    assert summary["expected_accuracy"]["share"] is None
    command = summary["expected_accuracy"]["label"]
    assert f"Accuracy there: unknown, as the images differ. Label 50: {command}" in said
    assert command == f"g4i label {march.parent} --pick gold --n 50 --run {fit_folder}"
    main([*command.split()[1:], "--n", "100", "--list", "-o", str(tmp_path / "out")])
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 90, "all can be gold, as nothing is learned from them"
    lines = []
    for name in listed:
        content, is_red = (march.parent / name).read_bytes(), int(Path(name).stem) >= (30 if "monday" in name else 15)
        lines.append(line_of(name, "file_name", content_digest(content), "gold", CLASSES[is_red], False, False, "me"))
    (march.parent / "labels.jsonl").write_text("".join(line.rstrip("\n") + "\n" for line in lines))
    names = ["--class_names_file", str(fit_folder / "classifier" / "config.json")]
    main(["evaluate", str(fit_folder), "--dataset_name", str(march.parent), "--splits", "gold", *names])
    said = capsys.readouterr().out
    assert "gold, 90 images" in said and "gold: at 95% classifier/ answers " in said


def test_a_resumed_start_says_the_same(fit_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(another_month, "MOST_SAMPLED", 60)
    april = new_photos(tmp_path / "april", 5_000, 70, 30)
    whole = said_of(fit_folder, april, tmp_path, capsys)[1]
    assert whole["compared"] == 60
    with pytest.MonkeyPatch.context() as patch:  # a kill before the end
        patch.setattr(writing.Predictions, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SystemExit):
            main(["predict", str(fit_folder), str(april), "-o", str(tmp_path / "q" / "p.csv")])
    part = tmp_path / "q" / "p.csv.part"
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:41]))
    said, resumed = said_of(fit_folder, april, tmp_path / "q", capsys)
    assert "40 of 100 images were predicted before" in said and resumed == whole
    assert "sampled" not in (tmp_path / "q" / "p.csv").read_text()


def test_what_cannot_be_compared_is_said(fit_folder, student, tmp_path, capsys):
    """Too few images, training images, images whose features are no numbers, and any other classifier."""
    few = new_photos(tmp_path / "few", 6_000, 20, 20)
    said, summary = said_of(fit_folder, few, tmp_path, capsys)
    assert "Too few new images to compare with those it was fitted on: 40, and it takes 50." in said
    assert summary["differs"] is summary["pool_shares"] is None
    said, summary = said_of(fit_folder, fit_folder.parent / "pictures" / "train", tmp_path, capsys)
    assert "160 of the images were training images" in said and summary["compared"] == 0
    said, summary = said_of(student, few, tmp_path, capsys)
    assert "Cannot compare these images" in said and summary["expected_accuracy"]["share"] is None
    assert summary["expected_accuracy"]["why"] == "nothing to compare with"
    other = shutil.copytree(fit_folder / "classifier", tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["conv1.weight"] *= float("nan")
    save_file(weights, other / "model.safetensors")
    assert said_of(other, new_photos(tmp_path / "april", 7_000, 30, 30), tmp_path, capsys)[1]["compared"] == 0


def test_numbers_of_another_classifier_and_a_summary_of_others_are_refused(fit_folder, tmp_path):
    other = shutil.copytree(fit_folder / "classifier", tmp_path / "other")
    images = new_photos(tmp_path / "april", 8_000, 2, 2)
    numbers = load_file(other / "fitted_on.safetensors")
    save_file(numbers | {"last_layer": numbers["last_layer"] + 1}, other / "fitted_on.safetensors")
    with pytest.raises(ValueError, match="is that of another classifier: its last layer differs. Release"):
        predict(other, images)
    save_file({"values": load_file(other / "model.safetensors")["fc.bias"]}, other / "fitted_on.safetensors")
    with pytest.raises(ValueError, match=r"holds \['values'\] in place of"):
        predict(other, images)
    (other / "fitted_on.safetensors").write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"fitted_on.safetensors cannot be loaded: .* or remove the file"):
        predict(other, images)
    (tmp_path / "summary.json").write_text('{"mine": 1}')
    with pytest.raises(SystemExit):
        main(["predict", str(fit_folder), str(images), "-o", str(tmp_path / "p.csv")])
    assert (tmp_path / "summary.json").read_text() == '{"mine": 1}' and not (tmp_path / "p.csv").exists()


def drawn(number: int, shares: np.ndarray, generator: np.random.Generator, means: np.ndarray) -> tuple:
    truth = generator.choice(len(shares), number, p=shares)
    scale = np.geomspace(1, 0.1, means.shape[1])
    return ((means[truth] + generator.standard_normal((number, means.shape[1]))) * scale).astype(np.float32), truth


@pytest.mark.parametrize("moved", [0.0, 0.35])
def test_false_alarms_are_rare_and_a_shift_is_found_whatever_the_mix(moved):
    even, uneven, alarms = np.full(5, 0.2), np.array([0.5, 0.3, 0.1, 0.07, 0.03]), []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        means = generator.standard_normal((5, 40))
        old, of_old = drawn(300, even, generator, means)
        (same, _), (other, of_other) = drawn(200, even, generator, means), drawn(200, uneven, generator, means)
        mean, axes = axes_of(old, np.eye(5)[of_old])
        shift = moved * np.geomspace(1, 0.1, 40)
        values, classes = (old - mean) @ axes, np.eye(5)[of_old]
        shares = [even, np.bincount(of_other, minlength=5) / 200]
        new = [(each + shift - mean) @ axes for each in (same, other)]
        alarms.append([compared(values, classes, *each).differs for each in zip(new, shares, strict=True)])
    of_same, of_mix = np.mean(alarms, axis=0)
    assert (of_same <= 0.07 and of_mix <= 0.07) if not moved else (of_same > 0.9 and of_mix > 0.9)


def test_fewer_images_than_classes_are_compared():
    generator, means = np.random.default_rng(0), np.random.default_rng(1).standard_normal((80, 40))
    old, truth = drawn(400, np.full(80, 1 / 80), generator, means)
    new, _ = drawn(50, np.full(80, 1 / 80), generator, means)
    mean, axes = axes_of(old, np.eye(80)[truth])
    rows, counts = np.eye(80)[truth] * 0.9 + 0.1 / 80, np.bincount(truth, minlength=80)
    shares, intervals = share_intervals(rows[:50], rows, np.eye(80)[truth], counts, 0)
    assert np.isfinite(intervals).all() and intervals.shape == (80, 2)
    found = compared((old - mean) @ axes, np.eye(80)[truth], (new - mean) @ axes, shares)
    assert 0 < found.p_value <= 1 and len(found.scores) == 50
