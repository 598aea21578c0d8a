"""What is printed, and whether: lines, progress bars and the messages of libraries."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from .files import printable_lines

# Loggers of which only warnings are shown by commands
TALKATIVE = ("aiobotocore", "datasets", "httpx", "httpx2", "sentence_transformers")


def is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def is_quiet() -> bool:
    """Whether `transformers.utils.logging` shows errors alone. One that is not imported shows warnings."""
    verbosity = sys.modules.get("transformers.utils.logging")
    return verbosity is not None and verbosity.get_verbosity() > logging.WARNING


def say(text: str) -> None:
    """Print, in the first of several processes, unless it [`is_quiet`]."""
    if is_first_process() and not is_quiet():
        print(printable_lines(text), flush=True)


def progress_bar(*args: Any, shown: bool = True, **kwargs: Any) -> tqdm:
    """tqdm's, `shown` or not; `TQDM_DISABLE`, verbosity, and the switches of datasets and huggingface_hub hide it."""
    from datasets import are_progress_bars_disabled
    from huggingface_hub import utils

    if not shown or is_quiet() or are_progress_bars_disabled() or utils.are_progress_bars_disabled():
        kwargs["disable"] = True
    return tqdm(*args, **kwargs)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Turns the switches of all libraries off, and back to what they were."""
    import datasets
    from huggingface_hub import utils
    from transformers.utils import logging as of_transformers

    with contextlib.ExitStack() as back:
        back.callback(of_transformers.set_verbosity, of_transformers.get_verbosity())
        of_transformers.set_verbosity_error()
        back.callback(of_transformers.set_tqdm_hook, of_transformers.set_tqdm_hook(_hidden))
        for library in (datasets, utils):
            if not library.are_progress_bars_disabled():
                back.callback(library.enable_progress_bars)
                library.disable_progress_bars()
        for logger in map(logging.getLogger, (*TALKATIVE, "accelerate", "g4i_hf", "huggingface_hub")):
            back.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield


def _hidden(bar: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return bar(*args, **kwargs | {"disable": True})


class PrintableFormatter(logging.Formatter):
    """Only the message, with escapes for characters that move the cursor or hide text."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def quiet_libraries(main_process: bool) -> None:
    """Show our messages and progress bars in the main process, and only warnings of the libraries."""
    import datasets
    import huggingface_hub
    import transformers

    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if main_process else logging.ERROR, handlers=[handler])
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of each processor of timm's, which has no backend of torchvision
    logging.getLogger("transformers.models.auto.image_processing_auto").setLevel(logging.ERROR)
    datasets.config.USE_PARQUET_EXPORT = False  # would send a request to another host for every dataset
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.set_tqdm_hook(_hidden)  # weights load in seconds
    if not main_process:
        datasets.disable_progress_bars()
        huggingface_hub.utils.disable_progress_bars()
