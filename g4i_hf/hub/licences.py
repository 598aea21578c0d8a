"""Licences as the Hub knows them."""

import difflib
import re

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
_SAME = {
    "general public": "gpl",
    "lesser gpl": "lgpl",
    "affero gpl": "agpl",
    "mozilla public": "mpl",
    "eclipse public": "epl",
    "creative commons": "cc",
    "attribution": "by",
    "noncommercial": "nc",
    "sharealike": "sa",
    "noderivatives": "nd",
    "2 clause bsd": "bsd 2 clause",
    "3 clause bsd": "bsd 3 clause",
}
_ALIASES = {"bsd2": "bsd-2-clause", "bsd3": "bsd-3-clause", "newbsd": "bsd-3-clause", "simplifiedbsd": "bsd-2-clause"}


def licence_fields(licence: str | None) -> dict[str, str]:
    """
    Fields of a card's metadata that the Hub takes: `license` and, where it is none of the Hub's, `license_name`.

    Args:
        licence: its identifier, such as `apache-2.0`; None for `other`.

    Raises:
        ValueError: for one that looks like a slip of the pen in one of the Hub's, or is one of those in other words.
    """
    identifier = (licence or "other").strip().lower()
    if identifier in HUB_LICENCES:
        return {"license": identifier}
    name = re.sub(r"[^a-z0-9.-]+", "-", identifier).strip("-.")
    meant = _same_as(identifier) or difflib.get_close_matches(name, HUB_LICENCES, n=1, cutoff=0.85)
    if meant or not name:
        hint = f" Did you mean {' or '.join(meant)}?" if meant else ""
        raise ValueError(
            f"license is {licence!r}, which the Hub does not know.{hint} A licence of your own needs a name that is "
            "not so near one of https://huggingface.co/docs/hub/repositories-licenses."
        )
    return {"license": "other", "license_name": name}


def licence_line(licence: str | None) -> str:
    """What a release says of it: none, one of the Hub's, or one of one's own."""
    fields = licence_fields(licence)
    if "license_name" in fields:
        return f"a licence of your own: {fields['license_name']}"
    return "no licence: give one with --license" if fields["license"] == "other" else fields["license"]


def _same_as(licence: str) -> list[str]:
    """Those of the Hub that it is but for punctuation, a .0 and the word licence; of one without version, all."""
    key = _key(licence)
    if key in _ALIASES:
        return [_ALIASES[key]]
    same = [known for known in HUB_LICENCES if key in (_key(known), _key(known.removesuffix(".0")))]
    versions = [known for known in HUB_LICENCES if key == _key(re.sub(r"\d+(\.\d+)*\w?$", "", known))]
    return same or sorted(versions, reverse=True)


def _key(licence: str) -> str:
    """Letters and digits alone: `mit` of The MIT License, `gpl3` of GPLv3."""
    words = " ".join(re.findall(r"[a-z]+|[\d.]+|\+", licence.lower()))
    words = re.sub(r"(?<!un)licen[cs]e|\bversion\b|\bv(?= \d)|\b(the|gnu|software|international)\b", "", words)
    words = re.sub(r"(?<=[a-z])v(?= \d)", "", words)
    words = " ".join(words.split())
    for other, usual in _SAME.items():
        words = words.replace(other, usual)
    return re.sub(r"[ .]", "", words)
