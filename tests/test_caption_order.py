"""Is a list in the order of its images: found out with a scorer that sees colours, and with real CLIP towers."""

import io
import json
import re

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    ViTConfig,
    ViTModel,
)

from g4i_hf.captioning.existing import existing_captions
from g4i_hf.captioning.list_order import check_order
from g4i_hf.captioning.quality import ClipScorer
from g4i_hf.options import ExistingCaptionsArguments

WORDS = ("red", "green", "blue")


def colours(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(number, 3))


def picture(colour) -> PILImage.Image:
    return PILImage.new("RGB", (8, 8), tuple(int(part) for part in colour))


def images_of(shades) -> Dataset:
    rows = {"image": [], "image_id": [f"{i:04}.png" for i in range(len(shades))]}
    for shade in shades:
        buffer = io.BytesIO()
        picture(shade).save(buffer, "PNG")
        rows["image"].append({"bytes": buffer.getvalue(), "path": None})
    return Dataset.from_dict(rows, features=Features({"image": Image(decode=False), "image_id": Value("string")}))


def describe(colour) -> str:
    return " ".join(f"{word} {part}" for word, part in zip(WORDS, colour, strict=True))


def scorer(images, texts) -> np.ndarray:
    """The nearer the colour that a text names to that of the picture, the better."""
    named = np.array([[int(part) for part in re.findall(r"\d+", text)] for text in texts])
    seen = np.array([image.getpixel((0, 0)) for image in images])
    return -np.abs(named - seen).mean(1) / 255


def classes_of_like_pictures(classes: int = 40, each: int = 10) -> np.ndarray:
    """Neighbours of nearly one colour, as photographs of one class."""
    centres = np.repeat(colours(classes), each, axis=0)
    return (centres + np.random.default_rng(1).integers(-6, 7, size=centres.shape)).clip(0, 255)


def test_the_right_order_is_verified_and_reported():
    shades = classes_of_like_pictures()
    images, captions = images_of(shades), [describe(shade) for shade in shades]
    report = check_order(images, captions, scorer, 200)
    assert report["order"] == "verified"
    assert report["sample"] == 200
    tests = report["tests"]
    assert tests["random"]["difference"] > tests["next"]["difference"]
    for other in ("previous", "next", "random"):
        assert tests[other]["difference"] > 0 and tests[other]["p"] < 0.001
    assert json.loads(json.dumps(report)) == report
    assert check_order(images, captions, scorer, 200) == report


@pytest.mark.parametrize(("shift", "message"), [(1, r"next -0\.\d+"), (-1, r"previous -0\.\d+")])
def test_a_shift_by_one_is_refused_and_named(shift, message):
    shades = classes_of_like_pictures()
    captions = [describe(shade) for shade in np.roll(shades, shift, axis=0)]
    with pytest.raises(ValueError, match=rf"200 images do not fit their own .* {message} \(p 1\)"):
        check_order(images_of(shades), captions, scorer, 200)


def test_shuffled_within_classes_is_told_from_wrong_everywhere():
    shades = classes_of_like_pictures()
    rng = np.random.default_rng(5)
    images = images_of(shades).add_column("label", np.arange(400) // 10)
    within = np.concatenate([start + rng.permutation(10) for start in range(0, 400, 10)])
    with pytest.raises(ValueError, match="significantly better than the previous or next one"):
        check_order(images, [describe(shades[i]) for i in within], scorer, 300)
    with pytest.raises(ValueError, match="significantly better than the previous or next or random one"):
        check_order(images, [describe(shades[i]) for i in rng.permutation(400)], scorer, 300)
    report = check_order(images, [describe(shade) for shade in shades], scorer, 400)
    assert report["order"] == "verified" and report["sample"] == 40 * 8  # all that lie inside their class


def test_images_and_captions_that_are_missing_are_left_out():
    shades = classes_of_like_pictures()
    captions = [describe(shade) if i % 5 else [None, " "][i % 2] for i, shade in enumerate(shades)]
    images = images_of(shades).to_dict()
    for place in range(0, len(shades), 7):
        images["image"][place] = {"bytes": b"no image", "path": None}
    features = Features({"image": Image(decode=False), "image_id": Value("string")})
    report = check_order(Dataset.from_dict(images, features=features), captions, scorer, 400)
    # In fives, places 2 and 3 have captions on both sides
    assert report["sample"] == sum(i % 7 != 0 for i in range(1, 399) if i % 5 in (2, 3))


def test_too_few_images_and_scores_that_are_none():
    shades = colours(9)
    captions = [describe(shade) for shade in shades]
    with pytest.raises(ValueError, match="7 images can be read and lie between two of their class .* at least 8"):
        check_order(images_of(shades), captions, scorer)
    with pytest.raises(ValueError, match="is not verified"):
        check_order(images_of([*shades] * 4), captions * 4, lambda images, texts: np.full(len(texts), np.nan))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_list_is_checked_in_its_own_order_whatever_that_of_the_rows(tmp_path, monkeypatch, ordered):
    shades = classes_of_like_pictures(10, 4)
    monkeypatch.setattr("g4i_hf.captioning.quality.ClipScorer", lambda model: {"org/clip": scorer}[model])
    captions = [describe(shade) for shade in (shades if ordered else np.roll(shades, 1, axis=0))]
    (tmp_path / "c.json").write_text(json.dumps(captions))
    rows = DatasetDict(train=images_of(shades).shuffle(seed=3))
    arguments = ExistingCaptionsArguments(captions_file=str(tmp_path / "c.json"), order_scorer="org/clip")
    if ordered:
        found = existing_captions(rows, arguments)
        assert found.report["order"] == "verified" and found.report["sample"] == 38
        assert found.captions["train"] == [captions[int(image_id[:4])] for image_id in rows["train"]["image_id"]]
    else:
        with pytest.raises(ValueError, match="The order of the list is not verified"):
            existing_captions(rows, arguments)


# --- ClipScorer ---


def tokenizer(special: dict) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "<unk>", "<start>", *WORDS, *map(str, range(20)), "<end>"]  # CLIP pools at the largest id
    vocabulary = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>" if "bos_token" in special else "$A <end>",
        special_tokens=[("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", **special
    )


TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_clip(folder) -> None:
    torch.manual_seed(0)
    words = tokenizer({"bos_token": "<start>"})
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 12, "eos_token_id": words.eos_token_id}
    config = CLIPConfig(
        text_config={**text, "bos_token_id": words.bos_token_id, "pad_token_id": words.pad_token_id},
        vision_config={**TOWER, "image_size": 8, "patch_size": 4},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 8, "width": 8}
    CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), words).save_pretrained(folder)


