"""Controls of studies, `benchmarks/controls.py`: few and wrong labels; something else in place of captions."""

import sys
from pathlib import Path

import make
import numpy as np
import pytest

from g4i_hf.data.checks import labels_of

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from controls import KINDS, controlled, with_label_noise

pytestmark = pytest.mark.slow  # of benchmarks/
TRUTH = np.repeat(np.arange(4), 20)
COLUMNS = {
    "label": TRUTH.tolist(),
    "caption": [f"{label}, {row % 2}" for row, label in enumerate(TRUTH)],
    "text_embeds": make.unit(np.random.default_rng(0).normal(size=(4, 5)))[TRUTH].tolist(),
}
ROWS = make.rows(len(TRUTH), ["animal-bird", "hot_dog", "sky", "elk"], **COLUMNS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rate", "expected"), [(0.05, 1), (0.24, 5), (0.95, 19)])
def test_of_each_class_that_share_of_labels_is_wrong(rate, expected, kind):
    found = labels_of(with_label_noise(ROWS, rate, 0, 4, kind))
    assert np.bincount(TRUTH[found != TRUTH]).tolist() == [expected] * 4 and set(found) <= set(TRUTH)


@pytest.mark.parametrize("kind", KINDS)
def test_other_orders_of_the_rows_change_no_wrong_label(kind):
    """They are known by their ids."""
    turned = ROWS.select(range(len(ROWS))[::-1]).flatten_indices()
    one, other = (labels_of(with_label_noise(split, 0.4, 1, 4, kind)) for split in (ROWS, turned))
    np.testing.assert_array_equal(one, other[::-1])


@pytest.mark.parametrize("captions", ["class_name", "shuffle"])
def test_labels_stay_in_each_class_and_captions_are_others(captions):
    found = controlled(ROWS, 3, label_fraction=0.5, captions=captions)
    has_label = labels_of(found) >= 0
    assert np.bincount(TRUTH[has_label]).tolist() == [10] * 4
    has_caption = np.array([caption is not None for caption in found["caption"][:]])
    assert (has_caption == (has_label | (captions == "shuffle"))).all() and found["caption"][:] != ROWS["caption"][:]
