"""What is said of embeddings that were made, or verified."""

from typing import Any


def described_embeddings(stage: dict[str, Any], folder: str) -> list[str]:
    """
    Args:
        stage: its `stage.json`, see [`~g4i_hf.embedding.embed_stage`].
        folder: where it is.
    """
    captions = ", ".join(f"{name} {count:,}" for name, count in stage["captions"].items())
    done = "Already embedded" if stage.get("reused") else "Embedded"
    lines = [
        f"{done} by {stage['text_encoder']} ({stage['text_embed_dim']} dimensions): captions of {captions}. "
        f"They are in {folder}"
    ]
    if stage["max_tokens"] is not None:
        over = ", ".join(
            f"{name} {found['share']:.1%} ({found['tokens_lost']:,} tokens lost"
            + (f", {found['chunks']:,} chunks)" if found["chunks"] else ")")
            for name, found in stage["captions_over_window"].items()
        )
        lines.append(f"Captions beyond the window of {stage['max_tokens']} tokens: {over}")
    return lines


def described_verification(found: dict[str, Any], folder: str) -> list[str]:
    """
    Args:
        found: see [`~g4i_hf.embedding.verify_embeddings`], of a check that found nothing wrong.
        folder: where the embeddings are.
    """
    if not found["checked"]:
        return [f"Verified: the splits {', '.join(found['splits'])} have no captions, and {folder} no embeddings."]
    lines = [
        f"Verified: {found['checked']:,} of {found['captions']:,} captions of {', '.join(found['splits'])}, embedded "
        f"again, give the vectors in {folder} (smallest cosine {found['min_cosine']:.5f}); every row has as many "
        "vectors as captions."
    ]
    if found["other_settings"]:
        lines.append(f"Settings that differ from those recorded there: {', '.join(found['other_settings'])}")
    return lines
