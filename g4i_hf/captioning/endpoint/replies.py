"""What a reply of a chat completion says: the text, or why there is none."""

from typing import Any

from ..answers import OK, Answer, whole_characters
from .retries import UselessReply, server_message


def answer_in(reply: Any) -> Answer:
    """
    Args:
        reply: a `ChatCompletionOutput`.

    Raises:
        UselessReply: without choices, or with one that holds no message.
    """
    choices = reply.choices
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None or isinstance(message, (str, list)):
        error = getattr(reply, "error", None)
        said = f" ({server_message(str(error))})" if error else ""
        raise UselessReply(f"a reply without choices{said}")
    content = getattr(message, "content", None)
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str))
    text = whole_characters(content) if isinstance(content, str) else None
    finish_reason = choice.finish_reason if isinstance(choice.finish_reason, str) else None
    answer = Answer(OK, text, finish_reason=finish_reason)
    usage = reply.usage
    for name in ("prompt_tokens", "completion_tokens"):
        count = getattr(usage, name, None)
        setattr(answer, name, count if isinstance(count, int) else None)
    if text is None or not text.strip():
        refusal = getattr(message, "refusal", None)
        answer.status, answer.reason = _why_empty(message, finish_reason, refusal)
    return answer


def _why_empty(message: Any, finish_reason: str | None, refusal: Any) -> tuple[str, str]:
    if isinstance(refusal, str) and refusal.strip():
        return "refused", server_message(refusal)
    if finish_reason == "content_filter":
        return "refused", "the server's content filter"
    thought = getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None)
    if thought and finish_reason == "length":
        return "empty", "all tokens went into reasoning; raise max_new_tokens, or turn reasoning off at the server"
    return "empty", "an answer without text"
