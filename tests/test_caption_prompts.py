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
        ("{label.__class__}", "reaches into a value"),
        ("{label.__init__.__globals__}", "reaches into a value"),
        ("{tags[0]}", "reaches into a value"),
        ("{tags}", "column 'tags' of split 'train' holds"),
        ("{label!r}", r"\{label!r\} is no name of a column"),
        ("{year:>{label}}", "is no name of a column"),
        ("{}", r"\{\} is no name of a column"),
        ("{0}", "no column '0'"),
        ("{label", "Write {column} for a column"),
        ("label}", "Write {column} for a column"),
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
    with pytest.raises(MissingValue, match="Split 'train', column 'label': 2 of 5 rows are empty, the first is row 2"):
        Prompts(["class"], data.features, "train").check(data)
    with pytest.raises(MissingValue, match="column 'artist': 1 of 5 rows are empty, the first is row 1"):
        Prompts(["{artist}"], data.features, "train").check(data)
    Prompts(["plain"], data.features, "train").check(data)


def test_class_prompts_are_for_training_splits():
    data = split([0, 1, 0, 1])
    for name in ("train", "training"):
        check_leak(["class"], {name: data})
    for name in ("validation", "test", "test_novel", "train_extra", "all"):
        with pytest.raises(ValueError, match=f"'label', which tells the class, and split '{name}' is for evaluation"):
            check_leak(["plain", "class"], {"train": data, name: data})
        check_leak(["plain"], {"train": data, name: data})
    check_leak(["class"], {"all": data}, train_splits=["all"])
    with pytest.raises(ValueError, match="split 'train' is for evaluation"):
        check_leak(["class"], {"train": data}, train_splits=["all"])


def test_class_prompts_of_a_streamed_split_are_found_by_its_features():
    with pytest.raises(ValueError, match="for evaluation"):
        check_leak(["class"], {"test": FEATURES})
    check_leak(["{artist}"], {"test": FEATURES})


@pytest.mark.parametrize(
    ("column", "values", "leaks"),
    [
        ("image_id", None, True),  # holds the class folder
        ("wnid", ["n1", "n2", "n3", "n1", "n2", "n3"], True),  # the label under another name
        ("kind", ["fish", "fish", "bird", "fish", "fish", "bird"], True),  # a coarser class
        ("breed", ["a", "b", "c", "d", "b", "c"], True),  # a finer one
        ("artist", ["x", "x", "y", "y", "x", "y"], False),
        ("source", ["web"] * 6, False),
        ("url", list("abcdef"), False),  # of every row its own: tells nothing
    ],
)
def test_columns_that_go_along_with_the_label_tell_the_class_too(column, values, leaks):
    features = {"label": ClassLabel(names=["a", "b", "c"]), column: Value("string")}
    data = {"label": [0, 1, 2, 0, 1, 2], column: values or [f"c{i}/{i}.jpg" for i in range(6)]}
    data = Dataset.from_dict(data, features=Features(features))
    if leaks:
        with pytest.raises(ValueError, match=f"the column '{column}', which tells the class"):
            check_leak([f"See {{{column}}}."], {"test": data})
    else:
        check_leak([f"See {{{column}}}."], {"test": data})
    check_leak([f"See {{{column}}}."], {"train": data})


def test_another_class_label_column_tells_the_class():
    data = Dataset.from_dict(
        {"coarse": [0, 1], "label": [0, 0]},
        features=Features({"coarse": ClassLabel(names=["a", "b"]), "label": ClassLabel(names=["a"])}),
    )
    with pytest.raises(ValueError, match="'coarse'"):
        check_leak(["{coarse}"], {"test": data})
