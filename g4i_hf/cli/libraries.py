"""What the libraries may say while a script runs."""

import gc
import logging

# Set by recipes/with_module.py: the module that it has imported, for processes that start again and for what is said
OWN_MODULE = "G4I_HF_MODULE"


def end_processes() -> None:
    """
    At the end of a script, when what it made is out of use: threads of a process group that is still there can abort a
    process as it leaves, and a model that outlives its group can keep it from leaving (torch 2.13, gloo).
    """
    from accelerate import PartialState

    if PartialState._shared_state:
        gc.collect()
        PartialState().destroy_process_group()


def quiet_libraries(main_process: bool) -> None:
    """Our own messages and progress bars from the main process; from the libraries only warnings."""
    import datasets
    import transformers

    logging.basicConfig(level=logging.INFO if main_process else logging.ERROR, format="%(message)s")
    for name in ("httpx", "httpx2", "sentence_transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    datasets.config.USE_PARQUET_EXPORT = False  # would ask another host for every data set
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    if not main_process:
        datasets.disable_progress_bars()
