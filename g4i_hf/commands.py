"""The commands of `g4i`: each reads its options, calls the library and prints. Heavy imports wait until one runs."""

import copy
import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from .cli import OptionError, check_paths
from .files import printable
from .names import LABELS_ONLY, check_run, is_of_fit, require
from .options import check_left_out, learned_from_captions
from .output import is_first_process, say

RECIPES = (Path(__file__).parent / "recipes").resolve()
MAKE_STAGE = "g4i caption --dataset_name DATASET_NAME --caption_column caption --captions_dir"
TRACKERS = {"tensorboard", "trackio", "wandb"}


class Command:
    """`check` validates options before torch is imported, `run` does the work; the docstring is for `--help`."""

    default_config: str | None = None  # in recipes/, for a command line without options
    in_one_process = False

    def check(self, *options) -> None:
        pass


def print_note(text: str) -> None:
    """Print on stderr, apart from the output for other programs."""
    print(printable(text), file=sys.stderr)


class Fit(Command):
    """Train a classifier on a folder of images, and estimate what captions add.

        g4i fit pictures
        g4i fit pictures --captioner HuggingFaceTB/SmolVLM-Instruct
        g4i fit pictures --minutes 60

    Computes the features of a pretrained student once, and estimates class probabilities from captions, features and
    labels together. Trains the last layer on these and, to compare, on the labels alone. It never reads `test`, and
    sends no images anywhere unless `--captioner` is a server. To resume, run the same command again. If the data or
    options changed, it prints what changed, trains again, and keeps the earlier result in `earlier-1`. Without options
    it trains on the photographs of the demo.
    """

    default_config = "photos_demo/fit.yaml"

    def run(self, args, data) -> None:
        from .fitting.command import Fit

        Fit(args, data, say=say).run()


class Caption(Command):
    """Caption every image of a dataset, or import existing captions.

        g4i caption --dataset_name pictures --captions_dir runs/pictures/captions \\
            --captioner_model Qwen/Qwen2.5-VL-3B-Instruct --dry_run 8
        g4i caption --dataset_name pictures --captions_dir runs/pictures/captions \\
            --base_url http://127.0.0.1:8000/v1 --captioner_model Qwen/Qwen2.5-VL-7B-Instruct

    Answers are saved on arrival. To resume, run the same command again. Without options it captions the Shapes recipe
    with the small captioner of that recipe. With `--shards` it writes a Parquet of captions for each shard of a
    bucket, as one of many tasks, and keeps no answers of a shard that is not finished.
    """

    default_config = "shapes/caption.yaml"

    def check(self, args, data, local, endpoint, existing) -> None:
        if data.shards:
            check_left_out(args, "captions_dir", "caption_splits", "dry_run", "partial", "retry_failed")
            check_left_out(endpoint, "export_requests", "import_answers")
            check_left_out(existing, "captions_file")
            check_left_out(data, "caption_column")
        elif not args.captions_dir:
            raise OptionError("captions_dir is missing: give a folder for the captions with --captions_dir.")
        args.kind(endpoint.base_url, existing.captions_file, data.caption_column)
        check_paths(captions_file=existing.captions_file)

    def run(self, args, data, *others) -> None:
        from .workflows.caption import Captioning

        captioning = Captioning(args, data, *others, say=say)
        captioning.over_shards(data) if data.shards else captioning.run()


class Embed(Command):
    """Embed images or captions: a view for `g4i fit`, or captions for `g4i train`.

        g4i embed pictures --view image:openai/clip-vit-base-patch32 -o runs/pictures
        g4i embed --dataset_name pictures --caption_column text \\
            --text_encoder openai/clip-vit-base-patch32 --embeddings_dir runs/pictures/embeddings

    With `--view` it writes a view of the training images: captions, answers, scores, or features of any image encoder
    of timm or transformers. CLIP and SigLIP add the class names. Without `--view` it embeds the captions; those longer
    than the encoder's context window are truncated and counted. To resume, run the same command again: only new and
    changed images are computed. With `--shards` it writes a Parquet of image features for each shard of a bucket, as
    one of many tasks.
    """

    def check(self, view, data, encoder) -> None:
        if data.shards:
            check_left_out(encoder, "embeddings_dir", "text_encoder")
            if not view.view:
                raise OptionError("view is missing: the images of shards are embedded with --view image:NAME.")
        elif not encoder.embeddings_dir or not (view.view or encoder.text_encoder):
            raise OptionError("give --view or --text_encoder, and --embeddings_dir (-o), or a --config.")

    def run(self, view, data, encoder) -> None:
        import torch
        from accelerate import Accelerator

        if data.shards:
            from .views.shards import embed_shards

            embed_shards(view, data, say)
            return
        from .data.loading import class_words, load_data, load_reviewed, source_of
        from .embedding.embed import EmbeddingStage, described_embeddings
        from .views.making import embed_view

        accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        folder = encoder.embeddings_dir
        with accelerator.main_process_first():
            images = load_reviewed(data, folder) if view.view else load_data(data)
        if view.view:
            given = {"text_encoder": encoder.text_encoder} if encoder.text_encoder else {}
            given |= {"student": view.student, "accelerator": accelerator}
            given |= {"words": class_words(data, folder)}
            made = embed_view(images, view.view, folder, source=source_of(data), **given)
            say(f"View {view.view}: {made}, for g4i fit --views")
        else:
            stage = EmbeddingStage(images, encoder, folder, source=source_of(data)).write()
            say(described_embeddings(stage, folder))


