"""What a training split is learned from: of its labels and captions, those that the options leave or put there."""

from datasets import Dataset

from .. import columns
from ..data.labels import keep_label_fraction, labelled_rows
from ..embedding import EncoderArguments
from ..options import RunArguments
from .controls import control_captions
from .pseudo_labels import with_pseudo_labels


def supervised(
    training: Dataset, run: RunArguments, encoder: EncoderArguments, class_names: list[str], seed: int
) -> Dataset:
    """
    Args:
        training: the rows, with their embeddings, which a dry run may lack.
        run: `label_fraction`, `label_seed`, `caption_control`, `unlabelled` and `pseudo_label_threshold`.
        encoder: that of the captions.
        class_names: by label.
        seed: of the run.
    """
    # Labels first: a label that is not kept plays no part in what follows
    training = keep_label_fraction(training, run.label_fraction, seed if run.label_seed is None else run.label_seed)
    drop = run.unlabelled == "drop"
    training = control_captions(
        training,
        run.caption_control,
        seed=seed,
        class_names=class_names,
        encoder=encoder,
        leave_out_unlabelled=drop,
    )
    is_embedded = columns.TEXT_EMBEDS in training.column_names
    if run.unlabelled == "pseudo_label" and (is_embedded or not run.dry_run):
        training = with_pseudo_labels(training, seed, run.pseudo_label_threshold)
    return labelled_rows(training) if drop else training
