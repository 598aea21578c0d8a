"""What training does with the options of the alignment: text bank, learned logits, masks, course, several captions."""

import copy
import math

import numpy as np
import pytest
import reference
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from students import aligned_model
from test_trainer import ONE_STEP, TEXT_DIM, arguments, first_log, one_step, rows, train
from transformers import Trainer, TrainerState

from g4i_hf import AlignedImageClassification
from g4i_hf.data.dataset import AlignmentCollator, CaptionedImages, Draw, GlobalBatchSampler
from g4i_hf.data.texts import numbered
from g4i_hf.losses import OBJECTIVES, WITH_TEMPERATURE
from g4i_hf.training import AlignmentTrainer
from g4i_hf.training.alignment_term import TextBank
from g4i_hf.training.optimization import class_weights_of


@pytest.fixture
def vit() -> AlignedImageClassification:
    torch.manual_seed(1)
    return aligned_model("vit", TEXT_DIM).double()


# --- Learned temperature ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", sorted(WITH_TEMPERATURE))
def test_learned_logits_start_at_the_options_and_step_along_their_slope(tmp_path, vit, objective):
    data = rows(6, torch.float64)
    options = {"align_loss": objective, "align_weight": 0.7, "per_device_train_batch_size": 6}
    options |= {"align_learn_temperature": True, "align_temperature": 0.4, "align_logit_bias": -2.0}
    trainer, _ = one_step(tmp_path, vit, data, **options)
    with torch.no_grad():
        batch = AlignmentCollator()(data)
        embeds = vit.train()(batch["pixel_values"]).image_embeds.numpy()
    alignment = reference.Batch(
        embeds,
        batch["text_embeds"].double().numpy(),
        batch["caption_weight"].double().numpy(),
        [np.arange(6)[:, None]],
    )

    def loss(log_scale: float, bias: float) -> float:
        settings = reference.Settings(math.exp(-log_scale), bias, target_temperature=0.1)
        return 0.7 * reference.OBJECTIVES[objective](alignment, settings) / 6

    start, step = -math.log(0.4), 1e-5
    slope = (loss(start + step, -2.0) - loss(start - step, -2.0)) / (2 * step)
    moved = trainer.model.logit_scale.item() - start
    assert moved == pytest.approx(-ONE_STEP["learning_rate"] * slope, rel=1e-5)
    assert first_log(trainer)["logit_scale"] == pytest.approx(1 / 0.4)
    if objective == "siglip":
        slope = (loss(start, -2.0 + step) - loss(start, -2.0 - step)) / (2 * step)
        assert trainer.model.logit_bias.item() + 2.0 == pytest.approx(-ONE_STEP["learning_rate"] * slope, rel=1e-5)
    else:
        assert not hasattr(trainer.model, "logit_bias")


def test_siglip_learns_its_logits_unless_told_otherwise_and_a_baseline_has_none(tmp_path, vit):
    def model_of(**options) -> AlignedImageClassification:
        return AlignmentTrainer(copy.deepcopy(vit), arguments(tmp_path, **options), train_dataset=rows(4)).model

    assert hasattr(model_of(align_loss="siglip"), "logit_bias")
    assert not hasattr(model_of(align_loss="siglip", align_learn_temperature=False), "logit_scale")
    assert not hasattr(model_of(align_loss="clip"), "logit_scale")
    assert not hasattr(model_of(align_loss="siglip", align_weight=0.0), "logit_scale")


def test_learned_logits_have_no_decay_survive_saving_and_are_dropped_at_release(tmp_path, vit):
    from g4i_hf.hub import save_student

    trainer = AlignmentTrainer(
        vit, arguments(tmp_path, align_loss="siglip", weight_decay=0.1, weight_decay_on="all"), train_dataset=rows(4)
    )
    groups = trainer.create_optimizer().param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(trainer.model.logit_scale)] == decays[id(trainer.model.logit_bias)] == 0
    trainer.model.logit_bias.data.fill_(-3.5)
    trainer.model.save_pretrained(tmp_path / "run")
    loaded = AlignedImageClassification.from_pretrained(tmp_path / "run")
    assert loaded.logit_bias.item() == -3.5 and loaded.logit_scale.item() == pytest.approx(-math.log(0.2))
    save_student(loaded, tmp_path / "student")
    from safetensors.torch import load_file

    assert not [name for name in load_file(tmp_path / "student" / "model.safetensors") if "logit" in name]


