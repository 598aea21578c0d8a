"""Options of evaluation."""

from dataclasses import dataclass, field

from ..cli import wrong_choice
from ..data.bad_images import ON_BAD_IMAGES
from ..training.arguments import one_of

WEIGHTS = ("raw", "ema")  # those of the last or best step, or their moving average
MEASURES = ("text_to_image", "calibration", "zero_shot", "probe", "robustness")
CHEAP_MEASURES = ("text_to_image", "calibration", "zero_shot")  # they need no further pass over images


@dataclass
class EvaluateArguments:
    """Which runs are evaluated, on what, and where the comparison goes."""

    run: str | None = field(default=None, metadata={"help": "Run folder of an aligned student (or any run)."})
    baseline: str | None = field(default=None, metadata={"help": "Run folder of its baseline, evaluated beside it."})
    splits: list[str] | None = field(
        default=None, metadata={"help": "Splits to evaluate; by default all but the one trained on."}
    )
    train_split: str = field(default="train", metadata={"help": "Split that was trained on."})
    on_bad_images: str = field(
        default="error",
        metadata={"help": "Images that cannot be read: error, or skip, which leaves them out and reports them."},
    )
    weights: str = field(default="raw", metadata={"help": "raw, or ema: the moving average of ema_decay."})
    measures: list[str] | None = field(
        default=None,
        metadata={
            "help": "Beside accuracy and caption retrieval: text_to_image (images by their captions), calibration, "
            "zero_shot (classes by their texts), probe (k-NN and a linear probe on the feature, fitted on "
            "train_split), robustness (corrupted images, 20 more passes); all; or none. By default the first three."
        },
    )
    probe_samples: int | None = field(
        default=None,
        metadata={"help": "Training images that the probes are fitted on, drawn at random; all by default."},
    )
    report: str | None = field(default=None, metadata={"help": "HTML file for the comparison and its pictures."})
    eval_batch_size: int = field(default=64, metadata={"help": "Images a batch, on each process."})
    eval_num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})

    def __post_init__(self):
        if not self.run:
            raise ValueError("run is missing: give the run folder with --run.")
        one_of(self, "weights", WEIGHTS)
        one_of(self, "on_bad_images", ON_BAD_IMAGES)
        given = CHEAP_MEASURES if self.measures is None else self.measures
        words = [name for word in given for name in word.split(",") if name]
        unknown = [word for word in words if word not in (*MEASURES, "all", "none")]
        if unknown:
            raise ValueError(wrong_choice("measures", unknown[0], (*MEASURES, "all", "none")))
        if "none" in words and len(words) > 1:
            raise ValueError("measures has none beside others: give none alone, or leave it out.")
        self.measures = [measure for measure in MEASURES if measure in words or "all" in words]
        if self.probe_samples is not None and self.probe_samples < 1:
            raise ValueError(f"probe_samples is {self.probe_samples}; give at least 1, or leave it out for all.")
