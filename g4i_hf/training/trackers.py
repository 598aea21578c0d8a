"""What experiment trackers are given: TensorBoard, Trackio, Weights & Biases, through Trainer's `report_to`."""

import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from transformers import PreTrainedConfig, Trainer
from transformers.integrations import TensorBoardCallback

from .alignment_arguments import AlignmentArguments

TENSORBOARD_DIR = "tensorboard"


def name_run(args: AlignmentArguments) -> None:
    """Names the run after its folder, and gives Weights & Biases the project that Trackio has, unless they are set."""
    args.run_name = args.run_name or Path(args.output_dir).resolve().name
    if "wandb" in args.report_to:
        os.environ.setdefault("WANDB_PROJECT", args.project)


def forget_local_student(config: PreTrainedConfig) -> None:
    """Keeps the name alone of a local folder that the student came from: trackers and config.json take it along."""
    for part in (config, getattr(config, "student_config", None)):
        place = getattr(part, "_name_or_path", None)
        if place and Path(place).is_absolute():
            part._name_or_path = Path(place).name


def use_run_folder(trainer: Trainer) -> None:
    """Puts [`RunTensorBoard`] in the place of Trainer's callback where TensorBoard is asked for."""
    if trainer.pop_callback(TensorBoardCallback) is not None:
        trainer.add_callback(RunTensorBoard())


def tracker_places(args: AlignmentArguments) -> list[str]:
    """Where each tracker keeps this run, for people to read."""
    places = {
        "tensorboard": f"tensorboard --logdir {tensorboard_folder(args)}",
        "trackio": f"trackio show --project {args.project}",
        "wandb": f"wandb, project {os.environ.get('WANDB_PROJECT', args.project)}",
    }
    return [places.get(name, name) for name in args.report_to]


def tensorboard_folder(args: AlignmentArguments) -> str:
    return os.path.expanduser(os.getenv("TENSORBOARD_LOGGING_DIR") or os.path.join(args.output_dir, TENSORBOARD_DIR))


class RunTensorBoard(TensorBoardCallback):
    """
    Writes to `tensorboard/` in the run folder (or to `TENSORBOARD_LOGGING_DIR`), not to a folder that is named after
    this machine. A resumed run goes on in the same curves: what was logged after the checkpoint is dropped.
    """

    _purge_step: int | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.logging_dir = tensorboard_folder(args)
        self._purge_step = state.global_step + 1 if state.global_step else None
        super().on_train_begin(args, state, control, **kwargs)

    def _init_summary_writer(self, args):
        with _no_host_name():
            self.tb_writer = self._SummaryWriter(tensorboard_folder(args), purge_step=self._purge_step)


@contextmanager
def _no_host_name():
    """TensorBoard puts the host name into the names of its files, which are pushed with the run folder."""
    from tensorboard.summary.writer import event_file_writer

    socket = event_file_writer.socket
    event_file_writer.socket = SimpleNamespace(gethostname=lambda: "run")
    try:
        yield
    finally:
        event_file_writer.socket = socket
