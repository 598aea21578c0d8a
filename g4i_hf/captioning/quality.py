"""
How much each caption should teach: `caption_weight`, a product of factors that are 1 where nothing speaks against it.

| factor | of caption i | value |
|---|---|---|
| cut | the model was cut off, or ran in a loop | [`CUT_OFF`], [`LOOPED`] (both: their product) |
| label | does not name its class, which a share p of the captions of that class names | 1 - [`UNNAMED`] p |
| margin | m_i, nearness to its own class minus nearness to the nearest other one | sigmoid((m_i - t) / T) |
| duplicate | rows of its class among all labelled rows that have the same caption | the share of them |
| score | s_i, image-text score | sigmoid((s_i - t) / T) |

T = spread / 3 and t = median - 2 spread of the values measured (for margins at most 0: a caption nearer to its own
class than to any other is not doubted), where spread is the interquartile range / 1.349, a standard deviation that
outliers do not move. So at the median a factor is above 0.99, a usual value is hardly touched, and what lies far
outside on the wrong side comes near 0. The margin of a caption that names its class counts for [`NAMED_AT_LEAST`] or
more: it may tell of a rare view. What was not measured has the factor 1; no caption has the weight 0.

The constants are judgements and not tuned on any data.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from PIL import Image as PILImage
from tqdm import tqdm

from .. import columns
from ..data.images import open_image, to_rgb
from ..options import QualityArguments
from .label_names import NAMED, NOT_NAMED, UNKNOWN, names_label, read_synonyms
from .stage import CLEANED, RAW, REASON, STATUS, Captioned

CUT_OFF, LOOPED = 0.9, 0.7
UNNAMED = 0.2
NAMED_AT_LEAST = 0.5
LEAST_MEASURED = 10  # fewer values have no spread to speak of
FACTORS = {
    "cut": "cut off or in a loop",
    "label": "does not name its class, as others of the class do",
    "margin": "nearer to another class than to its own",
    "duplicate": "the same caption is given to other classes",
    "score": "image and caption fit badly",
}
BLOCK = 4096  # captions encoded, and compared with all classes, at once
IMAGES, BATCH_SIZE = 256, 32  # images held, and encoded, at once

Encode = Callable[[list[str]], np.ndarray]
Scorer = Callable[[Sequence[PILImage.Image], Sequence[str]], np.ndarray]


@dataclass
class Quality:
    """
    Of N captions.

    Attributes:
        weights: (N,) float32 in [0, 1].
        factors: (N,) float32 each, by the names of [`FACTORS`].
        named: (N,) int8, 1 where the class is named, 0 where it is not, -1 where that cannot be said.
        margins: (N,) float32, NaN where not measured; None without an encoder.
        nearest: (N,) the nearest other class, -1 where not measured; None without an encoder.
        scores: (N,) as given.
        copies: (N,) how many have the same caption, this one included; 0 without a caption.
        figures: counts, shares and histograms, as JSON values.
    """

    weights: np.ndarray
    factors: dict[str, np.ndarray]
    named: np.ndarray
    margins: np.ndarray | None
    nearest: np.ndarray | None
    scores: np.ndarray | None
    copies: np.ndarray
    figures: dict[str, Any] = field(default_factory=dict)

    def doubts(self, position: int) -> list[str]:
        """Why a caption has less than full weight, the strongest reason first."""
        found = [(float(values[position]), FACTORS[name]) for name, values in self.factors.items()]
        return [reason for value, reason in sorted(found) if value < 0.9]


@dataclass
class CaptionedSplit:
    """
    N captions of a split; a row with several prompts has several.

    Attributes:
        image_ids: of the row of each.
        image_of: opens the image of the caption at a position; called for those that are shown.
        captions: cleaned; None where there is none.
        raw: the answers as they came.
        statuses: `ok`, one of [`~g4i_hf.captioning.answers.FAILURES`], or `missing`.
        reasons: of failures.
        applied: names of the cleaning steps that changed each.
        labels: (N,) classes, -1 where there is none.
        label_names: of the classes.
        quality: what [`judge`] said.
    """

    image_ids: Sequence[str]
    image_of: Callable[[int], PILImage.Image]
    captions: Sequence[str | None]
    raw: Sequence[str | None]
    statuses: Sequence[str]
    reasons: Sequence[str | None]
    applied: Sequence[tuple[str, ...]]
    labels: np.ndarray
    label_names: Sequence[str] | None = None
    quality: Quality | None = None

    def class_of(self, position: int) -> str:
        """Name of its class, or nothing."""
        label = int(self.labels[position])
        return self.label_names[label] if label >= 0 and self.label_names is not None else ""


def judge_captions(
    captioned: Captioned,
    splits: Mapping[str, Dataset],
    args: QualityArguments,
    *,
    encode: Encode | None = None,
    scorer: Scorer | None = None,
) -> dict[str, CaptionedSplit]:
    """
    Adds weights and figures to `captioned`.

    Args:
        captioned: the stage.
        splits: the images, and their labels where there are any; of streams there is neither.
        args: synonyms.
        encode: gives unit vectors (n, D) of n texts.
        scorer: how well n images and n texts fit.

    Returns:
        The splits as a report shows them.

    Raises:
        ValueError: for synonyms of classes that there are not, and for an embedding that is not finite.
    """
    for name in ("quality_encoder", "clip_scorer"):
        if model := getattr(args, name):  # of a local folder only its name
            captioned.judged_by[name] = Path(model).resolve().name if Path(model).is_dir() else model
    if args.synonyms_file:
        captioned.judged_by["synonyms"] = True
    judged = {}
    for name, split in captioned.splits.items():
        images = splits[name] if isinstance(splits[name], Dataset) else None  # a stream is not read again
        flat, owners = _flattened(split, images)
        synonyms = read_synonyms(args.synonyms_file, flat.label_names) if flat.label_names is not None else {}
        scores = image_text_scores(flat, scorer) if scorer is not None and images is not None else None
        flat.quality = judge(
            flat.captions, flat.labels, flat.label_names, flat.applied, synonyms=synonyms, encode=encode, scores=scores
        )
        figures = flat.quality.figures
        summary = {key: figures[key] for key in ("captions", "below_half", "names_label", "nearer_to_another_class")}
        summary |= {f"mean_{key}": figures[key] and figures[key]["mean"] for key in ("weight", "margin", "score")}
        summary["share_of_duplicates"] = figures["duplicates"]["share"]
        captioned.quality[name] = {key: value for key, value in summary.items() if value is not None}
        captioned.weights[name] = weights_of_rows(flat.quality.weights, owners, len(split))
        judged[name] = flat
    return judged


def _flattened(split: Dataset, images: Dataset | None) -> tuple[CaptionedSplit, np.ndarray]:
    """A line for each caption, also of rows with several; and (N,) the row of each."""
    values = {name: split[name][:] for name in (columns.CAPTION, RAW, STATUS, REASON, CLEANED)}
    owners = np.arange(len(split))
    if any(isinstance(value, list) for value in values[STATUS]):
        owners = np.repeat(owners, [len(value) for value in values[STATUS]])
        values = {name: [inner for value in found for inner in value] for name, found in values.items()}
    labels, names = np.full(len(owners), -1), None
    feature = None if images is None else images.features.get(columns.LABEL)
    if isinstance(feature, ClassLabel):
        known = [-1 if label is None else label for label in images[columns.LABEL]]
        labels, names = np.asarray(known, dtype=np.int64)[owners], feature.names
    image_ids = split[columns.IMAGE_ID][:]
    flat = CaptionedSplit(
        image_ids=[image_ids[row] for row in owners],
        image_of=lambda position: open_image(images[int(owners[position])][columns.IMAGE]),
        captions=values[columns.CAPTION],
        raw=values[RAW],
        statuses=values[STATUS],
        reasons=values[REASON],
        applied=[tuple(filter(None, (steps or "").split(","))) for steps in values[CLEANED]],
        labels=labels,
        label_names=names,
    )
    return flat, owners


def image_text_scores(split: CaptionedSplit, scorer: Scorer) -> np.ndarray:
    """(N,) how well each caption fits its image; NaN without a caption, or for an image that cannot be read."""
    scores = np.full(len(split.captions), np.nan)
    there = [position for position, caption in enumerate(split.captions) if caption]
    for start in tqdm(range(0, len(there), IMAGES), desc="Comparing captions with images", unit_scale=IMAGES):
        pictures = {}
        for position in there[start : start + IMAGES]:
            try:
                pictures[position] = split.image_of(position)
                pictures[position].load()
            except Exception:  # whatever a broken file makes of Pillow
                pictures.pop(position, None)
        if pictures:
            captions = [split.captions[position] for position in pictures]
            scores[list(pictures)] = scorer(list(pictures.values()), captions)
    return scores


def judge(
    captions: Sequence[str | None],
    labels: np.ndarray,
    names: Sequence[str] | None = None,
    applied: Sequence[Sequence[str]] | None = None,
    *,
    synonyms: Mapping[str, list[str]] | None = None,
    encode: Encode | None = None,
    scores: np.ndarray | None = None,
) -> Quality:
    """
    Args:
        captions: N cleaned ones; None where there is none.
        labels: (N,) classes; -1 where a row is not labelled, and what needs a label is left out.
        names: of the classes.
        applied: names of the cleaning steps that changed each.
        synonyms: other words for classes, see [`~g4i_hf.captioning.label_names.read_synonyms`].
        encode: gives unit vectors (n, D) of n texts.
        scores: (N,) image-text scores, NaN where there is none.
    """
    count = len(captions)
    present = np.array([caption is not None for caption in captions], dtype=bool)
    named = np.full(count, UNKNOWN, dtype=np.int8)
    if names is not None:
        named = names_label(captions, labels, names, synonyms)
    margins = nearest = None
    if encode is not None and len(np.unique(labels[labels >= 0])) > 1:
        margins, nearest = class_margins(captions, labels, encode)
    copies, share = duplicate_shares(captions, labels)
    steps = applied if applied is not None else [()] * count
    cut = [(CUT_OFF if "unfinished" in of else 1.0) * (LOOPED if "repetitions" in of else 1.0) for of in steps]
    factors = {
        "cut": np.array(cut),
        "label": label_factor(named, labels),
        "margin": np.ones(count),
        "duplicate": share,
        "score": doubt_factor(scores) if scores is not None else np.ones(count),
    }
    if margins is not None:
        doubted = doubt_factor(margins, highest=0.0)
        factors["margin"] = np.where(named == NAMED, np.maximum(doubted, NAMED_AT_LEAST), doubted)
    factors = {name: np.where(present, values, 1.0).astype(np.float32) for name, values in factors.items()}
    weights = np.where(present, np.prod(list(factors.values()), axis=0), 0.0).astype(np.float32)
    quality = Quality(weights, factors, named, margins, nearest, scores, copies)
    quality.figures = _figures(quality, captions, labels)
    return quality


def label_factor(named: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    (N,) from 1 - [`UNNAMED`] to 1. Not to name the class means little by itself, since a plain prompt does not ask for
    it, and something where the other captions of the class do.
    """
    size = max(int(labels.max(initial=-1)) + 1, 1)
    total = np.bincount(labels[named != UNKNOWN], minlength=size)
    share = np.bincount(labels[named == NAMED], minlength=size) / np.maximum(total, 1)
    return np.where(named == NOT_NAMED, 1.0 - UNNAMED * share[np.maximum(labels, 0)], 1.0)


