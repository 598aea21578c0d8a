"""
Embeds the captions of a data set with a frozen text encoder.

    accelerate launch recipes/embed.py --config recipes/emoji_styles/embed.yaml
    accelerate launch recipes/embed.py --dataset_name pictures/ --caption_column text \
        --text_encoder openai/clip-vit-base-patch32 --embeddings_dir runs/pictures/embeddings
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate


def main() -> None:
    import torch
    from accelerate import PartialState

    from g4i_hf.cli import OptionError, parse_options, quiet_libraries
    from g4i_hf.data.arguments import DataArguments
    from g4i_hf.embedding import EncoderArguments, embed_captions

    data, encoder = parse_options(
        (DataArguments, EncoderArguments),
        description=__doc__,
        default_config=Path(__file__).parent / "emoji_styles" / "embed.yaml",
    )
    if not encoder.text_encoder or not encoder.embeddings_dir:
        raise OptionError("give --text_encoder and --embeddings_dir (where the embeddings go), or a --config.")
    state = PartialState(cpu=not torch.accelerator.is_available())
    quiet_libraries(state.is_main_process)
    try:
        with state.main_process_first():
            images = data.load()
        stage = embed_captions(
            images, encoder, encoder.embeddings_dir, source=data.dataset_name, source_revision=data.dataset_revision
        )
    except (OSError, ValueError) as error:
        raise OptionError(str(error)) from error
    if state.is_main_process:
        captions = ", ".join(f"{name} {count:,}" for name, count in stage["captions"].items())
        done = "Already embedded" if stage.get("reused") else "Embedded"
        print(
            f"{done} by {stage['text_encoder']} ({stage['text_embed_dim']} dimensions): captions of {captions}. "
            f"They are in {encoder.embeddings_dir}"
        )


if __name__ == "__main__":
    main()
