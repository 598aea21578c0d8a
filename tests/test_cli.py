"""Options come from defaults, then YAML, then the command line; a mistake is named and nothing starts."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from g4i_hf.cli import OptionError, parse_options
from g4i_hf.cli.errors import did_you_mean
from g4i_hf.data.arguments import AugmentationArguments, DataArguments
from g4i_hf.embedding import EncoderArguments
from g4i_hf.evaluation.arguments import EvaluateArguments
from g4i_hf.training import AlignmentArguments, RunArguments, StudentArguments

ROOT = Path(__file__).parent.parent
ALL = (RunArguments, DataArguments, EncoderArguments, StudentArguments, AugmentationArguments, AlignmentArguments)


@dataclass
class Options:
    """A few kinds of fields."""

    rate: float = field(default=0.1, metadata={"help": "A float."})
    steps: int = field(default=5, metadata={"help": "An integer."})
    decay: float | None = field(default=None, metadata={"help": "Perhaps a float."})
    quick: bool = field(default=False, metadata={"help": "A switch."})
    thorough: bool = field(default=True, metadata={"help": "A switch that is on."})
    name: str = field(default="x", metadata={"help": "Text."})
    folder: str | None = field(default=None, metadata={"help": "A path."})
    splits: list[str] | None = field(default=None, metadata={"help": "A list."})
    sizes: list[int] = field(default_factory=list, metadata={"help": "A list of integers."})
    mode: Literal["fast", "slow"] = field(default="slow", metadata={"help": "One of two."})
    names: dict[str, str] | None = field(default=None, metadata={"help": "A mapping."})
    maybe: bool | None = field(default=None, metadata={"help": "A switch that may be unset."})

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps};\n  it must be positive.")


@dataclass
class Required:
    """A field without default."""

    dataset_name: str = field(metadata={"help": "Must be given."})


def parse(tmp_path: Path, yaml: str | None, *argv: str, classes: tuple[type, ...] = (Options,), **kwargs):
    if yaml is not None:
        (tmp_path / "öptions.yaml").write_text(yaml, encoding="utf-8")
        argv = ("--config", str(tmp_path / "öptions.yaml"), *argv)
    parsed = parse_options(classes, list(argv), **kwargs)
    return parsed[0] if len(classes) == 1 else parsed


# --- Precedence -----------------------------------------------------------------------------------------------------


def test_defaults_then_yaml_then_command_line(tmp_path):
    assert parse(tmp_path, None) == Options()
    options = parse(tmp_path, "rate: 0.2\nsteps: 6\n", "--steps", "7")
    assert options == Options(rate=0.2, steps=7)


def test_the_command_line_can_say_what_the_default_is(tmp_path):
    assert parse(tmp_path, "rate: 0.2\nquick: true\n", "--rate", "0.1", "--quick", "false") == Options()


def test_config_can_be_given_with_an_equals_sign(tmp_path):
    (tmp_path / "o.yaml").write_text("steps: 6")
    assert parse(tmp_path, None, f"--config={tmp_path / 'o.yaml'}").steps == 6


def test_a_required_field_can_come_from_yaml(tmp_path):
    assert parse(tmp_path, "dataset_name: pictures", classes=(Required,)).dataset_name == "pictures"
    with pytest.raises(SystemExit) as error:
        parse(tmp_path, "", classes=(Required,))
    assert error.value.code == 2


def test_the_default_recipe_is_read_only_when_neither_config_nor_data_is_named(tmp_path):
    recipe = {"default_config": tmp_path / "recipe.yaml", "classes": (Options, DataArguments)}
    (tmp_path / "recipe.yaml").write_text("name: of the recipe\ndataset_name: emoji\n")
    assert parse(tmp_path, None, "--steps", "1", **recipe)[0] == Options(name="of the recipe", steps=1)
    assert parse(tmp_path, None, "--dataset_name", "mine", **recipe)[0].name == "x"
    assert parse(tmp_path, None, "--dataset_name=mine", **recipe)[0].name == "x"
    assert parse(tmp_path, "dataset_name: mine", **recipe)[0].name == "x"


def test_options_of_a_run_come_before_those_of_the_config(tmp_path):
    """evaluate.py takes data and encoder from the run; what is no option here is skipped there, and only there."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.yaml").write_text("dataset_name: ./data\ntext_encoder: of the run\nlearning_rate: 1\n")
    classes = (EvaluateArguments, DataArguments, EncoderArguments)
    options = {"classes": classes, "run_options": "train.yaml"}
    _, data, encoder = parse(tmp_path, "text_encoder: mine", "--run", str(tmp_path / "run"), **options)
    assert encoder.text_encoder == "mine"
    assert Path(data.dataset_name).resolve() == tmp_path / "run" / "data"
    evaluation, *_ = parse(tmp_path, "run: " + str(tmp_path / "run"), **options)
    assert evaluation.run == str(tmp_path / "run")


