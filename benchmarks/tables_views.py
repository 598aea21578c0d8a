"""Tables of views, of wrong labels that are found, and of images of no class."""

from collections.abc import Sequence

import numpy as np
from result_files import grouped, mean
from tables import NAMES, SHARES, of_page, percent, rows_of, table

from g4i_hf.names import WITH_VIEWS

VIEWS = {
    "captions": "captions",
    "Lite0": "features of EfficientNet-Lite0, the student",
    "Lite0-2": "of Lite0, 1 and 2",
    "captions + Lite0": "captions, Lite0",
    "captions + Lite0-2": "captions, Lite0 to 2",
    "captions + Lite0 + answers": "captions, Lite0, answers of people",
    "captions + Lite0 + random": "captions, Lite0, random numbers",
    "captions + Lite0 + of other images": "captions, Lite0, features of other images",
}


@of_page
def views_added() -> str:
    """Accuracy of unlabelled training images by sets of views, means over draws."""
    groups = grouped(rows_of("label_model_views"), "views", "data", "setting")
    columns = [(data, setting) for data in NAMES for setting in ("no labels", "1 a class", "4 a class")]
    lines = [
        [title, *(percent(mean(groups.get((views, *column), []), "accuracy")) for column in columns)]
        for views, title in VIEWS.items()
    ]
    return table(
        ["views", *(f"{NAMES[data]}, {setting}".replace(" a class", " per class") for data, setting in columns)], lines
    )


@of_page
def class_words() -> str:
    """Names of the classes, and what synonyms and descriptions add to them."""
    groups = grouped(rows_of("class_words"), "texts", "data", "setting", "views")
    cells = [("no labels", "nearest", "no labels, nearest text"), ("no labels", "captions", "no labels, captions")]
    cells += [(setting, "captions + Lite0", f"{setting}, captions + Lite0") for setting in ("no labels", "1 a class")]
    lines: list[Sequence[str] | str] = []
    for data, name in NAMES.items():
        lines.append(name)
        for texts in dict.fromkeys(texts for texts, *_ in groups):
            lines.append([texts, *(percent(mean(groups[texts, data, *cell[:2]], "accuracy")) for cell in cells)])
    return table(["texts of a class", *(cell[2].replace(" a class", " per class") for cell in cells)], lines)


@of_page
def bad_views() -> str:
    """CIFAR-10, means over the draws."""
    found = grouped(rows_of("real_views", data="cifar10"), "views", "setting")
    lines = []
    for views in (
        "captions",
        "captions + image",
        "captions + image + BiomedCLIP",
        "captions + BiomedCLIP + Swahili + image",
        "captions + SigLIP 2",
        "captions + SigLIP 2 + BiomedCLIP + image",
        "SigLIP 2",
        "image + SigLIP 2",
        "image + SigLIP 2 + Swahili",
        "captions + BiomedCLIP",
    ):
        cells = [percent(mean(found.get((views, setting), []), "accuracy")) for setting in OF_REAL_VIEWS]
        lines.append([views.replace(" + ", ", ").replace("image", "features"), *cells])
    return table(["views", *OF_REAL_VIEWS], lines)


OF_REAL_VIEWS = ("no labels", "1 a class", "4 a class")


@of_page
def real_views_fit() -> str:
    """`g4i fit` itself: what its classifier gets right on `test`, and in brackets what it says."""
    found = grouped(rows_of("real_views_fit"), "data", "views", "setting")
    lines = []
    for data, views in dict.fromkeys((row["data"], row["views"]) for row in rows_of("real_views_fit")):
        cells = []
        for setting in OF_REAL_VIEWS:
            rows = found.get((data, views, setting), [])
            said = percent(mean(rows, f"{WITH_VIEWS}_estimate")) or "none"
            cells.append(f"{percent(mean(rows, WITH_VIEWS))} ({said})" if rows else "")
        lines.append([NAMES[data], views.replace(" + ", ", ").replace("image", "features"), *cells])
    return table(["images", "views", *OF_REAL_VIEWS], lines, "ll")


