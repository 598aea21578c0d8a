"""A calibrated classifier from caption embeddings to classes, out of fold for labelled rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn

from .calibration import ABSENT, calibrate, inverse_temperature, margins_of, true_accuracy

FOLDS = 5
STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # C of the logistic regression, as in scikit-learn
MAX_ITER = 40  # for each strength, from the weights of the strength before
MOST_FITTED = 50_000  # rows that a model is fitted on; of more a sample is taken
MOST_CALIBRATED = 10_000  # held-out rows that the calibration is fitted on
MOST_TAUGHT = 4_000  # unlabelled rows that one view learns from the other
BLOCK = 8192  # rows predicted at once
WHOLE = -1  # in place of a fold: the model that is fitted on all rows
ALONE = -2  # fold of a row without whose label its class would be unknown: no model leaves it out
TAUGHT_STRENGTH = 1.0  # of image features that learn predictions, or labels that predictions confirm
LITTLE_NOISE = 0.05  # share of wrong labels below which rows that caption and image are sure of are asked too
LEAST_SURE = 100  # rows of which caption and image are sure, for the labels of these to tell of all labels
CLEAR_SHARE = 2 / 3  # of the contradictions of all rows, which those sure rows must have
FEWEST_TAUGHT = 2  # rows of a class, counted by their probabilities, for image features to learn it from other views
TRUST_OF_ONE = 0.5  # that the only example of a class stands for it, where another view has more


class CaptionClassifier:
    """
    Class probabilities from caption embeddings: a logistic regression with a temperature and a share of wrong labels,
    both estimated on held-out rows. A given label y of a row x is modelled as

        P(y | x) = (1 - e) p_y + e sum_c p_c R_cy
        p = softmax(sum over views v of T_v (m_v / M_v)^g_v z_v + log prior)

    where z_v are the logits of a logistic regression on one view of the row: its caption; and, if there are any, the
    features of its image as labels teach them, and as the other views teach them on unlabelled rows. A view says
    nothing about a class that it has no example of, and does not rule out one of which it has a single example while
    another view has more; see [`~g4i_hf.supervision.calibration.Calibration.probabilities`]. T_v is the
    inverse temperature of a view. m_v is the largest logit of the row minus their mean, and M_v the geometric mean: a
    temperature for each row, as some captions name the class and others do not (Tomani et al., arXiv 2102.12182). e is
    the share of wrong labels, and R_cy how they are wrong: at random, 1 / C, or always in the same way, as counted
    where labels contradict captions, if that explains the labels clearly better, or if labels contradict captions as
    often where caption and image features are sure. So p is the probability of the true class, also where labels are
    wrong. Errors of captions that no other row explains count as wrong labels too.

    Args:
        num_labels: C, number of classes.
        seed: of the folds.

    Attributes:
        out_of_fold_: (N, C) float16 probabilities of the rows fitted on, of a labelled row by a model that was not
            fitted on it; the only label of a class is left as it is.
        accuracy_: estimated share of rows whose most probable class is the true one. Where no class has two labels, by
            what captions and image features say of each other; None where that is not known either.
        view_accuracies_: the same of each view alone: of captions, and of image features that labels taught.
        label_noise_: estimated share of wrong labels; `label_noise_interval_` its 95% interval. None where
            nothing can be held out, as no class has two labels (with captions alone: a label and a name).
        calibration_: fitted on held-out rows, see [`~g4i_hf.supervision.calibration.Calibration`].
    """

    def __init__(self, num_labels: int, seed: int = 0):
        self.num_labels, self.seed = num_labels, seed

    def fit(
        self,
        text_embeds: np.ndarray,
        labels: Sequence[int],
        image_features: np.ndarray | None = None,
        class_embeds: np.ndarray | None = None,
    ) -> "CaptionClassifier":
        """
        Args:
            text_embeds: (N, D), of any float type.
            labels: (N,) class indices; negative for rows without a label.
            image_features: (N, F) of the same rows, such as those of a pretrained model.
            class_embeds: (C, D) the names of the classes, by the same text encoder: each is one more labelled caption,
                which is worth much where labels are few. Zeros for a name that says nothing.

        Raises:
            ValueError: without rows, or when fewer than two classes have a label or a name.
        """
        labels = np.asarray(labels, dtype=np.int64)
        known = np.flatnonzero(labels >= 0)
        counts = np.bincount(labels[known], minlength=self.num_labels)
        named = np.zeros(0, dtype=np.int64) if class_embeds is None else np.flatnonzero(np.any(class_embeds, axis=1))
        if not len(labels) or len(np.union1d(labels[known], named)) < 2:
            raise ValueError(
                "A caption classifier needs captions, and labels or names of at least two classes. Label some images "
                "with captions; or name the classes, and give --text_encoder, that of the captions."
            )
        self.log_prior_ = np.log((counts + 1) / (counts.sum() + self.num_labels)).astype(np.float32)
        self._sees_images = image_features is not None
        views, examples = [text_embeds], [(class_embeds, named)]
        if image_features is not None and np.count_nonzero(counts) > 1:
            views, examples = [text_embeds, image_features], [(class_embeds, named), (None, named[:0])]
        numbers = np.stack([counts + np.isin(np.arange(self.num_labels), classes) for _, classes in examples])
        if image_features is None:
            counts[named] += 1  # a class with a name can be told without its only label
        folds = _folds(labels, self.seed)
        judged = known[counts[labels[known]] > 1]
        folds[known[counts[labels[known]] == 1]] = ALONE
        if len(judged) > MOST_CALIBRATED:
            judged = np.sort(np.random.default_rng(self.seed).choice(judged, MOST_CALIBRATED, replace=False))
        rows = _Rows(labels, folds, judged)
        few = (numbers == 1) & (numbers < numbers.max(0)) & (len(judged) > 0)
        self._trusts = np.where(few, TRUST_OF_ONE, 1.0)
        self._views = [self._fit_view(*each, rows) for each in zip(views, examples, strict=True)]
        self.label_noise_: float | None = None
        self.label_noise_interval_: tuple[float, float] | None = None
        if not len(judged) and len(views) == 2 and len(rows.unlabelled):
            self._calibrate_by_each_other(views, rows)
        else:
            self._calibrate_on_held_out(views, rows)
        if image_features is not None and len(rows.unlabelled):
            self._teach(views, image_features, rows)
            views = [*views, image_features]
        self.out_of_fold_ = self._out_of_fold(views, rows)
        return self

    def predict_proba(self, text_embeds: np.ndarray, image_features: np.ndarray | None = None) -> np.ndarray:
        """
        Args:
            text_embeds: (n, D).
            image_features: (n, F), where the classifier was fitted with them.

        Returns:
            (n, C) float32.
        """
        if (image_features is not None) != self._sees_images:
            raise ValueError("The classifier was fitted with other views: give image_features there and here, or not.")
        views = [text_embeds, *[image_features] * (len(self._views) - 1)]
        every = np.arange(len(text_embeds))
        logits = [view.by_model(WHOLE, values, every) for view, values in zip(self._views, views, strict=True)]
        return self.calibration_.probabilities(logits).astype(np.float32)

    def posterior(self, probabilities: np.ndarray, labels: Sequence[int]) -> np.ndarray:
        """
        Probabilities of the true class when the given label y is known too, by Bayes' rule: proportional to
        p_c ((1 - e) [c = y] + e R_cy). Rows without a label keep theirs.

        Args:
            probabilities: (N, C), out of fold.
            labels: (N,) class indices; negative for rows without a label.

        Returns:
            (N, C) float32.
        """
        labels, calibration = np.asarray(labels), self.calibration_
        found = np.asarray(probabilities, dtype=np.float32).copy()
        known = np.flatnonzero(labels >= 0)
        if calibration.confusions is None:
            likelihood = np.full((len(known), self.num_labels), calibration.noise / self.num_labels, dtype=np.float32)
        else:
            likelihood = (calibration.noise * calibration.confusions.T[labels[known]]).astype(np.float32)
        likelihood[np.arange(len(known)), labels[known]] += 1 - calibration.noise
        weighted = (found[known] + 1e-7) * likelihood
        found[known] = weighted / weighted.sum(1, keepdims=True)
        return found

    def _fit_view(self, values: np.ndarray, examples: tuple[np.ndarray | None, np.ndarray], rows: "_Rows") -> "_View":
        """
        With the strength of regularisation that predicts held-out labels best, tried from the strongest on.
        `examples`: embeddings by class, and the classes whose embeddings every model is fitted on too.
        """
        scale = _Scale.of(values)
        example_values = scale(*examples) if len(examples[1]) else np.zeros((0, values.shape[1]), dtype=np.float32)
        best, least = None, np.inf
        for strength in STRENGTHS if len(rows.judged) else STRENGTHS[:3]:
            view = _View(scale, {}, self.num_labels)
            for fold in [*np.unique(rows.folds[rows.judged]), WHOLE]:
                fitted = self._drawn(np.flatnonzero((rows.labels >= 0) & (rows.folds != fold)))
                x = np.concatenate([scale(values, fitted), example_values])
                y = np.concatenate([rows.labels[fitted], examples[1]])
                start = None if best is None else best.models[int(fold)]
                view.models[int(fold)] = logistic_regression(x, y, self.num_labels, strength, start)
            held_out = view.held_out(values, rows.folds, rows.judged)
            loss = calibrate([held_out], rows.labels[rows.judged], self.log_prior_).loss
            if len(rows.judged) and loss >= least:
                break
            best, least = view, loss
        if len(rows.judged) and len(rows.unlabelled):
            best.temper_whole(values, rows.unlabelled[:: len(rows.unlabelled) // MOST_TAUGHT + 1])
        return best

    def _drawn(self, rows: np.ndarray) -> np.ndarray:
        """`MOST_FITTED` of these row numbers at most."""
        if len(rows) <= MOST_FITTED:
            return rows
        return np.sort(np.random.default_rng(self.seed).choice(rows, MOST_FITTED, replace=False))

    def _calibrate_on_held_out(self, views: list[np.ndarray], rows: "_Rows") -> None:
        labels, folds = rows.labels[rows.judged], rows.folds[rows.judged]
        held_out = self._logits(views, rows.folds, rows.judged)
        found = self.calibration_ = calibrate(held_out, labels, self.log_prior_, folds, trusts=self._trusts)
        known = None
        if len(views) > 1 and len(rows.judged) and found.noise < LITTLE_NOISE:
            known = self._noise_of_anchors(views[1], held_out[0], rows)
        if known is not None:
            found = self.calibration_ = calibrate(held_out, labels, self.log_prior_, folds, known, self._trusts)
        if len(rows.judged):
            self.label_noise_ = found.noise * found.wrong
            low, high = found.interval
            self.label_noise_interval_ = (low * found.wrong, high * found.wrong)
        self.view_accuracies_ = []
        for logits in held_out[:2]:
            alone = found if len(held_out) == 1 else calibrate([logits], labels, self.log_prior_, folds, known)
            self.view_accuracies_.append(true_accuracy([logits], labels, alone))
        self.accuracy_ = true_accuracy(held_out, labels, found)

    def _noise_of_anchors(
        self, features: np.ndarray, captions: np.ndarray, rows: "_Rows"
    ) -> tuple[float, tuple[float, float]] | None:
        """
        The share of wrong labels among rows of which both caption and image are sure, and its 95% interval there. Two
        classes whose labels often change places look like two classes that captions confuse. But captions that confuse
        classes, and images that do, are sure of the rows that they do not confuse; labels that change places do so
        there too (anchor points: Patrini et al., arXiv 1609.03683). None where sure rows have clearly fewer
        contradictions than all rows have.

        Args:
            features: image features, which learn the judged rows whose label agrees with the caption, in two halves.
            captions: (judged, C) held-out logits of the captions.
        """
        labels = rows.labels[rows.judged]
        told = calibrate([captions], labels, self.log_prior_).probabilities([captions]).argmax(1)
        agree, half = told == labels, rows.folds[rows.judged] % 2
        images = np.empty(captions.shape, dtype=np.float32)
        for part in (0, 1):
            taught = rows.judged[agree & (half != part)]
            if len(np.unique(rows.labels[taught])) < 2:
                return None
            values = self._views[1].scale(features, taught)
            weight, bias = logistic_regression(values, rows.labels[taught], self.num_labels, TAUGHT_STRENGTH)
            images[half == part] = self._views[1].scale(features, rows.judged[half == part]) @ weight + bias
        if (images.argmax(1) == labels)[agree].mean() < (1 + 1 / self.num_labels) / 2:
            return None  # image features are less than halfway from chance to always right
        sure = np.zeros(len(labels), dtype=bool)
        for label in np.unique(told):
            alike = np.flatnonzero((told == label) & (images.argmax(1) == label))
            ranks = [_lead(logits[alike]).argsort().argsort() for logits in (captions, images)]
            sure[alike[np.minimum(*ranks).argsort()[len(alike) - len(alike) // 4 :]]] = True
        if sure.sum() < LEAST_SURE:
            return None
        share = float((~agree[sure]).mean())
        if share <= CLEAR_SHARE * (~agree).mean():
            return None
        low, high = binomtest(int((~agree[sure]).sum()), int(sure.sum())).proportion_ci(method="wilson")
        return share, (float(low), float(high))

    def _calibrate_by_each_other(self, views: list[np.ndarray], rows: "_Rows") -> None:
        """
        Where no label can be held out. Classes that one view predicts can be learned from the other view as far as
        they are true: its own errors mean nothing there. So each view learns what the other predicts for half of the
        unlabelled rows, and its recall on the other half, the mean over the classes, stands for the other's accuracy.
        It is too low for the better view, which is learned from the worse one, so the odds are spread: their ratio is
        squared. The temperature of a view makes its mean probability of the likeliest class this accuracy.
        """
        generator = np.random.default_rng(self.seed)
        sample = np.sort(generator.permutation(rows.unlabelled)[:MOST_TAUGHT])
        values = [view.scale(of_view, sample) for view, of_view in zip(self._views, views, strict=True)]
        logits = self._logits(views, rows.folds, sample)
        half = generator.permutation(len(sample)) % 2
        odds = np.empty(2)
        for view, other in ((0, 1), (1, 0)):
            predicted = logits[view].argmax(1)
            learned = np.empty_like(predicted)
            for part in np.unique(half):
                taught, asked = half != part, half == part
                weight, bias = logistic_regression(values[other][taught], predicted[taught], self.num_labels, 1.0)
                learned[asked] = (values[other][asked] @ weight + bias).argmax(1)
            again = np.bincount(predicted[learned == predicted], minlength=self.num_labels)
            recall = (again / np.maximum(np.bincount(predicted, minlength=self.num_labels), 1)).mean()
            odds[view] = np.clip(recall, 0.01, 0.99) / (1 - np.clip(recall, 0.01, 0.99))
        odds = odds * np.sqrt(odds / odds[::-1])
        self.view_accuracies_ = list(odds / (1 + odds))
        pairs = zip(logits, self.view_accuracies_, strict=True)
        found = np.array([inverse_temperature(of_view, self.log_prior_, accuracy) for of_view, accuracy in pairs])
        self.calibration_ = replace(calibrate(logits, sample[:0], self.log_prior_), inverse_temperatures=found)
        self.accuracy_ = float(self.calibration_.probabilities(logits).max(1).mean())

    def _teach(self, views: list[np.ndarray], features: np.ndarray, rows: "_Rows") -> None:
        """
        Adds image features as a view that learns the class probabilities of unlabelled rows by the other views: that
        is more than a few labels can teach, and classes without a label are among them. Of these the other views may
        be unsure, which their most probable class would hide. A held-out label has no part in what its model is
        taught, and no row is predicted by a model that was taught on it.
        """
        sample, known = self._drawn(rows.unlabelled), self._drawn(np.flatnonzero(rows.labels >= 0))
        view = _View(_Scale.of(features), {}, self.num_labels)

        def learn(fold: int, told: np.ndarray) -> None:
            """`told`: (sample, C) probabilities."""
            taught, labelled = rows.folds[sample] != fold, known[rows.folds[known] != fold]
            x = view.scale(features, np.concatenate([sample[taught], labelled]))
            y = np.concatenate([told[taught], np.eye(self.num_labels, dtype=np.float32)[rows.labels[labelled]]])
            y[:, y.sum(0) < FEWEST_TAUGHT] = 0
            view.models[fold] = logistic_regression(x, y, self.num_labels, TAUGHT_STRENGTH, view.models.get(WHOLE))

        def told_by(model_of: np.ndarray) -> np.ndarray:
            told = self.calibration_.probabilities(self._logits(views, model_of, sample)).astype(np.float32)
            if len(rows.judged):
                return told
            return np.eye(self.num_labels, dtype=np.float32)[told.argmax(1)]  # no label has calibrated them

        told = told_by(rows.folds)
        for fold in (WHOLE, *np.unique(rows.folds[sample])):
            learn(int(fold), told)
        for fold in np.unique(rows.folds[rows.judged]):
            learn(int(fold), told_by(np.full(len(rows.labels), fold)))
        self._trusts = np.vstack([self._trusts, np.ones(self.num_labels)])
        self._views.append(view)
        if len(rows.judged):
            self._calibrate_on_held_out([*views, features], rows)
            return
        # Nothing can be held out: how often this view finds again what it was taught stands for its accuracy
        logits = self._logits([*views, features], rows.folds, sample)
        agreement = float((logits[-1].argmax(1) == told.argmax(1)).mean())
        temperatures = list(self.calibration_.inverse_temperatures)
        if not len(known):
            self.view_accuracies_, self.accuracy_ = [agreement], agreement
            temperatures = [inverse_temperature(logits[0], self.log_prior_, agreement)]
        temperatures.append(inverse_temperature(logits[-1], self.log_prior_, agreement))
        fixed = calibrate(logits, sample[:0], self.log_prior_, trusts=self._trusts)
        self.calibration_ = replace(fixed, inverse_temperatures=np.array(temperatures))

    def _logits(self, views: list[np.ndarray], model_of: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
        """(rows, C) of each view, of each row by the model that `model_of` names."""
        return [view.held_out(values, model_of, rows) for view, values in zip(self._views, views, strict=True)]

    def _out_of_fold(self, views: list[np.ndarray], rows: "_Rows") -> np.ndarray:
        found = np.empty((len(rows.labels), self.num_labels), dtype=np.float16)
        for start in range(0, len(found), BLOCK):
            block = np.arange(start, min(start + BLOCK, len(found)))
            found[block] = self.calibration_.probabilities(self._logits(views, rows.folds, block))
        alone = rows.folds == ALONE
        found[alone] = np.eye(self.num_labels, dtype=np.float16)[rows.labels[alone]]
        return found


@dataclass
class _Rows:
    """
    The N rows a classifier is fitted on.

    Attributes:
        labels: (N,) class indices; negative without a label.
        folds: (N,) see [`_folds`], or `ALONE`.
        judged: numbers of the rows whose label is held out for calibration.
    """

    labels: np.ndarray
    folds: np.ndarray
    judged: np.ndarray

    @property
    def unlabelled(self) -> np.ndarray:
        return np.flatnonzero(self.labels < 0)


@dataclass
class _Scale:
    """Subtracts the mean and divides by the root mean square length."""

    mean: np.ndarray
    length: float

    @classmethod
    def of(cls, values: np.ndarray) -> "_Scale":
        rows = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_FITTED)).astype(int))
        sample = np.asarray(values[rows], dtype=np.float32)
        if not np.isfinite(sample).all():
            raise ValueError("Embeddings or image features are NaN or infinite: the model that made them is broken.")
        mean = sample.mean(0)
        return cls(mean, float(np.sqrt(((sample - mean) ** 2).sum(1).mean())) or 1.0)

    def __call__(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return (np.asarray(values[rows], dtype=np.float32) - self.mean) / self.length


@dataclass
class _View:
    """Models of one view: by fold, the one that was not fitted on it; for other folds `WHOLE`, fitted on all rows."""

    scale: _Scale
    models: dict[int, tuple[np.ndarray, np.ndarray]]
    num_labels: int

    def held_out(self, values: np.ndarray, model_of: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(rows, C) logits, of each row by the model that `model_of` names."""
        logits = np.empty((len(rows), self.num_labels), dtype=np.float32)
        for model in np.unique(model_of[rows]):
            places = np.flatnonzero(model_of[rows] == model)
            logits[places] = self.by_model(int(model), values, rows[places])
        return logits

    def by_model(self, model: int, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(rows, C) logits."""
        weight, bias = self.models.get(model, self.models[WHOLE])
        return self.scale(values, rows) @ weight + bias

    def temper_whole(self, values: np.ndarray, rows: np.ndarray) -> None:
        """
        Scales the logits of `WHOLE` until their mean margin is that of the other models, on unlabelled rows: it has
        seen more labels, and is surer than the models whose errors calibrate it. Without unlabelled rows it stays.
        """
        margins = {model: margins_of(self.by_model(model, values, rows)).mean() for model in self.models}
        factor = float(np.mean([margins[fold] for fold in margins if fold != WHOLE]) / margins[WHOLE])
        weight, bias = self.models[WHOLE]
        self.models[WHOLE] = weight * factor, np.where(bias > ABSENT / 2, bias * factor, bias)


def logistic_regression(
    values: np.ndarray,
    labels: np.ndarray,
    num_labels: int,
    strength: float,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Multinomial, of float32 values (n, D), with balanced classes. `labels` are class indices (n,), or float32
    probabilities (n, C), zeros for a class that is left out. `strength` is C of scikit-learn's LogisticRegression;
    `start` are the weight and bias to begin with, None: zeros.

    Returns:
        Weight (D, C) and bias (C,), which is near `ABSENT` for a class without rows.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=num_labels)
    share = (len(labels) / (np.count_nonzero(counts) * np.where(counts, counts, 1))).astype(np.float32)
    x, y = torch.from_numpy(values).to(device), torch.from_numpy(labels).to(device)
    share = torch.from_numpy(share).to(device)
    absent = torch.from_numpy(np.where(counts, 0.0, ABSENT).astype(np.float32)).to(device)
    y, row_weight = (y * share, None) if labels.ndim == 2 else (y, share[y])
    weight = torch.zeros(values.shape[1], num_labels, device=device)
    bias = torch.zeros(num_labels, device=device)
    if start is not None:
        seen = (counts > 0) & (start[1] > ABSENT / 2)
        weight, bias = (torch.from_numpy(np.where(seen, each, np.float32(0))).to(device) for each in start)
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_ITER, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(x @ weight + bias + absent, y, reduction="none")
        losses = losses if row_weight is None else row_weight * losses
        loss = (losses.sum() + (weight**2).sum() / (2 * strength)) / len(y)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach().cpu().numpy(), (bias.detach() + absent).cpu().numpy()


def _lead(logits: np.ndarray) -> np.ndarray:
    """(n,) by how much the largest logit exceeds the second."""
    second, first = np.partition(logits, -2, axis=1)[:, -2:].T
    return first - second


def _folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """(N,) the fold of each row, stratified; each class begins at a random fold. Unlabelled rows have folds apart."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    shuffled, folds = labels[order], np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels[labels >= 0]):
        rows = order[shuffled == label]
        folds[rows] = (np.arange(len(rows)) + generator.integers(FOLDS)) % FOLDS
    rows = order[shuffled < 0]
    folds[rows] = FOLDS + np.arange(len(rows)) % FOLDS
    return folds
