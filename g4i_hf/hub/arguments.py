"""Options of release."""

from dataclasses import dataclass, field

from huggingface_hub.utils import validate_repo_id

from ..evaluation.arguments import WEIGHTS
from ..training.arguments import one_of

LORA = ("merged", "adapter")  # what is released of a student that was trained with LoRA


@dataclass
class ReleaseArguments:
    """What is released, and where it goes: the student of a run, or the data set that a stage has made."""

    # --- What ---
    run: str | None = field(default=None, metadata={"help": "Run folder whose student is released."})
    baseline: str | None = field(default=None, metadata={"help": "Run folder of its baseline, for the card's table."})
    seed_runs: list[str] | None = field(
        default=None, metadata={"help": "Runs of the same options with other seeds, for the spread in the card."}
    )
    seed_baselines: list[str] | None = field(default=None, metadata={"help": "Their baselines, in the same order."})
    stage: str | None = field(
        default=None, metadata={"help": "Folder of captions or embeddings, released as a data set instead of a run."}
    )
    # --- Student ---
    student_dir: str | None = field(
        default=None, metadata={"help": "Where the student goes; <run>/student by default."}
    )
    weights: str = field(default="raw", metadata={"help": "raw, or ema: the moving average of ema_decay."})
    aligned: bool = field(
        default=True, metadata={"help": "Add the aligned model with its projector in aligned/, for use with text."}
    )
    onnx: bool = field(default=False, metadata={"help": "Add onnx/model.onnx, checked against PyTorch."})
    lora: str = field(
        default="merged", metadata={"help": "Of a run with use_peft: merged into the weights, or the adapter alone."}
    )
    # --- Data set ---
    dataset_dir: str | None = field(
        default=None, metadata={"help": "Where the data set goes; <stage>-dataset by default."}
    )
    with_images: bool = field(
        default=False, metadata={"help": "Publish the images too, without EXIF; else they are joined by image_id."}
    )
    images_id: str | None = field(
        default=None, metadata={"help": "Hub id of the images, where the stage knows them as a local folder."}
    )
    max_shard_size: str = field(default="500MB", metadata={"help": "Most of a Parquet file, as in 500MB or 5GB."})
    # --- Card ---
    license: str | None = field(default=None, metadata={"help": "Licence of what is released; `other` by default."})
    card_pictures: bool = field(
        default=True, metadata={"help": "Show evaluated images in the student's card; they are published with it."}
    )
    # --- Space ---
    space: bool = field(default=False, metadata={"help": "Make a Gradio app of the student as well."})
    space_dir: str | None = field(default=None, metadata={"help": "Where the app goes; <run>/space by default."})
    space_repo_id: str | None = field(
        default=None, metadata={"help": "Hub id of the app; <repo_id>-space by default."}
    )
    # --- Hub ---
    repo_id: str | None = field(default=None, metadata={"help": "Hub id, as in me/my-student."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push what was written to repo_id."})
    private: bool = field(default=True, metadata={"help": "Whether a repository that is made now is private."})
    hub_revision: str | None = field(default=None, metadata={"help": "Branch that is pushed to; main by default."})
    replace: bool = field(
        default=False,
        metadata={"help": "Push to a repository of other files too: those of the same name are written over."},
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Write what would be pushed, list it with sizes, and push nothing."}
    )

    def __post_init__(self):
        if self.stage:
            self.run = None  # that of the default configuration
        elif not self.run:
            raise ValueError("run is missing: give the run folder with --run, or a stage's with --stage.")
        one_of(self, "weights", WEIGHTS)
        one_of(self, "lora", LORA)
        for repo_id in (self.repo_id, self.space_repo_id, self.images_id):
            if repo_id is not None:
                validate_repo_id(repo_id)
        if self.push_to_hub and not self.repo_id:
            raise ValueError("push_to_hub needs repo_id: give the Hub id with --repo_id, as in me/my-student.")
