"""
Trains an aligned student, or with `--align_weight 0` its baseline.

    accelerate launch recipes/train.py                                     # the Emoji Styles recipe
    accelerate launch recipes/train.py --config recipes/emoji_styles/baseline.yaml --seed 1 --output_dir runs/seed1

A run that was interrupted goes on from its last checkpoint when the same command is given again.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate


def main() -> None:
    from g4i_hf.cli import OptionError, parse_options, quiet_libraries
    from g4i_hf.data.arguments import AugmentationArguments, DataArguments
    from g4i_hf.embedding import EncoderArguments
    from g4i_hf.training import AlignmentArguments, RunArguments, StudentArguments
    from g4i_hf.training.run_folder import open_run, resolved_options

    options = parse_options(
        (RunArguments, DataArguments, EncoderArguments, StudentArguments, AugmentationArguments, AlignmentArguments),
        description=__doc__,
        default_config=Path(__file__).parent / "emoji_styles" / "train.yaml",
    )
    run, data, encoder, student, augmentation, args = options
    quiet_libraries(args.should_log)
    try:
        # 1. Is there an earlier run in output_dir, and where did it stop?
        resolved = resolved_options(options, args.output_dir)
        state, checkpoint = open_run(args.output_dir, resolved, run.overwrite)
        if state == "finished":
            _say(f"{args.output_dir} holds this very run, finished. Train it again with --overwrite true.")
            return
        # 2. Images, captions, embeddings; everything is checked before anything is written to output_dir
        splits, id2label, text_embed_dim = load_data(run, data, encoder, args)
        # 3. Student and projector
        model, saved_processor, processor = build_model(student, augmentation, args, id2label, text_embed_dim)
        # 4. Training
        trainer = build_trainer(model, processor, saved_processor, splits, run, augmentation, args)
        train(trainer, resolved, state, checkpoint)
        # 5. Evaluation, the last thing written
        finish(trainer, processor, splits, run, args)
    except (OSError, ValueError) as error:
        raise OptionError(str(error)) from error


def load_data(run, data, encoder, args):
    """The splits with their embeddings, checked; the class names; the size of the embeddings (None without any)."""
    from accelerate import PartialState

    from g4i_hf import columns
    from g4i_hf.data.checks import check_split
    from g4i_hf.data.loading import class_names
    from g4i_hf.embedding import with_text_embeds

    with PartialState().main_process_first():  # the first fills the cache that the others read
        splits = data.load()
    if run.train_split not in splits:
        raise ValueError(f"The data has no split {run.train_split!r} (train_split). It has: {', '.join(splits)}.")
    splits, id2label = class_names(splits)
    splits = with_text_embeds(
        splits,
        encoder,
        encoder.embeddings_dir or Path(args.output_dir).parent / "embeddings",
        source=data.dataset_name,
        source_revision=data.dataset_revision,
        shared=encoder.embeddings_dir is None,
    )
    training = splits[run.train_split]
    feature = training.features.get(columns.TEXT_EMBEDS)
    text_embed_dim = getattr(feature, "length", None)
    check_split(
        training,
        run.train_split,
        num_labels=len(id2label),
        text_embed_dim=text_embed_dim or (1 if args.align_weight > 0 else None),
    )
    if run.eval_split in splits:
        check_split(splits[run.eval_split], run.eval_split, num_labels=len(id2label), training=False)
    return splits, id2label, text_embed_dim


def build_model(student, augmentation, args, id2label, text_embed_dim):
    """The aligned model, the processor saved beside it, and the one its released student will be used with."""
    from transformers import AutoImageProcessor, set_seed

    from g4i_hf import AlignedImageClassification
    from g4i_hf.modeling.processing import ImageSettings, generic_processor, student_processor

    set_seed(args.seed)
    model = AlignedImageClassification.from_student(
        student.student,
        id2label=id2label,
        text_embed_dim=text_embed_dim or 384,
        pretrained=student.pretrained,
        student_args=student.student_args,
        image_size=augmentation.image_size,
        revision=student.student_revision,
        projector_type=student.projector_type,
        projector_hidden_size=student.projector_hidden_size,
        projector_norm=student.projector_norm,
    )
    if student.pretrained and model.config.student_config.model_type != "timm_wrapper":
        saved = AutoImageProcessor.from_pretrained(student.student, revision=student.student_revision or "main")
    else:
        saved = generic_processor(ImageSettings.of(model.config.student_config, augmentation.image_size))
    return model, saved, student_processor(model.config.student_config, saved)


def build_trainer(model, processor, saved_processor, splits, run, augmentation, args):
    from g4i_hf.data.dataset import CaptionedImages
    from g4i_hf.data.transforms import train_transform
    from g4i_hf.evaluation.metrics import accuracy_of_logits
    from g4i_hf.evaluation.predict import eval_transform
    from g4i_hf.modeling.processing import ImageSettings
    from g4i_hf.training import AlignmentTrainer

    settings = ImageSettings.from_processor(processor)
    transform = train_transform(augmentation, settings.size, settings.mean, settings.std, settings.interpolation)
    evaluated = splits.get(run.eval_split)
    return AlignmentTrainer(
        model=model,
        args=args,
        train_dataset=CaptionedImages(splits[run.train_split], transform, seed=args.seed),
        eval_dataset=CaptionedImages(evaluated, eval_transform(processor)) if evaluated is not None else None,
        processing_class=saved_processor,
        compute_metrics=accuracy_of_logits,
    )


def train(trainer, resolved, state, checkpoint) -> None:
    from g4i_hf.training.run_folder import clear_run, write_options

    args = trainer.args
    if args.should_save:
        if state == "fresh":
            clear_run(args.output_dir)
        write_options(args.output_dir, resolved)
    trainer.accelerator.wait_for_everyone()
    if checkpoint is not None:
        _say(f"Going on from {checkpoint}")
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if args.should_save and trainer.ema is not None:
        trainer.ema.save(args.output_dir)
    trainer.save_state()
    trainer.train_metrics = result.metrics


def finish(trainer, processor, splits, run, args) -> None:
    from g4i_hf.evaluation.evaluate import split_metrics, update_results
    from g4i_hf.evaluation.predict import predict

    metrics = dict(trainer.train_metrics)
    if run.eval_split in splits:
        split = splits[run.eval_split]
        predictions = predict(trainer.model.eval(), processor, split, trainer.accelerator)
        metrics.update(split_metrics(predictions, split, run.eval_split))
    if args.should_save:
        update_results(args.output_dir, metrics)
    accuracy = metrics.get(f"{run.eval_split}_accuracy")
    shown = f", {run.eval_split} accuracy {accuracy:.1%}" if accuracy is not None else ""
    _say(f"Trained in {metrics['train_runtime']:.0f} s{shown}. The run is in {args.output_dir}")


def _say(text: str) -> None:
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(text, flush=True)


if __name__ == "__main__":
    main()
