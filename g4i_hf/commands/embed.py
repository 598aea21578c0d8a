"""Embed the captions of a dataset with a frozen text encoder.

    g4i embed --dataset_name pictures --caption_column text \\
        --text_encoder openai/clip-vit-base-patch32 --embeddings_dir runs/pictures/embeddings

`--verify 100` embeds nothing and compares 100 embeddings with their captions. Without options it embeds the captions
of the Emoji Styles recipe.
"""

from ..cli import OptionError, check_data, quiet_libraries, say
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["embed"]
DEFAULT_CONFIG = "emoji_styles/embed.yaml"


def check(data, encoder, verification) -> None:
    if not encoder.text_encoder or not encoder.embeddings_dir:
        raise OptionError("give --text_encoder and --embeddings_dir (where the embeddings go), or a --config.")
    check_data(data)


def run(data, encoder, verification) -> None:
    import torch
    from accelerate import PartialState

    from ..data.loading import load_data, source_of
    from ..embedding import described_embeddings, described_verification, embed_stage, verify_embeddings

    state = PartialState(cpu=not torch.accelerator.is_available())
    quiet_libraries(state.is_main_process)
    folder = encoder.embeddings_dir
    with state.main_process_first():
        images = load_data(data)
    if verification.verify:  # every process checks the same, so that all end with the same status
        found = verify_embeddings(images, encoder, folder, num_captions=verification.verify)
        say("\n".join(described_verification(found, folder)))
    else:
        stage = embed_stage(images, encoder, folder, source=source_of(data))
        say("\n".join(described_embeddings(stage, folder)))
