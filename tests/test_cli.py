"""Where options come from, what their values become, and what is said of a wrong one."""

import re
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from g4i_hf import __version__, options
from g4i_hf.cli import parse_options
from g4i_hf.options import OPTIONS_OF
from g4i_hf.running import LAUNCHER_OPTIONS, main
from g4i_hf.training import AlignmentArguments

TRAIN, DATA = OPTIONS_OF["train"], (options.DataArguments,)
BASE = "dataset_name: x\noutput_dir: o\n"


def parse(*argv: str, classes=TRAIN, **kwargs) -> dict:
    """What the command line says, as values by name."""
    parsed = parse_options(classes, list(argv), **kwargs)
    return {name: value for each in parsed for name, value in ({"others": None} | vars(each)).items()}


@pytest.fixture
def written(tmp_path):
    """Parses a file of options, its first two lines given, with more on the command line."""

    def parse_file(text: str, *argv: str, base: str = BASE, **kwargs) -> dict:
        (tmp_path / "öptions.yaml").write_text(base + text, encoding="utf-8")
        return parse("--config", str(tmp_path / "öptions.yaml"), *argv, **kwargs)

    return parse_file


def refused(parse_it, *args, **kwargs) -> str:
    with pytest.raises(ValueError) as error:
        parse_it(*args, **kwargs)
    return str(error.value)


def test_defaults_then_run_then_file_then_command_line(tmp_path, written):
    evaluate = {"classes": OPTIONS_OF["evaluate"]}
    of_run = "dataset_name: ./data\ntext_encoder: of run\ntext_encoder_prompt: p\nlabel_column: l\n"
    of_run += "validation_fraction: 0.2\nclass_names_file: classes.txt\n"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.yaml").write_text(of_run + "captions_name: c\nlearning_rate: 1\n")
    found = written("text_encoder: of/file\nrun: ./run\nweights: ema\n", "--weights", "raw", base="", **evaluate)
    assert (found["text_encoder"], found["weights"], found["text_encoder_prompt"]) == ("of/file", "raw", "p")
    assert Path(found["dataset_name"]).resolve() == tmp_path / "run" / "data" and found["captions_name"] == "c"
    other = parse("--run", str(tmp_path / "run"), "--dataset_name", "other", **evaluate)  # has captions of its own
    assert (other["dataset_name"], other["captions_name"], other["label_column"]) == ("other", None, None)
    assert (other["validation_fraction"], other["class_names_file"]) == (None, "classes.txt")


VALUES = [
    *[(f"learning_rate: {text}", float(text.strip("'"))) for text in ("5e-4", "1", "'0.5'")],
    *[(f"dataset_revision: {text}", text) for text in ("012", "1e5", "no", "2020-01-01")],
    *[(f"bf16: {text}", True) for text in ("yes", "1", "'true'")],
    *[(f"align_mix_captions: {text}", False) for text in ("no", "off", "0")],
    *[(f"dataset_revision: {text}", None) for text in ("", "null", "~")],
    ("eval_strategy: no", "no"),
    ("views: caption", ["caption"]),
    ("class_weights: balanced", "balanced"),
    ("student_args: {a: 1e-3, b: '1e-3', c: [2e-3, a1e5]}", {"a": 1e-3, "b": "1e-3", "c": [2e-3, "a1e5"]}),
    ("student_args: '{\"a\": [1]}'", {"a": [1]}),
]  # fmt: skip


@pytest.mark.parametrize("text, expected", VALUES, ids=[text for text, _ in VALUES])
def test_a_value_in_yaml_has_the_type_of_its_option(written, text, expected):
    """A revision of digits is no octal number, a strategy called `no` no switch, and 5e-4 no text."""
    of_fit = {"base": "dataset_name: d\n", "classes": OPTIONS_OF["fit"]}
    value = written(text, **of_fit if text.startswith("views") else {})[text.split(":")[0]]
    assert value == expected and type(value) is type(expected)


WORDS = [
    (("--learning-rate=-.5",), "learning_rate", -0.5),
    (("--seed", "1", "--seed=2"), "seed", 2),
    (("--student_args", '{"a-b": "c-d=e"}'), "student_args", {"a-b": "c-d=e"}),
    (("--bf16", "--max_steps", "3"), "bf16", True),
    (("--no-align-mix-captions",), "align_mix_captions", False),
    (("--caption_column", ""), "caption_column", ""),
]


@pytest.mark.parametrize("argv, name, expected", WORDS)
def test_a_value_on_the_command_line(argv, name, expected):
    assert parse("--dataset_name", "x", *argv)[name] == expected


def test_the_dataset_or_the_run_may_be_the_first_word():
    assert parse("pictures", "--seed", "1")["dataset_name"] == "pictures"
    assert parse("runs/a", "--dry_run", classes=OPTIONS_OF["release"])["run"] == "runs/a"
    assert "'more' in the command line belongs to no option" in refused(parse, "pictures", "more")


