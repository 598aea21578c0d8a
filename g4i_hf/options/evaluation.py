"""Options of `g4i evaluate`, `check`, `search` and `compare`."""

from dataclasses import dataclass
from typing import Literal

from ..files import wrong_choice
from .fields import BadImages, Checked, Count, Number, check_values, option

MEASURES = ("text_to_image", "calibration", "zero_shot", "probe", "speed", "labels")
CHEAP_MEASURES = MEASURES[:3]  # no further pass over the images


@dataclass
class CheckArguments(Checked):
    """Check"""

    split: str = option("train", "Split to check.")
    check_dir: str = option("label_check", "Folder for the page and the CSV file.")
    num_pictures: Count = option(100, "Number of labels to show with their images, the most suspicious first.")


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
        "Beside accuracy and caption retrieval: text_to_image, calibration, zero_shot, probe (k-NN and linear), "
        "speed (on this CPU) and labels (that captions contradict); all; or none. By default, the first three.",
    )
    probe_samples: Count | None = option(None, "Training images for the probes, drawn at random; all by default.")
    report: str | None = option(None, "HTML file for the report.")
    eval_batch_size: Count = option(64, "Images per batch and process.")
    eval_num_workers: Number = option(0, "Worker processes that read images.")

    def __post_init__(self):
        if not self.run:
            raise ValueError("run is missing: give the run folder with --run.")
        check_values(self)
        given = CHEAP_MEASURES if self.measures is None else self.measures
        words = [name for word in given for name in word.split(",") if name]
        known = (*MEASURES, "all", "none")
        if unknown := [word for word in words if word not in known]:
            raise ValueError(wrong_choice("measures", unknown[0], known))
        if "none" in words and len(words) > 1:
            raise ValueError("measures has none beside others: give none alone, or leave it out.")
        self.measures = [measure for measure in MEASURES if measure in words or "all" in words]


@dataclass
class ScoringOptions:
    """Scoring"""

    splits: list[str] = option(["validation"], "Splits whose labels may guide choices.")
    final_splits: list[str] = option([], "Splits that every cell predicts, scored with --final only.")
    final: bool = option(False, "Score final_splits, and log it in the file of `openings`.")
    openings: str | None = option(None, "Log file: a line for each use of the labels of final_splits.")
    cluster_column: str | None = option(None, "Column that groups images, as of one object, for clustered intervals.")


@dataclass
class StudyFileOptions:
    """Execution and output"""

    results: str = option("runs/compare.jsonl", "JSONL file with a line per finished cell.")
    summary: str | None = option(None, "JSON file for the figures; those not scored now are kept.")
    plot: str | None = option(None, "PNG file: differences with confidence intervals.")
    processes: Count = option(1, "Cells to train at a time, on the CPU or one GPU.")
    threads: Count = option(1, "Threads per process.")
    dry_run: bool = option(False, "Print the plan and its duration; train nothing.")
    check_cell: str | None = option(None, "student/variant/seed: train this cell again and compare every prediction.")


@dataclass
class CompareArguments(ScoringOptions, StudyFileOptions):
    """Grid"""

    train_config: str | None = option(None, "YAML file of `g4i train` that every cell starts from.")
    options: dict = option({}, "Training options for all cells.")
    students: dict = option({}, "name: options, such as student, student_args and learning_rate.")
    variants: dict = option({}, "name: options to compare, such as align_weight.")
    baseline: str | None = option(None, "Variant to compare the others with; the first by default.")
    seeds: list[int] = option([0, 1, 2, 3, 4], "Seeds, each for every student and variant.")
    only_students: list[str] | None = option(None, "Train these students only.")
    only_variants: list[str] | None = option(None, "Train these variants only.")

    def __post_init__(self):
        check_values(self)
        if not self.train_config or not self.students or not self.variants:
            raise ValueError("A comparison needs train_config, students and variants: give them in a file (--config).")
        for name, group in (("students", self.students), ("variants", self.variants)):
            if wrong := [key for key, options in group.items() if not isinstance(options, dict | None)]:
                raise ValueError(f"{name}: {wrong[0]} must hold options, name: value.")
        for name, options in [("options", self.options), *self.students.items(), *self.variants.items()]:
            for unset in (key for key, value in (options or {}).items() if value is None or value == []):
                raise ValueError(
                    f"{name}: {unset} has no value. What train_config sets cannot be unset: leave it out there."
                )
        self.baseline = self.baseline or next(iter(self.variants))
        check_named("baseline", [self.baseline], self.variants)
        check_named("only_variants", self.only_variants or [], self.variants)
        check_named("only_students", self.only_students or [], self.students)
        if set(self.splits) & set(self.final_splits):
            raise ValueError("A split is in both splits and final_splits: its labels are open, or they are not.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be different numbers, one or more.")


def check_named(option_name: str, names: list[str], known: dict) -> None:
    """A ValueError for a name that is not known."""
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"{option_name} names {wrong[0]!r}, which is none of {', '.join(known)}.")
