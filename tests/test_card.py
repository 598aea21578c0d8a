"""The card of a student: whole with every field and with none, valid for the Hub, true to the run, its code runs."""

import json
import re
import struct
import sys
from pathlib import Path

import hub_client
import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, Value
from hub_server.cards import check_card
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from released_runs import COMMIT, LINEAGE, OPTIONS, RESULTS, a_run, shifted
from safetensors import safe_open
from students import ID2LABEL, lora_model

from g4i_hf import __version__
from g4i_hf.evaluation.card_pictures import draw_card_pictures
from g4i_hf.evaluation.comparison import compare, compare_seeds
from g4i_hf.evaluation.pictures import draw_curves
from g4i_hf.evaluation.predict import Predictions
from g4i_hf.hub import card
from g4i_hf.hub.card import Picture, Student, licence_fields
from g4i_hf.hub.figures import Seeds
from g4i_hf.hub.privacy import check_publishable
from g4i_hf.hub.release import release_student, write_card
from g4i_hf.modeling.lora import is_adapter
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.options import ReleaseArguments
from g4i_hf.training.lineage import write_lineage

NEEDED = {"architecture": "resnet18", "num_labels": 5, "num_parameters": 1_300_000, "options": {}}
ROWS = compare(RESULTS, shifted(-0.02), ["validation", "test"])
SEEDS = Seeds(
    compare_seeds([RESULTS, shifted(0.02)], [shifted(-0.02), shifted(-0.03)], ["validation", "test"]), [0, 1]
)
PICTURES = [Picture("images/curves.png", "Accuracy by epoch", "What was measured.")]
EVERYTHING = {
    "image_size": 48,
    "classes": list(ID2LABEL.values()),
    "pixels": ImageSettings(224),
    "options": OPTIONS | {"ema_decay": 0.99, "load_best_model_at_end": True, "metric_for_best_model": "accuracy"},
    "rows": ROWS,
    "seeds": SEEDS,
    "lineage": LINEAGE,
    "aligned": True,
    "onnx": True,
    "pictures": PICTURES,
    "is_timm": True,
    "model_id": "me/student",
    "weights": "ema",
    "license": "apache-2.0",
}

ADAPTER = {"adapter": "them/vit", "adapter_revision": COMMIT, "aligned": False, "onnx": False, "pictures": []}


def student_card(**fields) -> ModelCard:
    return card.student_card(Student(**fields))


def metadata(card: ModelCard) -> dict:
    return yaml.safe_load(str(card).split("---\n")[1])


CARDS = {
    "everything": EVERYTHING,
    "nothing": {},
    "adapter": EVERYTHING | ADAPTER,
    "local data": EVERYTHING | {"lineage": LINEAGE | {"sources": [{"name": "my photos", "images": True}]}},
    "own licence": EVERYTHING | {"license": "My Licence 2"},
    "no seeds": EVERYTHING | {"seeds": None},
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_is_valid_and_whole(kind):
    card = student_card(**NEEDED | CARDS[kind])
    assert check_card(str(card), "model") == []
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    text = card.text
    assert "None" not in text and "nan" not in text and "{{" not in text and "{%" not in text
    assert not re.search(r"\n\n\n", text) and text.count("```") % 2 == 0
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):  # as many cells in each line as in its head
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1, table


def test_a_card_of_everything():
    card = student_card(**NEEDED | EVERYTHING)
    data, text = metadata(card), " ".join(card.text.split())
    assert data["license"] == "apache-2.0" and data["library_name"] == "timm"
    assert data["datasets"] == ["me/captions", "them/photos"]
    assert (data["base_model"], data["base_model_relation"]) == ("timm/resnet18.a1_in1k", "finetune")
    (index,) = data["model-index"]
    assert index["name"] == "student"
    assert {result["dataset"]["split"] for result in index["results"]} == {"validation", "test"}
    assert all(result["dataset"]["type"] == "them/photos" for result in index["results"])
    assert all(result["dataset"]["revision"] == COMMIT for result in index["results"])
    for said in (
        "moving average over the training steps, with a decay of 0.99",
        "the checkpoint with the best accuracy on the evaluation split",
        "chosen on `validation`, its figures there are a little too good",
        "The same options with 2 seeds (0, 1)",
        "paired difference (95% interval)",
        "| accuracy | test | 50.0 | 52.0 | +2.0 |",
        "| captions | written by a machine, `me/captioner` at `abc` |",
        r"| prompt | What is \| it? |",
        f"| images | `them/photos` at `{COMMIT}` |",
        f"| pretrained weights | `timm/resnet18.a1_in1k` at `{COMMIT}` |",
        "each caption after `passage:`",
        "![Accuracy by epoch](images/curves.png)",
        "trained on few images (2,897)",
        "captions were written by a machine, which can describe what is not there",
        "How fairly it treats people or groups of them was not examined",
        "releases it under `apache-2.0`. The terms of the images, the pretrained weights that it starts from and the",
        "ding2023gpt4image",
    ):
        assert said in text, said


