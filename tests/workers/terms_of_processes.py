"""
Trains on several processes, the last batch of an epoch leaving some without rows; with a loss that becomes NaN on one
process alone; and with a row that makes it NaN, in a step that is left out. Each process writes FOLDER/RANK.json: what
it logged, and the error it met.

    accelerate launch --num_processes W tests/workers/terms_of_processes.py FOLDER
"""

import faulthandler
import json
import os
import sys
from pathlib import Path

import torch
from ending import end_and_look

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_nan_losses import trained, with_nan
from test_progress import trainer_of
from tiny_training import Spoil

HANGS_AFTER = 120  # seconds


def main() -> None:
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    trainer = trainer_of(folder / "whole", num_train_epochs=2, report_to="tensorboard")
    trainer.train()
    spoils = [Spoil(2, "projector")] if rank == 1 else None
    spoiled = trainer_of(folder / "spoiled", callbacks=spoils, logging_steps=3, save_strategy="epoch")
    try:
        spoiled.train()
        error = None
    except ValueError as raised:
        error = str(raised)
    options = {"per_device_train_batch_size": 2, "max_nan_steps": 1}
    left_out = trained(folder / "left_out", with_nan(5), "vit", **options)
    weights = [value.double().sum().item() for value in left_out.model.state_dict().values()]
    # A file each: lines that two processes print at once can run into each other
    found = {"rank": rank, "history": trainer.state.log_history, "error": error}
    found["left_out"] = [left_out.nan_steps.steps, weights]
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    end_and_look()
