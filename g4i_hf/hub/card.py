"""The model card of a student: a pure function of what is known of it. Licences, and text of others within cards."""

import difflib
import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .. import __version__
from ..data.stage import is_path
from ..evaluation.comparison import ComparisonRow, as_markdown, seeds_as_markdown
from ..modeling.processing import ImageSettings
from ..options import AugmentationArguments, RunArguments, StudentArguments, aligns, learned_from_captions
from ..supervision.plan import captions_in_words, noise_in_words
from ..training.arguments import AlignmentArguments
from ..training.lineage import is_hub_id
from ..zero_shot.checkpoint import TextSide
from .figures import METRICS, EvaluatedData, Seeds, model_index_results
from .privacy import bare_name

TEMPLATES = Path(__file__).parent.parent / "hub_cards"
LONGEST = 2000  # characters of a text of others
IN_OTHER_WORDS = {"options", "lineage", "seeds", "estimates"}  # of a Student, in its card
MOST_CLASSES = 1000
FEW_IMAGES = 10_000
CONTROLS = {
    "class_name": "by the names of the classes",
    "random": "by a random vector for each distinct caption",
    "shuffle_class": "by captions of other images of the class",
    "shuffle": "by captions of other images",
}
MACHINES = ("local", "endpoint")  # captioners
GIVEN = {
    "column": "taken from a column of the data",
    "file": "taken from a file that names each image",
    "list": "taken from a list in the order of the files",
}
# Of a captioner's provenance, beside its name, revision and prompts
SETTINGS = ("max_new_tokens", "temperature", "top_p", "seed", "max_side", "dtype", "jpeg_quality")
SHOWN_VERSIONS = ("g4i_hf", "torch", "transformers", "timm", "datasets")
LONGEST_SETTING = 300  # characters of a prompt or setting