LICENSES = {
    "resnet18.a1_in1k": ("apache-2.0", False),
    "convnextv2_femto.fcmae_ft_in1k": ("cc-by-nc-4.0", True),
    "fastvit_mci0.apple_mclip": ("apple-amlr", True),
}


@pytest.mark.parametrize("name", LICENSES)
def test_the_licence_of_the_weights_that_it_starts_from(tmp_path, caplog, name):
    license, forbids = LICENSES[name]
    source = {"name": name, "pretrained": True, "id": f"timm/{name}", "revision": None}
    run = a_run(tmp_path / "run", lineage=LINEAGE | {"student": source})
    student = release_student(run, aligned=False)
    write_card(student, ReleaseArguments(run=str(run), license="mit"))
    text = ModelCard.load(student / "README.md").text
    said = f"Those weights are released under `{license}`"
    assert said + (", which forbids commercial use." if forbids else ".") in text
    warning = f"({name}) are under {license}, which forbids commercial use"
    assert (warning in caplog.text) == forbids
    write_lineage(run, LINEAGE | {"student": source | {"pretrained": False}})
    write_card(student, ReleaseArguments(run=str(run), license="mit"))
    assert "Those weights" not in ModelCard.load(student / "README.md").text


@pytest.mark.parametrize("card", ["license: cc-by-nc-4.0", "license: other\nlicense_name: their-research-terms"])
def test_the_licence_of_a_base_is_that_of_its_card(tmp_path, monkeypatch, caplog, card):
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n")
    monkeypatch.setattr("g4i_hf.hub.release.hf_hub_download", lambda *_, **__: str(tmp_path / "README.md"))
    source = {"name": "them/vit", "pretrained": True, "id": "them/vit", "revision": COMMIT}
    run = a_run(tmp_path / "run", lineage=LINEAGE | {"student": source})
    student = release_student(run, aligned=False)
    write_card(student, ReleaseArguments(run=str(run)))
    assert f"under `{card.split(': ')[-1]}`, which forbids commercial use" in (student / "README.md").read_text()
    assert "forbids commercial use" in caplog.text


def test_a_card_of_nothing():
    data = metadata(card := student_card(**NEEDED))
    assert set(data) == {"library_name", "license", "pipeline_tag", "tags"}
    assert data["license"] == "other" and "has not chosen a licence" in card.text
    assert "not evaluated before it was released" in card.text
    assert "## Results" not in card.text and "## Where it comes from" not in card.text and "images/" not in card.text


def test_a_control_and_few_labels_are_said():
    options = {"align_weight": 0.3, "caption_control": "shuffle", "label_fraction": 0.05}
    card = str(student_card(**NEEDED | {"options": options}))
    assert "captions were replaced by captions of other images." in card
    assert "the labels of 5% of the training images" in card
    plain = str(
        student_card(**NEEDED | {"options": {"align_weight": 0.3, "caption_control": "none", "label_fraction": 1.0}})
    )
    assert "control:" not in plain and "It learned from the labels" not in plain


