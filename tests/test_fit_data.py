"""What `g4i fit` takes: datasets of any form, captions that are written first, views; and what it refuses."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import caption_doors
import make
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from drawings import CLASSES, caption, draw_folder, drawing
from fitting import few_labels, lines_of, results_of, save_resnet, write_lines
from PIL import Image
from test_encoders_as_views import saved as save_both

from g4i_hf import View, embed_view, evaluate_run, fit, load_images
from g4i_hf.fitting.command import Fit
from g4i_hf.fitting.words import classifier_in_words
from g4i_hf.options import DEFAULT_TEXT_ENCODER
from g4i_hf.running import main
from g4i_hf.training.run_folder import read_options
from g4i_hf.views.making import named_views


def in_memory(numbers=range(6), **other) -> Dataset:
    """Drawings as Pillow images, with names of classes and captions."""
    rows = {"image": [drawing(row) for row in numbers], "label": [CLASSES[row % 3] for row in numbers]}
    return Dataset.from_dict(rows | {"caption": [caption(row) for row in numbers]} | other)


NAMED = {"image": "photo", "label": "species", "caption": "text"}


@pytest.fixture(scope="module")
def fit_in_memory(fitted) -> tuple:
    """The result, of columns with names of their own, and the data."""
    splits = DatasetDict(train=in_memory(range(30)), validation=in_memory(range(30, 39))).rename_columns(NAMED)
    return fitted(splits, **NAMED), splits


def test_fit_takes_a_dataset_in_memory(fit_in_memory):
    found, _ = fit_in_memory
    assert found.judged_images == 9 and set(found.views) == {"caption", "image"}


def test_a_split_that_fit_does_not_read_may_lack_columns(fitted):
    splits = DatasetDict(train=in_memory().rename_column("label", "species"), new=in_memory().remove_columns("label"))
    assert fitted(splits, label="species", dry_run=True) is None
    splits["validation"] = splits.pop("new")
    with pytest.raises(ValueError, match=r"'validation' has no column 'species' \(given as label\)"):
        fitted(splits, label="species", dry_run=True)


def test_evaluate_takes_what_was_in_memory_from_a_folder(fit_in_memory, tmp_path):
    found, splits = fit_in_memory
    out = found.classifier.parent
    with pytest.raises(ValueError, match="were in memory. Save them with save_to_disk"):
        evaluate_run(out)
    splits.save_to_disk(tmp_path / "saved")
    columns = {f"{ours}_column": theirs for ours, theirs in NAMED.items()}
    again = evaluate_run(out, dataset_name=str(tmp_path / "saved"), splits="validation", **columns)
    assert again["aligned"]["validation_accuracy"] == found.with_views_accuracy


@pytest.mark.slow
def test_pillow_and_numpy_images_give_the_same_classifier(fitted, tmp_path):
    """JPEG files that Pillow opened keep their bytes, arrays become PNG."""
    names = [tmp_path / f"{row}.jpg" for row in range(24)]
    for row, name in enumerate(names):
        drawing(row).convert("RGB").save(name)
    kinds = {"pillow": list(map(Image.open, names)), "numpy": [np.asarray(Image.open(name)) for name in names]}
    rows = {"label": [CLASSES[row % 3] for row in range(24)], "caption": [caption(row) for row in range(24)]}
    features = Features(image=ImageFeature(), label=Value("string"), caption=Value("string"))
    one, other = (
        fitted(Dataset.from_dict({"image": kinds[kind]} | rows, features), tmp_path / kind) for kind in kinds
    )
    assert one.with_views_accuracy == other.with_views_accuracy and one.judged_on == "cross_validation"
    weights = [(each.classifier / "model.safetensors").read_bytes() for each in (one, other)]
    assert weights[0] == weights[1]


# A dataset in memory, options, and what the error says
NOT_IN_MEMORY = {
    "an option for files": (
        {"caption_column": "text"},
        "caption_column is an option for images on disk.*image, label",
    ),
    "a captioner": ({"captioner": "a/model"}, "captioner is an option for images on disk"),
    "no such option": ({"studnt": "x"}, "studnt.*student"),
    "no such image column": ({"image": "foto"}, "foto"),
    "no such label column": ({"label": "specie"}, r"no column 'specie' \(given as label\)"),
    "a transform": (lambda: in_memory().with_transform(dict), "'train' has a transform"),
    "captions of numbers": (
        lambda: in_memory(caption=range(6)),
        r"'caption': .*int64.* is neither text nor .*caption='...'",
    ),
    "a stream": (lambda: in_memory().to_iterable_dataset(), "data is of type IterableDataset.*Dataset.from_generator"),
    "no images": (
        lambda: in_memory().rename_column("image", "photo"),
        "no column 'image'.*Rename.*name it with image='...'",
    ),
    "labels of fractions": (lambda: in_memory(label=[0.5] * 6), "^Column 'label' holds float64"),
    "labels of lists": (lambda: in_memory(label=[["a"]] * 6), "holds lists.*name another column with label='...'"),
}


@pytest.mark.parametrize("name", NOT_IN_MEMORY)
def test_what_fit_does_not_take_in_memory(fitted, name):
    given, says = NOT_IN_MEMORY[name]
    data, options = (in_memory(), given) if isinstance(given, dict) else (given(), {})
    with pytest.raises((TypeError, ValueError), match=says):
        fitted(data, **options, dry_run=True)


@pytest.mark.slow
def test_two_threads_fit_one_after_the_other(fitted, tmp_path, monkeypatch):
    """accelerate has one state a process, and resets it for each trainer."""
    at_once, most, run = [], [], Fit.run

    def slow_run(self):
        at_once.append(self)
        most.append(len(at_once))
        time.sleep(0.2)
        found = run(self)
        at_once.remove(self)
        return found

    monkeypatch.setattr(Fit, "run", slow_run)
    with ThreadPoolExecutor(2) as pool:
        fits = [pool.submit(fitted, in_memory(), tmp_path / name, views="image:student") for name in "ab"]
    assert [fit.result().classifier.is_dir() for fit in fits] == [True, True] and most == [1, 1]


def test_empty_labels_and_a_format_make_no_class(fitted, capsys):
    data = in_memory(label=["circle", "cross", "", None, "circle", "cross"]).with_format("torch")
    fitted(data, dry_run=True, views="image:student", finetune=False)
    assert "6 training images of 2 classes, 4 with a label" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dataset_of_the_hub_by_its_id(hub, student, static_folder, tmp_path, monkeypatch):
    """The record names the id and the commit."""
    options = {"student": student, "image_size": 32, "finetune": "false", "text_encoder": str(static_folder)}
    features = Features(image=ImageFeature(), label=ClassLabel(names=CLASSES), caption=Value("string"))
    rows = [{"image": drawing(number), "label": number % 3, "caption": caption(number)} for number in range(30)]
    monkeypatch.chdir(tmp_path)
    with hub.here():
        Dataset.from_list(rows, features=features).push_to_hub("me/drawings")
        main(["fit", "me/drawings", *(f"--{name}={value}" for name, value in options.items())])
        fit("me/drawings", output_dir="by-python", **options)
    commit = hub.state()["datasets/me/drawings"]["sha"]
    for out in (tmp_path / "runs" / "me--drawings", tmp_path / "by-python"):
        assert results_of(out)["judged_images"] == 30
        assert yaml.safe_load((out / "fit.yaml").read_text())["dataset_name"] == "me/drawings"
        for name in ("labels_only", "with_views"):
            (source,) = json.loads((out / name / "lineage.json").read_text())["sources"]
            assert (source["id"], source["revision"]) == ("me/drawings", commit)
            assert read_options(out / name)["dataset_name"] == "me/drawings"


@pytest.mark.slow
def test_a_captioner_is_asked_about_training_images(fitted, tmp_path, serve, capsys, monkeypatch):
    pictures = draw_folder(tmp_path / "pictures", captions=False, train=24, test=3)
    out, server = tmp_path / "out", serve("--token", "sk-right")
    monkeypatch.setenv("SERVER_TOKEN", "sk-right")
    asked = {"captioner": f"{server.url}/v1", "captioner_model": "tiny", "api_key_env": "SERVER_TOKEN"}
    asked["text_encoder"] = DEFAULT_TEXT_ENCODER  # the words of a random model are not those of drawings
    prices = {"price_input": 10, "price_output": 100}
    assert fitted(pictures, out, **asked, **prices, dry_run=True) is None
    # 48 questions, about the same image of some 752 tokens, and answers of 200 and 32 tokens
    said = capsys.readouterr().out
    assert "48 (plain 24, choose 24), at most about 36,934 tokens" in said and "a cost of 0.75" in said, said
    assert server.stats()["requests"] == 0 and not out.exists()
    fitted(pictures, out, **asked, questions=["describe"])
    assert server.stats()["requests"] == 24 and not (out / "answers").exists()
    found = fitted(pictures, out, **asked, questions=["choose"])
    assert "24 (choose 24), at most" in capsys.readouterr().out
    assert server.stats()["requests"] == 48 and {"caption", "answer"} <= set(found.views)
    fitted(pictures, out, **asked)
    assert "holds this very result" in capsys.readouterr().out and server.stats()["requests"] == 48
    fitted(pictures, out, text_encoder=DEFAULT_TEXT_ENCODER)
    said = capsys.readouterr().out
    assert f"Captions and answers: those of {out / 'answers'}" in said and "holds this very result" in said
    answers = [row["answer"] for row in caption_doors.rows_of(out / "answers")]
    assert len(answers) == 24 and set(answers) <= {*CLASSES, None}
    # The captions say which folder the result belongs to
    assert fitted(out / "captions", dry_run=True) is None
    assert not (tmp_path / "runs").exists()
    shutil.copy(next((pictures / "test").rglob("*.png")), next((pictures / "train").iterdir()) / "new.png")
    with pytest.raises(ValueError, match="1 of 25 images have no row there.* g4i fit --captioner"):
        fitted(pictures, out)


def test_many_images_are_sent_to_a_server_on_request(fitted, student, tmp_path):
    make.rows(501, draw=lambda row: make.noise(0), image_id=None).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(
        ValueError, match=r"1,002 requests with images would go to 127.0.0.1:9. .*yes=True.*g4i caption.*--dry_run 64"
    ):
        fitted(tmp_path / "data", tmp_path / "out", captioner="http://127.0.0.1:9/v1", captioner_model="tiny")


@pytest.mark.parametrize(("side", "size"), [(8, 128), (32, 128), (40, 160), (64, 224), (300, 224)])
def test_small_images_are_enlarged(side, size, tmp_path, capsys):
    for name in ("red", "blue"):
        (tmp_path / "pictures" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (side, 2 * side), name).save(tmp_path / "pictures" / "train" / name / "1.png")
    fit(tmp_path / "pictures", output_dir=str(tmp_path / "out"), dry_run=True)
    said = capsys.readouterr().out
    assert f"Image size: {size} px; the shorter side of the median image has {side}. A smaller --image_size" in said
    assert "is faster and usually less accurate" in said


def test_a_dry_run_names_a_folder_in_the_way(student, tmp_path, monkeypatch):
    """A result has the name of its data."""
    monkeypatch.chdir(tmp_path)
    pictures, released = few_labels(tmp_path, 3, train=9), tmp_path / "runs" / "pictures" / "classifier"
    released.mkdir(parents=True)
    (released / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no student that was released"):
        fit(pictures, student=student, dry_run=True)


def test_unreadable_validation_images_are_skipped(fitted, tmp_path, capsys):
    pictures = draw_folder(tmp_path / "pictures", train=18, validation=6)
    next((pictures / "validation").rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(ValueError, match="with on_bad_images='skip'"):
        fitted(pictures, dry_run=True)
    fitted(pictures, dry_run=True, on_bad_images="skip")
    assert "; 5 validation images." in capsys.readouterr().out


# --- Views -----------------------------------------------------------------------------------------------------------


def untold(folder: Path) -> tuple[Path, dict[str, int]]:
    """60 drawings without labels and captions, with the classes of `test`; and the true class of each file."""
    pictures = few_labels(folder, 0, train=60, test=3)
    truth = {line["file_name"]: int(Path(line["file_name"]).stem) % 3 for line in lines_of(pictures)}
    write_lines(pictures, [{"file_name": name} for name in truth])
    return pictures, truth


def test_check_compares_captions_and_image_features(student, words, tmp_path, capsys):
    pictures = few_labels(tmp_path, 6, train=60)
    encoders = ["--text_encoder", words, "--student", student]
    main(["check", str(pictures), *encoders, "--check_dir", str(tmp_path / "check")])
    said = capsys.readouterr().out
    for told in ("Captions tell", "Image features tell", "All views together tell", "labels are suspicious"):
        assert told in said
    assert (tmp_path / "check" / "suspicious_labels.html").is_file()


@pytest.mark.slow
def test_any_image_encoder_is_a_view(fitted, student, tmp_path):
    pictures = few_labels(tmp_path, 6, train=60)
    encoder = save_resnet(tmp_path / "encoder", (8, 16, 16, 24))
    out = tmp_path / "out"
    given = {"views": ["caption", "image:student", f"image:{encoder}", f"image:{student}"]}
    found = fitted(pictures, out, **given)
    assert set(found.views) == {"caption", "image", "image:encoder", "image:small-resnet"}
    assert " on paper, number " in (out / "report.html").read_text(), "captions beside images"
    assert found.views["image:small-resnet"]["copy_of"] == "image" and found.views["image:encoder"]["weight"] > 0
    assert len(list((out / "features").glob("[0-9a-f]*/*.parquet"))) == 2, (
        "the student again has no features of its own"
    )
    alone = fitted(pictures, tmp_path / "alone", views=["image:student", f"image:{encoder}"])
    assert set(alone.views) == {"image", "image:encoder"}
    assert classifier_in_words("with_views", alone.views) == "with image features of all images"
    for student_of_ours in ("classifier", "with_views"):
        with pytest.raises(ValueError, match="a student of g4i_hf.*Name the network"):
            fitted(pictures, views=[f"image:{out / student_of_ours}"], dry_run=True)


def test_views_in_memory_beside_names_and_folders(fitted, tmp_path, capsys):
    """No label and no caption: values with class names tell. Other values are new work."""
    (pictures, truth), out = untold(tmp_path), tmp_path / "out"
    images = load_images(pictures)
    true = [truth[image_id] for image_id in images["train"]["image_id"]]
    random = np.random.default_rng(0)
    names = random.normal(size=(len(CLASSES), 8))
    values = (names[true] + random.normal(size=(60, 8)) / 2).astype(np.float16)
    folder = embed_view(images, f"image:{save_resnet(tmp_path / 'encoder', seed=3)}", tmp_path / "made")
    views = ["image:student", folder, View(values, names, source="mine"), View(values[:, :5])]
    found = fitted(pictures, out, views=views)
    assert set(found.views) == {"image", "image:encoder", "mine", "view 4"}
    assert found.views["mine"]["weight"] > 0
    assert classifier_in_words("with_views", found.views) == "with views of your own"
    assert yaml.safe_load((out / "fit.yaml").read_text())["views"] == ["image:student", str(folder), "mine", "view 4"]
    capsys.readouterr()
    fitted(pictures, out, views=views)
    assert "holds this very result" in capsys.readouterr().out
    changed = View(np.where(np.arange(60)[:, None] == 7, np.nan, values), names, source="mine")
    fitted(pictures, out, views=[*views[:2], changed, views[3]], dry_run=True)
    assert f"Changed since the last run in {out}: the view mine." in capsys.readouterr().out
    for wrong, error, words in (
        (View(values[:59], names), ValueError, r"The view 'view 1' has values of shape \(59, 8\).*a row for each"),
        (View(values, names[:2], "a"), ValueError, r"The view 'a' has class_values of shape \(2, 8\)"),
        (values, TypeError, "views holds a ndarray: it takes names"),
    ):
        with pytest.raises(error, match=words):
            fitted(pictures, views=[wrong], dry_run=True)
    sorted((pictures / "train").rglob("*.png"))[7].write_bytes(b"no image")
    capsys.readouterr()
    fitted(pictures, views=[View(values, names)], dry_run=True, on_bad_images="skip")
    assert "Data: 59 training images" in capsys.readouterr().out, "the row of the image leaves the view too"


def test_answers_to_the_question_for_the_class_are_a_view(fitted, tmp_path, capsys):
    """No label and no caption: answers and the folders of `test` name the classes. One answer in six is wrong."""
    (pictures, truth), lines = untold(tmp_path), []
    for row, (name, label) in enumerate(truth.items()):
        told = CLASSES[(label + (row % 6 == 0)) % len(CLASSES)]
        answer = [f"This is a {told}.", told.upper(), None if row % 4 else f" {told} "][row % 3]
        lines.append({"file_name": name, "answer": answer})
    write_lines(pictures, lines)
    out = tmp_path / "out"
    found = fitted(pictures, out)
    said = capsys.readouterr().out
    assert "training images have one that names a class." in said and set(found.views) == {"answer", "image"}
    assert found.released == "with_views" and classifier_in_words("with_views", found.views) == "with answers"
    assert "taught by answers\n" in (found.classifier / "README.md").read_text()
    lines[0]["answer"] = f"This is a {CLASSES[2]}."
    write_lines(pictures, lines)
    fitted(pictures, out, dry_run=True)
    assert f"Changed since the last run in {out}: the answers." in capsys.readouterr().out
    write_lines(pictures, [{"file_name": name} for name in truth])
    with pytest.raises(ValueError, match=r"a label or a caption.*captioner=MODEL .*metadata\.jsonl.*caption='...'"):
        fitted(pictures, out)
    assert f"Changed since the last run in {out}: the answers." in capsys.readouterr().out


def test_class_names_and_scores_teach_without_labels_and_captions(fitted, tmp_path):
    """Views that `g4i embed` left in the folder; one score in six is wrong, one in five is missing."""
    (pictures, truth), out, lines = untold(tmp_path), tmp_path / "out", []
    for row, (name, label) in enumerate(truth.items()):
        said = (label + (row % 6 == 0)) % len(CLASSES)
        scores = [2.0 * (number == said) for number in range(len(CLASSES))] if row % 5 else None
        lines.append({"file_name": name, "p": scores})
    write_lines(pictures, lines)
    images = load_images(pictures)
    folder = embed_view(images, f"image:{save_both('clip', tmp_path / 'clip')}", out)
    embed_view(images, "scores:p", out)
    rows, classes = (pq.read_table(folder / f"{name}.parquet") for name in ("train", "classes"))
    names = np.random.default_rng(0).normal(size=(len(CLASSES), 16)).astype(np.float32)  # in place of random ones
    planted = names[[truth[name] for name in rows["image_id"].to_pylist()]] + 7
    for table, values in ((rows, planted), (classes, names)):
        table = table.set_column(table.schema.get_field_index("values"), "values", [list(values)])
        pq.write_table(table, folder / f"{'train' if table.num_rows == 60 else 'classes'}.parquet")
    found = fitted(pictures, out)
    assert set(found.views) == {"image", "image:clip", "scores:p"} and found.views["scores:p"]["rows"] == 48
    assert found.views["image:clip"]["accuracy"] > 0.7 and found.released == "with_views"
    assert classifier_in_words("with_views", found.views) == "with scores and class names"
    with pytest.raises(ValueError, match="No training image has a label or a caption.*a view that has class names"):
        fitted(pictures, views=["image:student", f"image:{save_resnet(tmp_path / 'encoder', seed=3)}"])


def test_views_of_one_source_are_numbered_and_keep_it():
    """Two encoders of one maker share a vote; a view of captions does not replace the captions."""
    one, other, third = (View(np.eye(3), source=source) for source in ("mine", "mine", "caption"))
    names, given = named_views([one, "image:student", other, third])
    assert names == ["image:student"] and list(given) == ["mine", "mine 3", "caption 4"]
    assert [view.source for view in given.values()] == ["mine", "mine", "caption"]
