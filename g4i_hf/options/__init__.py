"""
The options of all commands. Imports nothing heavy: `--help` and a wrong option need no torch.

`--help` groups options by the class that declares them, under its docstring.
"""

from .captioning import (
    ASKING,
    CaptionArguments,
    EndpointArguments,
    ExistingCaptionsArguments,
    LocalCaptionerArguments,
    QualityArguments,
)
from .data import DEFAULT_TEXT_ENCODER, DataArguments, EncoderArguments, full_name
from .evaluation import CHEAP_MEASURES, MEASURES, CheckArguments, EvaluateArguments, SearchArguments
from .fields import NOT_RECORDED, OWN_MODULE, choices_of, is_secret, option
from .release import ReleaseArguments, ReleasedDatasetOptions, ReleasedStudentOptions
from .training import (
    OTHER_TRAINER_OPTIONS,
    OTHER_TRAINER_OPTIONS_OF,
    OWN_DEFAULTS,
    AugmentationArguments,
    FitArguments,
    RunArguments,
    StudentArguments,
    SupervisionOptions,
    TrainerGroup,
    TrainingOptions,
    aligns,
    check_training,
    is_address,
    learned_from_captions,
    recorded_options,
)

# The classes of each command, in the order in which it is given their instances
OPTIONS_OF = {
    "caption": (
        *(CaptionArguments, DataArguments, LocalCaptionerArguments, EndpointArguments),
        *(ExistingCaptionsArguments, QualityArguments),
    ),
    "embed": (DataArguments, EncoderArguments),
    "train": (
        *(RunArguments, DataArguments, EncoderArguments, StudentArguments),
        *(AugmentationArguments, TrainingOptions),
    ),
    "check": (CheckArguments, DataArguments, EncoderArguments),
    "evaluate": (EvaluateArguments, DataArguments, EncoderArguments),
    "search": (SearchArguments,),
    "release": (ReleaseArguments,),
    "fit": (FitArguments, DataArguments),
}