# --- Kinds of values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected", [("5e-4", 5e-4), ("1e-12", 1e-12), ("1", 1.0), ("-2E+3", -2000.0), ("'0.5'", 0.5), (".5", 0.5)]
)
@pytest.mark.parametrize("name", ["rate", "decay"])
def test_numbers_in_yaml_arrive_as_floats(tmp_path, name, text, expected):
    value = getattr(parse(tmp_path, f"{name}: {text}"), name)
    assert value == expected and type(value) is float


def test_numbers_of_trainer_arrive_as_floats_too(tmp_path):
    text = "dataset_name: x\noutput_dir: o\nuse_cpu: true\nlearning_rate: 5e-4\nadam_epsilon: 1e-12\nweight_decay: 1\n"
    args = parse(tmp_path, text + "lr_scheduler_kwargs: {min_lr: 1e-5, nested: [2e-3, a1e5, 1e5b]}\n", classes=ALL)[-1]
    assert (args.learning_rate, args.adam_epsilon, args.weight_decay) == (5e-4, 1e-12, 1.0)
    assert type(args.weight_decay) is float
    assert args.lr_scheduler_kwargs == {"min_lr": 1e-5, "nested": [2e-3, "a1e5", "1e5b"]}


@pytest.mark.parametrize(
    "text, expected",
    [("123", "123"), ("1e5", "1e5"), ("größer", "größer"), ("''", ""), ("0123456", "0123456"), ("2020-01-01",) * 2]
    + [(word, word) for word in ("yes", "no", "on", "1_000", "0x1f", "'null'")],
)
def test_text_stays_text(tmp_path, text, expected):
    """A revision of digits is no octal number, and a split called `on` no switch."""
    assert parse(tmp_path, f"name: {text}").name == expected.strip("'")


SWITCHES = [(word, True) for word in ("yes", "true", "on", "1", "True", "ON", "y")]
SWITCHES += [(word, False) for word in ("no", "false", "off", "0", "False", "OFF", "n")]


@pytest.mark.parametrize("text, expected", SWITCHES)
@pytest.mark.parametrize("name", ["quick", "thorough", "maybe"])
def test_switches(tmp_path, name, text, expected):
    assert getattr(parse(tmp_path, f"{name}: {text}"), name) is expected
    assert getattr(parse(tmp_path, f"{name}: '{text}'"), name) is expected
    assert getattr(parse(tmp_path, None, f"--{name}", text), name) is expected
    assert getattr(parse(tmp_path, f"{name}: {not expected}", f"--{name}={text}"), name) is expected


def test_a_switch_alone_means_true(tmp_path):
    options = parse(tmp_path, "quick: off\nthorough: off\n", "--quick", "--thorough", "--maybe", "--steps", "1")
    assert (options.quick, options.thorough, options.maybe) == (True, True, True)
    assert parse(tmp_path, None, "--no_thorough").thorough is False
    assert parse(tmp_path, None, "--no-thorough").thorough is False


@pytest.mark.parametrize("text, expected", [("-1e-3", -1e-3), ("-.5", -0.5), ("-2", -2.0), ("-2.E+3", -2000.0)])
def test_a_negative_number_is_a_value_and_no_option(tmp_path, text, expected):
    options = parse(tmp_path, None, "--decay", text, "--steps", "3")
    assert (options.decay, options.steps) == (expected, 3)


def test_infinity_in_yaml(tmp_path):
    assert parse(tmp_path, "decay: -.inf").decay == float("-inf")


def test_hyphens_may_stand_for_underscores(tmp_path):
    classes = {"default_config": tmp_path / "none.yaml", "classes": (DataArguments,)}
    assert parse(tmp_path, None, "--dataset-name", "my-data", **classes).dataset_name == "my-data"


def test_the_last_config_counts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}")
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    for argv in (("--config", a, "--config", b), (f"--config={a}", "--config", b), ("--config", a, f"--config={b}")):
        assert parse(tmp_path, None, *argv).name == "b"


def test_mappings_keep_their_kinds(tmp_path):
    assert parse(tmp_path, "names: {a: 1e-3, b: '1e-3', c: [x]}").names == {"a": 1e-3, "b": "1e-3", "c": ["x"]}
    assert parse(tmp_path, None, "--names", '{"a": "b"}').names == {"a": "b"}


