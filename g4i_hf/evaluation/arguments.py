"""Options of evaluation."""

from dataclasses import dataclass, field

from ..training.arguments import one_of

WEIGHTS = ("raw", "ema")  # those of the last or best step, or their moving average


@dataclass
class EvaluateArguments:
    """Which runs are evaluated, on what, and where the comparison goes."""

    run: str | None = field(default=None, metadata={"help": "Run folder of an aligned student (or any run)."})
    baseline: str | None = field(default=None, metadata={"help": "Run folder of its baseline, evaluated beside it."})
    splits: list[str] | None = field(
        default=None, metadata={"help": "Splits to evaluate; by default all but the one trained on."}
    )
    train_split: str = field(default="train", metadata={"help": "Split that was trained on."})
    weights: str = field(default="raw", metadata={"help": "raw, or ema: the moving average of ema_decay."})
    report: str | None = field(default=None, metadata={"help": "HTML file for the comparison and its pictures."})
    eval_batch_size: int = field(default=64, metadata={"help": "Images a batch, on each process."})
    eval_num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})

    def __post_init__(self):
        if not self.run:
            raise ValueError("run is missing: give the run folder with --run.")
        one_of(self, "weights", WEIGHTS)
