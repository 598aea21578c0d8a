"""Options of the embedding stage."""

from dataclasses import dataclass, field

LONG_CAPTIONS = ("truncate", "chunk_mean")


@dataclass
class EncoderArguments:
    """Which text encoder turns captions into vectors, and how."""

    text_encoder: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a sentence-transformers, CLIP, SigLIP or SigLIP 2 model."},
    )
    text_encoder_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the encoder."})
    text_encoder_prompt: str | None = field(
        default=None,
        metadata={"help": "Text put before every caption, such as 'passage: '. Empty: without the encoder's own one."},
    )
    text_encoder_prompt_name: str | None = field(
        default=None, metadata={"help": "Name of a prompt that the sentence-transformers model itself defines."}
    )
    text_encoder_batch_size: int = field(default=64, metadata={"help": "Captions a batch."})
    long_captions: str = field(
        default="truncate",
        metadata={
            "help": "Captions beyond the encoder's window: truncate cuts them there; chunk_mean embeds them in chunks "
            "of whole sentences and takes the mean."
        },
    )
    embeddings_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where the embeddings are kept and looked for. By default, in a folder of their own in "
            "`embeddings` beside the run."
        },
    )
    with_images: bool = field(
        default=False, metadata={"help": "Write the images and all other columns too, for a data set of its own."}
    )

    def __post_init__(self):
        if self.long_captions not in LONG_CAPTIONS:
            raise ValueError(f"long_captions is {self.long_captions!r}; choose one of {', '.join(LONG_CAPTIONS)}.")
        if self.text_encoder_batch_size < 1:
            raise ValueError(f"text_encoder_batch_size is {self.text_encoder_batch_size}; give at least 1.")
        if self.text_encoder_prompt is not None and self.text_encoder_prompt_name is not None:
            raise ValueError("text_encoder_prompt and text_encoder_prompt_name are both given; give one of them.")


@dataclass
class VerifyArguments:
    """Checking embeddings that are there already."""

    verify: int = field(
        default=0,
        metadata={
            "help": "Embed nothing; embed this many captions again, drawn at random, and compare them with what "
            "embeddings_dir holds."
        },
    )
    verify_seed: int = field(default=0, metadata={"help": "Seed of the draw."})

    def __post_init__(self):
        if self.verify < 0:
            raise ValueError(f"verify is {self.verify}; give a number of captions, or 0 to embed.")