@pytest.mark.parametrize("text", [".", "./data", "../data", "./däta/x"])
def test_a_path_that_starts_with_a_dot_is_relative_to_its_file(tmp_path, monkeypatch, text):
    """It still starts with a dot or a slash then: a folder, whether it exists or not, and no Hub id."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "o.yaml").write_text(f"dataset_name: {text}\nlabel_column: runs/x", encoding="utf-8")
    for start, config in ((tmp_path, "a/b/o.yaml"), (tmp_path / "a" / "b", "o.yaml"), (tmp_path / "a", "b/o.yaml")):
        monkeypatch.chdir(start)
        found = parse("--config", config, "--caption_column", "./here", classes=DATA)
        assert Path(found["dataset_name"]).resolve() == (tmp_path / "a" / "b" / text).resolve()
        assert found["dataset_name"].startswith((".", "/"))
        assert (found["label_column"], found["caption_column"]) == ("runs/x", "./here")


def test_other_options_of_trainer_pass_through(tmp_path):
    (tmp_path / "o.yaml").write_text(f"{BASE}adam_beta1: 0.8")
    words = ["--config", str(tmp_path / "o.yaml"), "--label_names", "a", "b", "--logging_first_step"]
    args = AlignmentArguments.from_options(parse_options(TRAIN, words)[-1])
    assert (args.adam_beta1, args.label_names, args.logging_first_step) == (0.8, ["a", "b"], True)


OF_TRAINER = ["class_weights: many", "adam_beta1: much", "optim: adam", "lr_scheduler_type: cosin", "ddp_timeout: [1]"]


@pytest.mark.parametrize("text", OF_TRAINER)
def test_a_wrong_value_for_trainer_names_its_option(tmp_path, text):
    (tmp_path / "o.yaml").write_text(BASE + text)
    training = parse_options(TRAIN, ["--config", str(tmp_path / "o.yaml")])[-1]
    assert text.split(":")[0] in refused(AlignmentArguments.from_options, training)


WRONG_LINES = [
    ("lr: 1", "unknown option 'lr' in FILE, line 3. Did you mean 'learning_rate'?"),
    ("max_steps: {a: 1}", "FILE, line 3: max_steps is {'a': 1}; a whole number is wanted."),
    ("max_steps:", "FILE, line 3: max_steps has no value; a whole number is wanted."),
    ("student: !!python/name:os.system x", "tag:yaml.org,2002:python/name:os.system"),
    ("seed: 1\nbf16: no\nseed: 2", "line 5: seed is given twice, first in line 3. Keep one."),
    ("a:\n\tb: 1", "Use spaces instead of tabs."),
    ("student_args: '{\"a\"'", "student_args is '{\"a\"', which is not JSON"),
    ("align_temperature: 0", "align_temperature is 0.0; it must be above 0."),
    ("hflip: 1.5", "hflip is 1.5; it must be at least 0 and at most 1."),
    ("captions_revision: x", "captions_revision is set, but captions_name is not"),
    ("label_smoothing_factor: 0.1\nbce_target_threshold: 0", "bce_target_threshold is 0: with label_smoothing_factor"),
    ("use_peft: yes", "use_peft adapts pretrained weights, but pretrained is false"),
]


@pytest.mark.parametrize("text, expected", WRONG_LINES, ids=[text for text, _ in WRONG_LINES])
def test_a_wrong_line_is_named_with_its_file_and_a_remedy(tmp_path, written, text, expected):
    message = refused(written, text)
    assert expected.replace("FILE", str(tmp_path / "öptions.yaml")) in message and "\n" not in message


TRAINING = ["train", "--dataset_name", "x"]
COMMAND_LINES = [
    ([*TRAINING, "-max_steps", "1"], 2, "unknown option '-max_steps' in the command line; names start"),
    ([*TRAINING, "--max_steps", "--bf16"], 2, "--max_steps needs a value: a whole number."),
    ([], 2, "usage: g4i COMMAND"),
    (["trian"], 2, "the command is 'trian'; choose one of fit, caption, .*Did you mean 'train'"),
    (["train", "--config", "../x\x1b[2J\x07.yaml"], 2, r"\\x1b\[2J\\x07.yaml, which is no file"),
    (["check", "--num_processes=2"], 2, "check runs in one process: leave --num_processes out"),
    (["train", "--module", "gone.py"], 2, "--module gone.py: there is no such file"),
    (["train", "--module", "broken.py"], 2, "--module broken.py cannot be imported: NameError"),
    (["--help"], 0, "train +Train an aligned student"),
    (["--version"], 0, __version__),
]


@pytest.mark.parametrize("argv, code, said", COMMAND_LINES)
def test_what_is_wrong_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, argv, code, said):
    if argv[-1:] == ["broken.py"]:
        (tmp_path / argv[-1]).write_text("no_such_name")
    monkeypatch.chdir(tmp_path)
    try:
        main(argv)
        ended = 0
    except SystemExit as end:
        ended = end.code
    out, err = capsys.readouterr()
    assert ended == code and re.search(said, " ".join((out + err).split())), (ended, out, err)
    if code and argv:
        assert err.startswith("error: ") and err.count("\n") == 1 and err[:-1].isprintable() and not out


def test_launcher_options_are_those_of_accelerate():
    known = {word: action.nargs for action in launch_command_parser()._actions for word in action.option_strings}
    for name, number in LAUNCHER_OPTIONS.items():
        assert known[f"--{name}"] == (0 if number == 0 else None), name
    ours = {name for classes in OPTIONS_OF.values() for cls in classes for name in cls.__dataclass_fields__}
    assert not ours & set(LAUNCHER_OPTIONS)
