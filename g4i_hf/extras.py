"""Packages that only some users need: `setup.cfg` lists them as extras of g4i_hf."""

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """
    Import a module of an optional package, by its full name. If it is missing, an ImportError names what needs it
    (`purpose`, the subject of a sentence), and how to install the extra of g4i_hf.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        # Not by its name before an index has it, as anybody could register it there
        raise ImportError(f"{purpose} needs {missing}: pip install -e '.[{extra}]' in a clone of g4i_hf.") from error
