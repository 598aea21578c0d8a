"""Answers of a model that was asked for the class, matched with the names of the classes."""

import pytest

from g4i_hf.data.classes import NO_CLASS, NONE, matched_answers

NAMES = ["rose", "rose window", "n02085620-Chihuahua", "electric_guitar", "tench, Tinca tinca", "Straße"]


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("rose", "rose"),
        (" ROSE. ", "rose"),
        ("a rose window", "rose window"),
        ("It is an electric guitar!", "electric_guitar"),
        ("Electric-Guitar", "electric_guitar"),
        ("chihuahua", "n02085620-Chihuahua"),
        ("Tinca tinca", "tench, Tinca tinca"),
        ("STRASSE", "Straße"),
        ("a rose or a tench", None),
        ("roses", None),
        ("None of these fits: it may be a rose", NONE),
        ('{"answer": "Rose window"}', "rose window"),
        ('{"answer": "none of these"}', NONE),
        ('{"answer": "rose win', None),
        ("", None),
        (None, None),
    ],
)
def test_an_answer_names_one_class_or_none(answer, name):
    (found,) = matched_answers([answer], NAMES)
    assert found == (NAMES.index(name) if name in NAMES else name or NO_CLASS)


def test_two_classes_of_one_name_are_not_told_apart():
    assert matched_answers(["crane", "heron"], ["crane", "Crane", "heron"]).tolist() == [-1, 2]
