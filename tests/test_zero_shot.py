"""Zero-shot classification: known answers of a constructed model, and a trained one on new concepts; search."""

import ast
import base64
import json
import os
import shutil
from pathlib import Path

import make
import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Image
from doors import ROOT, python, succeed
from sentence_transformers import SentenceTransformer
from students import aligned_model
from test_docs import block
from tiny_encoders import save_static_encoder
from transformers import ZeroShotImageClassificationPipeline

from g4i_hf import ImageSearch
from g4i_hf.embedding.encoders import load_encoder
from g4i_hf.hub import release_student, save_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.zero_shot import ZeroShotImageClassifier

DIM = 12


class KnownVectors:
    """A text encoder of a few texts, each a row of the identity unless another vector is given."""

    dim, max_tokens, prompt, provenance = DIM, None, "", {}

    def __init__(self, vectors: dict[str, np.ndarray]):
        self.vectors, self.asked = vectors, []

    def count_tokens(self, captions):
        return [len(caption) for caption in captions]

    def encode(self, captions):
        self.asked += captions
        return np.stack([self.vectors[caption] for caption in captions]).astype(np.float32)


def unit(vector: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vector, dim=-1)


def pictures(count: int = 3) -> list[PIL.Image.Image]:
    return [make.noise(seed, 48) for seed in range(count)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return aligned_model("timm-resnet", DIM)


def vectors_near(model, image) -> dict[str, np.ndarray]:
    """Texts whose cosines with the image are 1, 0.5 and -1."""
    embeds = ZeroShotImageClassifier(model, device="cpu").embed_images(image)
    aside = unit(torch.eye(DIM)[0] - embeds[0] * embeds)
    texts = {"same": embeds, "half": embeds / 2 + 3**0.5 / 2 * aside, "opposite": -embeds}
    return {name: vector.numpy() for name, vector in texts.items()}


def test_an_image_may_be_a_data_uri(model):
    image, classifier = pictures(1)[0], ZeroShotImageClassifier(model, device="cpu")
    address = "data:image/png;base64," + base64.b64encode(make.content(image, "PNG")).decode()
    torch.testing.assert_close(classifier.embed_images(address), classifier.embed_images(image))


@pytest.mark.parametrize(
    ("learned", "temperature", "scores"),
    [
        (None, None, lambda cosines: (cosines / 0.2).softmax(-1)),  # the default of training
        ((0.7, -1.0), 0.5, lambda cosines: (cosines / 0.5 - 1).sigmoid()),
        ((1e-3, -70.0), None, lambda cosines: (100 * cosines - 70).sigmoid()),  # the limit
    ],
)
def test_scores_are_those_of_cosines_over_the_temperature(model, tmp_path, learned, temperature, scores):
    image = pictures(1)[0]
    image.save(tmp_path / "image.png")
    encoder = KnownVectors(vectors_near(model, image))
    if learned:
        model.learn_logits(*learned)
    classifier = ZeroShotImageClassifier(model, text_encoder=encoder, temperature=temperature, device="cpu")
    assert isinstance(classifier, ZeroShotImageClassificationPipeline)
    answer = classifier(image, candidate_labels=["half", "opposite", "same"])
    assert [each["label"] for each in answer] == ["same", "half", "opposite"]
    expected = scores(torch.tensor([1, 0.5, -1])).tolist()
    assert [each["score"] for each in answer] == pytest.approx(expected, abs=1e-5)
    assert classifier(str(tmp_path / "image.png"), "half, opposite,same,") == answer
    assert encoder.asked == ["half", "opposite", "same"]  # the second time they are known


def test_several_templates_are_the_mean_of_their_vectors_and_no_two_are_mistaken(model):
    image = pictures(1)[0]
    near = vectors_near(model, image)
    texts = {"x": near["same"], "a {x}": near["half"]} | dict.fromkeys(("y", "a {y}"), near["opposite"])
    classifier = ZeroShotImageClassifier(model, text_encoder=KnownVectors(texts), temperature=1, device="cpu")
    between = 3**0.5 / 2  # two unit vectors 60 degrees apart; their mean is 30 from either
    for template, cosine in (("{}", 1.0), ("a {{}}", 0.5), (["{}", "a {{}}"], between)):
        answer = classifier(image, ["x", "y"], hypothesis_template=template)
        expected = torch.tensor([cosine, -1]).softmax(-1).tolist()
        assert [each["score"] for each in answer] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c, i: c(i, ["a"], hypothesis_template=["{}", "a picture"]), "hypothesis_template is .*needs a place"),
        (lambda c, i: ZeroShotImageClassifier(c.model, temperature=0), "temperature is 0"),
        (lambda c, i: ZeroShotImageClassifier(c.model, device="cpu")(i, ["a"]), "Name it as text_encoder"),
        (lambda c, i: ZeroShotImageClassifier(aligned_model("vit")), "type vit does not know its image size"),
    ],
)
def test_wrong_calls_say_what_is_wrong(model, call, said):
    classifier = ZeroShotImageClassifier(model, text_encoder=KnownVectors({}), device="cpu")
    with pytest.raises(ValueError, match=said):
        call(classifier, pictures(1)[0])


