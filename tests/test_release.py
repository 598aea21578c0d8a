"""A released student is exactly the trained one, and needs nothing of ours."""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from students import ID2LABEL, STUDENTS, aligned_model, lora_model
from transformers import AutoImageProcessor, AutoModelForImageClassification, BitImageProcessor

from g4i_hf import AlignedImageClassification
from g4i_hf.hub.push import read_manifest, write_manifest
from g4i_hf.hub.release import release_student, release_with_card
from g4i_hf.modeling.lora import is_adapter
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.options import ReleaseArguments
from g4i_hf.training.lineage import write_lineage
from g4i_hf.training.run_folder import write_options
from g4i_hf.workflows.release import Release

WITH_ALIGNED = ("vit", "timm-resnet")

# Loads the students of all folders given, where g4i_hf cannot be imported, and saves tensors and logits.
LOADER = """
import sys
sys.modules["g4i_hf"] = None
import timm, torch
from pathlib import Path
from transformers import AutoModelForImageClassification, AutoImageProcessor

torch.set_num_threads(1)
pixels = torch.load(sys.argv[1], weights_only=True)

def record(model, forward):
    with torch.no_grad():
        plain = forward(pixels)
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone()
        return {"logits": plain, "cloned": forward(pixels), "state": dict(model.state_dict())}

for folder in map(Path, sys.argv[2:]):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    found = {"transformers": record(model, lambda x: model(x).logits), "id2label": model.config.id2label}
    AutoImageProcessor.from_pretrained(folder)
    if model.config.model_type == "timm_wrapper":
        timm_model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        found["timm"] = record(timm_model, timm_model)
    torch.save(found, folder / "found.pt")
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """name -> (aligned model, what a process without g4i_hf found in the released folder)"""
    root = tmp_path_factory.mktemp("released")
    pixels = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.save(pixels, root / "pixels.pt")
    models, folders = {}, {}
    for name in STUDENTS:
        model = aligned_model(name)
        model.train()
        with torch.no_grad():
            model(pixels)  # running statistics that are not the initial ones
        run = root / name
        model.save_pretrained(run)
        generic_processor(ImageSettings(48)).save_pretrained(run)
        models[name], folders[name] = model.eval(), release_student(run, aligned=name in WITH_ALIGNED)
    command = [sys.executable, "-c", LOADER, root / "pixels.pt", *folders.values()]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: torch.load(folder / "found.pt", weights_only=True) for name, folder in folders.items()}
    return {name: (models[name], pixels, folders[name], found[name]) for name in STUDENTS}


def _logits(model, pixels):
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    with torch.no_grad():
        return model(pixels).logits


@pytest.mark.parametrize("name", STUDENTS)
def test_every_tensor_and_the_logits_are_equal(released, name):
    model, pixels, _, found = released[name]
    state = model.student.state_dict()
    assert {int(i): label for i, label in found["id2label"].items()} == ID2LABEL
    for library in ("transformers", "timm"):
        if library not in found:
            assert not name.startswith("timm-")
            continue
        prefix = "timm_model." if library == "timm" else ""
        other = {prefix + key: tensor for key, tensor in found[library]["state"].items()}
        assert set(other) == set(state)
        assert all(torch.equal(other[key], state[key]) for key in state)
        expected = _logits(model, pixels)
        assert torch.equal(found[library]["cloned"], expected)
        torch.testing.assert_close(found[library]["logits"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in STUDENTS if name.startswith("timm-")])
def test_layout_suits_both_libraries(released, name):
    *_, folder, _ = released[name]
    config = json.loads((folder / "config.json").read_text())
    assert set(config) <= {"architecture", "num_classes", "label_names", "pretrained_cfg", "model_args"}
    assert "num_classes" not in config.get("model_args", {}) and config.get("model_args") != {}
    assert config["pretrained_cfg"]["input_size"] == [3, 48, 48]


def test_release_of_no_run_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="g4i train"):
        release_student(tmp_path)


def test_release_replaces_the_whole_folder(tmp_path):
    model = aligned_model("vit")
    model.save_pretrained(tmp_path / "run")
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    stale = release_student(tmp_path / "run") / "stale.bin"
    stale.touch()
    student = release_student(tmp_path / "run")
    assert not stale.exists() and AutoImageProcessor.from_pretrained(student) is not None
    assert {path.name for path in Path(student).iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "aligned",
        ".g4i_hf.json",
    }
    assert set(read_manifest(student)) == files_of(student) - {".g4i_hf.json"}


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- What a release replaces ----------------------------------------------------------------------------------------


def a_data_set(folder: Path) -> Path:
    folder.mkdir()
    (folder / "stage.json").write_text("{}")
    write_manifest(folder)
    return folder


PLACES = {
    # of the run, or what stands there; words of the message
    "the run": (lambda run: run, "is or holds the run itself.*--student_dir"),
    "its parent": (lambda run: run / "..", "is or holds the run itself.*--student_dir"),
    "a link to it": (lambda run: linked(run.parent / "link", run), "is or holds the run itself"),
    "another run": (lambda run: a_run(run.parent / "other"), "something else than a student.*remove that folder"),
    "a checkpoint of its": (lambda run: a_run(run / "checkpoint-9"), "something else than a student"),
    "a data set that was released": (lambda run: a_data_set(run / "set"), "something else than a student"),
    "a file": (lambda run: run / "train.yaml", "something else than a student"),
}


def linked(link: Path, target: Path) -> Path:
    link.symlink_to(target)
    return link


@pytest.mark.parametrize("what", PLACES)
def test_a_release_replaces_nothing_but_an_earlier_one(tmp_path, what):
    run = a_run(tmp_path / "run")
    place, message = PLACES[what]
    place = place(run)
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=message):
        release_student(run, place)
    assert files_of(tmp_path) == before


def test_a_checkpoint_does_not_replace_its_run(tmp_path):
    run = a_run(tmp_path / "run")
    a_run(run / "checkpoint-7")
    with pytest.raises(ValueError, match="is or holds the run itself"):
        release_student(run / "checkpoint-7", run)
    assert (run / "model.safetensors").is_file()


def test_an_empty_folder_is_taken_and_a_link_leads_to_the_release(tmp_path):
    run = a_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    link = linked(tmp_path / "link", tmp_path / "empty")
    for _ in range(2):
        release_student(run, link)
        assert link.is_symlink() and (tmp_path / "empty" / "config.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "empty", "link"}


REFUSED = {
    "licence": ({"license": "apache2.0"}, "Did you mean apache-2.0"),
    "seeds": ({"seed_baselines": ["baseline"]}, "without seed_runs"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_card_that_cannot_be_made_leaves_the_earlier_release(tmp_path, monkeypatch, why):
    run = a_run(tmp_path / "run")
    student, _ = release_with_card(ReleaseArguments(run=str(run), license="mit"))
    before = {name: (student / name).read_bytes() for name in files_of(student)}
    assert {"README.md", ".g4i_hf.json"} <= set(before) and set(read_manifest(student)) >= {"README.md"}
    options, message = REFUSED[why]
    monkeypatch.chdir(a_run(tmp_path / "baseline").parent)
    monkeypatch.setattr("g4i_hf.hub.release.export_onnx", lambda *_: pytest.fail("the graph was made before the card"))
    with pytest.raises(ValueError, match=message):
        Release(ReleaseArguments(run=str(run), onnx=True, **options)).build()
    assert {name: (student / name).read_bytes() for name in files_of(student)} == before
    assert not list(run.glob(".*"))


def test_a_release_that_cannot_be_put_in_place_leaves_the_earlier_one(tmp_path, monkeypatch):
    run = a_run(tmp_path / "run")
    before, rename = files_of(release_student(run)), Path.rename

    def full(path, target):
        if ".tmp-" in path.name:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        release_student(run, aligned=False)
    assert files_of(run / "student") == before and not list(run.glob(".*"))


@pytest.mark.parametrize("name", ["vit", "timm-resnet"])
def test_a_run_without_options_and_image_processor_is_released_and_nothing_is_made_up(tmp_path, name):
    """As a trainer leaves it that was given neither."""
    run = a_run(tmp_path / "run", name)
    results = {"test_samples": 5, "test_accuracy": 0.5}
    (run / "all_results.json").write_text(json.dumps(results))
    for file in ("train.yaml", "preprocessor_config.json"):
        (run / file).unlink()
    student, rows = release_with_card(ReleaseArguments(run=str(run)))
    assert ImageSettings.from_processor(AutoImageProcessor.from_pretrained(student)).size == 48
    card = " ".join((student / "README.md").read_text().split())
    assert rows and "50.0" in card and "In percent and percentage points; one run." in card
    for word in ("baseline", "seed", "align_weight", "trained with captions", "last epoch"):
        assert word not in card


# --- aligned/ -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_ALIGNED)
@pytest.mark.parametrize("place", ["subfolder", "directly"])
def test_the_aligned_model_lies_beside_the_student(released, name, place):
    model, pixels, folder, _ = released[name]
    where, options = (folder, {"subfolder": "aligned"}) if place == "subfolder" else (folder / "aligned", {})
    loaded = AlignedImageClassification.from_pretrained(where, **options).eval()
    with torch.no_grad():
        expected, found = (each(pixels, output_image_embeds=True) for each in (model, loaded))
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds, rtol=0, atol=1e-6)
    # AutoImageProcessor looks at the top of a local folder for timm's config.json, whatever the subfolder (5.24)
    processor = BitImageProcessor.from_pretrained(where, **options)
    assert ImageSettings.from_processor(processor).size == 48
    student = AutoModelForImageClassification.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded.student.state_dict()[key], tensor) for key, tensor in student.items())


def a_run(folder: Path, name: str = "timm-resnet", lineage: dict | None = None, **options) -> Path:
    model = aligned_model(name)
    model.save_pretrained(folder)
    generic_processor(ImageSettings(48)).save_pretrained(folder)
    write_options(folder, {"align_weight": 0.3, "align_temperature": 0.2} | options)
    if lineage is not None:
        write_lineage(folder, lineage)
    return folder


def test_a_baseline_has_no_aligned_model_and_one_can_be_left_out(tmp_path):
    run = a_run(tmp_path / "run")
    assert (release_student(run) / "aligned").is_dir()
    assert not (release_student(run, aligned=False) / "aligned").exists()
    assert not (release_student(a_run(tmp_path / "baseline", align_weight=0)) / "aligned").exists()


def test_a_checkpoint_is_released_as_its_run_would_be(tmp_path):
    for name, weight in (("aligned", 0.3), ("baseline", 0.0)):
        run = a_run(tmp_path / name, align_weight=weight, text_encoder="me/encoder")
        a_run(run / "checkpoint-7")
        (run / "checkpoint-7" / "train.yaml").unlink()
        student = release_student(run / "checkpoint-7", tmp_path / f"{name}-student")
        assert (student / "aligned").is_dir() == (weight > 0)
    record = json.loads((tmp_path / "aligned-student" / "aligned" / "text_encoder.json").read_text())
    assert record["text_encoder"] == "me/encoder" and record["temperature"] == 0.2


FROM_LINEAGE = {"text_encoder": "me/encoder", "text_encoder_revision": "abc", "text_encoder_prompt": "passage: "}


@pytest.mark.parametrize(
    ("options", "lineage", "expected"),
    [
        ({"text_encoder": "me/encoder"}, {"text_encoder": FROM_LINEAGE}, FROM_LINEAGE),
        ({"text_encoder": None}, {"text_encoder": FROM_LINEAGE}, FROM_LINEAGE),
        ({"text_encoder": "me/other"}, None, {"text_encoder": "me/other", "text_encoder_prompt": None}),
        (
            {"text_encoder": "/home/ann/encoder"},
            None,
            {"text_encoder": "encoder", "text_encoder_is_folder": True},
        ),
        ({"text_encoder": None}, {"text_encoder": None}, None),
    ],
)
def test_what_is_known_of_the_text_encoder(tmp_path, options, lineage, expected):
    run = a_run(tmp_path / "run", lineage=lineage, **options)
    path = release_student(run) / "aligned" / "text_encoder.json"
    assert path.is_file() == (expected is not None)
    if expected is not None:
        assert json.loads(path.read_text()).items() >= expected.items()


def test_onnx_and_adapters_are_there_when_asked_for(tmp_path):
    run = a_run(tmp_path / "run")
    assert (release_student(run, onnx=True) / "onnx" / "model.onnx").is_file()
    assert not (release_student(run) / "onnx").exists()
    with pytest.raises(ValueError, match=r"trained without use_peft.*--lora"):
        release_student(run, lora="adapter")
    assert (run / "student" / "config.json").is_file()  # the earlier release


# --- Adapters -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["vit", "timm-resnet"])
def lora_run(request, tmp_path):
    model = lora_model(request.param)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "run")
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    write_options(tmp_path / "run", {"align_weight": 0.3, "use_peft": True})
    return model.eval(), tmp_path / "run"


def test_adapters_are_merged_in_the_student_and_in_the_aligned_model(lora_run):
    model, run = lora_run
    student, pixels = release_student(run), torch.randn(3, 3, 48, 48)
    aligned = AlignedImageClassification.from_pretrained(student / "aligned").eval()
    assert aligned.config.lora is None and not any(is_adapter(name) for name in aligned.state_dict())
    plain = AutoModelForImageClassification.from_pretrained(student).eval()
    with torch.no_grad():
        expected, found = (each(pixels, output_image_embeds=True) for each in (model, aligned))
        torch.testing.assert_close(plain(pixels).logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds, rtol=1e-4, atol=1e-5)


def test_an_adapter_alone_has_its_processor_and_onnx_is_whole(lora_run):
    model, run = lora_run
    released = release_student(run, lora="adapter", onnx=True)
    assert {path.name for path in released.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "id2label.json",
        "onnx",
        "preprocessor_config.json",
        ".g4i_hf.json",
    }
    pixels = torch.randn(3, 3, 48, 48)
    session = onnxruntime.InferenceSession(released / "onnx" / "model.onnx")
    with torch.no_grad():
        expected = model(pixels).logits
    found = torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (release_student(run) / "config.json").is_file()  # and a later release replaces it


def test_an_export_that_fails_leaves_the_earlier_release(tmp_path, monkeypatch):
    student = release_student(a_run(tmp_path / "run"))

    def fails(*args):
        raise ValueError("no such operator")

    monkeypatch.setattr("g4i_hf.hub.release.export_onnx", fails)
    with pytest.raises(ValueError, match="no such operator"):
        release_student(tmp_path / "run", onnx=True)
    assert {path.name for path in tmp_path.joinpath("run").iterdir() if path.name.startswith(".")} == set()
    assert (student / "model.safetensors").is_file()
