"""The house: which room may import which, and what a file may hold."""

import ast
import functools
import importlib
from pathlib import Path

import pytest

import g4i_hf

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "g4i_hf"
RECIPES = ROOT / "recipes"
# Data flows one way: a room imports from rooms of earlier lines only
ROAD = """
columns files
options names
cli data
pages
captioning
embedding
label_model modeling losses
evaluation.predict
training
evaluation zero_shot
hub
views
workflows
commands
scale
running
recipes __main__
"""
ORDER = {room: number for number, line in enumerate(ROAD.split("\n")) for room in line.split()}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Of the package and its scripts; links to folders of the top level are not followed
FILES = [path for top in (PACKAGE, RECIPES) for path in sorted(top.rglob("*.py")) if not path.parent.is_symlink()]
SOURCES = {module_of(path): path for path in FILES}


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


def imports_of(module: str) -> set[str]:
    """Everything a module imports, wherever in it, as full names: `g4i_hf.data.stage.join_stage`."""
    package = module.split(".") if SOURCES[module].name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def room_of(name: str) -> str | None:
    """The room that a full name belongs to; None for other packages, and for the package itself (its version)."""
    top, *rest = name.split(".")
    if top == "recipes":
        return "recipes"
    if top != "g4i_hf" or not rest:
        return None
    for room in (".".join(rest[:2]), rest[0]):
        if room in ORDER:
            return room
    # `from g4i_hf import AlignedImageClassification`: what the package offers comes from a room
    offered = g4i_hf._PLACES.get(rest[0])
    return offered and room_of(f"g4i_hf.{offered}")


MODULES = [module for module in SOURCES if module != "g4i_hf"]


def test_data_flows_one_way():
    """No module imports from a room further down the road."""
    unknown = sorted({module.split(".")[1] for module in MODULES if module.startswith("g4i_hf.")} - set(ORDER))
    assert not unknown, f"rooms that this test does not know: {unknown}"
    edges = [(module, imported) for module in MODULES for imported in sorted(imports_of(module))]
    rooms = [(room_of(module), room_of(imported)) for module, imported in edges]
    assert ("workflows", "training") in rooms and ("recipes", "running") in rooms, "imports of all kinds are read"
    backward = [
        f"{module} imports {imported}"
        for (module, imported), (room, other) in zip(edges, rooms, strict=True)
        if other not in (None, room) and ORDER[other] >= ORDER[room]
    ]
    assert not backward


def test_only_gather_touches_torch_distributed():
    using = set()
    for module in SOURCES:
        names = imports_of(module)
        names |= {ast.unparse(node) for node in ast.walk(tree_of(module)) if isinstance(node, ast.Attribute)}
        names = {name for name in names if not name.startswith("torch.distributed.elastic")}  # launches
        if any(name.startswith("torch.distributed") for name in names):
            using.add(module)
    assert using == {"g4i_hf.losses.gather"}


def test_files_and_functions_are_short():
    long = []
    for module, path in SOURCES.items():
        long += [module] if len(path.read_text(encoding="utf-8").splitlines()) > 450 else []
        for node in ast.walk(tree_of(module)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 60:
                long.append(f"{module}.{node.name}")
    assert not long


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda script: script.name)
def test_what_benchmarks_import_is_there(script):
    """They run rarely; an import inside a function may be of an earlier version."""
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "g4i_hf":
            module = importlib.import_module(node.module)
            names = [name.name for name in node.names if f"{node.module}.{name.name}" not in SOURCES]
            missing = [name for name in names if not hasattr(module, name)]
            assert not missing
