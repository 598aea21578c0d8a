"""A trained run -> its student as a plain checkpoint that needs nothing of ours, and the aligned model beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel, TimmWrapperConfig

from ..evaluation.predict import load_run
from ..files import replacing
from ..modeling import AlignedImageClassification, AlignedImageClassificationConfig
from ..modeling.processing import ImageSettings, saved_processor
from ..modeling.student import PRETRAINED_CFG_KEYS
from ..options import LORA, aligns
from ..training.lineage import ENCODER_FACTS, read_lineage
from ..training.run_folder import OPTIONS_FILE, read_options
from ..zero_shot.checkpoint import ALIGNED, TEXT_ENCODER_FILE
from .manifest import MANIFEST, read_manifest, write_manifest
from .onnx_export import export_onnx
from .origin import bare_name

# Of a student's image processor and architecture. The rest of pretrained_cfg, such as `file`, is about other weights
PUBLIC_PRETRAINED_CFG = (
    *PRETRAINED_CFG_KEYS,
    *("test_input_size", "test_crop_pct", "min_input_size", "fixed_input_size", "pool_size"),
    *("first_conv", "classifier"),
)
ONNX_FILE = "onnx/model.onnx"
CONFIGS = ("config.json", "adapter_config.json")  # a released student has one of them


def release_student(
    run: str | Path,
    output_dir: str | Path | None = None,
    weights: str = "raw",
    *,
    aligned: bool = True,
    onnx: bool = False,
    lora: str = "merged",
    add: Callable[[Path], None] | None = None,
) -> Path:
    """
    Writes the student of a run: `AutoModelForImageClassification.from_pretrained` and, for a timm student,
    `timm.create_model("local-dir:...")` load it with exactly the run's weights. The folder is written beside its place
    and renamed; whatever fails before that leaves an earlier release as it was.

    Args:
        run: run folder, or one of its checkpoints.
        output_dir: where the student goes; `<run>/student` by default. An earlier release there is replaced, known by
            its manifest, and nothing else.
        weights: `"raw"`, or `"ema"` for their moving average.
        aligned: add the aligned model of the same weights in `aligned/`, with a generic image processor and what is
            known of the text encoder. Left out for a run without alignment, whose projector has learned nothing.
        onnx: add `onnx/model.onnx`, see [`~g4i_hf.hub.onnx_export.export_onnx`].
        lora: of a run with adapters: `"merged"` into the weights, or the `"adapter"` alone, without `aligned/`.
        add: called with the folder while it is still beside its place, to write what else belongs to the release.

    Returns:
        The student's folder.

    Raises:
        FileNotFoundError: when the folder holds no trained model, or no average.
        ValueError: when `output_dir` holds the run, or something else than an earlier release of a student; when an
            adapter is wanted of a run that has none; when the student cannot be exported.
    """
    run = Path(run)
    output_dir = Path(output_dir) if output_dir else run / "student"
    _check_place(output_dir, run)
    if lora not in LORA:
        raise ValueError(f"lora is {lora!r}; choose one of {', '.join(LORA)}.")
    model, processor = load_run(run, weights)
    _forget_origin(model)
    if lora == "adapter" and not _has_adapters(model):
        raise ValueError(f"{run} was trained without use_peft and has no adapter: leave --lora out.")
    with replacing(output_dir) as folder:
        _write_plain(model, run, folder, lora)
        if aligned and lora != "adapter" and is_aligned(run):
            save_aligned(model, run, folder / ALIGNED)
        if add is not None:
            add(folder)
        if onnx:  # last, as it takes longest
            export_onnx(plain_student(model), folder / ONNX_FILE, ImageSettings.from_processor(processor).size)
        write_manifest(folder)
    return output_dir


def _check_place(folder: Path, run: Path) -> None:
    """Before anything is loaded: whatever lies in that place goes away in the end."""
    place, taken = folder.resolve(), run.resolve()
    if place == taken or place in taken.parents:
        raise ValueError(
            f"{folder} is or holds the run itself, which a release there would delete. Choose another --student_dir, "
            f"or leave it out: then the student goes to {run / 'student'}."
        )
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (any((folder / name).is_file() for name in CONFIGS) and read_manifest(folder) is not None):
        raise ValueError(
            f"{folder} holds something else than a student that was released: only what has a {MANIFEST} of a release "
            "is replaced. Choose another --student_dir, or remove that folder if nobody needs it."
        )


def _write_plain(model: AlignedImageClassification, run: Path, folder: Path, lora: str) -> None:
    """What transformers, timm or peft load: student or adapter, and where they need one an image processor."""
    if lora == "adapter":
        from ..modeling.lora import save_adapter

        save_adapter(model, folder)
    else:
        save_student(model, folder)
    if lora == "adapter" or not isinstance(model.config.student_config, TimmWrapperConfig):
        saved_processor(run, model.config.student_config).save_pretrained(folder)


def save_student(model: AlignedImageClassification, folder: str | Path) -> None:
    """The student's weights and configuration, without projector, adapters and image processor."""
    student = plain_student(model)
    if not isinstance(model.config.student_config, TimmWrapperConfig):
        student.save_pretrained(folder)
        return
    # transformers' wrapper would prefix every key, which timm cannot read. Bare keys and this config.json suit both.
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in student.timm_model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(timm_config(model), indent=2, ensure_ascii=False) + "\n")


