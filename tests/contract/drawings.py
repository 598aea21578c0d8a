"""Small images with captions, drawn by the tests themselves: filled shapes of 32 x 32 pixels."""

import json
from pathlib import Path

from PIL import Image, ImageDraw

CLASSES = ("circle", "cross", "square")
COLOURS = ("red", "green", "blue", "orange", "purple")


def drawing(number: int) -> Image.Image:
    """The shape is the class of `number % 3`; colour, size and place differ."""
    image = Image.new("RGB", (32, 32), (235, 235, 225 - number))
    draw, colour = ImageDraw.Draw(image), COLOURS[number % 5]
    side, left, top = 14 + number % 4 * 2, 2 + number % 7, 2 + number % 6
    right, low = left + side, top + side
    if number % 3 == 0:
        draw.ellipse((left, top, right, low), fill=colour)
    elif number % 3 == 1:
        draw.line((left, top, right, low), fill=colour, width=4)
        draw.line((left, low, right, top), fill=colour, width=4)
    else:
        draw.rectangle((left, top, right, low), fill=colour)
    return image


def caption(number: int) -> str:
    return f"a {COLOURS[number % 5]} {CLASSES[number % 3]} on paper, number {number}"


def draw_folder(folder: Path, captions: bool = True, labels_a_class: int | None = None, **sizes: int) -> Path:
    """
    An image folder: a folder for each split, in it one for each class; captions in a metadata.jsonl a split. With
    `labels_a_class`, all training images but so many of each class are in `unlabelled`.
    """
    number = 0
    for split, size in sizes.items():
        lines = []
        for row in range(size):
            is_unlabelled = split == "train" and labels_a_class is not None and row // 3 >= labels_a_class
            file = Path("unlabelled" if is_unlabelled else CLASSES[number % 3]) / f"{number}.png"
            (folder / split / file).parent.mkdir(parents=True, exist_ok=True)
            drawing(number).save(folder / split / file)
            lines.append(json.dumps({"file_name": file.as_posix(), "caption": caption(number)}))
            number += 1
        if captions:
            (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


# A student and a training as small as they can be; an encoder that is installed with the tests
STUDENT = {
    "student": "resnet18",
    "student_args": '{"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}',
    "image_size": 32,
}
TRAINING = {
    "max_steps": 2,
    "per_device_train_batch_size": 6,
    "save_strategy": "no",
    "use_cpu": "true",
    "disable_tqdm": "true",
}
ENCODER = {"text_encoder": "sentence-transformers/all-MiniLM-L6-v2"}