def test_what_is_not_known_of_captions_is_not_claimed():
    for captions, said in (
        ({"captioner": "column", "prompts": []}, "taken from a column of the data"),
        ({"captioner": "file", "prompts": []}, "taken from a file that names each image"),
    ):
        text = student_card(**NEEDED | EVERYTHING | {"lineage": LINEAGE | {"captions": captions}}).text
        assert said in text and "Whether people or a machine wrote its captions is not recorded" in text
        assert "written by a machine" not in text
    baseline = student_card(**NEEDED | EVERYTHING | {"options": OPTIONS | {"align_weight": 0}}).text
    assert "as the baseline of an aligned student" in baseline and "Its captions were written" not in baseline


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"supervision": "pseudo"}, "Training images without a label had pseudo-labels"),
        ({"supervision": "soft"}, "Besides the usual classification loss it learned soft labels"),
        ({"supervision": "auto"}, "was chosen by estimates before training"),
        ({"unlabelled": "pseudo_label"}, "had pseudo-labels"),  # of version 0.1
        ({"teacher_weight": 0.5}, "it learned soft labels"),
    ],
)
def test_captions_that_teach_classes_are_said(options, said):
    options = OPTIONS | {"align_weight": 0, "label_fraction": 0.1} | options
    text = student_card(**NEEDED | EVERYTHING | {"options": options}).text
    assert ", taught by captions" in text and said in " ".join(text.split())
    assert "as the baseline" not in text and "labels of 10% of the training images" in text
    if "supervision" in options:
        assert f"| supervision | `{options['supervision']}` |" in text


def test_what_auto_has_chosen_and_why_is_said():
    found = {"caption_accuracy_estimate": 0.94, "label_noise_estimate": 0.41, "label_noise_interval": [0.36, 0.458]}
    auto = {"options": OPTIONS | {"supervision": "auto"}, "estimates": found | {"supervision": "soft"}}
    text = " ".join(student_card(**NEEDED | EVERYTHING | auto).text.split())
    assert "it learned soft labels" in text and "which chose how captions are used" in text
    assert "captions tell the class of 94% of held-out images; 41% of the labels are wrong" in text
    assert "(95% interval 36% to 46%)" in text


def test_a_text_encoder_in_a_folder_is_no_name_on_the_hub():
    """Its bare name would be that of another encoder there, so the reader has to give it."""
    record = {"text_encoder": "all-MiniLM-L6-v2", "text_encoder_digest": "blake2b:00"}
    text = student_card(**NEEDED | EVERYTHING | {"lineage": LINEAGE | {"text_encoder": record}}).text
    assert 'ZeroShotImageClassifier("me/student", text_encoder="path/to/all-MiniLM-L6-v2")' in text
    assert "local folder of its maker" in text and "| text encoder | `all-MiniLM-L6-v2`, a local folder |" in text
    unknown = student_card(**NEEDED | EVERYTHING | {"lineage": {}, "options": {"align_weight": 0.3}}).text
    assert 'text_encoder="the encoder of its captions")' in unknown and "local folder" not in unknown
    known = student_card(**NEEDED | EVERYTHING).text
    assert 'ZeroShotImageClassifier("me/student")' in known and "local folder" not in known


def test_the_onnx_snippet_fetches_the_weights_beside_the_graph():
    """They are where those of a large student lie; the graph alone would not load."""
    text = student_card(**NEEDED | EVERYTHING).text
    assert 'folder = snapshot_download("me/student", allow_patterns="onnx/*")' in text
    assert 'InferenceSession(f"{folder}/onnx/model.onnx")' in text and "hf_hub_download" not in text
    local = student_card(**NEEDED | EVERYTHING | {"model_id": "path/to/student"}).text
    assert 'InferenceSession("path/to/student/onnx/model.onnx")' in local and "snapshot_download" not in local


def test_a_graph_whose_pixels_nothing_short_can_make_takes_the_image_processor():
    text = student_card(**NEEDED | EVERYTHING | {"pixels": None}).text
    assert "transformers only prepares the picture" in text and "no torch, transformers or timm" not in text
    block = next(block for block in snippets(student_card(**NEEDED | EVERYTHING).text) if "onnxruntime" in block)
    assert "transformers" not in block and "torch" not in block and "timm" not in block


def test_a_card_says_where_the_package_is_not_and_who_needs_it():
    """Anyone could register the name on an index, and readers would install theirs."""
    for kind in CARDS.values():
        text = " ".join(student_card(**NEEDED | kind).text.split())
        assert "pip install g4i_hf" not in text
        said = (
            f"needs the package `g4i_hf`, version {__version__}, installed from its source (`pip install -e .` there)"
        )
        assert (said in text) == ("Loading the student, as above, needs nothing of it" in text) == ("ZeroShot" in text)