def test_scale_is_held_at_its_limit_but_can_come_back(vit):
    vit.learn_logits(temperature=0.001)
    output = vit.train()(torch.randn(2, 3, 48, 48, dtype=torch.float64))
    output.logit_scale.backward()
    assert output.logit_scale.item() == pytest.approx(100) and vit.logit_scale.grad.item() > 0


# --- Text bank -------------------------------------------------------------------------------------------------------


def bank_of(size: int, total: int = 50) -> TextBank:
    embeds = np.random.default_rng(0).normal(size=(total, 4)).astype(np.float16)
    keys = np.arange(total)
    texts = {"embeds": embeds, "text_keys": keys, "caption_keys": keys[:, None], "labels": keys % 3}
    return TextBank(texts, size, seed=3)


def draw(bank: TextBank, step: int, micro_step: int = 0) -> list[int]:
    return bank.draw(step, micro_step, by_class=True, device=torch.device("cpu")).text_keys.tolist()


def test_bank_draws_other_texts_every_batch_and_the_same_again():
    bank = bank_of(10)
    draws = [draw(bank, step, micro_step) for step in range(3) for micro_step in range(2)]
    assert all(len(set(found)) == 10 for found in draws)
    assert len(set(map(tuple, draws))) == 6
    assert draw(bank_of(10), 1, 1) == draws[3]
    assert draw(bank_of(-1), 0) == list(range(50)) == sorted(draw(bank_of(1000), 0))
    drawn = bank.draw(0, 0, by_class=True, device=torch.device("cpu"))
    assert [key.tolist() for key in drawn.keys] == [[[-1]] * 10, [[k] for k in draws[0]], [[k % 3] for k in draws[0]]]
    assert len(bank.draw(0, 0, by_class=False, device=torch.device("cpu")).keys) == 2


class WithBank(list):
    """Rows as a data set that knows all its texts."""

    def text_bank(self) -> dict[str, np.ndarray]:
        keys = np.array([row["text_keys"] for row in self])
        labels = np.array([row["labels"] for row in self])
        embeds = np.stack([row["text_embeds"] for row in self]).astype(np.float16)
        return {"embeds": embeds, "text_keys": keys, "caption_keys": keys[:, None], "labels": labels}


