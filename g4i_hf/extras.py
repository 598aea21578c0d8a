"""Packages that only some users need: `setup.cfg` lists them as extras of g4i_hf."""

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """
    Imports a module of an optional package.

    Args:
        module: its full name, as in `onnxruntime.quantization`.
        extra: of g4i_hf, which installs it.
        purpose: what needs it, as the subject of a sentence.

    Raises:
        ImportError: when it is missing, with the command that installs the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        # Not by its name before an index has it: whoever registers it there would be installed
        raise ImportError(f"{purpose} needs {missing}: pip install -e '.[{extra}]' in a clone of g4i_hf.") from error
