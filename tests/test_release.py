"""A released student is the trained one bit by bit, with figures and lineage, and replaces only an earlier release."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import timm
import torch
from datasets import Dataset, DatasetDict
from doors import files_in
from huggingface_hub.constants import HF_HUB_CACHE
from loaded import PYTHON
from released_runs import COMMIT, LINEAGE, RESULTS, a_run, shifted
from students import STUDENTS
from transformers import AutoImageProcessor

from g4i_hf import AlignedImageClassification
from g4i_hf.data.stage import write_stage
from g4i_hf.hub.figures import measured
from g4i_hf.hub.push import MANIFEST
from g4i_hf.hub.release import release_student, release_with_card
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.options import DataArguments, ReleaseArguments, StudentArguments
from g4i_hf.running import main
from g4i_hf.training.run_folder import lineage_of

LABELS = {0: "elk", 1: "bee", 2: "ant", 3: "dog", 4: "cat"}  # in no order but their own
WITH_ALIGNED = ("vit", "timm-resnet")
FAST = ("vit", "timm-resnet", "timm-vit", "timm-efficientnet", "swin", "timm-deit-two-heads")
# Loads the students of all folders given, where g4i_hf cannot be imported, and saves tensors and logits
LOADER = """
import sys
sys.modules["g4i_hf"] = None
import timm, torch
from pathlib import Path
from transformers import AutoModelForImageClassification, AutoImageProcessor

torch.set_num_threads(1)
pixels = torch.load(sys.argv[1], weights_only=True)

def record(model, forward):
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()  # files give unaligned tensors, and other last bits
    with torch.no_grad():
        return {"logits": forward(pixels), "state": dict(model.state_dict())}

for folder in map(Path, sys.argv[2:]):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    found = {"transformers": record(model, lambda x: model(x).logits), "id2label": model.config.id2label}
    AutoImageProcessor.from_pretrained(folder)
    if model.config.model_type == "timm_wrapper":
        timm_model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        found["timm"] = record(timm_model, timm_model)
    torch.save(found, folder / "found.pt")
