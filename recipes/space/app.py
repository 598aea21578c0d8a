"""
A Gradio app for a released student: its classes for an image, and classes that a visitor names.

    MODEL=runs/pictures/student python recipes/space/app.py
"""

import os
from functools import cache
from typing import Any

from PIL import Image
from transformers import Pipeline, pipeline

from g4i_hf import ZeroShotImageClassifier

MODEL = os.environ.get("MODEL", "me/pictures-student")  # Hub id or folder of a released student with `aligned/`
TOP = 5  # classes shown
MAX_NAMES, MAX_LENGTH = 200, 200
MAX_BYTES = 10_000_000  # of an uploaded file
Image.MAX_IMAGE_PIXELS = 20_000_000  # Pillow warns above this, and raises above twice as many


@cache
def load() -> tuple[ZeroShotImageClassifier, Pipeline]:
    """The aligned model with its text encoder, and the same model with its own classes."""
    by_name = ZeroShotImageClassifier(MODEL)
    by_head = pipeline(
        "image-classification",
        model=by_name.model,
        image_processor=by_name.image_processor,
        device=by_name.device,
        trust_remote_code=False,
    )
    return by_name, by_head


def predict(image: Image.Image | None, names: str | None = "") -> tuple[dict[str, float], dict[str, float] | None]:
    """
    Probabilities of the student's classes, and scores of the classes named, one a line; None without names. ValueError
    without an image, and for too many or too long names.
    """
    if image is None:
        raise ValueError("Upload an image first.")
    wanted = list(dict.fromkeys(line.strip() for line in (names or "").splitlines() if line.strip()))
    if len(wanted) > MAX_NAMES or max(map(len, wanted), default=0) > MAX_LENGTH:
        raise ValueError(f"Give at most {MAX_NAMES} names of at most {MAX_LENGTH} characters.")
    by_name, by_head = load()
    image = image.convert("RGB")
    classes = {each["label"]: each["score"] for each in by_head(image, top_k=TOP)}
    return classes, {each["label"]: each["score"] for each in by_name(image, wanted)} if wanted else None


def build() -> Any:
    """The page. Gradio runs one prediction at a time by default, which the model needs."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read on import
    import gradio as gr

    return gr.Interface(
        predict,
        [
            gr.Image(type="pil", sources=["upload", "clipboard"], label="Image"),
            gr.Textbox(lines=6, label="Names of other classes, one a line (optional)"),
        ],
        [gr.Label(label="Classes", num_top_classes=TOP), gr.Label(label="Zero-shot", num_top_classes=TOP)],
        title=MODEL.rstrip("/").split("/")[-1],
        flagging_mode="never",
        delete_cache=(3600, 3600),  # seconds: uploaded images are deleted after an hour or two
    )


if __name__ == "__main__":
    load()
    build().launch(max_file_size=MAX_BYTES, show_error=True)
