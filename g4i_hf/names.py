"""Names of datasets, models and packages: whether they exist, their commit or digest, and the run they belong to."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .files import nearest, replace_text, restore_replaced

LABELS_ONLY, WITH_VIEWS = "labels_only", "with_views"  # the two runs in a folder of `g4i fit`
ALL_LAYERS = "all_layers"  # a third run there, where all layers were trained and are better than the last one
RUNS_OF_FIT = LABELS_ONLY, WITH_VIEWS, ALL_LAYERS
CLASSIFIER, FIT_FILE = "classifier", "fit.json"  # what it ships, and its record of what it wrote
IN_MEMORY = "in memory"  # in place of the name of a dataset
OPTIONS_FILE, RESULTS_FILE = "train.yaml", "all_results.json"  # of a run; the latter is written last
THRESHOLDS = "decision_thresholds"  # in the config.json of a release
NONE_FILE = "none_of_these.safetensors"  # beside its weights: which images show none of the classes
FITTED_ON_FILE = "fitted_on.safetensors"  # there too: numbers of the images that it was fitted on
USUAL_PRECISION = 0.95
ANSWER, ASK, NONE = "answer", "ask", "none"
FORMATS_FILE = "formats.json"  # in a release, how each of its files was judged, with its time on this machine
EMA_FILE = "ema.safetensors"  # in a run with ema_decay, next to model.safetensors
# Weights, settings, vocabularies, chat templates and custom code: all that the outputs of a model depend on
DIGESTED_SUFFIXES = {".bin", ".jinja", ".json", ".model", ".pt", ".pth", ".py", ".safetensors", ".txt"}


# --- The form of a name, without access to the disk or the Hub -------------------------------------------------------

PATH = re.compile(r"(~[\w-]*|\.[^\s/\\]*)?[/\\]|[A-Za-z]:[/\\]|file:/|(~|\.{1,2})$")


def is_path(value: object) -> bool:
    """Whether a value has the form of a path, which no Hub id has."""
    return isinstance(value, str) and PATH.match(value) is not None


def is_hub_id(name: str) -> bool:
    from huggingface_hub import errors, utils

    try:
        utils.validate_repo_id(name)
    except errors.HFValidationError:
        return False
    return not name.startswith(".") and not os.path.isabs(name)


def folder_or_id(name: str) -> str:
    """The name of a folder without its place; a Hub id unchanged."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def is_bare(name: str | None) -> bool:
    """Whether a name is a single folder name, without parent folders or an owner on the Hub."""
    return bool(name) and Path(name).name == name


# --- Private parts of a name or text ---------------------------------------------------------------------------------