# Options that are shown whenever they are known: what it takes to repeat the run. Others may not be for everyone
SHOWN_OPTIONS = (
    *("align_weight", "align_loss", "align_temperature", "text_encoder", "student", "image_size"),
    *("train_crop", "hflip", "num_train_epochs", "per_device_train_batch_size", "optim", "learning_rate"),
    *("lr_scheduler_type", "weight_decay", "pretrained", "seed"),
)
# Shown where they differ from their default
MORE_OPTIONS = (
    *("align_target_temperature", "align_learn_temperature", "align_logit_bias", "align_mask", "align_mix_captions"),
    *("align_gradient", "align_text_bank", "align_captions", "align_center", "align_similarity"),
    *("align_balance", "align_schedule"),
    *("supervision", "soft_label_weight", "label_noise", "image_features"),
    *("align_warmup_epochs", "align_off_epochs", "projector_type", "projector_hidden_size", "projector_norm"),
    *("student_args", "use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "freeze_backbone"),
    *("interpolation", "crop_pct", "crop_min_scale", "crop_padding", "color_jitter", "auto_augment"),
    *("random_erasing", "repeated_augmentation", "mixup_alpha", "cutmix_alpha", "mix_prob", "mix_switch_prob"),
    *("max_steps", "gradient_accumulation_steps", "max_grad_norm", "optim_args", "sgd_momentum"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio"),
    *("weight_decay_on", "layer_decay", "label_smoothing_factor", "classification_loss", "bce_target_threshold"),
    *("label_fraction", "label_seed", "label_noise_rate", "label_noise_kind", "label_noise_seed"),
    *("long_tail_factor", "long_tail_seed", "unlabelled", "caption_control"),
    *("class_weights", "ema_decay", "early_stopping_patience", "bf16", "fp16"),
)
# A run keeps those of Trainer where they differ from their default
OF_TRAINER = ("num_train_epochs", "per_device_train_batch_size", "optim", "learning_rate", "lr_scheduler_type", "seed")
OF_ADAPTERS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
OFF_IS_SAID = ("align_weight", "hflip", "seed")


@dataclass
class Picture:
    """A picture of the card: its file within the release, what it says to those who cannot see it, and its text."""

    file: str
    alt: str
    text: str


@dataclass
class Student:
    """
    A released student, as its card describes it.

    Args:
        architecture: its name.
        num_labels, num_parameters: how many it has.
        image_size: side of its input in pixels.
        classes: their names, in the order of the logits.
        is_timm: whether timm loads it too.
        module: of its maker's own, which registers the architecture; None for one of timm or transformers.
        weights: `"raw"` or `"ema"`, see [`~g4i_hf.hub.release_student`].
        options: the run's `train.yaml`; only those that are no paths are shown.
        lineage: the run's `lineage.json`.
        rows: figures, perhaps beside the baseline's.
        seeds: the same over seeds.
        speed: Markdown table of size and speed; empty where they were not measured.
        estimates: what was estimated of captions and labels before training, and what `supervision: auto` chose by it;
            empty without.
        aligned, onnx: whether the release holds the aligned model and an ONNX graph.
        adapter: Hub id of the model that a LoRA adapter was trained beside; None for a whole checkpoint.
        adapter_revision: its branch, tag or commit.
        pixels: what a student of timm's does to a picture, for the ONNX graph without timm and torch.
        pictures: of the card.
        model_id: what a reader passes to `from_pretrained`.
        license: of what is released; `other` by default.
        weights_license: of the pretrained weights that it starts from, where that is known.
    """

    architecture: str
    num_labels: int
    num_parameters: int
    image_size: int | None = None
    classes: list[str] = field(default_factory=list)
    is_timm: bool = False
    module: str | None = None
    weights: str = "raw"
    options: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    rows: list[ComparisonRow] = field(default_factory=list)
    seeds: Seeds | None = None
    speed: str = ""
    estimates: dict[str, Any] = field(default_factory=dict)
    aligned: bool = False
    onnx: bool = False
    adapter: str | None = None
    adapter_revision: str | None = None
    pixels: ImageSettings | None = None
    pictures: list[Picture] = field(default_factory=list)
    model_id: str = "path/to/student"
    license: str | None = None
    weights_license: str | None = None

    @property
    def is_local(self) -> bool:
        return not is_hub_id(self.model_id) or self.model_id.startswith("path/")


def student_card(student: Student) -> ModelCard:
    """
    Raises:
        ValueError: for a licence that is nearly one of the Hub's.
    """
    is_named = not all(re.fullmatch(r"LABEL_\d+", name) for name in student.classes)  # else made up by transformers
    card = ModelCard.from_template(
        _metadata(student),
        template_path=str(TEMPLATES / "student.md.j2"),
        **{name: value for name, value in vars(student).items() if name not in IN_OTHER_WORDS}
        | {"architecture": plain(student.architecture)}
        | {"classes": ", ".join(map(code, student.classes[:MOST_CLASSES])) if is_named else ""},
        more_classes=len(student.classes) > MOST_CLASSES,
        is_local=student.is_local,
        timm_id=f"{'local-dir' if student.is_local else 'hf-hub'}:{student.model_id}",
        number_of_parameters=f"{student.num_parameters / 1e6:.1f}",
        is_average=student.weights == "ema",
        training=options_table(student.options, student.image_size),
        **_of_training(student) | _of_figures(student),
        origin=_origin(student.lineage),
        limits="\n".join(f"- {limit}" for limit in _limits(student)),
        terms=_terms(student),
        version=__version__,
    )
    # Conditions of the template leave runs of blank lines
    return ModelCard(re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n")


def _metadata(student: Student) -> ModelCardData:
    """Only what there is: the Hub refuses a field that is null or empty."""
    lineage, more = student.lineage, licence_fields(student.license)
    datasets = [source["id"] for source in lineage.get("sources") or [] if is_hub_id(source.get("id") or "")]
    base = student.adapter or (lineage.get("student") or {}).get("id")
    if datasets:
        more["datasets"] = list(dict.fromkeys(datasets))
    if base and is_hub_id(base):
        more |= {"base_model": base, "base_model_relation": "adapter" if student.adapter else "finetune"}
    data = EvaluatedData.of(lineage)
    if student.rows and data is not None:
        results = model_index_results(student.rows, student.seeds, data, student.weights)
        name = "student" if student.is_local else student.model_id.split("/")[-1]
        more |= {"metrics": ["accuracy"], "model_name": name, "eval_results": results}
    return ModelCardData(
        library_name="peft" if student.adapter else "timm" if student.is_timm else "transformers",
        pipeline_tag="image-classification",
        tags=["image-classification", "g4i_hf"] + ["captions"] * bool(student.options.get("align_weight")),
        **more,
    )


def _of_training(student: Student) -> dict[str, Any]:
    """What the template says of the run."""
    options = {name: value for name, value in student.options.items() if not is_path(value)}
    old = {"soft": options.get("teacher_weight"), "pseudo": options.get("unlabelled") == "pseudo_label"}  # version 0.1
    known = student.lineage.get("text_encoder") or {}
    encoder = TextSide.from_record(known if known.get("text_encoder") else options)
    best = options.get("metric_for_best_model") if options.get("load_best_model_at_end") else None
    return {
        "align_weight": float(options.get("align_weight") or 0),
        "supervision": next((kind for kind, is_set in old.items() if is_set), None)
        or student.estimates.get("supervision", options.get("supervision") or "none"),
        "is_auto": options.get("supervision") == "auto",
        "estimates": _estimates(student.estimates),
        "caption_control": CONTROLS.get(options.get("caption_control")),
        "label_fraction": float(options.get("label_fraction") or 1),
        "is_baseline": aligns(options) is False and learned_from_captions(options) is None,
        "best_by": plain(best) if best else None,
        "chosen_on": next((row.split for row in student.rows if row.split == options.get("eval_split")), None),
        "ema_decay": plain(options["ema_decay"]) if options.get("ema_decay") else None,
        "text_encoder": encoder.text_encoder,
        "encoder_folder": bare_name(encoder.text_encoder) if encoder.text_encoder_is_folder else None,
        "seed": plain(options.get("seed", 42)) if options else None,
    }


def _estimates(found: dict[str, Any]) -> str:
    """Of a run's `all_results.json`; empty where nothing was estimated."""
    said = []
    if "caption_accuracy_estimate" in found:
        said.append(captions_in_words(found["caption_accuracy_estimate"]))
    if "label_noise_estimate" in found:
        said.append(noise_in_words(found["label_noise_estimate"], found["label_noise_interval"]))
    return "; ".join(said)


def _of_figures(student: Student) -> dict[str, Any]:
    """What the template says of the figures."""
    rows, seeds = student.rows, student.seeds
    return {
        "results": as_markdown(rows) if rows else "",
        "has_baseline": any(row.baseline is not None for row in rows),
        "retrieval": any(METRICS[row.measure] != "accuracy" for row in rows),
        "seed_results": seeds_as_markdown(seeds.rows) if seeds else "",
        "seeds": seeds.seeds if seeds else [],
        "is_paired": bool(seeds) and any(row.paired for row in seeds.rows),
    }


def options_table(options: dict[str, Any], image_size: int | None = None) -> str:
    """
    Args:
        options: the run's `train.yaml`.
        image_size: of the student, where its options leave it to the checkpoint.

    Returns:
        Those that it takes to repeat the run, without paths; empty where none are known.
    """
    if not options:
        return ""
    kinds = (RunArguments, AlignmentArguments, StudentArguments, AugmentationArguments)
    defaults = {each.name: getattr(each.default, "value", each.default) for kind in kinds for each in fields(kind)}
    known = {name: defaults[name] for name in OF_TRAINER if name in defaults} | options
    known["image_size"] = known.get("image_size") or image_size
    has_text, uses_captions = aligns(known), learned_from_captions(known) is not None
    rows = []
    for name in (*SHOWN_OPTIONS, *MORE_OPTIONS):
        value = _without_paths(known.get(name))
        if value in (None, "", [], {}) or (name in OF_ADAPTERS and not known.get("use_peft")):
            continue
        if name.startswith("align_") and name != "align_weight" and not has_text:
            continue
        if name.startswith("caption_") and not uses_captions:
            continue
        if name in MORE_OPTIONS and name not in OF_ADAPTERS and value == defaults.get(name):
            continue
        if value or name in OFF_IS_SAID or name in MORE_OPTIONS:
            value = int(value) if isinstance(value, float) and value.is_integer() else value
            shown = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
            rows.append(f"| {name} | {code_cell(shown)} |")
    return "\n".join(["| option | value |", "|---|---|", *rows])


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        inner = {key: _without_paths(each) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each is not None}
    if isinstance(value, list):
        return [each for each in map(_without_paths, value) if each is not None]
    return None if is_path(value) else value


# --- Where it comes from, and how far it can be trusted --------------------------------------------------------------


def _origin(lineage: dict[str, Any]) -> str:
    """A table of data, captions, text encoder, pretrained weights and libraries; empty where nothing is known."""
    stages = {"embedding": "data with embeddings", "captioning": "data with captions", "captions": "captions"}
    rows = []
    for source in lineage.get("sources") or []:
        kind = stages.get(source.get("stage"), "data") if source.get("stage") else "images"
        rows.append((kind, _named(source.get("id") or source.get("name"), source.get("revision"))))
    if counts := lineage.get("rows"):
        rows.append(("rows", ", ".join(f"{count:,} of {code_cell(split)}" for split, count in counts.items())))
    if captions := lineage.get("captions"):
        rows += _captions(captions)
    encoder = lineage.get("text_encoder") or {}
    if encoder.get("text_encoder"):
        text = _named(encoder["text_encoder"], encoder.get("text_encoder_revision"))
        text += ", a local folder" if TextSide.from_record(encoder).text_encoder_is_folder else ""
        if prompt := encoder.get("text_encoder_prompt"):
            text += f", each caption after {code_cell(prompt, LONGEST_SETTING)}"
        rows.append(("text encoder", text))
    student = lineage.get("student") or {}
    if student.get("name"):
        named = _named(student.get("id") or student["name"], student.get("revision"))
        rows.append(("pretrained weights", named if student.get("pretrained") else "from scratch"))
    versions = lineage.get("versions") or {}
    if shown := ", ".join(f"{name} {versions[name]}" for name in SHOWN_VERSIONS if name in versions):
        rows.append(("libraries", plain(shown)))
    lines = [f"| {name} | {text} |" for name, text in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _captions(captions: dict[str, Any]) -> list[tuple[str, str]]:
    if captions.get("captioner") in MACHINES:
        rows = [("captions", f"written by a machine, {_named(captions.get('model'), captions.get('revision'))}")]
    else:
        rows = [("captions", GIVEN.get(captions.get("captioner"), "from elsewhere"))]
    rows += prompt_rows(captions.get("prompts") or [], LONGEST_SETTING)
    settings = ", ".join(f"{name} {captions[name]}" for name in SETTINGS if captions.get(name) is not None)
    return rows + ([("captioner's settings", plain(settings, LONGEST_SETTING))] if settings else [])


def prompt_rows(prompts: list[str], longest: int = LONGEST) -> list[tuple[str, str]]:
    names = ["prompt"] if len(prompts) == 1 else [f"prompt {i + 1}" for i in range(len(prompts))]
    return [(name, plain(text, longest)) for name, text in zip(names, prompts, strict=True)]


def _named(name: Any, revision: Any) -> str:
    if not name:
        return "unnamed"
    return code_cell(bare_name(str(name))) + (f" at {code_cell(revision)}" if revision else "")


def _limits(student: Student) -> list[str]:
    limits = ["It knows its own classes alone, and gives one of them to any picture, also to one that shows none."]
    if student.rows:
        named = ", ".join(f"`{split}`" for split in dict.fromkeys(row.split for row in student.rows))
        limits.append(
            f"Its figures are of {named} alone. Pictures of another style, origin or quality can be classified worse; "
            "evaluate it on your own before you rely on it."
        )
    else:
        limits.append("It was not evaluated before it was released.")
    options = student.options
    trained = (student.lineage.get("rows") or {}).get(options.get("train_split") or "train", FEW_IMAGES)
    if trained < FEW_IMAGES:
        limits.append(f"It was trained on few images ({trained:,}).")
    limits.append(
        "How fairly it treats people or groups of them was not examined. It is not meant for decisions about people."
    )
    captions = student.lineage.get("captions") or {}
    if learned_from_captions(options) is not None and captions.get("captioner") in MACHINES:
        limits.append(
            "Its captions were written by a machine, which can describe what is not there and repeat the prejudices "
            "of its own training; both can have passed into the features."
        )
    elif learned_from_captions(options) is not None:
        limits.append("Whether people or a machine wrote its captions is not recorded.")
    return limits


# --- Licences --------------------------------------------------------------------------------------------------------

# https://huggingface.co/docs/hub/repositories-licenses; the Hub refuses a card with another one
_KNOWN = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl
lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by
ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
HUB_LICENCES = frozenset(_KNOWN.split())
NONCOMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research|apple-amlr|seer-license", re.IGNORECASE)


def licence_fields(licence: str | None) -> dict[str, Any]:
    """
    Fields of a card's metadata that the Hub takes: `license` and, where it is none of the Hub's, `license_name`.

    Args:
        licence: its identifier, such as `apache-2.0`; None for `other`.

    Raises:
        ValueError: for one that is nearly one of the Hub's.
    """
    identifier = (licence or "other").strip().lower()
    if identifier in HUB_LICENCES:
        return {"license": identifier}
    name = re.sub(r"[^a-z0-9.-]+", "-", identifier).strip("-.")
    bare = re.sub(r"-*\b(the|licen[cs]e|version)\b-*", "-", name).strip("-")
    family = _family(bare)  # of apache2, cc-by and GPLv3
    same = sorted(known for known in HUB_LICENCES if known != _family(known) == family)
    meant = [known for known in same if all(number in known for number in re.findall(r"\d[\d.]*", bare))] or same
    meant = meant or difflib.get_close_matches(bare, HUB_LICENCES, n=1, cutoff=0.85)
    if meant or not name:
        hint = f" Did you mean {' or '.join(meant)}?" if meant else ""
        raise ValueError(
            f"license is {licence!r}, which the Hub does not know.{hint} A licence of your own needs a name that is "
            "not so near one of https://huggingface.co/docs/hub/repositories-licenses."
        )
    return {"license": "other", "license_name": name}


def _family(licence: str) -> str:
    """Its letters, without those of a version."""
    return re.sub(r"v?(?![a-z])|[^a-z]", "", licence)


def licence_line(licence: str | None) -> str:
    """What a release says of it: none, one of the Hub's, or one of one's own."""
    known = licence_fields(licence)
    if "license_name" in known:
        return f"a licence of your own: {known['license_name']}"
    return "no licence: give one with --license" if known["license"] == "other" else known["license"]


def licence_said(licence: str | None) -> str:
    """The first sentence of the terms of a student or a data set."""
    known = licence_fields(licence)
    name = known.get("license_name") or known["license"]
    if name == "other":
        return "Its maker has not chosen a licence: ask before you use it for more than looking at it."
    return f"Its maker releases it under `{name}`."


def _terms(student: Student) -> str:
    """What a reader may do with it, and what else may bind them."""
    source, captions = student.lineage.get("student") or {}, student.lineage.get("captions") or {}
    others = ["the images"]
    if source.get("pretrained"):
        others.append("the pretrained weights that it starts from")
    if captions.get("captioner") in MACHINES:
        others.append("the captioner")
    listed = " and ".join([", ".join(others[:-1]), others[-1]]) if len(others) > 1 else others[0]
    said = f"{licence_said(student.license)} The terms of {listed} may bind it too."
    if source.get("pretrained") and student.weights_license:
        said += f" Those weights are released under {code(student.weights_license)}"
        said += ", which forbids commercial use." if NONCOMMERCIAL.search(student.weights_license) else "."
    return said


# --- Text that others wrote: it stays text, on its line and in its cell, whatever it holds ---------------------------

# Nobody sees them, and they turn what stands around them: control characters, halves of characters, marks of direction
_UNSEEN = re.compile("[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
# A pipe ends a cell; the others begin a tag, an entity, a link, a picture or code
_ESCAPED = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;", "&": "&amp;", "[": "\\[", "]": "\\]", "`": "\\`"})


def plain(text: Any, longest: int = LONGEST) -> str:
    """One line that Markdown shows as it is, in a cell or elsewhere."""
    return _one_line(text, longest).translate(_ESCAPED)


def code(text: Any, longest: int = LONGEST) -> str:
    """The same as code, for use outside of tables too: a pipe is kept, see [`code_cell`]."""
    line = _one_line(text, longest)
    ticks = max((len(run) for run in re.findall("`+", line)), default=0)
    if not line or not ticks:
        return f"`{line or ' '}`"
    fence = "`" * (ticks + 1)
    return f"{fence} {line} {fence}"


def code_cell(text: Any, longest: int = LONGEST) -> str:
    """Code in a cell of a table, where a pipe has a backslash even within code."""
    return code(text, longest).replace("|", "\\|")


def _one_line(text: Any, longest: int) -> str:
    line = " ".join(_UNSEEN.sub("", str(text)).split())
    return line if len(line) <= longest else f"{line[:longest]}…"
