"""
Trains on several processes, the last batch of an epoch leaving some without rows; and with a loss that becomes NaN on
one process alone. Each process writes FOLDER/RANK.json: what it logged, and the error it met.

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
    # A file each: lines that two processes print at once can run into each other
    found = {"rank": rank, "history": trainer.state.log_history, "error": error}
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    end_and_look()
