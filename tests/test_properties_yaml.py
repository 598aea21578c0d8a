"""Files of options that were written by nobody sane: one line says what is wrong, in bounded time and memory."""

import string
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from test_cli import ALL, Options

from g4i_hf.cli import parse_options
from g4i_hf.cli.yaml_files import read_mapping

NAMES = ["rate", "steps", "decay", "quick", "name", "folder", "splits", "sizes", "mode", "names", "maybe"]
TAGS = ["!!int", "!!float", "!!bool", "!!null", "!!binary", "!!timestamp", "!!set", "!!omap", "!!pairs", "!!str"]
TAGS += ["!!python/object/apply:os.system", "!!python/name:os.system", "!mine", "!!merge"]
LONGEST = 1500  # characters of a message, the name of the file included

texts = st.text(max_size=30)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
structures = st.dictionaries(st.sampled_from(NAMES) | texts, values, max_size=5)
flow = "[]{}&*!|>'\"%@`#,?:- \n\t" + string.ascii_lowercase + string.digits
tagged = st.builds("{}: {} {}".format, st.sampled_from(NAMES), st.sampled_from(TAGS), st.text(flow, max_size=12))


def bomb(name: str, levels: int = 12, fan: int = 10) -> str:
    """Ten of ten of ten ..., in a file of a line."""
    lists = [f"&a{i} [{', '.join([f'*a{i - 1}'] * fan)}]" for i in range(1, levels)]
    return f"{name}: [&a0 [x], {', '.join(lists)}]"


NESTED = "[" * 400
MERGES = ", ".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}" for i in range(1, 10))
CHAIN = ", ".join(f"&b{i} [*b{i - 1}]" for i in range(1, 500))
HOSTILE = {
    "aliases of aliases": bomb("steps"),
    "in a list": bomb("splits"),
    "in a mapping": "names: {" + bomb("x") + "}",
    "long text, often": f"splits: [&a {'x' * 100_000}, {', '.join(['*a'] * 20)}]",
    "merges of merges": f"names: {{m0: &m0 {{a: 1}}, {MERGES}}}",
    "a list in a list in a list": "splits: " + NESTED,
    "the same in a mapping": "names: " + "{a: " * 2_000,
    "the same in blocks": "names:\n" + "".join(" " * i + "a:\n" for i in range(1, 600)),
    "the same by aliases": f"splits: [&b0 [1], {CHAIN}]",
    "a list that holds itself": "splits: &a [*a]",
    "a mapping that holds itself": "names: &a {b: *a}",
    "a key that is a mapping": "{a: 1}: 2",
    "a key that is a key": "? [x, {y: z}]\n: 1",
    "larger than any": "# " + "x" * 2_000_000,
    "a name as long": "x" * 100_000 + ": 1",
    "a value as long": "steps: " + "x" * 100_000,
    "a number as long": "steps: " + "9" * 100_000,
    "JSON as deep": "names: '" + '{"a":' * 5_000 + "'",
    "control characters": 'steps: "\\e[2J\\e]0;x\\a\\0\\r\\n\\u2028"',
    "control characters in a name": '"\\e[2J\\n": 1',
    "control characters, twice": '"\\e[2J\\n": 1\n"\\e[2J\\n": 2',
    "two documents": "steps: 1\n---\nsteps: 2",
    "an alias to nothing": "steps: *gone",
    "null bytes": "steps: \0",
    "text that is none": 'name: "\\ud800"',
}


def message_of(content: str | bytes, folder: Path, capsys, classes=(Options,)) -> str | None:
    """The one line that the file is refused with; None for one that is read."""
    path = folder / "options.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    capsys.readouterr()
    try:
        parse_options(classes, ["--config", str(path)])
    except SystemExit as error:
        message = capsys.readouterr().err
        assert error.code == 2 and message.startswith("error: ") and message.count("\n") == 1, message
        assert message[:-1].isprintable() and len(message) < LONGEST + len(str(path)), message
        return message
    return None


@given(structures)
def test_any_structure_is_read_or_refused_in_one_line(tmp_path, capsys, structure):
    message_of(yaml.safe_dump(structure, allow_unicode=True), tmp_path, capsys)


@given(st.text(flow, max_size=60) | tagged)
@example("steps: !!int ''")
@example("quick: !!bool x")
@example("names: {a: !!timestamp x}")
@example("names: {a: !!int ''}")
def test_any_text_is_read_or_refused_in_one_line(tmp_path, capsys, text):
    message_of(text, tmp_path, capsys)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, capsys, content):
    message_of(content, tmp_path, capsys)


@pytest.mark.parametrize("what", HOSTILE)
def test_what_would_fill_the_memory_or_the_screen_is_refused(tmp_path, capsys, what):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message_of(HOSTILE[what], tmp_path, capsys)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} KiB"


def test_a_name_of_a_file_cannot_move_the_cursor(capsys):
    with pytest.raises(SystemExit):
        parse_options((Options,), ["--config", "\x1b[2J\x07.yaml"])
    assert capsys.readouterr().err.rstrip("\n").isprintable()


@pytest.mark.parametrize("what", HOSTILE)
def test_files_that_a_run_folder_holds_are_read_alike(tmp_path, what):
    (tmp_path / "train.yaml").write_bytes(HOSTILE[what].encode(errors="surrogatepass"))
    try:
        read_mapping(tmp_path / "train.yaml")
    except ValueError as error:
        assert str(tmp_path / "train.yaml") in str(error)


own_names = st.sampled_from([name for cls in ALL for name in cls.__dataclass_fields__])


@given(st.dictionaries(own_names, values, min_size=1, max_size=3))
def test_any_value_of_any_option_of_training_is_taken_or_refused_in_one_line(tmp_path, capsys, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    given = {"dataset_name": "x", "output_dir": "o", "use_cpu": True, "report_to": "none"} | options
    message_of(yaml.safe_dump(given, allow_unicode=True), tmp_path, capsys, ALL)