def test_every_micro_batch_draws_from_the_bank_anew(tmp_path, vit, monkeypatch):
    drawn = []
    original = TextBank.draw
    monkeypatch.setattr(TextBank, "draw", lambda self, *args: drawn.append(args[:2]) or original(self, *args))
    options = {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    train(tmp_path, vit, WithBank(rows(8, torch.float64)), align_text_bank=3, **options)
    assert drawn == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_bank_of_all_texts_makes_a_small_batch_know_every_negative(tmp_path, vit):
    data = WithBank(rows(8, torch.float64))
    options = {"align_loss": "infonce", "align_weight": 0.7, "per_device_train_batch_size": 4, "align_text_bank": -1}
    trainer, _ = one_step(tmp_path, vit, data, **options)
    with torch.no_grad():
        batch = AlignmentCollator()(data[:4])
        embeds = vit.train()(batch["pixel_values"]).image_embeds
    texts = torch.from_numpy(data.text_bank()["embeds"]).double()
    texts[:4] = batch["text_embeds"][:, 0].double()
    expected = torch.nn.functional.cross_entropy(embeds @ texts.T / 0.2, torch.arange(4))
    assert first_log(trainer)["loss_align"] == pytest.approx(expected.item(), rel=1e-5)


# --- Masks, mixing, centring -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask, num_keys", [("caption", 2), ("class", 3), ("none", 0)])
def test_mask_decides_what_is_no_negative(tmp_path, vit, mask, num_keys):
    """Rows 0 and 5 are of one class, rows 1 and 2 have one caption."""
    data = rows(6, torch.float64)
    data[2]["caption_keys"] = data[1]["caption_keys"]
    options = {"align_loss": "infonce", "align_mask": mask, "per_device_train_batch_size": 6, "align_weight": 0.7}
    trainer, _ = one_step(tmp_path, vit, data, **options)
    batch = AlignmentCollator()(data)
    keys = [batch["image_keys"], batch["caption_keys"], batch["labels"].unsqueeze(1)][:num_keys]
    with torch.no_grad():
        embeds = vit.train()(batch["pixel_values"]).image_embeds.numpy()
    alignment = reference.Batch(
        embeds,
        batch["text_embeds"].double().numpy(),
        batch["caption_weight"].double().numpy(),
        [group.numpy() for group in keys],
    )
    expected = reference.image_to_text(alignment, reference.Settings(0.2)) / 6
    assert first_log(trainer)["loss_align"] == pytest.approx(expected, rel=1e-6)


def test_captions_are_left_unmixed_on_demand(tmp_path, vit):
    """The official way: the mixed image against its own row's caption alone."""
    data = [row | {"draw_seed": 5} for row in rows(6, torch.float64)]
    options = {"align_loss": "cosine", "per_device_train_batch_size": 6, "mixup_alpha": 0.8}
    trainer, _ = one_step(tmp_path, vit, data, align_mix_captions=False, **options)
    batch = AlignmentCollator(mixup_alpha=0.8)(data)
    with torch.no_grad():
        embeds = vit.train()(batch["pixel_values"]).image_embeds
    expected = (2 - 2 * (embeds * batch["text_embeds"][:, 0]).sum(1)).mean().item()
    assert first_log(trainer)["loss_align"] == pytest.approx(expected, rel=1e-6)


def test_centred_texts_are_those_without_their_mean(tmp_path, vit):
    class Centred(list):
        texts = type("Texts", (), {"mean": staticmethod(lambda: np.full(TEXT_DIM, 0.3, dtype=np.float32))})

    data = Centred(rows(6, torch.float64))
    options = {"align_loss": "cosine", "per_device_train_batch_size": 6, "align_center": True}
    trainer, _ = one_step(tmp_path, vit, data, **options)
    with torch.no_grad():
        batch = AlignmentCollator()(list(data))
        embeds = vit.train()(batch["pixel_values"]).image_embeds
    texts = torch.nn.functional.normalize(batch["text_embeds"][:, 0].double() - np.float32(0.3), dim=1)
    expected = (2 - 2 * (embeds * texts).sum(1)).mean().item()
    assert first_log(trainer)["loss_align"] == pytest.approx(expected, rel=1e-6)
    trainer.model.save_pretrained(tmp_path / "run")
    loaded = AlignedImageClassification.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(loaded.text_mean.float(), torch.full((TEXT_DIM,), 0.3))
    assert "text_mean" not in loaded.student.state_dict()


def test_texts_of_the_bank_are_centred_too(tmp_path, vit):
    class Centred(WithBank):
        texts = type("Texts", (), {"mean": staticmethod(lambda: np.full(TEXT_DIM, 0.3, dtype=np.float32))})

    options = {"align_loss": "infonce", "per_device_train_batch_size": 4, "align_text_bank": -1, "align_center": True}
    data = Centred(rows(8, torch.float64))
    trainer, _ = one_step(tmp_path, vit, data, **options)
    batch = AlignmentCollator()(data[:4])
    with torch.no_grad():
        embeds = vit.train()(batch["pixel_values"]).image_embeds
    texts = torch.from_numpy(np.stack([row["text_embeds"] for row in data])).double() - np.float32(0.3)
    logits = embeds @ torch.nn.functional.normalize(texts, dim=1).T / 0.2
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(4)).item()
    assert first_log(trainer)["loss_align"] == pytest.approx(expected, rel=1e-3)  # the bank is float16


@pytest.mark.parametrize(
    "options",
    [{"align_weight": 0.0}, {"align_loss": "cosine"}, {"align_loss": "siglip", "align_learn_temperature": False}],
)
def test_learned_logits_that_a_model_brings_along_are_left_alone_where_they_are_not_asked_for(tmp_path, vit, options):
    vit.learn_logits(0.5, -1.0)
    trainer, _ = one_step(tmp_path, vit, rows(4, torch.float64), per_device_train_batch_size=4, **options)
    for name in ("logit_scale", "logit_bias"):
        parameter = getattr(trainer.model, name)
        assert not parameter.requires_grad and parameter.item() == getattr(vit, name).item()
        assert name not in first_log(trainer)
    same, _ = one_step(tmp_path, aligned_model("vit", TEXT_DIM).double(), rows(4, torch.float64), **options)
    assert "logit_scale" not in first_log(same)


