"""
Runs a script of this folder after a module of your own, which registers an architecture with timm or transformers:

    accelerate launch recipes/with_module.py my_student.py train --student tiny_net --output_dir runs/mine
    accelerate launch recipes/with_module.py my_package.students evaluate --run runs/mine

The module is a file or a name that Python can import; the script is caption, embed, train, evaluate, release or
compare, with its options. See docs/own_architectures.md.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

SCRIPTS = ("caption", "embed", "train", "evaluate", "release", "compare")


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:3]) or len(sys.argv) < 3:
        print(__doc__.strip())
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    module, script = sys.argv[1:3]
    if script not in SCRIPTS:
        from g4i_hf.cli import wrong_choice

        raise SystemExit(f"error: {wrong_choice('the script', script, SCRIPTS)}")
    import_own(module)
    from g4i_hf.cli import OWN_MODULE

    os.environ[OWN_MODULE] = module
    del sys.argv[1:3]
    importlib.import_module(f"g4i_hf.recipes.{script}").main()


def import_own(module: str) -> None:
    """A file under its bare name, as `import` would find it beside the one that asks; what lies there comes last."""
    path = Path(module)
    if path.suffix == ".py":
        import_file(path)
        return
    sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # of something that it imports itself
        raise SystemExit(f"error: there is no module {module}. A file is named with its .py.") from error


def import_file(path: Path) -> None:
    if not path.is_file():
        raise SystemExit(f"error: there is no file {path}.")
    can_be_named = path.stem.isidentifier() and path.stem != "__main__"
    found = importlib.util.find_spec(path.stem) if can_be_named else None
    is_other = found is not None and not (found.has_location and os.path.samefile(found.origin, path))
    if is_other or not can_be_named:
        raise SystemExit(f"error: {path} cannot be imported as {path.stem!r}: give the file another name.")
    sys.path.append(str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[path.stem])


if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate
    main()
    from g4i_hf.cli import end_processes

    end_processes()
elif __name__ == "__mp_main__":  # a process that compare.py has started, which imports this file again
    from g4i_hf.cli import OWN_MODULE

    import_own(os.environ[OWN_MODULE])
