"""Packages that only some users need: `setup.cfg` lists them as extras of g4i_hf."""

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module; an ImportError says what needs it (`purpose`), and how to install the extra."""
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        # Not by its name before an index has it, as anybody could register it there
        raise ImportError(f"{purpose} needs {missing}: pip install -e '.[{extra}]' in a clone of g4i_hf.") from error
