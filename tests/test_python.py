"""From Python: six lines from a folder of images to a classifier, and datasets of other kinds."""

import json
import pickle
from pathlib import Path

import make
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Image, Value
from doors import python
from drawings import CLASSES, STUDENT, caption, draw_folder, drawing
from test_docs import block
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments

from g4i_hf import (
    AlignedImageClassification,
    AlignmentArguments,
    AlignmentTrainer,
    __version__,
    evaluate_run,
    load_images,
    release_student,
)
from g4i_hf.modeling.packaged import DEFAULT_STUDENT, packaged_student

PIPELINE = """
import json, sys
from transformers import pipeline

sys.modules["g4i_hf"] = None
print(json.dumps(pipeline("image-classification", "my-classifier")(sys.argv[1], top_k=None)))
"""
SMALL = {"student_args": json.loads(STUDENT["student_args"]), "image_size": 32, "train_crop": "pad"}


def short(folder: Path, **options) -> AlignmentArguments:
    options = {"max_steps": 2, "per_device_train_batch_size": 6, "save_strategy": "no", "use_cpu": True} | options
    return AlignmentArguments(str(folder / "run"), disable_tqdm=True, **options)


def raw(count: int = 18, label=None, captions: bool = True) -> Dataset:
    """A dataset as `datasets` makes them, without ids; labels as names, numbers or classes."""
    labels = [CLASSES[row % 3] if label == Value("string") else row % 3 for row in range(count)]
    data = make.rows(count, draw=drawing, label=None, image_id=None, caption=[caption(row) for row in range(count)])
    data = data.add_column("label", labels, feature=label or ClassLabel(names=CLASSES)).cast_column("image", Image())
    return data if captions else data.remove_columns("caption")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: load_images("my--photos"), "'my--photos'"),
        (lambda: release_student("runs/me--pets"), "runs/me--pets"),
        (lambda: evaluate_run("runs/me--pets"), "runs/me--pets"),
    ],
)
def test_names_with_two_dashes_stay_as_they_are_in_messages(call, name):
    with pytest.raises((OSError, ValueError), match=name):
        call()


@pytest.mark.parametrize(
    ("takes", "name", "message"),
    [
        (AlignmentArguments, "image_size", "Pass it to AlignmentTrainer, with the name of a student"),
        (AlignmentArguments, "use_peft", "Pass it to AlignmentTrainer, with the name of a student"),
        (AlignmentArguments, "supervision", "Pass it to AlignmentTrainer."),
        (AlignmentArguments, "compute_metrics", "Pass it to AlignmentTrainer."),
        (AlignmentArguments, "learning_rat", "Did you mean 'learning_rate'"),
        (AlignmentTrainer, "learning_rate", "Pass it to AlignmentArguments."),
        (AlignmentTrainer, "student", "Pass it to AlignmentTrainer, as model."),
        (AlignmentTrainer, "caption_column", "Pass it to load_images."),
        (AlignmentTrainer, "imagesize", "Did you mean 'image_size'"),
    ],
)
def test_an_argument_in_the_wrong_place_names_the_right_one(takes, name, message, tmp_path):
    given = ("resnet18", short(tmp_path), raw()) if takes is AlignmentTrainer else (str(tmp_path),)
    with pytest.raises(TypeError, match=f"takes no '{name}' here. {message}"):
        takes(*given, **{name: 1})


def test_arguments_of_a_subclass_are_its_own(tmp_path):
    class Mine(AlignmentArguments):
        def __init__(self, output_dir, extra=None, **others):
            super().__init__(output_dir, **others)
            self.extra = extra

    assert Mine(str(tmp_path), extra=3, align_weight=0.5).extra == 3


