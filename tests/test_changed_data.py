"""Changed data never give an old result: what depends on labels, texts, images or features is made anew."""

import shutil
from pathlib import Path

import pytest
from datasets import Image
from doors import spelled
from drawings import STUDENT, TRAINING, draw_folder, drawing
from fitting import lines_of, write_lines
from PIL import Image as PILImage

from g4i_hf import load_images
from g4i_hf.data.images import content_of
from g4i_hf.data.record import RECORD_FILE, Record, differences
from g4i_hf.running import main


@pytest.fixture
def pictures(tmp_path) -> Path:
    """36 drawings of three classes with captions, and a validation split."""
    return draw_folder(tmp_path / "pictures", train=36, validation=9)


def correct_labels(pictures: Path, number: int = 4) -> None:
    """Moves circles into the folder of squares."""
    lines = lines_of(pictures)
    for line in [line for line in lines if line["file_name"].startswith("circle/")][:number]:
        moved = line["file_name"].replace("circle", "square")
        (pictures / "train" / line["file_name"]).rename(pictures / "train" / moved)
        line["file_name"] = moved
    write_lines(pictures, lines)


def change_captions(pictures: Path, number: int = 3) -> None:
    lines = lines_of(pictures)
    for line in lines[:number]:
        line["caption"] = "something else"
    write_lines(pictures, lines)


def add_images(pictures: Path, label: str = "circle") -> None:
    (pictures / "train" / label).mkdir(exist_ok=True)
    for number in (90, 93):
        drawing(number).save(pictures / "train" / label / f"{number}.png")


def remove_image(pictures: Path) -> None:
    lines = lines_of(pictures)
    (pictures / "train" / lines[0]["file_name"]).unlink()
    write_lines(pictures, lines[1:])


def replace_bytes(pictures: Path) -> None:
    drawing(99).save(pictures / "train" / lines_of(pictures)[0]["file_name"])


CHANGES = {
    "labels of 4 images": correct_labels,
    "captions of 3 images": change_captions,
    "2 new images": add_images,
    "1 image removed": remove_image,
    "contents of 1 image": replace_bytes,
    "2 new images, class names (new: 'oval')": lambda pictures: add_images(pictures, "oval"),
}


def record_of(pictures: Path) -> Record:
    splits = load_images(pictures)
    return Record.of(splits, splits["train"].features["label"].names)


@pytest.mark.parametrize("words", CHANGES)
def test_what_has_changed_is_said_in_a_line(pictures, tmp_path, words):
    before = record_of(pictures)
    before.write(tmp_path)
    before = Record.read(tmp_path)
    assert differences(before, record_of(pictures)) == {} and record_of(pictures).digest == before.digest
    CHANGES[words](pictures)
    assert ", ".join(differences(before, record_of(pictures)).values()) == words
    assert record_of(pictures).digest != before.digest


def test_bytes_in_a_table_that_have_changed_are_noticed_and_others_are_not_read_again(pictures, tmp_path, monkeypatch):
    def saved() -> dict:
        for name, split in load_images(pictures).items():
            rows = [{"bytes": content_of(image), "path": None} for image in split["image"]]
            split = split.remove_columns("image").add_column("image", rows, feature=Image())
            split.to_parquet(tmp_path / "table" / f"{name}.parquet")
        return load_images(tmp_path / "table")

    splits, names = saved(), ["circle", "cross", "square"]
    before = Record.of(splits, names)
    with monkeypatch.context() as patched:
        patched.setattr("g4i_hf.data.record.content_of", None)
        assert Record.of(load_images(tmp_path / "table"), names, earlier=before).digest == before.digest
    assert len(splits) > 1 and differences(before, Record.of(dict(reversed(splits.items())), names)) == {}
    replace_bytes(pictures)
    assert differences(before, Record.of(saved(), names, earlier=before)) == {"image_digest": "contents of 1 image"}


def said_by(capsys, *words) -> str:
    """What a command prints, or the line that ends it."""
    capsys.readouterr()
    try:
        main(spelled(words))
    except SystemExit as ended:
        assert ended.code == 2
        return capsys.readouterr().err.splitlines()[-1]
    return capsys.readouterr().out


def test_check_leaves_no_page_of_the_data_before(pictures, tmp_path, capsys, static_folder):
    page, words = tmp_path / "check" / "suspicious_labels.html", ("check", pictures, "--check_dir", tmp_path / "check")
    said_by(capsys, *words, "--text_encoder", static_folder)
    assert page.is_file() and page.with_suffix(".csv").is_file()
    correct_labels(pictures)
    said_by(capsys, *words)
    assert not page.exists() and not page.with_suffix(".csv").exists()


@pytest.fixture
def captions(pictures, tmp_path) -> Path:
    """A stage of the captions of the drawings."""
    folder = tmp_path / "captions"
    main(["caption", "--dataset_name", str(pictures), "--captions_dir", str(folder), "--caption_column", "caption"])
    return folder


def captions_in(folder: Path, **options) -> dict[str, str | None]:
    rows = load_images(folder, **options)["train"]
    return dict(zip(rows["image_id"][:], rows["caption"][:], strict=True))


def test_images_that_have_changed_are_used_without_the_captions_of_those_before(pictures, captions, caplog):
    before = captions_in(captions)
    assert "changed" not in caplog.text
    places = [pictures / "train" / "circle" / "0.png", pictures / "train" / "square" / "2.png"]
    contents = [place.read_bytes() for place in places]
    for place, content in zip(places, reversed(contents), strict=True):
        place.write_bytes(content)
    after = captions_in(captions)
    lost = {name for name, caption in after.items() if caption is None}
    assert lost == {"circle/0.png", "square/2.png"}
    assert all(after[name] == before[name] for name in before.keys() - lost)
    said = f"{captions}, split 'train': 2 of 36 images have changed since g4i caption, and are used without captions: "
    assert said + "'circle/0.png', 'square/2.png'. Run it again." in caplog.text
    for place, content in zip(places, contents, strict=True):
        place.write_bytes(content)
    assert captions_in(captions) == before


