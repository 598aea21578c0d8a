"""The aligned model: its feature, its initialisation, its round trips, and the student it holds."""

import pytest
import torch
from students import EACH, ID2LABEL, STUDENTS, TWO_HEADS, aligned_model, lora_model
from tiny_training import rows, same, train
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from g4i_hf import AlignedImageClassification
from g4i_hf.hub import release_student, save_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor, pretrained_processor
from g4i_hf.modeling.student import classifier_layers, is_adapter, plain_student

PIXELS = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", EACH)
def test_feature_is_what_enters_the_classifier(name):
    """
    logits = classifier(feature), given features too; of two heads, the feature is the mean of both inputs. And every
    parameter that is trained takes part, as DDP, told that none is unused, would otherwise wait for ever.
    """
    model, inputs, features = aligned_model(name).train(), [], []
    with torch.no_grad():
        for parameter in model.student.parameters():  # fresh ones can be zero, and both heads would see the same
            parameter.add_(0.02 * torch.randn(parameter.shape))
    model.freeze_unused()
    layers = classifier_layers(model.student)
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model.projector.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    output = model(PIXELS)
    assert output.image_embeds.shape == (4, 12)
    torch.testing.assert_close(output.image_embeds.norm(dim=1), torch.ones(4))
    assert len(layers) == len(inputs) == (2 if name in TWO_HEADS else 1)
    torch.testing.assert_close(features[0], torch.stack([each.flatten(1) for each in inputs]).mean(0))
    if name in TWO_HEADS:
        assert not torch.equal(*inputs)
    else:
        feature = features[0][:, :, None, None] if isinstance(layers[0], nn.Conv2d) else features[0]
        torch.testing.assert_close(layers[0](feature).flatten(1), output.logits)
    (output.logits.square().sum() + output.image_embeds[:, 0].sum()).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    with torch.no_grad():
        whole = model.eval()(PIXELS, output_image_embeds=True, output_features=True)
        assert model.takes_features or name in TWO_HEADS  # or a norm within the last layer
        if model.takes_features:
            again = model(features=whole.features, output_image_embeds=True)
            torch.testing.assert_close(again.logits, whole.logits)
            torch.testing.assert_close(again.image_embeds, whole.image_embeds)


@pytest.mark.parametrize("name", ["vit", "timm-resnet"])
def test_hidden_states_are_those_of_the_student(name):
    model = aligned_model(name).eval()
    with torch.no_grad():
        found, expected = (each(PIXELS, output_hidden_states=True) for each in (model, model.student))
        assert model(PIXELS).hidden_states is None
    assert len(found.hidden_states) == len(expected.hidden_states) > 1
    assert all(map(torch.equal, found.hidden_states, expected.hidden_states))
    assert torch.equal(found.logits, expected.logits)


def test_projector_leaves_the_random_state_alone():
    torch.manual_seed(0)
    aligned_model("timm-resnet", projector_hidden_size=1)
    after_small = torch.rand(1)
    torch.manual_seed(0)
    aligned_model("timm-resnet", projector_hidden_size=100, projector_norm="batch")
    assert torch.equal(after_small, torch.rand(1))


@pytest.mark.parametrize("name", ["timm-efficientnet", "resnet", "timm-convnext"])
def test_batch_norms_of_the_student_alone_keep_their_statistics_and_train_otherwise(name):
    """Norms of timm, of transformers across processes, and none; the projector is new and learns its own."""
    model = aligned_model(name, projector_norm="batch")
    if name == "resnet":
        model.student = nn.SyncBatchNorm.convert_sync_batchnorm(model.student)
    model.freeze_norm_statistics()
    model.train()
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    model(PIXELS).image_embeds[:, 0].sum().backward()
    changed = {key for key, buffer in model.named_buffers() if not torch.equal(buffer, before[key])}
    assert changed == {f"projector.layers.norm.{key}" for key, _ in model.projector.layers.norm.named_buffers()}
    for key, module in model.named_modules():
        is_norm = hasattr(module, "running_var") and key.startswith("student")
        assert module.training != is_norm and (not is_norm or module.weight.grad is not None), key