def test_six_lines_make_a_classifier_for_a_pipeline(tmp_path):
    """Those of the quickstart, with the default arguments and a small student."""
    draw_folder(tmp_path / "pictures", train=9, validation=3)
    options = ", ".join(f"{name}={value!r}" for name, value in SMALL.items())
    code = block("python", "docs/quickstart.md").replace('supervision="auto"', f'supervision="auto", {options}')
    printed = python(code, cwd=tmp_path)
    assert "step 50/50" in printed and "loss_align" in printed
    found = json.loads(python(PIPELINE, tmp_path / "pictures" / "train" / "circle" / "0.png", cwd=tmp_path))
    assert {each["label"] for each in found} == set(CLASSES)
    assert {path.name for path in (tmp_path / "my-classifier").iterdir()} == {"config.json", "model.safetensors"}
    assert (tmp_path / "my-classifier" / "model.safetensors").stat().st_mode & 0o444 == 0o444
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"classifier"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Dataset]:
    images = load_images(draw_folder(tmp_path_factory.mktemp("python") / "pictures", train=18, validation=6))
    return {"train_dataset": images["train"], "eval_dataset": images["validation"]}


def test_the_saved_student_is_the_trained_one_also_of_transformers(data, tmp_path):
    small = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    trainer = AlignmentTrainer("resnet", short(tmp_path), **data, student_args=small, image_size=32)
    trainer.train()
    trainer.save_student(tmp_path / "student")
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "student")
    pixels = processor([image.convert("RGB") for image in map(drawing, range(18, 24))], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(student(**pixels).logits, trainer.model.eval()(**pixels).logits)


def test_metrics_of_ones_own_and_predictions_are_made_of_logits(data, tmp_path):
    def compute_metrics(prediction) -> dict[str, float]:
        return {"right": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}

    trainer = AlignmentTrainer("resnet18", short(tmp_path), **data, **SMALL, compute_metrics=compute_metrics)
    logits = trainer.predict(data["eval_dataset"]).predictions
    assert logits.shape == (6, 3)
    assert trainer.evaluate()["eval_right"] == (logits.argmax(-1) == data["eval_dataset"]["label"][:]).mean()


def test_worker_processes_can_be_started_by_spawn(data, tmp_path):
    """As on macOS and Windows, where all that a worker gets is pickled."""
    trainer = AlignmentTrainer("resnet18", short(tmp_path), **data, **SMALL)
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader()):
        dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        rows = next(iter(loader.batch_sampler))
        assert len(collate(dataset.__getitems__(rows))["pixel_values"]) == len(rows) > 1