def save_aligned(model: AlignedImageClassification, run: Path, folder: Path) -> None:
    """Student and projector, adapters merged, with what it takes to use them with texts."""
    if _has_adapters(model):
        fields = {**model.config.to_dict(), "lora": None}
        merged = AlignedImageClassification(AlignedImageClassificationConfig(**fields), plain_student(model))
        own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("student.")}
        merged.load_state_dict(own, strict=False)
        model = merged.eval()
    model.save_pretrained(folder)
    saved_processor(run, model.config.student_config).save_pretrained(folder)
    known = text_encoder_of(run)
    if known is not None:
        (folder / TEXT_ENCODER_FILE).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")


def plain_student(model: AlignedImageClassification) -> PreTrainedModel:
    """The student without adapters: exactly what transformers or timm would make of its configuration."""
    if not _has_adapters(model):
        return model.student
    from ..modeling.lora import merged_student

    return merged_student(model)


def is_aligned(run: str | Path) -> bool:
    """Whether the projector of a run has learned anything; taken for granted of a folder without options."""
    return aligns(options_of(run)) is not False


def options_of(run: str | Path) -> dict[str, Any]:
    """Of a run or of one of its checkpoints; empty for a folder that is neither."""
    place = run_of(run)
    return read_options(place) if (place / OPTIONS_FILE).is_file() else {}


def run_of(folder: str | Path) -> Path:
    """The run that a checkpoint belongs to, or the run itself."""
    folder = Path(folder)
    inside = folder.name.startswith("checkpoint-") and not (folder / OPTIONS_FILE).is_file()
    return folder.parent if inside else folder


def text_encoder_of(run: str | Path) -> dict[str, Any] | None:
    """
    What the captions of a run were embedded with, and the temperature of the alignment; None where the encoder is not
    known. A local encoder goes by the bare name of its folder.
    """
    options, known = options_of(run), read_lineage(run_of(run)).get("text_encoder")
    known = known or (options if options.get("text_encoder") else None)
    if known is None:
        return None
    name = bare_name(known["text_encoder"])
    facts = {fact: known.get(fact) for fact in ENCODER_FACTS} | {"text_encoder": name}
    if name != known["text_encoder"]:  # of a path, which readers must not take for a name on the Hub
        facts["text_encoder_is_folder"] = True
    return facts | ({"temperature": options["align_temperature"]} if options.get("align_temperature") else {})


def timm_config(model: AlignedImageClassification) -> dict[str, Any]:
    """config.json of a timm student: the trained size and normalisation in `pretrained_cfg`, the classes beside it."""
    config = model.config.student_config
    pretrained_cfg = getattr(config, "pretrained_cfg", None) or {}
    layout: dict[str, Any] = {
        "architecture": config.architecture,
        "num_classes": config.num_labels,
        "label_names": [config.id2label[i] for i in range(config.num_labels)],
        "pretrained_cfg": {name: value for name, value in pretrained_cfg.items() if name != "num_classes"},
    }
    if config.model_args:
        layout["model_args"] = config.model_args
    return layout


def _forget_origin(model: AlignedImageClassification) -> None:
    """The folder that the student was loaded from, and what timm says of the weights that it started from."""
    config = model.config.student_config
    config.__dict__.pop("_name_or_path", None)
    if isinstance(config, TimmWrapperConfig) and getattr(config, "pretrained_cfg", None):
        config.pretrained_cfg = {
            name: value for name, value in config.pretrained_cfg.items() if name in PUBLIC_PRETRAINED_CFG
        }


def _has_adapters(model: AlignedImageClassification) -> bool:
    return getattr(model.config, "lora", None) is not None
