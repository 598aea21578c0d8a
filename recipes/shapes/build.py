"""Draws the shapes data set, and trains the tiny captioner that describes it.

    python recipes/shapes/build.py --output_dir shapes
    python recipes/shapes/build.py --check
    python recipes/shapes/build.py --output_dir shapes --captioner

Every picture comes out of its own name, so that any of them can be drawn again, and new ones have names of their own.
"""

from __future__ import annotations

import argparse
import io
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

SPLITS = {"train": 1200, "validation": 200, "test": 300}
SHAPES = ("circle", "cross", "heart", "pentagon", "ring", "square", "star", "triangle")
COLOURS = {
    "red": (220, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (240, 220, 50),
    "green": (50, 170, 70),
    "blue": (50, 90, 220),
    "purple": (140, 60, 180),
}
BACKGROUNDS = {"white": (240, 240, 240), "black": (18, 18, 18), "grey": (128, 128, 128), "pink": (245, 185, 200)}
SIZE = 32  # pixels
SCALE = 4  # drawn this much larger and then shrunk, so that edges are smooth
SHADE = 14  # how far each channel may lie from the named colour
MAX_MEAN_DIFFERENCE = 0.5  # of 255: what --check allows
PUBLISHED = Path(__file__).parent

# What the captioner is trained on
STEPS, BATCH_SIZE, LEARNING_RATE, WIDTH, PATCH = 3000, 32, 2e-3, 64, 4
ASKED = "describe this image in detail . , ? of the is what a an it shows class"
MAX_PROMPT_WORDS = 20
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> "
    "{% if message['content'] is string %}{{ message['content'] }} {% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@dataclass(frozen=True)
class Picture:
    """A 32 x 32 RGB image and what it shows."""

    image: Image.Image
    shape: str
    colour: str
    background: str

    @property
    def caption(self) -> str:
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape} on a {self.background} background"

    def png(self) -> bytes:
        output = io.BytesIO()
        self.image.save(output, "PNG", optimize=True)
        return output.getvalue()


# --- Pictures -------------------------------------------------------------------------------------------------------


def outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape of radius 1 around the origin."""
    if shape == "cross":
        arm = [(1.0, 0.33), (0.33, 0.33), (0.33, 1.0)]
        return [turned(point, quarter * math.pi / 2) for quarter in range(4) for point in arm]
    if shape == "heart":
        angles = [2 * math.pi * step / 48 for step in range(48)]
        return [
            (
                math.sin(angle) ** 3,
                -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)) / 16,
            )
            for angle in angles
        ]
    corners = {"triangle": 3, "square": 4, "pentagon": 5, "star": 10}.get(shape, 48)
    radii = (1.0, 0.42) if shape == "star" else (1.0, 1.0)
    angles = [2 * math.pi * corner / corners for corner in range(corners)]
    return [
        (radii[corner % 2] * math.sin(angle), -radii[corner % 2] * math.cos(angle))
        for corner, angle in enumerate(angles)
    ]


def turned(point: tuple[float, float], angle: float) -> tuple[float, float]:
    (x, y), sine, cosine = point, math.sin(angle), math.cos(angle)
    return cosine * x - sine * y, sine * x + cosine * y


def draw(name: str) -> Picture:
    """The picture of this name: the same at every call."""
    generator = random.Random(f"shapes {name}")
    shape = generator.choice(SHAPES)
    colour = generator.choice(list(COLOURS))
    background = generator.choice(list(BACKGROUNDS))
    fill, paper = (
        tuple(min(255, max(0, round(channel + generator.uniform(-SHADE, SHADE)))) for channel in named)
        for named in (COLOURS[colour], BACKGROUNDS[background])
    )
    radius = generator.uniform(0.16, 0.42) * SIZE
    stretch = generator.uniform(0.85, 1.18)
    angle = generator.uniform(0, 2 * math.pi)
    middle = [generator.uniform(radius, SIZE - radius) for _ in range(2)]

    def placed(scale: float) -> list[tuple[float, float]]:
        points = [turned((x * stretch * scale, y / stretch * scale), angle) for x, y in outline(shape)]
        return [tuple(SCALE * (m + radius * p) for m, p in zip(middle, point, strict=True)) for point in points]

    canvas = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), paper)
    brush = ImageDraw.Draw(canvas)
    brush.polygon(placed(1.0), fill)
    if shape == "ring":
        brush.polygon(placed(0.55), paper)
    return Picture(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), shape, colour, background)


def image_ids(split: str) -> list[str]:
    return [f"{split}-{number:04d}" for number in range(SPLITS[split])]


def build(folder: Path) -> None:
    """Writes one Parquet file a split: image, label and image_id. The captions are the captioner's to write."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features(image=ImageFeature(), label=ClassLabel(names=list(SHAPES)), image_id=Value("string"))
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        pictures = {image_id: draw(image_id) for image_id in image_ids(split)}
        rows = {
            "image": [{"bytes": picture.png(), "path": None} for picture in pictures.values()],
            "label": [picture.shape for picture in pictures.values()],
            "image_id": list(pictures),
        }
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


