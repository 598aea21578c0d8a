"""Stages that were published: found by name, on this machine or on the Hub."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .stage import STAGE_FILE, read_stage


def find_stage(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """
    The `stage.json` of a stage.

    Args:
        name: folder of a stage, or Hub id of a data set.
        revision: branch, tag or commit on the Hub.

    Returns:
        None for a data set that no stage has made, and for one that cannot be reached: opening it says why.
    """
    if Path(name).is_dir():
        return read_stage(name)
    try:
        path = hf_hub_download(name, STAGE_FILE, repo_type="dataset", revision=revision)
    except (
        EntryNotFoundError,  # also: not reached, and not in the cache
        HFValidationError,  # a path
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    ):
        return None
    stage = json.loads(Path(path).read_text(encoding="utf-8"))
    return stage if isinstance(stage, dict) and "stage" in stage and "num_rows" in stage else None
