"""What a trainer writes and loads: checkpoints that are complete or absent, runs, students; adapters of peft."""

import contextlib
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import rotate_checkpoints, unwrap_peft_model

from ..data.record import Record
from ..files import give_usual_permissions
from ..modeling.modeling_aligned import save_student
from ..modeling.processing import default_processor
from ..modeling.student import merged
from .callbacks import EmaCallback
from .checkpoint import STAGING, finalize_checkpoint, order_of, record_of, remaining_checkpoint_named

UNMERGED_FILE = "unmerged.safetensors"  # in a checkpoint of a `PeftModel`: its adapters and weights apart


class SavingTrainer(Trainer):
    """Trainer with checkpoints that survive a kill, and without files of half the weights."""

    model: Any
    processing_class: Any
    ema: EmaCallback | None

    @property
    def is_adapted(self) -> bool:
        """Whether the model is a `PeftModel`."""
        return unwrap_peft_model(self.model) is not self.model

    @cached_property
    def data_record(self) -> Record:
        """The training data by content. `g4i train` sets the record of its data as opened."""
        return record_of(self.train_dataset, list(self.model.config.id2label.values()))

    def save_run(self) -> None:
        """Write weights, their moving average and the state of a finished training into the run folder."""
        with self._saving("The weights"):
            self.save_model(_internal_call=True)  # otherwise it would be pushed now, before its evaluation
            if self.args.should_save and self.ema is not None:
                self.ema.save(self.args.output_dir)
            self.save_state()

    def save_student(self, folder: str | Path) -> None:
        """Write the student and its image processor, for `pipeline("image-classification")`; without a card."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("save_student needs whole weights; of sharded ones use save_run and release_student.")
        if self.processing_class is None:
            self.processing_class = default_processor(self.model.config.student_config, self.is_world_process_zero())
        if self.args.should_save:
            save_student(self.accelerator.unwrap_model(self.model), folder, self.processing_class)
            give_usual_permissions(folder)

    def _saving(self, what: str) -> contextlib.AbstractContextManager:
        """A no-op on other processes, whose only error is a timeout while they wait for the first."""
        if not self.args.should_save:
            return contextlib.nullcontext()
        return remaining_checkpoint_named(what, Path(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        """
        Trainer writes into the final folder, where a kill leaves half a checkpoint (huggingface/transformers#27820,
        #35782). This writes into a temporary folder, which is renamed once everything, including the EMA, is on disk.
        """
        args, state, name = self.args, self.state, f"checkpoint-{self.state.global_step}"
        run, output_dir = args.output_dir, self._get_output_dir(trial)  # each trial has a folder
        staging = Path(output_dir) / STAGING
        with self._saving(name):
            if args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            args.output_dir = str(staging)
            try:
                super()._save_checkpoint(model, None)
            finally:
                args.output_dir = run
            self.accelerator.wait_for_everyone()
            if state.best_model_checkpoint == str(staging / name):
                state.best_model_checkpoint = str(Path(output_dir) / name)
            if args.should_save:
                if self.ema is not None:
                    self.ema.save(staging / name)
                if self.is_adapted:
                    tensors = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
                    save_file(tensors, staging / name / UNMERGED_FILE)
                state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
                self.data_record.write(output_dir)
                finalize_checkpoint(staging / name, Path(output_dir), self.data_record.digest, order_of(args))
        if args.should_save:
            rotate_checkpoints(
                output_dir=output_dir,
                save_total_limit=args.save_total_limit,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """
        Without Trainer's pickle of the arguments, which holds local paths; train.yaml has them. Adapters of a
        `PeftModel` are merged into the weights, so that a run is released as any other.
        """
        model, self.model = self.model, merged(self.model)
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model = model
        folder = Path(output_dir or self.args.output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        give_usual_permissions(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
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
        Load by `from_pretrained`: a checkpoint has the parameter names of the Hub, which for ViT, DeiT, BEiT and
        others are not those of the modules. Trainer expects the latter, warns, and continues with the current weights
        (huggingface/transformers#43701).
        """
        unmerged = Path(checkpoint) / UNMERGED_FILE
        if self.is_adapted != unmerged.is_file():
            there, here = ("a model", "one") if self.is_adapted else ("one", "a model")
            raise ValueError(f"{checkpoint} is not of {here} with adapters of get_peft_model, as {there} here.")
        if self.is_adapted:
            self.model.load_state_dict(load_file(unmerged))
            return
        saved = type(self.model).from_pretrained(checkpoint, trust_remote_code=False, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())
