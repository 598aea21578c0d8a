"""The aligned model: its feature, its initialisation, its round trips."""

import pytest
import timm
import torch
from students import ID2LABEL, STUDENTS, TWO_HEADS, aligned_model
from torch import nn
from transformers import AutoModel, AutoModelForImageClassification, TrainingArguments, ViTConfig

from g4i_hf import AlignedImageClassification, AlignedImageClassificationConfig
from g4i_hf.modeling.processing import ImageSettings, generic_processor, pretrained_processor
from g4i_hf.modeling.student import classifier_layers

PIXELS = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", STUDENTS)
def test_feature_is_what_enters_the_classifier(name):
    """logits = classifier(feature), for two-headed students the mean of both classifiers."""
    model = aligned_model(name).eval()
    seen = []
    model.projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        output = model(PIXELS, output_image_embeds=True)
    layers = classifier_layers(model.student)
    assert len(layers) == (2 if name in TWO_HEADS else 1)
    assert output.image_embeds.shape == (4, 12)
    torch.testing.assert_close(output.image_embeds.norm(dim=1), torch.ones(4))
    if name not in TWO_HEADS:
        feature = seen[0]
        if isinstance(layers[0], nn.Conv2d):
            feature = feature[:, :, None, None]
        torch.testing.assert_close(layers[0](feature).flatten(1), output.logits)


@pytest.mark.parametrize("name", sorted(TWO_HEADS))
def test_feature_of_two_heads_is_the_mean_of_their_inputs(name):
    model = aligned_model(name).eval()
    for parameter in model.student.parameters():  # fresh tokens are zero, and both heads would see the same
        nn.init.normal_(parameter, std=0.2)
    inputs, features = [], []
    for layer in classifier_layers(model.student):
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model.projector.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    with torch.no_grad():
        model(PIXELS, output_image_embeds=True)
    assert not torch.equal(inputs[0], inputs[1])
    torch.testing.assert_close(features[0], (inputs[0] + inputs[1]) / 2)


@pytest.mark.parametrize("name", [name for name in STUDENTS if name.startswith("timm-")])
def test_timm_student_from_scratch_has_timms_own_initialisation(name):
    architecture, student_args = STUDENTS[name]
    torch.manual_seed(3)
    expected = timm.create_model(architecture, num_classes=len(ID2LABEL), **(student_args or {})).state_dict()
    torch.manual_seed(3)
    student = aligned_model(name).student.timm_model.state_dict()
    assert list(student) == list(expected)
    assert all(torch.equal(student[key], expected[key]) for key in expected)


def test_projector_leaves_the_random_state_alone():
    torch.manual_seed(0)
    aligned_model("timm-resnet", projector_type="linear")
    after_linear = torch.rand(1)
    torch.manual_seed(0)
    aligned_model("timm-resnet", projector_hidden_size=100, projector_norm="batch")
    assert torch.equal(after_linear, torch.rand(1))


@pytest.mark.parametrize(
    "kind", [{"projector_type": "linear"}, {"projector_norm": "batch"}, {"projector_norm": "layer"}]
)
def test_round_trip_keeps_every_tensor_and_the_logits(tmp_path, kind):
    model = aligned_model("timm-swin", **kind).eval()
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    for auto_class in (AlignedImageClassification, AutoModel, AutoModelForImageClassification):
        loaded = auto_class.from_pretrained(tmp_path).eval()
        assert type(loaded) is AlignedImageClassification
        assert loaded.config.id2label == ID2LABEL and loaded.config.projector_norm == model.config.projector_norm
        expected = dict(model.named_buffers()) | model.state_dict()  # some buffers are not saved but made anew
        actual = dict(loaded.named_buffers()) | loaded.state_dict()
        assert all(torch.equal(actual[key], expected[key]) for key in expected)
        with torch.no_grad():
            torch.testing.assert_close(loaded(PIXELS).logits, model(PIXELS).logits, rtol=0, atol=1e-6)


def test_image_embeds_come_while_training_or_on_request():
    model = aligned_model("vit")
    assert model.train()(PIXELS).image_embeds is not None
    assert model.eval()(PIXELS).image_embeds is None
    assert model(PIXELS, output_image_embeds=True).image_embeds is not None
    assert isinstance(model(PIXELS, labels=torch.zeros(4, dtype=torch.long), return_dict=False), tuple)