"""


def release_of(name: str, root: Path, pixels: torch.Tensor) -> tuple[AlignedImageClassification, Path]:
    wanted, student_args = STUDENTS[name]
    model = AlignedImageClassification.from_student(
        wanted, id2label=LABELS, text_embed_dim=12, student_args=student_args, image_size=48
    ).train()
    with torch.no_grad():
        model(pixels)  # running statistics that are not the initial ones
        model.save_pretrained(root / name)
        generic_processor(ImageSettings(48)).save_pretrained(root / name)
        folder = release_student(root / name, aligned=name in WITH_ALIGNED)
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone()
    return model.eval(), folder


@pytest.mark.parametrize("names", [FAST, pytest.param({*STUDENTS}.difference(FAST), marks=pytest.mark.slow)], ids=len)
def test_the_released_student_is_the_trained_one(tmp_path, names):
    """Every tensor bit by bit, the classes in their order, and the same logits, in transformers and in timm."""
    pixels = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.save(pixels, tmp_path / "pixels.pt")
    released = {name: release_of(name, tmp_path, pixels) for name in names}
    command = [PYTHON, "-c", LOADER, tmp_path / "pixels.pt", *(folder for _, folder in released.values())]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, (model, folder) in released.items():
        found, state = torch.load(folder / "found.pt", weights_only=True), model.student.state_dict()
        with torch.no_grad():
            expected = model(pixels).logits
        assert {int(i): label for i, label in found["id2label"].items()} == LABELS, name
        assert ("timm" in found) == name.startswith("timm-"), name
        for library, prefix in (("transformers", ""), ("timm", "timm_model.")):
            if library in found:
                other = {prefix + key: tensor for key, tensor in found[library]["state"].items()}
                assert set(other) == set(state) and all(torch.equal(other[key], state[key]) for key in state), name
                assert torch.equal(found[library]["logits"], expected), name
        if "timm" in found:
            config = json.loads((folder / "config.json").read_text())
            assert set(config) <= {"architecture", "num_classes", "label_names", "pretrained_cfg", "model_args"}, name
            assert config["label_names"] == list(LABELS.values()), name
            assert config["pretrained_cfg"]["input_size"] == [3, 48, 48], name


def a_plain_run(folder: Path, name: str = "timm-resnet", lineage: dict | None = None, **options) -> Path:
    known = {"text_encoder": None, "align_weight": 0.3}
    return a_run(folder, name, lineage=lineage, results=None, **known | options)


def test_of_a_checkpoint_a_baseline_and_on_request_there_is_no_more_than_that(tmp_path):
    run, baseline = (a_plain_run(tmp_path / name, align_weight=weight) for name, weight in (("run", 0.3), ("b", 0.0)))
    plain = {"config.json", "model.safetensors", "README.md", ".g4i_hf.json"}
    aligned = {f"aligned/{name}" for name in ("config.json", "model.safetensors", "preprocessor_config.json")}
    assert files_in(release_student(baseline)) == files_in(release_student(run, aligned=False)) == plain
    a_plain_run(run / "checkpoint-7")
    (run / "checkpoint-7" / "train.yaml").unlink()
    checkpoint = release_student(run / "checkpoint-7", tmp_path / "student")
    assert files_in(checkpoint) == files_in(release_student(run)) == plain | aligned
    with pytest.raises(FileNotFoundError, match="g4i train"):
        release_student(tmp_path)


@pytest.mark.parametrize("name", WITH_ALIGNED)
def test_a_run_without_options_and_image_processor_is_released_and_nothing_is_made_up(tmp_path, name):
    """As a trainer leaves it that was given neither."""
    run = a_run(tmp_path / "run", name, lineage=None, results={"test_samples": 5, "test_accuracy": 0.5})
    for file in ("train.yaml", "preprocessor_config.json"):
        (run / file).unlink()
    student, rows = release_with_card(ReleaseArguments(run=str(run)))
    assert ImageSettings.from_processor(AutoImageProcessor.from_pretrained(student)).size == 48
    card = " ".join((student / "README.md").read_text().split())
    assert rows and "50.0" in card and "In percent and percentage points; one run." in card
    for word in ("labels only", "seed", "align_weight", "trained with captions", "last epoch"):
        assert word not in card


RECORDED = {"text_encoder": "me/encoder", "text_encoder_revision": "abc", "text_encoder_prompt": "passage: "}
ENCODERS = [
    # the option, what was recorded, and what the release says
    ("me/encoder", {"text_encoder": RECORDED}, RECORDED | {"temperature": 0.2}),
    ("me/other", None, {"text_encoder": "me/other", "text_encoder_prompt": None}),
    ("/home/ann/encoder", None, {"text_encoder": "encoder", "text_encoder_is_folder": True}),
    (None, {"text_encoder": None}, None),
]


@pytest.mark.parametrize(("option", "lineage", "expected"), ENCODERS)
def test_what_is_known_of_the_text_encoder(tmp_path, option, lineage, expected):
    path = release_student(a_plain_run(tmp_path / "run", lineage=lineage, text_encoder=option)) / "aligned"
    assert (path / "text_encoder.json").is_file() == (expected is not None)
    assert expected is None or json.loads((path / "text_encoder.json").read_text()).items() >= expected.items()


def test_a_release_replaces_nothing_but_an_earlier_one(tmp_path):
    run, other, dataset = a_plain_run(tmp_path / "run"), a_plain_run(tmp_path / "other"), tmp_path / "dataset"
    (tmp_path / "link").symlink_to(run)
    dataset.mkdir()
    (dataset / "stage.json").write_text("{}")
    (dataset / MANIFEST).touch()
    before = files_in(tmp_path)
    for place in (run, tmp_path, tmp_path / "link", other, dataset):
        with pytest.raises(ValueError, match="holds no student.*move it away"):
            release_student(run, place)
    assert files_in(tmp_path) == before


def test_a_dry_run_lists_all_and_writes_nothing(tmp_path, monkeypatch, capsys):
    for name, weight in (("aligned", 0.3), ("baseline", 0.0)):
        a_plain_run(tmp_path / name, align_weight=weight)
    monkeypatch.chdir(tmp_path)
    before = files_in(tmp_path)
    main(["release", "--run", "aligned", "--baseline", "baseline", "--dry_run"])
    said = capsys.readouterr().out
    for name in ("model.safetensors", "aligned/model.safetensors", "README.md"):
        assert f"  {name}\n" in said
    assert "Nothing was written or pushed" in said and files_in(tmp_path) == before


# --- Figures: of the released weights, and the same in every form that is published ----------------------------------


@pytest.fixture
def runs(tmp_path):
    """A run and its baseline, with accuracies of `test` of 52 and 50 percent."""
    a_run(tmp_path / "aligned0", model=False, seed=0)
    a_run(tmp_path / "baseline0", model=False, results=shifted(-0.02), seed=0, align_weight=0)
    return tmp_path


def arguments(folder) -> ReleaseArguments:
    return ReleaseArguments(run=str(folder / "aligned0"), baseline=str(folder / "baseline0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"baseline0 is no baseline of .*aligned0: .*another seed \(1, not 0\).*--align_weight 0"),
        ({"learning_rate": 0.5, "student": "vit"}, r"another learning_rate .*, student \('vit', not 'resnet18'"),
        ({"align_weight": 0.3}, r"learned from captions too \(align_weight 0.3\).*--supervision none"),
        ({"supervision": "auto"}, r"learned from captions too \(supervision auto\)"),
    ],
)
def test_a_baseline_that_is_none_is_refused(runs, change, message):
    (runs / "baseline0" / "lineage.json").unlink()
    a_run(runs / "baseline0", **{"model": False, "seed": 0, "align_weight": 0} | change)
    with pytest.raises(ValueError, match=message):
        measured(arguments(runs))


def test_a_baseline_may_lack_all_that_belongs_to_the_captions(runs):
    """And it may be trained on the images themselves, where the run was on the stage of their captions."""
    images = LINEAGE | {"sources": [{"id": "them/photos", "images": True}], "captions": None, "text_encoder": None}
    options = {"align_weight": 0, "align_loss": "siglip", "text_encoder": None, "projector_norm": "layer"}
    options |= {"dataset_name": "them/photos", "caption_column": "text", "logging_steps": 7, "unlabelled": "drop"}
    a_run(runs / "aligned0", model=False, seed=0, dataset_name="me/embedded")
    a_run(runs / "baseline0", model=False, seed=0, lineage=images, **options)
    rows = measured(arguments(runs))["rows"]
    assert sum(row.figure == "accuracy" and row.baseline is not None for row in rows) == 2


def test_figures_of_other_weights_are_not_shown(runs, caplog):
    (runs / "aligned0" / "all_results.json").write_text(json.dumps(RESULTS | {"test_weights": "ema"}))
    found = measured(arguments(runs))
    assert {row.split for row in found["rows"]} == {"validation"}
    assert "test was not evaluated with the raw weights" in caplog.text
    assert [each["split"] for each in found["intervals"]] == ["validation"]


def test_an_interval_is_over_labelled_images(runs):
    more = {"validation_labelled": 20, "validation_accuracy": 0.5}
    (runs / "aligned0" / "all_results.json").write_text(json.dumps(RESULTS | more))
    validation, test = measured(arguments(runs))["intervals"]
    assert (validation["images"], validation["interval"]) == (20, "30 to 70")
    assert (test["images"], test["interval"]) == (1192, "49.2 to 54.8")


# --- Lineage: where the supervision of a run comes from --------------------------------------------------------------

CAPTIONER = {"captioner": "local", "model": "me/captioner", "revision": "abc", "temperature": 0.0}
CAPTIONS = {"name": "captions", "stage": "captioning", "images": False}
FOLDER_OF_PHOTOS = {"name": "photos", "images": True}


def splits_of(**columns) -> DatasetDict:
    return DatasetDict({"train": Dataset.from_dict({"image_id": ["a"]} | columns)})


def captions_stage(folder: Path, source: str, **more) -> None:
    stage = {"stage": "captioning", "source": source, "captioner": CAPTIONER, "prompts": ["What is it?"], **more}
    write_stage(folder, splits_of(caption=["a cat"]), stage)


def lineage(name, splits=None, revision=None, captions_name=None, **student) -> dict:
    data = DataArguments(dataset_name=str(name), dataset_revision=revision, captions_name=captions_name)
    return lineage_of(splits or splits_of(), data, StudentArguments(**student))


def test_branches_become_the_commits_that_were_downloaded():
    splits = splits_of()
    url = f"hf://datasets/them/photos@{COMMIT}/data/train.parquet"
    splits["train"].info.download_checksums = {url: {"num_bytes": 1, "checksum": None}}
    found = lineage("them/photos", splits, revision="main")["sources"]
    assert found == [{"id": "them/photos", "revision": COMMIT, "images": True}]
    assert lineage("them/others", splits, revision="v1")["sources"][0]["revision"] == "v1"
    known = timm.get_pretrained_cfg("resnet10t").hf_hub_id
    repository = Path(HF_HUB_CACHE) / f"models--{known.replace('/', '--')}"
    for file, text in {f"snapshots/{COMMIT}/model.safetensors": "", "refs/main": COMMIT}.items():
        (repository / file).parent.mkdir(parents=True)
        (repository / file).write_text(text)
    found = lineage("them/photos", student="resnet10t", pretrained=True)["student"]
    assert found == {"name": "resnet10t", "pretrained": True, "id": known, "revision": COMMIT}
    found = lineage("them/photos", student="me/vit", pretrained=True, student_revision="v2")["student"]
    assert found == {"name": "me/vit", "pretrained": True, "id": "me/vit", "revision": "v2"}


def test_no_local_path_is_kept(tmp_path, monkeypatch):
    """Not of a folder, nor of one that is gone, wherever it was seen from."""
    captions_stage(tmp_path / "secret" / "captions", "../../hidden/photos")
    (tmp_path / "secret" / "weights").mkdir()
    monkeypatch.chdir(tmp_path / "secret")
    for name in ("captions", "./captions", str(tmp_path / "secret" / "captions")):
        found = lineage(name, student=str(tmp_path / "secret" / "weights"), pretrained=True)
        text = json.dumps(found)
        assert "secret" not in text and "hidden" not in text and os.sep + "photos" not in text
        assert [source["name"] for source in found["sources"]] == ["captions", "photos"]
        assert found["student"]["name"] == "weights"
    (tmp_path / "secret" / "photos").mkdir()  # of another name than the source of the captions
    found = lineage("photos", captions_name="captions")
    assert found["sources"] == [FOLDER_OF_PHOTOS, CAPTIONS] and found["captions"]["model"] == "me/captioner"
