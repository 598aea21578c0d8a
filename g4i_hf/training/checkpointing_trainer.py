"""`CheckpointingTrainer`: checkpoints that are whole or not there, with the moving average, of the data at hand."""

import contextlib
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..data.fingerprint import fingerprint
from ..data.streamed_images import StreamedImages
from .checkpoint import check_resumable, telling_what_remains, write_record
from .ema import EmaCallback
from .publishing_trainer import PublishingTrainer

STAGING = ".tmp-checkpoint"


class CheckpointingTrainer(PublishingTrainer):
    """
    Raises:
        CheckpointError: when a checkpoint cannot be written, such as to a full disk; the earlier ones are intact.
        OtherDataError: when training is to go on with other data than that of the checkpoint, or another order of it.
    """

    ema: EmaCallback | None = None
    _staging: Path | None = None

    @cached_property
    def data_fingerprint(self) -> dict[str, Any]:
        """Of the training data, see [`~g4i_hf.data.fingerprint.fingerprint`]; taken once, when it is asked for."""
        return fingerprint(self.train_dataset)

    def data_order(self) -> dict[str, Any]:
        """All that the order of the training data, and how it is augmented, depends on."""
        args = self.args
        names = (
            "gradient_accumulation_steps",
            "seed",
            "data_seed",
            "train_sampling_strategy",
            "repeated_augmentation",
        )
        order = {name: getattr(args, name) for name in (*names, "dataloader_drop_last")}
        if isinstance(self.train_dataset, StreamedImages):
            stream = self.train_dataset.stream
            order |= {"shuffle_buffer_size": self.train_dataset.block, "processes": args.world_size}
            order |= {"shards": stream.rows.num_shards}
        return {"per_device_train_batch_size x processes": args.train_batch_size * args.world_size} | order

    def check_resumable(self, checkpoint: str | Path) -> None:
        """
        Raises:
            FileNotFoundError: when the checkpoint is not whole.
            OtherDataError: when the training data, or its order, is not that of the checkpoint.
        """
        check_resumable(checkpoint, self.data_fingerprint, self.data_order())

    def _get_output_dir(self, trial) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        """
        Writes the whole checkpoint, the EMA included, to a temporary folder and renames it: a run killed at any moment
        leaves either a whole checkpoint or none.
        """
        run_dir = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = run_dir / STAGING
        # Another process only waits in vain for the first, which says why
        saves = telling_what_remains(name, run_dir, staging) if self.args.should_save else contextlib.nullcontext()
        with saves:
            self._write_checkpoint(model, trial, staging, run_dir, name)
        if self.args.should_save:
            shutil.rmtree(staging)
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()
        self.publish_checkpoint(run_dir / name)

    def _write_checkpoint(self, model: nn.Module, trial, staging: Path, run_dir: Path, name: str) -> None:
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        if self.args.should_save and self.ema is not None:
            self.ema.save(staging / name)
        self.accelerator.wait_for_everyone()
        self._settle_best_checkpoint(staging, run_dir)
        if self.args.should_save:
            self.state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
            write_record(staging / name, self.data_fingerprint, self.data_order())
            shutil.rmtree(run_dir / name, ignore_errors=True)
            (staging / name).rename(run_dir / name)

    def save_run(self) -> None:
        """Weights, their moving average and the state of a training that has come to its end, into the run folder."""
        run = self.args.output_dir
        saves = telling_what_remains("The weights", run) if self.args.should_save else contextlib.nullcontext()
        with saves:
            self.save_model(_internal_call=True)  # else it would be pushed now, before its evaluation
            if self.args.should_save and self.ema is not None:
                self.ema.save(run)
            self.save_state()

    def _settle_best_checkpoint(self, staging: Path, run_dir: Path) -> None:
        best = self.state.best_model_checkpoint
        if best is not None and Path(best).parent == staging:
            self.state.best_model_checkpoint = str(run_dir / Path(best).name)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.check_resumable(resume_from_checkpoint)
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_weights(resume_from_checkpoint)
        if self.ema is not None:
            self.ema.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_weights(self.state.best_model_checkpoint)
        if self.ema is not None:
            self.ema.load(self.state.best_model_checkpoint)

    def _load_weights(self, checkpoint: str) -> None:
        """
        By `from_pretrained`: a checkpoint has the names that the Hub knows, which for ViT, DeiT, BEiT and others are
        not those of the modules. Trainer looks for the latter, warns, and goes on with the weights it has.
        """
        saved = type(self.model).from_pretrained(checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle with the paths of this machine; train.yaml keeps the options
        (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)
