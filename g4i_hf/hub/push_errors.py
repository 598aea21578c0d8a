"""What went wrong with a push, in words that say what is there now and what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, LocalTokenNotFoundError

# The Xet client tells the status of the server in words alone
XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})\b")


class PushError(OSError):
    """A push that did not happen: what went wrong, what is there now, and what to do."""


@contextmanager
def clear_errors(repo_id: str) -> Iterator[None]:
    """
    Raises:
        PushError: in place of the clients' errors, with the remedy.
    """
    try:
        yield
    except (OSError, RuntimeError, httpx2.HTTPError) as error:
        wraps = isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and error.__cause__ is not None
        cause = error.__cause__ if wraps else error  # of an upload, or of a download
        if not _is_of_the_client(cause):
            raise
        raise PushError(_message(repo_id, cause)) from error


def _is_of_the_client(error: BaseException) -> bool:
    kinds = (HfHubHTTPError, httpx2.HTTPError, ConnectionError, LocalTokenNotFoundError)
    return isinstance(error, kinds) or _is_xet_refusal(error)


def _is_xet_refusal(error: BaseException) -> bool:
    """A PermissionError of hf_xet, which need not be installed; those of files of this machine are something else."""
    return type(error).__name__ == "XetAuthenticationError"


def _message(repo_id: str, error: BaseException) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return "There is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(error, HfHubHTTPError):
        return f"{repo_id}: {_remedy(_status(error))} ({_reason(error)})"
    if _is_xet_refusal(error):
        return (
            f"{repo_id}: the Hub's storage does not accept the token, which may have expired or may not write there. "
            "Log in again with `hf auth login`, with a token of the role `write`. Nothing of this push is visible"
        )
    if found := XET_STATUS.search(str(error)):
        status = int(found[1])
        return f"{repo_id}: {_remedy(status)} (the token for large files: status {status})"
    return (
        f"{repo_id}: the connection to the Hub broke ({type(error).__name__}). Nothing of this push is visible there; "
        "give the same command again, what has arrived is not sent twice."
    )


def _status(error: HfHubHTTPError) -> int:
    return error.response.status_code if error.response is not None else 0


def _remedy(status: int) -> str:
    if status == 401:
        return "the Hub does not accept the token, which may have expired. Log in again with `hf auth login`"
    if status == 403:
        return "the token may not write there. Use one with the role `write`, and a namespace of your own"
    if status == 404:
        return "no such repository, or one that this token may not see. It may have been deleted, renamed or closed"
    if status in (409, 412):
        return "somebody else has pushed there meanwhile. Nothing of this push is visible; give the same command again"
    if status == 429 or status >= 500:
        return "the Hub is busy or out of order. Nothing of this push is visible; give the same command again later"
    return "the Hub refuses. Nothing of this push is visible"


def _reason(error: HfHubHTTPError) -> str:
    """The server's own words on one line, without addresses that lead to an upload."""
    text = error.server_message or (str(error).splitlines() or [""])[0]
    return re.sub(r"https?://\S+", "...", " ".join(text.split()))[:300] or f"status {_status(error)}"
