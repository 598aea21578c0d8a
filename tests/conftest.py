"""Every test runs offline, on one thread, with caches of its own. Set before any library is imported."""

import os
import tempfile

_home = tempfile.TemporaryDirectory(prefix="g4i-hf-home-")
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HOME=_home.name,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    COLUMNS="100",  # width of a terminal, for pages of help
)

import torch  # noqa: E402

torch.set_num_threads(1)
