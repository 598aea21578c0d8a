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
# Data flows one way: a room imports from rooms of a lower number only
ORDER = {
    "columns": 0,
    "extras": 0,
    "files": 0,
    "options": 1,
    "names": 1,
    "cli": 2,
    "data": 2,
    "pages": 2.5,
    "captioning": 3,
    "embedding": 4,
    "label_model": 5,
    "modeling": 5,
    "losses": 5,
    "evaluation.predict": 6,
    "training": 7,
    "evaluation": 8,
    "zero_shot": 8,
    "hub": 9,
    "views": 10,
    "workflows": 11,
    "scale": 12,
    "commands": 12,
    "running": 13,
    "recipes": 14,
    "__main__": 14,
}
# These import from no other rooms, or from those alone: --help and a wrong option wait for nothing heavy
KNOWS = dict.fromkeys(("columns", "extras", "files"), set())
KNOWS |= {
    "options": {"files"},
    "losses": {"options"},
    "names": {"files"},
    "cli": {"files", "names", "options"},
    "modeling": {"extras", "files", "names"},
    "label_model": {"columns", "data", "embedding", "files", "options"},
    "recipes": {"cli", "losses", "modeling", "options", "running", "scale", "zero_shot"},
    "__main__": {"running"},
}
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 451, 61


def sources() -> dict[str, Path]:
    """module name -> file, of the package and its scripts; links to folders of the top level are not followed."""
    files = {}
    for top in (PACKAGE, RECIPES):
        for path in sorted(top.rglob("*.py")):
            inside = path.relative_to(ROOT)
            if not any((ROOT / parent).is_symlink() for parent in inside.parents):
                parts = inside.with_suffix("").parts
                files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


SOURCES = sources()


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
    """No module imports from a room further down the road, or one that its room does not know."""
    assert len(MODULES) > 30
    unknown = sorted({module.split(".")[1] for module in MODULES if module.startswith("g4i_hf.")} - set(ORDER))
    assert not unknown, f"rooms that this test does not know: {unknown}"
    backward = []
    for module in MODULES:
        room = room_of(module)
        for imported in sorted(imports_of(module)):
            other = room_of(imported)
            if other not in (None, room) and (ORDER[other] >= ORDER[room] or other not in KNOWS.get(room, ORDER)):
                backward.append(f"{module} imports {imported}: {room} may not know {other}")
    assert not backward


def test_backward_edges_would_be_seen():
    """The graph is not empty: relative imports, imports within functions and through the package are all read."""
    workflow = {room_of(name) for name in imports_of("g4i_hf.workflows.train")}
    assert workflow >= {"data", "evaluation", "label_model", "training"}
    assert {room_of(name) for name in imports_of("g4i_hf.commands")} >= {"cli", "extras", "options", "workflows"}
    assert {room_of(name) for name in imports_of("recipes.train")} == {"running"}
    assert room_of("g4i_hf.AlignedImageClassification") == "modeling"
    assert room_of("g4i_hf.evaluation.predict.predict") == "evaluation.predict"
    assert room_of("g4i_hf.__version__") is None


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
        assert path.name not in FORBIDDEN_NAMES
        lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines())}
        allowed = {path.name: MAX_FILE_LINES}
        for node in ast.walk(tree_of(module)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lengths[node.name] = node.end_lineno - node.lineno + 1
        long += [f"{module}: {name}, {length} lines" for name, length in lengths.items()
                 if length >= allowed.get(name, MAX_FUNCTION_LINES)]  # fmt: skip
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
