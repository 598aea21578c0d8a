"""Opens the data of a run whose training split is a stream, and refuses options that need all rows."""

from typing import Any

from accelerate import PartialState
from datasets import ClassLabel, Dataset
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from .. import columns
from ..data.checks import check_split
from ..data.loading import read_class_names, source_of, with_class_names
from ..data.stream import RowStream, load_split, open_rows
from ..data.stream_batches import batch_of, parts_of, rows_in_order
from ..options import DataArguments, RunArguments
from .arguments import AlignmentArguments
from .optimization import timm_name

# Options that need all rows, or look rows up -> their value without a use
NOT_STREAMED = {
    "align_text_bank": 0,
    "align_center": False,
    "align_similarity": "cosine",
    "supervision": "none",
    "label_noise": None,
    "label_fraction": 1,
    "label_noise_rate": 0,
    "long_tail_factor": 1,
    "unlabelled": "keep",
    "caption_control": "none",
    "repeated_augmentation": 1,
    "dataloader_drop_last": False,
    "on_bad_images": "error",
}


def _check_streamed(options: dict[str, Any]) -> None:
    for name, default in NOT_STREAMED.items():
        if options[name] != default:
            raise ValueError(
                f"{name} is {options[name]!r}, but with streaming rows are only read one after the other. Leave it "
                "out, or train without streaming."
            )
    if options["class_weights"] == "balanced":
        raise ValueError("class_weights is 'balanced', but the classes of a stream are not counted. Give a list.")
    if options["align_captions"] == "all":
        raise ValueError("align_captions is 'all': with streaming choose sample or mean.")


def load_streamed(
    run: RunArguments, data: DataArguments, args: AlignmentArguments
) -> tuple[dict[str, RowStream | Dataset], dict[int, str], int | None]:
    """
    Returns:
        The training split as a stream and the evaluated one, checked, as a dataset; class names by index; the size of
        the text embeddings, None without any.
    """
    _check_streamed(vars(run) | vars(args))
    state = PartialState()
    stream = open_rows(source_of(data), run.train_split, state.num_processes)
    names = _class_names(stream, data)
    if stream.num_rows is None:
        _check_without_length(args)
        parts_of(stream, args.train_batch_size, state.num_processes, state.process_index)  # whether it can be divided
    dim = _text_embed_dim(stream)
    if dim is None and args.aligns:
        raise ValueError(
            f"align_weight is {args.align_weight}, but the stream has no column 'text_embeds'. Embed the captions "
            "with g4i embed --with_images true, which leaves Parquet files of images and embeddings, or "
            "name the column with --text_embeds_column; align_weight 0 trains without."
        )
    splits: dict[str, RowStream | Dataset] = {run.train_split: stream}
    with state.main_process_first():  # the first fills the cache that the others read
        evaluated = load_split(data, run.eval_split)
    if evaluated is not None:
        evaluated = with_class_names({run.eval_split: evaluated}, names)[run.eval_split]
        check_split(
            evaluated, run.eval_split, num_labels=len(names), training=False, require_labels=run.require_labels
        )
        splits[run.eval_split] = evaluated
    return splits, dict(enumerate(names)), dim


def _class_names(stream: RowStream, data: DataArguments) -> list[str]:
    feature: Any = stream.features.get(columns.LABEL)
    if feature is None:
        raise ValueError(
            f"The stream has no column 'label'. Its columns: {', '.join(stream.column_names)}. Name the right one "
            "with --label_column. (datasets leaves out the names of folders beside a metadata.jsonl: give such a "
            "folder itself to g4i embed --with_images true, which keeps them as labels.)"
        )
    if isinstance(feature, ClassLabel):
        return feature.names
    named = read_class_names(data)
    if named is None:
        raise ValueError(
            f"Column 'label' of the stream holds {feature.dtype}: how many classes there are is only known once all "
            "is read. Name them in a file, one a line in the order of the labels, with --class_names_file."
        )
    return named


def _text_embed_dim(stream: RowStream) -> int | None:
    feature = stream.features.get(columns.TEXT_EMBEDS)
    if feature is None or columns.text_embed_dim_of(feature) is not None:
        return columns.text_embed_dim_of(feature)
    # A list of any length: the first row that has one tells
    for row in rows_in_order(stream, parts_of(stream, 1, 1, 0), seed=None, block=0):
        found = batch_of([row])[columns.TEXT_EMBEDS][0].as_py()
        if found:
            several = isinstance(found[0], list)
            dim = len(found[0] if several else found)
            # Rows that are read later are of that length, also those of a batch without any captions
            stream.features |= {columns.TEXT_EMBEDS: columns.text_embeds_features(dim, several)[columns.TEXT_EMBEDS]}
            return dim
    return None


def _check_without_length(args: AlignmentArguments) -> None:
    """A stream whose number of rows is unknown has no epochs."""
    why = "the number of rows of the stream is not known (it is of Parquet files)"
    if args.max_steps <= 0:
        raise ValueError(f"max_steps is {args.max_steps}, but {why}: say how many steps are to be trained.")
    for name in ("eval_strategy", "save_strategy", "logging_strategy"):
        if getattr(args, name) in (IntervalStrategy.EPOCH, SaveStrategy.EPOCH):
            raise ValueError(f"{name} is epoch, but {why}: set it to steps.")
    for name in ("align_warmup_epochs", "align_off_epochs"):
        if getattr(args, name) > 0:
            raise ValueError(f"{name} is {getattr(args, name)}, but {why}, so that it has no epochs.")
    if timm_name(args.lr_scheduler_type) is not None:
        raise ValueError(f"lr_scheduler_type is {args.lr_scheduler_type}, which counts epochs, but {why}.")
