"""
Checks the prose of README, docs/, notebooks, the templates of cards, the help of the commands, and the docstrings and
comments of g4i_hf; `make lint` runs it.

    python tests/prose.py  prints what is wrong, and exits with 1 if anything is

A sentence has at most 30 words, and those of a page 20 on average. A span of code or a number counts as a word. Code
blocks, tables and headings have no sentences. Banned phrases count everywhere but in code. Variables of g4i_hf are
named after their content, not `found` or `said`.
"""

import ast
import inspect
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from g4i_hf.commands import COMMANDS  # noqa: E402
from g4i_hf.options import OPTIONS_OF  # noqa: E402
from g4i_hf.options.fields import described, grouped, title_of  # noqa: E402

LONGEST, LONGEST_ON_AVERAGE = 30, 20
# What to write in place of a word; as regular expressions, whole words
BANNED = {
    r"surely": "clearly, or a confidence interval",
    r"(told|tell|beyond|differs?) (from )?(chance|zero)": "significant",
    r"own captions?": "its caption",
    r"(go(es|ing)?|gone) on": "continue, or resume",
    r"(finds?|found) (itself|themselves)": "adapts",
    r"at hand": "local, or in memory",
    r"(time of the processor|processor time)": "CPU time",
    r"data sets?": "dataset",
    r"pictures?": "image",
    r"(knows?|believes?|believed|refuses?)": "machines do not: has, predicts, rejects",
    r"(is|are|was|were) looked (at|for)": "somebody looks, in the present tense",
    r"(is|are|was|were) (told|said)": "reports, or prints",
    r"(is|are) asked (for|again)": "requests, or retries",
    r"as (it|they) stands?": "unchanged",
    r"(called|named) otherwise": "has another name",
    r"(do|does) as well": "also works",
    r"will do": "works",
    r"of (its|their|one's|your) own": "its, your, custom",
    r"by (itself|themselves) alone": "alone",
    r"nothing of ours": "without g4i_hf",
    r"to the bit": "bit for bit",
    r"(is|are) no (number|image|class|choice|dataset|folder)s?": "is not a",
    r"with a word": "with a message",
    r"the whole (way|road)": "the full pipeline",
    r"(all|both|others?) alike": "all, both",
    r"whatever (happens|it was|they are)": "name the cases",
    r"(is|are) worth": "gain",
    r"(on|onto|in) the disk": "on disk",
    r"by (their|its) names? alone": "zero-shot",
    r"(wants|wish(es)?)": "needs",
    r"what (is|was) left": "what remains",
    r"so (much|many) as": "as much as",
    r"in the mean": "on average",
    r"at (the|its) end of (a|the) day": "finally",
    r"put (to|before) the": "validated by, shown to",
    r"(is|are) of use": "helps",
    r"thereby|wherein|whereof|thereof|hence": "so",
    r"(bring|brings|brought) (along|with)": "include",
    r"none (of which|is|are)": "no ... is",
    r"(cannot|could not) be (told|seen)": "is not significant",
    r"licences?": "license, as in the options",
    r"utilize|leverage|seamless(ly)?|powerful|simply|just": "a plain word, or nothing",
}
PATTERNS = {re.compile(rf"\b({phrase})\b", re.IGNORECASE): better for phrase, better in BANNED.items()}


def texts() -> Iterator[tuple[str, str]]:
    """Name and Markdown of everything that is checked."""
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "hub_cards").glob("*.j2")]):
        name = path.relative_to(ROOT).as_posix()
        yield name, path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        markdown = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        yield path.relative_to(ROOT).as_posix(), "\n\n".join(markdown)
    for command, classes in OPTIONS_OF.items():
        commands = re.compile("^    .*$", flags=re.MULTILINE)
        yield f"g4i {command} --help", commands.sub("", inspect.getdoc(COMMANDS[command]))
        for declaring, group in grouped(classes).items():
            yield f"g4i {command} --help, {title_of(declaring)}", title_of(declaring)
            for option, field in group.items():
                yield f"g4i {command} --help, --{option}", described(field)[0]
    for name, source in sources():
        yield name, "\n\n".join(docstrings_and_comments(source))


