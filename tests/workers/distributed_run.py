"""
Trains a small student on several processes; test_invariance.py compares what different launchers make of it.

    accelerate launch ... tests/workers/distributed_run.py OUTPUT_DIR DATA [OPTION VALUE]...

The weights and the logged losses are written to OUTPUT_DIR/result.pt, by the main process.
"""

import faulthandler
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint.state_dict as checkpoint_states
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, gather_object
from ending import end_and_look
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.utils._pytree import tree_map

from g4i_hf.cli import end_processes, parse_options
from g4i_hf.commands import Train
from g4i_hf.options import OPTIONS_OF
from g4i_hf.training import AlignmentTrainer

STUDENT_ARGS = '{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}'


def main() -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(400, exit=True)
    train_and_save()
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":  # torch's own caches of DTensor hold the group to the end
        end_processes()
        sys.stdout.flush()
        os._exit(0)  # its threads may still hold tensors, which would abort the process
    else:
        end_and_look()


def train_and_save() -> None:
    output_dir, data, *more = sys.argv[1:]
    argv = ["--dataset_name", data, "--output_dir", output_dir, "--student", "vit_tiny_patch16_224"]
    argv += ["--student_args", STUDENT_ARGS, "--image_size", "32", "--train_crop", "pad", "--learning_rate", "1e-2"]
    argv += ["--unlabelled", "keep", "--logging_steps", "1", "--save_strategy", "no", "--optim", "sgd", *more]
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpu()
    held = {}
    original = AlignmentTrainer.save_run

    def save_run(trainer):
        original(trainer)
        held["trainer"] = trainer
        held["shard"] = sum(p.numel() for p in map(_local, trainer.model.parameters()))  # before it predicts

    AlignmentTrainer.save_run = save_run
    Train().run(*parse_options(OPTIONS_OF["train"], argv))
    trainer = held.pop("trainer")
    shards = gather_object([held["shard"]])
    if PartialState().is_main_process:
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        found = {"losses": losses, "shards": shards, "model": type(trainer.model_wrapped).__name__}
        torch.save(found, Path(output_dir) / "result.pt")


def shard_on_cpu() -> None:
    """accelerate 1.15 leaves FSDP out on processes of the CPU, and trains by DDP; torch can do it there as well."""
    init = AcceleratorState.__init__

    def init_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState().distributed_type = DistributedType.FSDP  # what every further state begins with

    AcceleratorState.__init__ = init_with_fsdp
    # What was gathered is waited for when it is copied from a GPU; here it is in place, and could not be saved yet
    for name in ("get_model_state_dict", "get_optimizer_state_dict"):
        setattr(checkpoint_states, name, waited_for(getattr(checkpoint_states, name)))


def waited_for(gather: Callable) -> Callable:
    def gather_and_wait(*args, **kwargs):
        found = gather(*args, **kwargs)
        return tree_map(lambda value: value.wait() if isinstance(value, AsyncCollectiveTensor) else value, found)

    return gather_and_wait


def _local(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter that may be spread."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


if __name__ == "__main__":
    main()
