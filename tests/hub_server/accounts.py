"""Who may do what: users, organizations and tokens."""

from dataclasses import dataclass

from .refusals import Refusal

# Tokens that every server starts with. `me` is a member of `our-lab`, `other` of `their-lab`
ME_WRITE = "hf_me_write"
ME_READ = "hf_me_read"
ME_EXPIRED = "hf_me_expired"
OTHER_WRITE = "hf_other_write"


@dataclass
class Token:
    """
    Attributes:
        user: whose it is.
        role: read or write.
        expired: refused with 401.
    """

    user: str
    role: str = "write"
    expired: bool = False


class Accounts:
    """Users exist by having a token."""

    def __init__(self):
        self.tokens = {
            ME_WRITE: Token("me"),
            ME_READ: Token("me", "read"),
            ME_EXPIRED: Token("me", expired=True),
            OTHER_WRITE: Token("other"),
        }
        self.organizations = {"our-lab": {"me"}, "their-lab": {"other"}}

    def token(self, authorization: str | None) -> Token | None:
        """
        Args:
            authorization: the header; None for anonymous.

        Raises:
            Refusal: 401 for an unknown or expired token.
        """
        if not authorization:
            return None
        token = self.tokens.get(authorization.removeprefix("Bearer ").strip())
        if token is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if token.expired:
            raise Refusal(401, "User Access Token is expired")
        return token

    def writer(self, token: Token | None) -> Token:
        """
        Raises:
            Refusal: 401 when not logged in, 403 for a token that only reads.
        """
        if token is None:
            raise Refusal(401, "Invalid username or password.")
        if token.role != "write":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        return token

    def owns(self, user: str, namespace: str) -> bool:
        return user == namespace or user in self.organizations.get(namespace, ())

    def who(self, token: Token) -> dict:
        """The answer to whoami."""
        organizations = [
            {"type": "org", "name": name, "fullname": name, "roleInOrg": "write"}
            for name, members in self.organizations.items()
            if token.user in members
        ]
        access = {"displayName": token.user, "role": token.role}
        auth = {"type": "access_token", "accessToken": access}
        return {
            "type": "user",
            "id": token.user,
            "name": token.user,
            "fullname": token.user,
            "email": f"{token.user}@example.com",
            "emailVerified": True,
            "isPro": False,
            "orgs": organizations,
            "auth": auth,
        }
