"""The house: which room may import which, and what a file may hold."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import g4i_hf

ROOT = Path(__file__).parent.parent
# Data flows one way: a room imports from rooms of earlier lines only
ROAD = """
priors
columns files views.kinds linear evaluation.class_shares
evaluation.estimate
options names processes words
output
cli data
pages
captioning
embedding
label_model modeling losses
evaluation.predict
training
evaluation zero_shot
hub
inference
views
workflows.dry_run
workflows.caption
fitting
workflows
commands
running
__main__
"""
ORDER = {room: number for number, line in enumerate(ROAD.split("\n")) for room in line.split()}
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "g4i_hf").rglob("*.py"))}


def room_of(parts: tuple[str, ...]) -> str | None:
    """The room that a name within the package belongs to; None for what the package itself offers."""
    return next((room for room in (".".join(parts[:2]), *parts[:1]) if room in ORDER), None)


def imports_of(path: Path) -> Iterator[tuple[str, ...]]:
    """Everything of the package that a file imports, wherever in it, as parts: `data`, `stage`, `join_stage`."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = (*base, *(node.module or "").split("."))
            if source[0] == "g4i_hf":
                yield from (tuple(filter(None, (*source[1:], alias.name))) for alias in node.names)


def test_data_flows_one_way():
    """No file imports from a room further down the road."""
    count, backward = 0, []
    for path in TREES:
        parts = path.relative_to(ROOT / "g4i_hf").with_suffix("").parts
        room = room_of(parts)
        assert room or parts == ("__init__",), f"a room that this test does not know: {path}"
        for imported in imports_of(path) if room else ():
            other = room_of(imported)
            count += other not in (None, room)
            if other not in (None, room) and ORDER[other] >= ORDER[room]:
                backward.append(f"{path} imports {'.'.join(imported)}")
    assert count > 500 and not backward


def test_the_label_model_needs_nothing_else_of_the_package():
    """It could be a package by itself; the constants, the regression and the estimator that it shares are as pure."""
    shared = {"label_model", "linear", "class_shares", "estimate", "priors"}
    paths = [path for path in TREES if path.parent.name == "label_model"]
    assert len(paths) > 5 and not [each for path in paths for each in imports_of(path) if not shared & {*each}]


def test_every_constant_of_the_statistics_has_a_source():
    lines = (ROOT / "g4i_hf" / "priors.py").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line[:1].isupper() and " = " in line]
    source = re.compile(r"\((paper: \w|results/(\w+\.json)\)|judgement|definition)")
    found = [source.search(line) for line in lines]
    assert len(lines) > 20 and all(found), [line for line, each in zip(lines, found, strict=True) if not each]
    assert all((ROOT / "results" / each[2]).is_file() for each in found if each[2])


def test_no_package_hides_a_public_name():
    """An imported package becomes an attribute of its parent: `g4i_hf.fit` would be a module, not the function."""
    assert not {path.stem for path in (ROOT / "g4i_hf").iterdir()} & {*g4i_hf.__all__}


def test_every_folder_of_code_is_a_package():
    """Only packages are installed."""
    assert not [path for path in TREES if not (path.parent / "__init__.py").is_file()]


def test_files_and_functions_are_short():
    long = [path for path in TREES if len(path.read_text(encoding="utf-8").splitlines()) > 450]
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 60:
                long.append(f"{path}: {node.name}")
    assert not long


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda script: script.name)
def test_what_benchmarks_import_is_there(script):
    """They run rarely; an import inside a function may be of an earlier version."""
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "g4i_hf":
            module = importlib.import_module(node.module)
            known = {path.stem for path in Path(module.__file__).parent.glob("*.py")}
            names = [alias.name for alias in node.names if alias.name not in known]
            assert all(hasattr(module, name) for name in names), names
