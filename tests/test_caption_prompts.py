"""Prompts: what is filled in, what is refused, and that evaluation splits are not told their classes."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from g4i_hf.captioning.questions import CLASS, PLAIN, MissingValue, Prompts, check_leak

COLUMNS = {"image_id": Value("string"), "label": ClassLabel(names=["tench", "great_white_shark"])}
FEATURES = Features(COLUMNS | {"artist": Value("string"), "year": Value("int32"), "tags": List(Value("string"))})
ROW = {"image_id": "a/1.jpg", "label": 1, "artist": "Ann", "year": 1901, "tags": ["sea"]}
NAMED = CLASS.replace("{label}", "great white shark")


def prompts(*templates: str) -> Prompts:
    return Prompts(templates, FEATURES, "train")


@pytest.mark.parametrize(
    "templates, row, said, columns",
    [
        (["plain"], {}, ["Describe this image in detail."], ()),
        (["class"], ROW, [NAMED], ("label",)),
        (["{artist}?", "plain", "class"], ROW, ["Ann?", PLAIN, NAMED], ("artist", "label")),
        (["A {label}, {year}, {{json}}"], ROW, ["A great white shark, 1901, {json}"], ("label", "year")),
        (["By {artist}."], ROW | {"artist": "{label} {0.__class__}"}, ["By {label} {0.__class__}."], ("artist",)),
    ],
)
def test_columns_are_filled_in(templates, row, said, columns):
    filled = prompts(*templates)
    assert filled.prompts_of(row) == said and filled.columns == columns


@pytest.mark.parametrize(
    "templates, message",
    [
        (["{labell}"], r"split 'train' has no column 'labell'. Did you mean .label.\? Its columns: image_id, label"),
        (["{label.__init__.__globals__}"], "no column 'label.__init__.__globals__'"),
        (["{tags}"], "column 'tags' of split 'train' holds"),
        (["{label!r}"], "only the name of a column may stand in braces"),
        (["{label"], "Write {column} for a column"),
        (["  "], "give a text"),
        (["clas"], "Did you mean .class."),
    ],
)
def test_anything_but_a_name_of_a_column_is_refused(templates, message):
    with pytest.raises(ValueError, match=message):
        prompts(*templates)


def test_empty_values_are_found_before_anything_is_asked():
    rows = [ROW, ROW | {"artist": None}, ROW | {"label": None}, ROW | {"artist": "  "}, ROW | {"label": -1}]
    data = Dataset.from_list(rows, features=FEATURES)
    for template, column, first in (("class", "label", 2), ("{artist}", "artist", 1)):
        with pytest.raises(MissingValue, match=f"column '{column}': 2 of 5 rows are empty, the first is row {first}"):
            prompts(template).check(data)
        with pytest.raises(MissingValue, match=f"Column '{column}' is empty"):
            prompts(template).prompts_of(rows[first])
    prompts("plain").check(data)


@pytest.mark.parametrize("name", ["validation", "test_novel", "train_extra"])
def test_class_prompts_are_for_training_splits(name):
    data = Dataset.from_list([ROW, ROW | {"label": 0}], features=FEATURES)
    check_leak(["class"], {"train": data, "training": data})
    check_leak(["plain"], {"train": data, name: data})
    with pytest.raises(ValueError, match=f"'label', which tells the class, and split '{name}' is for evaluation"):
        check_leak(["plain", "class"], {"train": data, name: data})
    check_leak(["class"], {name: data}, train_splits=[name])
    with pytest.raises(ValueError, match="split 'train' is for evaluation"):
        check_leak(["class"], {"train": data}, train_splits=[name])


@pytest.mark.parametrize(
    "column, values, leaks",
    [
        ("image_id", [f"c{i}/{i}.jpg" for i in range(6)], True),  # holds the class folder
        ("wnid", ["n1", "n2", "n3", "n1", "n2", "n3"], True),  # the label under another name
        ("kind", ["fish", "fish", "bird", "fish", "fish", "bird"], True),  # a coarser class
        ("breed", ["a", "b", "c", "d", "b", "c"], True),  # a finer one
        ("artist", ["x", "x", "y", "y", "x", "y"], False),
        ("source", ["web"] * 6, False),
        ("url", list("abcdef"), False),  # of every row its own: tells nothing
        ("coarse", [0, 0, 1, 0, 1, 1], True),  # any ClassLabel
    ],
)
def test_columns_that_go_along_with_the_label_tell_the_class_too(column, values, leaks):
    features = {"label": ClassLabel(names=["a", "b", "c"]), column: Value("string")}
    features |= {"coarse": ClassLabel(names=["a", "b"])} if column == "coarse" else {}
    data = Dataset.from_dict({"label": [0, 1, 2, 0, 1, 2], column: values}, features=Features(features))
    check_leak([f"See {{{column}}}."], {"train": data})
    if leaks:
        with pytest.raises(ValueError, match=f"the column '{column}', which tells the class"):
            check_leak([f"See {{{column}}}."], {"test": data})
    else:
        check_leak([f"See {{{column}}}."], {"test": data})
