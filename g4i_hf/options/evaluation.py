"""Options of `g4i evaluate`, `check`, `predict`, `search` and `release`."""

from dataclasses import dataclass, fields
from typing import Literal

from ..files import wrong_choice
from .data import ShardOptions, check_left_out, check_views
from .fields import BadImages, Checked, Count, Number, Share, check_values, option


@dataclass
class CheckArguments(Checked):
    """Check"""

    split: str = option("train", "Split to check.")
    on_bad_images: BadImages = option("error", "Unreadable images: error, or skip (and report them).")
    check_dir: str = option("label_check", "Folder for the page and the CSV file.")
    student: str | None = option(
        None, "Pretrained timm or transformers model, whose image features are also compared with labels."
    )
    views: list[str] | None = option(None, "Views to use, as in g4i fit.")

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
    text_encoder: str | None = option(None, "Present location of the text encoder of the captions, if it moved.")

    def __post_init__(self):
        check_values(self)
        for name in ("run", "query", "images"):
            if not getattr(self, name):
                raise ValueError(f'{name} is missing: g4i search RUN "a red flower" --images FOLDER.')


@dataclass
class PredictArguments(ShardOptions):
    """Predict"""

    model: str | None = option(None, "Folder of g4i fit or g4i train, a release, or an image classifier of the Hub.")
    images: str | None = option(
        None, "Folder of images, searched with its subfolders; a .txt file with a path per line; or a dataset."
    )
    predictions: str | None = option(None, "File to write: .csv, .parquet or .jsonl.")
    split: str | None = option(None, "Split of the images.")
    precision: Share | None = option(
        None,
        "Answer only where so many answers are right: 0.9, 0.95 or 0.99; by default 0.95, or the highest one known.",
    )
    top: Count = option(1, "Number of likeliest classes to write.")
    page: str | None = option(None, "HTML file for a page of the 500 least certain images, to correct their classes.")
    batch_size: Count | None = option(None, "Images per batch; by default as many as are fast here.")
    overwrite: bool = option(False, "Replace an earlier file.")
    image_column: str | None = option(None, "Image column of a dataset or of shards; `image` by default.")

    def __post_init__(self):
        check_values(self)
        self.check_shards()
        if self.shards:
            self._check_for_shards()
            return
        for name, given in (("model", self.model), ("images", self.images), ("predictions", self.predictions)):
            if not given:
                raise ValueError(f"{name} is missing: g4i predict MODEL IMAGES -o predictions.csv.")
        check_predictions_file(self.predictions)

    def _check_for_shards(self) -> None:
        if not self.model:
            raise ValueError("model is missing: g4i predict MODEL --shards PATTERN --out FOLDER.")
        check_left_out(self, "images", "predictions", "split", "page")


KINDS_OF_PREDICTIONS = (".csv", ".parquet", ".jsonl")


def check_predictions_file(file: str) -> None:
    if not file.endswith(KINDS_OF_PREDICTIONS):
        raise ValueError(f"predictions is {file!r}: its name must end in {', '.join(KINDS_OF_PREDICTIONS)}.")


@dataclass
class EvaluateArguments:
    """Evaluation"""

    run: str | None = option(None, "Run folder.")
    baseline: str | None = option(None, "Run folder of the baseline to compare with.")
    splits: list[str] | None = option(None, "Splits to evaluate; all but the training split by default.")
    train_split: str = option("train", "Training split.")
    on_bad_images: BadImages = option("error", "Unreadable images: error, or skip (and report them).")
    weights: Literal["raw", "ema"] = option("raw", "raw, or ema: the moving average of a run with ema_decay.")
    speed: bool = option(False, "Also measure parameters, multiply-adds and ms per image, on this CPU.")
    report: str | None = option(None, "HTML file for the report.")
    eval_batch_size: Count = option(64, "Images per batch and process.")
    eval_num_workers: Number = option(0, "Worker processes that read images.")

    def __post_init__(self):
        if not self.run:
            raise ValueError("run is missing: give the run folder with --run.")
        check_values(self)