# Addresses and paths in a text, such as an error message
PRIVATE = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s,;)'\"]+|(?<![\w.])~?(?:/[^\s/:,;)'\"]+){2,}/?|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
)
WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\[^\s,;'\"]+")
# Tokens that detect-secrets (1.5) does not detect: Hugging Face, Anthropic, Google
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\b(github_pat_|ghp_|sk-|AIza)[A-Za-z0-9_-]{30,}")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
MODEL_NAME = re.compile(rf"(hf-hub:)?{HUB_ID.pattern}(:[\w.-]+)?")  # including a version, as in llava:7b


def bare_name(name: str) -> str:
    """A Hub id unchanged; the last part of a path or URL."""
    if not MODEL_NAME.fullmatch(name):
        parts = [part for part in re.split(r"[\\/]", name.split("?")[0]) if part not in ("", ".", "..", "~")]
        name = parts[-1] if parts else ""
    return without_private(name)


def without_private(text: str) -> str:
    """A text with `...` in place of URLs, paths and tokens."""
    for private in (PRIVATE, WINDOWS_PATH, TOKEN):
        text = private.sub("...", text)
    return text


# --- Existence -------------------------------------------------------------------------------------------------------


def check_dataset_name(name: str, option: str = "dataset_name") -> None:
    """Raise FileNotFoundError for the path of a missing folder, without a request to the Hub."""
    looks_local = name.startswith((".", "~", "/")) or name.endswith("/") or name.count("/") > 1  # no Hub id does
    restore_replaced(name)
    if name == IN_MEMORY:
        what = f"{option} is missing, as the images of this run were {IN_MEMORY}"
        raise ValueError(f"{what}. Save them with save_to_disk, and give the folder as {option}.")
    if Path(name).is_file():
        raise NotADirectoryError(f"{option} is {name!r}, which is a file. Give the folder that it is in.")
    if looks_local and not Path(name).is_dir():
        raise FileNotFoundError(f"{option} is {name!r}, but there is no such folder.{_near_folder(name)}")


def check_dataset_exists(name: str, option: str = "dataset_name", revision: str | None = None) -> None:
    """Raise FileNotFoundError if neither a folder nor the Hub has the name. At most one request, of two seconds."""
    check_dataset_name(name, option)
    if Path(name).is_dir():
        return
    if why := why_missing(name, "dataset", revision):
        raise FileNotFoundError(f"{option} is {name!r}: there is no such folder, and {why}.{_near_folder(name)}")


def why_missing(name: str, kind: str, revision: str | None = None) -> str | None:
    """Why neither cache nor Hub has a `dataset` or `model`; None if one has. One request, of two seconds."""
    from huggingface_hub import HfApi, constants, errors

    if _is_cached(name, kind):
        return None
    if constants.HF_HUB_OFFLINE:
        return "with HF_HUB_OFFLINE the Hub is not asked"
    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=2)
    except errors.RevisionNotFoundError:
        return f"the {kind} on the Hub has no revision {revision!r}"
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        return f"the Hub has no {kind} of that name that you can read"
    except (OSError, errors.HfHubHTTPError.__bases__[0]) as error:  # of httpx2; before huggingface_hub 2 of httpx
        return f"the Hub cannot be reached ({error})" if type(error).__name__ == "ConnectError" else None
    return None


