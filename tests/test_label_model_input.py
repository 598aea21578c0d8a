"""What a label model takes for labels, views and its file, and what it says of anything else."""

import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save
from test_label_model import CLASSES, DIM, accuracy, alone, clusters, fitted, views_of

from g4i_hf import LabelModel, View

SIX = [0, 1, 2, 0, 1, 2]
# A view and labels -> what is said
CANNOT = [
    (View(np.eye(6)), [1, 1, 1, -1, -1, 1], "labels or names of at least two classes"),
    (View(np.where(np.eye(6) > 0, np.nan, 1)), SIX, "'caption' has values that are NaN or infinite"),
    (View(np.ones((6, 4))), SIX, "'caption' has the same values in all rows"),
    (View(np.full((6, 4), np.nan)), SIX, "'caption' has no value in any row"),
    (View(np.eye(6)), [0.5, *SIX[1:]], "labels of type float64 and shape .6,.: give a class index"),
    (View(np.eye(6)), [np.inf, *SIX[1:]], "labels of type float64 .* -1 where it is unknown"),
    (View(np.eye(6).tolist()), SIX[:5], r"values of shape .6, 6. .* there are 5 labels"),
    (View([["red"]] * 6), SIX, "type <U3.* give a row for each image, of numbers"),
    (View(np.eye(6)), [-2, *SIX[1:]], "labels hold -2: give a class index, 0 to 2, or -1"),
    (View(np.eye(6)), ["circle"] * 6, "labels of type <U6.* -1 where it is unknown"),
    (View(np.eye(6)), [object()] * 6, "labels of type object.* -1 where it is unknown"),
]


@pytest.mark.parametrize(("view", "labels", "message"), CANNOT, ids=[message for *_, message in CANNOT])
def test_what_cannot_be_fitted_is_an_error(view, labels, message):
    with pytest.raises(ValueError, match=message):
        LabelModel(3).fit({"caption": view}, labels)


def test_an_array_of_another_shape_is_not_taken_for_a_view_or_an_answer():
    model = LabelModel(3).fit({"caption": View(np.eye(6))}, SIX)
    with pytest.raises(ValueError, match=r"'caption' has values of shape .6, 1., not .rows, 6."):
        model.predict({"caption": np.eye(6)[:, :1]})
    with pytest.raises(ValueError, match="answers hold 3"):
        View.answers([0, 3], num_labels=3)
    with pytest.raises(TypeError, match="'caption' is a ndarray: give View"):
        LabelModel(3).fit({"caption": np.eye(6)}, SIX)


def test_rows_without_a_label_are_written_in_several_ways():
    data, ways = clusters(60, 1.0), (-1, -100, None, np.nan)
    labels = [label if row % 3 else ways[row % 4] for row, label in enumerate(data.y.tolist())]
    expected = fitted(data, np.where(np.arange(60) % 3, data.y, -1), ids=range(60))
    np.testing.assert_array_equal(fitted(data, labels, ids=range(60)).posterior_, expected.posterior_)


def test_tensors_are_views_whatever_their_type():
    data = clusters(60, 1.0)
    for kind in (torch.bfloat16, torch.float32, torch.float64):
        values = torch.tensor(data.x, dtype=kind, requires_grad=True)
        model = LabelModel(CLASSES).fit({"image": View(values, values[:CLASSES])}, torch.tensor(data.y))
        assert accuracy(model.predict({"image": values}), data.truth) > 0.8


def test_what_cannot_be_predicted_is_an_error():
    views = {"caption": View(np.eye(6)), "image": View(np.eye(6))}
    with pytest.raises(ValueError, match="not fitted: call fit"):
        LabelModel(3).predict(views)
    with pytest.raises(TypeError, match="views is a list: give a dict of them by name"):
        LabelModel(3).fit([*views.values()], SIX)
    model = LabelModel(3).fit(views | {"image": View(np.eye(6) * 2 + 1)}, SIX)
    with pytest.raises(TypeError, match="views is a ndarray: give a dict of them by name"):
        model.predict(np.eye(6))
    with pytest.raises(ValueError, match="as many rows of each.*'caption' has 4, 'image' has 5"):
        model.predict({"caption": np.eye(6)[:4], "image": np.eye(6)[:5]})
    for unknown in ({"captoin": np.eye(6)}, {}):
        with pytest.raises(ValueError, match="was fitted with the views .'caption', 'image'., not with"):
            model.predict(unknown)
    with pytest.raises(ValueError, match="fold is 10: give 0 to 9"):
        model.predict(views, fold=10)


def test_a_view_names_classes_of_rows_that_almost_all_have_a_value():
    values, every = np.ones((10, 3)), np.ones(10, dtype=bool)
    assert View(values, np.eye(3)).names_classes_of(every)
    assert not View(values).names_classes_of(every) and not View(values, np.eye(3)).names_classes_of(~every)
    assert not View(values, np.diag([1, 1, 0])).names_classes_of(every), "a class without a name"
    values[:3] = np.nan
    assert not View(values, np.eye(3)).names_classes_of(every)
    assert View(values, np.eye(3)).names_classes_of(np.arange(10) > 1), "an eighth is without"


def test_a_saved_model_is_the_same_and_holds_no_pickle(tmp_path):
    data, images = clusters(500, spread=2.0), clusters(500, spread=2.0, view=1).x
    labels = np.where(np.arange(500) % 3 == 0, -1, data.y)
    model = fitted(data, labels, images, names=np.eye(CLASSES, DIM))
    model.save(tmp_path / "model")
    again, views = LabelModel.load(tmp_path / "model"), views_of(data.x, images)
    for fold in (-1, 4):
        np.testing.assert_array_equal(again.predict(views, fold), model.predict(views, fold))
    for name in ("probabilities_", "posterior_", "folds_", "label_noise_"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    assert again.accuracy_.share == model.accuracy_.share and alone(again) == alone(model)
    (file,) = (tmp_path / "model").iterdir()
    whole = file.read_bytes()
    assert load_file(file)
    for name, content in {"cut": whole[:-9], "foreign": save({"a": np.eye(2)}), "pickled": pickle.dumps(1)}.items():
        file.write_bytes(content)
        with pytest.raises(ValueError) as raised:
            LabelModel.load(file.parent)
        assert re.fullmatch(rf"{re.escape(str(file))} is damaged, or no label model .*", str(raised.value)), name
    with pytest.raises(FileNotFoundError, match="label_model.safetensors"):
        LabelModel.load(tmp_path)
