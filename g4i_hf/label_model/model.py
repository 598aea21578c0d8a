"""Class probabilities from any number of views, out of fold for labelled rows, and the accuracy of each view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import priors
from ..evaluation.class_shares import share_intervals
from ..evaluation.estimate import Estimate, accuracy_of
from ..linear import has_vote, one_hot
from .agreement import (
    able_to_learn,
    accuracies_by_each_other,
    contradicted,
    label_errors_follow_ambiguity,
    noise_of_anchors,
)
from .calibration import Calibration, inverse_temperature
from .fit_view import MOST_COMPARED, fit_view
from .learned_labels import views_by_chance, views_that_know
from .likelihood import PriorOfTemperatures, calibrate, recalibrate_without, widen_for_unseen_subclasses
from .none_of_these import explained, explained_by_all, how_explained, none_of_these
from .saved import load, save
from .self_training import calibrated_by_agreement, have_two_sources, learn_predictions
from .twins import typical_rows
from .view_model import SELF_TRAINED
from .view_report import accuracies_alone, weights_of
from .views import (
    ALONE,
    BLOCK,
    FOLDS,
    NEEDS,
    WHOLE,
    Rows,
    Values,
    View,
    arrays_of,
    check_shapes,
    class_indices,
    copies_among,
)

MOST_ESTIMATED = 20_000  # rows that estimate the accuracy over all rows


class LabelModel:
    """
    Class probabilities from any number of views. Each view has a linear classifier and a temperature, and some labels
    may be wrong; all is fitted on held-out rows. The label y of a row x is modelled as

        P(y | x) = (1 - e) p_y + e q_y
        p = softmax(sum over views v of T_v (m_v / M_v)^g_v z_v + log prior)

    - z_v are the logits of a logistic regression on view v. Names of classes are labelled examples of a view. Image
      features have Fisher's linear discriminant instead if that predicts held-out labels better, as where many are
      wrong.
    - T_v is the inverse temperature of the view (Guo et al., arXiv 1706.04599); copies of a view share it.
    - m_v is the largest logit of the row minus the mean of its logits, M_v the geometric mean of m_v over the rows.
      This is a temperature for each row, as some captions name the class and others do not (Tomani et al., arXiv
      2102.12182).
    - e is the share of noisy labels, so that p is the probability of the true class even where labels are wrong.
    - q is proportional to p^k, with k from 0 (at random) to 0.6 (people confuse likely classes). It is sum_c p_c R_cy
      instead, one pattern for all labels, if that explains the labels clearly better, or if labels contradict the
      views as often where two views are sure (anchor points: Patrini et al., arXiv 1609.03683).
    - Labels count as right, e = 0, where the interval of the share of wrong ones holds zero and errors would follow p,
      as views that err together look the same; or where their share rounds to zero.

    A view without a value for a row, or without an example of a class, has no vote there; see
    [`~g4i_hf.label_model.calibration.Calibration.probabilities`]. Self-training views (image features) share a model
    that learns the predictions of all views for unlabelled rows, and votes in their place where labels are few. It is
    a linear discriminant where enough labels can be held out. If none can, views judge each other.

    Args:
        num_labels: C, number of classes.
        seed: of the folds.

    Attributes:
        probabilities_: (N, C) float16, of a labelled row by models that were not fitted on its label: for judging,
            reports and suspicious labels. The only label of a class is left as it is.
        posterior_: (N, C) float16, with the row's own label where there is one: what a student learns from.
        folds_: (N,) the fold that held a row out, 0 to 4 for labels, else 5 to 9; -2 for the only label of a class.
        accuracy_: [`~g4i_hf.evaluation.estimate.Estimate`] of the share of all rows whose most probable class is
            the true one. None where no label can be held out and no views judge each other.
        class_shares_: (C,) shares of the classes among unlabelled rows, and their 95% intervals (C, 2); None likewise.
        label_noise_: estimated share of wrong labels, `label_noise_interval_` its 95% interval. None where no label
            can be held out.
        typical_: (N,) False for a labelled row that tells nothing of unlabelled ones, see `typical_rows` in twins.py.
        none_: (N,) float16 probability that no class explains an unlabelled row, 0 for labelled ones; `none_share_`
            of the unlabelled rows and its 95% interval; None where unknown, see `none_of_these` in none_of_these.py.
        explained_: (N,) float32, how well the classes explain a row in comparison with others, by models that were not
            fitted on its label: an order where `none_` is the same.
        report_: by name of a view its `accuracy` alone with an `interval`, None where they are unknown; its `weight`,
            the share of the scaled logits' margins that is its own; and the number of `rows` with a value. A view
            that equals an earlier one counts once: it has no weight, and `copy_of` names the other. A view that has
            learned these labels `knows_labels`; where all have, no accuracy is known. It is `left_out`, as is one that
            agrees with the rest by chance. Without held-out labels, accuracies may be `unclear`: views agree rarely.
        calibration_: see [`~g4i_hf.label_model.calibration.Calibration`].
    """

    def __init__(self, num_labels: int, seed: int = 0):
        self.num_labels, self.seed = num_labels, seed

    def fit(
        self,
        views: Mapping[str, View],
        labels: np.ndarray,
        ids: Sequence | None = None,
        groups: Sequence | None = None,
        reviewed: np.ndarray | None = None,
        kept: np.ndarray | None = None,
    ) -> LabelModel:
        """
        Args:
            views: by name, at least one.
            labels: (N,) class indices; -1, -100, NaN or None for rows without a label.
            ids: (N,) of the rows, which decide the folds; None: their values do. So the order of rows changes nothing.
            groups: (N,) numbers, equal for rows that share a fold, such as those of equal images.
            reviewed: (N,) whether a person confirmed the label, which is then assumed correct.
            kept: (N,) unlabelled rows that teach no view, so that a classifier can be judged by their probabilities.

        Raises:
            ValueError: for labels other than class indices, views of other numbers of rows, and views whose values
                tell nothing; if fewer than two classes have a label or a name.
        """
        labels = class_indices(labels, self.num_labels, "labels")
        reviewed = None if reviewed is None else np.asarray(reviewed, dtype=bool)
        arrays = {"ids": ids, "groups": groups, "reviewed": reviewed, "kept": kept}
        check_shapes(views, labels, self.num_labels, arrays)
        copies = copies_among(views)
        views = {name: view for name, view in views.items() if name not in copies}
        rows = Rows.of(views, labels, self.seed, ids, groups, reviewed, kept)
        values = {name: Values.of(name, view, rows.order, self.num_labels) for name, view in views.items()}
        self.spaces_ = {name: view_values.space for name, view_values in values.items()}
        counts = np.bincount(labels[labels >= 0], minlength=self.num_labels)
        self.log_prior_ = np.log((counts + 1) / (counts.sum() + self.num_labels)).astype(np.float32)
        named = np.stack([view_values.is_named for view_values in values.values()])
        rows.hold_out(named.all(0), np.any([view_values.has for view_values in values.values()], axis=0))
        self._rows = rows
        self._fit(values, rows)
        for name, first in copies.items():
            self.report_[name] = self.report_[first] | {"weight": 0.0, "copy_of": first}
        explained = self._say_classes(values, rows)
        self.explained_, self.folds_ = rows.in_order_of_caller(explained), rows.in_order_of_caller(rows.folds)
        typical = typical_rows(values, rows)
        self.typical_ = rows.in_order_of_caller(typical)
        self.none_, self.none_share_ = np.zeros(len(labels), dtype=np.float16), None
        judged = rows.judged[typical[rows.judged]]
        if len(judged) >= priors.MIN_HELD_OUT and (rows.labels < 0).any() and self.accuracy_:
            how = how_explained(self._of_views, values, rows, judged)
            self.none_[rows.order[rows.labels < 0]], self.none_share_ = none_of_these(*how, self.seed)
        return self

    def without(self, views: Mapping[str, View], kept: np.ndarray) -> LabelModel:
        """
        The fitted model, with `probabilities_` and `posterior_` as if it had been fitted with these rows `kept`. This
        is faster, as only self-training is repeated: what views learned of labels stays, and so do other attributes.

        Args:
            views: those that it was fitted on.
            kept: (N,) unlabelled rows that teach no view.
        """
        if self._of_labels is None:
            return self
        model, rows = copy(self), self._rows.keeping(kept)
        learners, model.models_, model._trusts, model._sources, model.calibration_ = self._of_labels
        values = {
            name: Values.of(name, views[name], rows.order, self.num_labels, space)
            for name, space in self.spaces_.items()
        }
        model._self_train(values, learners, rows, with_interval=False)
        model._say_classes(values, rows)
        return model

    def predict(self, views: Mapping[str, View | np.ndarray], fold: int = WHOLE) -> np.ndarray:
        """
        Args:
            views: values (n, D) of views that the model was fitted on; some may be missing.
            fold: of `folds_`, for the models that were not fitted on its labels, or on its unlabelled rows.

        Returns:
            (n, C) float32 probabilities.
        """
        if not hasattr(self, "spaces_"):
            raise ValueError("This LabelModel is not fitted: call fit first, or load one.")
        if not WHOLE <= fold < 2 * FOLDS:
            raise ValueError(f"fold is {fold}: give 0 to 9, or -1 for the model that need leave out no label.")
        arrays = arrays_of(views, self.spaces_, self.report_)
        values = {name: Values.without_names(name, array, self.spaces_[name]) for name, array in arrays.items()}
        every = np.arange(len(next(iter(arrays.values()))))
        probabilities = np.empty((len(every), self.num_labels), dtype=np.float32)
        for start in range(0, len(every), BLOCK):
            block = every[start : start + BLOCK]
            calibration = self.calibrations_.get(fold, self.calibration_)
            probabilities[block] = calibration.probabilities(self._logits(values, block, np.full(len(every), fold)))
        return probabilities

    def save(self, folder: str | Path) -> None:
        """Writes the fitted model, with its probabilities; nothing is pickled."""
        save(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> LabelModel:
        model = cls(0)
        load(model, folder)
        return model

    def _fit(self, values: dict[str, Values], rows: Rows) -> None:
        """Fit a model of each view, calibrate them, then the shared model of the self-training views."""
        examples = {name: view_values.examples(rows.labels) for name, view_values in values.items()}
        known = [name for name in values if np.count_nonzero(examples[name]) > 1]
        if not known:
            raise ValueError(NEEDS)
        numbers = np.stack([examples[name] for name in known])
        few = (numbers == 1) & (numbers < numbers.max(0)) & (len(rows.judged) > 0)
        self._trusts = np.where(few, priors.TYPICAL_EXAMPLE, 1.0) * (numbers > 0)
        self._sources = [values[name].source for name in known]
        self._instance_dependent: bool | None = None
        self.calibrations_: dict[int, Calibration] = {}
        self._fixed_noise: tuple[float, tuple[float, float]] | None = None
        self._of_labels: tuple[Any, ...] | None = None  # what self-training starts from
        self._asked_anchors, self._is_sure = False, False
        self._by_agreement: dict[str, float] | None = None
        self._of_views = [fit_view(values[name], rows, self.log_prior_) for name in known]
        self.models_ = list(self._of_views)  # those that vote
        self.accuracy_: Estimate | None = None
        self.class_shares_: tuple[np.ndarray, np.ndarray] | None = None
        self.label_noise_: float | None = None
        self.label_noise_interval_: tuple[float, float] | None = None
        self.report_: dict[str, dict[str, Any]] = {
            name: {"accuracy": None, "interval": None, "weight": 0.0, "rows": int(view_values.has.sum())}
            for name, view_values in values.items()
        }
        know = views_that_know(self._of_views, values, rows)
        left_out = know or views_by_chance(self._of_views, values, rows)
        if 0 < len(left_out) < len(known):
            self._fit_without(left_out, values, rows, knows_labels=bool(know))
            return
        unlabelled, learners = len(rows.unlabelled) > 0, tuple(name for name in values if values[name].self_trains)
        sources = {values[name].source for name in (*known, *learners)}
        self_trains = bool(learners) and len(sources) > 1 and unlabelled
        if not len(rows.judged) and len(sources) > 1 and unlabelled:
            if left_out := self._judge_by_each_other(values, rows):
                self._fit_without(left_out, values, rows)
                return
        else:
            self._calibrate(values, rows, with_interval=not self_trains)
        if self_trains:
            self._of_labels = learners, self.models_, self._trusts, self._sources, self.calibration_
            self._self_train(values, learners, rows, with_interval=True)
        self._estimate(values, rows)
        if know:
            self.accuracy_ = self.class_shares_ = None
            self.report_ = {
                name: line | {"accuracy": None, "interval": None, "knows_labels": True}
                for name, line in self.report_.items()
            }

    def _fit_without(self, names: Sequence[str], values: dict[str, Values], rows: Rows, **why: bool) -> None:
        report = {name: self.report_[name] | {"left_out": True} | why for name in names}
        self._fit({name: view for name, view in values.items() if name not in names}, rows)
        self.report_ = {name: report.get(name) or self.report_[name] for name in values}

    def _logits(self, values: dict[str, Values], rows: np.ndarray, model_of: np.ndarray) -> list[np.ndarray]:
        """(rows, C) of each model, of each row by the one that `model_of` (N,) names."""
        return [model.logits(values, rows, model_of) for model in self.models_]

    # --- Calibration -------------------------------------------------------------------------------------------------

    def _calibrate(self, values: dict[str, Values], rows: Rows, *, with_interval: bool) -> None:
        judged = rows.judged
        held_out = self._logits(values, judged, rows.folds)
        views = [values[model.name] for model in self.models_ if not model.self_trained]
        if len(views) == len(self.models_):
            self._instance_dependent = label_errors_follow_ambiguity(held_out, views, judged, rows.labels[judged])
        kwargs = {
            "labels": rows.labels[judged],
            "log_prior": self.log_prior_,
            "folds": rows.folds[judged],
            "trusts": self._trusts,
            "expected": self._expected_temperatures(values, rows),
            "reviewed": rows.reviewed[judged],
            "instance_dependent": self._instance_dependent is True,
        }
        calibration = calibrate(held_out, fixed_noise=self._fixed_noise, with_interval=with_interval, **kwargs)
        unclear = self._may_be_right(calibration) or calibration.share < priors.FEW_WRONG_LABELS
        if unclear and not self._asked_anchors:
            self._asked_anchors = True
            self._fixed_noise = noise_of_anchors(held_out, views, rows, self.log_prior_)
            if self._fixed_noise is not None:
                calibration = calibrate(held_out, fixed_noise=self._fixed_noise, with_interval=with_interval, **kwargs)
        if self._instance_dependent is None and with_interval:
            low, high = calibrate(held_out, with_interval=True, **kwargs | {"instance_dependent": True}).interval
            calibration.interval = min(low, calibration.interval[0]), max(high, calibration.interval[1])
        if len(held_out) == 1 and len(judged):
            widen_for_unseen_subclasses(calibration, held_out[0], kwargs["labels"], kwargs["reviewed"])
        if self._may_be_right(calibration):
            calibration = calibrate(held_out, fixed_noise=(0.0, calibration.interval), **kwargs)
        self.calibration_, folds = calibration, rows.folds[judged]
        self.calibrations_ = {
            int(fold): recalibrate_without(folds == fold, calibration, held_out, **kwargs)
            for fold in np.unique(folds)
            if with_interval
        }

    def _may_be_right(self, calibration: Calibration) -> bool:
        """Whether all labels count as right: where errors follow the views, these may err together instead."""
        follow_views = self._instance_dependent is True and calibration.confusions is None
        return calibration.interval[0] == 0 and (follow_views or calibration.share < priors.NEGLIGIBLE_WRONG_LABELS)

    def _copies(self, accuracies: Sequence[float] | None = None) -> np.ndarray:
        """(V,) the number of models whose view has the same source; a less accurate one counts as a part of one."""
        sources, counts = np.array(self._sources), np.array(accuracies or [1.0] * len(self._sources))
        of_source = [counts[sources == source] for source in self._sources]
        return np.array([each.sum() / each.max() for each in of_source])

    def _expected_temperatures(self, values: dict[str, Values], rows: Rows) -> PriorOfTemperatures:
        """
        Few held-out labels do not show which view is right. Where views with names of classes agree, they are,
        so that another one weighs less a priori.
        """
        expected = PriorOfTemperatures.of(self._copies())
        is_few = 0 < len(rows.judged) < priors.ENOUGH_LABELS_A_CLASS * self.num_labels
        named = [model.name for model in self._of_views if values[model.name].is_named.any()]
        if not is_few or not len(rows.unlabelled) or len({values[name].source for name in named}) < 2:
            return expected
        if self._by_agreement is None:
            accuracies, temperatures, _ = self._accuracies_by_each_other(values, rows)
            is_sure = accuracies.max() >= priors.MIN_ACCURACY_OF_BEST
            of_views = zip((model.name for model in self.models_), temperatures, strict=True)
            self._by_agreement = {name: value for name, value in of_views if is_sure and name in named}
        for number, model in enumerate(self.models_):
            if model.name in self._by_agreement:
                expected.means[number] = min(self._by_agreement[model.name], expected.means[number])
                expected.stds[number] = priors.NARROW_STD_LOG_TEMPERATURE
        return expected

    def _accuracies_by_each_other(
        self, values: dict[str, Values], rows: Rows
    ) -> tuple[np.ndarray, np.ndarray, dict[tuple[int, int], bool]]:
        """(V,) of each view, the inverse temperatures (V,) that suit them, and what two views have in common."""
        sample = rows.unlabelled[:MOST_COMPARED]
        logits = self._logits(values, sample, rows.folds)
        views = [values[model.name] for model in self.models_]
        accuracies, in_common = accuracies_by_each_other(logits, views, list(values.values()), sample, rows)
        of_rows = [of_view[view.has[sample]] for of_view, view in zip(logits, views, strict=True)]
        inverse_temperatures = [
            inverse_temperature(each, self.log_prior_, accuracy) if len(each) else 1.0
            for each, accuracy in zip(of_rows, accuracies, strict=True)
        ]
        return np.array(accuracies), np.array(inverse_temperatures) / self._copies(accuracies), in_common

    def _judge_by_each_other(self, values: dict[str, Values], rows: Rows) -> list[str]:
        """
        Where no label can be held out: calibrate each view to the accuracy that the other views estimate. Returns the
        views to leave out instead.
        """
        accuracies, temperatures, in_common = self._accuracies_by_each_other(values, rows)
        if left_out := contradicted([values[model.name] for model in self.models_], in_common, rows):
            return left_out
        self._is_sure = bool(accuracies.max() >= priors.MIN_ACCURACY_OF_BEST)
        for model, accuracy in zip(self.models_, accuracies, strict=True):
            self.report_[model.name] |= {"accuracy": float(accuracy)} if self._is_sure else {"unclear": True}
        votes = accuracies >= priors.MIN_ACCURACY_OF_VOTE * accuracies.max()
        fixed = calibrate([np.empty((0, self.num_labels))] * len(votes), rows.judged, self.log_prior_, self._trusts)
        self.calibration_ = replace(fixed, inverse_temperatures=votes * temperatures)
        return []

    def _self_train(
        self, values: dict[str, Values], learners: tuple[str, ...], rows: Rows, *, with_interval: bool
    ) -> None:
        """Put a shared model of the self-training views in place of theirs."""
        if len(learners) > 1:
            compared = rows.unlabelled[:MOST_COMPARED]
            predicted = self._predict(values, compared, rows.folds).argmax(1)
            learners = able_to_learn({name: values[name] for name in learners}, compared, predicted, self.num_labels)
        teaches = have_two_sources(values, learners, self.models_, self.calibration_.inverse_temperatures)
        learned = learn_predictions(values, learners, rows, self.log_prior_, partial(self._predict, values), teaches)
        if learned is not None:
            model, sample, targets = learned
            # It repeats what the models of its views tell, and their errors, so with few labels these have no vote.
            # With more, they help to tell wrong labels from errors of views
            may_stay = len(rows.judged) >= priors.ENOUGH_LABELS_A_CLASS * self.num_labels
            stay = [n for n, other in enumerate(self.models_) if may_stay or other.name not in learners]
            self.models_ = [*(self.models_[number] for number in stay), model]
            self._trusts = np.vstack([self._trusts[stay], has_vote(model.models[WHOLE][1])])
            self._sources = [*(self._sources[number] for number in stay), SELF_TRAINED]
        if len(rows.judged):
            self._calibrate(values, rows, with_interval=with_interval)
        elif learned is not None:
            temperatures = self.calibration_.inverse_temperatures[stay]
            fixed = replace(self.calibration_, inverse_temperatures=temperatures, trusts=self._trusts)
            logits = self._logits(values, sample, rows.folds)
            self.calibration_ = calibrated_by_agreement(fixed, logits, targets)

    def _predict(self, values: dict[str, Values], rows: np.ndarray, model_of: np.ndarray) -> np.ndarray:
        return self.calibration_.probabilities(self._logits(values, rows, model_of))

    # --- Estimates ---------------------------------------------------------------------------------------------------

    def _estimate(self, values: dict[str, Values], rows: Rows) -> None:
        """Estimate the accuracies of all views together and of each, their weights, and the share of wrong labels."""
        judged, labels = rows.judged, rows.labels[rows.judged]
        if len(judged):
            self.label_noise_ = self.calibration_.share
            self.label_noise_interval_ = self.calibration_.interval_by(rows.groups[judged])
        sample = np.arange(min(len(rows.labels), MOST_ESTIMATED))
        everywhere, held_out = self._logits(values, sample, rows.folds), self._logits(values, judged, rows.folds)
        for name, weight in weights_of(self.calibration_, everywhere, self.models_, self.report_).items():
            self.report_[name]["weight"] = weight
        if not len(judged):
            if self._is_sure:
                self.accuracy_ = Estimate(float(self.calibration_.probabilities(everywhere).max(1).mean()))
            return
        calibration, reviewed = self.calibration_, rows.reviewed[judged]
        of_all, of_judged = calibration.probabilities(everywhere), calibration.probabilities(held_out)
        posterior = calibration.posterior(of_judged, labels, reviewed)
        counts = np.bincount(rows.labels[rows.known], minlength=self.num_labels)
        held_out_rows = calibration.held_out(of_judged, posterior, labels, reviewed, counts, of_all)
        self.accuracy_ = accuracy_of(of_all, replace(held_out_rows, groups=rows.groups[judged]))
        if (in_pool := rows.labels[sample] < 0).any():
            self.class_shares_ = share_intervals(of_all[in_pool], of_judged, posterior, counts, self.seed)
        of_views, of_rows = (self._of_views, values, rows), (sample, judged, posterior, counts)
        for name, estimate in accuracies_alone(*of_views, of_rows, calibration, self.log_prior_).items():
            self.report_[name] |= {"accuracy": estimate.share, "interval": estimate.interval}

    def _say_classes(self, values: dict[str, Values], rows: Rows) -> np.ndarray:
        """Sets probabilities and posterior, in the order of the caller; (N,) how well the classes explain a row."""
        number = len(rows.labels)
        self.probabilities_, self.posterior_ = (
            np.empty((number, self.num_labels), dtype=np.float16) for _ in range(2)
        )
        by_view = np.empty((number, len(self._of_views)), dtype=np.float32)
        for start in range(0, number, BLOCK):
            block = np.arange(start, min(start + BLOCK, number))
            labels, places = rows.labels[block], rows.order[block]
            probabilities = self._predict(values, block, rows.folds).astype(np.float16)
            alone = rows.folds[block] == ALONE
            probabilities[alone] = one_hot(labels[alone], self.num_labels)
            self.probabilities_[places] = probabilities
            self.posterior_[places] = self.calibration_.posterior(probabilities, labels, rows.reviewed[block])
            for column, model in enumerate(self._of_views):
                by_view[block, column] = explained(model.logits(values, block, rows.folds))
        return explained_by_all(by_view)
