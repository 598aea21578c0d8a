"""Check the name of a dataset or a model without opening it, before anything heavy is imported."""

import os
from pathlib import Path

from ..files import nearest, restore_replaced


def check_dataset_name(name: str, option: str = "dataset_name") -> None:
    """A FileNotFoundError for the path of a folder that does not exist; the Hub is not asked."""
    looks_local = name.startswith((".", "~", "/")) or name.endswith("/") or name.count("/") > 1  # no Hub id does
    restore_replaced(name)
    if looks_local and not Path(name).is_dir():
        raise FileNotFoundError(f"{option} is {name!r}, but there is no such folder.{_near_folder(name)}")


def check_dataset_exists(name: str, option: str = "dataset_name", revision: str | None = None) -> None:
    """
    A FileNotFoundError when neither a folder nor a dataset on the Hub has the name. The Hub is asked once, for at most
    two seconds.
    """
    check_dataset_name(name, option)
    if Path(name).is_dir():
        return
    if why := why_missing(name, "dataset", revision):
        raise FileNotFoundError(f"{option} is {name!r}: there is no such folder, and {why}.{_near_folder(name)}")


def why_missing(name: str, kind: str, revision: str | None = None) -> str | None:
    """
    Why neither the cache nor the Hub has a `dataset` or `model`; None if one has, or does not say. The Hub is asked
    once, for at most two seconds: libraries ask many times.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if _is_cached(name, kind):
        return None
    if constants.HF_HUB_OFFLINE:
        return "with HF_HUB_OFFLINE the Hub is not asked"
    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=2)
    except RevisionNotFoundError:
        return f"the {kind} on the Hub has no revision {revision!r}"
    except (RepositoryNotFoundError, HFValidationError):
        return f"the Hub has no {kind} of that name that you can read"
    except (OSError, HfHubHTTPError.__bases__[0]) as error:  # of httpx2; before huggingface_hub 2 of httpx
        return f"the Hub cannot be reached ({error})" if type(error).__name__ == "ConnectError" else None
    return None


def _is_cached(name: str, kind: str) -> bool:
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}")
    if kind == "model":  # an empty folder is left by a download that failed
        return (repository / "snapshots").is_dir()
    home = os.environ.get("HF_DATASETS_CACHE", os.path.join(constants.HF_HOME, "datasets"))
    return repository.exists() or Path(home, name.replace("/", "___")).exists()


def _near_folder(name: str) -> str:
    path = Path(name)
    if not path.parent.is_dir():
        return ""
    folders = {each.name: str(path.parent / each.name) for each in path.parent.iterdir() if each.is_dir()}
    near = nearest(path.name, folders)
    return "" if near is None else f" Did you mean {folders[near]!r}?"
