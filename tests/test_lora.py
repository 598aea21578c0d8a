"""LoRA: which layers are adapted, what learns, and that adapters come back, merged and alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from peft import PeftModel
from safetensors.torch import load_file
from students import COMMIT, STUDENTS, aligned_model, lora_model, on_hub
from test_best_model import BEST, Rigged, same
from test_optimization import StopAfter, arguments, rows
from test_recipes import launch
from torch import nn
from transformers import AutoModelForImageClassification

from g4i_hf import AlignedImageClassification, AlignedImageClassificationConfig
from g4i_hf.hub import release_student
from g4i_hf.modeling.lora import find_target_modules, is_adapter, merged_student, save_adapter
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.modeling.student import classifier_layers
from g4i_hf.options import AugmentationArguments, StudentArguments
from g4i_hf.training import AlignmentTrainer
from g4i_hf.training.build import build_student
from g4i_hf.training.optimization import layer_factors
from g4i_hf.training.progress import describe_training

PIXELS = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
# Fused and separate attention, batch norms, depthwise convolutions, of timm and of transformers
FAST = ["timm-vit", "timm-resnet", "timm-convnext", "vit"]
OTHERS = [name for name in STUDENTS if name not in FAST]


def slow(*names: str) -> list:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


NO_PEFT_OF_ITS_OWN = "mobilenet_v2"  # reads the stride of a layer, which peft's has not


def logits(model, pixels: torch.Tensor = PIXELS) -> torch.Tensor:
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()  # files give unaligned tensors, and other last bits
    with torch.no_grad():
        return model.eval()(pixel_values=pixels).logits


def with_learned_adapters(model):
    """As after training: adapters start as zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def trainer_of(folder, name: str, callbacks=None, lora=None, **options) -> AlignmentTrainer:
    torch.manual_seed(0)
    model = lora_model(name, **(lora or {}))
    data = [row | {"labels": row["labels"] % 3} for row in rows()]
    return AlignmentTrainer(model, arguments(folder, **options), data, eval_dataset=data[:4], callbacks=callbacks)


# --- Which layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAST, *slow(*OTHERS)])
def test_every_linear_and_plain_convolution_is_adapted_and_nothing_else_learns(name):
    model = lora_model(name)
    layers = {k: v for k, v in aligned_model(name).student.named_modules() if isinstance(v, (nn.Linear, nn.Conv2d))}
    stem, *others = layers
    heads = {
        k for k, v in model.student.named_modules() if any(v is head for head in classifier_layers(model.student))
    }
    plain = {k for k in others if getattr(layers[k], "groups", 1) == 1}
    assert getattr(layers[stem], "in_channels", None) == 3 and heads <= plain
    assert set(model.config.lora["target_modules"]) == plain - heads
    adapted = {k.split(".lora_A.")[0] for k, _ in model.student.named_parameters() if ".lora_A." in k}
    assert adapted == plain - heads
    for key, parameter in model.named_parameters():
        expected = is_adapter(key) or key.startswith(("projector.", *(f"student.{head}." for head in heads)))
        assert parameter.requires_grad == expected, key


def test_layers_whose_weight_is_read_without_a_call_are_left_out():
    """qkv of BEiT in timm: an adapter beside it would be trained and do nothing."""
    small = {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 2}
    student = AlignedImageClassification.from_student(
        "beit_base_patch16_224", id2label={0: "a", 1: "b"}, text_embed_dim=4, student_args=small, image_size=48
    ).student
    found = find_target_modules(student, 48)
    assert {name.split(".", 3)[-1] for name in found} == {"attn.proj", "mlp.fc1", "mlp.fc2"}
    with pytest.raises(ValueError, match=r"'qkv', but timm_model.blocks.0.attn.qkv is never called.*Leave it out"):
        find_target_modules(student, 48, ["qkv"])


@pytest.mark.parametrize(
    "wanted, expected",
    [
        (["attn.qkv"], ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]),
        (
            ["fc1", r".*blocks\.1\.attn\..*"],
            ["blocks.0.mlp.fc1", "blocks.1.attn.qkv", "blocks.1.attn.proj", "blocks.1.mlp.fc1"],
        ),
        (["patch_embed.proj"], ["patch_embed.proj"]),  # the first convolution, where it is asked for
    ],
)
def test_layers_are_named_by_the_ends_of_their_names_or_by_expressions(wanted, expected):
    lora = lora_model("timm-vit", target_modules=wanted).config.lora
    assert lora["target_modules"] == [f"timm_model.{name}" for name in expected]


