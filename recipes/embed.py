"""
Embeds the captions of a data set with a frozen text encoder.

    accelerate launch recipes/embed.py --config recipes/emoji_styles/embed.yaml
    accelerate launch recipes/embed.py --dataset_name pictures/ --caption_column text \
        --text_encoder openai/clip-vit-base-patch32 --embeddings_dir runs/pictures/embeddings
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
)


def main() -> None:
    from g4i_hf.cli import OptionError, parse_options, quiet_libraries

    data, encoder = parse_options(
        OPTIONS,
        description=__doc__,
        default_config=Path(__file__).parent / "emoji_styles" / "embed.yaml",
    )
    import torch
    from accelerate import PartialState

    from g4i_hf.embedding import embed_captions

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
