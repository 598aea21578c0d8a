"""
Describes every image of a data set, or takes over descriptions that exist.

    accelerate launch recipes/caption.py                          # the Shapes recipe, by its own small model
    accelerate launch recipes/caption.py --dataset_name pictures --captions_dir runs/pictures/captions \\
        --captioner_model Qwen/Qwen2.5-VL-3B-Instruct --dry_run 8
    accelerate launch recipes/caption.py --dataset_name pictures --captions_dir runs/pictures/captions \\
        --base_url http://127.0.0.1:8000/v1 --captioner_model Qwen/Qwen2.5-VL-7B-Instruct

Every answer is kept at once; the same command again asks only for what is missing.
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder holds evaluate.py, which would hide the package evaluate
    os.environ["G4I_HF_LAZY_IMPORT"] = "1"  # neither help nor captions of a server need torch

OPTIONS = (
    "g4i_hf.captioning.arguments.CaptionArguments",
    "g4i_hf.data.arguments.DataArguments",
    "g4i_hf.captioning.arguments.LocalCaptionerArguments",
    "g4i_hf.captioning.arguments.EndpointArguments",
    "g4i_hf.captioning.arguments.ExistingCaptionsArguments",
    "g4i_hf.captioning.arguments.CleaningArguments",
    "g4i_hf.captioning.arguments.QualityArguments",
)


def main() -> None:
    from g4i_hf.cli import OptionError, parse_options, quiet_libraries

    options = parse_options(
        OPTIONS, description=__doc__, default_config=Path(__file__).parent / "shapes" / "caption.yaml"
    )
    from g4i_hf.captioning.answers import CaptionerError
    from g4i_hf.captioning.sharing import Heartbeat, Share
    from g4i_hf.captioning.stage import check_places

    args, data, _, endpoint, existing, *_ = options
    share = Share.from_environment()
    quiet_libraries(share.is_first)
    try:
        kind = args.kind(endpoint.base_url, existing.captions_file, data.caption_column)
        check_places(args.captions_dir, args.journal, data.dataset_name)
        asks = kind in ("local", "endpoint")
        with Heartbeat(args.journal, share) if asks and share.processes > 1 else nullcontext() as heartbeat:
            # 1. The images
            splits = chosen_splits(args, data, asks)
            # 2. Answers of a captioner, kept in the journal, or captions that exist
            if asks:
                captioned = asked(kind, splits, options, share, heartbeat)
            else:
                captioned = given(kind, splits, options) if share.is_first else None
            # 3. Judged, and written to a folder that the next stage opens
            if captioned is not None:
                finish(captioned, splits, options)
    except (OSError, ValueError, CaptionerError) as error:
        raise OptionError(str(error)) from error
    except KeyboardInterrupt:
        print("Interrupted. Every answer so far is kept; the same command goes on from there.", file=sys.stderr)
        raise SystemExit(130) from None


def chosen_splits(args, data, asks):
    """The splits, with names for their classes where the labels have any."""
    from datasets import ClassLabel, Value

    from g4i_hf import columns
    from g4i_hf.data.loading import class_names
    from g4i_hf.data.stage import check_replaceable

    check_replaceable(args.captions_dir)
    if args.dry_run and not asks:
        raise ValueError("dry_run is for captions that are made now; these exist already.")
    if args.streaming and not asks:
        raise ValueError("streaming is for captions that are made now; those that exist are joined to data at hand.")
    if args.streaming and (args.with_images or args.partial):
        raise ValueError("With streaming, neither with_images nor partial is possible: the images are not kept.")
    splits = data.stream() if args.streaming else data.load()
    missing = [name for name in args.caption_splits or [] if name not in splits]
    if missing:
        raise ValueError(f"The data has no split {missing[0]!r} (caption_splits). It has: {', '.join(splits)}.")
    labels = [split.features[columns.LABEL] for split in splits.values() if columns.LABEL in split.features]
    # Numbers, and lists, are no names that a prompt could say or a caption could hold
    named = [isinstance(label, ClassLabel) or label == Value("string") for label in labels]
    return class_names(splits)[0] if named and all(named) and not args.streaming else splits


def build_captioner(kind, options, share):
    args, _, local, endpoint, *_ = options
    if not args.captioner_model:
        raise ValueError("captioner_model is missing: give the model's Hub id or folder, or a server's name for it.")
    asked_for = {
        "revision": args.captioner_revision,
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "seed": args.caption_seed,
        "max_side": args.image_max_side,
    }
    if kind == "endpoint":
        from g4i_hf.captioning.endpoint.captioner import EndpointCaptioner

        if not endpoint.base_url:
            raise ValueError("base_url is missing: give the address of the server up to /v1.")
        return EndpointCaptioner(args.captioner_model, endpoint.base_url, endpoint=endpoint, **asked_for)
    from g4i_hf.captioning.local.captioner import LocalCaptioner

    return LocalCaptioner(args.captioner_model, local=local, device=share.device(), **asked_for)


def asked(kind, splits, options, share, heartbeat):
    """The answers of a captioner; None where the rest is for other processes, or for another time."""
    from g4i_hf.captioning.asking import Asking
    from g4i_hf.captioning.captioned import needs_another_try
    from g4i_hf.captioning.projection import Budget
    from g4i_hf.captioning.stage import Captioned, check_same, questions_of

    args, cleaning = options[0], options[5]
    captioner = build_captioner(kind, options, share)
    questions = questions_of(splits, args, captioner)
    first = next(iter(questions.values()))
    if not (args.overwrite or args.dry_run):
        check_same(args.captions_dir, captioner.provenance, first.prompts.templates, questions)
    if args.dry_run:
        return tried(captioner, questions, options, share) if share.is_first else None
    requests = None if args.max_requests is None else share.part_of(args.max_requests)
    cost = None if args.max_cost is None else args.max_cost / share.processes
    asking = Asking(
        captioner,
        questions,
        args.journal,
        share=share,
        heartbeat=heartbeat,
        budget=Budget(requests, cost, args.price_input, args.price_output),
        ask_again=needs_another_try(cleaning) if args.retry_failed else None,
    )
    outcome = asking.run()
    if not share.is_first:
        return None
    print(outcome.as_text())
    if asking.budget.reason:
        print(asking.budget.reason)
        if not args.partial:
            print(
                f"The answers are kept in {args.journal}: the same command asks for as many more, and "
                "--max_requests 0 --partial writes what there is."
            )
            return None
    partial = asking.budget.reason is not None
    return Captioned.from_journal(questions, asking.journal, splits, captioner.provenance, cleaning, partial)


def tried(captioner, questions, options, share):
    """A dry run, and what it found."""
    from g4i_hf.captioning.dry_run import GRID, PAGE, dry_run

    args, cleaning = options[0], options[5]
    if hasattr(captioner, "hosts"):
        print(f"Images are sent to {', '.join(captioner.hosts)}, at most {args.image_max_side} px, without metadata.")
    found = dry_run(captioner, questions, args, cleaning, share.processes)
    print(found.text)
    print(f"Look at {found.folder / PAGE} or {found.folder / GRID}. Nothing else was written; the answers are kept.")


def given(kind, splits, options):
    """Captions that exist already."""
    from datasets import DatasetDict

    from g4i_hf.captioning.existing.joining import existing_captions
    from g4i_hf.captioning.stage import Captioned, check_same

    args, data, _, _, existing, cleaning, _ = options
    chosen = DatasetDict({name: split for name, split in splits.items() if name in (args.caption_splits or splits)})
    found = existing_captions(chosen, existing, kind)
    if found.list_rows is not None:
        found.report |= order_of(found, chosen, existing)
    origin = {"captioner": found.report["from"]}
    if existing.captions_file:
        origin["file"] = Path(existing.captions_file).name
    if not args.overwrite:
        check_same(args.captions_dir, origin, [], chosen)
    return Captioned.from_existing(found, splits, origin, cleaning)


def order_of(found, splits, existing):
    """Whether a list is in the order of the images, as far as a scorer can tell."""
    from g4i_hf import columns
    from g4i_hf.captioning.existing.order import ImagesInOrder, check_order

    split, scorer = splits[found.list_split], None
    if existing.order_scorer:
        from g4i_hf.captioning.quality.clip_scorer import ClipScorer

        scorer = ClipScorer(existing.order_scorer)
    captions = [found.captions[found.list_split][row] for row in found.list_rows]
    classes = split[columns.LABEL][:] if columns.LABEL in split.column_names else None
    return check_order(
        ImagesInOrder(split, found.list_rows),
        captions,
        scorer,
        sample=existing.order_sample,
        classes=classes and [classes[row] for row in found.list_rows],
    )


def finish(captioned, splits, options):
    """Weights, the stage, the report and the card."""
    from g4i_hf.captioning.quality.judging import judge_captions
    from g4i_hf.captioning.stage import write_captions
    from g4i_hf.hub.captions_card import write_card

    args, data, *_, quality = options
    encode = scorer = None
    if quality.quality_encoder:
        from g4i_hf.embedding import load_encoder

        encode = load_encoder(quality.quality_encoder).encode
    if quality.clip_scorer:
        from g4i_hf.captioning.quality.clip_scorer import ClipScorer

        scorer = ClipScorer(quality.clip_scorer)
    judged = judge_captions(captioned, splits, quality, encode=encode, scorer=scorer)
    stage = write_captions(
        captioned,
        args.captions_dir,
        source=data.source(),
        images=splits if args.with_images else None,
    )
    write_card(args.captions_dir, stage, license=args.captions_license)
    if quality.report:
        from g4i_hf.captioning.report.page import write_report

        about = {name: value for name, value in stage["captioner"].items() if value is not None}
        if stage["prompts"]:
            about["prompts"] = stage["prompts"]
        print(f"report: {write_report(args.captions_dir, judged, about)}")
    print("\n".join([*captioned.lines(), f"They are in {args.captions_dir}"]))


if __name__ == "__main__":
    main()
