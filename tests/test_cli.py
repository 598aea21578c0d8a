"""Options come from defaults, then YAML, then the command line; a mistake is named and nothing starts."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from g4i_hf.cli import OptionError, parse_options
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


@pytest.mark.parametrize("text, expected", [("123", "123"), ("1e5", "1e5"), ("größer", "größer"), ("''", "")])
def test_text_stays_text(tmp_path, text, expected):
    assert parse(tmp_path, f"name: {text}").name == expected


@pytest.mark.parametrize("text", ["yes", "true", "on", "'1'", "1"])
def test_switches_in_yaml(tmp_path, text):
    assert parse(tmp_path, f"quick: {text}").quick is True
    assert parse(tmp_path, "thorough: off").thorough is False


def test_null_is_none(tmp_path):
    assert parse(tmp_path, "decay:\nfolder: null\n") == Options()


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
    expected = f"unknown option '{key}' in {tmp_path / 'öptions.yaml'}. Did you mean '{near}'?"
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
        ("steps: many", "öptions.yaml: steps is 'many'"),
        ("steps: 1.5", "öptions.yaml: steps is 1.5"),
        ("steps: [1, 2]", "öptions.yaml: steps is [1, 2]: a number is wanted"),
        ("steps: {a: 1}", "öptions.yaml: steps is {'a': 1}: a number is wanted"),
        ("rate: true", "öptions.yaml: rate is True: a number is wanted"),
        ("rate: fast", "öptions.yaml: rate is 'fast'"),
        ("quick: maybe", "öptions.yaml: quick is 'maybe'"),
    ],
)
def test_a_value_of_the_wrong_kind_names_file_field_and_value(tmp_path, capsys, yaml, expected):
    assert expected in message_of(capsys, tmp_path, yaml)


def test_a_value_of_the_wrong_kind_on_the_command_line_names_field_and_value(tmp_path, capsys):
    message = message_of(capsys, tmp_path, None, "--steps", "many")
    assert "argument --steps: invalid int value: 'many'" in message


@pytest.mark.parametrize(
    "option, expected",
    [
        ("align_weight: -1", "align_weight is -1.0; it must not be negative"),
        ("align_temperature: 0", "align_temperature is 0.0; it must be positive"),
        ("align_loss: clipp", "align_loss is 'clipp'; choose one of clip"),
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
    expected = f"error: unknown option 'embedings_dir' in {tmp_path / 'my.yaml'}. Did you mean 'embeddings_dir'?"
    assert done.stderr.strip() == expected and done.stdout == ""
