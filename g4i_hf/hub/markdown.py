"""Text that others wrote, within a card: it stays text, on its line and in its cell, whatever it holds."""

import re
from typing import Any

LONGEST = 2000  # characters
# Nobody sees them, and they turn what stands around them: control characters, halves of characters, marks of direction
_UNSEEN = re.compile("[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
# A pipe ends a cell; the others begin a tag, an entity, a link, a picture or code
_ESCAPED = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;", "&": "&amp;", "[": "\\[", "]": "\\]", "`": "\\`"})


def plain(text: Any, longest: int = LONGEST) -> str:
    """One line that Markdown shows as it is, in a cell or elsewhere."""
    return one_line(text, longest).translate(_ESCAPED)


def code(text: Any, longest: int = LONGEST) -> str:
    """The same as code, for use outside of tables too: a pipe is kept, see [`code_cell`]."""
    line = one_line(text, longest)
    ticks = max((len(run) for run in re.findall("`+", line)), default=0)
    if not line or not ticks:
        return f"`{line or ' '}`"
    fence = "`" * (ticks + 1)
    return f"{fence} {line} {fence}"


def code_cell(text: Any, longest: int = LONGEST) -> str:
    """Code in a cell of a table, where a pipe has a backslash even within code."""
    return code(text, longest).replace("|", "\\|")


def one_line(text: Any, longest: int = LONGEST) -> str:
    line = " ".join(_UNSEEN.sub("", str(text)).split())
    return line if len(line) <= longest else f"{line[:longest]}…"
