"""Options of the captioning stage."""

from dataclasses import dataclass, field

CAPTIONERS = ("local", "endpoint", "column", "file", "list")


@dataclass
class CaptionArguments:
    """What describes the images, and what it is asked."""

    captioner: str | None = field(
        default=None,
        metadata={
            "help": "local (a vision-language model in this process), endpoint (an OpenAI-compatible server), column "
            "(captions of the data itself), file (JSONL or CSV with a key) or list (captions in the order of the "
            "files). By default, what the other options ask for."
        },
    )
    captions_dir: str | None = field(default=None, metadata={"help": "Where the captions go."})
    caption_splits: list[str] | None = field(
        default=None, metadata={"help": "Splits to caption; all of them by default."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read the data from start to end instead of downloading it first."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace captions in captions_dir that were made otherwise."}
    )
    with_images: bool = field(
        default=False, metadata={"help": "Write the images and all other columns too, for a data set of its own."}
    )
    captions_license: str | None = field(
        default=None, metadata={"help": "Licence of the captions, for the card; the captioner's terms may bind it."}
    )

    # --- Model and prompts ---
    captioner_model: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a vision-language model; an endpoint's name for it."}
    )
    captioner_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the model; goes into the key of every answer."}
    )
    prompt: list[str] | None = field(
        default=None,
        metadata={
            "help": "What is asked of each image: text, `plain` (the paper's) or `class` (names the class). Columns "
            "in braces, as in {label}, are filled in. Several prompts give several captions an image."
        },
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Longest answer in tokens."})
    temperature: float = field(default=0.0, metadata={"help": "Of sampling; 0 takes the likeliest token each time."})
    top_p: float | None = field(default=None, metadata={"help": "Samples among tokens of this total probability."})
    caption_seed: int = field(default=0, metadata={"help": "Of sampling."})
    image_max_side: int = field(
        default=768, metadata={"help": "Images are shrunk to this longest side in pixels before they are described."}
    )

    train_splits: list[str] | None = field(
        default=None,
        metadata={
            "help": "Splits that are trained on, whose prompts may name the class; by default those called train or "
            "training."
        },
    )

    # --- Resuming and limits ---
    journal_dir: str | None = field(
        default=None, metadata={"help": "Where every answer is kept at once; `<captions_dir>.journal` by default."}
    )
    retry_failed: bool = field(
        default=False, metadata={"help": "Ask again for images whose caption failed, was refused or is empty."}
    )
    dry_run: int = field(
        default=0, metadata={"help": "Caption only this many images, show them, and project the whole."}
    )
    partial: bool = field(
        default=False,
        metadata={"help": "Write the captions that there are when a limit ends the run; other rows have none."},
    )
    max_requests: int | None = field(default=None, metadata={"help": "Stop this run after so many requests."})
    max_cost: float | None = field(default=None, metadata={"help": "Stop before this cost; needs the prices."})
    price_input: float | None = field(default=None, metadata={"help": "Price of a million tokens read."})
    price_output: float | None = field(default=None, metadata={"help": "Price of a million tokens written."})

    def __post_init__(self):
        if self.captioner not in (None, *CAPTIONERS):
            raise ValueError(f"captioner is {self.captioner!r}; choose one of {', '.join(CAPTIONERS)}.")
        if not self.captions_dir:
            raise ValueError("captions_dir is missing: say where the captions go with --captions_dir.")
        for name in ("max_new_tokens", "image_max_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive.")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; give 0 for the likeliest answer, or more.")
        if self.dry_run < 0:
            raise ValueError(f"dry_run is {self.dry_run}; give the number of images to show.")
        if self.max_cost is not None and (self.price_input is None or self.price_output is None):
            raise ValueError("max_cost needs the prices of a million tokens: give --price_input and --price_output.")

    @property
    def journal(self) -> str:
        """Where answers are kept; beside the captions, as those are replaced as a whole."""
        return self.journal_dir or f"{self.captions_dir.rstrip('/')}.journal"

    def kind(self, base_url: str | None, captions_file: str | None, caption_column: str | None) -> str | None:
        """
        What gives the captions: one of [`CAPTIONERS`], or None where the captions file tells whether it is a list.

        Raises:
            ValueError: when nothing says where captions come from.
        """
        if self.captioner is not None:
            return self.captioner
        if captions_file is not None:
            return None
        if base_url is not None:
            return "endpoint"
        if self.captioner_model is not None:
            return "local"
        if caption_column is not None:
            return "column"
        raise ValueError(
            "Nothing says where captions come from. Give a model with --captioner_model, a server with --base_url as "
            "well, a file with --captions_file, or a column of the data with --captioner column."
        )


@dataclass
class LocalCaptionerArguments:
    """A vision-language model in this process, or one in each process of `accelerate launch`."""

    caption_batch_size: int = field(default=8, metadata={"help": "Images a batch."})
    captioner_dtype: str = field(
        default="auto", metadata={"help": "auto (bfloat16 on a GPU that has it, else float32), bfloat16 or float32."}
    )
    captioner_adapter: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a LoRA adapter for the model."}
    )
    captioner_adapter_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the adapter."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that a model brings along: only if you have read it."}
    )

    def __post_init__(self):
        if self.caption_batch_size < 1:
            raise ValueError(f"caption_batch_size is {self.caption_batch_size}; give at least 1.")
        if self.captioner_dtype not in (known := ("auto", "bfloat16", "float32")):
            raise ValueError(f"captioner_dtype is {self.captioner_dtype!r}; it must be one of {', '.join(known)}.")