def save_siglip(folder) -> None:
    torch.manual_seed(0)
    words = tokenizer({"model_input_names": ["input_ids"]})
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 12, "projection_size": 16}
    config = SiglipConfig(text_config=text, vision_config={**TOWER, "image_size": 8, "patch_size": 4})
    SiglipModel(config).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size={"height": 8, "width": 8}), words).save_pretrained(folder)


@pytest.fixture(scope="module", params=[save_clip, save_siglip])
def model_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    request.param(folder)
    return str(folder)


def test_scores_are_the_cosines_of_the_model(model_folder):
    scoring = ClipScorer(model_folder)
    images = [picture(shade) for shade in colours(5)]
    texts = ["red 3", "green", "blue 4 red 5 green 6", "1 2 3 4 5 6 7 8", "blue"]
    from transformers import AutoModel

    model, words = AutoModel.from_pretrained(model_folder), scoring.processor.tokenizer
    ids = [words(text)["input_ids"] for text in texts]
    expected = np.zeros((5, 5))
    for i, image in enumerate(images):
        seen = model.get_image_features(**scoring.processor(images=image, return_tensors="pt")).pooler_output
        for j, text_ids in enumerate(ids):
            if model.config.model_type == "siglip":
                text_ids = text_ids + [words.pad_token_id] * (12 - len(text_ids))
            read = model.get_text_features(input_ids=torch.tensor([text_ids])).pooler_output
            expected[i, j] = torch.nn.functional.cosine_similarity(seen, read).item()
    assert expected.std() > 1e-3  # the towers tell these apart
    for i, image in enumerate(images):
        assert scoring([image] * 5, texts) == pytest.approx(expected[i], abs=1e-5)
    paired = scoring(images, texts)
    assert paired.shape == (5,) and paired.dtype == np.float32
    assert paired == pytest.approx(np.diag(expected), abs=1e-5)


def test_texts_beyond_the_window_are_cut_and_keep_their_end(model_folder):
    scoring = ClipScorer(model_folder)
    long = " ".join(["red 1"] * 40)
    window = 10 if scoring.model.config.model_type == "clip" else 11  # beside start and end
    kept = " ".join(long.split()[:window])
    image = picture((9, 9, 9))
    assert scoring([image], [long]) == pytest.approx(scoring([image], [kept]), abs=1e-6)
    assert scoring([image], [long]) != pytest.approx(scoring([image], ["red 1"]), abs=1e-6)


def test_pictures_of_all_kinds_are_scored(model_folder):
    scoring = ClipScorer(model_folder)
    grey, rgb = PILImage.new("L", (8, 8), 90), PILImage.new("RGB", (8, 8), (90, 90, 90))
    palette = PILImage.new("RGBA", (20, 5), (90, 90, 90, 255)).quantize()
    deep = PILImage.fromarray(np.full((8, 8), 90 * 256, dtype=np.uint16))
    scores = scoring([grey, rgb, palette, deep], ["red"] * 4)
    assert scores == pytest.approx([scores[1]] * 4, abs=1e-5)


def test_towers_that_know_nothing_verify_nothing(model_folder):
    shades = classes_of_like_pictures(10, 4)
    with pytest.raises(ValueError, match="is not verified"):
        check_order(
            images_of(shades),
            [f"{WORDS[i % 3]} {i % 20} {WORDS[i % 2]}" for i in range(len(shades))],
            ClipScorer(model_folder),
        )


def test_other_models_are_refused(tmp_path):
    ViTModel(ViTConfig(**TOWER, image_size=8, patch_size=4)).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="of type 'vit', which does not compare images with texts"):
        ClipScorer(str(tmp_path / "vit"))