@of_page
def suspicion() -> str:
    """AUROC, average precision and F1 of orders of labels, wrong ones first; means over the draws."""
    methods, lines = ("ours", "cleanlab", "deep k-NN", "LEMoN"), []
    for (data, kind), rows in grouped(rows_of("suspicion"), "data", "kind").items():
        cells = []
        for method in methods:
            found = [row[method] for row in rows]
            figures = [percent(mean(found, name)) for name in ("auroc", "average_precision", "f1")]
            cells.append(" / ".join(figures))
        kind = kind if "%" in kind else f"{mean(rows, 'wrong'):.0%}, {kind}"
        lines.append([f"{NAMES[data]}, {len(rows)}", kind, f"**{cells[0]}**", *cells[1:]])
    head = ["images, draws", "wrong labels", "`--pick wrong`", "cleanlab", "deep k-NN", "LEMoN's rule"]
    return table(head, lines, "ll")


@of_page
def next_labels() -> str:
    """Accuracy after more labels, by how they are chosen."""
    titles = {"next": "**`--pick next`**", "random": "at random"}
    titles |= {"margin": "least margin", "entropy": "greatest entropy"}
    lines = []
    for (data,), rows in grouped(rows_of("review", what="next"), "data").items():
        groups = grouped(rows, "kind")
        for kind, title in titles.items():
            means = np.mean([row["accuracies"] for row in groups[kind,]], axis=0)[[0, 1, 3, 5, 10]]
            lines.append([f"{NAMES[data]}, {len(groups[kind,])}", title, *map(percent, means)])
    return table(["photographs, draws", "labels chosen", "+0", "+20", "+60", "+100", "+200"], lines, "ll")


@of_page
def wrong_labels_found() -> str:
    """Wrong ones among the first 100 labels that are shown; means over the draws."""
    lines = []
    for (data, kind), rows in grouped(rows_of("review", what="wrong"), "data", "kind").items():
        share, ours, theirs = (mean(rows, name) for name in ("share", "wrong", "cleanlab"))
        kind = "as people err" if kind == "people" else kind
        lines.append([f"{NAMES[data]}, {len(rows)}", f"{share:.0%}, {kind}", f"**{ours:.0f}**", f"{theirs:.0f}"])
    return table(["photographs, draws", "wrong labels", "`--pick wrong`", "cleanlab"], lines, "ll")


@of_page
def gold_intervals() -> str:
    """How often the 95% interval of a gold sample holds the truth; its half-width with other images, and alone."""
    lines, sizes, shown = [], ("50", "100", "200"), {"with_views": "with captions", "difference": "difference"}
    for (data,), rows in grouped(rows_of("review", what="gold"), "data").items():
        for name, what in shown.items():
            cells = [f"{NAMES[data]}, {len(rows)}", what, percent(mean(rows, name))]
            for size in sizes:
                of = {key: np.mean([row[size][key][name] for row in rows]) for key in ("holds", "half", "half_alone")}
                cells.append(f"{of['holds']:.0%} (**±{percent(of['half'])}**, ±{percent(of['half_alone'])})")
            lines.append(cells)
    return table(["photographs, draws", "", "true", *(f"{size} images" for size in sizes)], lines, "ll")


@of_page
def none_of_these() -> str:
    """Pools with images of no class: how many are said to be there, and the student's accuracy."""
    lines = []
    for (data, _), rows in grouped(rows_of("none_of_these"), "data", "others").items():
        of = {name: mean(rows, name) for name in rows[0] if name not in ("data", "commit")}
        cells = [NAMES[data], f"{of['share']:.0%}", f"{of['said_at_least']:.0%}", "", ""]
        if "none_auroc" in of:
            cells[3:] = [f"{of['none_auroc']:.2f} ({of['max_softmax_auroc']:.2f})", f"{of['none_false_alarms']:.0%}"]
        lines.append([*cells, percent(of["plain"]), f"**{percent(of['weighed'])}**", percent(of["by_hand"])])
    head = ["images", "of no class", "at least, said", "AUROC", "false alarms", "counted like others"]
    return table([*head, "**weighed**", "left out by hand"], lines)


@of_page
def none_at_inference() -> str:
    """The score of new images, beside the label model's in training, where captions tell too."""
    names = ("at_inference", "max_softmax", "in_training")
    lines = [
        [NAMES[data], *(f"{mean(rows, name):.2f}" for name in names), *(f"{mean(rows, name):.0%}" for name in SHARES)]
        for (data,), rows in grouped(rows_of("none_at_inference"), "data").items()
    ]
    head = ["photographs", "AUROC", "of the probability alone", "of the estimate in training"]
    return table([*head, "decided `none` of a known class", "of other classes"], lines)