def doubt_factor(values: np.ndarray, highest: float = np.inf) -> np.ndarray:
    """
    (N,) in (0, 1]: sigmoid((v - t) / T), see the head of this file; 1 where v is NaN.

    Args:
        values: (N,) the higher the better.
        highest: bound of t, the value that halves the weight.
    """
    measured = np.isfinite(values)
    factor = np.ones(len(values))
    if measured.sum() >= LEAST_MEASURED:
        low, median, high = np.percentile(values[measured], [25, 50, 75])
        spread = (high - low) / 1.349
        if spread > 0:
            middle = min(highest, median - 2 * spread)
            factor[measured] = 1 / (1 + np.exp(-np.clip((values[measured] - middle) / (spread / 3), -50, 50)))
    return factor


def duplicate_shares(captions: Sequence[str | None], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns:
        (N,) how many have the same caption, apart from case and the last full stop; and (N,) of those with a label,
        the share that has the label of this one: 1 where there is no label.
    """
    numbers: dict[str, int] = {}
    keys = np.array([-1 if text is None else numbers.setdefault(_key(text), len(numbers)) for text in captions], int)
    there, labelled = keys >= 0, (keys >= 0) & (labels >= 0)
    copies = np.where(there, np.bincount(keys[there], minlength=1)[np.maximum(keys, 0)], 0)
    share = np.ones(len(keys))
    if labelled.any():
        pairs = keys[labelled] * (labels.max() + 1) + labels[labelled]
        _, inverse, same = np.unique(pairs, return_inverse=True, return_counts=True)
        share[labelled] = same[inverse] / np.bincount(keys[labelled])[keys[labelled]]
    return copies, share


def weights_of_rows(weights: np.ndarray, owners: np.ndarray, num_rows: int) -> np.ndarray:
    """
    (num_rows,) float32: the mean weight of the captions that a row has; 0 for a row without any.

    Args:
        weights: (N,) of captions, 0 where there is none.
        owners: (N,) row of each.
        num_rows: of the split.
    """
    there = weights > 0
    total = np.bincount(owners[there], weights[there], minlength=num_rows)
    return (total / np.maximum(np.bincount(owners[there], minlength=num_rows), 1)).astype(np.float32)


def _key(caption: str) -> str:
    return caption.strip().rstrip(".").casefold()


# --- Margins ---------------------------------------------------------------------------------------------------------


def class_margins(
    captions: Sequence[str | None], labels: np.ndarray, encode: Encode, block: int = BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """
    With unit vectors e_i and the sum S_c of those of class c, the margin of caption i of class y is

        e_i · (S_y - e_i) / |S_y - e_i|  -  max over c ≠ y of  e_i · S_c / |S_c|

    so that a caption does not speak for itself. Each distinct caption is encoded once; vectors wait on the disk, and
    memory holds a block of them and one vector a class.

    Args:
        captions: N texts; None where there is none.
        labels: (N,) classes, -1 where a row is not labelled.
        encode: gives unit vectors (n, D) of n texts.
        block: texts at once.

    Returns:
        (N,) float32 margins and (N,) int64 nearest other classes; NaN and -1 without caption or label, and where no
        other caption of the class, or no other class, is there to compare with.

    Raises:
        ValueError: when `encode` gives vectors that are not finite.
    """
    margins = np.full(len(captions), np.nan, dtype=np.float32)
    nearest = np.full(len(captions), -1, dtype=np.int64)
    rows = np.array([row for row, text in enumerate(captions) if text is not None and labels[row] >= 0], dtype=int)
    if not len(rows):
        return margins, nearest
    texts, text_of = np.unique(np.array([captions[row] for row in rows], dtype=object), return_inverse=True)
    classes, class_of = np.unique(labels[rows], return_inverse=True)
    alone = np.bincount(class_of) < 2
    blocks = [slice(start, start + block) for start in range(0, len(rows), block)]
    with tempfile.TemporaryFile() as file:
        vectors = _encoded(texts, encode, block, file)
        sums = np.zeros((len(classes), vectors.shape[1]))
        for part in blocks:
            np.add.at(sums, class_of[part], vectors[text_of[part]].astype(np.float64))
        centroids = _unit(sums).astype(np.float32)
        for part in blocks:
            own, mine = class_of[part], vectors[text_of[part]].astype(np.float32)
            nearness = mine @ centroids.T
            nearness[np.arange(len(own)), own] = -np.inf
            others = nearness.argmax(1)
            found = (mine * _unit(sums[own] - mine)).sum(1) - nearness.max(1)
            comparable = ~alone[own] & np.isfinite(found)
            margins[rows[part]] = np.where(comparable, found, np.nan)
            nearest[rows[part]] = np.where(comparable, classes[others], -1)
        del vectors
    return margins, nearest


def _encoded(texts: np.ndarray, encode: Encode, block: int, file: Any) -> np.ndarray:
    """(n, D) float16, on the disk."""
    vectors = None
    for start in range(0, len(texts), block):
        some = texts[start : start + block].tolist()
        encoded = np.asarray(encode(some))
        finite = np.isfinite(encoded).all(1)
        if not finite.all():
            caption = some[int(finite.argmin())][:80]
            raise ValueError(
                f"The embedding of the caption {caption!r} is not finite. Choose another quality_encoder."
            )
        if vectors is None:
            vectors = np.memmap(file, dtype=np.float16, mode="w+", shape=(len(texts), encoded.shape[1]))
        vectors[start : start + block] = encoded
    return vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


# --- Figures ---------------------------------------------------------------------------------------------------------


def histogram(values: np.ndarray | None, low: float | None = None, high: float | None = None) -> dict[str, Any] | None:
    """Edges, counts, mean and quantiles of the finite values, as JSON values; None without any."""
    if values is None or not np.isfinite(values).any():
        return None
    values = np.asarray(values, dtype=np.float64)[np.isfinite(values)]
    bounds = (values.min() if low is None else low, values.max() if high is None else high)
    counts, edges = np.histogram(values, bins=24, range=bounds)
    quantiles = {str(percent): float(np.percentile(values, percent)) for percent in (5, 25, 50, 75, 95)}
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "quantiles": quantiles,
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }


def _figures(quality: Quality, captions: Sequence[str | None], labels: np.ndarray) -> dict[str, Any]:
    def share(found: np.ndarray) -> float | None:
        return float(found.mean()) if len(found) else None

    there = quality.copies > 0
    weights = quality.weights[there]
    margins = np.empty(0) if quality.margins is None else quality.margins[np.isfinite(quality.margins)]
    same: dict[str, list[int]] = {}
    for row in np.flatnonzero(quality.copies > 1):
        same.setdefault(_key(captions[row]), []).append(int(row))
    duplicates = sorted(same.values(), key=len, reverse=True)
    return {
        "captions": int(there.sum()),
        "without_caption": int((~there).sum()),
        "unlabelled": int((labels < 0).sum()),
        "weight": histogram(weights, 0.0, 1.0),
        "below_half": int((weights < 0.5).sum()),
        "names_label": share(quality.named[quality.named != UNKNOWN] == NAMED),
        "margin": histogram(quality.margins),
        "nearer_to_another_class": share(margins < 0),
        "score": histogram(quality.scores),
        "mean_factor": {name: share(values[there]) for name, values in quality.factors.items()},
        "duplicates": {
            "captions": len(duplicates),
            "rows": sum(map(len, duplicates)),
            "share": sum(map(len, duplicates)) / max(int(there.sum()), 1),
            "rows_across_classes": int((quality.factors["duplicate"] < 1).sum()),
            "most_common": [
                {
                    "caption": captions[rows[0]],
                    "rows": len(rows),
                    "classes": len(np.unique(labels[rows][labels[rows] >= 0])),
                }
                for rows in duplicates[:20]
            ],
        },
    }


# --- Whether image and caption fit -----------------------------------------------------------------------------------


class ClipScorer:
    """
    Cosine of image and text in the space that the model gives both. Texts longer than its window (77 tokens of CLIP,
    64 of SigLIP) are cut there. Runs on a GPU if there is one.

    Args:
        model: Hub id or folder of a CLIP, SigLIP, SigLIP 2 or similar model with its processor.

    Raises:
        OSError: when the model cannot be found.
        ValueError: when it has no towers for images and texts, or lacks weights.
    """

    def __init__(self, model: str):
        import torch
        from transformers import AutoModel, AutoProcessor

        self.model, info = AutoModel.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
        config = self.model.config
        if not hasattr(self.model, "get_image_features") or not hasattr(self.model, "get_text_features"):
            raise ValueError(
                f"{model!r} is of type {config.model_type!r}, which does not compare images with texts. Give a CLIP "
                "or SigLIP model."
            )
        if info["missing_keys"]:  # they would be random numbers
            raise ValueError(f"{model!r} is no whole model: {sorted(info['missing_keys'])[0]} is missing.")
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.processor = AutoProcessor.from_pretrained(model)
        self.max_tokens = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        # SigLIP pools at the last position and was trained on texts padded to the whole window
        self.padding: bool | str = "max_length" if config.model_type.startswith("siglip") else True

    def __call__(self, images: Sequence[PILImage.Image], texts: Sequence[str]) -> np.ndarray:
        """
        Args:
            images: n images. One that is given several times is encoded once.
            texts: n texts.

        Returns:
            (n,) float32: the cosine of each image and its own text.
        """
        different = {id(image): image for image in images}
        embeds = dict(zip(different, self.embed_images(list(different.values())), strict=True))
        return (np.stack([embeds[id(image)] for image in images]) * self.embed_texts(texts)).sum(1)

    def embed_images(self, images: Sequence[PILImage.Image]) -> np.ndarray:
        """(n, D) float32, rows of unit norm."""

        def encode(some: Sequence[PILImage.Image]) -> Any:
            inputs = self.processor(images=[to_rgb(image) for image in some], return_tensors="pt")
            return self.model.get_image_features(**inputs.to(self.model.device))

        return self._embed(images, encode)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, D) float32, rows of unit norm."""
        cut = {"truncation": True, "max_length": self.max_tokens, "padding": self.padding}

        def encode(some: Sequence[str]) -> Any:
            inputs = self.processor.tokenizer(list(some), return_tensors="pt", **cut)
            return self.model.get_text_features(**inputs.to(self.model.device))

        return self._embed(texts, encode)

    def _embed(self, items: Sequence[Any], encode: Callable[[Sequence[Any]], Any]) -> np.ndarray:
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(items), BATCH_SIZE):
                output = encode(items[start : start + BATCH_SIZE])
                embeds = getattr(output, "pooler_output", output).float()
                parts.append(torch.nn.functional.normalize(embeds, dim=-1).cpu().numpy())
        return np.concatenate(parts)
