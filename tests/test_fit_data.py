"""What `g4i fit` takes: datasets of any form, captions that are written first; and what it refuses."""

import json
import shutil
from pathlib import Path

import caption_doors
import fitting
import make
import pytest
import yaml
from datasets import Dataset, DatasetDict
from drawings import CLASSES, caption, draw_folder, drawing
from fitting import few_labels, results_of
from hub import serving

from g4i_hf import fit
from g4i_hf.options import DEFAULT_TEXT_ENCODER
from g4i_hf.training.run_folder import read_options

serve = caption_doors.serve
student, words, fitted = fitting.student, fitting.words, fitting.fitted


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """60 drawings with captions, 3 a class with a label."""
    return few_labels(tmp_path_factory.mktemp("fit"), 3, train=60)


def test_images_of_pillow_columns_by_name_and_an_argument_that_is_wrong(fitted, tmp_path):
    def split(numbers) -> Dataset:
        rows = {"photo": [drawing(number) for number in numbers], "text": [caption(number) for number in numbers]}
        return Dataset.from_dict(rows | {"species": [CLASSES[number % 3] for number in numbers]})

    splits = DatasetDict(train=split(range(30)), validation=split(range(30, 39)))
    named = {"image": "photo", "label": "species", "caption": "text"}
    found = fitted(splits, tmp_path / "out", **named)
    assert found.judged_images == 9 and set(found.views) == {"caption", "image"}
    with pytest.raises(ValueError, match="foto"):
        fitted(splits, tmp_path / "other", **named | {"image": "foto"})
    with pytest.raises(TypeError, match="studnt.*student"):
        fitted(splits, tmp_path / "other", **named, studnt="x")


PUSHED = """
import json, os, sys

sys.path.insert(0, sys.argv[1])
import datasets
from datasets import ClassLabel, Dataset, Features, Value
from drawings import CLASSES, caption, drawing
from huggingface_hub import HfApi

from g4i_hf import fit
from g4i_hf.options import DEFAULT_TEXT_ENCODER
from g4i_hf.running import main

features = Features(image=datasets.Image(), label=ClassLabel(names=CLASSES), caption=Value("string"))
rows = [{"image": drawing(n), "label": n % 3, "caption": caption(n)} for n in range(30)]
Dataset.from_list(rows, features=features).push_to_hub("me/drawings")
os.chdir(sys.argv[2])
options = json.loads(sys.argv[3])
main(["fit", "me/drawings", *(f"--{name}={value}" for name, value in options.items())])
fit("me/drawings", output_dir="by-python", **options)
print(json.dumps(HfApi().dataset_info("me/drawings").sha))
"""


@pytest.mark.slow
def test_a_dataset_of_the_hub_by_its_id(student, static_folder, tmp_path):
    """The record names the id and the commit."""
    options = {"student": student, "image_size": 32, "finetune": "false", "text_encoder": str(static_folder)}
    with serving() as hub:
        place = Path(__file__).parent / "contract"
        commit = hub.run(PUSHED, tmp_path / "home", place, tmp_path, json.dumps(options))
    for out in (tmp_path / "runs" / "me--drawings", tmp_path / "by-python"):
        assert results_of(out)["judged_images"] == 30
        assert yaml.safe_load((out / "fit.yaml").read_text())["dataset_name"] == "me/drawings"
        for name in ("labels_only", "with_views"):
            (source,) = json.loads((out / name / "lineage.json").read_text())["sources"]
            assert (source["id"], source["revision"]) == ("me/drawings", commit)
            assert read_options(out / name)["dataset_name"] == "me/drawings"


@pytest.mark.slow
def test_a_captioner_is_asked_both_questions_about_training_images_alone(fitted, tmp_path, serve, capsys, monkeypatch):
    pictures = draw_folder(tmp_path / "pictures", captions=False, train=24, test=3)
    out, server = tmp_path / "out", serve("--token", "sk-right")
    monkeypatch.setenv("SERVER_TOKEN", "sk-right")
    asked = {"captioner": f"{server.url}/v1", "captioner_model": "tiny", "api_key_env": "SERVER_TOKEN"}
    asked["text_encoder"] = DEFAULT_TEXT_ENCODER  # the words of a random model are not those of drawings
    fitted(pictures, out, **asked, questions=["describe"])
    assert server.stats()["requests"] == 24 and not (out / "answers").exists()
    found = fitted(pictures, out, **asked, price_input=10, price_output=100)
    said = capsys.readouterr().out
    # 24 questions of some 752 tokens of the image and 27 of the prompt, and answers of 32 tokens
    assert "24 (plain 0, choose 24), at most about 0.0 million tokens read and 0.0 written, a cost of 0.26" in said
    assert server.stats()["requests"] == 48 and {"caption", "answer"} <= set(found.views)
    answers = [row["answer"] for row in caption_doors.rows_of(out / "answers")]
    assert len(answers) == 24 and set(answers) <= {*CLASSES, None}
    # The captions say which folder the result belongs to
    assert fit(out / "captions", dry_run=True, student=str(found.classifier)) is None
    assert not (tmp_path / "runs").exists()


def test_many_images_are_sent_to_a_server_only_if_that_is_wanted(fitted, student, tmp_path):
    make.rows(501, draw=lambda row: make.noise(0), image_id=None).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match=r"1,002 requests with images would go to 127.0.0.1:9. .*--yes.*--dry_run 64"):
        fitted(tmp_path / "data", tmp_path / "out", captioner="http://127.0.0.1:9/v1", captioner_model="tiny")


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(pictures, student, tmp_path, capsys):
    before = sorted(pictures.rglob("*"))
    assert fit(pictures, output_dir=str(tmp_path / "out"), student=student, dry_run=True) is None
    said = capsys.readouterr().out
    assert "60 training images of 3 classes, 9 with a label, 60 with a caption" in said
    assert "Nothing was written" in said and not (tmp_path / "out").exists()
    assert sorted(pictures.rglob("*")) == before


def test_what_is_not_there_cannot_be_read_or_in_the_way_is_said_by_a_dry_run(pictures, student, tmp_path):
    with pytest.raises(OSError, match="no-such-student"):
        fit(pictures, student="no-such-student", dry_run=True)
    broken = shutil.copytree(pictures, tmp_path / "pictures")
    next((broken / "train" / "unlabelled").iterdir()).write_bytes(b"no image")
    with pytest.raises(ValueError, match="--on_bad_images skip"):
        fit(broken, student=student, dry_run=True)
    assert fit(broken, student=student, on_bad_images="skip", dry_run=True) is None
    (tmp_path / "out" / "classifier").mkdir(parents=True)
    (tmp_path / "out" / "classifier" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no student that was released"):
        fit(pictures, output_dir=str(tmp_path / "out"), student=student, dry_run=True)


def test_an_unreadable_image_that_is_skipped_is_no_validation_image(fitted, tmp_path, capsys):
    pictures = draw_folder(tmp_path / "pictures", train=18, validation=6)
    next((pictures / "validation").rglob("*.png")).write_bytes(b"no image")
    fitted(pictures, dry_run=True, on_bad_images="skip")
    assert "; 5 validation images." in capsys.readouterr().out
