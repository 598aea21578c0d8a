"""Caption quality: `caption_weight` is 1 for a caption, 0.5 for a doubtful one, 0 where there is none."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset
from PIL import Image as PILImage
from tqdm import tqdm

from .. import columns
from ..data.images import open_image, to_rgb
from ..files import did_you_mean, read_mapping
from ..options import QualityArguments
from .cleaning import UNSPACED
from .stage import CLEANED, RAW, REASON, STATUS, Captioned

DOUBTFUL = 0.5
ENCODED, COMPARED, SCORED = 256, 4096, 32  # captions encoded, compared with all classes, scored with images at once

Encode = Callable[[list[str]], np.ndarray]
Scorer = Callable[[Sequence[PILImage.Image], Sequence[str]], np.ndarray]


def judge_captions(
    captioned: Captioned,
    splits: Mapping[str, Any],
    args: QualityArguments,
    *,
    encode: Encode | None = None,
    scorer: Scorer | None = None,
) -> dict[str, pd.DataFrame]:
    """
    Judges all captions, as [`judge`] does those of a split, and adds weights and figures to `captioned`. `splits` are
    the rows, with images and labels.
    """
    judged = {}
    for name in ("quality_encoder", "clip_scorer"):
        if model := getattr(args, name):  # the name of a local folder, without its path
            captioned.judged_by[name] = Path(model).resolve().name if Path(model).is_dir() else model
    if args.synonyms_file:
        captioned.judged_by["synonyms"] = True
    for name, split in captioned.splits.items():
        table, names = caption_table(split, splits[name])
        synonyms = read_synonyms(args.synonyms_file, names) if names else {}
        scores = image_text_scores(table, splits[name], scorer) if scorer is not None else None
        judged[name] = judge(table, names, synonyms=synonyms, encode=encode, scores=scores)
        captioned.quality[name] = {key: value for key, value in figures(judged[name]).items() if value is not None}
        weights = judged[name][judged[name]["weight"] > 0].groupby("row")["weight"].mean()  # of an image's captions
        captioned.weights[name] = weights.reindex(range(len(split)), fill_value=0).to_numpy(np.float32)
    return judged


def caption_table(split: Dataset, images: Dataset | None) -> tuple[pd.DataFrame, list[str] | None]:
    """One line per caption of a split, with the `row` of its image and its `label`, -1 for none; and class names."""
    table = pd.DataFrame(split.to_dict(), dtype=object)
    table = table.explode([columns.CAPTION, RAW, STATUS, REASON, CLEANED])
    table = table.astype(object).where(table.notna(), None)
    table[columns.LABEL], names = -1, None
    feature = None if images is None else images.features.get(columns.LABEL)
    if isinstance(feature, ClassLabel):
        labels = np.array([-1 if label is None else label for label in images[columns.LABEL]], dtype=int)
        table[columns.LABEL], names = labels[table.index], feature.names
    table = table[table[STATUS].notna()]  # an image that nobody was asked about may have an empty list
    return table.reset_index(names="row"), names


def judge(
    table: pd.DataFrame,
    names: Sequence[str] | None = None,
    *,
    synonyms: Mapping[str, list[str]] | None = None,
    encode: Encode | None = None,
    scores: np.ndarray | None = None,
) -> pd.DataFrame:
    """
    Of N captions, see [`caption_table`], and their (N,) image-text scores, NaN where there is none: the table with
    `class`, `named` (see [`names_label`]), `copies` (how many have the same text), `margin` and `score` (NaN where not
    measured), `nearest` (class beside its own), `doubts` with commas between them, and `weight`.
    """
    table, captions, labels = table.copy(), table[columns.CAPTION], table[columns.LABEL]
    class_of = dict(enumerate(names or ()))
    table["class"] = [class_of.get(label, "") for label in labels]
    table["named"] = UNKNOWN if names is None else names_label(captions, labels, names, synonyms)
    table["margin"], table["nearest"], table["score"] = np.nan, "", np.nan if scores is None else scores
    is_there = captions.notna()
    is_labelled = is_there & (labels >= 0)
    if encode is not None and labels[is_labelled].nunique() > 1:
        margins, nearest = class_margins(captions[is_labelled].tolist(), labels[is_labelled].to_numpy(), encode)
        table.loc[is_labelled, "margin"] = margins
        table.loc[is_labelled, "nearest"] = [class_of.get(label, "") for label in nearest]
    same_text = captions.str.rstrip(". ").str.casefold()
    table["copies"] = is_there.groupby(same_text).transform("sum").fillna(0).astype(int)
    classes_of_text = labels.where(is_labelled).groupby(same_text).transform("nunique")
    low, high = table["score"].quantile([0.25, 0.75])
    doubts = {
        "cut off": table[CLEANED].str.contains("unfinished", na=False),
        "in a loop": table[CLEANED].str.contains("repetitions", na=False),
        "nearer to another class": table["margin"] < 0,
        "given to other classes too": is_labelled & (classes_of_text > 1),
        "fits its image badly": table["score"] < low - 1.5 * (high - low),  # Tukey's rule for outliers
    }
    table["doubts"] = ""
    for reason, is_doubted in doubts.items():
        table.loc[is_there & is_doubted, "doubts"] += f"{reason}, "
    table["doubts"] = table["doubts"].str.removesuffix(", ")
    table["weight"] = np.select([~is_there, table["doubts"] != ""], [0.0, DOUBTFUL], 1.0)
    return table


def class_margins(captions: list[str], labels: np.ndarray, encode: Encode) -> tuple[np.ndarray, np.ndarray]:
    """
    How much nearer each caption is to the centroid of its own class than to that of any other. With unit vectors e_i
    and the sum S_c of those of class c, the margin of caption i of class y is

        e_i · (S_y - e_i) / |S_y - e_i|  -  max over c ≠ y of  e_i · S_c / |S_c|

    Returns (N,) margins, NaN for the only caption of a class; and (N,) the nearest other classes.
    """
    text_of, texts = pd.factorize(np.array(captions, dtype=object))
    parts = [encode(texts[start : start + ENCODED].tolist()) for start in range(0, len(texts), ENCODED)]
    vectors = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("The quality_encoder gives embeddings that are not finite. Choose another one.")
    classes, class_of = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), vectors.shape[1]))
    np.add.at(sums, class_of, vectors[text_of])
    centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    margins, nearest = np.empty(len(captions)), np.empty(len(captions), dtype=int)
    for start in range(0, len(captions), COMPARED):
        part = slice(start, start + COMPARED)
        own, mine = class_of[part], vectors[text_of[part]]
        nearness = mine @ centroids.T
        nearness[np.arange(len(own)), own] = -np.inf
        others = sums[own] - mine
        with np.errstate(invalid="ignore"):  # 0 / 0 without others
            margins[part] = (mine * others).sum(1) / np.linalg.norm(others, axis=1) - nearness.max(1)
        nearest[part] = classes[nearness.argmax(1)]
    return margins, nearest


def figures(judged: pd.DataFrame) -> dict[str, Any]:
    """Counts, shares and means for `stage.json`; None for what was not measured."""
    there = judged[judged["weight"] > 0]
    margins, known = there["margin"].dropna(), there["named"][there["named"] != UNKNOWN]

    def mean(values: pd.Series) -> float | None:
        return float(values.mean()) if values.notna().any() else None

    return {
        "captions": len(there),
        "without_caption": len(judged) - len(there),
        "doubtful": int((there["weight"] < 1).sum()),
        "names_label": mean(known == NAMED),
        "nearer_to_another_class": mean(margins < 0),
        "mean_weight": mean(there["weight"]),
        "mean_margin": mean(margins),
        "mean_score": mean(there["score"]),
        "share_of_duplicates": mean(there["copies"] > 1),
    }


def image_text_scores(table: pd.DataFrame, images: Dataset, scorer: Scorer) -> np.ndarray:
    """(N,) scores of captions and their images; NaN without a caption, or for an image that cannot be read."""
    scores = np.full(len(table), np.nan)
    there = np.flatnonzero(table[columns.CAPTION].notna())
    for start in tqdm(range(0, len(there), SCORED), desc="Comparing captions with images", unit_scale=SCORED):
        pictures = {}
        for position in there[start : start + SCORED]:
            try:
                pictures[position] = to_rgb(open_image(images[int(table["row"].iloc[position])][columns.IMAGE]))
            except Exception:  # whatever a broken file makes of Pillow
                continue
        if pictures:
            captions = table[columns.CAPTION].iloc[list(pictures)].tolist()
            scores[list(pictures)] = scorer(list(pictures.values()), captions)
    return scores


class ClipScorer:
    """
    Cosine similarity of image and text embeddings of a CLIP, SigLIP, SigLIP 2 or similar model, by Hub id or folder.
    Texts longer than its window are truncated. OSError when it cannot be found, ValueError for a model of another
    kind.
    """

    def __init__(self, model: str):
        import torch
        from transformers import AutoModel, AutoProcessor

        self.model = AutoModel.from_pretrained(model, trust_remote_code=False, dtype=torch.float32)
        config = self.model.config
        if not hasattr(self.model, "get_image_features") or not hasattr(self.model, "get_text_features"):
            raise ValueError(f"{model!r} is a {config.model_type!r}: give a CLIP or SigLIP model.")
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
        # SigLIP pools at the last position and was trained on texts padded to the whole window
        padding = "max_length" if config.model_type.startswith("siglip") else True
        window = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        self.text_options = {"padding": padding, "truncation": True, "max_length": window, "return_tensors": "pt"}

    def __call__(self, images: Sequence[PILImage.Image], texts: Sequence[str]) -> np.ndarray:
        """n images and n texts -> (n,) float32, the cosine similarity of each pair."""
        import torch

        seen = self.processor(images=[to_rgb(image) for image in images], return_tensors="pt").to(self.model.device)
        read = self.processor.tokenizer(list(texts), **self.text_options).to(self.model.device)
        with torch.inference_mode():
            towers = self.model.get_image_features(**seen), self.model.get_text_features(**read)
        embeds = [getattr(output, "pooler_output", output) for output in towers]
        return torch.nn.functional.cosine_similarity(*embeds).cpu().numpy()


# --- Class names in captions -----------------------------------------------------------------------------------------

UNKNOWN, NOT_NAMED, NAMED = -1, 0, 1

_NUMBER = re.compile(r"n\d{8}[-_ ]*|\d+[.)_-]+(?=[^\W\d])")  # of n02085620-Chihuahua, 005.Crested_Auklet
_MEANINGLESS = re.compile(r"(?:label|class)?[\s_-]*\d*", re.I)
_IN_BRACKETS = re.compile(r"\s*\([^()]*\)")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")
_SPACES = re.compile(r"[\s_\-‐‑–—]+")
# Endings of plurals and what stands for them in the singular, and the other way round: berries, foxes, dogs; leaves
_SINGULARS = ((r"(\w\w)ies$", r"\1y"), (r"(s|x|z|ch|sh|o)es$", r"\1"), (r"([^siu])s$", r"\1"))
_PLURALS = (
    *((r"$", "s"), (r"$", "'s"), (r"(s|x|z|ch|sh|o)$", r"\1es"), (r"([^aeiou])y$", r"\1ies")),
    *((r"([^f])f$", r"\1ves"), (r"fe$", "ves"), (r"man$", "men")),
)


def read_synonyms(path: str | Path | None, names: Sequence[str]) -> dict[str, list[str]]:
    """Reads synonyms by class from a YAML file of `class name: [word, other word]` lines; ValueError for faults."""
    if path is None:
        return {}
    try:
        lines = read_mapping(path)
    except (OSError, ValueError) as error:
        wanted, why = "it must hold `class name: [word, other word]` lines", " ".join(str(error).split())
        raise ValueError(f"synonyms_file {str(path)!r} cannot be read; {wanted}: {why}") from error
    found: dict[str, list[str]] = {}
    for name, words in lines.items():
        where = f"synonyms_file {str(path)!r}, class {str(name)!r}"
        words = words if isinstance(words, list) else [words]
        if str(name) not in names:
            raise ValueError(f"{where}: there is no such class.{did_you_mean(str(name), names)}")
        if not all(isinstance(word, str | int | float) for word in words):
            raise ValueError(f"{where}: give a list of words.")
        found[str(name)] = [str(word) for word in words]
    return found


def terms_of(name: str, synonyms: Sequence[str] = ()) -> list[str]:
    """
    The terms by which a caption may name a class: each part of `tench, Tinca tinca`, with spaces for underscores and
    hyphens, without leading numbers and text in brackets. None for a meaningless name such as `LABEL_3`.
    """
    terms = []
    for part in [*_IN_BRACKETS.sub("", _NUMBER.sub("", name, count=1)).split(","), *synonyms]:
        part = _SPACES.sub(" ", _CAMEL_CASE.sub(" ", part)).strip().casefold()
        is_digit = part.isdecimal() and len(part) <= 2  # of digits, a class may be called 7
        if part and part not in terms and (is_digit or not _MEANINGLESS.fullmatch(part)):
            terms.append(part)
    return terms


def names_label(
    captions: Sequence[str | None],
    labels: np.ndarray,
    names: Sequence[str],
    synonyms: Mapping[str, list[str]] | None = None,
) -> np.ndarray:
    """
    Whether each of N captions has its class name, or a synonym, in singular or plural, as a whole word: (N,) int8, 1,
    0, or -1 without caption, label or a meaningful class name.
    """
    patterns = [_pattern_of(terms_of(name, (synonyms or {}).get(name, ()))) for name in names]
    named = np.full(len(captions), UNKNOWN, dtype=np.int8)
    for row, (caption, label) in enumerate(zip(captions, labels, strict=True)):
        pattern = patterns[label] if caption is not None and label >= 0 else None
        if pattern is not None:
            named[row] = NAMED if pattern.search(caption.casefold()) else NOT_NAMED
    return named


def _pattern_of(terms: Sequence[str]) -> re.Pattern | None:
    """A pattern for text in lower case; None without terms."""
    alternatives = []
    for term in terms:
        *before, last = term.split(" ")
        forms = "|".join(sorted(map(re.escape, _forms(last)), key=len, reverse=True))
        found = _SPACES.pattern.join([*map(re.escape, before), f"(?:{forms})"])
        has_words = not re.search(f"[{UNSPACED}]", term)
        alternatives.append(rf"(?<![^\W_]){found}(?![^\W_])" if has_words else found)
    return re.compile("|".join(alternatives)) if alternatives else None


def _forms(word: str) -> set[str]:
    """The word in singular and plural, by its ending."""
    if not word.isalpha():
        return {word}
    singulars = {word}
    if len(word) > 3:
        singulars |= {re.sub(ending, singular, word) for ending, singular in _SINGULARS}
    plurals = {re.sub(ending, plural, one) for one in singulars for ending, plural in _PLURALS}
    return singulars | plurals