@pytest.mark.parametrize(
    "name, wanted, message",
    [
        ("timm-efficientnet", ["conv_dw"], "'conv_dw', but timm_model.blocks.0.0.conv_dw is a convolution of 32"),
        ("regnet", [r".*layer\.1\.convolution"], r"layers.0.layer.1.convolution is a convolution of 2 groups"),
        ("vit", ["classifier"], "classifier belongs to the classifier, which is trained in full"),
        ("timm-vit", ["q_proj"], r"'q_proj', which is no Linear or Conv2d.*timm_model.blocks.0.attn.qkv"),
        ("timm-vit", ["(qkv"], r"'\(qkv', which is no regular expression"),
    ],
)  # fmt: skip
def test_what_takes_no_adapter_is_named(name, wanted, message):
    with pytest.raises(ValueError, match=message):
        lora_model(name, target_modules=wanted)


def test_layers_that_change_their_weight_first_take_none():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return nn.functional.conv2d(x, self.weight - self.weight.mean())

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.dtype = torch.float32
            self.stem, self.standard, self.plain = nn.Conv2d(3, 4, 1), Standardised(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.dilated, self.classifier = nn.Conv2d(4, 4, 3, dilation=2, padding=2), nn.Linear(4, 2)

        def forward(self, pixel_values):
            return self.classifier(self.dilated(self.plain(self.standard(self.stem(pixel_values)))).mean((2, 3)))

    assert find_target_modules(Student(), 8) == ["plain"]


# --- Learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAST, *slow("timm-efficientnet", "swin", "resnet", "regnet")])
def test_steps_leave_base_and_statistics_alone_and_come_back(tmp_path, name):
    trainer = trainer_of(tmp_path, name, max_steps=3, learning_rate=0.05)
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    trainer.train()
    model = trainer.model
    assert model.training
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    learning = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved <= learning
    assert {key for key in learning if ".lora_B." in key or key.startswith("projector.")} <= moved
    model.save_pretrained(tmp_path / "run")
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    expected = logits(model)
    again = AlignedImageClassification.from_pretrained(tmp_path / "run")
    assert torch.equal(logits(again), expected)
    assert again.config.lora == model.config.lora
    merged = merged_student(model)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    assert set(merged.state_dict()) == set(aligned_model(name).student.state_dict())
    assert all(parameter.requires_grad for parameter in merged.parameters()) and not hasattr(merged, "peft_config")
    release_student(tmp_path / "run", tmp_path / "student")
    plain = AlignedImageClassification.from_student(
        str(tmp_path / "student"), id2label=model.config.id2label, text_embed_dim=4, pretrained=True
    ).student
    assert same(plain.state_dict(), merged.state_dict())


def test_dropout_of_backbone_and_adapters_works_while_batch_norms_rest():
    model = lora_model("timm-efficientnet", lora_dropout=0.5).train()
    norms = [m for m in model.student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    dropouts = [m for m in model.student.modules() if isinstance(m, nn.Dropout)]
    assert norms and not any(norm.training for norm in norms)
    assert dropouts and all(dropout.training for dropout in dropouts) and model.projector.training
    assert not any(module.training for module in model.eval().modules())


def test_baseline_and_aligned_run_start_from_the_same_weights(tmp_path):
    starts = [trainer_of(tmp_path, "vit", align_weight=weight) for weight in (0, 0.3)]
    students = [trainer.model.student.state_dict() for trainer in starts]
    assert same(*students) and any(".lora_A." in key and tensor.any() for key, tensor in students[0].items())
    baseline = starts[0]
    baseline.train()
    assert not any(parameter.requires_grad for parameter in baseline.model.projector.parameters())
    assert not same(baseline.model.student.state_dict(), starts[1].model.student.state_dict())


@pytest.mark.parametrize("name", ["vit", *slow("timm-resnet")])
def test_a_resumed_run_ends_with_the_same_weights_and_average(tmp_path, name):
    options = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "ema_decay": 0.5,
        "lora": {"lora_dropout": 0.3},
    }
    whole = trainer_of(tmp_path / "whole", name, **options)
    whole.train()
    trainer_of(tmp_path / "run", name, [StopAfter(2)], **options).train()
    resumed = trainer_of(tmp_path / "run", name, **options)
    torch.manual_seed(5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for file in ("model.safetensors", "ema.safetensors"):
        checkpoints = [load_file(tmp_path / run / "checkpoint-4" / file) for run in ("whole", "run")]
        assert same(*checkpoints)
    resumed.save_model()
    resumed.ema.save(tmp_path / "run")
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    averaged = release_student(tmp_path / "run", weights="ema")
    loaded = load_file(averaged / "model.safetensors")
    raw = load_file(release_student(tmp_path / "run", tmp_path / "raw") / "model.safetensors")
    assert loaded.keys() == raw.keys() and not same(loaded, raw)


def test_the_best_adapters_are_loaded_at_the_end(tmp_path):
    args = arguments(tmp_path, **BEST | {"metric_for_best_model": "accuracy", "ema_decay": 0.5, "learning_rate": 0.1})
    data = [row | {"labels": row["labels"] % 3} for row in rows()]
    trainer = Rigged(lora_model("timm-vit"), args, data, eval_dataset=data[:4], compute_metrics=lambda _: {})
    trainer.train()
    checkpoint = trainer.state.best_model_checkpoint
    best = AlignedImageClassification.from_pretrained(checkpoint)
    assert trainer.state.best_global_step == 2 and same(trainer.model.state_dict(), best.state_dict())
    assert same(trainer.ema.averaged.state_dict(), load_file(Path(checkpoint) / "ema.safetensors"))


@pytest.mark.parametrize("name", ["timm-resnet", "vit", *slow("timm-vit")])
def test_recomputed_gradients_are_the_same(tmp_path, name):
    changes = []
    for recompute in (False, True):
        options = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
        trainer = trainer_of(tmp_path, name, activation_checkpointing=recompute, **options)
        trainer.train()
        changes.append(trainer.model.state_dict())
    start = trainer_of(tmp_path, name).model.state_dict()
    for key, tensor in changes[0].items():
        torch.testing.assert_close(changes[1][key], tensor, rtol=1e-5, atol=1e-7, msg=key)
    assert any(".lora_B." in key and not torch.equal(tensor, start[key]) for key, tensor in changes[1].items())


@pytest.mark.parametrize("name", ["timm-vit", "vit", "timm-convnext", "swin"])
def test_an_adapter_learns_as_fast_as_its_layer_would(tmp_path, name):
    torch.manual_seed(0)
    plain = aligned_model(name)
    expected, found = named_factors(plain), named_factors(lora_model(name))
    adapters = {key for key in found if is_adapter(key)}
    assert adapters
    for key in found:
        layer = key.split(".lora_")[0] + ".weight" if key in adapters else key
        assert found[key] == pytest.approx(expected[layer]), key
    trainer = trainer_of(tmp_path, name, layer_decay=0.5, weight_decay=0.1, weight_decay_on="matrices")
    groups = trainer.create_optimizer().param_groups
    in_groups = [parameter for group in groups for parameter in group["params"]]
    assert len(in_groups) == len({p for p in trainer.model.parameters() if p.requires_grad}) == len(set(in_groups))
    decayed = {parameter for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert all(p in decayed for key, p in trainer.model.named_parameters() if is_adapter(key))


def named_factors(model) -> dict[str, float]:
    factors = layer_factors(model, 0.5)
    return {name: factors[parameter] for name, parameter in model.named_parameters() if parameter in factors}


def test_the_summary_counts_what_is_trained(tmp_path):
    trainer = trainer_of(tmp_path, "timm-vit", lora={"r": 3})
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    base = sum(p.numel() for p in merged_student(trainer.model).parameters())

    class Captioned(list):
        caption_weight, labels = np.ones(1), np.zeros(1)

    first, second, *_ = describe_training("tiny", trainer.model, Captioned([1]), trainer.args)
    assert first == f"tiny, {base:,} parameters"
    assert second == f"LoRA of rank 3 in 8 layers; {trained:,} trainable parameters, with classifier and projector"


# --- An adapter alone ------------------------------------------------------------------------------------------------

# Loads adapters beside their bases where g4i_hf cannot be imported, and saves logits.
LOADER = """
import sys
sys.modules["g4i_hf"] = None
import json, torch
from pathlib import Path
from peft import PeftModel
from transformers import AutoImageProcessor, AutoModelForImageClassification

pixels = torch.load(sys.argv[1], weights_only=True)
for folder in map(Path, sys.argv[2:]):
    config = json.loads((folder / "adapter_config.json").read_text())
    id2label = {int(i): name for i, name in json.loads((folder / "id2label.json").read_text()).items()}
    fitting = {"num_labels": len(id2label), "ignore_mismatched_sizes": True}
    where = {"revision": config["revision"] or "main"}
    base = AutoModelForImageClassification.from_pretrained(config["base_model_name_or_path"], **where, **fitting)
    model = PeftModel.from_pretrained(base, folder).eval()
    at_once = AutoModelForImageClassification.from_pretrained(folder, id2label=id2label, **fitting).eval()
    found = {"id2label": at_once.config.id2label}
    with torch.no_grad():
        found |= {"peft": model(pixels).logits, "transformers": at_once(pixels).logits}
        if base.config.model_type == "timm_wrapper":
            plain = model.merge_and_unload().timm_model
            found |= {"timm": plain(pixels), "timm_class": type(plain).__module__}
    torch.save(found, folder / "found.pt")
"""


@pytest.fixture(scope="module")
def found_beside_its_base(tmp_path_factory):
    """name -> (model, folder of its adapter, what a process without g4i_hf found there); one process a group."""

    class Found(dict):
        def __missing__(self, name: str):
            root = tmp_path_factory.mktemp("adapters")
            torch.save(PIXELS, root / "pixels.pt")
            group = [other for other in (FAST if name in FAST else OTHERS) if other != NO_PEFT_OF_ITS_OWN]
            models = {other: with_learned_adapters(lora_model(other)) for other in group}
            for other, model in models.items():
                save_adapter(model, root / other)
            command = [sys.executable, "-c", LOADER, root / "pixels.pt", *(root / other for other in models)]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            for other, model in models.items():
                self[other] = (model, root / other, torch.load(root / other / "found.pt", weights_only=True))
            return self[name]

    return Found()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in [*FAST, *OTHERS] if name != NO_PEFT_OF_ITS_OWN])
def test_an_adapter_beside_its_base_is_the_student(found_beside_its_base, name):
    model, folder, found = found_beside_its_base[name]
    expected = logits(model)
    for library in ("peft", "transformers", *(["timm"] if name.startswith("timm-") else [])):
        torch.testing.assert_close(found[library], expected, rtol=1e-4, atol=1e-5)
    assert found["id2label"] == model.config.id2label
    assert found.get("timm_class", "timm.models").startswith("timm.models")
    files = {path.name for path in folder.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "id2label.json", "found.pt"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"me/{name}" and config["peft_type"] == "LORA"
    assert config["target_modules"] == model.config.lora["target_modules"]
    assert not any("default" in key or "base_layer" in key for key in load_file(folder / "adapter_model.safetensors"))


def test_a_student_that_peft_itself_cannot_adapt_is_released_merged(tmp_path):
    model = with_learned_adapters(lora_model("mobilenet_v2"))
    with pytest.raises(ValueError, match="peft cannot use this adapter with me/mobilenet_v2: .*stride.*merged"):
        save_adapter(model, tmp_path)
    torch.testing.assert_close(logits(merged_student(model)), logits(model), rtol=1e-4, atol=1e-3)


def options_of(**changes) -> StudentArguments:
    return StudentArguments(**{"student": on_hub("vit"), "pretrained": True, "use_peft": True, "lora_r": 4} | changes)


def built_model(student: StudentArguments) -> AlignedImageClassification:
    return build_student(student, AugmentationArguments(image_size=48), 42, {0: "x", 1: "y"}, 12).model


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", None])
def test_an_adapter_names_the_commit_of_its_base(tmp_path, name):
    """timm's names stand for a repository too; its settings, here of a small network, are part of the base."""
    base = on_hub("timm-resnet", "timm/resnet18.a1_in1k") if name else on_hub("vit")
    student = options_of(student=name or base, student_args=STUDENTS["timm-resnet"][1] if name else None)
    model = built_model(student)
    assert (model.config.lora["base_model_name_or_path"], model.config.lora["revision"]) == (base, COMMIT)
    save_adapter(with_learned_adapters(model), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (base, COMMIT)


@pytest.mark.parametrize(
    "name, timm_name, changes, message",
    [
        # Position embeddings of another size
        ("timm-vit", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", {"img_size": 64}, "peft cannot use this adapter"),
        # The same weights in another network
        ("timm-resnet", "resnet18.a1_in1k", {"act_layer": "gelu"}, "other logits than the student"),
    ],
)
def test_an_adapter_of_a_base_that_was_changed_is_refused(tmp_path, name, timm_name, changes, message):
    on_hub(name, f"timm/{timm_name}")
    model = AlignedImageClassification.from_student(
        timm_name,
        id2label={0: "x", 1: "y"},
        text_embed_dim=4,
        pretrained=True,
        student_args=STUDENTS[name][1] | changes,
        image_size=changes.get("img_size", 48),
        lora={"r": 2, "lora_alpha": 2, "lora_dropout": 0.0},
    )
    with pytest.raises(ValueError, match=f"{message}.*--lora merged"):
        save_adapter(model, tmp_path)


def test_a_local_base_is_not_released_as_the_base_of_an_adapter(tmp_path):
    local = Path(HF_HUB_CACHE) / f"models--{on_hub('vit').replace('/', '--')}" / "snapshots" / COMMIT
    model = built_model(options_of(student=str(local)))
    assert model.config.lora["base_model_name_or_path"] is None
    with pytest.raises(ValueError, match=r"checkpoint in a local folder.*--lora merged.*Hub id"):
        save_adapter(model, tmp_path / "adapter")
    with pytest.raises(ValueError, match="local folder"):
        save_adapter(model, tmp_path / "adapter", str(local))
    with pytest.raises(ValueError, match="nobody/nothing cannot be loaded, and an adapter is checked with it"):
        save_adapter(model, tmp_path / "adapter", "nobody/nothing")
    save_adapter(model, tmp_path / "adapter", "me/vit")
    assert str(local) not in (tmp_path / "adapter" / "adapter_config.json").read_text()


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pretrained": False}, "use_peft adapts pretrained weights, but pretrained is false.*Set pretrained to true"),
        ({"use_peft": False, "lora_target_modules": ["qkv"]}, "lora_target_modules is set, but use_peft is false"),
        ({"lora_r": 0}, "lora_r is 0; it must be at least 1"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_options_that_make_no_sense_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        options_of(**changes)
    assert options_of(use_peft=False, lora_r=4).lora() is None


def test_a_frozen_backbone_with_adapters_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="LoRA adapters, and freeze_backbone would freeze them"):
        trainer_of(tmp_path, "vit", freeze_backbone=True)


def test_lora_needs_a_pretrained_student_and_known_fields():
    with pytest.raises(ValueError, match="LoRA adapts a pretrained student"):
        aligned_model("vit", lora={"r": 4, "lora_alpha": 8, "lora_dropout": 0.0})
    with pytest.raises(ValueError, match="lora has the fields alpha, r; it needs r, lora_alpha"):
        AlignedImageClassificationConfig(lora={"r": 4, "alpha": 3})
    with pytest.raises(ValueError, match="has no LoRA adapters"):
        save_adapter(aligned_model("vit"), "nowhere")


def test_layers_that_a_student_does_not_have_are_named(tmp_path):
    model = lora_model("vit")
    config = model.config.to_dict()
    config["lora"]["target_modules"] = ["vit.layers.7.mlp.fc1"]
    with pytest.raises(ValueError, match="vit.layers.7.mlp.fc1.* not found in the base model"):
        AlignedImageClassification(AlignedImageClassificationConfig.from_dict(config))


def test_without_peft_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[lora\]' in a clone"):
        lora_model("vit")


# --- The scripts -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_with_adapters_is_planned_trained_evaluated_and_released(tmp_path):
    config = ["--config", "recipes/emoji_styles/train.yaml", "--student", on_hub("timm-vit"), "--student_args", "{}"]
    config += [
        "--pretrained",
        "true",
        "--use_peft",
        "true",
        "--image_size",
        "48",
        "--max_steps",
        "3",
        "--use_cpu",
        "true",
    ]
    train = [sys.executable, "recipes/train.py", *config, "--output_dir", "run", "--use_cpu", "true"]
    printed = launch(tmp_path, *train, "--freeze_backbone", "true", fails=True)
    assert "use_peft and freeze_backbone are both true" in printed and not (tmp_path / "run").exists()
    printed = launch(tmp_path, *train, "--dry_run", "true")
    assert "LoRA of rank 16 in 8 layers" in printed and not (tmp_path / "run").exists()
    launch(tmp_path, *train)
    launch(tmp_path, sys.executable, "recipes/evaluate.py", "--run", "run")
    release = [sys.executable, "recipes/release.py", "--run", "run", "--student_dir"]
    launch(tmp_path, *release, "merged")
    launch(tmp_path, *release, "adapter", "--lora", "adapter")
    for plain in ("merged", "merged/aligned"):
        assert not any(is_adapter(key) for key in load_file(tmp_path / plain / "model.safetensors"))
    base = AutoModelForImageClassification.from_pretrained("me/timm-vit", num_labels=58, ignore_mismatched_sizes=True)
    expected = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    found = PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(logits(found), logits(expected), rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["revision"] == COMMIT