def test_all_classes_are_listed_and_none_is_markup():
    names = ["<b>tench</b>", "a `b` | c", "two\nlines", *(f"class {i}" for i in range(1500))]
    text = student_card(**NEEDED | {"num_labels": len(names), "classes": names}).text
    (listed,) = re.findall(r"<details>\n.*?\n\n(.*?)\n\nThese are the first 1,000 of 1,503;.*?</details>", text, re.S)
    assert listed.startswith("`<b>tench</b>`, `` a `b` | c ``, `two lines`, `class 0`,")
    assert listed.endswith(", `class 996`")
    few = student_card(**NEEDED | EVERYTHING).text
    assert "`ant`, `bee`, `cat`, `dog`, `elk`\n\n</details>" in few and "the first" not in few
    assert "<details>" not in student_card(**NEEDED | {"classes": ["LABEL_0", "LABEL_1"]}).text


def test_the_run_can_be_repeated_from_the_table():
    options = {
        **{"num_train_epochs": 20.0, "optim": "timm:lamb", "lr_scheduler_type": "cosine", "warmup_steps": 50.0},
        **{"train_crop": "pad", "crop_min_scale": 0.08, "hflip": 0.0, "align_weight": 0.3, "align_mask": "class"},
        "student_args": {"layers": [1, 2], "checkpoint_path": "/home/ann/weights", "act": "a|b"},
    }
    text = student_card(**NEEDED | {"options": options, "image_size": 48}).text
    for row in (
        *("| num_train_epochs | `20` |", "| optim | `timm:lamb` |", "| lr_scheduler_type | `cosine` |"),
        *("| warmup_steps | `50` |", "| train_crop | `pad` |", "| hflip | `0` |", "| image_size | `48` |"),
        *("| align_mask | `class` |", "| learning_rate | `5e-05` |", "| seed | `42` |"),
        r'| student_args | `{"layers": [1, 2], "act": "a\|b"}` |',
    ):
        assert row in text, row
    assert "crop_min_scale" not in text and "ann" not in text.split("## Training")[1].split("## Limits")[0]
    baseline = student_card(**NEEDED | {"options": options | {"align_weight": 0.0}}).text
    assert "| align_weight | `0` |" in baseline and "align_mask" not in baseline


def test_epochs_are_whole_numbers_on_the_axis(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    history = [{"epoch": float(i), "eval_accuracy": 0.5, "loss_ce": 1.0} for i in range(1, 21)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    ticks, close = [], pyplot.close
    monkeypatch.setattr(
        pyplot, "close", lambda figure: (ticks.extend(t for a in figure.axes for t in a.get_xticks()), close(figure))
    )
    draw_curves({"aligned": tmp_path}, tmp_path / "curves.png")
    assert ticks and all(tick.is_integer() for tick in ticks)


def test_one_run_each_says_what_that_is_worth():
    alone = student_card(**NEEDED | EVERYTHING | {"seeds": None}).text
    assert "A difference between two single runs can be chance" in alone
    assert "can be chance" not in student_card(**NEEDED | EVERYTHING).text


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        (None, {"license": "other"}),
        ("MIT", {"license": "mit"}),
        ("cc-by-4.0", {"license": "cc-by-4.0"}),
        ("Ann's own terms", {"license": "other", "license_name": "ann-s-own-terms"}),
    ],
)
def test_licences(given, fields):
    assert licence_fields(given) == fields


@pytest.mark.parametrize("given", ["apache2.0", "Apache 2.0", "cc-by-5.0", "?!"])
def test_a_licence_that_is_a_slip_of_the_pen(given):
    with pytest.raises(ValueError, match="which the Hub does not know"):
        licence_fields(given)


# --- The released folder --------------------------------------------------------------------------------------------


