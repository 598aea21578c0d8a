"""Several people label: each line is a vote, and annotators are judged by each other and by what images say."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawings import CLASSES, draw_folder
from fitting import few_labels, results_of

from g4i_hf import LabelModel, View, load_images
from g4i_hf.cli import build_options
from g4i_hf.data.labels import answers_to, read_people
from g4i_hf.data.record import content_digest
from g4i_hf.fitting.evidence import Evidence
from g4i_hf.label_model.annotators import judge_annotators, majority
from g4i_hf.linear import one_hot
from g4i_hf.options import OPTIONS_OF
from g4i_hf.running import main
from g4i_hf.workflows.label import Labelling


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Circles are 0, 3, 6, 9, crosses 1, 4, 7, 10, squares the others."""
    return draw_folder(tmp_path / "pictures", captions=False, train=12)


def say(folder: Path, number: int, by: str, label: str | None, pick: str = "manual", **more) -> None:
    name = f"train/{CLASSES[number % 3]}/{number}.png"
    with open(folder / "labels.jsonl", "a") as file:
        file.write(json.dumps({"file_name": name, "label": label, "pick": pick, "by": by} | more) + "\n")


def label_of(folder: Path, number: int, split: str = "train") -> str | None:
    rows = load_images(folder)[split]
    label = rows["label"][[Path(name).stem for name in rows["image_id"]].index(str(number))]
    return None if label is None else rows.features["label"].names[label]


def test_the_last_line_of_each_annotator_is_a_vote_and_a_tie_is_no_label(pictures):
    say(pictures, 0, "ann", "circle")
    say(pictures, 0, "ann", "cross")
    assert label_of(pictures, 0) == "cross", "of one annotator the last line counts"
    say(pictures, 0, "bob", "square")
    assert label_of(pictures, 0) is None
    say(pictures, 0, "cy", "square")
    say(pictures, 0, "ann", "circle")
    assert label_of(pictures, 0) == "square"
    say(pictures, 0, "bob", None)  # undoes bob's line alone
    say(pictures, 1, "bob", None, none=True)
    assert label_of(pictures, 0) is None
    say(pictures, 0, "ann", "square")
    assert label_of(pictures, 0) == "square"
    assert "cross/1.png" not in " ".join(load_images(pictures)["train"]["image_id"])


def test_gold_is_final_and_a_vote_on_an_earlier_version_of_the_image_does_not_count(pictures):
    say(pictures, 0, "ann", "circle", "gold")
    for by in ("bob", "cy"):
        say(pictures, 0, by, "cross")
        say(pictures, 3, by, "cross", digest="0" * 32)
    say(pictures, 3, "ann", "square", digest=content_digest((pictures / "train/circle/3.png").read_bytes()))
    assert label_of(pictures, 0, "gold") == "circle"
    assert label_of(pictures, 3) == "square"
    say(pictures, 6, "dora", "crcle")
    say(pictures, 6, "eve", "circle")
    with pytest.raises(ValueError, match="line 7: 'crcle' is none of the 3 classes. Did you mean 'circle'?"):
        label_of(pictures, 6)


def test_a_tie_with_none_of_these_has_no_votes_and_a_tie_on_a_new_class_adds_none(pictures, capsys):
    say(pictures, 0, "ann", "circle")
    say(pictures, 0, "bob", None, none=True)
    say(pictures, 1, "ann", "cross")
    say(pictures, 1, "bob", "lynx", new_class=True)
    rows = load_images(pictures)["train"]
    votes = dict(zip((Path(name).stem for name in rows["image_id"]), rows["votes"], strict=True))
    assert votes["0"] is None and json.loads(votes["1"]) == {"ann": "cross", "bob": "lynx"}
    (pictures.parent / "more.csv").write_text("file_name,label\n2.png,lynx\n")
    main(["label", str(pictures), "--import", str(pictures.parent / "more.csv")])
    assert "1 new" in capsys.readouterr().out


