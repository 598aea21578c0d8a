"""Cleaning takes time in proportion to the text, whatever the text."""

import random
import time

import pytest

from g4i_hf.captioning.cleaning import clean

ARGS = True
LONG = (
    "The image captures a bustling street in a city, where people walk past shops with colourful awnings. In the "
    "foreground, a woman in a red coat holds an umbrella, while a man beside her carries two paper bags. To the left, "
    "a cyclist waits at the light. The buildings are made of brick and have tall, narrow windows. The sky is grey."
)


def hostile() -> dict[str, str]:
    rng = random.Random(0)
    fibonacci, before = "a b", "a"
    while len(fibonacci) < 100_000:
        fibonacci, before = f"{fibonacci} {before}", fibonacci
    pieces = [
        "a",
        ".",
        " ",
        "\n",
        "*",
        "_",
        "`",
        "#",
        "[",
        "<",
        '"',
        "&amp;",
        "&#38;",
        "赤",
        "! ",
        "1. ",
        "\n- ",
        ".\"'",
    ]
    pieces += ["The image shows ", "Sure! ", "I'm sorry, ", "Let me know if ", "Would you ", "A picture of ", "\nUser"]
    pieces += ["the dog ", "Here is a ", "very ", "\n#", "**a", "a. ", "[a](", "Unfortunately ", "\n**a**\n"]
    return {
        **{repr(piece): (piece * (100_000 // len(piece) + 1))[:100_000] for piece in pieces},
        "here": "Here is a " + "very " * 20_000,
        "picture": "A picture of " + "a dog " * 16_000,
        "two words": " ".join(rng.choice("ab") for _ in range(50_000)),
        "two characters": "".join(rng.choice("赤青") for _ in range(100_000)),
        "fibonacci": fibonacci,
        "stops": ".!" * 50_000,
        "twice": " ".join(f"{i:x}" for i in range(14_000)) + " " + " ".join(f"{i:x}" for i in range(14_000)),
        "long period": " ".join(f"w{i % 700}" if i % 701 else f"x{i}" for i in range(25_000)),
    }


@pytest.mark.slow
def test_no_text_takes_long():
    """Quadratic time would be minutes; this takes some tenths of a second each on a slow machine."""
    for name, text in hostile().items():
        start = time.process_time()
        clean(text, "length", ARGS)
        seconds = time.process_time() - start
        assert seconds < 3, f"{name}: {seconds:.1f} s"


def test_a_million_captions_take_minutes():
    """Measured at 0.2 ms a caption; ten times that would be half an hour for 1.28 million."""
    texts = [LONG, LONG.replace("The image captures", "There is"), LONG[:-25], "Sure! Here it is:\n\n" + LONG] * 100
    start = time.process_time()
    for text in texts:
        clean(text, None, ARGS)
    assert (time.process_time() - start) / len(texts) < 1.5e-3