def test_the_run_folder_has_the_lineage_that_is_known(data, tmp_path):
    trainer = AlignmentTrainer("resnet18", short(tmp_path), **data, **SMALL)
    trainer.train()
    trainer.save_run()
    lineage = json.loads((tmp_path / "run" / "lineage.json").read_text())
    assert lineage["rows"] == {"train": 18, "validation": 6} and lineage["captions"]["captioner"] == "column"
    assert lineage["student"]["name"] == "resnet18" and not lineage["student"]["pretrained"]
    assert lineage["text_encoder"]["text_encoder"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert (lineage["processes"], lineage["versions"]["g4i_hf"]) == (1, __version__)
    assert str(tmp_path) not in json.dumps(lineage)
    aligned = release_student(tmp_path / "run") / "aligned"  # which then knows its text encoder
    assert json.loads((aligned / "text_encoder.json").read_text())["text_encoder"].endswith("all-MiniLM-L6-v2")


@pytest.mark.parametrize("label", [None, Value("string"), Value("int64")], ids=["classes", "names", "numbers"])
def test_raw_datasets_are_embedded_and_their_classes_are_those_of_the_student(words, tmp_path, label):
    """Also where an evaluation or a prediction takes them."""
    given = SMALL | {"text_encoder": words, "eval_dataset": {"one": raw(6, label=label)}}
    trainer = AlignmentTrainer("resnet18", short(tmp_path), raw(label=label), **given)
    names = ["0", "1", "2"] if label == Value("int64") else sorted(CLASSES)
    assert list(trainer.model.config.id2label.values()) == names
    trainer.train()
    assert "loss_align" in trainer.state.log_history[0]
    assert "eval_one_accuracy" in trainer.evaluate()
    test = raw(9, label, captions=False)
    assert trainer.predict(test).metrics["test_accuracy"] == trainer.evaluate(test)["eval_accuracy"]
    for unlabelled in (test.remove_columns("label"), {"two": test.remove_columns("label")}):
        with pytest.raises(ValueError, match="eval_dataset has no label"):
            trainer.evaluate(unlabelled)
    assert trainer.predict(test.remove_columns("label")).predictions.shape == (9, 3)


@pytest.mark.parametrize("several", [False, True])
def test_text_embeds_by_map_are_of_fixed_length(tmp_path, several):
    """`map` infers lists of any length. Rows may have none; those that differ cannot be compared."""
    vectors = make.unit(np.random.default_rng(0).normal(size=(18, 5)))

    def embedded(batch: dict, rows: list[int]) -> dict:
        lists = [vectors[row].tolist() if row % 5 else None for row in rows]
        return {"text_embeds": [vector and [vector, vector] for vector in lists] if several else lists}

    data = raw().map(embedded, batched=True, with_indices=True)
    trainer = AlignmentTrainer("resnet18", short(tmp_path), data, **SMALL)
    assert trainer.model.config.text_embed_dim == 5
    trainer.train()
    assert "loss_align" in trainer.state.log_history[0]
    vectors = [*vectors[:17], vectors[0][:4]]
    uneven = raw().map(embedded, batched=True, with_indices=True, new_fingerprint=f"uneven-{several}")
    with pytest.raises(ValueError, match="'text_embeds', row 17: 4 dimensions, but row 1 has 5"):
        AlignmentTrainer("resnet18", short(tmp_path), uneven, **SMALL)


def test_the_student_of_fit_is_there_by_its_name(data, tmp_path):
    trainer = AlignmentTrainer(DEFAULT_STUDENT, short(tmp_path), **data, pretrained=True, image_size=32)
    (weight,) = (each for name, each in trainer.model.named_parameters() if name.endswith("conv_stem.weight"))
    of_package = AutoModelForImageClassification.from_pretrained(packaged_student(), trust_remote_code=False)
    (expected,) = (each for name, each in of_package.named_parameters() if name.endswith("conv_stem.weight"))
    assert torch.equal(weight.cpu(), expected)


def test_errors_name_what_a_dataset_in_memory_can_do(tmp_path):
    for column, says in (("image", "no column 'image'.*rename_column.'...', 'image'"), ("label", "o column 'label'")):
        with pytest.raises(ValueError, match=says) as told:
            AlignmentTrainer("resnet18", short(tmp_path), raw().rename_column(column, "mine"), **SMALL)
        assert "--" not in str(told.value)


def test_arguments_of_trainer_alone_are_told_at_once(data, tmp_path):
    with pytest.raises(TypeError, match="args is a TrainingArguments: give AlignmentArguments"):
        AlignmentTrainer("resnet18", TrainingArguments(str(tmp_path)), **data, **SMALL)


def test_a_model_takes_a_raw_dataset_and_its_classes_by_name(tmp_path):
    def model_of(names: list[str]) -> AlignedImageClassification:
        given = {"student_args": SMALL["student_args"], "image_size": 32, "text_embed_dim": 384}
        return AlignedImageClassification.from_student("resnet18", id2label=dict(enumerate(names)), **given)

    backwards = sorted(CLASSES, reverse=True)
    trainer = AlignmentTrainer(model_of(backwards), short(tmp_path), raw(), eval_dataset=raw(6), train_crop="pad")
    assert [backwards[int(label)] for label in trainer.train_dataset.labels] == [CLASSES[row % 3] for row in range(18)]
    trainer.train()
    assert "eval_accuracy" in trainer.evaluate()
    with pytest.raises(ValueError, match="train_dataset.*none of the 2 classes"):
        AlignmentTrainer(model_of(["circle", "cross"]), short(tmp_path), raw())
