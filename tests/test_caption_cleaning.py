"""Answers as models give them, and the captions in them."""

import random

import pytest

from g4i_hf.captioning.cleaning import STEPS, Cleaned, clean

OPENINGS = {
    "This is a picture of a cat": "A cat",
    "In this image, we can see two birds. They sit on a wire.": "Two birds. They sit on a wire.",
    "In this image there is a lamp.": "There is a lamp.",
    "Certainly! Here's a detailed description of the image you provided:\n\nA red car.": "A red car.",
    "The photo you uploaded shows a zebra in a zoo.": "A zebra in a zoo.",
    "The image appears to be a drawing of a fish.": "A drawing of a fish.",
    "This is a black and white photo of a tram.": "A black and white photo of a tram.",
    "We can see the tail of a whale.": "The tail of a whale.",
    "Description: A brown horse.": "A brown horse.",
    'Here is a caption for the image: "A dog at dusk"': "A dog at dusk",
    "Looking at the image, a kite flies above the sea.": "A kite flies above the sea.",
    "I'd be happy to describe the image for you! A plate of rice.": "A plate of rice.",
    "Sure! Here is a description of the image: The image shows a picture of a drum.": "A drum.",
    "The image shows iPhone cases.": "iPhone cases.",
}
REFUSALS = [
    "I’m sorry, I can’t assist with identifying people in images.",
    "As an AI language model, I do not have the ability to see images.",
    "I'm unable to see the image.",
    "I don't see any image attached to your message.",
    "My apologies, but the image is not visible to me.",
    "It seems like no image was attached. Please upload it again.",
    "Please provide the image that you would like me to describe.",
    "Sure! I'm sorry, but I can't describe this person.",
    "**I'm sorry**, but I can't help with that.",
    "You haven't provided an image.",
    "Unable to view the attached image.",
    "I can't help with that.",
]
LOOPS = {
    "The dog is black. The dog is black. The dog is bl": "The dog is black.",
    "A table. The cup is red. The plate is blue. The cup is red. The plate is blue. The cup": "A table. "
    "The cup is red. The plate is blue.",
    "a very very very very very very very big dog": "a very big dog",
    "A table with a cup, a plate, a cup, a plate, a cup, a plate, a cup, a pla": "A table with a cup, a plate",
    "What a goal!!!!!!!!!!!!!!!!!!": "What a goal!",
    "狗是黑色的。狗是黑色的。狗是黑色的。": "狗是黑色的。",
}
UNFINISHED = {
    "A dog runs. The grass is gre": "A dog runs.",
    "A dog runs. Behind it stands Mr. Smith. He w": "A dog runs. Behind it stands Mr. Smith.",
    "一只狗在跑。草是": "一只狗在跑。",
}
BOILERPLATE = {
    "- a dog\n- a cat\n* a tree": "A dog. A cat. A tree.",
    "It holds:\n\n- a dog;\n- a cat.": "It holds: A dog; A cat.",
    "## A dog\nIt sits on a **red** mat.": "A dog. It sits on a red mat.",
    "**Subject:** A dog\n**Setting:** A beach\n": "Subject: A dog. Setting: A beach.",
    "A *small* `red` __box__ of 5 * 3 m, f**k it": "A small red box of 5 * 3 m, f**k it",
    "###Assistant: A dog.</s>": "A dog.",
    "A dog.\nUser: what breed?\nAssistant: A pug.": "A dog.",
    "A dog on a mat. Would you like to know more?": "A dog on a mat.",
    "A dog. Thank you for sharing!": "A dog.",
    "A dog. I hope this helps! Feel free to ask if you have any questions.": "A dog.",
    "“A dog on a mat”": "A dog on a mat",
    "A&amp;amp;B &lt;3": "A&B <3",
    "A dog.<br/>A cat.": "A dog. A cat.",
}
LONG = (
    "The image captures a bustling street in a city, where people walk past shops with colourful awnings. In the "
    "foreground, a woman in a red coat holds an umbrella, while a man beside her carries two paper bags. To the left, "
    "a cyclist waits at the light. The buildings are made of brick and have tall, narrow windows. The sky is grey."
)
CAPTIONS = [  # which no step changes
    "The image shows how a glider lands.",
    "A picture of a dog hangs on the wall.",
    "In the picture frame stands a vase.",
    "The drawing shows a cat.",
    "Sure-footed goats climb a rock.",
    "The photographer shows a print.",
    "A sign says I'm sorry, I can't stay.",
    "\"I'm sorry, I can't come\" is written on a card.",
    "I'm sorry, I love you.",
    "Unfortunately, the dog is unable to reach the ball.",
    "The image is not in focus, but a dog can be made out.",
    "I can't help but notice the red roof.",
    "Unable to see the road, a dog looks out of a car.",
    "No image processing has been done to this photo of a house.",
    "A cup of tea on the left and a cup of tea on the right.",
    "The first dog is black. The second dog is black. The third dog is white.",
    "A bird on a branch of a tree in front of a house in front of a hill in front of a lake.",
    "a red circle on a white background",
    "A photo by J. Smith of St. Paul",
    "A dog runs. It barks (loudly!)",
    '"Stop" and "Go" stand on two signs.',
    "The 1. FC Köln stadium; 3) is painted on a door",
    "R&D department, AT&T logo, 5 < 6",
    "a file called my_dog_2.png",
    "A shirt that reads: Let me know when it is over, with a heart below it.",
    "Thank you card with pink flowers on a wooden table.",
    "A wooden table. Thank you card with pink flowers on it.",
    "Dusk. Thanks to the low sun, the field glows orange.",
    "If you want peace mural on a brick wall",
    "The lobby of a 3* hotel",
    "Un chien « noir » court ; il fait beau !",
    "青い空の下で犬が走っています。とても楽しそうです。",
    "كلب يركض على الشاطئ. السماء زرقاء.",
    "कुत्ता समुद्र तट पर दौड़ रहा है। आकाश नीला है।",
    "Grinning face 😀 and family 👨‍👩‍👧",
]
CORPUS = [
    *(OPENINGS | LOOPS | UNFINISHED | BOILERPLATE),
    *(CAPTIONS + REFUSALS),
    *(LONG, LONG[:-30], LONG.replace(". ", ".\n\n"), "Sure!\n\n**Description:**\n\n" + LONG + "\n\nAnything else?"),
    *("", "   ", "...", "\u200b", "?", "**", "###", '""', "Sure!", "Description:", "\ud83d", "🐕"),
]


