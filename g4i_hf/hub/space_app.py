"""
What an aligned student sees in a picture, and why: its classes, the nearest captions, classes that a visitor names.

    python app.py

The folder of this file holds all that it shows. It is written by `g4i_hf.hub.space`.
"""

import json
import os
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from transformers import pipeline

from g4i_hf.data.images import to_rgb
from g4i_hf.zero_shot import ZeroShotImageClassifier

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MOST_BYTES, MOST_PIXELS = 10_000_000, 40_000_000
MOST_NAMES, LONGEST_NAME = 200, 200
SHOWN = 5  # classes, and captions
KEPT_SECONDS = 3600  # of uploaded pictures
CSS = "#picture .image-frame img { width: 100%; height: 100%; object-fit: contain; }"  # small pictures too
INTRODUCTION = (
    "An image classifier that was trained with captions. Beside its classes, it finds the captions that are nearest "
    "to a picture, and it knows classes by their names alone."
)


class VisitorError(ValueError):
    """What a visitor can mend; the message says how."""


class Explainer:
    """The model of a Space, its captions and its settings: all of one folder."""

    def __init__(self, folder: str | Path, **classifier_args):
        self.folder = Path(folder)
        self.settings: dict[str, Any] = json.loads((self.folder / "space.json").read_text(encoding="utf-8"))
        self.classifier = ZeroShotImageClassifier(self.folder / "model", **classifier_args)
        self.by_head = pipeline(
            "image-classification",
            model=self.classifier.model,
            image_processor=self.classifier.image_processor,
            device=self.classifier.device,
        )
        table = pq.read_table(self.folder / "captions.parquet")
        self.captions: list[str] = table["caption"].to_pylist()
        vectors = table["text_embeds"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self.text_embeds = vectors.reshape(len(self.captions), -1).astype(np.float32)
        # gradio answers visitors in several threads, and the model keeps what enters its classifier for a moment
        self._model_in_use = Lock()

    def look(self, picture: str | None) -> tuple[dict[str, float], list[list[Any]]]:
        """Probabilities of the classes, and rows of cosine and caption, the nearest first; raises VisitorError."""
        image = read_picture(picture)
        with self._model_in_use:
            classes = {each["label"]: each["score"] for each in self.by_head(image, top_k=SHOWN)}
            found = self.classifier.nearest(image, self.captions, text_embeds=self.text_embeds, top_k=SHOWN)
        return classes, [[f"{each['score']:.2f}", each["caption"]] for each in found]

    def by_names(self, picture: str | None, text: str | None) -> dict[str, float]:
        """Scores of the classes that a visitor names, one a line; raises VisitorError."""
        image, names = read_picture(picture), read_names(text)
        if self.why_no_names:
            raise VisitorError("The text encoder could not be loaded, so that names mean nothing at present.")
        with self._model_in_use:
            return {each["label"]: each["score"] for each in self.classifier(image, names)}

    @cached_property
    def why_no_names(self) -> str:
        """What keeps the text encoder from being loaded, for the log; empty when it is there."""
        try:
            _ = self.classifier.text_encoder
            return ""
        except (OSError, ValueError) as error:
            return str(error)


def read_picture(path: str | None) -> Image.Image:
    """VisitorError for what is no picture, or is too large."""
    if not path:
        raise VisitorError("There is no picture yet: drop one on the left, or choose one of those below it.")
    if os.path.getsize(path) > MOST_BYTES:
        raise VisitorError(f"The picture is too large: {MOST_BYTES // 1_000_000} MB at most.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            image = Image.open(path, formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise VisitorError(f"The picture is too large: {MOST_PIXELS // 1_000_000} megapixels at most.") from error
    except Exception as error:  # whatever a broken file makes of Pillow
        raise VisitorError(f"This file cannot be read as a picture: use {', '.join(FORMATS)}.") from error


def read_names(text: str | None) -> list[str]:
    """VisitorError for none, too many, or too long ones."""
    names = list(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))
    if not names:
        raise VisitorError("There are no names yet: write some, one a line.")
    if len(names) > MOST_NAMES:
        raise VisitorError(f"These are {len(names)} names: {MOST_NAMES} at most.")
    if max(map(len, names)) > LONGEST_NAME:
        raise VisitorError(f"A name is too long: {LONGEST_NAME} characters at most.")
    return names


def on_picture(explainer: Explainer, path: str | None, names: str | None) -> tuple[Any, Any, Any]:
    """Another picture: classes, captions and, with names in the box, the scores of these."""
    if path is None:
        return None, None, None
    classes, captions = _told(explainer.look, path)
    named = None
    if (names or "").strip() and not explainer.why_no_names:
        try:
            named = explainer.by_names(path, names)
        except VisitorError as error:  # the rest is shown all the same
            _gradio().Warning(str(error))
    return classes, captions, named


def build_demo(explainer: Explainer) -> Any:
    """The page. ImportError without gradio."""
    gr = _gradio()
    settings = explainer.settings
    with gr.Blocks(title=settings["title"], analytics_enabled=False, delete_cache=(KEPT_SECONDS,) * 2) as demo:
        gr.Markdown(f"# {settings['title']}\n\n{INTRODUCTION}")
        with gr.Row():
            with gr.Column():
                picture = _picture(explainer)
            with gr.Column():
                classes = gr.Label(label="What it is", elem_id="classes", num_top_classes=SHOWN)
                captions = gr.Dataframe(
                    headers=["cosine", "caption"],
                    label="Why: the nearest captions that it was trained with",
                    elem_id="captions",
                    column_widths=["18%", "82%"],
                    interactive=False,
                    wrap=True,
                    buttons=[],
                )
        gr.Markdown("## Classes of your own\n\nAny names, also of classes that it was never trained on.")
        with gr.Row():
            with gr.Column():
                names = gr.Textbox(
                    value="\n".join(settings["names"]),
                    label="Names, one a line",
                    lines=6,
                    max_lines=12,
                    max_length=MOST_NAMES * LONGEST_NAME,
                    elem_id="names",
                )
                button = gr.Button("Classify by these names", variant="primary", elem_id="classify")
            named = gr.Label(label="By name", elem_id="named", num_top_classes=10)
        outputs = [classes, captions, named]
        look, by_names = partial(on_picture, explainer), partial(_told, explainer.by_names)
        picture.change(look, [picture, names], outputs, api_name="look", show_progress="minimal")
        button.click(by_names, [picture, names], named, api_name="by_names", show_progress="minimal")
        demo.load(look, [picture, names], outputs, api_name=False)
    return demo


def _picture(explainer: Explainer) -> Any:
    """The place for a picture, with the gallery below; the first one of it is there at the start."""
    gr, settings = _gradio(), explainer.settings
    # The file as it was sent: gradio would decode any size and kind, and not say what is wrong. Of the class, as
    # sessions have copies of the component
    gr.Image.preprocess = lambda component, payload: payload.path if payload is not None else None
    examples = [[str(explainer.folder / "gallery" / each["file"])] for each in settings["gallery"]]
    picture = gr.Image(
        value=examples[0][0] if examples else None,
        label="Picture",
        type="filepath",
        sources=["upload", "clipboard"],
        height=320,
        elem_id="picture",
        buttons=[],
    )
    if examples:
        label = f"Pictures that it was {'not ' if settings['gallery_is_new'] else ''}trained on"
        gr.Examples(examples, [picture], label=label, examples_per_page=len(examples))
    return picture


def _told(function: Callable, *values: Any) -> Any:
    """What a visitor can mend becomes a message in the page."""
    try:
        return function(*values)
    except VisitorError as error:
        raise _gradio().Error(str(error), title="Please", print_exception=False) from error


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The app needs gradio: pip install -r requirements.txt, which lies beside it.") from error
    return gradio


def main() -> None:
    _gradio()  # before anything that takes longer to load
    explainer = Explainer(Path(__file__).parent)
    if explainer.why_no_names:
        print(f"Without classification by names: {explainer.why_no_names}", flush=True)
    # gradio listens on 127.0.0.1 unless GRADIO_SERVER_NAME says otherwise, as it does in a Space
    build_demo(explainer).queue(max_size=64).launch(
        share=False,
        ssr_mode=False,
        max_file_size=MOST_BYTES,
        footer_links=["settings"],
        css=CSS,
        enable_monitoring=False,
    )


if __name__ == "__main__":
    main()