# --- Course of the weight --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "course, expected",
    [
        ({}, [2, 2, 2, 2, 2, 2, 2, 2]),
        ({"warmup_epochs": 2}, [0, 0.5, 1, 1.5, 2, 2, 2, 2]),
        ({"off_epochs": 1}, [2, 2, 2, 2, 2, 2, 0, 0]),
        ({"schedule": "cosine"}, [1 + math.cos(math.pi * step / 8) for step in range(8)]),
        (
            {"schedule": "cosine", "warmup_epochs": 1, "off_epochs": 1},
            [0, 1, *(1 + math.cos(math.pi * step / 4) for step in range(4)), 0, 0],
        ),
    ],
)
def test_the_weight_of_each_step_is_in_its_loss_and_its_log(tmp_path, vit, course, expected):
    options = {"num_train_epochs": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    options |= {f"align_{name}": value for name, value in course.items()}
    trainer = train(tmp_path, vit, rows(8, torch.float64), align_weight=2.0, **options)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["align_weight"] for log in logs] == pytest.approx(expected)
    for log in logs:
        assert log["loss"] == pytest.approx(log["loss_ce"] + log["align_weight"] * log["loss_align"], rel=1e-5)


# --- Precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bf16_does_not_touch_the_alignment_loss(tmp_path, objective, monkeypatch):
    """The features are those of bfloat16; the loss is what float64 makes of them."""
    torch.manual_seed(1)
    model = aligned_model("vit", TEXT_DIM)
    outputs = []
    original = AlignedImageClassification.forward

    def forward(self, *args, **kwargs):
        outputs.append(original(self, *args, **kwargs))
        return outputs[-1]

    monkeypatch.setattr(AlignedImageClassification, "forward", forward)
    options = {"align_loss": objective, "per_device_train_batch_size": 6, "bf16": True, "max_steps": 1}
    options |= {"train_sampling_strategy": "sequential"}
    trainer = train(tmp_path, model, rows(6), align_temperature=0.02, align_learn_temperature=False, **options)
    embeds = outputs[0].image_embeds.detach()
    assert outputs[0].logits.dtype == torch.bfloat16 and embeds.dtype == torch.float32
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(6))
    batch = AlignmentCollator()(rows(6))
    keys = [batch["image_keys"].numpy(), batch["caption_keys"].numpy()]
    texts, weights = batch["text_embeds"].double().numpy(), batch["caption_weight"].double().numpy()
    alignment = reference.Batch(embeds.double().numpy(), texts, weights, keys)
    expected = reference.OBJECTIVES[objective](alignment, reference.Settings(0.02, -10.0, 0.1)) / 6
    assert first_log(trainer)["loss_align"] == pytest.approx(expected, rel=1e-4)


# --- Labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", [{}, {"mixup_alpha": 0.8}])
@pytest.mark.parametrize(
    "options, formula",
    [
        ({"classification_loss": "bce"}, {"kind": "bce"}),
        ({"classification_loss": "bce", "bce_target_threshold": 0.3}, {"kind": "bce", "threshold": 0.3}),
        ({"class_weights": "[0.1, 2, 0.5, 1, 3]"}, {"class_weights": np.array([0.1, 2, 0.5, 1, 3])}),
        ({"class_weights": "balanced"}, {"class_weights": np.array([6 / 5 / 2, 6 / 5, 6 / 5, 6 / 5, 6 / 5])}),
    ],
)
def test_classification_loss_is_the_one_that_was_asked_for(tmp_path, vit, options, formula, mixing):
    """Six rows of five classes: 0 comes twice."""

    class Labelled(list):
        labels = [0, 1, 2, 3, 4, 0]

    data = Labelled(row | {"draw_seed": 5} for row in rows(6, torch.float64))
    whole = {"per_device_train_batch_size": 6, "align_weight": 0.0, "label_smoothing_factor": 0.1} | mixing
    trainer, _ = one_step(tmp_path, vit, data, **whole, **options)
    batch = AlignmentCollator(**mixing)(list(data))
    with torch.no_grad():
        logits = vit.train()(batch["pixel_values"]).logits.numpy()
    mix = {name: batch[f"mix_{name}"].numpy() for name in ("partner", "share") if mixing}
    expected = reference.classification(logits, batch["labels"].numpy(), 0.1, **mix, **formula)
    assert first_log(trainer)["loss_ce"] == pytest.approx(expected, rel=1e-6)