def draw(run: Path, weights: str = "raw", described: str | None = "test") -> None:
    """Pictures in a run, of five images and the captions of a split; None for a baseline."""
    rng = np.random.default_rng(0)
    images = [PILImage.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)) for _ in range(5)]
    embeds = np.eye(5, 384, dtype=np.float32)
    columns = {"image": images, "image_id": list("abcde"), "caption": [f"${i} and _{i}" for i in range(5)]}
    features = Features({"image": Image(), "image_id": Value("string"), "caption": Value("string")})
    split = Dataset.from_dict(columns, features=features).add_column("text_embeds", list(embeds))
    predictions = Predictions(list("abcde"), np.arange(5) % 5, np.eye(5, dtype=np.float32), embeds)
    history = [{"epoch": 1.0, "eval_accuracy": 0.5}, {"epoch": 1.0, "loss_ce": 1.0}]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    test = split.map(lambda row: {"caption": None}) if described == "train" else split
    training = ("train", split) if described else None
    draw_card_pictures(
        run, {"aligned": run}, {"test": test}, {"test": predictions}, ID2LABEL, weights=weights, training=training
    )


@pytest.mark.parametrize("described", ["test", "train", None])
def test_nearest_captions_are_of_the_split_or_where_it_has_none_of_training(tmp_path, described):
    run = a_run(tmp_path / "run")
    draw(run, described=described)
    assert json.loads((run / "pictures" / "about.json").read_text())["captions_of"] == described
    student = release_student(run, aligned=False)
    write_card(student, ReleaseArguments(run=str(run)))
    card = (student / "README.md").read_text()
    assert ("that the aligned model finds nearest" in card) == (described is not None)
    assert described is None or f"the caption of `{described}` that the aligned" in card


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(run, released folder) with everything, its card as for a reader who has the folder"""
    run = a_run(tmp_path_factory.mktemp("released") / "run")
    draw(run)
    student = release_student(run, onnx=True)
    args = ReleaseArguments(run=str(run))
    args.repo_id = str(student)  # no id, but what `from_pretrained` takes all the same
    write_card(student, args)
    return run, student


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.S)


@pytest.mark.slow
def test_every_snippet_runs(released, tmp_path, monkeypatch):
    _, student = released
    PILImage.new("RGB", (60, 50), (200, 30, 30)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    blocks = snippets((student / "README.md").read_text())
    assert len(blocks) == 5  # pipeline, AutoModel, timm, onnxruntime, zero-shot
    logits = {}
    for block in blocks:
        found = {}
        exec(block, found)
        if "logits" in found:
            name = "onnx" if "onnxruntime" in block else "timm" if "import timm" in block else "transformers"
            logits[name] = np.asarray(found["logits"])
        else:
            answers = found["classifier"](
                "picture.png", **({"candidate_labels": ["a", "b"]} if "ZeroShot" in block else {})
            )
            assert {"label", "score"} <= set(answers[0])
    for name in ("timm", "onnx"):
        np.testing.assert_allclose(logits[name], logits["transformers"], atol=1e-4)


def test_the_page_has_the_code_of_the_card():
    """So what runs from a card runs from the page."""
    page = (Path(__file__).parent.parent / "docs" / "students_on_the_hub.md").read_text()
    card = student_card(**NEEDED | EVERYTHING | {"model_id": "me/pictures-student"})
    assert snippets(page) == snippets(card.text)


def test_the_snippet_of_an_adapter_runs(tmp_path, monkeypatch):
    model = lora_model("vit", text_embed_dim=384)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.normal_(0, 0.1)
    run = a_run(tmp_path / "run", model=False, lineage=None)
    model.save_pretrained(run)
    generic_processor(ImageSettings(48)).save_pretrained(run)
    student = release_student(run, lora="adapter")
    args = ReleaseArguments(run=str(run), lora="adapter")
    args.repo_id = str(student)
    write_card(student, args)
    PILImage.new("RGB", (60, 50), (200, 30, 30)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    card = ModelCard.load(student / "README.md")
    (block,), found = snippets(card.text), {}
    exec(block, found)
    with torch.no_grad():
        expected = model.eval()(**found["inputs"]).logits
    torch.testing.assert_close(found["logits"], expected, rtol=1e-4, atol=1e-5)
    data = card.data
    assert (data.library_name, data.base_model, data.base_model_relation) == ("peft", "me/vit", "adapter")
    assert "learned beside the weights of `me/vit`" in card.text and "plain checkpoint" not in card.text


RUN_SNIPPETS = """
import json, re, sys
from pathlib import Path
from huggingface_hub import HfApi, create_repo, upload_folder
from PIL import Image