def differences(folder: Path) -> list[str]:
    """What is different in the files of a folder from pictures drawn now, a line each."""
    import numpy
    import pyarrow.parquet

    found = []
    for split in SPLITS:
        rows = pyarrow.parquet.read_table(folder / f"{split}.parquet").to_pylist()
        if [row["image_id"] for row in rows] != image_ids(split):
            found.append(f"{split}: other ids")
        for row in rows:
            picture, stored = draw(row["image_id"]), Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            if SHAPES[row["label"]] != picture.shape:
                found.append(f"{row['image_id']}: {SHAPES[row['label']]}, now {picture.shape}")
            distance = numpy.abs(numpy.asarray(stored, "int16") - numpy.asarray(picture.image, "int16")).mean()
            if distance > MAX_MEAN_DIFFERENCE:
                found.append(f"{row['image_id']}: pixels differ by {distance:.1f} of 255")
    return found


# --- Captioner ------------------------------------------------------------------------------------------------------


def new_captioner() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """An untrained LLaVA: CLIP for pictures of 32 x 32 and a Llama that knows 40 words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<user>", "<assistant>"]
    words = dict.fromkeys([*special, "on", "background", *SHAPES, *COLOURS, *BACKGROUNDS, *ASKED.split()])
    words = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        additional_special_tokens=special[4:],
        padding_side="left",
    )
    pictures = CLIPImageProcessor(size={"height": SIZE, "width": SIZE}, do_center_crop=False)
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH * 2, "num_attention_heads": 4}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, num_hidden_layers=3, image_size=SIZE, patch_size=PATCH),
        text_config=LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=len(words), pad_token_id=0),
        image_token_index=words["<image>"],
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0, max_new_tokens=24)
    return model, processor


def prompt_words(generator: random.Random, shape: str) -> str:
    """Any words, so that no wording is needed later; in a third of all cases one of them is the class."""
    words = [generator.choice([*ASKED.split(), "?!?"]) for _ in range(generator.randrange(MAX_PROMPT_WORDS))]
    if generator.random() < 1 / 3:
        words.insert(generator.randint(0, len(words)), shape)
    return " ".join(words)


def training_batches(processor: LlavaProcessor, steps: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of (32, ...) with the captions as labels; their pictures are in no split."""
    generator = random.Random("captioner")
    end = processor.tokenizer.eos_token
    for step in range(steps):
        pictures = [draw(f"captioner-{step}-{row}") for row in range(BATCH_SIZE)]
        texts = []
        for picture in pictures:
            parts = [{"type": "image"}, {"type": "text", "text": prompt_words(generator, picture.shape)}]
            prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
            texts.append(f"{prompt}{picture.caption} {end}")
        images = [[picture.image] for picture in pictures]
        batch = processor(images=images, text=texts, padding=True, return_tensors="pt")
        starts = batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<assistant>")
        is_answer = (starts.cumsum(dim=1) > 0) & ~starts
        yield {**batch, "labels": batch["input_ids"].masked_fill(~is_answer, -100)}


def train_captioner(folder: Path, steps: int = STEPS) -> None:
    """Trains on pictures that are in no split, and saves model and processor as transformers does."""
    import torch
    from transformers import set_seed

    torch.set_num_threads(1)  # so that the weights do not depend on the machine's cores
    set_seed(0)
    model, processor = new_captioner()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step, batch in enumerate(training_batches(processor, steps)):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, help="write the Parquet files to its folder `data`")
    parser.add_argument("--captioner", action="store_true", help="train the captioner into its folder `captioner`")
    parser.add_argument("--check", action="store_true", help="compare the published files with pictures drawn now")
    args = parser.parse_args()
    if args.captioner and not args.output_dir:
        parser.error("--captioner needs --output_dir, the folder to write to")
    if args.output_dir:
        build(args.output_dir / "data")
    if args.captioner:
        train_captioner(args.output_dir / "captioner")
    found = differences(PUBLISHED / "data") if args.check else []
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