STEPS_ALONE = {"openings": OPENINGS, "repetitions": LOOPS, "unfinished": UNFINISHED, "boilerplate": BOILERPLATE}
STEPS_ALONE["refusals"] = dict.fromkeys(REFUSALS)


@pytest.mark.parametrize("step", STEPS_ALONE)
def test_what_goes_goes_and_is_counted(step):
    for text, caption in STEPS_ALONE[step].items():
        cleaned = clean(text, "stop" if step == "refusals" else None)
        assert (cleaned.caption, cleaned.status) == (caption, "ok" if caption else "refused"), text
        assert step in cleaned.applied, text


@pytest.mark.parametrize("finish_reason", [None, "stop"])
def test_what_is_a_caption_stays_as_it_is(finish_reason):
    for text in CAPTIONS:
        assert clean(text, finish_reason).caption == text


def test_cleaning_twice_changes_nothing_more():
    """Of answers, and of pieces of them put together: openings, quotes, lists and loops in any order."""
    rng = random.Random(0)
    pieces = [rng.choice([" ", "\n", "\n\n"]).join(rng.sample(CORPUS, rng.randint(2, 4))) for _ in range(500)]
    for text in CORPUS + [piece[: rng.randint(10, 400)] for piece in pieces]:
        for reason in (None, "stop", "length"):
            once = clean(text, reason).caption
            assert once is None or clean(once, reason) == Cleaned(once, "ok"), text


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