create_repo("me/student")
upload_folder(repo_id="me/student", folder_path=sys.argv[1])
Image.new("RGB", (60, 50), (200, 30, 30)).save("picture.png")
blocks = re.findall(r"```python\\n(.*?)```", Path(sys.argv[1], "README.md").read_text(), re.S)
logits = []
for block in blocks:
    found = {}
    exec(block, found)
    if "logits" in found:
        logits.append([float(value) for value in found["logits"][0]])
entries = HfApi().model_info("me/student", expand=["evalResults"]).eval_results
results = [[entry.dataset_id, entry.task_id, entry.value] for entry in entries]
print(json.dumps({"blocks": len(blocks), "logits": logits, "results": results}))
"""


@pytest.mark.slow
def test_every_snippet_runs_on_the_hub(tmp_path, monkeypatch):
    """As a stranger copies them from the page of the model, also where the weights of the graph lie beside it."""
    monkeypatch.setattr("g4i_hf.hub.onnx.LARGEST_FILE", 10)
    run = a_run(tmp_path / "run")
    student = release_student(run, onnx=True)
    assert (student / "onnx" / "model.onnx.data").is_file()
    write_card(student, ReleaseArguments(run=str(run), repo_id="me/student"))
    with hub_client.serving() as hub:
        found = hub.run(f"import os; os.chdir({str(tmp_path)!r})\n{RUN_SNIPPETS}", tmp_path / "home", student)
    assert found["blocks"] == 5 and len(found["logits"]) == 3
    for logits in found["logits"][1:]:
        np.testing.assert_allclose(logits, found["logits"][0], atol=1e-4)
    assert found["results"] == [["them/photos", "validation", 0.61], ["them/photos", "test", 0.52]]


def test_pictures_are_copied_and_nothing_but_pixels(released):
    run, student = released
    card = (student / "README.md").read_text()
    for name in ("curves.png", "predictions.png"):
        data = (student / "images" / name).read_bytes()
        assert data == (run / "pictures" / name).read_bytes()
        assert f"](images/{name})" in card
        chunks, at = [], 8
        while at < len(data):
            length, kind = struct.unpack(">I4s", data[at : at + 8])
            chunks.append(kind.decode())
            at += length + 12
        assert set(chunks) <= {"IHDR", "pHYs", "PLTE", "IDAT", "IEND"}
    assert "Images of `test`, drawn at random" in card and "finds nearest" in card


def test_without_matplotlib_the_remedy_is_named_and_earlier_pictures_stay(released, monkeypatch):
    run, _ = released
    before = {path.name: path.read_bytes() for path in (run / "pictures").iterdir()}
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[demo\]' in a clone"):
        draw(run)
    assert {path.name: path.read_bytes() for path in (run / "pictures").iterdir()} == before
    assert not list(run.glob(".*"))


def test_pictures_of_other_weights_or_unwanted_ones_are_left_out(tmp_path, caplog):
    run = a_run(tmp_path / "run")
    student = release_student(run, aligned=False)
    for wanted, options, drawn in (
        (set(), {}, None),
        (set(), {"card_pictures": False}, "raw"),
        ({"curves.png"}, {}, "ema"),
        ({"curves.png", "predictions.png"}, {}, "raw"),
    ):
        if drawn:
            draw(run, drawn)
        write_card(student, ReleaseArguments(run=str(run), **options))
        images = student / "images"
        assert {path.name for path in images.glob("*")} == wanted
        if drawn is None:
            assert "has no pictures: g4i evaluate --run" in caplog.text


def test_figures_go_to_leaderboards_of_data_on_the_hub_only(tmp_path):
    run = a_run(tmp_path / "run")
    student = release_student(run, aligned=False)
    rows = write_card(student, ReleaseArguments(run=str(run)))
    assert [(row.split, row.aligned) for row in rows if row.measure == "accuracy"] == [
        ("validation", 0.61),
        ("test", 0.52),
    ]
    (entries,) = (student / ".eval_results").iterdir()
    assert [entry["value"] for entry in yaml.safe_load(entries.read_text())] == [0.61, 0.52]
    a_run(run, lineage=LINEAGE | {"sources": [{"name": "photos", "images": True}]})
    student = release_student(run, aligned=False)
    write_card(student, ReleaseArguments(run=str(run)))
    assert not (student / ".eval_results").exists()
    index = ModelCard.load(student / "README.md").data.eval_results
    assert {result.dataset_type for result in index} == {"photos"}


def test_nothing_is_written_for_a_licence_that_is_misspelt(tmp_path):
    run = a_run(tmp_path / "run")
    draw(run)
    student = release_student(run, aligned=False)
    before = sorted(path.name for path in student.iterdir())
    with pytest.raises(ValueError, match="apache-2.0"):
        write_card(student, ReleaseArguments(run=str(run), license="apache2.0"))
    assert sorted(path.name for path in student.iterdir()) == before


# --- Canaries -------------------------------------------------------------------------------------------------------

CANARIES = ("ann", "hf_canaryCanaryCanaryCanaryCanaryCanary", "wolke7", "geheim")
PRIVATE = {
    "dataset_name": "/home/ann/data",
    "student": "/home/ann/checkpoints/vit",
    "text_encoder": "/home/ann/geheim/encoder",
    "embeddings_dir": "C:\\Users\\ann\\embeddings",
    "run_name": "ann@wolke7",
    "hub_token": "hf_canaryCanaryCanaryCanaryCanaryCanary",
    "hub_model_id": "hf_canaryCanaryCanaryCanaryCanaryCanary",
    "logging_dir": "/home/ann/tensorboard",
    "optim": "/home/ann/optim",
    "align_loss": "/home/ann/loss.py",
    "seed": 0,
}
PRIVATE_LINEAGE = {
    "sources": [{"name": "/home/ann/data", "stage": "captioning", "images": True}],
    "rows": {"train": 5},
    "captions": {
        "captioner": "endpoint",
        "model": "/home/ann/captioner",
        "base_url": "http://wolke7:8000/v1",
        "api_key": "hf_canaryCanaryCanaryCanaryCanaryCanary",
        "prompts": ["Describe it."],
    },
    "text_encoder": {"text_encoder": "/home/ann/encoder", "text_encoder_revision": None},
    "student": {"name": "/home/ann/checkpoints/vit", "pretrained": True, "id": None, "revision": None},
}


def holding(folder: Path, words: tuple[str, ...]) -> dict[str, str]:
    """File -> the canary that it holds; names of folders stand between slashes, so that `Annotation` is none."""
    found = {}
    for path in filter(Path.is_file, folder.rglob("*")):
        data = path.read_bytes().decode("latin-1")
        for word in words:
            if re.search(rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])", data):
                found[path.relative_to(folder).as_posix()] = word
    return found


@pytest.mark.parametrize("name", ["vit", "timm-resnet"])
def test_nothing_of_the_machine_is_released(tmp_path, name):
    """A run from a checkpoint in a home folder, whose options and lineage are full of what nobody else should read."""
    home = tmp_path / "home" / "ann" / "checkpoints"
    base = a_run(tmp_path / "base", name)
    checkpoint = release_student(base, home / "vit", aligned=False)
    if name.startswith("timm"):
        config = json.loads((checkpoint / "config.json").read_text())
        config["pretrained_cfg"] |= {"file": "/home/ann/resnet.pth", "url": "file:///home/ann/x", "tag": "wolke7"}
        (checkpoint / "config.json").write_text(json.dumps(config))
    run = a_run(tmp_path / "run", checkpoint=checkpoint, lineage=PRIVATE_LINEAGE, **PRIVATE)
    draw(run)
    student = release_student(run, onnx=True)
    write_card(student, ReleaseArguments(run=str(run), repo_id="me/student"))
    assert {path.name for path in student.iterdir()} >= {"README.md", "images", "onnx", "aligned", "config.json"}
    assert holding(student, CANARIES) == {}
    assert holding(run, CANARIES)  # they are there to be found
    check_publishable(student)
    for path in student.rglob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            assert tensors.metadata() == {"format": "pt"}
