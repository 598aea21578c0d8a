"""What the workflows promise beside tests/contract/: a budget that processes share, and honest figures."""

import shutil
import sys
from pathlib import Path

import pytest

from g4i_hf import evaluate_run
from g4i_hf.captioning.runner import Share
from g4i_hf.cli import build_options
from g4i_hf.options import OPTIONS_OF
from g4i_hf.workflows.caption import Captioning

CONTRACT = Path(__file__).parent / "contract"
sys.path.append(str(CONTRACT))
from doors import caption_server, server_stats  # noqa: E402


@pytest.fixture
def older(tmp_path) -> Path:
    """Runs, stages and pictures that commands may write into."""
    return shutil.copytree(CONTRACT / "fixtures_0_1", tmp_path / "older")


def test_processes_that_share_the_captions_share_the_budget(older):
    """A request costs 3 here, and 27 images wait: two processes with a budget of 24 ask for 4 captions each."""
    given = {"dataset_name": str(older / "pictures"), "captions_dir": str(older / "new"), "captioner_model": "tiny"}
    with caption_server("--answer", "digest") as server:
        given |= {"base_url": f"{server}/v1", "max_concurrency": 1}
        given |= {"max_cost": 24, "price_input": 0, "price_output": 1e6}
        for rank in range(2):
            Captioning(*build_options(OPTIONS_OF["caption"], given), say=str).ask(Share(rank, 2))
        assert server_stats(server)["requests"] == 8


def test_probes_have_no_figures_of_the_rows_they_were_fitted_on(older):
    found = evaluate_run(older / "aligned", splits=["train", "validation"], measures=["probe"])["aligned"]
    assert "validation_knn_1_accuracy" in found and found["train_samples"] == 18
    assert not [
        name for name in found if name.startswith("train_") and "probe" in name or name.startswith("train_knn")
    ]
