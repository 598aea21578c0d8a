"""Options of release."""

from dataclasses import dataclass, field

from ..evaluation.arguments import WEIGHTS
from ..training.arguments import one_of


@dataclass
class ReleaseArguments:
    """Which run is released, and where its student goes."""

    run: str | None = field(default=None, metadata={"help": "Run folder whose student is released."})
    baseline: str | None = field(default=None, metadata={"help": "Run folder of its baseline, for the card's table."})
    student_dir: str | None = field(
        default=None, metadata={"help": "Where the student goes; <run>/student by default."}
    )
    weights: str = field(default="raw", metadata={"help": "raw, or ema: the moving average of ema_decay."})

    def __post_init__(self):
        if not self.run:
            raise ValueError("run is missing: give the run folder with --run.")
        one_of(self, "weights", WEIGHTS)