def test_unlabelled_rows_train_on_their_caption_alone(tmp_path, vit):
    data = [row | {"labels": -100} for row in rows(6, torch.float64)]
    trainer, moved = one_step(tmp_path, vit, data, per_device_train_batch_size=6, align_weight=0.7)
    assert first_log(trainer)["loss_ce"] == 0 and first_log(trainer)["loss_align"] > 0 and moved.norm() > 0
    for new, old in zip(
        trainer.model.student.classifier.parameters(), vit.student.classifier.parameters(), strict=True
    ):
        assert torch.equal(new, old)


def test_balanced_weights_give_every_class_the_same_say():
    data = type("Data", (), {"labels": np.array([0, 0, 0, 1, -100, 3])})
    weights = class_weights_of("balanced", 4, data)
    counts = torch.tensor([3.0, 1.0, 0.0, 1.0])
    assert (weights * counts).tolist() == pytest.approx([5 / 3, 5 / 3, 0, 5 / 3])
    assert class_weights_of([1.0, 2.0], 2, data).tolist() == [1.0, 2.0] and class_weights_of(None, 2, data) is None
    with pytest.raises(ValueError, match="class_weights has 2 weights for 4 classes"):
        class_weights_of([1.0, 2.0], 4, data)
    with pytest.raises(ValueError, match="no `labels` to count"):
        class_weights_of("balanced", 4, [])


def test_evaluation_sees_whole_images(tmp_path, vit):
    seen = []

    class Looking(AlignmentTrainer):
        def prediction_step(self, model, inputs, *args, **kwargs):
            seen.append(inputs)
            return super().prediction_step(model, inputs, *args, **kwargs)

    args = arguments(tmp_path, mixup_alpha=0.8, per_device_eval_batch_size=4)
    trainer = Looking(vit, args, train_dataset=rows(4, torch.float64), eval_dataset=rows(4, torch.float64))
    trainer.evaluate()
    assert "mix_share" not in seen[0] and torch.equal(
        seen[0]["pixel_values"][0], rows(4, torch.float64)[0]["pixel_values"]
    )
    assert "mix_share" in next(iter(trainer.get_train_dataloader()))


def test_stock_trainer_takes_a_model_with_learned_logits(tmp_path, vit):
    """They take no part in its loss; evaluation does not gather them."""
    vit.learn_logits(0.1, -5.0)
    data = [{"pixel_values": row["pixel_values"], "labels": row["labels"]} for row in rows(4, torch.float64)]
    args = arguments(tmp_path, max_steps=1)
    trainer = Trainer(vit, args, train_dataset=data, eval_dataset=data, compute_metrics=lambda p: {"n": p[0].shape[1]})
    trainer.train()
    assert trainer.evaluate()["eval_n"] == 5


# --- Several captions of an image, repeated images -------------------------------------------------------------------


@pytest.fixture(scope="module")
def split():
    """Rows with three, one and no captions; a caption of row 0 is that of row 1."""
    vectors = np.eye(4, dtype=np.float16)
    features = Features(
        {
            "image": Image(decode=False),
            "label": ClassLabel(names=["a", "b"]),
            "image_id": Value("string"),
            "caption": List(Value("string")),
            "text_embeds": List(List(Value("float16"), length=4)),
            "caption_weight": Value("float32"),
        }
    )
    image = Image().encode_example(PILImage.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)))
    rows = {
        "image": [image] * 4,
        "label": [0, 1, None, 0],
        "image_id": list("abcd"),
        "caption": [["one", "two", "", "three"], ["two"], None, ["four", None]],
        "text_embeds": [vectors[:3].tolist(), vectors[1:2].tolist(), None, vectors[3:].tolist()],
        "caption_weight": [1.0, 1.0, 1.0, 0.5],
    }
    return Dataset.from_dict(rows, features=features)


def captioned(split, captions: str) -> CaptionedImages:
    return CaptionedImages(split, lambda image: torch.zeros(3, 8, 8), captions=captions)


def test_all_captions_share_the_weight_of_their_row(split):
    items = [captioned(split, "all")[row] for row in range(4)]
    weights = [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0, 0, 0], [0.5, 0, 0]]
    np.testing.assert_allclose([item["caption_weight"] for item in items], weights, rtol=1e-6)
    np.testing.assert_array_equal(items[0]["text_embeds"], np.eye(4)[:3])
    np.testing.assert_array_equal(items[3]["text_embeds"], [np.eye(4)[3], np.zeros(4), np.zeros(4)])
    assert items[0]["text_keys"][1] == items[1]["text_keys"][0] and items[2]["text_keys"].tolist() == [-1] * 3
    keys = numbered(np.stack([item["caption_keys"] for item in items]))
    assert keys.tolist() == [[0, 1, 2], [1, -1, -1], [-1] * 3, [3, -1, -1]]
    assert [item["labels"] for item in items] == [0, 1, -100, 0]