# --- Release ---------------------------------------------------------------------------------------------------------


ONNX, ONNX_FP16, ONNX_INT8 = FORMATS = "onnx", "onnx-fp16", "onnx-int8"


@dataclass
class ReleasedStudentOptions:
    """Student"""

    baseline: str | None = option(None, "Run folder of the baseline, for the table in the card.")
    weights: Literal["raw", "ema"] = option("raw", "raw, or ema: the moving average of a run with ema_decay.")
    aligned: bool = option(True, "Add the aligned model (with its projector) in aligned/, for zero-shot use.")
    formats: list[str] | None = option(
        None, f"Also write the classifier as {', '.join(FORMATS)}, from pixels to a decision; each file is judged."
    )


@dataclass
class ReleasedDatasetOptions:
    """Dataset"""

    with_images: bool = option(False, "Publish the images too, without EXIF; otherwise users join them by image_id.")
    images_id: str | None = option(None, "Hub id of the images, if they came from a local folder.")


@dataclass
class PushOptions:
    """Card and Hub"""

    license: str | None = option(None, "License by its identifier on the Hub, such as apache-2.0; `other` by default.")
    repo_id: str | None = option(None, "Hub id, such as me/my-student.")
    push_to_hub: bool = option(False, "Push to repo_id.")
    private: bool = option(True, "Make a new repository private.")
    replace: bool = option(False, "Push even if others have committed to the repository.")
    dry_run: bool = option(False, "List what would be pushed, with sizes; write and push nothing.", about="call")


@dataclass
class ReleaseArguments(ReleasedStudentOptions, ReleasedDatasetOptions, PushOptions):
    """Release"""

    run: str | None = option(None, "Run folder of the student to release, or the folder of g4i fit.")
    stage: str | None = option(None, "Folder of captions or embeddings to release as a dataset.")
    output_dir: str | None = option(
        None, "Folder for the release; <run>/student, <run>/classifier or <stage>-dataset by default."
    )

    def __post_init__(self):
        if self.stage and self.run:
            raise ValueError(f"run is {self.run} and stage is {self.stage}: one is released at a time. Leave one out.")
        if not self.stage and not self.run:
            raise ValueError("run is missing: give the run folder with --run, or a stage's with --stage.")
        self._check_kind()
        check_values(self)
        for each in self.formats or []:
            if each not in FORMATS:
                raise ValueError(wrong_choice("formats", each, FORMATS))
        for name in ("repo_id", "images_id"):
            if getattr(self, name) is not None:
                check_repo_id(name, getattr(self, name), with_namespace=name != "images_id")  # `mnist` is readable
        if self.push_to_hub and not self.repo_id:
            raise ValueError("push_to_hub needs repo_id: give the Hub id with --repo_id, as in me/my-student.")

    def _check_kind(self) -> None:
        """Raise ValueError for options of the other kind, which would have no effect."""
        of_student, of_dataset = map(fields, (ReleasedStudentOptions, ReleasedDatasetOptions))
        for field in of_student if self.stage else of_dataset:
            if getattr(self, field.name) != field.default:
                kind = "students, and stage" if self.stage else "datasets, and run"
                raise ValueError(f"{field.name} is for {kind} is {self.stage or self.run}. Leave {field.name} out.")


def check_repo_id(name: str, repo_id: str, with_namespace: bool) -> None:
    """Raise ValueError for anything but a Hub id, such as the URL of a page, as cards contain the id."""
    from huggingface_hub.utils import validate_repo_id

    parts = repo_id.split("/")
    if len(parts) > 2 or not all(parts):
        raise ValueError(f"{name} is {repo_id}, which is an address or a path, no Hub id: write it as me/my-student.")
    if with_namespace and len(parts) < 2:
        raise ValueError(f"{name} is {repo_id}, without its user or organisation: write it as NAME/{repo_id}.")
    validate_repo_id(repo_id)
