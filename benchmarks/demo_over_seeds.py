"""
The last lines of `make demo`: what one run of the demo may hide, from results/emoji_styles.json.

    python benchmarks/demo_over_seeds.py
"""

from provenance import read_result


def lines() -> list[str]:
    """The mean gain over the seeds of the file, with its 95% interval, for each split of an unseen style."""
    found = read_result("emoji_styles.json")
    gains = []
    for split in ("test", "test_novel"):
        row = found["summary"][f"{split}_accuracy"]
        mean, low, high = (100 * row[key] for key in ("difference", "low", "high"))
        gains.append(f"{split} {mean:+.1f} points (95% interval {low:+.1f} to {high:+.1f})")
    seeds = len(found["seeds"])
    return [
        f"This was one seed, which may mislead. Mean gain over {seeds} seeds: {', '.join(gains)}.",
        "With few labels captions gain more: docs/guides/few_labels.md.",
    ]


if __name__ == "__main__":
    print("", *lines(), sep="\n")
