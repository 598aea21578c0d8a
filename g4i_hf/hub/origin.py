"""What a card says of where a student comes from, how far it can be trusted, and under which terms."""

from typing import Any

from ..zero_shot.checkpoint import TextSide
from .markdown import code_cell, plain
from .public_stage import bare_name

MACHINES = ("local", "endpoint")  # captioners
GIVEN = {
    "column": "taken from a column of the data",
    "file": "taken from a file that names each image",
    "list": "taken from a list in the order of the files",
}
# of a captioner's provenance, beside its name, revision and prompts
SETTINGS = ("max_new_tokens", "temperature", "top_p", "seed", "max_side", "dtype", "jpeg_quality")
SHOWN_VERSIONS = ("g4i_hf", "torch", "transformers", "timm", "datasets")
LONGEST = 300  # characters of a prompt or setting
FEW_IMAGES = 10_000


def origin_table(lineage: dict[str, Any]) -> str:
    """Empty where nothing is known."""
    rows = [*_data(lineage), *_captions(lineage), *_encoder(lineage), *_student(lineage), *_libraries(lineage)]
    lines = [f"| {name} | {text} |" for name, text in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _data(lineage: dict[str, Any]) -> list[tuple[str, str]]:
    names = {
        "embedding": "data with embeddings",
        "captioning": "data with captions",
        "captions": "captions",
        None: "images",
    }
    rows = [
        (names.get(source.get("stage"), "data"), _named(source.get("id") or source.get("name"), source))
        for source in lineage.get("sources") or []
    ]
    counts = ", ".join(f"{count:,} of {code_cell(split)}" for split, count in (lineage.get("rows") or {}).items())
    return [*rows, *([("rows", counts)] if counts else [])]


def _captions(lineage: dict[str, Any]) -> list[tuple[str, str]]:
    captions = lineage.get("captions")
    if not captions:
        return []
    if captions.get("captioner") in MACHINES:
        rows = [("captions", f"written by a machine, {_named(captions.get('model'), captions)}")]
    else:
        rows = [("captions", GIVEN.get(captions.get("captioner"), "from elsewhere"))]
    prompts = captions.get("prompts") or []
    rows += [
        ("prompt" if len(prompts) == 1 else f"prompt {i + 1}", plain(text, LONGEST)) for i, text in enumerate(prompts)
    ]
    settings = {name: captions[name] for name in SETTINGS if captions.get(name) is not None}
    if settings:
        rows.append(
            ("captioner's settings", plain(", ".join(f"{name} {value}" for name, value in settings.items()), LONGEST))
        )
    return rows


def _encoder(lineage: dict[str, Any]) -> list[tuple[str, str]]:
    encoder = lineage.get("text_encoder") or {}
    if not encoder.get("text_encoder"):
        return []
    text = _named(encoder["text_encoder"], {"revision": encoder.get("text_encoder_revision")})
    text += ", a local folder" if TextSide.from_record(encoder).text_encoder_is_folder else ""
    prompt = encoder.get("text_encoder_prompt")
    return [("text encoder", text + (f", each caption after {code_cell(prompt, LONGEST)}" if prompt else ""))]


def _student(lineage: dict[str, Any]) -> list[tuple[str, str]]:
    student = lineage.get("student") or {}
    if not student.get("name"):
        return []
    start = _named(student.get("id") or student["name"], student) if student.get("pretrained") else "from scratch"
    return [("pretrained weights", start)]


def _libraries(lineage: dict[str, Any]) -> list[tuple[str, str]]:
    versions = lineage.get("versions") or {}
    shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN_VERSIONS if name in versions)
    return [("libraries", plain(shown))] if shown else []


def limits_of(lineage: dict[str, Any], splits: list[str], aligned: bool, train_split: str = "train") -> list[str]:
    """
    Args:
        lineage: of the run.
        splits: that were evaluated.
        train_split: that was trained on.
        aligned: whether captions took part in the training.
    """
    limits = ["It knows its own classes alone, and gives one of them to any picture, also to one that shows none."]
    if splits:
        named = ", ".join(f"`{split}`" for split in dict.fromkeys(splits))
        limits.append(
            f"Its figures are of {named} alone. Pictures of another style, origin or quality can be classified worse; "
            "evaluate it on your own before you rely on it."
        )
    else:
        limits.append("It was not evaluated before it was released.")
    trained = (lineage.get("rows") or {}).get(train_split, FEW_IMAGES)
    if trained < FEW_IMAGES:
        limits.append(f"It was trained on few images ({trained:,}).")
    limits.append(
        "How fairly it treats people or groups of them was not examined. It is not meant for decisions about people."
    )
    captions = lineage.get("captions") or {}
    if aligned and captions.get("captioner") in MACHINES:
        limits.append(
            "Its captions were written by a machine, which can describe what is not there and repeat the prejudices "
            "of its own training; both can have passed into the features."
        )
    elif aligned:
        limits.append("Whether people or a machine wrote its captions is not recorded.")
    return limits


def terms_of(licence: dict[str, str], lineage: dict[str, Any]) -> str:
    """What a reader may do with it, and what else may bind them."""
    student, captions = lineage.get("student") or {}, lineage.get("captions") or {}
    others = ["the images"]
    if student.get("pretrained"):
        others.append("the pretrained weights that it starts from")
    if captions.get("captioner") in MACHINES:
        others.append("the captioner")
    return f"{licence_said(licence)} The terms of {_listed(others)} may bind it too."


def licence_said(licence: dict[str, str]) -> str:
    """The first sentence of the terms of a student or a data set."""
    name = licence.get("license_name") or licence["license"]
    if name == "other":
        return "Its maker has not chosen a licence: ask before you use it for more than looking at it."
    return f"Its maker releases it under `{name}`."


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _named(name: Any, facts: dict[str, Any]) -> str:
    """A name and its revision."""
    if not name:
        return "unnamed"
    revision = facts.get("revision")
    return code_cell(bare_name(str(name))) + (f" at {code_cell(revision)}" if revision else "")
