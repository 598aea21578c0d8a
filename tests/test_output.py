"""What is printed from Python, and the switches of Hugging Face's libraries that turn it off."""

import sys
from functools import partial

import datasets
import huggingface_hub.utils
import pytest
import transformers
from doors import ended
from fitting import few_labels
from loaded import PYTHON
from tqdm import tqdm

from g4i_hf import embed_view, fit, load_images

FIT = """
import sys
from g4i_hf import fit
fit("pictures", output_dir="out", student=sys.argv[1], text_encoder=sys.argv[2], image_size=32, finetune=False{})
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return few_labels(tmp_path_factory.mktemp("output"), 2, train=24, validation=6)


def test_a_fit_that_is_not_verbose_prints_nothing(pictures, student, words):
    done = ended([PYTHON, "-c", FIT.format(", verbose=False"), student, words], None, pictures.parent)
    assert (done.code, done.said) == (0, "")


@pytest.mark.parametrize("switch", ["verbosity", "datasets", "hub", None])
def test_switches_of_other_libraries_hide_lines_and_bars(switch, pictures, student, tmp_path, capsys, monkeypatch):
    off, on = {
        "verbosity": (transformers.logging.set_verbosity_error, transformers.logging.set_verbosity_warning),
        "datasets": (datasets.disable_progress_bars, datasets.enable_progress_bars),
        "hub": (huggingface_hub.utils.disable_progress_bars, huggingface_hub.utils.enable_progress_bars),
        None: (int, int),
    }[switch]
    images = load_images(pictures)
    monkeypatch.setattr("g4i_hf.output.tqdm", partial(tqdm, delay=0))  # commands show them after some seconds
    off()
    try:
        embed_view(images, "image:student", tmp_path, student=student)
        fit(pictures, output_dir=str(tmp_path), student=student, dry_run=True)
    finally:
        on()
    printed, bars = capsys.readouterr()
    assert ("image/s]" in bars) == (switch is None)
    assert ("Nothing was written" in printed) == (switch != "verbosity")


@pytest.mark.slow
def test_tqdm_disable_hides_bars(pictures, student, words):
    """A variable that tqdm reads on import."""
    command = [sys.executable, "-c", FIT.format(", overwrite=True"), student, words]
    done = ended(command, {"TQDM_DISABLE": "1"}, pictures.parent)
    assert done.code == 0 and "Classifier: " in done.out and "%|" not in done.err
