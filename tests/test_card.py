"""The card of a student: whole with every field and with none, true to the run, and its code runs."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub import serving
from huggingface_hub import ModelCard
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image
from released_runs import COMMIT, LINEAGE, OPTIONS, RESULTS, a_run, shifted
from students import ID2LABEL

from g4i_hf.evaluation.comparison import compare
from g4i_hf.hub import Student, student_card
from g4i_hf.hub.formats import Format
from g4i_hf.hub.push import push_folder
from g4i_hf.hub.release import release_with_card
from g4i_hf.modeling.processing import ImageSettings
from g4i_hf.options import ReleaseArguments
from g4i_hf.training.run_folder import write_lineage

NOTHING = {"architecture": "resnet18", "num_labels": 5, "num_parameters": 1_300_000, "options": {}}
SPLITS = ["validation", "test"]
JUDGED = [Format(name, 0.91, (0.84, 0.95), 1.0, 13.6, 6.2, "gold", 150) for name in ("pytorch", "onnx")]
THRESHOLDS = {"0.95": {"threshold": 0.7, "share": 0.8, "interval": [0.7, 0.9], "certain": True}}
EVERYTHING = NOTHING | {"image_size": 48, "classes": list(ID2LABEL.values()), "pixels": ImageSettings(224)}
WHOLE = LINEAGE | {"captions": LINEAGE["captions"] | {"file": "patients.csv"}}  # no card names a file
EVERYTHING |= {"lineage": WHOLE, "rows": compare(RESULTS, shifted(-0.02), SPLITS), "license": "apache-2.0"}
EVERYTHING |= {"aligned": True, "formats": JUDGED, "is_timm": True, "model_id": "me/student", "weights": "ema"}
BEST = {"ema_decay": 0.99, "load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
INTERVAL = {"split": "test", "images": 20, "interval": "30 to 70", "difference": "-1 to +5"}
EVERYTHING |= {"options": OPTIONS | BEST, "intervals": [INTERVAL]}


def card_of(**fields) -> ModelCard:
    return student_card(Student(**fields))


def snippets(card: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.S)


@pytest.mark.parametrize("fields", [EVERYTHING, NOTHING], ids=["everything", "nothing"])
def test_a_card_is_valid_and_whole(fields):
    card = card_of(**fields)
    metadata = card.data.to_dict()
    assert ModelCard(str(card)).data.to_dict() == metadata
    assert [name for name, value in metadata.items() if value in (None, "", [], {})] == []  # which the Hub refuses
    text = card.text
    assert "None" not in text and "nan" not in text and "{{" not in text and "{%" not in text
    assert not re.search(r"\n\n\n", text) and text.count("```") % 2 == 0 and "pip install g4i_hf" not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):  # as many cells in each line as in its head
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1, table


def test_the_metadata_name_data_base_and_figures():
    data = yaml.safe_load(str(card_of(**EVERYTHING)).split("---\n")[1])
    assert (data["license"], data["library_name"], data["base_model_relation"]) == ("apache-2.0", "timm", "finetune")
    assert data["datasets"] == ["me/captions", "them/photos"] and data["base_model"] == "timm/resnet18.a1_in1k"
    (index,) = data["model-index"]
    assert index["name"] == "student" and {each["dataset"]["split"] for each in index["results"]} == set(SPLITS)
    measured_on = {(each["dataset"]["type"], each["dataset"]["revision"]) for each in index["results"]}
    assert measured_on == {("them/photos", COMMIT)}
    figures = {each["name"]: each["value"] for result in index["results"] for each in result["metrics"]}
    assert figures == {f"{row.measure.title} ({row.split})": pytest.approx(row.aligned) for row in EVERYTHING["rows"]}
    assert set(card_of(**NOTHING).data.to_dict()) == {"library_name", "license", "pipeline_tag", "tags"}
    of_paths = {"student": {"id": "/home/ann/student"}, "sources": [{"id": "/home/ann/pictures"}]}
    assert "ann" not in str(card_of(**EVERYTHING | {"lineage": of_paths}))


CHOSEN = {"supervision": "auto", "relabels": True, "views": {"caption": {"accuracy": 0.94}}}
CHOSEN |= {"label_noise_estimate": 0.41, "label_noise_interval": [0.36, 0.458]}
FOLDER = {"text_encoder": "all-MiniLM-L6-v2", "text_encoder_digest": "blake2b:00"}
TAUGHT = OPTIONS | {"align_weight": 0}
SAID = {
    # fields beside those of EVERYTHING; what the card says, and what it does not
    "everything": (
        {},
        [
            *("moving average over the training steps, with a decay of 0.99", "two single runs can be chance"),
            *("the checkpoint with the best accuracy on the evaluation split", "| processes | `2` |"),
            *("| accuracy | test | 50.0 | 52.0 | +2.0 |", "| captions | written by a machine, `me/captioner`"),
            *(r"| prompt | What is \| it? |", f"| images | `them/photos` at `{COMMIT}` |", "it under `apache-2.0`."),
            "| `onnx/model.onnx` | 13.6 | 6.2 | 91.0% | 84 to 95% | 100.0% |",
            "150 images of `gold` judged these files. Milliseconds",
            "On the 20 labelled images of `test`, the 95% interval of this checkpoint's accuracy is 30 to 70%.",
        ],
        ["local folder", "control:", "It learned from the labels", "hf_hub_download"],
    ),
    "nothing": (
        {"rows": [], "lineage": {}, "license": None, "aligned": False},
        ["has not chosen a license", "not evaluated before it was released", "Whether people or a machine wrote"],
        ["## Results", "## Where it comes from", "images/", "Loading the student, as above, needs nothing of it"],
    ),
    "taught by answers": (
        {
            "options": TAUGHT | {"freeze_backbone": True},
            "judgement": "It is right.",  # an estimate, beside figures of labelled images
            "labels_summary": "Of its 1,692 training images, 30 had a label.",
            "taught_by": ["answers", "scores"],
            "estimates": {"label_noise_estimate": 0.001, "label_noise_interval": [0.0, 0.004]},
        },
        [
            *(", taught by answers and scores", "the given labels, answers, scores and image features tell together"),
            *("30 had a label.", "has no learning rate, batches or epochs", "fewer than 1% of the labels are wrong"),
        ],
        [
            *("resnet18, labels only", "on labels only, without", "Its captions were written", "hflip"),
            *("| learning_rate", "single runs", "one run each", "projector was trained", "It is right"),
        ],
    ),
    "chosen": (
        {"options": OPTIONS | {"supervision": "auto"}, "estimates": CHOSEN},
        ["probabilities of their true class, given label and caption", "94% of the images", "41% of the labels"],
        [],
    ),
    # its bare name would be that of another encoder on the Hub, so the reader has to give it
    "encoder in a folder": (
        {"lineage": LINEAGE | {"text_encoder": FOLDER}},
        ['text_encoder="path/to/all-MiniLM-L6-v2")', "| text encoder | `all-MiniLM-L6-v2`, a local folder |"],
        [],
    ),
    "encoder by a path": (
        {"lineage": {}, "options": {"align_weight": 0.3, "text_encoder": "/home/ann/encoder"}},
        ['text_encoder="the encoder of its captions")'],
        ["/home/ann"],
    ),
    "own image processor": ({"pixels": None}, ["transformers only resizes the image"], ["no torch, transf"]),
}


@pytest.mark.parametrize("kind", SAID)
def test_what_a_card_says(kind):
    fields, said, not_said = SAID[kind]
    text = " ".join(card_of(**EVERYTHING | fields).text.split())
    assert [words for words in said if words not in text] == []
    assert [words for words in not_said if words in text] == []


def test_options_repeat_the_run_and_hold_no_path():
    options = {"num_train_epochs": 20.0, "learning_rate": 5e-5, "optim": "timm:lamb", "warmup_steps": 50.0}
    options |= {"hflip": 0.0, "train_crop": "pad", "crop_min_scale": 0.08, "align_weight": 0.3, "align_mask": "class"}
    options |= {"output_dir": "runs/ann", "run_name": "ann", "hub_model_id": "ann/x", "logging_dir": "ann"}
    options["student_args"] = {"layers": [1, 2], "checkpoint_path": "/home/ann/weights", "act": "a|b"}

    def table(**changed) -> str:
        card = card_of(**NOTHING | {"options": options | changed, "image_size": 48}).text
        return card.split("## Training")[1].split("## Limits")[0]

    text = table()
    shown = {"num_train_epochs": "20", "optim": "timm:lamb", "warmup_steps": "50", "train_crop": "pad", "hflip": "0"}
    shown |= {"image_size": "48", "align_mask": "class", "learning_rate": "5e-05", "seed": "42"}
    shown["student_args"] = r'{"layers": [1, 2], "act": "a\|b"}'
    assert [name for name, value in shown.items() if f"| {name} | `{value}` |" not in text] == []
    assert "crop_min_scale" not in text and "ann" not in text
    assert "| max_steps | `1000` |" in table(max_steps=1000) and "num_train_epochs" not in table(max_steps=1000)
    assert "| align_weight | `0` |" in table(align_weight=0.0) and "align_mask" not in table(align_weight=0.0)


STARTING_WEIGHTS = {
    # license, and whether it forbids commercial use
    "resnet18.a1_in1k": ("apache-2.0", False),
    "convnextv2_femto.fcmae_ft_in1k": ("cc-by-nc-4.0", True),
    "fastvit_mci0.apple_mclip": ("apple-amlr", True),
    "them/vit": ("their-research-terms", True),  # by the card of the base
}


@pytest.mark.parametrize("name", STARTING_WEIGHTS)
def test_the_license_of_the_starting_weights(tmp_path, caplog, name):
    license, forbids = STARTING_WEIGHTS[name]
    cached = Path(HF_HUB_CACHE) / "models--them--vit" / "snapshots" / COMMIT
    cached.mkdir(parents=True, exist_ok=True)
    (cached / "README.md").write_text("---\nlicense: other\nlicense_name: their-research-terms\n---\n")
    source = {"name": name, "pretrained": True, "id": name if "/" in name else f"timm/{name}", "revision": COMMIT}
    run = a_run(tmp_path / "run", lineage=LINEAGE | {"student": source})
    student, _ = release_with_card(ReleaseArguments(run=str(run), aligned=False, license="mit"))
    said = f"Those weights are released under `{license}`" + (", which forbids commercial use." if forbids else ".")
    assert said in (student / "README.md").read_text()
    assert (f"({name}) are under {license}, which forbids commercial use" in caplog.text) == forbids
    write_lineage(run, LINEAGE | {"student": source | {"pretrained": False}})
    release_with_card(ReleaseArguments(run=str(run), aligned=False, license="mit"))
    assert "Those weights" not in (student / "README.md").read_text()


def test_the_page_has_the_code_of_the_card():
    """So what runs from a card runs from the page."""
    page = (Path(__file__).parent.parent / "docs" / "guides" / "publish.md").read_text()
    page = re.search(r"### Load it without g4i_hf\n(.*?)^### ", page, flags=re.M | re.S)[1]
    assert snippets(page) == snippets(
        card_of(**EVERYTHING | {"model_id": "me/pictures-student", "thresholds": THRESHOLDS}).text
    )


@pytest.mark.slow
def test_every_snippet_runs_on_the_hub(tmp_path, monkeypatch):
    """As a stranger copies them from the page of the model."""
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    run, logits = (
        a_run(tmp_path / "run", results=RESULTS | {"decisions": [{"precision": 0.95} | THRESHOLDS["0.95"]]}),
        [],
    )
    student, _ = release_with_card(ReleaseArguments(run=str(run), formats=["onnx"], repo_id="me/student"))
    Image.new("RGB", (60, 50), (200, 30, 30)).save("picture.png")
    blocks = snippets((student / "README.md").read_text())
    with serving() as hub, hub.here():
        push_folder(student, "me/student")
        for block in blocks:
            seen: dict = {}
            exec(block, seen)
            logits += [np.asarray(seen["logits"][0], dtype=float)] if "logits" in seen else []
    assert len(blocks) == 6 and len(logits) == 3  # of transformers, timm and onnxruntime
    np.testing.assert_allclose(logits[1:], [logits[0]] * 2, atol=1e-4)
