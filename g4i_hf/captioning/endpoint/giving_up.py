"""What the user is told when a server is given up."""

from .retries import Refusal
from .servers import Server, UnreasonableWait


def nothing_works(server: Server) -> str:
    """Every request fails."""
    breaker = server.breaker
    hint = "Is it running, and is base_url right?"
    if breaker.last.startswith("503"):
        hint = "It may still be starting."
    if not breaker.answers and breaker.last.startswith(("400", "413", "422")):
        hint = "Is captioner_model right, and does that model take images?"
    state = "answers nothing any more" if breaker.answers else "has answered nothing"
    return (
        f"{server.name} {state}. Its last error: {breaker.last.rstrip('.')}. {hint} Nothing that was answered is "
        "lost, and what was not will be asked again: start the same command once it works."
    )


def wait_too_long(server: Server, wish: UnreasonableWait, refusal: Refusal) -> str:
    """It wants no requests for a long time."""
    return (
        f"{server.name} asks to be left alone for {wish} ({refusal}). Nothing that was answered is lost: start the "
        "same command again then."
    )


async def refused_for_all(server: Server, refusal: Refusal, model: str, api_key_env: str | None) -> str:
    """
    An error that every request would meet.

    Args:
        refusal: with a `treatment` of `fatal`.
        model: that was asked for.
        api_key_env: name of the environment variable of the token.
    """
    if refusal.status < 400:
        remedy = "Give that address as base_url, if images may be sent there."
    elif refusal.status in (401, 407) and not server.has_token:
        remedy = "It wants a token: name the environment variable that holds it in api_key_env."
    elif refusal.status in (401, 407):
        where = f"the environment variable {api_key_env}" if api_key_env else "`hf auth login`"
        remedy = f"It does not accept the token: put the right one into {where}."
    elif refusal.status == 402:
        remedy = "Its account is out of credit."
    elif refusal.status == 403:
        remedy = f"Access to {model} is not allowed there{' with this token' if server.has_token else ''}."
    else:
        models = await server.models()
        has = f"It has {', '.join(models)}." if models else "Is base_url right, up to /v1?"
        remedy = f"There is no model {model}, or nothing at {refusal.url}. {has}"
    return f"{server.name} refuses to answer ({refusal}). {remedy}"