class Check(Command):
    """Check data before training, and find labels that look wrong.

        g4i check pictures
        g4i check pictures --views caption image:student

    Prints images, classes, labels, captions and unreadable files of each split, and exits with status 1 if the data
    cannot be trained on. With `--views` it also prints the estimated accuracy of each view, and writes labels that
    contradict the views to an HTML page and a CSV file. Without `--views`, captions are used if they are embedded
    or `--text_encoder` is given, and image features with `--student`. The data is not changed: `g4i fit` and
    `g4i train --supervision auto` allow for wrong labels. `--classes` alone writes a first classes.yaml beside the
    images, to describe, rename, merge and drop classes; one that is there stays as it is.
    """

    in_one_process = True

    def run(self, args, data, encoder) -> None:
        from .workflows.check import check_labels, checked_data, write_classes

        if data.classes is not None:
            say(write_classes(data))
        splits, lines, faults = checked_data(args, data)
        say("\n".join(lines))
        if faults:
            say("\n".join(["\nThis data cannot be trained on:", *faults]))
            raise SystemExit(1)
        say("\n" + "\n".join(check_labels(args, data, encoder, splits)))


class Label(Command):
    """Review, correct and add labels in the browser.

        g4i label pictures --pick wrong
        g4i label pictures --pick next --n 20 --list
        g4i label pictures --import labels.csv

    Shows one image at a time, with its captions, the most likely class and the given label. Keys: Enter accepts the
    suggestion, 1-9 choose a likely class, letters begin a class name, n is none of these, Space skips, Backspace
    undoes. Each answer is saved at once, in labels.jsonl beside the images; `g4i fit` and the other commands use it
    instead of the folder name. Only this machine can open the page, and nothing is sent elsewhere. No student is
    trained. `--import` and `--export` open no page: they read and write the files of other tools.
    """

    in_one_process = True

    def check(self, args, data) -> None:
        check_paths(import_file=args.import_file)

    def run(self, args, data) -> None:
        from .data.labels import answers_to
        from .data.loading import default_folder, labels_file_of

        folder = args.output_dir or default_folder(data.dataset_name)
        if args.import_file or args.export_file:
            from .workflows.exchange import exchange_labels

            exchange_labels(args, data, folder, say)
            return
        if args.list:
            from .workflows.label import Labelling

            labelling = Labelling(args, data, say=print_note)
            labelling.compute()
            listed = labelling.listed()
            print("\n".join(listed or [labelling.nothing()]), file=None if listed else sys.stderr)
            return
        file = labels_file_of(data, folder)
        with answers_to(file) as append:  # before imports that take seconds
            from .workflows.label import Labelling
            from .workflows.label_server import serve

            serve(Labelling(args, data, say), append, say, opens_browser=not args.no_browser)


