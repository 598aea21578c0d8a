"""Text-to-image search: images ranked by a text, from Python and as a command."""

import os
from pathlib import Path

import PIL.Image
import pytest
from datasets import Dataset, Image
from students import aligned_model
from test_zero_shot import KnownVectors, pictures, unit

from g4i_hf import ImageSearch
from g4i_hf.zero_shot import ZeroShotImageClassifier


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