# --- Source code -----------------------------------------------------------------------------------------------------

VAGUE_NAMES = {"asked", "beside", "found", "said", "told"}
SECTION = re.compile(r" *(Args|Attributes|Raises|Returns|Returns, and raises):? *$")
ENTRY = re.compile(r" +[\w, *`/().]+:( |$)|- ")


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "g4i_hf").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        yield name, path.read_text(encoding="utf-8")


def docstrings_and_comments(source: str) -> Iterator[str]:
    """Markdown: entries of `Args` and parts after a semicolon are paragraphs, and indented blocks are left out."""
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and (text := ast.get_docstring(node)):
            yield "\n".join(_paragraphs(text)).replace("; ", ".\n\n").replace(";\n", ".\n\n")
    comments: dict[int, str] = {}  # lines that follow each other are one comment
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"# (---|noqa|fmt|type)", token.string):
            text = token.string.lstrip("# ")
            alone = not token.line[: token.start[1]].strip()
            comments[token.start[0]] = f"{comments.pop(token.start[0] - 1, '')} {text}" if alone else f"{text}."
    yield from comments.values()


def _paragraphs(docstring: str) -> Iterator[str]:
    section = False
    for line in docstring.split("\nExample:\n")[0].splitlines():
        section = bool(SECTION.match(line)) or (section and (not line or line.startswith(" ")))
        if SECTION.match(line) or ENTRY.match(line):
            yield ""
        if (
            not SECTION.match(line)
            and (section or not line.startswith("    "))
            and not line.lstrip().startswith(">>>")
        ):
            yield line.strip() if section else line


def vague_names(name: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        named = node.id if stored else node.arg if isinstance(node, ast.arg) else ""
        if named in VAGUE_NAMES:
            yield f"{name}, line {node.lineno}: name {named!r} after its content"


# --- Markdown --------------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """Markdown or a template without front matter, code, comments, HTML, and the marks of Jinja."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^( *)(```|~~~).*?^\1\2\s*$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"{%.*?%}|{#.*?#}", " ", text, flags=re.DOTALL)
    text = re.sub(r"{{.*?}}", "code", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"</?\w[^>]*>|^:::.*$|https?://\S+", "", text, flags=re.MULTILINE)


def sentences(text: str) -> Iterator[str]:
    """The sentences of paragraphs and list items."""
    lines = []
    for line in prose(text).splitlines():
        if re.match(r"\s*(#|\||!!!)", line):
            lines.append("")
        else:
            lines.append(re.sub(r"^\s*([-*]|\d+\.)\s+", "\n", line))
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        for sentence in re.split(r"(?<=[.!?])[*)\"]*\s+(?=[A-Z*(\"]|code)", " ".join(paragraph.split())):
            if sentence:
                yield sentence


def words(sentence: str) -> int:
    return len(re.findall(r"[\w'’/.,%+-]*\w[\w'’/.%+-]*", sentence))


def problems(name: str, text: str) -> Iterator[str]:
    lengths = [(words(sentence), sentence) for sentence in sentences(text)]
    for length, sentence in lengths:
        if length > LONGEST:
            yield f"{name}: {length} words: {sentence}"
    mean = sum(length for length, _ in lengths) / max(len(lengths), 1)
    if len(lengths) > 5 and mean > LONGEST_ON_AVERAGE:
        yield f"{name}: {mean:.1f} words a sentence on average"
    plain = " ".join(prose(text).split())
    for pattern, better in PATTERNS.items():
        for match in pattern.finditer(plain):
            around = plain[max(match.start() - 30, 0) : match.end() + 30]
            yield f"{name}: {match[0]!r} (better: {better}): ...{around}..."


if __name__ == "__main__":
    wrong = [line for name, text in texts() for line in problems(name, text)]
    wrong += [line for name, source in sources() for line in vague_names(name, source)]
    print("\n".join(dict.fromkeys(wrong)))
    raise SystemExit(bool(wrong))
