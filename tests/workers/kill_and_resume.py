"""
Runs `train` in forked processes: once undisturbed, then killed by SIGKILL at each of the points given, and
resumed. Prints a JSON line a point: whether it was killed there, what lay in the run folder, and whether weights and
EMA are those of the undisturbed run.

    python kill_and_resume.py FOLDER DATA POINT... [-- OPTIONS OF TRAIN]

A point is `step:N` (after optimizer step N), `write` (weights written, optimizer not), `ema` (before the EMA) or
`rename` (all written, not yet renamed).
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from g4i_hf.running import main as g4i
from g4i_hf.training import trainer as trainer_module
from g4i_hf.training.callbacks import EmaCallback
from g4i_hf.training.trainer import AlignmentTrainer
from g4i_hf.workflows.train import TrainingRun

torch.set_num_threads(1)
STUDENT_ARGS = '{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_rate": 0.1, "drop_path_rate": 0.1}'

GIVEN, MORE = sys.argv, []
if "--" in GIVEN:
    GIVEN, MORE = GIVEN[: GIVEN.index("--")], GIVEN[GIVEN.index("--") + 1 :]


def die(*_, **__) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            die()


def arm(point: str) -> None:
    if point.startswith("step:"):
        build = TrainingRun.build_trainer

        def build_mortal(*args, **kwargs):
            trainer = build(*args, **kwargs)
            trainer.add_callback(DieAfter(int(point[5:])))
            return trainer

        TrainingRun.build_trainer = build_mortal
        return
    # The second checkpoint is the one that is disturbed
    owner, name = {
        "write": (AlignmentTrainer, "_save_optimizer_and_scheduler"),
        "ema": (EmaCallback, "save"),
        "rename": (trainer_module, "finalize_checkpoint"),
    }[point]
    original, calls = getattr(owner, name), []

    def second_time_deadly(*args, **kwargs):
        calls.append(1)
        return die() if len(calls) == 2 else original(*args, **kwargs)

    setattr(owner, name, second_time_deadly)


def run(output_dir: Path, data: str, point: str | None = None) -> int:
    """Exit status of a forked run, as os.waitpid gives it."""
    process = os.fork()
    if process == 0:
        log = os.open(output_dir.parent / f"{output_dir.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if point is not None:
            arm(point)
        argv = ["train", "--dataset_name", data, "--output_dir", str(output_dir), "--use_cpu", "true"]
        argv += ["--student", "vit_tiny_patch16_224", "--student_args", STUDENT_ARGS, "--image_size", "32"]
        argv += ["--train_crop", "pad", "--color_jitter", "0.3", "--mixup_alpha", "0.2", "--ema_decay", "0.9"]
        argv += ["--num_train_epochs", "3", "--per_device_train_batch_size", "8", "--save_strategy", "steps"]
        argv += ["--save_steps", "3", "--learning_rate", "1e-3", "--save_total_limit", "10"]
        argv += ["--align_schedule", "cosine", "--align_warmup_epochs", "1"]
        argv += ["--align_loss", "siglip", "--lr_scheduler_type", "cosine"]
        argv += MORE
        try:
            g4i(argv)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1]


def main() -> None:
    folder, data, points = Path(GIVEN[1]), GIVEN[2], GIVEN[3:]
    undisturbed = folder / "undisturbed"
    assert run(undisturbed, data) == 0, (folder / "undisturbed.log").read_text()[-3000:]
    for number, point in enumerate(points):
        output_dir = folder / f"killed{number}"
        killed = run(output_dir, data, point)
        checkpoints = sorted(path.name for path in output_dir.glob("checkpoint-*"))
        whole = all((path / "ema.safetensors").is_file() for path in output_dir.glob("checkpoint-*"))
        resumed = run(output_dir, data)
        same = {
            name: (undisturbed / name).read_bytes() == (output_dir / name).read_bytes()
            for name in ("model.safetensors", "ema.safetensors")
            if (output_dir / name).is_file()
        }
        log = (folder / f"{output_dir.name}.log").read_text()
        found = {"point": point, "killed": os.WIFSIGNALED(killed) and os.WTERMSIG(killed) == signal.SIGKILL}
        found |= {"checkpoints": checkpoints, "whole": whole, "resumed": resumed, "same": same}
        found |= {"went_on_from": "Resuming from" in log, "log": log[-1500:] if resumed else ""}
        found["leftovers"] = [path.name for path in output_dir.glob(".tmp*")]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
