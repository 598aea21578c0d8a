"""The house: which room may import which, what a file may hold, and that every recipe fits its script."""

import ast
import importlib
from pathlib import Path

import pytest
import yaml

import g4i_hf
from g4i_hf.cli import parse_options
from g4i_hf.options import TrainingOptions
from g4i_hf.training import AlignmentArguments

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "g4i_hf"
RECIPES = ROOT / "recipes"
# Data flows one way: a room imports from rooms of a lower number only
ORDER = {
    "columns": 0,
    "checkpoints": 0,
    "files": 0,
    "options": 1,
    "data.naming": 1,
    "cli": 2,
    "data": 2,
    "captioning": 3,
    "embedding": 4,
    "supervision": 5,
    "modeling": 5,
    "losses": 5,
    "training": 6,
    "evaluation": 7,
    "zero_shot": 7,
    "study": 7,
    "hub": 8,
    "workflows": 9,
    "captioning.scale": 10,
    "commands": 10,
    "running": 11,
    "recipes": 12,
    "__main__": 12,
}
# These import from no other rooms, or from those alone: --help and a wrong option wait for nothing heavy
KNOWS = dict.fromkeys(("columns", "checkpoints", "files", "modeling", "losses"), set())
KNOWS |= {
    "options": {"files"},
    "data.naming": {"files"},
    "cli": {"data.naming", "files", "options"},
    "supervision": {"columns", "data", "embedding", "files", "options"},
    "recipes": {"captioning.scale", "cli", "options", "running"},
    "__main__": {"running"},
}
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 600, 60
MAX_TABLE_LINES = {"g4i_hf.options": 1000}  # a line an option


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


def test_every_module_lives_in_a_known_room():
    assert len(MODULES) > 30
    unknown = sorted({module.split(".")[1] for module in MODULES if module.startswith("g4i_hf.")} - set(ORDER))
    assert not unknown, f"rooms that this test does not know: {unknown}"


@pytest.mark.parametrize("module", MODULES)
def test_no_room_imports_one_further_down_the_road(module):
    room = room_of(module)
    for imported in sorted(imports_of(module)):
        other = room_of(imported)
        if other is not None and other != room:
            assert ORDER[other] < ORDER[room], f"{module} imports {imported}: {room} may not know {other}"
            assert other in KNOWS.get(room, ORDER), f"{module} imports {imported}: {room} does not know {other}"


def test_backward_edges_would_be_seen():
    """The graph is not empty: relative imports, imports within functions and through the package are all read."""
    assert {room_of(name) for name in imports_of("g4i_hf.embedding.embed")} >= {"columns", "data", "embedding"}
    assert {room_of(name) for name in imports_of("g4i_hf.training.trainer")} >= {"data", "losses", "modeling"}
    workflow = {room_of(name) for name in imports_of("g4i_hf.workflows.train")}
    assert workflow >= {"data", "embedding", "supervision", "training"}
    assert {room_of(name) for name in imports_of("g4i_hf.commands.train")} == {"cli", "options", "workflows"}
    assert {room_of(name) for name in imports_of("recipes.train")} == {"running"}
    assert room_of("g4i_hf.AlignedImageClassification") == "modeling"
    assert room_of("g4i_hf.data.naming.check_dataset_name") == "data.naming"
    assert room_of("g4i_hf.__version__") is None


@pytest.mark.parametrize("module", SOURCES)
def test_only_gather_touches_torch_distributed(module):
    imported = {name for name in imports_of(module) if not name.startswith("torch.distributed.elastic")}  # launches
    uses = any(name.startswith("torch.distributed") for name in imported)
    attributes = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.Attribute)]
    uses |= any(ast.unparse(node).startswith("torch.distributed") for node in attributes)
    assert uses == (module == "g4i_hf.losses.gather")


@pytest.mark.parametrize("module", SOURCES)
def test_files_and_functions_are_short(module):
    path = SOURCES[module]
    assert path.name not in FORBIDDEN_NAMES
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < MAX_TABLE_LINES.get(module, MAX_FILE_LINES), f"{path.relative_to(ROOT)} has {lines} lines"
    for node in ast.walk(tree_of(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length < MAX_FUNCTION_LINES, f"{path.relative_to(ROOT)}: {node.name} has {length} lines"


# --- Recipes --------------------------------------------------------------------------------------------------------

LAUNCHER = RECIPES / "accelerate_configs"  # read by accelerate, see test_all_recipes.py
YAML_FILES = sorted(path for path in RECIPES.glob("*/*.yaml") if path.parent != LAUNCHER)
# Others are called like their script
SCRIPT_OF = dict.fromkeys(["baseline", "official", "corrected", "lora"], "train")
GRIDS = [
    "tune",
    "longer",
    "few_labels",
    "few_labels_others",
    "students_few_labels",
    "controls",
    "heavier_all_labels",
    "weights_all_labels",
    "pseudo_labels",
    "thresholds",
    "ablations",
    "ablations_few_labels",
    "mlp_mixer_tune",
    "mlp_mixer",
]
SCRIPT_OF |= dict.fromkeys(GRIDS, "compare")
TRAINING_FILES = [path for path in YAML_FILES if SCRIPT_OF.get(path.stem, path.stem) == "train"]


def parsed_options(path: Path, *more: str) -> tuple:
    """What its command makes of a YAML file, with `more` on the command line: its dataclasses."""
    script = RECIPES / f"{SCRIPT_OF.get(path.stem, path.stem)}.py"
    assert script.is_file(), f"{path.relative_to(ROOT)} is called like no script in recipes/"
    command = importlib.import_module(f"g4i_hf.commands.{script.stem}")
    run_options = getattr(command, "RUN_OPTIONS", None)
    return parse_options(command.OPTIONS, ["--config", str(path), *more], run_options=run_options)


def test_every_recipe_is_found():
    assert {"embed", "train", "baseline", "evaluate", "release"} <= {path.stem for path in YAML_FILES}


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_yaml_is_understood_by_its_script(path, monkeypatch, tmp_path):
    """Wherever one is; where a script goes on from a run, there is one."""
    monkeypatch.chdir(tmp_path)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "run" in written:
        Path(written["run"]).mkdir(parents=True)
        (Path(written["run"]) / "train.yaml").write_text(f"dataset_name: {path.parent}\nlearning_rate: 1e-3\n")
    parsed = parsed_options(path)
    parsed = [AlignmentArguments.from_options(each) if type(each) is TrainingOptions else each for each in parsed]
    options = {name: value for arguments in parsed for name, value in vars(arguments).items()}
    assert set(written) <= set(options)
    for name, value in written.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            assert options[name] == value, name
    place = written.get("dataset_name", "")
    if place.startswith("."):
        assert Path(options["dataset_name"]).resolve() == (path.parent / place).resolve()


@pytest.mark.parametrize("folder", sorted({path.parent for path in TRAINING_FILES}), ids=lambda folder: folder.name)
def test_a_baseline_differs_from_its_training_only_in_the_weight(folder):
    """The training is corrected.yaml where there is an official.yaml beside it."""
    corrected = folder / "corrected.yaml"
    aligned = yaml.safe_load((corrected if corrected.is_file() else folder / "train.yaml").read_text(encoding="utf-8"))
    baseline = yaml.safe_load((folder / "baseline.yaml").read_text(encoding="utf-8"))
    differing = {name for name in aligned.keys() | baseline.keys() if aligned.get(name) != baseline.get(name)}
    assert differing == {"align_weight", "output_dir"}
    assert baseline["align_weight"] == 0 < aligned["align_weight"]