class Train(Command):
    """Train an aligned student with all its layers, or its baseline with `--align_weight 0`.

        g4i train --dataset_name pictures --text_encoder sentence-transformers/all-MiniLM-L6-v2 \\
            --student resnet18 --output_dir runs/pictures
        g4i train --num_processes 4 --config recipes/imagenet_resnet50/corrected.yaml

    To resume, run the same command again. Without options it trains on the photographs of the demo.
    """

    default_config = "photos_demo/train.yaml"

    def check(self, run, data, encoder, student, augmentation, training) -> None:
        if not training.output_dir:
            raise OptionError("output_dir is missing: give the run folder with --output_dir.")
        trackers = [training.report_to] if isinstance(training.report_to, str) else training.report_to or []
        for name in TRACKERS & set(trackers):
            require(name, "trackers", f"report_to {name}")
        if training.push_to_hub:
            require("detect_secrets", "hub", "The search for secrets before a push")

    def run(self, run, data, encoder, student, augmentation, training) -> None:
        self._train(run, data, encoder, student, augmentation, training)
        if run.labels_only and not run.dry_run:
            self._compare_with_labels_only(run, data, encoder, student, augmentation, training)

    def _train(self, run, data, encoder, student, augmentation, training) -> None:
        from .workflows.train import TrainingRun

        training_run = TrainingRun(run, data, encoder, student, augmentation, training)
        output_dir, pushes = training_run.args.output_dir, training_run.args.push_to_hub
        with training_run.alone():
            state, checkpoint = training_run.open()
            if state == "finished":
                say(f"{output_dir} holds this very run, finished. To train it again, pass --overwrite true.")
                if pushes:
                    say("It was not pushed now: that is what g4i release does.")
                return
            training_run.load()
            for line in training_run.reasons:
                say(line)
            if run.dry_run:
                say(f"\n{training_run.plan(checkpoint)}")
                say("Nothing was written; the same command without dry_run trains.")
                return
            if checkpoint is not None:
                say(f"Resuming from {checkpoint}")
            metrics = training_run.train(state, checkpoint)
            say(f"\n{training_run.summary(metrics)}")
            if pushes:
                say(f"Pushed: {training_run.publish()}")

    def _compare_with_labels_only(self, run, data, encoder, student, augmentation, training) -> None:
        """Train the same without captions, and print both accuracies."""
        from .evaluation.metrics import read_results

        baseline = copy.copy(training)  # `replace` would lose the options that only Trainer has
        baseline.output_dir = os.path.join(training.output_dir, LABELS_ONLY)
        baseline.align_weight, baseline.push_to_hub = 0.0, False
        say(f"\nOn the labels alone, in {baseline.output_dir}:")
        alone = dataclasses.replace(run, labels_only=False, supervision="none", unlabelled="drop")
        self._train(alone, data, encoder, student, augmentation, baseline)
        results = [read_results(options.output_dir) for options in (baseline, training) if is_first_process()]
        name = f"{run.eval_split}_accuracy"
        if results and all(name in metrics for metrics in results):
            both = f"labels only {results[0][name]:.1%}, with captions {results[1][name]:.1%}"
            say(f"\nAccuracy on {run.eval_split}: {both}.")


class Evaluate(Command):
    """Evaluate a result of `g4i fit`, or a run and its baseline, on every split except the training split.

        g4i evaluate runs/pictures --splits test
        g4i evaluate --run runs/emoji_styles/aligned --baseline runs/emoji_styles/baseline

    Adds the metrics to each run's all_results.json and writes its predictions. The data is that of the run's
    train.yaml. Results on other data (`--dataset_name`) go into a folder in the run's evaluations/.
    """

    def check(self, args, data, encoder) -> None:
        check_paths(baseline=args.baseline)

    def run(self, args, data, encoder) -> None:
        from .evaluation.comparison import as_text
        from .evaluation.metrics import speed_text
        from .fitting.result import FitResult
        from .fitting.words import released_in_words
        from .training.run_folder import read_options
        from .workflows.evaluate import Evaluation

        evaluation = Evaluation(args, data, encoder)
        evaluation.evaluate()
        if not evaluation.results:  # not the main process
            return
        say("\n" + "\n".join([*evaluation.lines(), as_text(evaluation.rows, evaluation.names)]))
        if args.baseline and (weights := learned_from_captions(read_options(args.baseline))):
            say(f"{args.baseline} is no baseline: it learned from captions too ({weights}).")
        if args.speed:
            say(f"\n{speed_text(evaluation.results['aligned'])}\n")
        for name, folder in evaluation.folders.items():
            say(f"{evaluation.names[name]}: {folder}/all_results.json, {folder}/predictions")
        if args.report:
            evaluation.write_report()
            say(f"report: {args.report}")
        say("\n".join(evaluation.verdicts))
        if evaluation.fit is not None:
            say(released_in_words(FitResult.read(evaluation.fit), True))
            say(f"To put these metrics into the model card: g4i release --run {evaluation.fit}")


