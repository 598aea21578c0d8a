"""What tells the classes to `g4i fit`: image encoders, values of one's own, answers and scores of other models."""

import fitting
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from drawings import CLASSES
from fitting import class_of, few_labels, lines_of, save_resnet, write_lines
from test_encoders_as_views import saved as save_both

from g4i_hf import View, embed_view, load_images
from g4i_hf.running import main

student, words, fitted = fitting.student, fitting.words, fitting.fitted


def test_check_says_what_captions_and_image_features_would_be_worth(student, words, tmp_path, capsys):
    pictures = few_labels(tmp_path, 6, train=60)
    check = ["check", str(pictures), "--text_encoder", words, "--check_dir", str(tmp_path / "check")]
    main(check)
    captions_alone = capsys.readouterr().out
    main([*check, "--student", student])
    both = capsys.readouterr().out
    assert "Captions tell the class of" in captions_alone and "Image features" not in captions_alone
    for said in ("Captions tell", "Image features tell", "All views together tell", "labels are suspicious"):
        assert said in both
    assert (tmp_path / "check" / "suspicious_labels.html").is_file()


def test_any_image_encoder_is_a_view_and_captions_can_be_left_out(fitted, student, tmp_path):
    pictures = few_labels(tmp_path, 6, train=60)
    encoder = save_resnet(tmp_path / "encoder", (8, 16, 16, 24))
    out = tmp_path / "out"
    given = {"views": ["caption", "image:student", f"image:{encoder}", f"image:{student}"]}
    found = fitted(pictures, out, **given)
    assert set(found.views) == {"caption", "image", "image:encoder", "image:small-resnet"}
    assert found.views["image:small-resnet"]["copy_of"] == "image" and found.views["image:encoder"]["weight"] > 0
    assert len(list((out / "features").glob("*/*.parquet"))) == 2, "the student again has no features of its own"
    alone = fitted(pictures, tmp_path / "alone", views=["image:student", f"image:{encoder}"])
    assert set(alone.views) == {"image", "image:encoder"} and alone.of_views == "image features of all images"
    for student_of_ours in ("classifier", "with_views"):
        with pytest.raises(ValueError, match="a student of g4i_hf.*Name the network"):
            fitted(pictures, views=[f"image:{out / student_of_ours}"], dry_run=True)


def test_views_in_memory_are_taken_beside_names_and_folders(fitted, tmp_path, capsys):
    """No label and no caption: values with class names tell. Other values are new work."""
    pictures, out = few_labels(tmp_path, 0, train=60, test=3), tmp_path / "out"
    lines = lines_of(pictures)
    truth = {line["file_name"]: class_of(line) for line in lines}
    write_lines(pictures, [{"file_name": line["file_name"]} for line in lines])
    images = load_images(pictures)
    true = [truth[image_id] for image_id in images["train"]["image_id"]]
    random = np.random.default_rng(0)
    names = random.normal(size=(len(CLASSES), 8))
    values = (names[true] + random.normal(size=(60, 8)) / 2).astype(np.float16)
    folder = embed_view(images, f"image:{save_resnet(tmp_path / 'encoder')}", tmp_path / "made")
    views = ["image:student", folder, View(values, names, source="mine"), View(values[:, :5])]
    found = fitted(pictures, out, views=views)
    assert set(found.views) == {"image", "image:encoder", "mine", "view 4"}
    assert found.views["mine"]["weight"] > 0 and found.words("with_views") == "with views of your own"
    assert yaml.safe_load((out / "fit.yaml").read_text())["views"] == ["image:student", str(folder), "mine", "view 4"]
    capsys.readouterr()
    fitted(pictures, out, views=views)
    assert "holds this very result" in capsys.readouterr().out
    changed = View(np.where(np.arange(60)[:, None] == 7, np.nan, values), names, source="mine")
    fitted(pictures, out, views=[*views[:2], changed, views[3]], dry_run=True)
    assert f"Changed since the last run in {out}: the view mine." in capsys.readouterr().out
    for wrong, error, words in (
        (View(values[:59], names), ValueError, r"View 'view 1' \(views\) has 59 rows of values; the training images"),
        (View(values, names[:2], "a"), ValueError, r"View 'a' .* has 2 rows of class_values; the classes are"),
        (View(values, names, "caption"), ValueError, r"Two views are called 'caption' \(views\)"),
        (values, TypeError, "views holds a ndarray: it takes names"),
    ):
        with pytest.raises(error, match=words):
            fitted(pictures, views=[wrong], dry_run=True)


def test_answers_of_a_model_that_was_asked_for_the_class_are_a_view(fitted, tmp_path, capsys):
    """No label and no caption: answers and the folders of `test` name the classes. One answer in six is wrong."""
    pictures = few_labels(tmp_path, 0, train=60, test=3)
    lines = lines_of(pictures)
    for row, line in enumerate(lines):
        told = CLASSES[(class_of(line) + (row % 6 == 0)) % len(CLASSES)]
        line["answer"] = [f"This is a {told}.", told.upper(), None if row % 4 else f" {told} "][row % 3]
        del line["caption"]
    write_lines(pictures, lines)
    out = tmp_path / "out"
    found = fitted(pictures, out)
    said = capsys.readouterr().out
    assert "training images have one that names a class." in said and set(found.views) == {"answer", "image"}
    assert found.released == "with_views" and found.words("with_views") == "with answers"
    assert "taught by answers\n" in (found.classifier / "README.md").read_text()
    with pytest.raises(ValueError, match="No training image has a label or a caption"):
        fitted(pictures, views=["image:student"])
    lines[0]["answer"] = f"This is a {CLASSES[2]}."
    write_lines(pictures, lines)
    fitted(pictures, out, dry_run=True)
    assert f"Changed since the last run in {out}: the answers." in capsys.readouterr().out
    write_lines(pictures, [{"file_name": line["file_name"]} for line in lines])
    with pytest.raises(ValueError, match=r"has a label or a caption.*--captioner .*metadata\.jsonl.*--caption_column"):
        fitted(pictures, out)
    assert f"Changed since the last run in {out}: the answers." in capsys.readouterr().out


def test_without_labels_and_captions_class_names_of_an_encoder_and_scores_of_a_model_tell(fitted, tmp_path):
    """Views that `g4i embed` left in the folder; one score in six is wrong, one in five is missing."""
    pictures, out = few_labels(tmp_path, 0, train=60, test=3), tmp_path / "out"
    lines, truth = lines_of(pictures), {}
    for row, line in enumerate(lines):
        truth[line["file_name"]] = class_of(line)
        said = (class_of(line) + (row % 6 == 0)) % len(CLASSES)
        line["p"] = [2.0 * (number == said) for number in range(len(CLASSES))] if row % 5 else None
        del line["caption"]
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
    assert found.words("with_views") == "with scores and class names"
    with pytest.raises(ValueError, match="No training image has a label or a caption.*a view that has class names"):
        fitted(pictures, views=["image:student", f"image:{save_resnet(tmp_path / 'encoder')}"])
