"""Is a list in the order of its images: found out with a scorer that sees colours, and scores with real towers."""

import json
import re

import numpy as np
import pytest
import torch
from caption_doors import png
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from g4i_hf.captioning.existing import check_order, existing_captions
from g4i_hf.captioning.quality import ClipScorer
from g4i_hf.options import ExistingCaptionsArguments

WORDS = ("red", "green", "blue")
FEATURES = Features({"image": Image(decode=False), "image_id": Value("string")})


def colours(number: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(number, 3))


def classes_of_like_pictures(classes: int = 40, each: int = 10) -> np.ndarray:
    """Neighbours of nearly one colour, as photographs of one class."""
    centres = np.repeat(colours(classes), each, axis=0)
    return (centres + np.random.default_rng(1).integers(-6, 7, size=centres.shape)).clip(0, 255)


def picture(colour) -> PILImage.Image:
    return PILImage.new("RGB", (8, 8), tuple(int(part) for part in colour))


def images_of(shades) -> Dataset:
    images = [{"bytes": png(picture(shade)), "path": None} for shade in shades]
    rows = {"image": images, "image_id": [f"{i:04}.png" for i in range(len(shades))]}
    return Dataset.from_dict(rows, features=FEATURES)


def describe(colour) -> str:
    return " ".join(f"{word} {part}" for word, part in zip(WORDS, colour, strict=True))


def scorer(images, texts) -> np.ndarray:
    """The nearer the colour that a text names to that of the picture, the better."""
    named = np.array([[int(part) for part in re.findall(r"\d+", text)] for text in texts])
    seen = np.array([image.getpixel((0, 0)) for image in images])
    return -np.abs(named - seen).mean(1) / 255


SHADES = classes_of_like_pictures()
RNG = np.random.default_rng(5)
WITHIN = np.concatenate([start + RNG.permutation(10) for start in range(0, 400, 10)])


@pytest.fixture(scope="module")
def images() -> Dataset:
    return images_of(SHADES).add_column("label", np.arange(400) // 10)


def test_the_right_order_is_verified_and_reported(images):
    captions = [describe(shade) for shade in SHADES]
    report = check_order(images, captions, scorer, 400)
    assert report["order"] == "verified" and report["sample"] == 40 * 8, "all that lie inside their class"
    tests = report["tests"]
    assert tests["random"]["difference"] > tests["next"]["difference"]
    assert all(tests[other]["difference"] > 0 and tests[other]["p"] < 0.001 for other in ("previous", "next"))
    assert json.loads(json.dumps(report)) == report == check_order(images, captions, scorer, 400)


@pytest.mark.parametrize(
    "order, message",
    [
        (np.roll(np.arange(400), 1), "previous"),
        (WITHIN, "significantly better than the previous or next one"),
    ],
    ids=["shifted", "shuffled within classes"],
)
def test_another_order_is_refused_with_what_to_do(images, order, message):
    with pytest.raises(ValueError, match=f"images do not fit their own.*{message}.*--order_scorer"):
        check_order(images, [describe(SHADES[place]) for place in order], scorer, 300)


def test_a_list_is_checked_in_its_own_order_whatever_that_of_the_rows(tmp_path, monkeypatch):
    shades = classes_of_like_pictures(10, 4)
    monkeypatch.setattr("g4i_hf.captioning.quality.ClipScorer", lambda model: {"org/clip": scorer}[model])
    captions = [describe(shade) for shade in shades]
    (tmp_path / "c.json").write_text(json.dumps(captions))
    rows = DatasetDict(train=images_of(shades).shuffle(seed=3))
    arguments = ExistingCaptionsArguments(captions_file=str(tmp_path / "c.json"), order_scorer="org/clip")
    found = existing_captions(rows, arguments)
    assert found.report["order"] == "verified" and found.report["sample"] == 38
    assert found.captions["train"] == [captions[int(image_id[:4])] for image_id in rows["train"]["image_id"]]
    (tmp_path / "c.json").write_text(json.dumps(captions[1:] + captions[:1]))
    with pytest.raises(ValueError, match="The order of the list is not verified"):
        existing_captions(rows, arguments)


# --- ClipScorer ------------------------------------------------------------------------------------------------------

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE = {"height": 8, "width": 8}


def tokenizer(**special) -> PreTrainedTokenizerFast:
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


def save_clip(folder) -> None:
    words = tokenizer(bos_token="<start>")
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 12, "eos_token_id": words.eos_token_id}
    text |= {"bos_token_id": words.bos_token_id, "pad_token_id": words.pad_token_id}
    vision = {**TOWER, "image_size": 8, "patch_size": 4}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(size=SIZE, crop_size=SIZE), words).save_pretrained(folder)


def save_siglip(folder) -> None:
    words = tokenizer(model_input_names=["input_ids"])
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 12, "projection_size": 16}
    vision = {**TOWER, "image_size": 8, "patch_size": 4}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size=SIZE), words).save_pretrained(folder)


@pytest.fixture(scope="module", params=[save_clip, save_siglip])
def scoring(request, tmp_path_factory) -> ClipScorer:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    request.param(folder)
    return ClipScorer(str(folder))


def test_scores_are_the_cosines_of_the_model(scoring):
    images = [picture(shade) for shade in colours(5)]
    texts = ["red 3", "green", "blue 4 red 5 green 6", "1 2 3 4 5 6 7 8", "blue"]
    model, words = AutoModel.from_pretrained(scoring.model.name_or_path), scoring.processor.tokenizer
    expected = np.zeros((5, 5))
    for i, image in enumerate(images):
        seen = model.get_image_features(**scoring.processor(images=image, return_tensors="pt")).pooler_output
        for j, text in enumerate(texts):
            ids = words(text)["input_ids"]
            if model.config.model_type == "siglip":  # was trained on texts padded to the whole window
                ids = ids + [words.pad_token_id] * (12 - len(ids))
            read = model.get_text_features(input_ids=torch.tensor([ids])).pooler_output
            expected[i, j] = torch.nn.functional.cosine_similarity(seen, read).item()
    assert expected.std() > 1e-3  # the towers tell these apart
    assert scoring([images[0]] * 5, texts) == pytest.approx(expected[0], abs=1e-5)
    assert scoring(images, texts) == pytest.approx(np.diag(expected), abs=1e-5)