def test_mean_of_the_captions_is_one_text(split):
    items = [captioned(split, "mean")[row] for row in range(4)]
    np.testing.assert_allclose(items[0]["text_embeds"], [np.array([1, 1, 1, 0]) / np.sqrt(3)], atol=1e-3)
    assert [item["caption_weight"].tolist() for item in items] == [[1], [1], [0], [0.5]]
    assert numbered(items[0]["caption_keys"]).tolist() == [0, 1, 2]  # still no negative of row 1


def test_a_caption_is_drawn_each_time_an_image_is(split):
    images = captioned(split, "sample")
    drawn = [images.get_draws([Draw(0, epoch, repeat=repeat)])[0] for epoch in range(20) for repeat in range(3)]
    keys = drawn[0]["caption_keys"].tolist()
    assert len(set(keys)) == 3 and {int(item["text_keys"][0]) for item in drawn} == set(keys)
    assert all(item["caption_weight"].tolist() == [1] and item["caption_keys"].tolist() == keys for item in drawn)
    again = images.get_draws([Draw(0, 7, repeat=1)])[0]
    assert again["text_keys"] == drawn[7 * 3 + 1]["text_keys"]


@pytest.mark.parametrize("captions, size", [("all", 5), ("sample", 5), ("mean", 3)])
def test_bank_holds_each_text_once_a_class(split, captions, size):
    bank = captioned(split, captions).text_bank()
    assert len(bank["embeds"]) == size == len({*zip(bank["text_keys"].tolist(), bank["labels"].tolist(), strict=True)})
    keys = numbered(bank["caption_keys"]).tolist()
    if captions == "all":
        assert keys == [[0], [1], [2], [1], [3]] and bank["labels"].tolist() == [0, 0, 0, 1, 0]
    if captions == "mean":
        assert keys == [[0, 1, 2], [1, -1, -1], [3, -1, -1]]


def test_bank_leaves_out_texts_without_weight(split):
    kept = split.remove_columns("caption_weight").add_column("caption_weight", [1.0, 0.0, 1.0, 1.0])
    assert captioned(kept, "all").text_bank()["labels"].tolist() == [0, 0, 0, 0]


def test_mean_text_is_the_mean_over_rows(split):
    mean = captioned(split, "all").texts.mean()
    np.testing.assert_allclose(mean, (np.array([1, 1, 1, 0]) / 3 + np.eye(4)[1] + np.eye(4)[3]) / 3, atol=1e-3)


@pytest.mark.parametrize("processes", [1, 2])
def test_repeats_come_together_with_another_augmentation_each(processes):
    samplers = [
        GlobalBatchSampler(10, 6 // processes, num_processes=processes, process_index=index, repeats=3)
        for index in range(processes)
    ]
    batches = list(zip(*samplers, strict=True))
    draws = [draw for step in batches for batch in step for draw in batch if not draw.padding]
    assert len(draws) == 10 and len({draw.row for draw in draws}) == 4
    assert [draw.repeat for draw in draws] == [0, 1, 2] * 3 + [0]
    assert all(a.row == b.row for a, b in zip(draws, draws[1:], strict=False) if b.repeat > 0)


def test_repeats_of_an_image_are_augmented_differently(split):
    images = CaptionedImages(split, lambda image: torch.rand(3, 8, 8))
    pixels = [images.get_draws([Draw(0, 1, repeat=repeat)])[0]["pixel_values"] for repeat in (0, 1, 1)]
    assert not torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[1], pixels[2])


def test_weight_is_read_from_the_state_alone(tmp_path, vit):
    """So it is the same after an interruption."""
    args = arguments(tmp_path, align_schedule="cosine", num_train_epochs=4)
    term = AlignmentTrainer(vit, args, train_dataset=rows(4)).alignment
    term.steps_per_epoch = 2
    state = TrainerState(global_step=4, max_steps=8)
    assert term.weight_at(state) == pytest.approx(0.15)
