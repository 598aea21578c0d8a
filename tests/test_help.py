"""`--help` names every option without importing torch; `--print_config` prints a configuration that says the same."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
import yaml
from transformers import HfArgumentParser, TrainingArguments

from g4i_hf.cli import OptionError, option_sources, parse_options
from g4i_hf.cli import help as help_page
from g4i_hf.cli.option_sources import options_of, shown
from g4i_hf.data.arguments import DataArguments
from g4i_hf.embedding.arguments import EncoderArguments
from g4i_hf.evaluation.arguments import EvaluateArguments
from g4i_hf.hub.arguments import ReleaseArguments
from g4i_hf.training.run_folder import resolved_options
from recipes import train

ROOT = Path(__file__).parent.parent
CHOSEN = "fast"


@dataclass
class Written:
    """How else defaults and choices may be written."""

    prompt: str = field(default="A", metadata={"help": "One."})
    mode: str = field(default=CHOSEN, metadata={"help": "Two, at 5%%.", "choices": ["fast", "slow"]})
    sizes: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "Three."})
    names: list[str] = field(default_factory=list, metadata={"help": "Four."})
    kind: Literal["a", "b"] | None = field(default=None, metadata={"help": "Five."})
    plain: int = 3


ALIGN_WEIGHT = r"^  --align_weight NUMBER +Weight lambda of the alignment loss; 0: baseline. \[0.3\]$"
SCRIPTS = ("train", "embed", "evaluate", "release")
CLASSES = [option_sources.class_named(name) for name in train.OPTIONS] + [EvaluateArguments, ReleaseArguments]


def run(*command: str, **env: str) -> subprocess.CompletedProcess:
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | env
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT)


def page_of(capsys, *argv: str, classes=train.OPTIONS, **kwargs) -> str:
    with pytest.raises(SystemExit) as end:
        parse_options(classes, list(argv), **kwargs)
    assert end.value.code == 0
    return capsys.readouterr().out


def options_in(page: str) -> list[str]:
    return re.findall(r"^  --(\w+)", page, flags=re.MULTILINE)


# --- Help as a process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"recipes/{script}.py" for script in SCRIPTS] + ["g4i_hf.recipes.train"])
def test_help_imports_nothing_heavy(name):
    where = [name] if name.endswith(".py") else ["-m", name]
    done = run("-X", "importtime", *where, "--help", "all")
    assert done.returncode == 0
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert {"argparse", "yaml", "g4i_hf"} <= imported  # the list is read rightly
    assert not imported & {"torch", "transformers", "datasets", "timm", "numpy", "accelerate", "PIL"}
    wanted = {"embed": "--text_encoder", "train": "--align_weight", "evaluate": "--report", "release": "--student_dir"}
    assert wanted[re.split(r"[/.]", name.removesuffix(".py"))[-1]] in done.stdout


@pytest.mark.slow
def test_an_import_of_the_package_still_registers_the_model():
    code = "import g4i_hf, sys; assert g4i_hf.AlignedImageClassification; print('transformers' in sys.modules)"
    register = "from transformers import AutoConfig; AutoConfig.for_model('aligned-image-classification')"
    done = run("-c", f"import g4i_hf; {register}; {code}", "--help")
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@pytest.mark.slow
def test_without_it_the_classes_are_there_when_asked_for():
    code = "import g4i_hf, sys; print('torch' in sys.modules, g4i_hf.AlignedImageClassification.__name__)"
    done = run("-c", code, G4I_HF_LAZY_IMPORT="1")
    assert done.stdout.strip() == "False AlignedImageClassification", done.stderr
    done = run("-c", "import g4i_hf; g4i_hf.nothing", G4I_HF_LAZY_IMPORT="1")
    assert "module 'g4i_hf' has no attribute 'nothing'" in done.stderr


# --- What help says -------------------------------------------------------------------------------------------------


def test_every_option_that_is_parsed_is_in_help_all(capsys):
    parsed = {action.dest for action in HfArgumentParser(CLASSES[: len(train.OPTIONS)], add_help=False)._actions}
    assert len(parsed) > 150
    listed = options_in(page_of(capsys, "--help", "all"))
    assert len(listed) == len(set(listed))
    assert set(listed) == parsed | {"config", "print_config", "help"}


def test_help_holds_every_option_of_ours_and_the_usual_ones_of_trainer(capsys):
    listed = set(options_in(page_of(capsys, "--help")))
    own = {option.name for name in train.OPTIONS for option in options_of(name) if not option.is_foreign}
    usual = {name for names in help_page.TRAINER_GROUPS.values() for name in names}
    assert {"align_weight", "dataset_name", "student", "layer_decay", "overwrite"} <= own
    assert listed == own | usual | {"config", "print_config", "help"}
    assert usual <= {each.name for each in fields(TrainingArguments)}


def test_help_has_every_group(capsys):
    brief, full = page_of(capsys, "--help").splitlines(), page_of(capsys, "--help", "all").splitlines()
    ours = ["This script", "Classification", "Optimisation", "Alignment", "Repeating and mixing of images"]
    ours += [
        "Run: What to do about an earlier run, and which splits are used",
        "Data: Where the data is and what it calls its columns",
        "Encoder: Which text encoder turns captions into vectors, and how",
        "Student: Which student is trained, and the projector it is given",
        "Augmentation: How training images are cropped and changed",
        "Few labels, and controls",
        "Captions as a teacher of the classifier",
    ]
    source = Path(sys.modules[TrainingArguments.__module__].__file__).read_text(encoding="utf-8")
    banners = re.findall(r"^    # --- (.+) ---$", source, re.M)
    assert len(banners) > 20
    for title in ours:
        assert title in brief and title in full, title
    assert all(title in brief for title in help_page.TRAINER_GROUPS)
    assert all(title in full for title in banners)
    order = [brief.index(title) for title in (ours[5], "Alignment", "Optimisation", "Learning rate", "Hub")]
    assert order == sorted(order)  # ours come first
    assert f"40 of {len([each for each in fields(TrainingArguments) if each.init])} options" in "\n".join(brief)


def test_help_shows_kind_and_default(capsys):
    page = page_of(capsys, "--help")
    assert re.search(ALIGN_WEIGHT, page, re.M)
    assert re.search(r"^  --student_args JSON +", page, re.M)
    assert re.search(r"^  --save_total_limit INT +Checkpoints kept. \[2\]$", page, re.M)  # ours, not the parent's
    assert re.search(r"^  --eval_strategy CHOICE +When to run.+ One of: no, steps, epoch. \[no\]$", page, re.M)
    assert re.search(r"^  --require_labels BOOL +", page, re.M)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("topic", ["", "all"])
def test_help_fits_the_terminal(capsys, monkeypatch, width, topic):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = page_of(capsys, "--help", *[topic] * bool(topic)).splitlines()
    described = [line for line in lines if not line.startswith("    accelerate")]
    assert max(map(len, described)) <= width
    assert max(map(len, lines)) > width - 10


def test_help_about_a_word(capsys):
    assert options_in(page_of(capsys, "--help", "warmup")) == ["warmup_steps", "align_warmup_epochs"]
    assert options_in(page_of(capsys, "--help", "early-stopping")) == ["early_stopping_patience"]
    assert "adamw_torch_fused" in page_of(capsys, "--help=optim")
    with pytest.raises(OptionError):
        parse_options(train.OPTIONS, ["--help", "align_wieght"])
    assert "no option has that in its name. Did you mean 'align_weight'?" in capsys.readouterr().err


# --- Reading of the sources -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_sources_say_what_the_classes_say(cls):
    read = options_of(f"{cls.__module__}.{cls.__qualname__}")
    assert read == options_of(cls)  # the class has no other fields, in this order
    for option, of_class in zip(read, fields(cls), strict=True):
        default = of_class.default_factory() if of_class.default is MISSING else of_class.default
        default = default.value if isinstance(default, Enum) else default
        assert shown(default) in option.default.split(" or "), option
        assert option.help == " ".join(of_class.metadata["help"].replace("%%", "%").split())
        assert option.kind != "VALUE" or option.name == "parallelism_config"


def test_sources_say_what_the_class_says_however_it_is_written():
    read, asked = options_of(Written), option_sources._ask(Written)
    assert [replace(each, about="") for each in read] == list(asked)
    assert [each.kind for each in read] == ["TEXT", "CHOICE", "INT ...", "TEXT ...", "CHOICE", "INT"]
    assert [each.default for each in read] == ["A", "fast", "1, 2", "none", "unset", "3"]
    assert [each.choices for each in read][1::3] == [("fast", "slow"), ("a", "b")]


def test_without_readable_sources_the_classes_are_asked(monkeypatch, capsys):
    def unreadable(module):
        raise SyntaxError(module)

    expected = options_in(page_of(capsys, "--help", "all"))
    monkeypatch.setattr(option_sources, "_source", unreadable)
    options_of.cache_clear()
    try:
        page = page_of(capsys, "--help", "all")
    finally:
        options_of.cache_clear()
    assert sorted(options_in(page)) == sorted(expected)
    assert re.search(ALIGN_WEIGHT, page, re.M)


def test_a_class_within_a_function_is_asked_for_its_fields(capsys):
    @dataclass
    class Local:
        size: int = field(metadata={"help": "Its size."})

    assert re.search(r"--size INT +Its size. \[required\]$", page_of(capsys, "-h", classes=(Local,)), re.M)


# --- print_config ---------------------------------------------------------------------------------------------------

TRAINED = """
dataset_name: ./data
student_args: {layers: [1, 1], act: '1e5'}
learning_rate: 5e-4
dataset_revision: 0123456
class_weights: [1, 2.5]
ema_decay:
lr_scheduler_kwargs: {min_lr: 1e-6}
hub_token: my-secret
use_cpu: true
output_dir: ../runs/x
align_loss: cosine
"""


def state(parsed) -> list[dict]:
    """What can be compared, but what depends on the machine or the place."""
    left_out = {"output_dir", "dataset_name", "hub_token", "distributed_state"}
    return [{name: value for name, value in vars(each).items() if name not in left_out} for each in parsed]


def test_print_config_repeats_the_run(tmp_path, capsys, monkeypatch):
    (tmp_path / "a" / "data").mkdir(parents=True)
    (tmp_path / "a" / "o.yaml").write_text(TRAINED, encoding="utf-8")
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    argv = ["--config", "a/o.yaml", "--seed", "3", "--optim", "sgd", "--logging_steps=7", "--report_to", "none"]
    argv += ["--align_mix_captions", "false", "--caption_column", "größe: x", "--student_revision", "1e5"]
    before = sorted(tmp_path.rglob("*"))
    printed = page_of(capsys, *argv, "--print_config")
    assert sorted(tmp_path.rglob("*")) == before  # nothing was written
    (tmp_path / "b" / "again.yaml").write_text(printed, encoding="utf-8")  # works wherever it is kept
    again = ["--config", "b/again.yaml"]
    first, second = parse_options(train.OPTIONS, argv), parse_options(train.OPTIONS, again)
    assert Path(second[-1].output_dir).resolve() == Path(first[-1].output_dir).resolve() == tmp_path / "runs" / "x"
    assert Path(second[1].dataset_name).resolve() == Path(first[1].dataset_name).resolve()
    assert second[3].student_args == first[3].student_args == {"layers": [1, 1], "act": "1e5"}
    assert state(first) == state(second)
    assert page_of(capsys, *again, "--print_config") == printed.rstrip("\n") + "\n"
    assert resolved_options(first, "o") == resolved_options(second, "o")


def test_print_config_holds_ours_and_what_differs_of_trainers(tmp_path, capsys):
    (tmp_path / "o.yaml").write_text(TRAINED, encoding="utf-8")
    printed = page_of(capsys, "--config", str(tmp_path / "o.yaml"), "--weight_decay", "0", "--print_config")
    values = yaml.safe_load(printed)
    assert not {"hub_token", "use_cpu", "weight_decay", "num_train_epochs", "config"} & set(values)
    assert "my-secret" not in printed
    assert "seed" not in values and values["learning_rate"] == 5e-4
    assert values["align_weight"] == 0.3 and values["projector_type"] == "mlp" and values["train_split"] == "train"
    own = {option.name for name in train.OPTIONS for option in options_of(name) if option.is_own}
    assert own - {"hub_token", "use_cpu", "dry_run"} <= set(values)
    assert "# --- Alignment ---\nalign_weight: 0.3" in printed and "# --- Trainer ---\noutput_dir" in printed
    assert "student_args: {layers: [1, 1], act: '1e5'}" in printed


def test_print_config_keeps_secrets(capsys):
    @dataclass
    class Endpoint:
        url: str = field(default="", metadata={"help": "Where."})
        endpoint_api_key: str | None = field(default=None, metadata={"help": "Secret."})

    printed = page_of(capsys, "--endpoint_api_key", "x", "--url", "u", "--print_config", classes=(Endpoint,))
    assert yaml.safe_load(printed) == {"url": "u"}


def test_print_config_checks_first(capsys):
    with pytest.raises(OptionError):
        parse_options((DataArguments,), ["--print_config"])
    assert "dataset_name is missing" in capsys.readouterr().err


def test_only_the_first_of_several_processes_prints(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    for option in ("--help", "--print_config"):
        assert page_of(capsys, option, "--embeddings_dir", "x", classes=(EncoderArguments,)) == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prints_its_recipe(script, tmp_path, capsys, monkeypatch):
    def printed(*argv: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *argv, "--print_config"])
        with pytest.raises(SystemExit) as end:
            importlib.import_module(f"recipes.{script}").main()
        assert end.value.code == 0
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "emoji_styles" / "aligned").mkdir(parents=True)
    (tmp_path / "runs" / "emoji_styles" / "aligned" / "train.yaml").write_text("image_size: 32\n")
    argv = {"evaluate": ("--config", str(ROOT / "recipes" / "emoji_styles" / "evaluate.yaml"), "--dataset_name", "x")}
    first = printed(*argv.get(script, ()))
    written = yaml.safe_load((ROOT / "recipes" / "emoji_styles" / f"{script}.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load(first)
    assert set(written) <= set(values)
    assert values.get("run", "runs/emoji_styles/aligned") == "runs/emoji_styles/aligned"
    (tmp_path / "again.yaml").write_text(first)
    assert printed("--config", "again.yaml") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.yaml", "runs"]