def test_values_of_trainer_that_take_text_or_a_list(tmp_path):
    base = "dataset_name: x\noutput_dir: o\nuse_cpu: true\n"
    assert parse(tmp_path, base + "class_weights: [1, 0.5]", classes=ALL)[-1].class_weights == [1, 0.5]
    assert parse(tmp_path, base + "class_weights: balanced", classes=ALL)[-1].class_weights == "balanced"
    assert parse(tmp_path, base + "label_names: [a, b]", classes=ALL)[-1].label_names == ["a", "b"]
    seen = parse(tmp_path, base + "include_num_input_tokens_seen: non_padding", classes=ALL)[-1]
    assert seen.include_num_input_tokens_seen == "non_padding"


def test_null_is_none(tmp_path):
    assert parse(tmp_path, "decay:\nfolder: null\n") == Options()


def test_lists_hold_values_of_their_kind(tmp_path):
    assert parse(tmp_path, "sizes: [1, '2']").sizes == [1, 2]
    assert parse(tmp_path, "splits: [1, no]").splits == ["1", "no"]
    assert parse(tmp_path, "splits: []\nsizes: []") == Options(splits=[])


@pytest.mark.parametrize("text", ["test", "[test]", "\n- test"])
def test_a_list_may_be_one_value(tmp_path, text):
    assert parse(tmp_path, f"splits: {text}").splits == ["test"]
    assert parse(tmp_path, None, "--splits", "a", "b").splits == ["a", "b"]


def test_no_is_the_strategy_no_and_not_false(tmp_path):
    text = "dataset_name: x\noutput_dir: o\nuse_cpu: true\nsave_strategy: no\neval_strategy: no\n"
    args = parse(tmp_path, text, classes=ALL)[-1]
    assert args.save_strategy == "no" and args.eval_strategy == "no"


@pytest.mark.parametrize("where", ["yaml", "command line"])
def test_student_args_are_a_mapping_or_json(tmp_path, where):
    base = "dataset_name: x\noutput_dir: o\nuse_cpu: true\n"
    expected = {"layers": [1, 2], "drop_path_rate": 0.1, "act": "gelu"}
    if where == "yaml":
        parsed = parse(tmp_path, base + "student_args: {layers: [1, 2], drop_path_rate: 1e-1, act: gelu}", classes=ALL)
    else:
        parsed = parse(tmp_path, base, "--student_args", json.dumps(expected), classes=ALL)
    assert parsed[3].student_args == expected


# --- Paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [".", "./data", "../data", "./däta/x"])
def test_a_path_that_starts_with_a_dot_is_relative_to_the_yaml_file(tmp_path, monkeypatch, text):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "o.yaml").write_text(f"folder: {text}", encoding="utf-8")
    for start, config in ((tmp_path, "a/b/o.yaml"), (tmp_path / "a" / "b", "o.yaml"), (tmp_path / "a", "b/o.yaml")):
        monkeypatch.chdir(start)
        folder = parse(tmp_path, None, "--config", config).folder
        assert Path(folder).resolve() == (tmp_path / "a" / "b" / text).resolve()
        assert folder.startswith(".")  # a folder, whether it exists or not, and no Hub id


@pytest.mark.parametrize("text", ["runs/x", "user/name", "/abs/x", ".5"])
def test_other_text_is_left_alone(tmp_path, text):
    assert parse(tmp_path, f"folder: '{text}'").folder == text


def test_paths_on_the_command_line_are_relative_to_where_one_is(tmp_path):
    assert parse(tmp_path, "folder: ./there", "--folder", "./here").folder == "./here"


# --- Mistakes -------------------------------------------------------------------------------------------------------


def message_of(capsys, tmp_path, yaml, *argv, **kwargs) -> str:
    with pytest.raises(SystemExit) as error:
        parse(tmp_path, yaml, *argv, **kwargs)
    assert error.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("key, near", [("stpes", "steps"), ("Rate", "rate"), ("split", "splits")])
def test_an_unknown_key_names_the_nearest_known_one(tmp_path, capsys, key, near):
    expected = f"unknown option '{key}' in {tmp_path / 'öptions.yaml'}, line 1. Did you mean '{near}'?"
    assert expected in message_of(capsys, tmp_path, f"{key}: 1")
    for argv in ((f"--{key}", "1"), (f"--{key}=1",)):
        expected = f"unknown option '{key}' in the command line. Did you mean '{near}'?"
        assert expected in message_of(capsys, tmp_path, None, *argv)


