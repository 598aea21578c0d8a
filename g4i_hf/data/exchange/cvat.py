"""CVAT for images 1.1: an XML file, with a tag for the class of an image (https://docs.cvat.ai, CVAT for images)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from ..metadata import Report
from . import Annotation, Contents, Exported

AUTOMATIC = "auto"  # source of a tag that no person has set


def read_cvat(content: bytes, report: Report) -> Contents:
    """A file with a document type is not read, so that no entity is ever expanded."""
    annotations: list[Annotation] = []
    left_out: Counter[str] = Counter()
    place: list[str] = []  # the elements that are open
    image: dict[str, str] = {}
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal image
        if not place and tag != "annotations":
            raise ValueError(f"starts with <{tag[:40]}>, not with <annotations>")
        if tag == "track":
            raise ValueError("is about a video")
        if tag == "image":
            image = attributes | {"place": f"image {attributes.get('id', len(annotations))}", "labels": ""}
        elif place[-1:] == ["image"] and tag != "tag":
            left_out["boxes and other shapes"] += 1
        elif place[-1:] == ["image"] and attributes.get("source") == AUTOMATIC:
            left_out["tags that no person has set"] += 1
        elif place[-1:] == ["image"]:
            annotations.append(Annotation(image["name"], attributes["label"], image["place"]))
            image["labels"] = "some"
        place.append(tag)

    def end(tag: str) -> None:
        place.pop()
        if tag == "image" and not image["labels"]:
            annotations.append(Annotation(image["name"], None, image["place"]))

    def refuse(*_) -> None:
        raise ValueError("has a document type, which may expand to any size")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        report("", f"is no XML ({error})", "Export it again.")
    except KeyError as error:
        report(image.get("place", "an image"), f"has no {error.args[0]}", "Export it again.")
    except ValueError as error:
        report("", f"is no file of CVAT for images: it {error}", "Export the task as CVAT for images 1.1.")
    return Contents("CVAT for images", annotations, {}, 0, dict(left_out))


def cvat_of(images: Iterable[Exported], classes: Sequence[str]) -> str:
    labels = "".join(f"<label><name>{_text(name)}</name><type>tag</type></label>" for name in classes)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines.append(f"  <meta><task><labels>{labels}</labels></task></meta>")
    for number, image in enumerate(images):
        lines.append(f'  <image id="{number}" name={quoteattr(image.name)}>')
        if image.label is not None:
            lines.append(f'    <tag label={quoteattr(image.label)} source="manual"></tag>')
        elif image.suggestion:
            label, share = image.suggestion
            attribute = f'<attribute name="probability">{share}</attribute>'
            lines.append(f'    <tag label={quoteattr(label)} source="{AUTOMATIC}">{attribute}</tag>')
        lines.append("  </image>")
    return "\n".join([*lines, "</annotations>", ""])


def _text(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
