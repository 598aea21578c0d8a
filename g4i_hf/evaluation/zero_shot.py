"""Classes by their texts, without the classifier: a split may show concepts that were never seen in training."""

import logging

import numpy as np
import torch
from datasets import Dataset

from ..embedding import EncoderArguments, encoder_from
from ..embedding.embed import class_name_embeds
from .metrics import recall_at
from .predict import Predictions, centred, texts_of

logger = logging.getLogger(__name__)


def zero_shot_metrics(
    predictions: Predictions, split: Dataset, name_embeds: np.ndarray | None = None
) -> dict[str, float]:
    """
    Each labelled image is given the class whose text is nearest, among the classes that the split shows. A text that
    is as near as that of the own class is a miss. Two kinds of text:

    - `captions`: the mean over the distinct captions that the split has of the class. The own caption of an image is
      one of them. Classes without captions are no candidates, and their images are left out.
    - `names`: the class name alone, which no image of the split has a part in.

    Args:
        predictions: of the split.
        split: with text embeddings, for `captions`.
        name_embeds: (num_labels, D) of the class names, see [`embeds_of_class_names`], for `names`.

    Returns:
        `zero_shot_captions_accuracy`, `zero_shot_captions_chance`, `zero_shot_names_accuracy` and
        `zero_shot_names_chance`, as far as the split has labels and texts.
    """
    found: dict[str, float] = {}
    texts = texts_of(split, predictions)
    if texts is not None:
        labels = np.repeat(predictions.labels, texts.counts)
        _, first = np.unique(np.stack([texts.text_keys, labels]), axis=1, return_index=True)
        first = first[labels[first] >= 0]
        classes, members = np.unique(labels[first], return_inverse=True)
        sums = np.zeros((len(classes), texts.embeds.shape[1]), dtype=np.float32)
        np.add.at(sums, members, texts.embeds[first])
        found |= _accuracy(predictions, classes, sums, "captions")
    comparable = name_embeds is not None and predictions.image_embeds is not None
    if comparable and name_embeds.shape[1] == predictions.image_embeds.shape[1]:
        classes = np.unique(predictions.labels[predictions.labels >= 0])
        found |= _accuracy(predictions, classes, centred(name_embeds[classes], predictions), "names")
    return found


def _accuracy(predictions: Predictions, classes: np.ndarray, embeds: np.ndarray, kind: str) -> dict[str, float]:
    """Recall at 1 of the own class; the norm of a class vector does not count."""
    if len(classes) == 0:
        return {}
    rows = np.flatnonzero(np.isin(predictions.labels, classes))
    own = np.searchsorted(classes, predictions.labels[rows])
    embeds = embeds / np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), 1e-12)
    found = recall_at(predictions.image_embeds[rows], embeds, np.arange(len(rows)), own, ks=(1,))
    return {f"zero_shot_{kind}_accuracy": found["recall_at_1"], f"zero_shot_{kind}_chance": found["chance_at_1"]}


def embeds_of_class_names(
    id2label: dict[int, str], args: EncoderArguments, device: str | torch.device
) -> np.ndarray | None:
    """
    (num_labels, D) float32 of unit norm: the class names as words, by the text encoder of the captions. None
    where it is not known or not to be had, which is said.
    """
    if args.text_encoder is None:
        logger.info("No zero-shot accuracy by class names: text_encoder, that of the captions, is not given.")
        return None
    try:
        encoder = encoder_from(args, device)
    except OSError as error:
        logger.warning("No zero-shot accuracy by class names: %s", error)
        return None
    names = [id2label[index] for index in sorted(id2label)]
    return class_name_embeds(names, encoder, args).astype(np.float32)
