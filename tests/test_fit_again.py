"""`g4i fit` of a folder that holds a result, or a part of one: nothing twice, and nothing old after a change."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from caption_doors import WORKERS
from doors import TWO_PROCESSES, spelled, succeed
from drawings import CLASSES
from fitting import few_labels, lines_of, results_of
from loaded import PYTHON
from test_changed_data import add_images, change_captions, correct_labels

from g4i_hf import ImageSearch, ZeroShotImageClassifier
from g4i_hf.files import replace_text
from g4i_hf.fitting import all_layers, command, folder
from g4i_hf.fitting.result import FitResult
from g4i_hf.fitting.words import released_in_words, sentence_for_card, verdict_in_words
from g4i_hf.hub.release import release_student, release_with_card
from g4i_hf.running import main
from g4i_hf.training.run_folder import LOCK_FILE

RUNS = ("labels_only", "with_views", "classifier")
RESULT = (*RUNS, "report.html", "fit.yaml", "all_results.json", "data_record.parquet")


@pytest.fixture(scope="module")
def finished(fitted, tmp_path_factory) -> tuple[Path, Path]:
    """A folder with `pictures`, 15 of 36 drawings with a label and a validation split, and `out`; and its copy."""
    root = tmp_path_factory.mktemp("again") / "place"
    few_labels(root, 5, train=36, validation=9)
    fitted(root / "pictures", root / "out", release="with_views")
    return root, shutil.copytree(root, root.with_name("copy"))


@pytest.fixture
def place(finished) -> Path:
    """As it was, at the same path for every test."""
    root, copy = finished
    shutil.rmtree(root)
    return shutil.copytree(copy, root)


@pytest.fixture
def again(fitted, place, capsys):
    """Fits the pictures into `out`: the result, and the lines that were printed."""

    def fitting(out: str = "out", **options):
        capsys.readouterr()
        result = fitted(place / "pictures", place / out, **{"release": "with_views"} | options)
        return result, capsys.readouterr().out.splitlines()

    return fitting


def weights_in(folder: Path) -> dict[str, bytes]:
    return {run: (folder / run / "model.safetensors").read_bytes() for run in RUNS}


def rows_of_features(out: Path) -> list[int]:
    """Of the student, without thumbnails."""
    return sorted(pq.read_metadata(file).num_rows for file in (out / "features").glob("[0-9a-f]*/*.parquet"))


def test_nothing_changed_writes_nothing_and_says_the_same(again, place, words):
    """Files of another time, another variable with the token, and a search by the released classifier: no change."""
    out = place / "out"
    for path in (place / "pictures").rglob("*.png"):
        path.touch()
    released = sorted((out / "classifier").rglob("*"))
    images = str(place / "pictures" / "train")
    main(["search", str(out / "classifier"), "a red circle", "--images", images, "--text_encoder", words])
    assert sorted((out / "classifier").rglob("*")) == released
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    results = results_of(out)
    result, said = again(api_key_env="OTHER_TOKEN")
    assert said[0] == f"{out} holds this very result: nothing has changed since."
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert result.with_views_accuracy == results["with_views_accuracy"] and verdict_in_words(result) in said


def test_a_search_of_images_that_fit_has_seen_computes_no_features_of_them(place, monkeypatch):
    out, train = place / "out", place / "pictures" / "train"
    add_images(place / "pictures")
    embedded, embed = [], ZeroShotImageClassifier.embed_images

    def counting(classifier, images, **kwargs):
        embeds = embed(classifier, images, **kwargs)
        embedded.append(len(embeds))
        return embeds

    monkeypatch.setattr(ZeroShotImageClassifier, "embed_images", counting)
    by_features = [ImageSearch(name, train).image_embeds for name in (out, out / "classifier")]
    assert embedded == [2, 2], "the new ones"
    (out / "features").rename(out / "gone")
    for embeds in by_features:
        np.testing.assert_allclose(embeds, ImageSearch(out, train).image_embeds, atol=1e-5)
    assert sum(embedded) == 2 + 2 + 2 * 38


def test_another_classifier_is_released_without_fitting_again_also_after_a_kill(again, place, monkeypatch):
    out = place / "out"
    before = weights_in(out)
    result, said = again(release="labels_only")
    assert result.released == "labels_only" and "holds this very result" in said[0]
    assert weights_in(out) == before | {"classifier": weights_in(out)["classifier"]} != before, "the other runs stay"
    assert not (out / "earlier-1").exists() and again()[0].released == "with_views" and weights_in(out) == before

    def killed(args):
        assert (out / LOCK_FILE).is_file()
        release_with_card(args)
        raise KeyboardInterrupt

    def killed_at_the_end(file, text):
        replace_text(file, text)
        if '"released": "labels_only"' in text:
            raise KeyboardInterrupt

    deadly_calls = ((command, "release_with_card", killed), (folder, "replace_text", killed_at_the_end))
    for module, name, deadly in deadly_calls:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(module, name, deadly)
            again(release="labels_only")
        assert weights_in(out) != before
        result, said = again()
        assert "holds this very result" in said[0] and not (out / "earlier-1").exists()
        assert result.released == "with_views" and weights_in(out) == before


def test_a_release_into_the_folder_is_no_change_by_others(again, place, caplog):
    """A release elsewhere, and a dry run, leave what is noted of the classifier."""
    out = place / "out"
    noted = (out / "fit.json").read_bytes()
    options = ["release", "--run", str(out), "--aligned", "false", "--license", "mit"]
    main([*options, "--output_dir", str(place / "elsewhere")])
    main([*options, "--dry_run"])
    assert (out / "fit.json").read_bytes() == noted and (out / "classifier" / "aligned").is_dir()
    main(options)
    main(["evaluate", str(out), "--splits", "validation"])
    assert "changed since" not in caplog.text
    _, said = again()
    assert "holds this very result" in said[0] and not (out / "classifier" / "aligned").exists()
    release_student(out)
    assert "holds this very result" in again()[1][0] and (out / "classifier" / "aligned").is_dir()


def test_every_command_says_which_classifier_ships_and_its_switch_fits_nothing_again(place, capsys):
    """The switch is the command that is printed."""
    out = place / "out"
    kept = "classifier/ holds the one with captions"
    switch = f"For the one that learned from labels only: g4i fit --config {out / 'fit.yaml'} --release labels_only"
    for typed in (["evaluate", str(out), "--splits", "validation"], ["release", str(out)]):
        main(typed)
        said = capsys.readouterr().out
        assert kept in said and switch in said
    spaced = shutil.copytree(out, place / "my runs")
    assert f"g4i fit --config '{spaced / 'fit.yaml'}' " in released_in_words(FitResult.read(spaced), True)
    main(switch.partition("g4i ")[2].split())
    said = capsys.readouterr().out
    assert "holds this very result" in said and "learned from labels only, as --release asks for." in said
    main(["release", str(out)])
    assert "classifier/ holds the one that learned from labels only" in capsys.readouterr().out


def test_what_an_older_version_fitted_is_new_work(again, place):
    noted = json.loads((place / "out" / "fit.json").read_text())
    (place / "out" / "fit.json").write_text(json.dumps(noted | {"format": noted["format"] - 1}))
    _, said = again(dry_run=True)
    assert said[0] == f"Changed since the last run in {place / 'out'}: how g4i fit works."


def test_a_result_without_one_of_its_runs_is_not_finished(again, place):
    before = weights_in(place / "out")
    shutil.rmtree(place / "out" / "labels_only")
    _, said = again(dry_run=True)
    assert said[-1].startswith(f"Would write {place / 'out'}") and not re.search("very result|changed since", said[0])
    again()
    assert weights_in(place / "out") == before


def test_files_that_others_changed_are_said_and_made_again(again, place, capsys, caplog):
    """`classifier` from its run; a run by fitting anew. What was there is kept; a file beside them is no change."""
    out = place / "out"
    before, weights = weights_in(out), out / "classifier" / "model.safetensors"
    (out / "classifier" / "NOTES.md").write_text("mine")
    (out / "classifier" / "README.md").write_text("a card of my own")
    assert "holds this very result" in again()[1][0]
    shutil.copy(out / "labels_only" / "model.safetensors", weights)
    settings = out / "classifier" / "config.json"
    settings.write_text(settings.read_text().replace("circle", "disc"))
    main(["evaluate", str(out), "--splits", "validation"])
    changed = "classifier/config.json, classifier/model.safetensors"
    assert f"{out}: changed since g4i fit wrote it: {changed}." in caplog.text
    _, said = again(dry_run=True)
    assert f"{out}: changed since g4i fit wrote it: {changed}." == said[0] and weights_in(out) != before
    _, said = again()
    assert f"{out}: changed since g4i fit wrote it: {changed}." == said[0]
    assert f"{out / 'classifier'} is made again from the run beside it." in said and weights_in(out) == before
    assert f"The earlier result is kept in {out / 'earlier-1'}." in said
    assert "disc" in (out / "earlier-1" / "classifier" / "config.json").read_text()
    shutil.rmtree(out / "classifier")
    again()
    assert weights_in(out) == before and "holds this very result" in again()[1][0]
    run = out / "labels_only" / "model.safetensors"
    run.write_bytes(before["labels_only"][:-9] + b"\0" * 9)
    with pytest.raises(SystemExit):
        main(["release", "--run", str(out)])
    assert "labels_only/model.safetensors" in capsys.readouterr().err
    _, said = again(dry_run=True)
    assert said[0] == f"{out}: changed since g4i fit wrote it: labels_only/model.safetensors."
    assert said[-1].startswith(f"Would write {out}")


def test_a_change_is_new_work_beside_the_earlier_result(again, place):
    """
    With the weights of a folder that never held anything else. A new label computes no features, a new image its own,
    and equal images are one.
    """
    pictures, out = place / "pictures", place / "out"
    before = weights_in(out)
    assert rows_of_features(out) == [9, 36]
    (out / "with_views" / "model.safetensors").unlink()
    correct_labels(pictures)
    change_captions(pictures)
    add_images(pictures)
    shutil.copy(pictures / "train" / "circle" / "90.png", pictures / "train" / "circle" / "90 again.png")
    result, said = again()
    changed = "labels of 4 images, captions of 3 images, 3 new images"
    assert said[0] == f"Changed since the last run in {out}: {changed}."
    since, next_line = [line for line in said if line.startswith(("Since the last run: ", "Next: "))]
    assert f"-> {result.with_views_accuracy:.0%}" in since and "g4i " in next_line
    assert f"The earlier result is kept in {out / 'earlier-1'}." in said
    assert rows_of_features(out) == [2, 9, 36]
    fresh, _ = again("new")
    assert weights_in(out) == weights_in(place / "new") != before
    assert result.with_views_accuracy == fresh.with_views_accuracy
    assert all((out / "earlier-1" / name).exists() for name in RESULT)


@pytest.mark.slow
def test_figures_of_evaluate_in_an_unfinished_folder_do_not_stop_the_next_fit(again, place):
    (place / "out" / "all_results.json").write_text('{"test_accuracy": 0.5}')
    result, _ = again(seed=1)
    assert result.verdict


@pytest.mark.slow
def test_other_options_are_another_result_also_of_features_and_any_is_overwritten_on_request(again, place):
    out, options = place / "out", {"seed": 1, "image_size": 48}
    _, said = again(**options)
    assert said[0] == f"Changed since the last run in {out}: the option image_size, the option seed."
    assert (out / "earlier-1" / "classifier").is_dir() and rows_of_features(out) == [9, 9, 36, 36]
    correct_labels(place / "pictures")
    for _ in range(2):  # also where nothing has changed
        _, said = again(**options, overwrite=True)
        assert "holds this very result" not in said[0] and not (out / "earlier-2").exists()
    again("new", **options)
    assert weights_in(out) == weights_in(place / "new")


@pytest.mark.slow
def test_a_fit_that_cannot_go_on_has_moved_nothing(again, place):
    (place / "pictures" / "train" / lines_of(place / "pictures")[0]["file_name"]).write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be decoded"):
        again()
    assert (place / "out" / "report.html").is_file() and not (place / "out" / "earlier-1").exists()
    again(on_bad_images="skip")
    assert (place / "out" / "earlier-1" / "report.html").is_file()


@pytest.mark.slow
def test_reviewed_labels_judge_train_and_are_new_work(fitted, tmp_path, capsys):
    """Gold images judge, and nothing learns from them; those picked by the label model train."""
    pictures, out = few_labels(tmp_path, 3, train=90), tmp_path / "out"
    first = fitted(pictures, out)
    said = capsys.readouterr().out
    assert first.judged_on == "cross_validation" and "Unreviewed:" in said
    assert "unreviewed" in sentence_for_card(first, "with_views")
    assert said.splitlines()[-1].startswith("Next: l") and f"g4i label {pictures} -o {out} --text_encoder" in said
    assert " --image_size 32 --pick" in said
    names = sorted(path.name for path in (pictures / "train" / "unlabelled").iterdir())[:52]
    lines = [{"file_name": f"train/unlabelled/{name}", "label": CLASSES[int(name[:-4]) % 3]} for name in names]
    lines = [line | {"pick": "gold" if row < 30 else "next"} for row, line in enumerate(lines)]
    for row, pick in ((50, "none"), (51, "gold")):
        lines[row] = {"file_name": lines[row]["file_name"], "none": True, "pick": pick}
    (pictures / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = fitted(pictures, out)
    said = capsys.readouterr().out
    assert "labels of 50 images" in said and "the split of 32 images.\n" in said and "Equal images" not in said
    assert "Since the last run: labels 9 -> 29; accuracy " in said
    assert (found.judged_on, found.judged_images, found.images, found.labels) == ("gold", 30, 58, 29)
    card = (found.classifier / "README.md").read_text()
    for page in (said, (out / "report.html").read_text()):
        assert "Reviewed on 30 images" in page and "1 more (3% of the sample) belong to none of the classes" in page
    assert "reviewed on 30 images that a person labelled" in card and "nreviewed" not in said + card
    assert fitted(pictures, out).judged_images == 30 and "holds this very result" in capsys.readouterr().out
    line = {"file_name": f"train/unlabelled/{names[40]}", "label": "star", "new_class": True, "pick": "manual"}
    (pictures / "labels.jsonl").write_text("".join(json.dumps(each) + "\n" for each in [*lines, line]))
    found = fitted(pictures, out)
    said = capsys.readouterr().out
    assert found.unjudged_classes == ["star"] and "Since the last run" not in said and "\nNext: " in said
    assert "None of them shows 1 of the 4 classes ('star'), so these were not checked." in said


@pytest.fixture(scope="module")
def drawn(fitted, tmp_path_factory) -> tuple[Path, Path]:
    """153 drawings, 3 a class with a label, and their fit. Read only."""
    root = tmp_path_factory.mktemp("drawn")
    pictures = few_labels(root, 3, train=153)
    return pictures, fitted(pictures, root / "out").classifier.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "call"), [("command.judged_heads", "1"), ("runs.save_run", "2"), ("command.release_with_card", "1")]
)
def test_fit_that_is_killed_resumes_to_the_same_bits(drawn, student, words, tmp_path, moment, call):
    pictures, plain = drawn
    options = {"student": student, "image_size": 32, "finetune": "false", "text_encoder": words}
    out, code = tmp_path / "out", "from g4i_hf.running import main; main(sys.argv[1:])"
    deadly = [PYTHON, WORKERS / "deadly.py", f"g4i_hf.fitting.{moment}", call, code, "fit", pictures, "-o", out]
    assert subprocess.run([*deadly, *spelled((options,))]).returncode == -signal.SIGKILL
    assert not (out / "report.html").exists() and list(out.glob("features/*/*.parquet"))
    succeed("fit", pictures, "-o", out, options)
    assert weights_in(out) == weights_in(plain) and results_of(out) == results_of(plain)


@pytest.mark.slow
def test_two_processes_fit_what_one_does(fitted, drawn, student, words, tmp_path, capsys, monkeypatch):
    """All layers see other batches then; and rounding moves a last layer of nine labels by a point or two."""
    pictures = drawn[0]
    monkeypatch.setattr(all_layers, "FEWEST_STEPS", 6)
    monkeypatch.setattr(all_layers, "USUAL_STEPS", (6, 6))
    one = fitted(pictures, tmp_path / "one", finetune="true")
    pattern = "All layers, .* where the last layer alone has (.*?)%"
    last_layers = list(map(float, re.findall(pattern, capsys.readouterr().out)))
    given = {"student": student, "image_size": 32, "text_encoder": words, "finetune": "true"}
    said = succeed("fit", pictures, "-o", tmp_path / "two", given, launcher=TWO_PROCESSES).out
    assert said.count(" is right for about ") == 1 and len(last_layers) == 1
    assert list(map(float, re.findall(pattern, said))) == pytest.approx(last_layers, abs=3)
    assert results_of(tmp_path / "two")["label_noise_estimate"] == pytest.approx(one.label_noise_estimate, rel=1e-3)
