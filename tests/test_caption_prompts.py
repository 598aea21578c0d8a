"""Prompts: what is filled in, what is refused, and that evaluation splits are not told their classes."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from g4i_hf.captioning.prompts import CLASS, PLAIN, MissingValue, Prompts, check_leak

FEATURES = Features(
    {
        "image_id": Value("string"),
        "label": ClassLabel(names=["tench", "great_white_shark"]),
        "artist": Value("string"),
        "year": Value("int32"),
        "tags": List(Value("string")),
    }
)


def rows(**changed):
    row = {"image_id": "a/1.jpg", "label": 1, "artist": "Ann", "year": 1901, "tags": ["sea"]}
    return row | changed


def split(labels, **values):
    columns = {"image_id": [f"x/{i}.jpg" for i in range(len(labels))], "label": labels, **values}
    features = {name: FEATURES.get(name, Value("string")) for name in columns}
    return Dataset.from_dict(columns, features=Features(features))


def prompts(*templates):
    return Prompts(list(templates), FEATURES, "train")


def test_the_two_that_have_names():
    assert PLAIN == "Describe this image in detail."
    assert prompts("plain").prompts_of({}) == [PLAIN]
    assert prompts("plain").columns == ()
    named = prompts("class")
    assert named.columns == ("label",)
    assert named.prompts_of(rows()) == [CLASS.replace("{label}", "great white shark")]


def test_columns_are_filled_in_and_double_braces_are_braces():
    filled = prompts("A {label} by {artist}, {year}, {{json}}; {label}").prompts_of(rows())
    assert filled == ["A great white shark by Ann, 1901, {json}; great white shark"]


def test_values_are_not_read_as_templates():
    assert prompts("By {artist}.").prompts_of(rows(artist="{label} {0.__class__}")) == ["By {label} {0.__class__}."]


def test_several_templates_give_several_prompts_in_their_order():
    several = prompts("{artist}?", "plain", "class")
    assert several.several and not prompts("plain").several
    assert several.columns == ("artist", "label")
    assert several.prompts_of(rows()) == ["Ann?", PLAIN, CLASS.replace("{label}", "great white shark")]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{labell}", r"split 'train' has no column 'labell'. Did you mean \{label\}\? Its columns: image_id, label"),
        ("{label.__class__}", "no column 'label.__class__'"),
        ("{label.__init__.__globals__}", "no column"),
        ("{tags[0]}", "no column"),
        ("{tags}", "column 'tags' of split 'train' holds"),
        ("{label!r}", r"\{label\} is no name of a column alone"),
        ("{year:>{label}}", "is no name of a column"),
        ("{}", r"\{\} is no name of a column"),
        ("{0}", "no column '0'"),
        ("{label", "Write {column} and nothing else"),
        ("label}", "Write {column} and nothing else"),
        ("  ", "give a text"),
    ],
)
def test_anything_but_a_name_of_a_column_is_refused(template, message):
    with pytest.raises(ValueError, match=message):
        prompts(template)


def test_a_column_whose_own_name_has_a_dot_can_be_named():
    features = Features({"meta.artist": Value("string")})
    assert Prompts(["{meta.artist}"], features, "train").prompts_of({"meta.artist": "Bo"}) == ["Bo"]


def test_a_template_twice_and_none_at_all_are_refused():
    with pytest.raises(ValueError, match="twice"):
        prompts("plain", PLAIN)
    with pytest.raises(ValueError, match="give a text"):
        prompts()


def test_labels_without_names_are_refused():
    with pytest.raises(ValueError, match="'label' of split 'train' holds numbers"):
        Prompts(["class"], Features({"label": Value("int64")}), "train")


@pytest.mark.parametrize("changed", [{"label": None}, {"label": -1}, {"artist": None}, {"artist": "  "}])
def test_a_row_without_value_has_no_prompt(changed):
    with pytest.raises(MissingValue, match=f"Column '{next(iter(changed))}' is empty"):
        prompts("{label} {artist}").prompts_of(rows(**changed))


def test_empty_values_are_found_before_anything_is_asked():
    data = split([0, 1, None, 1, -1], artist=["a", None, "b", "c", "d"])
    with pytest.raises(MissingValue, match="Split 'train', row 2: Column 'label' is empty"):
        Prompts(["class"], data.features, "train").check(data)
    with pytest.raises(MissingValue, match="row 1: Column 'artist' is empty"):
        Prompts(["{artist}"], data.features, "train").check(data)
    Prompts(["plain"], data.features, "train").check(data)


def test_class_prompts_are_for_training_splits():
    for name in ("train", "training"):
        check_leak(["class"], {name: FEATURES})
    for name in ("validation", "test", "test_novel", "train_extra", "all"):
        with pytest.raises(ValueError, match=f"'label', which tells the class, and split '{name}' is for evaluation"):
            check_leak(["plain", "class"], {"train": FEATURES, name: FEATURES})
        check_leak(["plain", "{artist}"], {"train": FEATURES, name: FEATURES})
    check_leak(["class"], {"all": FEATURES}, train_splits=["all"])
    with pytest.raises(ValueError, match="split 'train' is for evaluation"):
        check_leak(["class"], {"train": FEATURES}, train_splits=["all"])


@pytest.mark.parametrize("column", ["image_id", "coarse"])
def test_other_columns_tell_the_class_too(column):
    features = Features({"coarse": ClassLabel(names=["a", "b"]), "image_id": Value("string")})
    with pytest.raises(ValueError, match=f"'{column}', which tells the class"):
        check_leak([f"See {{{column}}}."], {"test": features})
    check_leak([f"See {{{column}}}."], {"train": features})
