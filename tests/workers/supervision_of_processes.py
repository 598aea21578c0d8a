"""
Labels from captions on several processes, of which the first alone has image features, and no folder is shared. Each
process writes FOLDER/RANK.npy: its soft labels.

    accelerate launch --num_processes W tests/workers/supervision_of_processes.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_supervision import SEEN, TRUTH, captioned, few, soft_of, supervised, vectors

if __name__ == "__main__":
    state = PartialState(cpu=True)
    features = SEEN if state.is_main_process else None
    split = captioned(few(40), vectors(TRUTH, 0.9))
    found = supervised(split, image_features=lambda: features, supervision="auto")
    np.save(Path(sys.argv[1]) / f"{state.process_index}.npy", soft_of(found.split))
    state.destroy_process_group()
