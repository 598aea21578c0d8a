"""Entry points: the command `g4i`, the scripts of `accelerate launch`, and one line on stderr for an error."""

import ctypes
import inspect
import io
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

# tqdm and OpenMP read these on import. Progress bars are shown after two seconds. Threads wait for each other without
# spinning, which slows them on a quiet machine, and several times on a busy one
os.environ.setdefault("TQDM_DELAY", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from . import __version__
from .cli import (
    OptionError,
    check_data,
    end_processes,
    parse_options,
    with_underscores,
)
from .commands import COMMANDS, RECIPES
from .files import printable_lines, wrong_choice
from .options import OPTIONS_OF
from .options.caller import own_columns, with_own_columns
from .output import is_first_process, quiet_libraries

# Options of `accelerate launch` that `g4i` passes on, with their number of values; others belong in its config_file
LAUNCHER_OPTIONS = {
    **dict.fromkeys(("config_file", "num_processes", "num_machines", "machine_rank", "main_process_ip"), 1),
    **dict.fromkeys(("main_process_port", "gpu_ids", "mixed_precision", "dynamo_backend", "rdzv_backend"), 1),
    **dict.fromkeys(("num_cpu_threads_per_process", "max_restarts"), 1),
    **dict.fromkeys(("multi_gpu", "cpu", "use_fsdp", "use_deepspeed", "same_network", "quiet"), 0),
}
# Of mallopt, in glibc: how much unused memory a process keeps, and from which size on each array is mapped on its own
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in ([], ["-h"], ["--help"]):
        lines = [f"  {name:10}{command.__doc__.splitlines()[0]}" for name, command in COMMANDS.items()]
        print("usage: g4i COMMAND [options]\n", *lines, "\n`g4i COMMAND --help` lists the options.", sep="\n")
        raise SystemExit(0 if argv else 2)
    if argv[0] == "--version":
        print(__version__)
        return
    if argv[0] not in COMMANDS:
        fail(wrong_choice("the command", argv[0], COMMANDS))
    words, launcher = split_words(argv[1:])
    run_command(argv[0], words, launcher)


def split_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words for a command, and those for `accelerate launch`."""
    words, launcher = [], []
    remaining = list(argv)
    while remaining:
        word = with_underscores(remaining.pop(0))
        name, equals, _ = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in LAUNCHER_OPTIONS:
            words.append(word)
            continue
        values = 0 if equals else LAUNCHER_OPTIONS[name]
        launcher += [word, *remaining[:values]]
        del remaining[:values]
    return words, launcher


def run_script(name: str) -> None:
    """Run the command NAME, for `accelerate launch recipes/NAME.py`."""
    # Python puts the folder of a script first on its path, where evaluate.py would hide the package `evaluate`
    folder = str(Path(sys.argv[0]).resolve().parent)
    sys.path = [place for place in sys.path if place != folder]
    run_command(name, sys.argv[1:], None)


def run_command(name: str, argv: list[str], launcher: list[str] | None) -> None:
    """`launcher`: options of `accelerate launch`; None in a process that must not launch others."""
    command, options = COMMANDS[name], ()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() != "utf-8":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file on Windows has no arrow, nor most of Unicode
    try:
        if command.in_one_process and (launcher or int(os.environ.get("WORLD_SIZE", 1)) > 1):
            what = f"leave {launcher[0].split('=')[0]} out" if launcher else "launch one, or unset WORLD_SIZE"
            raise OptionError(f"{name} runs in one process: {what}.")
        options = parse_options(
            OPTIONS_OF[name],
            argv,
            command=name,
            description=inspect.getdoc(command),
            default_config=RECIPES / command.default_config if command.default_config else None,
        )
        check_data(options)
        command.check(*options)
        if launcher is not None and wants_launcher(name, launcher):
            launch([name, *argv], launcher)
        quiet_libraries(is_first_process())
        keep_unused_memory()
        command.run(*options)
    except (ImportError, OSError, ValueError) as error:
        fail(with_own_columns(str(error), own_columns(options)))
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        raise SystemExit(130) from None
    end_processes()


def keep_unused_memory() -> None:
    """For the next tensors. Linux clears every page that it hands out, which took a fifth of the time of a network."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        for what, size in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20)):
            libc.mallopt(what, size)


# --- Processes -------------------------------------------------------------------------------------------------------


def wants_launcher(name: str, launcher: list[str]) -> bool:
    """Whether to start processes: on request, or if the machine has several accelerators."""
    is_launched = bool({"LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & set(os.environ))
    if launcher or name == "caption" or COMMANDS[name].in_one_process or is_launched:
        return bool(launcher)
    import torch
    from accelerate.commands.config.config_args import default_config_file

    return torch.accelerator.device_count() > 1 or os.path.isfile(default_config_file)


def launch(words: list[str], launcher: list[str]) -> NoReturn:
    """Run `accelerate launch LAUNCHER -m g4i_hf WORDS` without its traceback and its list of defaults."""
    import subprocess

    from accelerate.commands.config.config_args import default_config_file
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    def raise_error(message: str) -> NoReturn:
        raise OptionError(message)

    parser = launch_command_parser()
    parser.error = raise_error  # argparse would print all options
    args = parser.parse_args([*launcher, "-m", "g4i_hf", *words])
    if args.config_file is None and not os.path.isfile(default_config_file):
        # The defaults of accelerate, which it would warn of. Several processes on a CPU need its GPU launcher
        import torch

        args.num_processes = args.num_processes or max(torch.accelerator.device_count(), 1)
        args.num_machines = args.num_machines or 1
        args.mixed_precision = args.mixed_precision or "no"
        args.dynamo_backend = args.dynamo_backend or "no"
        args.multi_gpu = args.multi_gpu or args.num_processes > 1
    try:
        launch_command(args)
    except subprocess.CalledProcessError as error:
        raise SystemExit(exit_status(error.returncode)) from None
    except ChildFailedError as error:
        _, first = error.get_first_failure()  # which ended the others
        raise SystemExit(exit_status(first.exitcode)) from None
    raise SystemExit(0)


def exit_status(code: int) -> int:
    """As in a shell: 128 plus the number of the signal that ended a process."""
    return 128 - code if code < 0 else code


def fail(message: str) -> NoReturn:
    """Print one line and exit with status 2. Of several processes, which mostly fail alike, only the first prints."""
    if not is_first_process():
        time.sleep(15)  # the launcher ends the others
    print(f"error: {printable_lines(message)}", file=sys.stderr, flush=True)
    raise SystemExit(2)
