"""Every test runs offline, on one thread, with caches of its own. Set before any library is imported."""

import gc
import os
import subprocess

os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    COLUMNS="100",  # width of a terminal, for pages of help
)
os.environ.pop("ACCELERATE_CONFIG_FILE", None)  # which may have another number of processes

import loaded
import pytest
from hypothesis import HealthCheck, settings


def pytest_configure(config):
    """Their fixtures. The process that only deals tests out to others imports nothing large."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        gc.disable()  # nothing that is imported is garbage, and looking through it takes a fifth of the time
        for name in ("caption_doors", "fitting"):
            config.pluginmanager.import_plugin(name)
    elif not config.option.collectonly:
        subprocess.Popen([loaded.PYTHON, "-c", ""])  # begins to load what the first command of each worker waits for


# The same examples every time: a test of a change does not fail for what it has not changed. HYPOTHESIS_PROFILE=search
# takes more and other ones each time, and prints how to repeat one that fails
settings.register_profile(
    "fast", max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("search", settings.get_profile("fast"), max_examples=100, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """Trainer and each command collect garbage, which takes most of a second if they look at all that is imported."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def no_own_module(monkeypatch):
    """A command with --module in the process of the tests leaves it set for the processes that it starts."""
    monkeypatch.setenv("G4I_HF_MODULE", "")


@pytest.fixture(scope="module")
def hub():
    from hub import serving

    with serving() as hub:
        yield hub


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP text tower of 6 dimensions, window of 8 tokens."""
    from tiny_encoders import save_clip_encoder

    return save_clip_encoder(tmp_path_factory.mktemp("encoders") / "tiny-clip")


@pytest.fixture(scope="session")
def static_folder(tmp_path_factory):
    """The quickest encoder there is: static word vectors of 5 dimensions, with a prompt and without a window."""
    from tiny_encoders import save_static_encoder

    return save_static_encoder(tmp_path_factory.mktemp("encoders") / "static")
