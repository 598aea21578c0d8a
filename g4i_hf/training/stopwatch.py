"""Where the time of training goes."""

import sys
import time
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import has_length

PARTS = ("data", "step", "evaluation", "saving", "other")


def knows_epochs(state: TrainerState) -> bool:
    """False for a stream of unknown length: Trainer then takes the whole training for one epoch."""
    return state.num_train_epochs != sys.maxsize


class Stopwatch(TrainerCallback):
    """
    Divides the time since training began, or went on, into `PARTS`, by the clock of this process and without waiting
    for the device: on a GPU `step` is the time until the host is free again, and a device that is behind shows at the
    next log. `data` is what the process spent on fetching batches, with workers the wait for them.
    """

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.first_step = self.last_step = 0
        self.first_epoch = self.last_epoch = 0.0
        self.images = 0.0
        self._images_an_epoch: int | None = None
        self._knows_epochs = True
        self._last = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since training began or went on."""
        return sum(self.seconds.values())

    @property
    def images_per_second(self) -> float | None:
        """Images of all processes, without the time of evaluation and saving; None before the first step."""
        busy = self.seconds["data"] + self.seconds["step"]
        return self.images / busy if busy > 0 and self.images else None

    @property
    def seconds_per_epoch(self) -> float | None:
        """With evaluation and saving; None before the first step, and where nobody knows what an epoch is."""
        epochs = self.last_epoch - self.first_epoch
        return self.total / epochs if epochs > 0 and self._knows_epochs else None

    def remaining(self, max_steps: int) -> float | None:
        """Seconds left if everything goes on as fast as until now, evaluation and saving included."""
        steps = self.last_step - self.first_step
        return self.total / steps * (max_steps - self.last_step) if steps else None

    def metrics(self) -> dict[str, float]:
        """
        For `all_results.json`: `train_{data,step,evaluation,saving}_seconds`, `train_seconds_per_epoch`,
        `train_images_per_second`, and `train_resumed_from_step` (0: from the start). Of a resumed run only the times
        after the resumption are known.
        """
        found = {f"train_{part}_seconds": round(self.seconds[part], 3) for part in PARTS if part != "other"}
        found["train_resumed_from_step"] = self.first_step
        rates = {
            "train_seconds_per_epoch": self.seconds_per_epoch,
            "train_images_per_second": self.images_per_second,
        }
        return found | {name: round(rate, 3) for name, rate in rates.items() if rate is not None}

    def _lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.__init__()
        self.first_step = self.last_step = state.global_step
        self.first_epoch = self.last_epoch = float(state.epoch or 0.0)
        self._knows_epochs = knows_epochs(state)
        dataset: Any = getattr(train_dataloader, "dataset", None)
        if dataset is not None and has_length(dataset):
            self._images_an_epoch = len(dataset)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._lap("other")

    def on_step_begin(self, args, state, control, **kwargs):
        self._lap("data")

    def on_step_end(self, args, state, control, **kwargs):
        self._lap("step")
        self.last_step, self.last_epoch = state.global_step, float(state.epoch)
        if self._images_an_epoch is not None:  # exact also where the last batch of an epoch is a small one
            self.images = (self.last_epoch - self.first_epoch) * self._images_an_epoch
        else:
            batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            self.images = (self.last_step - self.first_step) * batch

    def on_epoch_end(self, args, state, control, **kwargs):
        self._lap("step")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self._lap("step")

    def on_evaluate(self, args, state, control, **kwargs):
        self._lap("evaluation")

    def on_save(self, args, state, control, **kwargs):
        self._lap("saving")

    def on_train_end(self, args, state, control, **kwargs):
        self._lap("other")
