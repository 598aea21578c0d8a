"""Local data and models ask no server, although one could be reached."""

import socket
from pathlib import Path

import pytest
from fitting import few_labels

from g4i_hf import ImageSearch, evaluate_run, fit
from g4i_hf.cli import build_options
from g4i_hf.commands import COMMANDS
from g4i_hf.options import OPTIONS_OF


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The servers that were asked; none can be reached."""
    hosts = []

    def address_of(host, *args, **more):
        hosts.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", address_of)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return hosts


@pytest.mark.slow
def test_no_server_is_asked_about_local_data(asked, student, words, tmp_path, monkeypatch):
    """Also where the name of a folder could be that of a model on the Hub; the default student is in a package."""
    few_labels(tmp_path, 2, train=24, validation=6)
    Path(tmp_path / "words").symlink_to(words)
    monkeypatch.chdir(tmp_path)
    fit("pictures", output_dir="default", dry_run=True)
    given = {"text_encoder": "words", "student": student}
    fit("pictures", output_dir="out", image_size=32, finetune=False, **given)
    evaluate_run("out", splits=["validation"])
    views = {"views": ["caption", "image:student"], "check_dir": "check"}
    COMMANDS["check"].run(*build_options(OPTIONS_OF["check"], {"dataset_name": "pictures"} | given | views))
    ImageSearch("out", "pictures/validation", text_encoder="words")("a circle")
    assert asked == []
