"""The captions of labelled images as a teacher of the classifier."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..data import CaptionedImages
from ..losses import UNLABELLED, LabelledTexts, caption_label_loss, caption_labels
from .alignment_arguments import AlignmentArguments
from .alignment_term import Terms

logger = logging.getLogger(__name__)


def warn_of_silent_captions(dataset: Any, args: AlignmentArguments) -> None:
    """Says, before training, that captions of unlabelled images could teach the classifier, where they do not."""
    by_choice = args.align_weight == 0 or args.teacher_weight > 0 or args.classification_loss != "cross_entropy"
    if by_choice or not args.should_log or not isinstance(dataset, CaptionedImages):
        return
    labelled, captioned = dataset.labels != UNLABELLED, dataset.caption_weight > 0
    silent = (captioned & ~labelled).sum()
    if silent and (captioned & labelled).any():
        logger.warning(
            "%s of %s training images have a caption and no label: the classifier learns nothing from them. Their "
            "captions can teach it: --unlabelled pseudo_label --align_weight 1, or --teacher_weight. Those below a "
            "--pseudo_label_threshold are left out by it.",
            f"{silent:,}",
            f"{len(dataset):,}",
        )


class CaptionTeacher:
    """
    Args:
        texts: `embeds` (B, D), `text_keys` (B,), `labels` (B,) and `caption_keys` (B, C), as
            [`~g4i_hf.data.dataset.CaptionedImages.text_bank`] gives them. Those without a label are left out.
        num_labels: number of classes.
        temperature: of the softmax over captions.
        size: captions that an image's own is compared with: where there are more, a sample that stays the same.
        seed: of the sample.
        transform: of embeddings (..., D), such as centring.

    Raises:
        ValueError: when no labelled image has a caption.
    """

    def __init__(
        self,
        texts: dict[str, np.ndarray],
        *,
        num_labels: int,
        temperature: float,
        size: int,
        seed: int,
        transform: Callable[[torch.Tensor], torch.Tensor] = lambda embeds: embeds,
    ):
        rows = np.flatnonzero(texts["labels"] != UNLABELLED)
        if len(rows) == 0:
            raise ValueError("teacher_weight is set, but no labelled image of the training split has a caption.")
        if len(rows) > size:
            rows = np.sort(np.random.default_rng(seed).choice(rows, size, replace=False))
        self.num_labels, self.temperature, self.transform = num_labels, temperature, transform
        names = ("embeds", "text_keys", "labels", "caption_keys")
        embeds, keys, labels, captions = (torch.from_numpy(texts[name][rows]) for name in names)
        single = captions.shape[1] == 1  # else texts are means, which are known by their keys
        self.known = LabelledTexts(embeds.float(), keys, labels, captions[:, 0] if single else None)
        self._is_ready = False

    def __call__(
        self, logits: torch.Tensor, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, Terms]:
        """
        Returns:
            The mean loss over local rows with a caption, the number of these rows, and terms to be logged:
            `teacher_accuracy`, the share of labelled rows whose class the captions of others tell.
        """
        if not self._is_ready:  # on the device of the batch, in the space of the model
            known = {name: each if each is None else each.to(logits.device) for name, each in vars(self.known).items()}
            known["embeds"] = self.transform(known["embeds"])
            self.known, self._is_ready = LabelledTexts(**known), True
        labels, captions = inputs["labels"], inputs.get("caption_keys")
        several = captions is not None and captions.shape[1] > 1
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        with torch.autocast(logits.device.type, enabled=False), torch.no_grad():
            soft, weights = caption_labels(
                self.transform(inputs["text_embeds"].float()),
                inputs["text_keys"],
                inputs["caption_weight"],
                labels,
                self.known,
                num_labels=self.num_labels,
                temperature=self.temperature,
                caption_keys=captions if several else None,
            )
        loss, rows = caption_label_loss(logits, soft, weights, inputs.get("mix_partner"), inputs.get("mix_share"))
        asked = (labels != UNLABELLED) & (weights > 0)
        right = (soft.argmax(1) == labels) & asked
        return loss, rows, {"teacher_accuracy": (right.sum(), asked.sum())}
