"""Train an aligned student, or with `--align_weight 0` its baseline.

    g4i train --dataset_name pictures --text_encoder sentence-transformers/all-MiniLM-L6-v2 \\
        --student resnet18 --output_dir runs/pictures
    g4i train --num_processes 4 --config recipes/imagenet_resnet50/corrected.yaml

To resume, run the same command again. Without options it trains the Emoji Styles recipe.
"""

from ..cli import OptionError, check_data, quiet_libraries, say
from ..extras import require
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["train"]
DEFAULT_CONFIG = "emoji_styles/train.yaml"
TRACKERS = {"tensorboard", "trackio", "wandb"}


def check(run, data, encoder, student, augmentation, training) -> None:
    check_data(data)
    if not training.output_dir:
        raise OptionError("output_dir is missing: give the run folder with --output_dir.")
    trackers = [training.report_to] if isinstance(training.report_to, str) else training.report_to or []
    for name in TRACKERS & set(trackers):
        require(name, "trackers", f"report_to {name}")
    if training.push_to_hub:
        require("detect_secrets", "hub", "The search for secrets before a push")


def run(run, data, encoder, student, augmentation, training) -> None:
    from ..workflows.train import TrainingRun

    training_run = TrainingRun(run, data, encoder, student, augmentation, training)
    quiet_libraries(training_run.args.should_log)
    with training_run.alone():
        _run(training_run, run.dry_run)


def _run(training_run, dry_run: bool) -> None:
    output_dir, pushes = training_run.args.output_dir, training_run.args.push_to_hub
    state, checkpoint = training_run.open()
    if state == "finished":
        say(f"{output_dir} holds this very run, finished. Train it again with --overwrite true.")
        if pushes:
            say("It was not pushed now: that is what g4i release does.")
        return
    training_run.load()
    for line in training_run.reasons:
        say(line)
    if dry_run:
        say(f"\n{training_run.plan(checkpoint)}\nNothing was written; the same command without dry_run trains.")
        return
    if checkpoint is not None:
        say(f"Resuming from {checkpoint}")
    metrics = training_run.train(state, checkpoint)
    say(f"\n{training_run.summary(metrics)}")
    if pushes:
        say(f"Pushed: {training_run.publish()}")
