"""What `fit` returns, as a notebook and a completion show it."""

import dataclasses
from pathlib import Path

from g4i_hf.fitting.result import FitResult

NEXT = "label the images that teach most: g4i label 'a<b' --pick next"
RESULT = FitResult(
    **{each.name: None for each in dataclasses.fields(FitResult)}
    | {"classifier": Path("runs/a/classifier"), "config": Path("runs/a/fit.yaml"), "released": "with_views"}
    | {"labels_only_accuracy": 0.61, "labels_only_interval": [0.5, 0.7]}
    | {"with_views_accuracy": 0.84, "with_views_interval": [0.79, 0.88]}
    | {"difference": 0.23, "difference_interval": [0.1, 0.3], "verdict": "helped"}
    | {"judged_on": "validation", "judged_images": 300, "labels": 60, "images": 400, "num_labels": 10}
    | {"views": {"caption": {"accuracy": 0.8, "interval": None, "weight": 1.0, "rows": 400}}, "next_step": NEXT}
)


def test_a_notebook_shows_verdict_bars_and_the_next_step():
    html = RESULT._repr_html_()
    assert "Captions and unlabelled images helped by 23 points (10 to 30)" in html
    assert all(part in html for part in ("labels only", "with captions", "width: 84.0%", "79\N{NO-BREAK SPACE}%"))
    assert NEXT.replace("'", "&#39;").replace("<", "&lt;") in html
    assert "<body" not in html and "font:" not in html  # which would change the notebook
    unknown = dataclasses.replace(RESULT, with_views_accuracy=None, labels_only_accuracy=None, judged_images=0)
    assert "accuracy is unknown" in unknown._repr_html_() and 'class="bar' not in unknown._repr_html_()


def test_a_console_shows_five_lines_and_a_completion_data_and_three_verbs():
    assert len(repr(RESULT).splitlines()) <= 5 and len(repr(RESULT)) < 600
    assert repr(RESULT).startswith("FitResult(") and RESULT.lines()[0] in repr(RESULT) and NEXT in repr(RESULT)
    public = {name for name in dir(RESULT) if not name.startswith("_")}
    assert public - {each.name for each in dataclasses.fields(FitResult)} == {"lines", "predict", "read"}
