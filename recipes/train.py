"""
Trains an aligned student, or with `--align_weight 0` its baseline.

    accelerate launch recipes/train.py                                     # the Emoji Styles recipe
    accelerate launch recipes/train.py --config recipes/emoji_styles/baseline.yaml --seed 1 --output_dir runs/seed1

A run that was interrupted goes on from its last checkpoint when the same command is given again.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate
    if {"-h", "--help"} & set(sys.argv):
        os.environ["G4I_HF_LAZY_IMPORT"] = "1"  # help is there before torch would be

OPTIONS = (
    "g4i_hf.training.arguments.RunArguments",
    "g4i_hf.data.arguments.DataArguments",
    "g4i_hf.embedding.arguments.EncoderArguments",
    "g4i_hf.training.arguments.StudentArguments",
    "g4i_hf.data.arguments.AugmentationArguments",
    "g4i_hf.training.alignment_arguments.AlignmentArguments",
)


def main() -> None:
    from g4i_hf.cli import OptionError, parse_options, quiet_libraries

    options = parse_options(
        OPTIONS,
        description=__doc__,
        default_config=Path(__file__).parent / "emoji_styles" / "train.yaml",
    )
    from g4i_hf.data.loading import check_dataset_name
    from g4i_hf.training.lineage import lineage_of
    from g4i_hf.training.run_folder import open_run, resolved_options

    run, data, encoder, student, augmentation, args = options
    quiet_libraries(args.should_log)
    try:
        # 1. Is there an earlier run in output_dir, and where did it stop?
        resolved = resolved_options(options, args.output_dir)
        try:
            state, checkpoint = open_run(args.output_dir, resolved, run.overwrite)
        except ValueError:  # other options: a folder that is misspelt is the likelier mistake
            check_dataset_name(data.dataset_name)
            raise
        if state == "finished":
            _say(f"{args.output_dir} holds this very run, finished. Train it again with --overwrite true.")
            if args.push_to_hub:
                _say("It was not pushed now: that is what release.py does.")
            return
        check_lora(student, args)
        # 2. Images, captions, embeddings; everything is checked before anything is written to output_dir
        splits, id2label, text_embed_dim, to_embed, embeddings = load_data(run, data, encoder, args)
        # 3. Student and projector
        model, saved_processor, processor = build_model(student, augmentation, args, id2label, text_embed_dim)
        if run.dry_run:
            plan(model, saved_processor, processor, splits, to_embed, options, checkpoint)
            return
        # 4. Training
        trainer = build_trainer(model, processor, saved_processor, splits, run, augmentation, args)
        train(trainer, resolved, state, checkpoint, lambda: lineage_of(splits, data, student, embeddings))
        # 5. Evaluation, the last thing written, and the release of the run where one was asked for
        finish(trainer, processor, splits, run, student.student)
        if args.push_to_hub:
            publish(trainer)
    except (ImportError, OSError, ValueError) as error:
        raise OptionError(str(error)) from error


def load_data(run, data, encoder, args):
    """
    The splits with their embeddings, checked; the class names; the size of the embeddings (None without any); of a dry
    run, how many captions are still to be embedded; the folder of the embeddings where they are not the data's own.
    """
    from accelerate import PartialState

    from g4i_hf import columns
    from g4i_hf.data.bad_images import rows_to_use
    from g4i_hf.data.checks import check_split
    from g4i_hf.data.loading import class_names
    from g4i_hf.data.stage import join_stage, read_stage
    from g4i_hf.embedding import captions_to_embed, text_embeds_folder
    from g4i_hf.training.supervision import supervised

    if run.streaming:
        from g4i_hf.training.streamed_run import load_streamed

        return *load_streamed(run, data, args), 0, None
    with PartialState().main_process_first():  # the first fills the cache that the others read
        splits = data.load()
    if run.train_split not in splits:
        raise ValueError(f"The data has no split {run.train_split!r} (train_split). It has: {', '.join(splits)}.")
    splits, id2label = class_names(splits)
    has_embeds = any(columns.TEXT_EMBEDS in split.column_names for split in splits.values())
    embedding = {"source": data.source(), "shared": encoder.embeddings_dir is None}
    folder = encoder.embeddings_dir or Path(args.output_dir).parent / "embeddings"
    to_embed, dim, embeddings = 0, None, None
    if run.dry_run and encoder.text_encoder and not has_embeds:
        to_embed, dim = captions_to_embed(splits, encoder, folder, **embedding)
    if not to_embed:
        embeddings = text_embeds_folder(splits, encoder, folder, **embedding)
        splits = splits if embeddings is None else join_stage(splits, embeddings, read_stage(embeddings))
    training = splits[run.train_split]
    feature = training.features.get(columns.TEXT_EMBEDS)
    text_embed_dim = columns.text_embed_dim_of(feature)
    check_split(
        training,
        run.train_split,
        num_labels=len(id2label),
        text_embed_dim=text_embed_dim or (1 if args.align_weight + args.teacher_weight > 0 and not to_embed else None),
        require_labels=run.require_labels,
        on_bad_images=run.on_bad_images,
    )
    if run.eval_split in splits:
        splits[run.eval_split] = rows_to_use(splits[run.eval_split], run.eval_split, run.on_bad_images)
        check_split(
            splits[run.eval_split],
            run.eval_split,
            num_labels=len(id2label),
            training=False,
            require_labels=run.require_labels,
        )
    splits[run.train_split] = supervised(training, run, encoder, list(id2label.values()), args.seed)
    return splits, id2label, text_embed_dim or dim, to_embed, embeddings


def check_lora(student, args) -> None:
    """Before captions are embedded, which can take long."""
    if not student.use_peft:
        return
    from g4i_hf.modeling.lora import require_peft

    if args.freeze_backbone:
        raise ValueError(
            "use_peft and freeze_backbone are both true: one adapts the backbone, one does not. Choose one."
        )
    require_peft()


def build_model(student, augmentation, args, id2label, text_embed_dim):
    """The aligned model, the processor saved beside it, and the one its released student will be used with."""
    from transformers import set_seed

    from g4i_hf import AlignedImageClassification
    from g4i_hf.modeling.processing import ImageSettings, generic_processor, pretrained_processor, student_processor
    from g4i_hf.training.lineage import student_source

    set_seed(args.seed)
    image_size = augmentation.image_size or (None if student.pretrained else 224)
    model = AlignedImageClassification.from_student(
        student.student,
        id2label=id2label,
        text_embed_dim=text_embed_dim or 384,
        pretrained=student.pretrained,
        student_args=student.student_args,
        image_size=image_size,
        image_settings=augmentation.image_settings,
        revision=student.student_revision,
        lora=student.lora(),
        projector_type=student.projector_type,
        projector_hidden_size=student.projector_hidden_size,
        projector_norm=student.projector_norm,
    )
    if student.use_peft:  # adapters belong to the commit that was loaded, not to a branch
        model.config.lora["revision"] = student_source(student)["revision"]
    config, settings = model.config.student_config, augmentation.image_settings
    if student.pretrained and config.model_type != "timm_wrapper":
        saved = pretrained_processor(student.student, student.student_revision, {"image_size": image_size, **settings})
    else:
        saved = generic_processor(ImageSettings.of(config, image_size, settings))
    return model, saved, student_processor(config, saved)


def build_trainer(model, processor, saved_processor, splits, run, augmentation, args, one_embedding=False):
    """`one_embedding`: all captions have the same vector, for a dry run before they are embedded."""
    from g4i_hf import columns
    from g4i_hf.data.dataset import CaptionedImages
    from g4i_hf.data.transforms import train_transform
    from g4i_hf.evaluation.metrics import accuracy_of_logits, predicted_classes
    from g4i_hf.evaluation.predict import eval_transform
    from g4i_hf.modeling.processing import ImageSettings
    from g4i_hf.training import AlignmentTrainer
    from g4i_hf.training.streamed_run import training_images

    publisher = None
    if args.push_to_hub:
        from g4i_hf.hub import StudentPublisher

        publisher = StudentPublisher(args)
    settings = ImageSettings.from_processor(processor)
    transform = train_transform(augmentation, settings.size, settings.mean, settings.std, settings.interpolation)
    images = training_images(splits[run.train_split], transform, run, args, list(model.config.id2label.values()))
    if one_embedding:
        images.use_one_embedding(model.config.text_embed_dim, splits[run.train_split][columns.CAPTION][:])
    evaluated = splits.get(run.eval_split)
    return AlignmentTrainer(
        model=model,
        args=args,
        train_dataset=images,
        eval_dataset=CaptionedImages(evaluated, eval_transform(processor)) if evaluated is not None else None,
        processing_class=saved_processor,
        compute_metrics=accuracy_of_logits,
        preprocess_logits_for_metrics=predicted_classes,
        publisher=publisher,
    )


def train(trainer, resolved, state, checkpoint, lineage) -> None:
    from g4i_hf.training.lineage import write_lineage
    from g4i_hf.training.run_folder import clear_run, write_options

    args = trainer.args
    if checkpoint is not None:
        trainer.check_resumable(checkpoint)  # before anything of the earlier run is replaced
    if args.should_save:
        if state == "fresh":
            clear_run(args.output_dir)
        write_options(args.output_dir, resolved)
        write_lineage(args.output_dir, lineage())
    trainer.accelerator.wait_for_everyone()
    if checkpoint is not None:
        _say(f"Going on from {checkpoint}")
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_run()
    trainer.train_metrics = result.metrics | trainer.stopwatch.metrics() | trainer.left_out()


def finish(trainer, processor, splits, run, student: str) -> None:
    from g4i_hf.evaluation.evaluate import split_metrics, update_results
    from g4i_hf.evaluation.predict import predict
    from g4i_hf.training.summary import as_block, describe_training, next_steps, summary_of_run

    args, metrics = trainer.args, dict(trainer.train_metrics)
    if (split := splits.get(run.eval_split)) is not None:
        predictions = predict(trainer.model.eval(), processor, split, trainer.accelerator)
        metrics |= split_metrics(predictions, split, run.eval_split) if predictions else {}  # of the main process
    if args.should_save:
        update_results(args.output_dir, metrics)
    trained = describe_training(student, trainer.model, trainer.train_dataset, args, run.unlabelled)
    rows = summary_of_run(trained, args, trainer.state, trainer.stopwatch, metrics)
    _say("\n" + as_block(rows | {"Next": next_steps(args, _launch())}))


def publish(trainer) -> None:
    args = trainer.args
    try:
        url = trainer.push_to_hub()
    except (OSError, ValueError) as error:
        again = f"--run {args.output_dir} --repo_id {trainer.hub_model_id} --push_to_hub true"
        raise OSError(
            f"The run is finished and whole in {args.output_dir}, but was not pushed: {error}\nPush it with "
            f"{_launch().format('release')} {again}"
        ) from error
    _say(f"Pushed: {url}")


def plan(model, saved_processor, processor, splits, to_embed: int, options, checkpoint) -> None:
    """A dry run: what the run would be, with a few steps timed on a trainer whose folder is thrown away."""
    import tempfile

    from g4i_hf.training.dry_run import make_plan, trial_arguments
    from g4i_hf.training.summary import as_block, describe_training

    run, _, encoder, student, augmentation, args = options
    with tempfile.TemporaryDirectory() as folder:
        trial = trial_arguments(args, folder)
        trainer = build_trainer(model, processor, saved_processor, splits, run, augmentation, trial, bool(to_embed))
        steps = make_plan(trainer, args)
    described = describe_training(student.student, model, trainer.train_dataset, args, run.unlabelled)
    embedded = f"{to_embed:,} different captions would be embedded first, by {encoder.text_encoder}"
    going_on = [f"would go on from {checkpoint}"] if checkpoint else []
    rows = {"Would train": described, "Captions": [embedded if to_embed else ""], "Steps": [*steps.steps(), *going_on]}
    rows |= {"Time": steps.time(), "Run": [f"{args.output_dir}: {steps.saves(args)}"]}
    _say("\n" + as_block({label: [line for line in lines if line] for label, lines in rows.items()}))
    _say("Nothing was written; the same command without dry_run trains.")


def _launch() -> str:
    """How the scripts beside this one are started, as this one was."""
    from g4i_hf.cli import OWN_MODULE

    if module := os.environ.get(OWN_MODULE):  # by with_module.py, from a clone or an installed package
        is_path = not os.path.isabs(sys.argv[0])
        return f"accelerate launch {sys.argv[0] if is_path else '-m g4i_hf.recipes.with_module'} {module} {{}}"
    script = f"-m {__package__}.{{}}" if __package__ else str(Path(sys.argv[0]).with_name("{}.py"))
    return f"accelerate launch {script}"


def _say(text: str) -> None:
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(text, flush=True)


if __name__ == "__main__":
    from g4i_hf.cli import end_processes

    main()
    end_processes()
