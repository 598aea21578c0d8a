"""Options of `g4i evaluate`, `check` and `search`."""

from dataclasses import dataclass
from typing import Literal

from ..files import wrong_choice
from .data import check_views
from .fields import BadImages, Checked, Count, Number, check_values, option

MEASURES = ("text_to_image", "calibration", "zero_shot", "speed", "labels")
CHEAP_MEASURES = MEASURES[:3]  # without another pass over the images


@dataclass
class CheckArguments(Checked):
    """Check"""

    split: str = option("train", "Split to check.")
    check_dir: str = option("label_check", "Folder for the page and the CSV file.")
    student: str | None = option(
        None, "Pretrained timm or transformers model, whose image features are compared with labels too."
    )
    views: list[str] | None = option(None, "What tells the class, as in g4i fit.")

    def __post_init__(self):
        super().__post_init__()
        check_views(self.views)


@dataclass
class SearchArguments:
    """Search"""

    run: str | None = option(None, "Run folder, released aligned student, or its Hub id.")
    query: str | None = option(None, "What to look for, in words.")
    images: str | None = option(None, "Folder of images, searched with its subfolders.")
    top_k: Count = option(5, "Number of images to find.")
    page: str | None = option(None, "HTML file for a page of the images found.")
    text_encoder: str | None = option(None, "Another place of the text encoder of the captions.")

    def __post_init__(self):
        check_values(self)
        for name in ("run", "query", "images"):
            if not getattr(self, name):
                raise ValueError(f'{name} is missing: g4i search RUN "a red flower" --images FOLDER.')


@dataclass
class EvaluateArguments:
    """Evaluation"""

    run: str | None = option(None, "Run folder.")
    baseline: str | None = option(None, "Run folder of the baseline, evaluated beside it.")
    splits: list[str] | None = option(None, "Splits to evaluate; all but the training split by default.")
    train_split: str = option("train", "Training split.")
    on_bad_images: BadImages = option("error", "Unreadable images: error, or skip (and report them).")
    weights: Literal["raw", "ema"] = option("raw", "raw, or ema: the moving average of a run with ema_decay.")
    measures: list[str] | None = option(
        None,
        "Beside accuracy and caption retrieval: text_to_image, calibration, zero_shot, "
        "speed (on this CPU) and labels (that captions contradict); all; or none. By default, the first three.",
    )
    report: str | None = option(None, "HTML file for the report.")
    eval_batch_size: Count = option(64, "Images per batch and process.")
    eval_num_workers: Number = option(0, "Worker processes that read images.")

    def __post_init__(self):
        if not self.run:
            raise ValueError("run is missing: give the run folder with --run.")
        check_values(self)
        measures = CHEAP_MEASURES if self.measures is None else self.measures
        words = [name for word in measures for name in word.split(",") if name]
        known = (*MEASURES, "all", "none")
        if unknown := [word for word in words if word not in known]:
            raise ValueError(wrong_choice("measures", unknown[0], known))
        if "none" in words and len(words) > 1:
            raise ValueError("measures has none beside others: give none alone, or leave it out.")
        self.measures = [measure for measure in MEASURES if measure in words or "all" in words]
