"""What the server says no with; the wording and the codes are those that the clients act upon."""


class Refusal(Exception):
    """
    A request that is answered with an error.

    Args:
        status (`int`): HTTP status.
        message (`str`): for the user; goes into the body and the header X-Error-Message.
        code (`str`, *optional*): header X-Error-Code, from which clients choose their exception.
        headers (`dict`, *optional*): more headers.
        body (`dict`, *optional*): more of the JSON body.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: dict | None = None, body: dict | None = None
    ):
        super().__init__(message)
        self.status = status
        self.body = {"error": message} | (body or {})
        self.headers = {"X-Error-Message": " ".join(message.split())} | (headers or {})
        if code:
            self.headers["X-Error-Code"] = code


def no_repository(anonymous: bool) -> Refusal:
    """Missing and hidden repositories look the same; who has not logged in is told to."""
    if anonymous:
        return Refusal(401, "Invalid username or password.", "RepoNotFound")
    return Refusal(404, "Repository not found", "RepoNotFound")


def no_revision(revision: str) -> Refusal:
    return Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def no_entry(message: str, commit: str) -> Refusal:
    """With the commit, so that the client remembers that it has no such file."""
    return Refusal(404, message, "EntryNotFound", {"X-Repo-Commit": commit})
