"""Scenes: found by features and pixels, and what `fit`, `check` and `label` do with them and with given groups."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import make
import numpy as np
import pytest
from datasets import Dataset
from doors import ROOT
from PIL import Image, ImageEnhance, ImageOps
from test_groups import frames_of

from g4i_hf import LabelModel, View, priors
from g4i_hf.data import near_copies
from g4i_hf.data.joining import with_image_ids
from g4i_hf.data.near_copies import scenes
from g4i_hf.fitting.scenes import Scenes
from g4i_hf.label_model.picks import pick_gold, pick_next
from g4i_hf.running import main


def world(seed: int, sizes: list[int], near: float = 0.25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features around classes, thumbnails, and the scene of each row; frames of a scene are so near to each other."""
    generator, number = np.random.default_rng(seed), len(sizes)
    centre = generator.normal(size=(8, 64))[np.arange(number) % 8] + generator.normal(size=(number, 64))
    pixels = generator.normal(size=(number, 8, 8, 3))
    truth = np.repeat(np.arange(number), sizes)
    features = centre[truth] + near * generator.normal(size=(len(truth), 64))
    return features, pixels[truth] + near * generator.normal(size=(len(truth), 8, 8, 3)), truth


def share_of_pairs(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Precision and recall of pairs."""
    linked, same = (each[:, None] == each[None] for each in (found, truth))
    both = (linked & same).sum() - len(truth)
    return both / max(linked.sum() - len(truth), 1), both / max(same.sum() - len(truth), 1)


@pytest.mark.parametrize("sizes", [[6] * 60, [1] * 200 + [3] * 40, [1] * 100 + [40, 2, 90], [2] * 100])
def test_frames_of_scenes_are_found_whatever_their_number(sizes):
    features, thumbnails, truth = world(0, sizes)
    precision, recall = share_of_pairs(scenes(features, thumbnails), truth)
    assert precision > 0.99 and recall > 0.97


def test_of_large_data_the_same_scenes_are_found_in_parts(monkeypatch):
    features, thumbnails, truth = world(0, [1] * 900 + [4] * 100)
    monkeypatch.setattr(near_copies, "ALL_COMPARED", 100)
    monkeypatch.setattr(near_copies, "ROWS_A_CELL", 200)
    precision, recall = share_of_pairs(scenes(features, thumbnails), truth)
    assert precision > 0.99 and recall > 0.95


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_images_of_a_class_are_no_scene_however_near(scale):
    """Features of a dense class, without thumbnails that agree."""
    generator = np.random.default_rng(0)
    features = np.repeat(generator.normal(size=(10, 64)), 50, axis=0) + scale * generator.normal(size=(500, 64))
    assert len(np.unique(scenes(features, generator.normal(size=(500, 8, 8, 3))))) == 500


@pytest.mark.parametrize("most", [0, near_copies.MOST_PAIRS])
def test_frames_of_a_long_pan_are_a_chain_and_scenes_beside_it_are_found(monkeypatch, most):
    """Each frame is near the next one. Most images are of the pan, so it is no scene, however few pairs are kept."""
    monkeypatch.setattr(near_copies, "MOST_PAIRS", most)
    features, thumbnails, truth = world(0, [1] * 1000 + [4] * 50)
    angles, generator = np.linspace(0, 3, 3000), np.random.default_rng(1)
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pan = turns @ generator.normal(size=(2, 64)), turns @ generator.normal(size=(2, 192))
    found = scenes(np.concatenate([pan[0], features]), np.concatenate([pan[1].reshape(-1, 8, 8, 3), thumbnails]))
    assert found[:3000].tolist() == list(range(3000))
    assert share_of_pairs(found[3000:], truth) == (1, 1)


def test_mirrored_and_brighter_images_are_of_the_scene_and_nothing_breaks_on_flat_ones():
    features, thumbnails, _ = world(0, [1] * 100)
    twice = np.concatenate([features, features + 0.1]), np.concatenate([thumbnails, 2 * thumbnails[:, :, ::-1] + 5])
    assert share_of_pairs(scenes(*twice), np.tile(np.arange(100), 2)) == (1, 1)
    assert len(scenes(np.full((3, 4), np.nan), np.zeros((3, 8, 8, 3)))) == 3


def test_a_group_is_in_one_fold_and_folds_share_the_groups_of_a_class():
    generator, groups = np.random.default_rng(0), np.repeat(np.arange(30), 4)
    labels = groups % 3
    view = View(np.eye(3)[labels] + generator.normal(size=(120, 3)))
    folds = LabelModel(3).fit({"image": view}, labels, ids=np.arange(120), groups=groups).folds_
    assert all(len(set(folds[groups == group])) == 1 for group in range(30))
    for label in range(3):
        assert np.bincount(folds[labels == label], minlength=5).tolist() == [8] * 5


def test_the_share_of_wrong_labels_is_less_sure_where_frames_share_them():
    generator, scenes = np.random.default_rng(0), np.repeat(np.arange(90), 4)
    view = View(np.eye(3)[scenes % 3] + 0.4 * generator.normal(size=(360, 3)))
    labels = np.where(np.repeat(generator.random(90) < 0.2, 4), (scenes + 1) % 3, scenes % 3)
    alone, together = (
        LabelModel(3).fit({"image": view}, labels, ids=np.arange(360), groups=groups).label_noise_interval_
        for groups in (np.arange(360), scenes)
    )
    assert np.diff(together) > 1.6 * np.diff(alone) and together[0] < 0.2 < together[1]


def test_one_image_of_a_group_is_picked():
    generator, groups = np.random.default_rng(0), np.repeat(np.arange(40), 5)
    probabilities = generator.dirichlet([1, 1, 1], 200)
    labels, no = np.where(np.arange(200) < 3, np.arange(200), -1), np.zeros(200, dtype=bool)
    picked = pick_next(probabilities, labels, np.zeros(200), no, [generator.normal(size=(200, 4))], groups=groups)
    assert len(picked) == 20 == len(set(groups[picked]))
    gold = pick_gold(groups, 8)
    assert len(gold) == 8 == len(set(groups[gold]))


# --- By commands -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """Frames of 24 scenes, of which every other one is unlabelled, with the scene in the file name."""
    folder = frames_of(tmp_path_factory.mktemp("frames"), scenes=24)
    (folder / "train" / "unlabelled").mkdir()
    for path in sorted((folder / "train").rglob("*_[13].png")):
        path.rename(folder / "train" / "unlabelled" / path.name)
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "all_results.json").read_text())


def test_fit_judges_by_whole_groups_and_says_how_many(frames, fitted, few_draws, tmp_path, capsys):
    fitted(frames, tmp_path / "out", group_by="scene..")
    said = capsys.readouterr().out
    assert "Groups: 96 images of 24 scenes. Images of a scene are held out together." in said
    assert (
        "Trained on 96 images of 24 scenes. Each scene is held out whole" in (tmp_path / "out/report.html").read_text()
    )
    found = results(tmp_path / "out")
    assert found["groups"] == {"images": 96, "different": 96, "groups": 24, "found": 0}
    assert found["judged_on"] == "cross_validation"  # each unlabelled frame shows a labelled scene
    fitted(frames, tmp_path / "out", group_by="scene..")
    assert "nothing has changed since" in capsys.readouterr().out
    fitted(frames, tmp_path / "out", group_by="none")
    assert "Changed since the last run" in capsys.readouterr().out
    assert results(tmp_path / "out")["groups"] == {"images": 96, "different": 96, "groups": 96, "found": 0}


def test_validation_images_of_scenes_in_training_do_not_judge(fitted, few_draws, tmp_path, capsys):
    folder = frames_of(tmp_path, scenes=24)
    for path in sorted((folder / "train").rglob("scene*_0.png")):
        target = folder / "validation" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for path in [*(folder / "train").rglob("scene0[0-2]_*.png"), *(folder / "train").rglob("scene1[0-2]_*.png")]:
        path.unlink()
    fitted(folder, tmp_path / "out", group_by="scene..")
    said = capsys.readouterr().out
    assert "18 of 24 labelled images of 'validation' show scenes of training images, so they are left out" in said
    assert (results(tmp_path / "out")["judged_on"], results(tmp_path / "out")["judged_images"]) == ("validation", 6)


@pytest.mark.parametrize(("gold", "enough", "judge"), [(4, 30, "gold"), (24, 30, "cross_validation"), (24, 3, "gold")])
def test_gold_images_judge_new_scenes_or_are_learned(
    fitted, few_draws, monkeypatch, tmp_path, capsys, gold, enough, judge
):
    """The other images of their scenes leave training. A fifth of all scenes do at most, if so many can judge."""
    monkeypatch.setattr(priors, "MIN_JUDGES", enough)
    folder = frames_of(tmp_path, scenes=24)
    paths = sorted((folder / "train").rglob("scene*_0.png"))[:gold]
    names = [path.relative_to(folder).as_posix() for path in paths]
    lines = [{"file_name": name, "label": name.split("/")[1], "pick": "gold"} for name in names]
    (folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fitted(folder, tmp_path / "out", group_by="scene..")
    found, said = results(tmp_path / "out"), capsys.readouterr().out
    assert found["judged_on"] == judge
    if judge == "gold":
        assert found["judged_images"] == 4 and found["images"] == 80
        assert "Groups: 12 images of scenes with gold images are kept out of training." in said
        assert ("so 20 are learned. 4 of 24 gold images judge" in said) == (gold == 24)
    else:
        assert found["images"] == found["labels"] == 96
        assert "more than a fifth of the scenes, so 24 are learned. Training images judge" in said
    assert "say little about new scenes" not in said
    main(["predict", str(tmp_path / "out"), str(folder), "-o", str(tmp_path / "p.csv")])
    assert f"{92 if judge == 'gold' else 96} of the images were training images" in capsys.readouterr().out
    if judge == "gold":
        main(["evaluate", str(tmp_path / "out"), "--splits", "gold"])
        assert "of 4 images" in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit):
            main(["evaluate", str(tmp_path / "out"), "--splits", "gold"])
        assert "has learned all 24 gold images, so they tell nothing" in capsys.readouterr().err


def test_gold_images_of_new_scenes_are_no_larger_part_of_those_that_judge(monkeypatch):
    """Of 60 scenes that training shows, 28 would be a fifth; the other 40 would be easier or harder."""
    numbers = {"train": np.repeat(np.arange(100), 4), "gold": np.concatenate([np.arange(60), np.arange(100, 140)])}
    gold = Dataset.from_dict({"label": [0] * 100})
    kept = Scenes({"gold": gold}, numbers, numbers).are_kept()
    assert (kept[:60].sum(), kept[60:].sum()) == (28, 18)
    monkeypatch.setattr(priors, "MIN_JUDGES", 47)
    assert not Scenes({"gold": gold}, numbers, numbers).are_kept().any(), "one that judges alone tells nothing"


def test_images_without_a_name_are_called_by_their_row():
    split = with_image_ids(make.rows(4, ["a", "b"]).remove_columns("image_id"), "train")
    scenes = Scenes({"train": split}, {"train": np.array([1, 2, 1, 3])}, {"train": np.arange(4)}, True)
    assert "show the scene of another, such as row 0 and row 2)" in next(scenes.lines({}))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """
    Photographs of the demo; of every fifth another copy, re-encoded, resized, mirrored or brighter, and the last one
    in the folder of another class.
    """
    demo, folder = ROOT / "recipes" / "photos_demo" / "pictures" / "train", tmp_path_factory.mktemp("photos")
    paths = [path for path in sorted(demo.rglob("*.jpg")) if path.parent.name != "unlabelled"]
    paths += sorted((demo / "unlabelled").rglob("*.jpg"))[:30]
    for number, path in enumerate(paths):
        target = folder / "train" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        if number % 5 == 0:
            image = Image.open(path).convert("RGB")
            changed = (
                image,
                image.resize((image.width * 3 // 4, image.height * 3 // 4)),
                ImageOps.mirror(image),
                ImageEnhance.Brightness(image).enhance(1.1),
            )[number // 5 % 4]
            changed.save(target.with_name(f"copy of {path.name}"), quality=80)
    classes = sorted(path for path in (folder / "train").iterdir() if path.name != "unlabelled")
    copy = next(classes[0].glob("copy of *"))
    copy.rename(classes[1] / copy.name)
    return folder


@pytest.mark.slow
def test_check_finds_copies_and_those_of_several_classes(photos, tmp_path, capsys):
    words = ["check", str(photos), "--check_dir", str(tmp_path / "check"), "--views", "image:student"]
    main(words)
    said = capsys.readouterr().out
    images = len([*photos.rglob("*.jpg")])
    (line,) = re.findall(r"Groups: (\d+) images of (\d+) scenes, found by features and pixels \((\d+) show", said)
    number, copies = int(line[1]), len([*photos.rglob("copy of *")])
    assert int(line[0]) == images and 0.9 * copies <= images - number <= 1.3 * copies
    assert "--group_by none" in said and "of these scenes have labels of several classes, such as " in said
    main([*words, "--group_by", "none"])
    assert "Groups:" not in capsys.readouterr().out


def test_labels_of_one_scene_are_said_as_they_cannot_be_held_out(tmp_path, capsys):
    folder = frames_of(tmp_path, scenes=6)
    for path in (folder / "train").rglob("scene03_*.png"):
        path.unlink()
    main(["check", str(folder), "--check_dir", str(tmp_path / "check"), "--group_by", "scene.."])
    said = capsys.readouterr().out
    assert "Groups: 20 images of 5 scenes. Images of a scene are held out together." in said
    assert "Groups: all labels of 'circle' are of one scene, so that none can be held out." in said


def test_evaluate_counts_frames_of_a_scene_as_one(fitted, few_draws, tmp_path):
    folder = frames_of(tmp_path, scenes=24)
    for path in [*(folder / "train").rglob("scene1[2-9]_*.png"), *(folder / "train").rglob("scene2*.png")]:
        target = folder / "test" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    out = tmp_path / "out"
    fitted(folder, out, group_by="scene..")
    main(["evaluate", str(out), "--splits", "test"])
    found = json.loads((out / "test_results.json").read_text())
    assert (found["images"], found["groups"], found["verdict"]) == (48, 12, "cannot tell")
    main(["release", "--run", str(out), "--license", "mit"])
    low, high = (100 * end for end in results(out / "with_views")["test_accuracy_interval"])
    card = " ".join((out / "classifier" / "README.md").read_text().split())
    assert f"the 95% interval of this checkpoint's accuracy is {low:.0f} to {high:.0f}" in card
    low, high = (100 * end for end in found["difference_interval"])
    assert f"interval of its difference from labels only is {low:+.0f} to {high:+.0f} points" in card


def test_few_scenes_tell_no_accuracy_on_new_ones(frames, fitted, few_draws, tmp_path):
    result = fitted(frames, tmp_path / "out", group_by="scene..")
    said = " ".join(result.lines())
    assert (result.verdict, result.with_views_accuracy, result.judged_groups) == (None, None, 24)
    assert "new scenes is unknown: 24 scenes have labels that can be held out, and it takes 30. Label" in said
    assert result.released == "with_views" and result.with_views_accuracy_on_these_images is not None
    assert "On these images, not new scenes: right for about" in said


def test_both_accuracies_are_in_results_terminal_report_and_card(fitted, few_draws, tmp_path):
    folder, out = frames_of(tmp_path, scenes=36), tmp_path / "out"
    result = fitted(folder, out, group_by="scene..")
    found, said, page = results(out), " ".join(result.lines()), (out / "report.html").read_text()
    assert found["judged_groups"] == 36 and "of images of new scenes" in said and "of images of new scenes" in page
    low, high = found["with_views_interval_on_these_images"]
    assert low <= found["with_views_accuracy_on_these_images"] <= high
    line = "On these images, not new scenes: right for about"
    assert line in said and line in page and "of more images of these scenes" in said
    card = (out / "classifier" / "README.md").read_text()
    assert "of images of new scenes, which it has not seen" in card
    assert "On more images of the scenes that it was trained on: for about" in card
    alone = fitted(folder, tmp_path / "alone", group_by="none")
    assert alone.with_views_accuracy_on_these_images is None and "images like yours" in alone.lines()[0]


def test_check_names_scenes_with_labels_of_several_classes_where_groups_are_given(tmp_path, capsys):
    folder = frames_of(tmp_path, scenes=24)
    (first, *_), (other, *_) = (sorted(each.glob("*.png")) for each in sorted((folder / "train").iterdir())[:2])
    first.rename(other.parent / first.name)
    with contextlib.suppress(SystemExit):
        main(["check", str(folder), "--group_by", "scene.."])
    assert "Groups: 1 of these scenes have labels of several classes, such as" in capsys.readouterr().out


def test_a_smaller_sample_is_said(frames, student, words, tmp_path, capsys):
    options = ["--group_by", "scene..", "--student", student, "--image_size", "32", "--text_encoder", words]
    main(["label", str(frames), "--pick", "gold", "--list", "-o", str(tmp_path / "out"), *options])
    said = capsys.readouterr()
    assert "4 images in place of 100: a random sample has one image of a scene" in said.err
    assert len(said.out.splitlines()) == 4
