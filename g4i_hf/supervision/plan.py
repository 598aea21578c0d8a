"""`supervision: auto`: choose how captions are used, from estimates made before training."""

from collections.abc import Sequence
from dataclasses import dataclass

# Harm was measured where pseudo-labels were right for 13% of the images, and perhaps at 40%; gain from 56% on
# (LOG.md). The other thresholds are judgements
TELLS_CLASSES = 0.5
AGREEMENT = 0.25  # of captions and image features on unlabelled rows, where no label can be held out
UNLABELLED_SHARE = 0.1  # below it, pseudo-labels can add little
SURELY_WRONG = 0.05  # share of labels, which the lower end of the 95% interval must exceed
WEIGHT_AGAINST_NOISE = 3.0


@dataclass
class Estimates:
    """
    Shares in [0, 1]; None where it could not be estimated.

    Attributes:
        captions: accuracy on held-out rows of the classifier of captions.
        image: the same of a probe of image features, if there are any.
        both: the same of both views together, or of captions alone.
        noise: wrong labels; `noise_interval` its 95% interval.
        unlabelled: of the training rows with a caption, those without a label.
        agreement: of these, rows where both views predict the same class.
    """

    captions: float | None
    image: float | None
    both: float | None
    noise: float | None
    noise_interval: tuple[float, float] | None
    unlabelled: float
    agreement: float | None


@dataclass
class Plan:
    """
    Attributes:
        supervision: `none`, `soft` or `pseudo`.
        label_noise: `keep`, `soften` or `relabel`.
        soft_label_weight: 0 without soft labels.
        reasons: lines for the user, of a plan that was chosen.
    """

    supervision: str
    label_noise: str = "keep"
    soft_label_weight: float = 0.0
    reasons: tuple[str, ...] = ()


def choose(found: Estimates) -> Plan:
    """
    - Many rows have a caption and no label: pseudo-labels, if captions (and image features, if there are any) predict
      most classes right, and more than image features alone. Where no label can be held out, both views must agree on
      enough unlabelled rows.
    - Labels are wrong: soft labels, if captions are right more often than the labels and than image features.
    - Else alignment alone.
    """
    noisy = found.noise_interval is not None and found.noise_interval[0] > SURELY_WRONG
    useful = (
        found.both is not None and found.both >= TELLS_CLASSES and (found.image is None or found.both > found.image)
    )
    if found.unlabelled >= UNLABELLED_SHARE:
        if found.both is None:
            useful = found.agreement is not None and found.agreement >= AGREEMENT
        plan = Plan("pseudo", "soften" if noisy else "keep") if useful else Plan("none")
        reason = "pseudo-labels by these captions would be wrong too often: alignment alone"
        if useful:
            reason = f"{found.unlabelled:.0%} of the captioned training images have no label"
    elif noisy and useful and found.both > 1 - found.noise:
        plan = Plan("soft", soft_label_weight=WEIGHT_AGAINST_NOISE)
        reason = "captions are right more often than the labels"
    else:
        plan, reason = Plan("none"), "labels tell the classes better than captions: alignment alone"
    plan.reasons = (_described(found), f"supervision: {plan.supervision}, as {reason}.")
    return plan


def captions_in_words(share: float) -> str:
    return f"captions tell the class of {share:.0%} of held-out images"


def noise_in_words(share: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{share:.0%} of the labels are wrong (95% interval {low:.0%} to {high:.0%})"


def _described(found: Estimates) -> str:
    nothing = "no class has two labels, so that nothing could be held out"
    parts = [nothing if found.captions is None else captions_in_words(found.captions)]
    if found.image is not None:
        parts.append(f"image features of {found.image:.0%}, both together of {found.both:.0%}")
    if found.agreement is not None:
        parts.append(f"captions and image features agree on {found.agreement:.0%} of the unlabelled")
    if found.noise is not None:
        parts.append(noise_in_words(found.noise, found.noise_interval))
    return f"Estimates: {'; '.join(parts)}."
