"""Load aligned models from folders or the Hub, and the text encoder that embedded their captions."""

import json
import logging
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, BaseImageProcessor
from transformers.utils import cached_file

from ..embedding.encoders import TextEncoder, load_encoder
from ..modeling import AlignedImageClassification, AlignedImageClassificationConfig
from ..modeling.processing import student_processor
from ..names import WITH_VIEWS, bare_name, is_bare, is_path, run_of
from ..options import aligns
from ..training.run_folder import read_lineage, read_options

TEXT_ENCODER_FILE = "text_encoder.json"
ALIGNED = "aligned"

logger = logging.getLogger(__name__)


@dataclass
class TextSide:
    """The encoder that embedded the captions of a model."""

    text_encoder: str | None = None  # Hub id, or folder; None if unknown
    text_encoder_revision: str | None = None
    text_encoder_prompt: str | None = None  # text before every caption; None: the default of the encoder
    text_encoder_digest: str | None = None  # of its files, for a folder or an encoder from an installed package
    text_encoder_is_folder: bool = False  # then a bare name is invalid, or names another encoder
    temperature: float | None = None  # of the alignment, if it is not learned

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "TextSide":
        encoder = cls(**{field.name: record[field.name] for field in fields(cls) if field.name in record})
        if record.get("text_embed_dim") and encoder.text_encoder_prompt is None:
            encoder.text_encoder_prompt = ""  # in the stage of embeddings, null means no prompt
        if encoder.text_encoder_digest and is_bare(encoder.text_encoder):
            encoder.text_encoder_is_folder = True
        return encoder

    @classmethod
    def of_run(cls, run: Path) -> "TextSide":
        """By the lineage of a run, else by its options, in which a local path is relative to the run."""
        options, known = read_options(run), read_lineage(run).get("text_encoder")
        encoder = cls.from_record(known or options)
        encoder.temperature = options.get("align_temperature")
        place = (run / (options.get("text_encoder") or "")).resolve()
        if str(options.get("text_encoder")).startswith(".") and (known is None or known["text_encoder"] == place.name):
            encoder.text_encoder, encoder.text_encoder_is_folder = str(place) if place.is_dir() else place.name, True
        return encoder

    def published(self) -> dict[str, Any]:
        """The record in a release, without the place of a folder."""
        name = bare_name(self.text_encoder)
        is_folder = self.text_encoder_is_folder or name != self.text_encoder
        return asdict(replace(self, text_encoder=name, text_encoder_is_folder=is_folder))

    def moved(self, place: Any) -> "TextSide":
        """The same encoder with another name, or as an object: prompt and digest stay."""
        if isinstance(place, (str, Path)):
            place = str(Path(place).resolve() if Path(place).is_dir() else place)
        return replace(self, text_encoder=place, text_encoder_revision=None)


def open_aligned(
    name: str, subfolder: str | None = None, revision: str | None = None, token: str | bool | None = None
) -> tuple[AlignedImageClassification, BaseImageProcessor, TextSide]:
    """The model, its image processor and the record of its text encoder, as [`~g4i_hf.ZeroShotImageClassifier`]."""
    if (is_path(name) or name.count("/") > 1) and not Path(name).is_dir():
        raise FileNotFoundError(f"No such folder: {name}. Name a run, a released student, or its Hub id.")
    place = {"revision": revision, "token": token}
    tried = [subfolder] if subfolder is not None else ["", ALIGNED, WITH_VIEWS]
    kind = AlignedImageClassificationConfig.model_type
    configs = {folder: _read(name, "config.json", folder, place) or {} for folder in tried}
    inner = next((folder for folder, config in configs.items() if config.get("model_type") == kind), None)
    if inner is None:
        where = " and ".join(f"{name}/{folder}".rstrip("/") for folder in tried)
        raise ValueError(
            f"{name} holds no aligned model (looked in {where}): a plain student has no text side. Name a run, or a "
            "student that was released with --aligned true."
        )
    folder = Path(name) / inner
    if aligns(read_options(run_of(folder))) is False:
        raise ValueError(
            f"{folder} is a baseline (align_weight 0), whose text scores would be random. Name a run with "
            "align_weight above 0, or its released student."
        )
    # transformers reads config.json of timm at the top of a local folder, for any subfolder (5.24)
    inside, at = (str(folder), {}) if folder.is_dir() else (name, {"subfolder": inner, **place})
    model = AlignedImageClassification.from_pretrained(inside, trust_remote_code=False, **at).eval()
    saved = AutoImageProcessor.from_pretrained(inside, trust_remote_code=False, **at)
    record = _read(name, TEXT_ENCODER_FILE, inner, place)
    side = TextSide.of_run(run_of(folder)) if record is None else TextSide.from_record(record)
    return model, student_processor(model.config.student_config, saved), side


def _read(name: str, file: str, folder: str, place: dict[str, Any]) -> dict[str, Any] | None:
    """A JSON file of a folder or of the Hub; None if the repository exists and the file does not."""
    path = cached_file(name, file, subfolder=folder, _raise_exceptions_for_missing_entries=False, **place)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path is not None else None


def open_encoder(side: TextSide, device: str | torch.device) -> tuple[TextEncoder, str]:
    """
    The encoder, and its name for errors; `side.text_encoder` may be a loaded encoder. Raises OSError if it cannot be
    loaded; ValueError if it is unknown, only the name of a folder is known, or a folder holds another encoder.
    """
    encoder = side.text_encoder
    if encoder is None:
        raise ValueError("The model does not say which text encoder its captions had. Name it as text_encoder.")
    if not isinstance(encoder, str):
        name = type(encoder).__name__
        _check_files(side, encoder.provenance, name)
        return encoder, name
    if side.text_encoder_is_folder and is_bare(encoder):
        raise ValueError(
            f"The captions of the model were embedded with a text encoder in a local folder, {encoder!r}. An encoder "
            "of that name on the Hub would be another one: give the place of the folder as text_encoder."
        )
    loaded = load_encoder(encoder, side.text_encoder_revision, device, prompt=side.text_encoder_prompt)
    _check_files(side, loaded.provenance, encoder)
    return loaded, encoder


def _check_files(side: TextSide, provenance: dict[str, Any], name: str) -> None:
    """Raise ValueError if the captions were embedded by an encoder in a folder, and this one has other files."""
    if not side.text_encoder_is_folder or side.text_encoder_digest is None:
        return
    current = TextSide.from_record(provenance)
    if not current.text_encoder_is_folder:
        message = "The captions were embedded with a text encoder in a folder. Whether %s is the same cannot be seen."
        logger.warning(message, name)
    elif current.text_encoder_digest != side.text_encoder_digest:
        raise ValueError(
            f"{name} is not the text encoder that the captions of the model were embedded with: its files are others "
            f"({current.text_encoder_digest}, not {side.text_encoder_digest}). Give the folder of that one."
        )
