"""Tokens that every server starts with. `me` is a member of `our-lab`, `other` of `their-lab`."""

from dataclasses import dataclass

ME_WRITE = "hf_me_write"
ME_READ = "hf_me_read"
OTHER_WRITE = "hf_other_write"
ORGANIZATIONS = {"our-lab": {"me"}, "their-lab": {"other"}}


@dataclass
class Token:
    """Whose a token is, and whether its role is `write` or `read`."""

    user: str
    role: str = "write"

    def owns(self, namespace: str) -> bool:
        return self.user == namespace or self.user in ORGANIZATIONS.get(namespace, ())


def first_tokens() -> dict[str, Token]:
    return {ME_WRITE: Token("me"), ME_READ: Token("me", "read"), OTHER_WRITE: Token("other")}