def test_loss_is_the_cross_entropy_and_ignores_unlabelled_rows():
    model = aligned_model("vit").eval()
    labels = torch.tensor([0, 4, -100, 2])
    output = model(PIXELS, labels=labels)
    expected = nn.functional.cross_entropy(output.logits[[0, 1, 3]], labels[[0, 1, 3]])
    torch.testing.assert_close(output.loss, expected)


def test_stock_trainer_takes_the_model(tmp_path):
    from transformers import Trainer

    rows = [{"pixel_values": pixels, "labels": label} for label, pixels in enumerate(PIXELS)]
    args = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no")
    trainer = Trainer(aligned_model("vit"), args, train_dataset=rows, eval_dataset=rows)
    assert trainer.train().global_step == 1
    assert trainer.predict(rows).predictions.shape == (4, 5)  # image_embeds are not gathered


def test_a_student_used_by_itself_keeps_no_tensors():
    model = aligned_model("timm-resnet")
    model.student(pixel_values=PIXELS)
    assert model._forward_pass.classifier_inputs == []


@pytest.mark.parametrize(
    "name, value", [("projector_type", "conv"), ("projector_norm", "group"), ("text_embed_dim", 0)]
)
def test_configuration_names_the_wrong_field(name, value):
    with pytest.raises(ValueError, match=name):
        AlignedImageClassificationConfig(ViTConfig(), **{name: value})


def test_number_of_classes_comes_from_the_data_alone():
    with pytest.raises(ValueError, match="num_classes"):
        AlignedImageClassification.from_student(
            "resnet18", id2label=ID2LABEL, text_embed_dim=4, student_args={"num_classes": 7}
        )


def test_pretrained_checkpoint_gets_a_head_that_fits(tmp_path):
    """The body's weights are the checkpoint's; the head has our classes."""
    source = aligned_model("vit").student
    source.save_pretrained(tmp_path)
    model = AlignedImageClassification.from_student(
        str(tmp_path), id2label={0: "x", 1: "y"}, text_embed_dim=4, pretrained=True
    )
    assert model.student.classifier.out_features == 2 and model.config.num_labels == 2
    for key, tensor in source.state_dict().items():
        if not key.startswith("classifier"):
            assert torch.equal(model.student.state_dict()[key], tensor)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "vit"])
def test_a_new_student_is_built_for_its_image_size(name):
    """Position embeddings fit it; a student without any takes it as it is."""
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2} if name == "vit" else {}
    small = {"embed_dim": 32, "depth": 1, "num_heads": 2} if name.startswith("vit_") else small
    model = AlignedImageClassification.from_student(
        name, id2label=ID2LABEL, text_embed_dim=4, student_args=small, image_size=64
    )
    assert model.eval()(torch.zeros(1, 3, 64, 64)).logits.shape == (1, len(ID2LABEL))


def test_chosen_resizing_is_kept_with_a_timm_student():
    model = AlignedImageClassification.from_student(
        "resnet10t", id2label=ID2LABEL, text_embed_dim=4, image_size=64, image_settings={"crop_pct": 0.875}
    )
    settings = ImageSettings.of(model.config.student_config, None)
    assert (settings.size, settings.crop_pct, settings.interpolation) == (64, 0.875, "bicubic")


def test_a_pretrained_processor_is_not_silently_another_one(tmp_path):
    generic_processor(ImageSettings(48, interpolation="bilinear")).save_pretrained(tmp_path)
    for wanted in (None, {"image_size": None}, {"image_size": 48, "interpolation": "bilinear"}):
        assert ImageSettings.from_processor(pretrained_processor(str(tmp_path), None, wanted)).size == 48
    with pytest.raises(ValueError, match="image_size is 64, but .* has 48. Leave image_size out"):
        pretrained_processor(str(tmp_path), None, {"image_size": 64})


def test_arguments_that_a_student_does_not_take_are_named():
    with pytest.raises(ValueError, match="student_args .*'layer'.*unexpected keyword"):
        AlignedImageClassification.from_student(
            "resnet18", id2label=ID2LABEL, text_embed_dim=4, student_args={"layer": [1]}
        )
