"""
Says what the launcher made of its configuration; test_recipes.py reads it.

    accelerate launch --config_file recipes/accelerate_configs/cpu.yaml tests/workers/where.py RESULT.json
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from ending import end_and_look


def main() -> None:
    state = PartialState(cpu=not torch.accelerator.is_available())  # as the scripts do
    processes = gather_object([[state.process_index, state.device.type]])
    if state.is_main_process:
        found = {"processes": processes, "distributed_type": state.distributed_type.value, "backend": state.backend}
        Path(sys.argv[1]).write_text(json.dumps(found))
    end_and_look()


if __name__ == "__main__":
    main()
