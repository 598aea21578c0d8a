"""Better image classifiers from captions: GPT4Image for the Hugging Face ecosystem."""

import os
import sys

__version__ = "0.1.0"
__all__ = ["AlignedImageClassification", "AlignedImageClassificationConfig", "__version__"]

# `recipes/train.py --help` needs none of this, and torch alone takes seconds. The script says so in the environment;
# `python -m g4i_hf.recipes.train` imports the package before the script, with `-m` for a name
if os.environ.get("G4I_HF_LAZY_IMPORT") == "1" or (sys.argv[:1] == ["-m"] and {"-h", "--help"} & set(sys.argv)):

    def __getattr__(name: str):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import modeling

        return getattr(modeling, name)

else:  # registers the model with the Auto classes of transformers
    from .modeling import AlignedImageClassification, AlignedImageClassificationConfig