def test_a_stage_of_other_images_altogether_is_an_error_and_captions_of_a_copy_stay(
    pictures, captions, tmp_path, caplog
):
    before = captions_in(captions)
    copy = shutil.copytree(pictures, tmp_path / "copy")
    for root in (copy, pictures):
        for file in root.rglob("*.png"):
            PILImage.open(file).resize((16, 16)).save(file)
        (root / "train" / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match="captions: all images have changed since g4i caption. Run it again."):
        load_images(captions)
    assert captions_in(copy, captions_name=str(captions)) == before
    assert "all images are others than at g4i caption. They are joined by name." in caplog.text


def test_captions_that_have_changed_are_used_without_the_embeddings_of_those_before(
    pictures, tmp_path, caplog, static_folder
):
    folder = tmp_path / "embeddings"
    main(["embed", str(pictures), "--text_encoder", str(static_folder), "--embeddings_dir", str(folder)])
    change_captions(pictures, 2)
    rows = load_images(folder)["train"]
    lost = [row for row, embeds in enumerate(rows["text_embeds"]) if embeds is None]
    changed = [row for row, caption in enumerate(rows["caption"]) if caption == "something else"]
    assert lost == changed and len(lost) == 2
    assert "2 of 36 captions have changed since g4i embed, and are used without embeddings" in caplog.text


@pytest.fixture
def train(static_folder, tmp_path, capsys):
    """What `g4i train` prints, of two steps into `run`; after a mistake the line that ends it."""

    def training(pictures: Path, **options) -> str:
        given = STUDENT | TRAINING | {"dataset_name": pictures, "output_dir": tmp_path / "run", "align_weight": 0}
        given |= {"text_encoder": static_folder, "supervision": "none", "save_strategy": "steps", "save_steps": 1}
        return said_by(capsys, "train", given | options)

    return training


def test_a_run_of_other_data_is_refused_with_what_differs(pictures, train, tmp_path, caplog):
    """Finished or stopped; one that was killed before its first checkpoint begins anew."""
    run = tmp_path / "run"
    train(pictures)
    weights = (run / "model.safetensors").read_bytes()
    changes = ("captions of 3 images", "2 new images, class names (new: 'oval')")
    for told, words in zip(("holds this very run, finished", "Resuming from"), changes, strict=True):
        shutil.rmtree(pictures)
        CHANGES[words](draw_folder(pictures, train=36, validation=9))
        said = train(pictures)
        assert f"error: The data is not what {run} was trained on. What differs: {words}. Bring back" in said
        assert "another --output_dir or with --overwrite true" in said
        assert (run / "model.safetensors").read_bytes() == weights
        shutil.rmtree(pictures)
        draw_folder(pictures, train=36, validation=9)
        assert told in train(pictures)
        (run / "all_results.json").unlink()
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    correct_labels(pictures)
    train(pictures)
    assert differences(Record.read(run), record_of(pictures)) == {} and "finished" in train(pictures)
    (run / RECORD_FILE).unlink()
    assert "finished" in train(pictures) and "whether the data has changed is not known" in caplog.text


def test_another_text_encoder_in_the_same_folder_is_other_data(pictures, train, tmp_path, static_folder):
    encoder = shutil.copytree(static_folder, tmp_path / "encoder")
    train(pictures, text_encoder=encoder, align_weight=0.3)
    (encoder / "more.txt").write_text("another vocabulary")
    assert "What differs: the text encoder." in train(pictures, text_encoder=encoder, align_weight=0.3)


@pytest.mark.slow
def test_figures_are_of_the_data_that_a_run_was_trained_on_or_have_a_folder_of_their_own(train, tmp_path, capsys):
    pictures, run = draw_folder(tmp_path / "pictures", train=18, validation=9, test=6), tmp_path / "run"

    def evaluated(*words) -> str:
        return said_by(capsys, "evaluate", "--run", run, "--splits", *words)

    train(pictures)
    evaluated("validation", "test")
    figures = (run / "all_results.json").read_text()
    drawing(77).save(next((pictures / "test").rglob("*.png")))
    said = evaluated("validation")
    assert f"error: The figures of test in {run} are of other data. What differs: contents of 1 image. " in said
    assert "--splits validation test." in said and (run / "all_results.json").read_text() == figures
    evaluated("test")
    evaluated("validation")
    correct_labels(pictures, 2)
    said = evaluated("test")
    assert f"error: The data is not what {run} was trained on. What differs: labels of 2" in said
    assert "--overwrite true, or evaluate it on a copy of the data by another name" in said
    shutil.copytree(pictures, tmp_path / "copy")
    assert "evaluations" in evaluated("test", "--dataset_name", tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_release_compares_no_figures_of_other_labels(pictures, train, tmp_path, capsys, split):
    run, baseline = tmp_path / "run", tmp_path / "baseline"
    train(pictures)
    run.rename(baseline)
    file, lines = next((pictures / split / "circle").glob("*.png")), pictures / split / "metadata.jsonl"
    file.rename(pictures / split / "square" / file.name)
    lines.write_text(lines.read_text().replace(f"circle/{file.name}", f"square/{file.name}"))
    train(pictures)
    said = said_by(capsys, "release", "--run", run, "--baseline", baseline)
    assert f"error: {baseline} was trained or evaluated on other data than {run}. What differs" in said
    assert "labels of 1 image. Train it again with --overwrite true, and evaluate both" in said