KINDS = [
    (AlignedImageClassification, {"projector_hidden_size": 5}),
    (AutoModel, {"projector_norm": "batch"}),
    (AutoModelForImageClassification, {"projector_norm": "layer", "logit_scale_init": 1.0, "logit_bias_init": -3.0}),
]


@pytest.mark.parametrize(("auto_class", "kind"), KINDS)
def test_round_trip_keeps_every_tensor_and_the_logits(tmp_path, auto_class, kind):
    model = aligned_model("timm-swin", **kind).eval()
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    loaded = auto_class.from_pretrained(tmp_path).eval()
    assert type(loaded) is AlignedImageClassification
    assert loaded.config.id2label == ID2LABEL and loaded.config.projector_norm == model.config.projector_norm
    expected = dict(model.named_buffers()) | model.state_dict()  # some buffers are not saved but made anew
    actual = dict(loaded.named_buffers()) | loaded.state_dict()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    with torch.no_grad():
        torch.testing.assert_close(loaded(PIXELS).logits, model(PIXELS).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "timm-resnet"])
def test_another_number_of_classes_gives_a_new_head(tmp_path, name):
    """As transformers' own models, and only if sizes may differ; a student of timm has the names too."""
    aligned_model(name).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AlignedImageClassification.from_pretrained(tmp_path, num_labels=3)
    config = AutoConfig.from_pretrained(tmp_path)
    config.id2label = {0: "x", 1: "y", 2: "z"}
    for given in ({"num_labels": 3}, {"config": config}):
        model = AlignedImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **given).eval()
        with torch.no_grad():
            assert model(PIXELS).logits.shape == (4, 3) and model.num_labels == 3
        assert model.student.config.id2label == model.config.id2label
        assert classifier_layers(model.student)[0].weight.std() > 1e-3
    save_student(model, tmp_path / "student")
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert student.config.id2label == config.id2label and student(PIXELS).logits.shape == (4, 3)


def test_a_plain_student_is_not_loaded_as_an_aligned_model_of_random_weights(tmp_path):
    save_student(aligned_model("timm-resnet"), tmp_path)
    with pytest.raises(ValueError, match="plain timm_wrapper model.*AutoModelForImageClassification.*folder aligned"):
        AlignedImageClassification.from_pretrained(tmp_path)


def test_without_text_it_is_an_image_classifier():
    """Image embeddings come while training or on request; the loss is the cross entropy of the labelled rows."""
    model, labels = aligned_model("vit"), torch.tensor([0, 4, -100, 2])
    assert model.train()(PIXELS).image_embeds is not None
    output = model.eval()(PIXELS, labels=labels)
    assert output.image_embeds is None and model(PIXELS, output_image_embeds=True).image_embeds is not None
    expected = nn.functional.cross_entropy(output.logits[[0, 1, 3]], labels[[0, 1, 3]])
    torch.testing.assert_close(output.loss, expected)
    assert isinstance(model(PIXELS, labels=labels, return_dict=False), tuple)


def test_image_settings_are_those_of_the_student_and_its_processor(tmp_path):
    build = {"id2label": ID2LABEL, "text_embed_dim": 4, "image_settings": {"crop_pct": 0.875}}
    unsized = AlignedImageClassification.from_student("resnet10t", **build).config.student_config
    assert unsized.pretrained_cfg["input_size"] == [3, 176, 176]
    sized = AlignedImageClassification.from_student("resnet10t", image_size=64, **build).config.student_config
    generic_processor(ImageSettings.of(sized, None)).save_pretrained(tmp_path)
    found = ImageSettings.from_processor(pretrained_processor(str(tmp_path), None, {"crop_pct": 0.875}))
    assert (found.size, found.interpolation) == (64, "bicubic") and found.crop_pct == pytest.approx(0.875, abs=0.01)
    for wanted, said in (
        ({"crop_pct": 1.0}, "crop_pct is 1.0, but .* has 0"),
        ({"image_size": 32}, "32, but .* has 64"),
    ):
        with pytest.raises(ValueError, match=said):
            pretrained_processor(str(tmp_path), None, wanted)


