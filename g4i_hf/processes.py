"""What the first of several processes does for all."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

Result = TypeVar("Result")


def on_main_process(compute: Callable[[], Result]) -> Result:
    """The result of the main process, in all of them; the main process has the very object, the others a copy."""
    return broadcast_object_list([compute() if PartialState().is_main_process else None])[0]
