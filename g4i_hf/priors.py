"""
The statistical constants of the label model and of judging. Each has its meaning, and in brackets its source: a paper,
a file in `results/`, or judgement. Code reads them at each call, so that a benchmark can set them.
"""

# --- Temperatures of views -------------------------------------------------------------------------------------------

PRIOR_MEAN_INVERSE_TEMPERATURE = 2.0  # of the logits of a view (judgement)
PRIOR_STD_LOG_TEMPERATURE = 0.7  # normal prior of the logarithm (judgement)
NARROW_STD_LOG_TEMPERATURE = 0.25  # the same of views that judge each other, or are compared (judgement)
PRIOR_STD_POWER = 0.5  # of the margin of a row in its temperature, normal with mean 0 (judgement)
MAX_COMPONENTS = 256  # principal components of a view, or as many as classes, if these are more (judgement)
DEFAULT_C = 16.0  # C of the regression of a view, where no label can be held out to select one (judgement)
AUXILIARY_C = 1.0  # C of every regression that is no view: scikit-learn's default (judgement)
SELF_TRAINED_SHRINKAGE = 0.2  # of the discriminant that learns the predictions of all views (judgement)
MIN_SELF_TRAINED = 2  # sum of the probabilities of a class from which that model learns it (judgement)
ENOUGH_LABELS_A_CLASS = 20  # held out, from which views vote beside the model that learns all predictions (judgement)
TYPICAL_EXAMPLE = 0.5  # probability that the only example of a class is typical of it (judgement)

# --- Wrong labels ----------------------------------------------------------------------------------------------------

PRIOR_MEAN_WRONG_LABELS = 0.2  # share of wrong labels, exponential prior (judgement)
PRIOR_MEAN_NOISE_EXPONENT = 0.3  # k: wrong labels are proportional to p^k (judgement: 0.3 on CIFAR-10H)
PRIOR_STD_NOISE_EXPONENT = 0.2  # normal prior of k (judgement)
MAX_NOISE_EXPONENT = 0.6  # k at most (judgement)
MAX_NOISE = 0.95  # share of noisy labels at most (judgement)
LIKELIHOOD_RATIO = 6.63 / 2  # at ends of intervals: half the 99% quantile, as the model is inexact (judgement)
LIKELIHOOD_RATIO_OF_KIND = 9.21 / 2  # the same of two parameters, the share and how it depends on views (judgement)
FEW_WRONG_LABELS = 0.05  # share below which anchors are examined, and a list is not worth a look (judgement)
NEGLIGIBLE_WRONG_LABELS = 0.005  # share that rounds to none: labels count as right (judgement)
MIN_GAIN_OF_PATTERN = 10.0  # log-likelihood that a pattern of wrong labels must gain over random ones (judgement)
MIN_GAIN_OF_PATTERN_A_ROW = 0.01  # the same for each row (judgement)

# --- Views that judge each other, and labels -------------------------------------------------------------------------

MIN_ROWS_IN_COMMON = 400  # rows that show whether two views have anything in common (judgement)
MIN_ROWS_IN_COMMON_A_CLASS = 20  # the same for each class (judgement)
ENOUGH_ROWS_IN_COMMON = 4_000  # rows that suffice for any number of classes (judgement)
ALPHA_IN_COMMON = 0.001  # significance level: two views have something in common (judgement)
MIN_GAIN_OF_NAMES = 1.92  # log-likelihood that names alone gain over labels (judgement: the 95% of a likelihood ratio)
ALPHA_OF_NAMES = 0.01  # significance level: names of classes predict labels (judgement)
STD_OF_AGREEMENT = 0.05  # of Cohen's kappa of two views, as their errors may be alike (judgement)
MIN_ACCURACY_OF_VOTE = 1 / 3  # relative to the best view, without held-out labels: below, it has no vote (judgement)
MIN_ACCURACY_OF_BEST = 2 / 3  # of a view by the others: below, they may have learned its errors too (judgement)
MIN_RECALL = 0.5  # of the best recall of the predictions, for a view to self-train (judgement)
CLEAREST_CONTRADICTIONS = 1 / 5  # of the labels that a view contradicts, those on which another is asked (judgement)
MIN_SKILL = 0.5  # of the way from chance to always right, for a view to give anchors (judgement)
SUREST_ROWS = 1 / 4  # of the rows of a class, those of which a view is surest, anchors (judgement)
MIN_ANCHORS = 100  # rows that estimate the share of wrong labels (judgement)
MIN_SHARE_OF_ANCHORS = 2 / 3  # contradictions among anchors, relative to those among all rows (judgement)
# Probability that a labelled row is surer than another one of its class: from there on, a view has learned the labels
MIN_AREA_OF_LEARNED = 0.75  # 0.75 to 1 where it has, at most 0.69 where 40% are of no class (judgement by photographs)
MIN_DEVIATIONS_OF_LEARNED = 4.0  # of that from a half, in standard deviations (judgement)

