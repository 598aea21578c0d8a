"""Linear models without a view around them."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from g4i_hf.linear import ABSENT, has_vote, linear_discriminant, margins_of, one_hot

CLASSES, DIM = 4, 6


def test_the_discriminant_is_that_of_scikit_learn():
    """Up to one factor: the mean margin of its rows is 1. A class without rows, the last one, gets no vote."""
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(CLASSES, DIM)), np.repeat(np.arange(CLASSES), 30)
    x = centres[labels] + 0.8 * rng.normal(size=(len(labels), DIM)) + 3
    peer = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(CLASSES, 1 / CLASSES)).fit(x, labels)
    weight, bias = linear_discriminant(x, one_hot(labels, CLASSES + 1), 0.0)
    assert bias[-1] == ABSENT and has_vote(bias).tolist() == [True] * CLASSES + [False]
    logits = x @ weight + bias
    assert margins_of(logits).mean() == pytest.approx(1, abs=1e-4)
    theirs = peer.decision_function(x)
    ours, theirs = (each - each.mean(1, keepdims=True) for each in (logits[:, :-1], theirs))
    np.testing.assert_allclose(ours, theirs * (ours.std() / theirs.std()), atol=1e-4)


def test_the_margin_leaves_out_classes_without_examples():
    logits = np.array([[3.0, 1.0, -1.0, ABSENT], [0.0, 0.0, 0.0, 0.0]])
    assert margins_of(logits).tolist() == [2.0, 0.0]