@pytest.fixture
def released(model, tmp_path):
    """A student's folder with the aligned model in it, beside a run and a plain student."""
    student, run, plain = tmp_path / "student", tmp_path / "run", tmp_path / "plain"
    for folder in (student, plain):
        save_student(model, folder)
    for folder in (student / "aligned", run):
        model.save_pretrained(folder)
        generic_processor(ImageSettings(48)).save_pretrained(folder)
    record = {"text_encoder": "some/encoder", "text_encoder_prompt": "passage: ", "temperature": 0.05}
    (student / "aligned" / "text_encoder.json").write_text(json.dumps(record))
    (tmp_path / "encoder").mkdir()
    (run / "train.yaml").write_text("text_encoder: ../encoder\nalign_temperature: 0.4\nlearning_rate: 1\n")
    return tmp_path


def test_the_aligned_model_is_found_in_a_student_and_in_a_run(released, model):
    image = pictures(1)[0]
    expected = ZeroShotImageClassifier(model, device="cpu").embed_images(image)

    def opened(folder: str, scale: float, **options):
        classifier = ZeroShotImageClassifier(released / folder, device="cpu", **options)
        torch.testing.assert_close(classifier.embed_images(image), expected)
        assert classifier.scale == pytest.approx(scale)
        return classifier.side.text_encoder, classifier.side.text_encoder_prompt

    assert opened("student", 20) == ("some/encoder", "passage: ")
    assert opened("student", 20, text_encoder="another/place") == ("another/place", "passage: ")
    assert opened("run", 2.5) == (str((released / "encoder").resolve()), None)
    shutil.copytree(released / "run", released / "run" / "checkpoint-3", ignore=shutil.ignore_patterns("train.yaml"))
    assert opened("run/checkpoint-3", 2.5) == opened("run", 2.5)


@pytest.fixture
def fine_tuned(tmp_path):
    """An encoder in a folder that is called like one on the Hub, and what a release keeps of it."""
    folder = save_static_encoder(tmp_path / "models" / "all-MiniLM-L6-v2", ["cat", "dog"], DIM)
    return folder, load_encoder(str(folder)).provenance


def test_an_encoder_from_a_folder_is_not_loaded_by_its_bare_name(released, fine_tuned, monkeypatch):
    """For sentence-transformers a name without a slash is one of its own on the Hub: another encoder."""
    folder, provenance = fine_tuned
    assert provenance["text_encoder"] == "all-MiniLM-L6-v2" and provenance["text_encoder_digest"]
    (released / "student" / "aligned" / "text_encoder.json").write_text(json.dumps(provenance))
    image, labels = pictures(1)[0], ["cat", "dog"]
    for given in ({}, {"text_encoder": "all-MiniLM-L6-v2"}):
        with pytest.raises(ValueError, match=r"local folder, 'all-MiniLM-L6-v2'.*the folder as text_encoder"):
            ZeroShotImageClassifier(released / "student", device="cpu", **given)(image, labels)
    shutil.copytree(folder, released / "elsewhere")
    monkeypatch.chdir(released)  # a folder is a folder, however it is named
    answers = [
        ZeroShotImageClassifier("student", text_encoder=place, temperature=0.05, device="cpu")(image, labels)
        for place in (load_encoder(str(folder)), "elsewhere")
    ]
    assert answers[0] == answers[1]


def test_a_folder_with_another_encoder_is_refused(released, fine_tuned, caplog):
    folder, provenance = fine_tuned
    (released / "student" / "aligned" / "text_encoder.json").write_text(json.dumps(provenance))
    other = SentenceTransformer(str(folder), device="cpu")  # after more training
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    other.save(str(released / "other"))
    classifier = ZeroShotImageClassifier(released / "student", text_encoder=released / "other", device="cpu")
    with pytest.raises(ValueError, match=r"is not the text encoder.*others \(blake2b:\w+, not blake2b"):
        classifier(pictures(1)[0], ["cat"])
    assert "cannot be seen" not in caplog.text
    unknown = KnownVectors({"cat": np.eye(DIM)[0]})  # of one that was made elsewhere nothing is known
    ZeroShotImageClassifier(released / "student", text_encoder=unknown, device="cpu")(pictures(1)[0], ["cat"])
    assert "Whether KnownVectors is the same cannot be seen" in caplog.text


