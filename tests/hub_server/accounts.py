"""Tokens that every server starts with."""

from dataclasses import dataclass

ME_WRITE, ME_READ, OTHER_WRITE = "hf_me_write", "hf_me_read", "hf_other_write"


@dataclass
class Token:
    """Whose a token is, and whether its role is `write` or `read`."""

    user: str
    role: str = "write"


def first_tokens() -> dict[str, Token]:
    return {ME_WRITE: Token("me"), ME_READ: Token("me", "read"), OTHER_WRITE: Token("other")}
