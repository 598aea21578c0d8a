"""Options of `g4i caption`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .data import DEFAULT_TEXT_ENCODER
from .fields import Checked, Count, Fraction, NotNegative, Number, Positive, check_values, option


@dataclass
class Decoding:
    """Decoding"""

    max_new_tokens: Count = option(128, "Maximum number of new tokens; a quarter of it when asked for the class.")
    temperature: NotNegative = option(0.0, "Sampling temperature; 0: greedy decoding.")
    top_p: Fraction | None = option(None, "Nucleus sampling: total probability of the tokens to sample from.")
    image_max_side: Count = option(768, "Longest side in pixels; larger images are resized.")

    def tokens_for(self, choices: Sequence[str]) -> int:
        """Most tokens of an answer; one that is a choice is short."""
        return max(1, self.max_new_tokens // 4) if choices else self.max_new_tokens

    @property
    def provenance(self) -> dict[str, Any]:
        """The options that answers depend on: `top_p` and the seed only where the temperature is above 0."""
        is_sampled = self.temperature > 0
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p if is_sampled else None,
            "seed": 0 if is_sampled else None,
            "image_max_side": self.image_max_side,
        }


@dataclass
class PromptOptions:
    """Model and prompts"""

    captioner_model: str | None = option(None, "Hub id or folder of a VLM; with base_url, its name on the server.")
    captioner_revision: str | None = option(None, "Branch, tag or commit of the model.")
    prompt: list[str] | None = option(
        None,
        "Any text, `plain` (the paper's), `class` (names the class) or `choose` (asks for the class). {COLUMN} and "
        "{class_names} are filled in. Several prompts give several captions per image.",
    )
    train_splits: list[str] | None = option(None, "Training splits: prompts may name the class; train by default.")


@dataclass
class ResumeOptions:
    """Resuming and limits"""

    retry_failed: bool = option(False, "Request captions again that failed, were refused or are empty.")
    dry_run: Number = option(
        0, "Caption only this many images, estimate time and cost for all, compare several prompts.", about="call"
    )
    text_encoder: str = option(
        DEFAULT_TEXT_ENCODER, "Text encoder with which a dry run compares several prompts.", about="call"
    )
    partial: bool = option(False, "When a limit ends the run, write the captions so far; other rows have none.")
    max_requests: Number | None = option(None, "Stop after this many requests.")
    max_cost: NotNegative | None = option(None, "Stop before this cost; needs both prices.")
    price_input: NotNegative | None = option(None, "Price of a million input tokens.")
    price_output: NotNegative | None = option(None, "Price of a million output tokens.")


ASKING = ("local", "endpoint")  # captioners that run a model; the others take existing captions


@dataclass
class CaptionArguments(PromptOptions, Decoding, ResumeOptions):
    """Captions"""

    captions_dir: str | None = option(None, "Folder for the captions.")
    caption_splits: list[str] | None = option(
        None, "Splits to caption; by default the training splits, or all splits for existing captions."
    )
    overwrite: bool = option(False, "Replace captions in captions_dir that were made with other options.")

    def __post_init__(self):
        check_values(self)
        if self.max_cost is not None and (self.price_input is None or self.price_output is None):
            raise ValueError("max_cost needs the prices of a million tokens: give --price_input and --price_output.")

    @property
    def journal(self) -> str:
        """The folder where answers are saved on arrival: next to the captions, which are replaced as a whole."""
        return f"{self.captions_dir.rstrip('/')}.journal"

    def kind(self, base_url: str | None, captions_file: str | None, caption_column: str | None) -> str:
        """The source of the captions: one of [`ASKING`], `file` or `column`."""
        named = {
            "file": captions_file,
            "endpoint": base_url,
            "local": self.captioner_model,
            "column": caption_column,
        }
        for kind, value in named.items():
            if value is not None:
                return kind
        raise ValueError(
            "Nothing says where captions come from. Give a model with --captioner_model, a server with --base_url as "
            "well, a file with --captions_file, or a column of the data with --caption_column."
        )


@dataclass
class LocalCaptionerArguments(Checked):
    """Local captioner"""

    caption_batch_size: Count = option(8, "Images per batch.")
    trust_remote_code: bool = option(False, "Run code that comes with the model: only if you have read it.")


@dataclass
class EndpointArguments(Checked):
    """OpenAI-compatible server: vLLM, TGI, `transformers serve`, or a hosted provider"""

    base_url: str | None = option(None, "Address up to /v1; separate several servers with commas.")
    api_key_env: str | None = option(
        None, "Environment variable with the API key. By default only Hugging Face hosts get a token: yours."
    )
    max_concurrency: Count = option(384, "Maximum number of concurrent requests of this process.")
    request_timeout: Positive = option(120.0, "Timeout of a request in seconds.")
    check_vision: bool = option(True, "First ask the server about four generated images; stop if it ignores them.")
    export_requests: str | None = option(
        None, "JSONL file for the requests of images without an answer, for a batch API; nothing is sent."
    )
    import_answers: list[str] | None = option(None, "JSONL files of a batch API with the answers to these requests.")

    def __post_init__(self):
        super().__post_init__()
        if self.export_requests and self.import_answers:
            raise ValueError("Give export_requests or import_answers, not both: import first, then export the rest.")


@dataclass
class ExistingCaptionsArguments:
    """Existing captions"""

    rare = True
    captions_file: str | None = option(None, "JSONL or CSV with the name of each image; an image may have several.")
    file_key: str | None = option(None, "Field with the image's name; by default file_name or similar.")
    file_caption: str | None = option(None, "Field with the caption; by default caption or similar.")