class Predict(Command):
    """Predict the class of every image, and which images to leave to a person.

        g4i predict runs/pictures new_pictures -o predictions.csv
        g4i predict me/my-student new_pictures -o predictions.parquet --precision 0.99 --top 5
        g4i predict me/my-student --shards 's3://bucket/photos/*.parquet' --out s3://bucket/run

    Writes a line an image: `file_name`, `label`, `probability` and `decision`. That is `answer` where the class is
    sure enough for `--precision`, `ask` where a person should look, and `none` where no class seems to fit. An
    unreadable file is a line with the reason.
    Any image classifier of the Hub works; thresholds come with those of `g4i fit`. To resume, run the same command
    again. With `--shards` it writes such a table for each shard of a bucket, as one of many tasks.
    """

    in_one_process = True

    def run(self, args) -> None:
        from .inference.command import predict_into_file, predict_shards

        (predict_shards if args.shards else predict_into_file)(args, say)


class Search(Command):
    """Find images by text, with an aligned student.

        g4i search runs/pictures "a red flower" --images pictures/validation
        g4i search me/my-student "a red flower" --images holiday --top_k 20 --page found.html

    Prints the best matches with their cosine similarity. Image embeddings are cached in HF_HOME for the next query.
    """

    in_one_process = True

    def check(self, args) -> None:
        check_paths(images=args.images)

    def run(self, args) -> None:
        from .pages import Shown, thumbnail, write_page
        from .zero_shot.search import CACHE, ImageSearch

        encoder = {"text_encoder": args.text_encoder} if args.text_encoder else {}
        matches = ImageSearch(args.run, args.images, cache=CACHE, **encoder)(args.query, args.top_k)
        for match in matches:
            say(f"{match['score']:.3f}  {printable(match['image'])}")
        if args.page:
            shown = [
                Shown(
                    picture=thumbnail([{"image": {"bytes": None, "path": match["image"]}}], 0),
                    title=match["image"],
                    lines=[("soft", f"cosine {match['score']:.3f}")],
                )
                for match in matches
            ]
            write_page(args.page, args.query, paragraphs=[f"Best matches in {args.images}."], shown=shown)
            say(f"page: {args.page}")


class Release(Command):
    """Release the student of a run as a plain checkpoint with a card, or a stage as a dataset.

        g4i release --run runs/emoji_styles/aligned --baseline runs/emoji_styles/baseline
        g4i release --stage runs/emoji_styles/embeddings --repo_id me/emoji-captions

    transformers loads the student without this package, and timm loads timm students. Nothing is pushed without
    --push_to_hub; --dry_run lists what would be pushed, and writes nothing.
    """

    in_one_process = True

    def check(self, args) -> None:
        kind, folder = ("stage", args.stage) if args.stage else ("run", args.run)
        if not Path(folder).is_dir():
            more = f" Or make one of captions that you have: {MAKE_STAGE} {folder}." if args.stage else ""
            raise FileNotFoundError(
                f"There is no {kind} {folder!r}: no such folder. Name yours with --run or --stage.{more}"
            )
        check_paths(baseline=args.baseline)
        if args.formats:
            require("onnxruntime", "onnx", "formats")
        if args.run and not is_of_fit(args.run):
            check_run(args.run, args.weights)
        if args.push_to_hub or args.dry_run:  # before anything is written
            require("detect_secrets", "hub", "The scan for secrets before a push")

    def run(self, args) -> None:
        from .fitting.result import FitResult
        from .fitting.words import released_in_words
        from .hub.push import check_publishable, push_folder
        from .hub.release import build_release, listed

        def built(scratch: Path | None = None) -> Path:
            folder, lines = build_release(args, scratch)
            is_choice = args.run and is_of_fit(args.run)
            say("\n".join([*lines, *([released_in_words(FitResult.read(Path(args.run)), True)] if is_choice else [])]))
            return folder

        if args.dry_run:
            with tempfile.TemporaryDirectory() as scratch:
                folder = built(Path(scratch))
                say("\n".join(listed(folder, args)))
                check_publishable(folder)
            say("No local path, host name or token was found. Nothing was written or pushed.")
            return
        folder = built()
        if args.push_to_hub:
            where = args.repo_id, "dataset" if args.stage else "model"
            url = push_folder(folder, *where, private=args.private, replace=args.replace)
            say(f"Pushed {folder} to {url}")


COMMANDS: dict[str, Any] = {
    kind.__name__.lower(): kind()
    for kind in (Fit, Caption, Embed, Check, Label, Train, Evaluate, Predict, Search, Release)
}