def _is_cached(name: str, kind: str) -> bool:
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}")
    if kind == "model":  # a failed download leaves an empty folder
        return (repository / "snapshots").is_dir()
    home = os.environ.get("HF_DATASETS_CACHE", os.path.join(constants.HF_HOME, "datasets"))
    return repository.exists() or Path(home, name.replace("/", "___")).exists()


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module; an ImportError says what needs it (`purpose`), and how to install the extra."""
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise ImportError(f"{purpose} needs {missing}: {how_to_install(extra)}.") from error


def how_to_install(extra: str) -> str:
    """For messages. Not by its name before an index has it, as anybody could register it there."""
    return f"pip install -e '.[{extra}]' in a clone of g4i_hf"


@contextlib.contextmanager
def loading(what: str, remedy: str = "", code_option: str | None = None) -> Iterator[None]:
    """
    Turn any error of a library about the files of a model into an OSError of one line, followed by the remedy. For
    `code_option` see [`why_not_loaded`].
    """
    try:
        yield
    except Exception as error:
        raise OSError(f"{what} cannot be loaded: {why_not_loaded(error, code_option)}.{remedy}") from error


def why_not_loaded(error: Exception, code_option: str | None = None) -> str:
    """The reason, without a full stop. `code_option`: of the command, which runs custom code."""
    if type(error).__name__ == "UnpicklingError":
        return "its weights are a pickle of more than tensors, which is not read; use one with model.safetensors"
    if any(type(each).__name__ == "GatedRepoError" for each in (error, error.__cause__, error.__context__)):
        return "it is gated: accept its terms on its page on the Hub, and log in with `hf auth login`"
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if "trust_remote_code" not in reason:
        return reason
    return "it needs code of its own, which " + (f"{code_option} runs: read it first" if code_option else "is not run")


def _near_folder(name: str) -> str:
    path = Path(name)
    if not path.parent.is_dir():
        return ""
    folders = {child.name: str(path.parent / child.name) for child in path.parent.iterdir() if child.is_dir()}
    near = nearest(path.name, folders)
    return "" if near is None else f" Did you mean {folders[near]!r}?"


def check_run(run: str | Path, weights: str = "raw") -> None:
    """Raise FileNotFoundError for a folder without a finished run, or without an average."""
    if not Path(run).is_dir():
        raise FileNotFoundError(f"There is no run {str(run)!r}: no such folder.")
    if not (Path(run) / "model.safetensors").is_file():
        raise FileNotFoundError(f"{run} holds no trained model. Train one with g4i train --output_dir {run}.")
    if weights == "ema" and not (Path(run) / EMA_FILE).is_file():
        raise FileNotFoundError(f"{run} holds no {EMA_FILE}: it was trained without ema_decay. Use --weights raw.")


# --- Identity --------------------------------------------------------------------------------------------------------


def identity_of(place: str, revision: str | None) -> tuple[str | None, str | None]:
    """Digest and commit of a model: a folder has the former, a repository the latter."""
    if Path(place).is_dir():
        return folder_digest(place), None
    from transformers.utils.hub import cached_file, extract_commit_hash  # configurations lack it (transformers 5.24)

    for file in ("config.json", "modules.json"):  # some models of sentence-transformers have no config.json
        with contextlib.suppress(OSError):
            return None, extract_commit_hash(cached_file(place, file, revision=revision), None) or revision
    return None, revision


def is_of_fit(folder: str | Path) -> bool:
    """Whether a folder is one of `g4i fit`, which holds two runs."""
    return (Path(folder) / WITH_VIEWS / OPTIONS_FILE).is_file()


def config_of(model: str | Path) -> Path:
    """The config.json of a folder of `g4i fit`, a run or a release; FileNotFoundError where there is none."""
    folder = Path(model) / CLASSIFIER if is_of_fit(model) else Path(model)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"run is {str(model)!r}, which holds no config.json. Name a folder of g4i fit.")
    return folder / "config.json"


def digests_of_fit(folder: str | Path) -> dict[str, str]:
    """Of the files that the runs and the classifier of a `g4i fit` predict by, named from its folder."""
    folders = [*RUNS_OF_FIT, CLASSIFIER, f"{CLASSIFIER}/aligned"]
    files = ("config.json", "model.safetensors", "preprocessor_config.json", NONE_FILE, FITTED_ON_FILE)
    names = [f"{place}/{file}" for place in folders for file in files]
    return {name: file_digest(Path(folder) / name) for name in names if (Path(folder) / name).is_file()}


def changed_since_fit(folder: str | Path) -> list[str]:
    """Files of a finished `g4i fit` that are gone, or no longer what it wrote. Others beside them do not count."""
    file = Path(folder) / FIT_FILE
    noted = json.loads(file.read_text(encoding="utf-8")).get("result", {}) if file.is_file() else {}
    now = digests_of_fit(folder) if noted else {}
    return [name for name, digest in noted.items() if now.get(name) != digest]


def changed_in_words(folder: str | Path, changed: list[str]) -> str:
    return f"{folder}: changed since g4i fit wrote it: {', '.join(changed)}"


def is_shipped(file: str) -> bool:
    """Whether a file, named from the folder of a `g4i fit`, is one of its classifier."""
    return file.startswith(f"{CLASSIFIER}/")


def note_files_of_fit(folder: str | Path) -> None:
    """The digests of a finished `g4i fit` again, after another release into its folder."""
    file = Path(folder) / FIT_FILE
    noted = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if noted.get("result"):
        replace_text(file, json.dumps(noted | {"result": digests_of_fit(folder)}, indent=1) + "\n")


def run_of(folder: str | Path) -> Path:
    """The run that a checkpoint belongs to; the run with views in a folder of `g4i fit`; otherwise the folder."""
    folder = Path(folder)
    if is_of_fit(folder):
        return folder / WITH_VIEWS
    is_checkpoint = folder.name.startswith("checkpoint-") and not (folder / OPTIONS_FILE).is_file()
    return folder.parent if is_checkpoint else folder


def file_digest(path: str | Path) -> str:
    """32 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def folder_digest(folder: str | Path) -> str:
    """Digest of the names and contents of a model's files, without subfolders of a stage or a run, and figures."""
    digest = hashlib.blake2b(digest_size=16)
    root = Path(folder)
    outputs = {path.parent for name in ("stage.json", OPTIONS_FILE) for path in root.glob(f"*/**/{name}")}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.suffix not in DIGESTED_SUFFIXES or any(part.startswith(".") for part in inside.parts):
            continue
        if outputs & set(path.parents) or path.name in (FORMATS_FILE, RESULTS_FILE):
            continue
        digest.update(f"{inside.as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return f"blake2b:{digest.hexdigest()}"