def test_a_key_like_no_other_is_named_alone(tmp_path, capsys):
    message = message_of(capsys, tmp_path, "zzz: 1")
    assert "unknown option 'zzz'" in message and "Did you mean" not in message


@pytest.mark.parametrize("key", ["config", "help", "1"])
def test_what_is_no_field_is_no_key(tmp_path, capsys, key):
    assert f"unknown option '{key}'" in message_of(capsys, tmp_path, f"{key}: x")


def test_abbreviations_are_not_guessed(tmp_path, capsys):
    assert "unknown option 'step'" in message_of(capsys, tmp_path, None, "--step", "3")


@pytest.mark.parametrize(
    "yaml, expected",
    [
        ("steps: many", "steps is 'many'; a whole number is wanted."),
        ("steps: 1.5", "steps is '1.5'; a whole number is wanted."),
        ("steps: [1, 2]", "steps is [1, 2]; a whole number is wanted."),
        ("steps: {a: 1}", "steps is {'a': 1}; a whole number is wanted."),
        ("rate: true", "rate is 'true'; a number is wanted."),
        ("decay: fast", "decay is 'fast'; a number is wanted."),
        ("quick: maybe", "quick is 'maybe'; true or false is wanted."),
        ("thorough: maybe", "thorough is 'maybe'; true or false is wanted."),
        ("name: [a, b]", "name is ['a', 'b']; text is wanted."),
        ("name: {a: b}", "name is {'a': 'b'}; text is wanted."),
        ("sizes: [1, two]", "sizes is 'two'; a whole number is wanted."),
        ("mode: fats", "mode is 'fats'; choose one of fast, slow. Did you mean 'fast'?"),
        ("names: [1, 2]", "names is [1, 2]; a mapping (JSON) is wanted."),
        ("name: !!python/name:os.system x", "name has the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("names: {a: !!python/name:os.system x}", "could not determine a constructor"),
    ],
)
def test_a_value_of_the_wrong_kind_names_file_line_field_and_value(tmp_path, capsys, yaml, expected):
    message = message_of(capsys, tmp_path, "# first\n" + yaml)
    assert message.startswith(f"error: {tmp_path / 'öptions.yaml'}, line 2: ")
    assert expected in message and message.count("\n") == 1


@pytest.mark.parametrize(
    "argv, expected",
    [
        (("--steps", "many"), "--steps is 'many'; a whole number is wanted."),
        (("--steps=many",), "--steps is 'many'; a whole number is wanted."),
        (("--rate", "x", "--steps", "1"), "--rate is 'x'; a number is wanted."),
        (("--quick", "maybe"), "--quick is 'maybe'; true or false is wanted."),
        (("--mode", "fats"), "--mode is 'fats'; choose one of fast, slow. Did you mean 'fast'?"),
        (("--sizes", "1", "two"), "--sizes is 'two'; a whole number is wanted."),
        (("--names", "{1"), "--names is '{1', which is not JSON"),
        (("--names", "[1]"), "--names is '[1]'; a mapping (JSON) is wanted."),
        (("--steps",), "--steps needs a value: a whole number.\n"),
        (("--steps", "--quick"), "--steps needs a value: a whole number.\n"),
        (("--mode",), "--mode needs a value: one of fast, slow.\n"),
        (("--name", "-x"), "--name needs a value: text. (Write one that starts with a dash as --name=VALUE.)"),
        (("--splits",), "--splits needs a value: a list of which each is text."),
        (("--config",), "--config needs a value: the path of a YAML file."),
        (("--no_thorough=1",), "--no_thorough takes no value."),
        (("--steps", "1", "2"), "'2' in the command line belongs to no option."),
        (("-steps", "1"), "unknown option '-steps' in the command line; names start with two dashes. Did you mean"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path, capsys, argv, expected):
    message = message_of(capsys, tmp_path, None, *argv)
    assert message.startswith(f"error: {expected}") and message.count("\n") == 1


@pytest.mark.parametrize("key, wanted", [("steps", "a whole number"), ("rate", "a number"), ("name", "text")])
@pytest.mark.parametrize("null", ["", " null", " ~"])
def test_a_key_without_value_is_an_error_where_none_is_not_admitted(tmp_path, capsys, key, wanted, null):
    expected = f"{tmp_path / 'öptions.yaml'}, line 2: {key} has no value; {wanted} is wanted."
    assert expected in message_of(capsys, tmp_path, f"quick: on\n{key}:{null}\n")


@pytest.mark.parametrize("yaml", ["steps: 1\nrate: 2\nsteps: 3", "names: {steps: 1,\n rate: 2, steps: 3}"])
def test_a_key_given_twice_is_an_error_that_names_it_and_its_lines(tmp_path, capsys, yaml):
    lines = (3, 1) if yaml.startswith("steps") else (2, 1)
    expected = f"öptions.yaml, line {lines[0]}: steps is given twice, first in line {lines[1]}. Keep one."
    assert expected in message_of(capsys, tmp_path, yaml)


def test_what_a_class_refuses_is_one_line(tmp_path, capsys):
    assert message_of(capsys, tmp_path, "steps: -1") == "error: steps is -1; it must be positive.\n"


@pytest.mark.parametrize(
    "option, expected",
    [
        ("align_weight: -1", "align_weight is -1.0; it must not be negative"),
        ("align_temperature: 0", "align_temperature is 0.0; it must be positive"),
        ("align_loss: clop", "align_loss is 'clop'; choose one of clip"),
        ("align_loss: clop", "Did you mean 'clip'?"),
        ("lr_scheduler_type: cosin", "lr_scheduler_type is 'cosin'; choose one of linear, cosine"),
        ("train_crop: centre", "train_crop is 'centre'; choose resized or pad"),
        ("image_size: 0", "image_size is 0; it must be positive"),
        ("projector_type: conv", "projector_type is 'conv'; choose one of"),
        ("optim: adam", "optim is 'adam'; choose one of adamw_torch"),
        ("student_args: '{\"a\"'", "student_args is '{\"a\"', which is not JSON"),
    ],
)
def test_a_value_out_of_range_names_field_and_value(tmp_path, capsys, option, expected):
    base = "dataset_name: x\noutput_dir: o\nuse_cpu: true\n"
    assert expected in message_of(capsys, tmp_path, base + option, classes=ALL)


def test_data_that_is_not_named_is_asked_for(tmp_path, capsys):
    message = message_of(capsys, tmp_path, "dataset_config_name: x", classes=(DataArguments,))
    assert "dataset_name is missing: give a Hub id or a folder with --dataset_name" in message


@pytest.mark.parametrize(
    "yaml, expected",
    [
        ("- steps", "must hold `name: value` lines"),
        ("steps", "must hold `name: value` lines"),
        ("steps: [", "is not valid YAML"),
    ],
)
def test_a_file_that_holds_no_options_is_an_error(tmp_path, capsys, yaml, expected):
    assert expected in message_of(capsys, tmp_path, yaml)


def test_an_empty_file_changes_nothing(tmp_path):
    assert parse(tmp_path, "# nothing yet\n") == Options()


def test_a_missing_config_file_is_an_error(tmp_path, capsys):
    missing = str(tmp_path / "gone.yaml")
    assert f"--config {missing}: there is no such file" in message_of(capsys, tmp_path, None, "--config", missing)
    assert "this is a folder; name a YAML file in it" in message_of(capsys, tmp_path, None, "--config", str(tmp_path))
    (tmp_path / "tab.yaml").write_text("a:\n\tb: 1\n")
    message = message_of(capsys, tmp_path, None, "--config", str(tmp_path / "tab.yaml"))
    assert "is not valid YAML" in message and "Use spaces instead of tabs" in message
    assert issubclass(OptionError, SystemExit)  # no traceback


def test_a_missing_run_folder_is_an_error(tmp_path, capsys):
    options = {"classes": (EvaluateArguments, DataArguments), "run_options": "train.yaml"}
    assert "run is './gone', but there is no such folder" in message_of(
        capsys, tmp_path, None, "--run", "./gone", **options
    )


# --- A real process -------------------------------------------------------------------------------------------------


def test_a_script_exits_with_2_and_one_line(tmp_path):
    (tmp_path / "my.yaml").write_text("dataset_name: x\nembedings_dir: y\n")
    command = [sys.executable, str(ROOT / "recipes" / "embed.py"), "--config", str(tmp_path / "my.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 2
    expected = (
        f"error: unknown option 'embedings_dir' in {tmp_path / 'my.yaml'}, line 2. Did you mean 'embeddings_dir'?"
    )
    assert done.stderr.strip() == expected and done.stdout == ""


def test_a_mistyped_beginning_finds_the_longer_name():
    names = ["adalomo", "adamw_torch", "sgd"]
    assert did_you_mean("adamm", names) == " Did you mean 'adamw_torch'?"
    assert did_you_mean("SGDD", names, "--") == " Did you mean '--sgd'?"
    assert did_you_mean("lion_8bit_paged", names) == ""
