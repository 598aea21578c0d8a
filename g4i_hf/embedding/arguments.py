"""Options of the embedding stage."""

from dataclasses import dataclass, field


@dataclass
class EncoderArguments:
    """Which text encoder turns captions into vectors."""

    text_encoder: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a sentence-transformers or CLIP model."},
    )
    text_encoder_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the encoder."})
    text_encoder_batch_size: int = field(default=64, metadata={"help": "Captions a batch."})
    embeddings_dir: str | None = field(
        default=None,
        metadata={"help": "Where the embeddings are kept and looked for. By default, beside the run."},
    )
    with_images: bool = field(
        default=False, metadata={"help": "Write the images and all other columns too, for a data set of its own."}
    )
