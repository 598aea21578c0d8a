"""
The options of all commands. Imports are light, as `--help` and an invalid option need no torch.

`--help` groups options by the class that declares them, under its docstring.
"""

from .captioning import (
    ASKING,
    CaptionArguments,
    Decoding,
    EndpointArguments,
    ExistingCaptionsArguments,
    LocalCaptionerArguments,
)
from .data import (
    DEFAULT_TEXT_ENCODER,
    DataArguments,
    DataOrShards,
    EncoderArguments,
    ShardOptions,
    ViewArguments,
    check_left_out,
    full_name,
)
from .evaluation import (
    CheckArguments,
    EvaluateArguments,
    PredictArguments,
    ReleaseArguments,
    ReleasedDatasetOptions,
    ReleasedStudentOptions,
    SearchArguments,
)
from .fields import OWN_MODULE, OptionError, about_of, choices_of, is_secret, names_of, option
from .labelling import LabelArguments
from .training import (
    OF_TRAINER,
    AugmentationArguments,
    FitArguments,
    RunArguments,
    StudentArguments,
    SupervisionOptions,
    TrainingOptions,
    aligns,
    check_training,
    is_address,
    learned_from_captions,
    other_trainer_options,
)

# The classes of each command, in the order of its arguments
OPTIONS_OF = {
    "caption": (
        *(CaptionArguments, DataOrShards, LocalCaptionerArguments),
        *(EndpointArguments, ExistingCaptionsArguments),
    ),
    "embed": (ViewArguments, DataOrShards, EncoderArguments),
    "train": (
        *(RunArguments, DataArguments, EncoderArguments, StudentArguments),
        *(AugmentationArguments, TrainingOptions),
    ),
    "check": (CheckArguments, DataArguments, EncoderArguments),
    "evaluate": (EvaluateArguments, DataArguments, EncoderArguments),
    "predict": (PredictArguments,),
    "search": (SearchArguments,),
    "release": (ReleaseArguments,),
    "fit": (FitArguments, DataArguments),
    "label": (LabelArguments, DataArguments),
}


def about(name: str) -> str:
    """What an option of a training is about, see [`~g4i_hf.options.fields.option`]; including those of Trainer."""
    kinds = (kind for kind, beginnings in OF_TRAINER.items() if name.startswith(beginnings))
    return about_of(OPTIONS_OF["train"]).get(name) or next(kinds, "training")


def marked(mark: str, command: str = "train") -> list[str]:
    """The options of a command that are declared with `path` or `in_card`."""
    return [name for cls in OPTIONS_OF[command] for name, field in names_of(cls).items() if field.metadata[mark]]
