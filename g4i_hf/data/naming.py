"""Check the name of a dataset without opening it, before anything heavy is imported."""

import os
from pathlib import Path

from ..files import nearest, take_back


def check_dataset_name(name: str, option: str = "dataset_name") -> None:
    """A FileNotFoundError for the path of a folder that does not exist; the Hub is not asked."""
    looks_local = name.startswith((".", "~", "/")) or name.endswith("/") or name.count("/") > 1  # no Hub id does
    take_back(name)
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
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if _is_cached(name):
        return
    missing = f"{option} is {name!r}: there is no such folder, and"
    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f"{missing} with HF_HUB_OFFLINE the Hub is not asked.{_near_folder(name)}")
    try:
        HfApi().repo_info(name, repo_type="dataset", revision=revision, timeout=2)
    except (RepositoryNotFoundError, HFValidationError) as error:
        why = "the Hub has no dataset of that name that you can read."
        raise FileNotFoundError(f"{missing} {why}{_near_folder(name)}") from error
    except (OSError, HfHubHTTPError.__bases__[0]) as error:  # of httpx2; before huggingface_hub 2 of httpx
        if type(error).__name__ == "ConnectError":
            raise FileNotFoundError(f"{missing} the Hub cannot be reached ({error}).{_near_folder(name)}") from error


def _is_cached(name: str) -> bool:
    from huggingface_hub import constants

    home = os.environ.get("HF_DATASETS_CACHE", os.path.join(constants.HF_HOME, "datasets"))
    places = [
        Path(home, name.replace("/", "___")),
        Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}"),
    ]
    return any(place.exists() for place in places)


def _near_folder(name: str) -> str:
    path = Path(name)
    if not path.parent.is_dir():
        return ""
    folders = {each.name: str(path.parent / each.name) for each in path.parent.iterdir() if each.is_dir()}
    near = nearest(path.name, folders)
    return "" if near is None else f" Did you mean {folders[near]!r}?"
