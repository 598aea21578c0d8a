"""Distributions drawn with matplotlib."""

from pathlib import Path
from typing import Any

BAR, MEDIAN = "#0b6e4f", "#b3261e"


def require_matplotlib() -> Any:
    """
    Raises:
        ImportError: without it; says which extra brings it.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "The pictures of caption_report.html need matplotlib: pip install -e '.[demo]' in a clone of g4i_hf, or "
            "go without the page with --report false."
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw_histogram(values: dict[str, Any], axis: str, path: Path) -> None:
    """
    Args:
        values: of [`~g4i_hf.captioning.quality.weights.histogram`].
        axis: what is measured.
        path: PNG file.
    """
    plt = require_matplotlib()
    figure, axes = plt.subplots(figsize=(4.4, 2.7), layout="constrained")
    edges, counts = values["edges"], values["counts"]
    widths = [right - left for left, right in zip(edges, edges[1:], strict=False)]
    axes.bar(edges[:-1], counts, width=widths, align="edge", color=BAR, edgecolor="white", linewidth=0.6)
    median = values["quantiles"]["50"]
    axes.axvline(median, color=MEDIAN, linewidth=1.2)
    axes.set_title(f"median {median:.3g}, mean {values['mean']:.3g}", fontsize=9, color="#555555", loc="left")
    axes.set_xlabel(axis)
    axes.set_ylabel("captions")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
