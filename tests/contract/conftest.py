"""What the contract tests share: commands that start at once, drawings, and one folder of each kind."""

import shutil
from pathlib import Path

import pytest
from doors import succeed
from drawings import ENCODER, STUDENT, TRAINING, draw_folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """An image folder with captions; read only."""
    return draw_folder(tmp_path_factory.mktemp("pictures") / "pictures", train=18, validation=9)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Path:
    """`pictures`, the stages `captions` and `embeddings`, the runs `aligned` and `baseline`. Read only."""
    folder = tmp_path_factory.mktemp("folders")
    draw_folder(folder / "pictures", train=18, validation=9)
    captions = {"dataset_name": "./pictures", "captions_dir": "captions", "caption_column": "caption"}
    succeed("caption", captions, cwd=folder)
    succeed("embed", {"dataset_name": "./captions", "embeddings_dir": "embeddings"}, ENCODER, cwd=folder)
    for run, weight in (("aligned", 0.3), ("baseline", 0)):
        data = {"dataset_name": "./embeddings", "output_dir": run, "align_weight": weight}
        succeed("train", data, STUDENT, TRAINING, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def loop(folders, tmp_path_factory) -> Path:
    """
    The whole road in one folder: a copy of `folders`, with `report.html`, the student in `aligned/student`, and
    `captions-dataset`. Read only.
    """
    folder = shutil.copytree(folders, tmp_path_factory.mktemp("loop") / "loop")
    runs = {"run": "aligned", "baseline": "baseline"}
    succeed("evaluate", runs, {"report": "report.html"}, cwd=folder)
    succeed("release", runs, {"license": "apache-2.0"}, cwd=folder)
    succeed("release", {"stage": "captions"}, cwd=folder)
    return folder