@dataclass
class EndpointArguments:
    """An OpenAI-compatible server: vLLM, TGI, `transformers serve`, or a hosted provider."""

    base_url: str | None = field(
        default=None,
        metadata={"help": "Address of the server up to /v1. Images are sent there. Several, with commas, share."},
    )
    api_key_env: str | None = field(
        default=None,
        metadata={
            "help": "Environment variable that holds the server's token. Without it, the token of `hf auth login` is "
            "sent to hosts of Hugging Face and none to others."
        },
    )
    max_concurrency: int = field(default=256, metadata={"help": "Most requests at the same time, of this process."})
    request_timeout: float = field(default=120.0, metadata={"help": "Seconds after which a request has failed."})
    max_attempts: int = field(default=8, metadata={"help": "How often a request is tried."})
    jpeg_quality: int = field(default=90, metadata={"help": "Of images that have to be encoded anew."})

    def __post_init__(self):
        for name in ("max_concurrency", "request_timeout", "max_attempts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive.")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}; it must lie between 1 and 100.")


@dataclass
class ExistingCaptionsArguments:
    """Captions that exist already."""

    captions_file: str | None = field(
        default=None,
        metadata={"help": "JSONL or CSV with a key and a caption a line, or a list: .txt, .json, .pth of strings."},
    )
    file_key: str | None = field(
        default=None, metadata={"help": "Field of the file that names the image; found by its name by default."}
    )
    file_caption: str | None = field(
        default=None, metadata={"help": "Field of the file that holds the caption; found by its name by default."}
    )
    several_captions: bool = field(
        default=False,
        metadata={"help": "A key that comes back with another caption gives several captions instead of an error."},
    )
    order_scorer: str | None = field(
        default=None, metadata={"help": "CLIP model that checks whether a list is in the order of the images."}
    )
    order_sample: int = field(default=256, metadata={"help": "Images of that check."})

    def __post_init__(self):
        if self.order_sample < 8:
            raise ValueError(f"order_sample is {self.order_sample}; give at least 8 images.")


@dataclass
class CleaningArguments:
    """What is done to answers; the raw ones are kept beside."""

    clean_openings: bool = field(default=True, metadata={"help": "Cut openings such as `The image shows`."})
    clean_refusals: bool = field(default=True, metadata={"help": "Take refusals for no caption."})
    clean_repetitions: bool = field(default=True, metadata={"help": "Cut loops of a repeated phrase or sentence."})
    clean_unfinished: bool = field(
        default=True, metadata={"help": "Cut a last sentence that ends in the middle, where another one is left."}
    )
    clean_boilerplate: bool = field(
        default=True, metadata={"help": "Cut markup, questions back and remarks such as `Let me know if ...`."}
    )
    min_caption_words: int = field(default=1, metadata={"help": "Fewer words are no caption."})
    max_caption_words: int | None = field(default=None, metadata={"help": "Longer captions are cut at a sentence."})

    def __post_init__(self):
        if self.min_caption_words < 1:
            raise ValueError(f"min_caption_words is {self.min_caption_words}; give at least 1.")
        if self.max_caption_words is not None and self.max_caption_words < self.min_caption_words:
            raise ValueError(
                f"max_caption_words is {self.max_caption_words}, below min_caption_words ({self.min_caption_words})."
            )


@dataclass
class QualityArguments:
    """How captions are judged; doubtful ones get a smaller `caption_weight`, so that they teach less."""

    caption_weights: bool = field(default=True, metadata={"help": "Write `caption_weight` from what was found."})
    synonyms_file: str | None = field(
        default=None, metadata={"help": "YAML file of class names, each with a list of other words for it."}
    )
    quality_encoder: str | None = field(
        default=None,
        metadata={"help": "Text encoder that measures how much nearer a caption is to its own class than to others."},
    )
    clip_scorer: str | None = field(
        default=None, metadata={"help": "CLIP model that measures how well caption and image fit."}
    )
    report: bool = field(default=True, metadata={"help": "Write caption_report.html and .json into captions_dir."})