def test_labels_have_the_prompt_of_the_captions(released, fine_tuned):
    """Null in a record of embeddings says that there was none, null in the options of a run the encoder's own."""
    folder, _ = fine_tuned
    encoder = SentenceTransformer(str(folder), device="cpu")
    encoder.prompts, encoder.default_prompt_name = {"mine": "dog "}, "mine"
    encoder.save(str(folder))

    def label_vector(**record) -> torch.Tensor:
        record = {"text_encoder": str(folder), "text_encoder_prompt": None} | record
        (released / "student" / "aligned" / "text_encoder.json").write_text(json.dumps(record))
        return ZeroShotImageClassifier(released / "student", device="cpu").embed_texts(["cat"])

    without = label_vector(text_embed_dim=DIM)
    assert torch.equal(without, label_vector(text_encoder_prompt=""))
    assert torch.equal(label_vector(), label_vector(text_encoder_prompt="dog "))
    assert not torch.allclose(without, label_vector())


@pytest.mark.slow
def test_the_page_on_zero_shot_runs_as_it_stands(tmp_path):
    """After some steps of the recipe Emoji Styles, in a folder that looks like a clone."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    short = {"max_steps": 20, "eval_strategy": "no", "save_strategy": "no"}
    succeed("train", {"config": "recipes/emoji_styles/train.yaml"}, short, cwd=tmp_path)
    release_student(tmp_path / "runs" / "emoji_styles" / "aligned")
    printed = python(block("zero-shot", "docs/guides/search.md"), cwd=tmp_path)
    scores, captions = map(ast.literal_eval, printed.splitlines()[-2:])
    assert {each["label"] for each in scores} == {"a sea animal", "a vehicle", "a face"} and len(captions) == 3


# --- Search: images ranked by a text ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier() -> ZeroShotImageClassifier:
    """Of a model of 12 dimensions whose text encoder gives the text `n` the embedding of image n."""
    plain = ZeroShotImageClassifier(aligned_model("timm-resnet", 12), device="cpu")
    embeds = unit(plain.embed_images(pictures(6)) - plain.embed_images(pictures(6)).mean(0))
    plain.model.eval()
    vectors = {str(number): embeds[number].numpy() for number in range(6)}
    return ZeroShotImageClassifier(plain.model, text_encoder=KnownVectors(vectors), device="cpu")


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, picture in enumerate(pictures(6)):
        place = tmp_path / "images" / f"{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{number}.png")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_images_are_ranked_by_their_cosine_with_the_text(classifier, folder):
    find = ImageSearch(classifier, folder)
    for text in ("0", "4"):
        cosines = find.image_embeds @ classifier.embed_texts([text])[0].numpy()
        found = find(text, top_k=4)
        assert [each["score"] for each in found] == pytest.approx(sorted(cosines, reverse=True)[:4])
        assert found[0]["image"] == find.images[cosines.argmax()] and Path(found[0]["image"]).is_file()


def test_images_come_from_a_folder_a_list_or_a_dataset(classifier, folder):
    files = sorted(str(path) for path in folder.rglob("*.png"))
    rows = Dataset.from_dict({"image": files}).cast_column("image", Image(decode=False))
    expected = [each["score"] for each in ImageSearch(classifier, folder)("3")]
    for images in (files, rows, list(map(PIL.Image.open, files))):
        assert [each["score"] for each in ImageSearch(classifier, images)("3")] == pytest.approx(expected)


def test_embeddings_are_kept_until_an_image_or_the_model_changes(classifier, folder, tmp_path):
    def kept() -> int:
        ImageSearch(classifier, folder, cache=tmp_path / "kept")
        return len(list((tmp_path / "kept").iterdir()))

    assert kept() == kept() == 1
    file = folder / "0" / "0.png"
    before = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept() == 2
    folder = folder.rename(tmp_path / "moved")
    assert kept() == 2
    next(classifier.model.projector.parameters()).data += 0.1
    assert kept() == 3


def test_files_that_are_no_images_are_left_out_and_counted(classifier, folder, caplog):
    (folder / "._0.png").write_bytes(b"of a file system")
    (folder / "folder.jpg").mkdir()
    before = ImageSearch(classifier, folder)("2", top_k=100)
    (folder / "broken.png").write_bytes(b"no image")
    find = ImageSearch(classifier, folder)
    assert find("2", top_k=100) == before and len(before) == 6
    assert "1 of 7 images cannot be read, such as" in caplog.text
    with pytest.raises(ValueError, match="images is empty"):
        ImageSearch(classifier, [])
    with pytest.raises(FileNotFoundError, match="holds no image"):
        ImageSearch(classifier, folder / "folder.jpg")
    (folder / "file").touch()
    assert ImageSearch(classifier, folder, cache=folder / "file" / "kept")("2", top_k=100) == before, "kept nowhere"