def test_votes_that_the_views_picked_are_no_certain_labels():
    truth, votes, known = people([0.9, 0.4], 200, 1.0, 0)
    labels, ids, views = majority(votes, 4), np.arange(200), {"image": View(np.eye(4)[truth] + known)}
    model = LabelModel(4).fit(views, labels, ids=list(map(str, ids)))
    model.calibration_.share = 0.2
    of = {"annotators": ["ann", "bob"], "votes": votes, "is_certain": np.zeros(200, dtype=bool)}
    evidence = Evidence(labels, views, model, ids, np.full(200, "next"), **of)
    assert not (evidence.by_fold(ids, 0).max(1) == 1)[labels >= 0].all() and (evidence.unreviewed == labels).all()
    assert not len(evidence.rows_for_cross_validation())
    nobody = Evidence(labels, views, model, ids, np.full(200, "gold"), annotators=["ann", "bob"], votes=votes)
    assert nobody.judged_annotators.agreement is None  # all votes are gold, which tell nothing of annotators


def people(accuracies: list[float], number: int, share: float, seed: int, sure: float = 0.7) -> tuple[np.ndarray, ...]:
    """Classes of 4, votes of people that are right so often and label a share, and what views say, right as often."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=number)
    votes = np.stack([np.where(rng.random(number) < each, truth, rng.integers(4, size=number)) for each in accuracies])
    votes = np.where(rng.random(votes.shape) < share, votes, -1).T
    guess = np.where(rng.random(number) < sure, truth, (truth + rng.integers(1, 4, size=number)) % 4)
    known = np.where(one_hot(guess, 4) > 0, sure, (1 - sure) / 3)
    return truth, votes, known


def right(posterior: np.ndarray, truth: np.ndarray) -> float:
    return float((posterior.argmax(1) == truth).mean())


def test_one_who_answers_at_random_or_swaps_classes_costs_nothing_and_two_that_agree_are_worth_more():
    truth, votes, known = people([0.85, 0.85, 0.8], 1000, 0.7, 0)
    alone = right(judge_annotators(votes, known).posterior, truth)
    swaps = np.where(truth < 2, 1 - truth, truth)
    for bad in (np.random.default_rng(1).integers(4, size=1000), swaps, (truth + 1) % 4):
        judged = judge_annotators(np.column_stack([votes, bad]), known)
        assert right(judged.posterior, truth) > alone - 0.005
        assert judged.accuracies[-1] == pytest.approx((bad == truth).mean(), abs=0.05)
    swapped = judge_annotators(np.column_stack([votes, swaps]), known).confusions[-1]
    assert swapped[0].argmax() == 1 and swapped[2].argmax() == 2
    one = judge_annotators(np.where(np.arange(3) == 0, votes, -1), known)
    assert right(known, truth) < right(one.posterior, truth) < alone
    assert alone > (majority(votes, 4) == truth).mean() + 0.05


def test_intervals_hold_the_share_of_right_labels_of_each_annotator():
    held = []
    for seed in range(20):
        truth, votes, known = people([0.95, 0.9, 0.85, 0.7, 0.4], 200, 0.4, seed)
        low, high = judge_annotators(votes, known).intervals.T
        shares = [(truth == each)[each >= 0].mean() for each in votes.T]
        held += [(low <= shares) & (shares <= high)]
    assert np.mean(held) > 0.9


def test_agreement_is_that_of_pairs_and_unknown_without_any():
    known = np.full((3, 4), 0.25)
    assert judge_annotators(np.array([[0, 0, 1], [2, 2, -1], [-1, -1, 3]]), known).agreement == 0.5
    assert judge_annotators(np.array([[0, -1], [-1, 1], [2, -1]]), known).agreement is None


def test_what_is_learned_of_an_image_with_votes_is_what_they_and_the_views_say():
    truth, votes, known = people([0.9, 0.8], 200, 1.0, 0)
    votes[150:] = -1
    views, labels, ids = {"image": View(np.eye(4)[truth] + known)}, majority(votes, 4), np.arange(200)
    model = LabelModel(4).fit(views, labels, ids=list(map(str, ids)))
    alone = model.posterior_.copy()
    evidence = Evidence(labels, views, model, ids, annotators=["ann", "bob"], votes=votes)
    for each in (evidence, evidence.by_image()):
        expected = judge_annotators(votes[:150], each.model.probabilities_[:150].astype(float)).posterior
        np.testing.assert_allclose(each.model.posterior_[:150], expected, atol=1e-3)
    assert (labels[:150] < 0).any() and np.array_equal(evidence.model.posterior_[150:], alone[150:])


@pytest.fixture(scope="module")
def voted(fitted, tmp_path_factory):
    """Drawings that three people labelled, one of them at random; and the result of a fit."""
    pictures = few_labels(tmp_path_factory.mktemp("voted"), 0, train=90)
    rng = np.random.default_rng(0)
    with answers_to(pictures / "labels.jsonl") as append:
        for number in range(75):
            for by, accuracy in (("ann@example.org", 1.0), ("<b>bob", 0.9), ("cy", 0.0)):
                label = CLASSES[number % 3 if rng.random() < accuracy else rng.integers(3)]
                line = {"file_name": f"train/unlabelled/{number}.png", "label": label, "by": by, "new_class": True}
                append(json.dumps(line) + "\n")
    out = tmp_path_factory.mktemp("out") / "out"
    return pictures, out, fitted(pictures, out, group_by="none")


@pytest.mark.slow
def test_fit_estimates_how_accurate_each_annotator_is_and_the_card_names_nobody(voted):
    _, out, result = voted
    found = results_of(out)["annotators"]
    assert found == result.annotators and [line["labels"] for line in found.values()] == [75] * 3
    assert found["ann@example.org"]["accuracy"] > 0.9 > 0.6 > found["cy"]["accuracy"]
    low, high = found["<b>bob"]["interval"]
    assert low < 0.93 < high
    lines = " ".join(result.lines())
    assert "Labels of 3 annotators: where two label an image, they agree in 48%." in lines and "'cy' 29%" in lines
    report, card = (out / "report.html").read_text(), (out / "classifier" / "README.md").read_text()
    assert "ann@example.org" in report and "<b>bob" not in report
    assert "Labels of 3 annotators" in card and "ann@example.org" not in card and "bob" not in card
    assert "example.org" not in "".join(path.read_text() for path in (out / "classifier").glob("*.json"))


@pytest.mark.slow
def test_disagreements_are_shown_to_a_third_person(voted, student, words, capsys):
    pictures, out, _ = voted
    encoders = ["--student", student, "--text_encoder", words, "--views", "caption", "--group_by", "none"]
    label = ["label", str(pictures), "-o", str(out), *encoders, "--list", "--pick", "disagreements"]
    main(label)
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    votes = read_people(pictures / "labels.jsonl")
    differ = {name for name, lines in votes.items() if len({line["label"] for line in lines.values()}) > 1}
    assert names and set(names) == differ
    main([*label, "--by", "cy"])
    assert "or you answered all of them" in capsys.readouterr().err


@pytest.mark.slow
def test_an_answer_on_the_page_is_that_of_its_person_and_an_undo_too(voted, student, words, tmp_path):
    pictures, out, _ = voted
    given = {"dataset_name": str(pictures), "output_dir": str(out), "views": ["caption"], "group_by": "none"}
    given |= {"student": student, "text_encoder": words, "by": "cy", "pick": "disagreements"}
    asked = Labelling(*build_options(OPTIONS_OF["label"], given), say=lambda text: None)
    asked.compute()
    row, lines = asked.names.index("train/unlabelled/4.png"), []
    before = read_people(pictures / "labels.jsonl")[asked.names[row]]["cy"]["label"]
    asked.answer(lines.append, row, (asked.classes.index(before) + 1) % 3)
    asked.answer(lines.append, row, None, undo=True)
    new, undone = map(json.loads, lines)
    assert (new["by"], new["pick"], undone["by"], undone["label"]) == ("cy", "disagreements", "cy", before)
    assert new["label"] != before and undone["pick"] == "manual"