# --- LoRA: which layers are adapted, what learns, and that adapters come back and are merged -------------------------

# Fused and separate attention, windows, and linear layers between convolutions, of timm and of transformers
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("timm-swin", "swin", "beit")]
ALL = ["timm-vit", "convnext", "vit", *SLOW]


def logits(model) -> torch.Tensor:
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()  # files give unaligned tensors, and other last bits
    with torch.no_grad():
        return model.eval()(PIXELS).logits


@pytest.mark.parametrize("name", ALL)
def test_steps_move_nothing_but_adapters_of_every_linear_layer_and_heads(tmp_path, name):
    """And the run comes back, with adapters and merged."""
    torch.manual_seed(0)
    model = lora_model(name)
    linear = {key for key, layer in aligned_model(name).student.named_modules() if type(layer) is nn.Linear}
    in_heads = set(map(id, classifier_layers(model.student)))
    heads = {key for key, layer in model.student.named_modules() if id(layer) in in_heads}
    assert heads and heads <= linear and set(model.config.lora["target_modules"]) == linear - heads
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    options = {"max_steps": 2, "learning_rate": 0.05, "per_device_train_batch_size": 4}
    train(tmp_path, model, rows(8, classes=3), **options)
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    others = ("projector.", *(f"student.{head}." for head in heads))
    assert all(is_adapter(key) or key.startswith(others) for key in moved)
    assert {key for key in before if ".lora_B." in key or key.startswith("projector.")} <= moved
    model.save_pretrained(tmp_path / "run")
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    expected = logits(model)
    assert torch.equal(logits(AlignedImageClassification.from_pretrained(tmp_path / "run")), expected)
    merged = plain_student(model)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-3)
    assert set(merged.state_dict()) == set(aligned_model(name).student.state_dict())
    release_student(tmp_path / "run", tmp_path / "student")
    build = {"id2label": model.config.id2label, "text_embed_dim": 4, "pretrained": True}
    released = AlignedImageClassification.from_student(str(tmp_path / "student"), **build).student
    assert same(released.state_dict(), merged.state_dict())


TINY, TINY_SWIN = STUDENTS["timm-vit"][1], STUDENTS["timm-swin"][1]
READ_NOT_CALLED = {"beit_base_patch16_224": TINY, "eva_large_patch14_196": TINY | {"patch_size": 16}}
READ_NOT_CALLED |= {"swinv2_tiny_window8_256": TINY_SWIN}


@pytest.mark.parametrize("name", READ_NOT_CALLED)
def test_every_adapter_learns_where_timm_reads_a_weight_without_calling_its_layer(name, tmp_path):
    sizes = {"id2label": {0: "ant", 1: "bee"}, "text_embed_dim": 4, "image_size": 48}
    plain = AlignedImageClassification.from_student(name, student_args=READ_NOT_CALLED[name], **sizes)
    for parameter in plain.student.parameters():  # fresh ones have branches that are multiplied by zero
        parameter.data += 0.02 * torch.randn(parameter.shape)
    save_student(plain, tmp_path)
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    model = AlignedImageClassification.from_student(str(tmp_path), pretrained=True, lora=lora, **sizes)
    torch.testing.assert_close(logits(model), logits(plain))
    model(pixel_values=PIXELS, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    found = {key: parameter.grad for key, parameter in model.named_parameters() if ".lora_B." in key}
    assert any(".qkv." in key for key in found)
    assert not [key for key, grad in found.items() if grad is None or not grad.any()]


def test_adapters_of_a_student_without_linear_layers_are_an_error():
    with pytest.raises(ValueError, match="no linear layers but its classifier: leave use_peft out"):
        lora_model("timm-resnet")
