"""
Embeds the captions of a data set with a frozen text encoder.

    accelerate launch recipes/embed.py --config recipes/emoji_styles/embed.yaml
    accelerate launch recipes/embed.py --dataset_name pictures/ --caption_column text \\
        --text_encoder openai/clip-vit-base-patch32 --embeddings_dir runs/pictures/embeddings

The same command with `--verify 100` embeds nothing: it compares 100 of the embeddings with their captions.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate
    if {"-h", "--help"} & set(sys.argv):
        os.environ["G4I_HF_LAZY_IMPORT"] = "1"  # help is there before torch would be

OPTIONS = (
    "g4i_hf.data.arguments.DataArguments",
    "g4i_hf.embedding.arguments.EncoderArguments",
    "g4i_hf.embedding.arguments.VerifyArguments",
)


def main() -> None:
    from g4i_hf.cli import OptionError, parse_options, quiet_libraries

    data, encoder, check = parse_options(
        OPTIONS,
        description=__doc__,
        default_config=Path(__file__).parent / "emoji_styles" / "embed.yaml",
    )
    import torch
    from accelerate import PartialState

    from g4i_hf.embedding import embed_captions, verify_embeddings

    if not encoder.text_encoder or not encoder.embeddings_dir:
        raise OptionError("give --text_encoder and --embeddings_dir (where the embeddings go), or a --config.")
    state = PartialState(cpu=not torch.accelerator.is_available())
    quiet_libraries(state.is_main_process)
    folder = encoder.embeddings_dir
    try:
        with state.main_process_first():
            images = data.load()
        if check.verify:  # every process checks the same, so that all end alike
            found = verify_embeddings(images, encoder, folder, num_captions=check.verify, seed=check.verify_seed)
            lines = verified(found, folder)
        else:
            stage = embed_captions(images, encoder, folder, source=data.source())
            lines = embedded(stage, folder)
    except (OSError, ValueError) as error:
        raise OptionError(str(error)) from error
    if state.is_main_process:
        print("\n".join(lines))


def embedded(stage: dict, folder: str) -> list[str]:
    """What is said of a stage."""
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


def verified(found: dict, folder: str) -> list[str]:
    """What is said of a check that found nothing wrong."""
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


if __name__ == "__main__":
    from g4i_hf.cli import end_processes

    main()
    end_processes()
