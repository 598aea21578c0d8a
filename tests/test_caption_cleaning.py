"""Answers as models give them, and the captions in them."""

import itertools

import pytest

from g4i_hf.captioning.cleaning import STEPS, Cleaned, clean

OPENINGS = {
    "This is a picture of a cat": "A cat",
    "In this image, we can see two birds. They sit on a wire.": "Two birds. They sit on a wire.",
    "Certainly! Here's a detailed description of the image you provided:\n\nA red car.": "A red car.",
    "The photo you uploaded shows a zebra in a zoo.": "A zebra in a zoo.",
    "This is a black and white photo of a tram.": "A black and white photo of a tram.",
    'Here is a caption for the image: "A dog at dusk"': "A dog at dusk",
    "Sure! Here is a description of the image: The image shows a picture of a drum.": "A drum.",
    "The image shows iPhone cases.": "iPhone cases.",
}
REFUSALS = [
    "I’m sorry, I can’t assist with identifying people in images.",
    "As an AI language model, I do not have the ability to see images.",
    "I'm unable to see the image.",
    "It seems like no image was attached. Please upload it again.",
    "I can't help with that.",
]
LOOPS = {
    "The dog is black. The dog is black. The dog is bl": "The dog is black.",
    "a very very very very very very very big dog": "a very big dog",
    "A table with a cup, a plate, a cup, a plate, a cup, a plate, a cup, a pla": "A table with a cup, a plate",
    "What a goal!!!!!!!!!!!!!!!!!!": "What a goal!",
    "狗是黑色的。狗是黑色的。狗是黑色的。": "狗是黑色的。",
}
UNFINISHED = {
    "A dog runs. Behind it stands Mr. Smith. He w": "A dog runs. Behind it stands Mr. Smith.",
    "一只狗在跑。草是": "一只狗在跑。",
}
BOILERPLATE = {
    "- a dog\n- a cat\n* a tree": "A dog. A cat. A tree.",
    "## A dog\nIt sits on a **red** mat.": "A dog. It sits on a red mat.",
    "**Subject:** A dog\n**Setting:** A beach\n": "Subject: A dog. Setting: A beach.",
    "A *small* `red` __box__ of 5 * 3 m, f**k it": "A small red box of 5 * 3 m, f**k it",
    "###Assistant: A dog.</s>": "A dog.",
    "A dog.\nUser: what breed?\nAssistant: A pug.": "A dog.",
    "A dog. I hope this helps! Feel free to ask if you have any questions.": "A dog.",
    "A&amp;amp;B &lt;3": "A&B <3",
}
CAPTIONS = [  # which no step changes
    "The image shows how a glider lands.",
    "A picture of a dog hangs on the wall.",
    "The drawing shows a cat.",
    "Sure-footed goats climb a rock.",
    "\"I'm sorry, I can't come\" is written on a card.",
    "The image is not in focus, but a dog can be made out.",
    "The first dog is black. The second dog is black. The third dog is white.",
    "a red circle on a white background",
    "A dog runs. It barks (loudly!)",
    "R&D department, AT&T logo, 5 < 6",
    "A wooden table. Thank you card with pink flowers on it.",
    "Un chien « noir » court ; il fait beau !",
    "青い空の下で犬が走っています。とても楽しそうです。",
    "كلب يركض على الشاطئ. السماء زرقاء.",
    "Grinning face 😀 and family 👨‍👩‍👧",
]
STEPS_ALONE = {"openings": OPENINGS, "repetitions": LOOPS, "unfinished": UNFINISHED, "boilerplate": BOILERPLATE}
STEPS_ALONE["refusals"] = dict.fromkeys(REFUSALS)


@pytest.mark.parametrize("step", STEPS_ALONE)
def test_what_goes_goes_and_is_counted(step):
    for text, caption in STEPS_ALONE[step].items():
        cleaned = clean(text, "stop" if step == "refusals" else None)
        assert (cleaned.caption, cleaned.status) == (caption, "ok" if caption else "refused"), text
        assert step in cleaned.applied, text


@pytest.mark.parametrize("text", CAPTIONS)
def test_what_is_a_caption_stays_as_it_is(text):
    assert clean(text, None).caption == clean(text, "stop").caption == text


def test_cleaning_twice_changes_nothing_more():
    """Of answers, and of any two of them together, whole or cut off."""
    answers = [text for texts in (*STEPS_ALONE.values(), CAPTIONS) for text in texts]
    pairs = [space.join(pair) for pair in itertools.permutations(answers, 2) for space in (" ", "\n\n")]
    for text, reason in itertools.product(answers + pairs[::8], ("stop", "length")):
        for part in (text, text[: len(text) * 2 // 3]):
            once = clean(part, reason).caption
            assert once is None or clean(once, reason) == Cleaned(once, "ok"), part


EMPTY = [None, "", " \n ", "...", "\u200b\ufeff", '""', "###", "\ud83d", "🐕", "Would you like to know more?"]
LOOP = "**Description:**\nThe image shows a dog. The dog is black. The dog is black. The dog is bl"


@pytest.mark.parametrize(
    "text, finish_reason, caption, status",
    [
        *((text, None, None, "empty") for text in EMPTY),
        ("A dog \ud83d", "length", "A dog", "ok"),
        ("A\u00a0dog\u3000runs\tfast\x00", None, "A dog runs fast", "ok"),
        ("- a dog\n- a cat\n- a tr", "length", "A dog. A cat.", "ok"),
        ("- a dog\n- a cat\n- a tr", "stop", "A dog. A cat. A tr.", "ok"),
        ("**Sure!** I'm sorry, but I can't do that.", None, None, "refused"),
        (LOOP, "length", "A dog. The dog is black.", "ok"),
    ],
)
def test_answers_that_take_several_steps_or_hold_no_words(text, finish_reason, caption, status):
    cleaned = clean(text, finish_reason)
    assert (cleaned.caption, cleaned.status) == (caption, status)
    assert [step for step in STEPS if step in cleaned.applied] == list(cleaned.applied)
