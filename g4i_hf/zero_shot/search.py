"""Text-to-image search: images ranked by the cosine similarity of their embedding and that of a text."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Dataset
from huggingface_hub.constants import HF_HOME
from tqdm import tqdm

from .. import columns
from ..data.images import IMAGE_SUFFIXES, content_of, open_image, to_rgb
from ..data.record import content_digest
from .classifier import ZeroShotImageClassifier

logger = logging.getLogger(__name__)
CACHE = Path(HF_HOME) / "g4i_hf" / "search"  # of `g4i search`, as nothing is added to a release
BATCH, THREADS = 32, 8


class ImageSearch:
    """
    Finds images by a text. Every image is embedded once; a query takes one run of the text encoder.

    Args:
        model: run folder, aligned student or Hub id, see [`~g4i_hf.ZeroShotImageClassifier`]; or a classifier.
        images: folder, including subfolders; list of files or PIL images; or dataset with a column `image`.
        cache: folder for the embeddings of an image folder, by the content of the images and the model. If it is not
            writable, they are not stored.
        kwargs: of [`~g4i_hf.ZeroShotImageClassifier`], such as `text_encoder` and `device`.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no image.

    Example:
        >>> search = ImageSearch("runs/pictures", "pictures/validation")
        >>> search("a red flower", top_k=1)
        [{'image': 'pictures/validation/roses/7.jpg', 'score': 0.61}]
    """

    def __init__(
        self,
        model: str | Path | ZeroShotImageClassifier,
        images: str | Path | Sequence[Any] | Dataset,
        cache: str | Path | None = None,
        **kwargs,
    ):
        if not isinstance(model, ZeroShotImageClassifier):
            model = ZeroShotImageClassifier(model, **kwargs)
        self.classifier: ZeroShotImageClassifier = model
        if isinstance(images, (str, Path)):
            images = files_in(images)
        elif isinstance(images, Dataset):
            images = images[columns.IMAGE][:]
        if not len(images):
            raise ValueError("images is empty: give at least one.")
        self.images: Sequence[Any] = images
        self.image_embeds = self._cached(Path(cache) if cache else None)

    def __call__(self, query: str, top_k: int = 5) -> list[dict[str, Any]]:
        """
        Returns:
            `{"image", "score"}` for each of the `top_k` nearest images, the best first: the image as given (a path,
                for a folder), and the cosine similarity of image and text.
        """
        text = self.classifier.embed_texts([query])[0].numpy()
        scores = self.image_embeds @ text
        best = [row for row in np.argsort(-scores, kind="stable")[:top_k] if not np.isnan(scores[row])]  # NaN is last
        return [{"image": self.images[row], "score": float(scores[row])} for row in best]

    def _cached(self, folder: Path | None) -> np.ndarray:
        """(n, D) float32 of unit norm; NaN for an unreadable image."""
        if folder is None or not all(isinstance(image, str) for image in self.images):
            return self._embedded()
        digest = hashlib.blake2b(digest_size=16)
        for name, values in sorted(self.classifier.model.state_dict().items()):
            digest.update(name.encode() + values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(self.classifier.image_processor.to_json_string().encode())
        with ThreadPoolExecutor(THREADS) as pool:
            digest.update("\n".join(pool.map(_digest_of_file, self.images)).encode())
        file = folder / f"{digest.hexdigest()}.npy"
        if file.is_file():
            return np.load(file, allow_pickle=False)
        embeds, unfinished = self._embedded(), file.with_suffix(f".{os.getpid()}.npy")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            np.save(unfinished, embeds)
            unfinished.replace(file)
        except OSError as error:
            logger.info("The embeddings of the images are not kept: %s", error)
            with contextlib.suppress(OSError):
                unfinished.unlink()
        return embeds

    def _embedded(self) -> np.ndarray:
        dim, batches = self.classifier.model.config.text_embed_dim, range(0, len(self.images), BATCH)
        embeds = np.full((len(self.images), dim), np.nan, dtype=np.float32)
        for start in tqdm(batches, desc="Embedding images", unit="batch", leave=False, disable=len(batches) < 2):
            opened = {row: _opened(self.images[row]) for row in range(start, min(start + BATCH, len(self.images)))}
            rows = [row for row, image in opened.items() if image is not None]
            if rows:
                embeds[rows] = self.classifier.embed_images([opened[row] for row in rows], batch_size=BATCH).numpy()
        if (bad := np.flatnonzero(np.isnan(embeds[:, 0]))).size:
            logger.warning("%d of %d images cannot be read, such as %s.", len(bad), len(embeds), self.images[bad[0]])
        return embeds


def _digest_of_file(path: str) -> str:
    try:
        return content_digest(content_of({"bytes": None, "path": path}))
    except OSError:
        return "unreadable"


def _opened(image: Any) -> PIL.Image.Image | None:
    """RGB and upright; None if it cannot be read."""
    if isinstance(image, (str, Path)):
        image = {"bytes": None, "path": str(image)}
    try:
        return to_rgb(open_image(image))
    except Exception:  # Pillow's readers raise almost anything for a damaged file
        return None


def files_in(folder: str | Path) -> list[str]:
    """The images in a folder and its subfolders, by name."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r} of images.")
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith("."))
    files = sorted(str(path) for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return files
