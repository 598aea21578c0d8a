"""Options of `g4i fit`."""

from dataclasses import dataclass

from .data import DEFAULT_TEXT_ENCODER
from .fields import Count, Positive, check_values, option


@dataclass
class FitArguments:
    """Fit"""

    output_dir: str | None = option(None, "Folder for everything; runs/NAME of the dataset by default.")
    captioner: str | None = option(
        None,
        "Write captions for images without: a VLM's Hub id or folder, or a server's address with captioner_model.",
    )
    captioner_model: str | None = option(None, "The model's name on the server at captioner.")
    text_encoder: str = option(DEFAULT_TEXT_ENCODER, "Hub id or folder of the text encoder.")
    student: str | None = option(None, "timm or transformers model; chosen by image size by default.")
    pretrained: bool | None = option(None, "Start from pretrained weights; by default only the default student does.")
    image_size: Count | None = option(None, "Image size in pixels; chosen by the images by default.")
    train_config: str | None = option(None, "YAML file of `g4i train` options that replace those chosen here.")
    minutes: Positive | None = option(None, "Minutes of training for all runs together; 50 epochs a run by default.")
    seeds: Count = option(1, "Seeds of each run; with several, the difference has a confidence interval.")
    dry_run: bool = option(False, "Print the decisions and the commands; write nothing.")

    def __post_init__(self):
        check_values(self)
        if self.captioner and is_address(self.captioner) and not self.captioner_model:
            raise ValueError("captioner is a server: name its model with captioner_model.")
        if self.captioner_model and not (self.captioner and is_address(self.captioner)):
            raise ValueError("captioner_model is the name of a model on a server: give its address with captioner.")


def is_address(captioner: str) -> bool:
    return captioner.startswith(("http://", "https://"))