# --- Images of no class, and images to label -------------------------------------------------------------------------

POWER_OF_KNOWN = 2  # weight of an unlabelled row: that power of the probability that some class fits (judgement)
MIN_ANSWERED_NONE = 20  # images that a person took out, that alone teach what shows no class (judgement)
NEAR_TWIN = 0.5  # distance of almost the same images, relative to that of two of a class (judgement by made bursts)
UNCERTAIN_ROWS = 1 / 4  # of the candidates, those from which images to label are picked (judgement)

# --- Images of one scene ---------------------------------------------------------------------------------------------

NEAR_COPIES_APART = 1.8  # distance of a scene from other images, relative to that within (judgement by made bursts)
NEAR_COPIES_DISTANCE = 0.2  # of an image of a scene to the nearest other one, at most (judgement by made bursts)

# --- Estimates of accuracies -----------------------------------------------------------------------------------------

LEVEL = 0.975  # quantile at the upper end of a 95% interval (definition)
DEGREES_OF_FREEDOM = 20  # of Student's distribution (judgement; those of the weights cover alike)
# Bias of the probabilities on another dataset, by draws of benchmarks/coverage.py that were not kept
PRIOR_STD_BIAS = 0.22  # of an accuracy, relative to the expected error (judgement by these)
PRIOR_STD_BIAS_OF_DIFFERENCE = 0.11  # relative to the share of differing predictions (judgement by these)
MIN_EXPECTED_ERROR = 0.02  # however confident the probabilities are (judgement)
MIN_JUDGES = 30  # images, or groups of them, that give a verdict (judgement)
MANY_WITHOUT_VIEW = 0.2  # share of labelled rows with a view that others lack, for no prior of the bias (judgement)
MIN_POWER_TUNED = 50  # labelled images of a random sample whose interval other images narrow (results/review.json)
EXTRA_ROWS = 0.5  # in the variance of a mean, as few rows may agree by chance (judgement)
PSEUDO_COUNT = 2  # labels of each class, in the frequency of classes with one or none (judgement)
# Class mix, by made shifts of three datasets that were not kept
WEIGHT_OF_EXPECTED_SHARES = 0.5  # of shares that are expected, beside the likeliest ones (judgement by these)
VARIANCE_OF_FEW_COUNTS = 0.05  # of log numbers of labels, which tell little of a shift of the mix (judgement)
LEAST_SHARE = 1e-3  # of a class, in the regression on its number of labels (judgement)
ROWS_OF_EXPECTED_RECALL = 4  # which the recall by the number of labels counts as (judgement)
DOUBT_OF_UNRECOGNISED = 0.4  # std of a share, relative to it, where no image of it is recognised (judgement by these)
# Overconfidence and its standard deviation, where other classes have more labels; the means of three sets in
# results/priors.json are 0.20 to 0.45 and 0.09 to 0.25
OVERCONFIDENCE_WITHOUT_LABEL, STD_WITHOUT_LABEL = 0.33, 0.2  # of classes without a label (judgement by these)
OVERCONFIDENCE_OF_ONE_LABEL, STD_OF_ONE_LABEL = 0.17, 0.15  # and of those with one (judgement by these)

# --- New images, beside those that a classifier was fitted on --------------------------------------------------------

ALPHA_OF_NEW_IMAGES = 0.01  # p-values may be too small where the mix is another one (results/another_month.json)
MIN_NEW_IMAGES = 50  # fewer are too few to tell (judgement)
COMPARED_COMPONENTS = 128  # of the features, as a sample of 1,000 images tells their variances (judgement)
DRAWS_OF_SIGNS = 1_000  # of the null distribution: p-values have errors of 0.003 near 0.01 (judgement)

# --- Last layers and their judge -------------------------------------------------------------------------------------

MIN_HELD_OUT = 20  # labelled rows, for discriminants, images of no class and the strength of last layers (judgement)
ENOUGH_HELD_OUT = 100  # labelled rows that select the strength in large data (judgement)
DEFAULT_STRENGTH = 2e-4  # of the regularisation of a last layer, with fewer than MIN_HELD_OUT (judgement)
PSEUDO_COUNT_OF_CLASS = 0.01  # rows with any label, in the labels of each true class (judgement)
HOLDOUT_SHARE = 0.2  # of the unlabelled images, to judge last layers (judgement)
MIN_HOLDOUT, MAX_HOLDOUT = 100, 5_000  # of these images (judgement)
HALF_CONFIDENCE_IMAGES = 10  # judging images that change the confidence of a classifier by half (judgement)
MIN_ACCURACY_OF_VIEWS = 0.5  # from which an unlabelled row has the weight of a label (judgement)

# --- Labels of several people ----------------------------------------------------------------------------------------

VOTES_OF_ALL = 10  # labels that the accuracy of all annotators counts like, for each (judgement)
VOTES_OF_CLASS = 10  # labels of each class that the errors of all count like (judgement)
