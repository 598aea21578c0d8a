"""Options of release."""

import re
from dataclasses import dataclass, field, fields

from huggingface_hub.utils import validate_repo_id

from ..evaluation.arguments import WEIGHTS
from ..training.arguments import one_of

LORA = ("merged", "adapter")  # what is released of a student that was trained with LoRA
OF_STUDENT = ("baseline", "seed_runs", "seed_baselines", "student_dir", "weights", "aligned", "onnx", "lora")
OF_STUDENT += ("card_pictures", "space", "space_dir", "space_repo_id")
OF_DATA_SET = ("dataset_dir", "with_images", "images_id", "max_shard_size")
# What stands before an id in the address of a page, and what may follow it there
ADDRESS = re.compile(r"^(https?://[^/]+/|(www\.)?(huggingface\.co|hf\.co)/)?((datasets|spaces|models)/(?=.+/))?", re.I)


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
        if self.stage and self.run:
            raise ValueError(
                f"run is {self.run} and stage is {self.stage}: one of them is released at a time, a run as a student "
                "or a stage as a data set. Leave the other out."
            )
        if not self.stage and not self.run:
            raise ValueError("run is missing: give the run folder with --run, or a stage's with --stage.")
        self._check_kind()
        one_of(self, "weights", WEIGHTS)
        one_of(self, "lora", LORA)
        for name in ("repo_id", "space_repo_id", "images_id"):
            if getattr(self, name) is not None:
                _check_id(name, getattr(self, name), with_namespace=name != "images_id")  # `mnist` is read as well
        if self.push_to_hub and not self.repo_id:
            raise ValueError("push_to_hub needs repo_id: give the Hub id with --repo_id, as in me/my-student.")

    def _check_kind(self) -> None:
        """Options of the other kind would have no effect."""
        others, kind, other = (OF_STUDENT, "stage", "run") if self.stage else (OF_DATA_SET, "run", "stage")
        given = [
            each.name for each in fields(self) if each.name in others and getattr(self, each.name) != each.default
        ]
        if given:
            what = "students, which are released with --run" if self.stage else "data sets, released with --stage"
            raise ValueError(
                f"{given[0]} is an option of {what}, and {kind} is {getattr(self, kind)}. Leave {given[0]} out, or "
                f"give --{other} in place of --{kind}."
            )


def _check_id(name: str, repo_id: str, with_namespace: bool) -> None:
    """
    Raises:
        ValueError: when it is no id of the Hub. The cards hold it as it stands, so that it must be whole.
    """
    plain = ADDRESS.sub("", repo_id.strip())
    parts = [part for part in plain.split("/") if part]
    if "/".join(parts[:2]) != repo_id:
        remedy = f"write it as {'/'.join(parts[:2])}" if len(parts) > 1 else "write it as me/my-student"
        raise ValueError(f"{name} is {repo_id}, which is an address or a path and no Hub id: {remedy}.")
    if with_namespace and "/" not in repo_id:
        raise ValueError(
            f"{name} is {repo_id}, without the user or organisation that it belongs to: write it as NAME/{repo_id}; "
            "`hf auth whoami` says your name."
        )
    validate_repo_id(repo_id)
