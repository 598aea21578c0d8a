"""
Breaks of the library that would cost a user money, privacy, a fair judgement, a run or its bits, each with the test
that must fail with it. A break replaces a named function or constant, in a process of its own.

python tests/breaks.py              all of them, some minutes
python tests/breaks.py push label   those with one of these words in a name
"""

import contextlib
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}  # before libraries are imported

TESTS = Path(__file__).parent
LONGEST = 300  # seconds of a guard
# Modules of several breaks, below g4i_hf
LABEL_MODEL, VIEWS = "label_model.model", "label_model.views"
RUN_FOLDER, CHECKPOINT = "training.run_folder", "training.checkpoint"


@dataclass
class Break:
    place: str  # `module:attribute` below g4i_hf, where it is used; an attribute may have dots
    broken: Callable[[Any], Any]  # makes the broken object of the real one
    guard: str  # `file::test` that fails; the beginning of its name is enough

    @property
    def module(self) -> str:
        return f"g4i_hf.{self.place.partition(':')[0]}"

    def find(self) -> tuple[Any, str]:
        """What has the attribute, and its name."""
        *owners, name = self.place.partition(":")[2].split(".")
        return reduce(getattr, owners, importlib.import_module(self.module)), name

    def apply(self) -> None:
        owner, name = self.find()
        setattr(owner, name, self.broken(getattr(owner, name)))

    def test(self) -> str:
        """The guard as pytest names it."""
        file, _, beginning = self.guard.partition("::")
        (name,) = re.findall(rf"^def ({beginning}\w*)\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)
        return f"{TESTS / file}::{name}"


# --- What a broken function does -------------------------------------------------------------------------------------


def gives(value: Any) -> Callable:
    return lambda real: lambda *args, **kwargs: value


def becomes(value: Any) -> Callable:
    """A constant."""
    return lambda real: value


def leaves(real: Callable) -> Callable:
    """The first argument as it is."""
    return lambda first, *args, **kwargs: first


def raises_instead(real: Callable) -> Callable:
    """Stands for what follows, which would take long."""

    def go_on(*args):
        raise ValueError("it went on")

    return go_on


def called_with(change: Callable[..., tuple]) -> Callable:
    """With the arguments that `change` makes of those given."""
    return lambda real: lambda *args: real(*change(*args))


def of_all_splits(real: Callable) -> Callable:
    def splits(self):
        asked, found = self.args.caption_splits, real(self)
        self.args.caption_splits = asked
        return found

    return splits


def counted_as_ended(real: Callable) -> Callable:
    def spent(self, answer):
        real(self, answer)
        self._ended = self.requests

    return spent


def keeping_copies(real: Callable) -> Callable:
    def without_gold(training):
        from g4i_hf.data.labels import GOLD, reviews_of

        return real(training) | {"train": training.select((reviews_of(training) != GOLD).nonzero()[0])}

    return without_gold


def whole_lines_only(real: Callable) -> Callable:
    def append(file, line):
        with open(file, "a", encoding="utf-8") as opened:
            opened.write(line)

    return append


def always_single(real: Callable) -> Callable:
    return lambda keys, contents: contents


def always_new(real: Callable) -> Callable:
    return lambda scenes, name: scenes.numbers[name] == scenes.numbers[name]


def one_by_one(real: Callable) -> Callable:
    return lambda groups, weights, *values: (weights, values)


BREAKS = [
    # --- Money -------------------------------------------------------------------------------------------------------
    # The same image in two rows is paid twice
    Break(
        "captioning.runner:Asking._is_new",
        lambda real: lambda self, question: not self._is_enough(self.store.find(question.key)),
        "test_caption_asking.py::test_the_same_image_in_two_rows_is_asked_once_also_while_it_is_under_way",
    ),
    # A failure replaces a caption that was paid for
    Break("captioning.answers:_PUT", lambda real: real.partition("WHERE")[0], "test_caption_store.py::test_a_caption"),
    # Requests under way are left out of the limit of the cost
    Break("captioning.runner:Budget.spent", counted_as_ended, "test_caption_asking.py::test_a_limit_of_the_cost"),
    # Each of several processes spends the whole budget
    Break(
        "workflows.caption:Budget",
        called_with(lambda requests, cost, *prices: (requests, 2 * cost, *prices)),
        "test_caption_recipe.py::test_processes_that_share_the_captions_share_the_budget",
    ),
    # The result of another version of a shard passes for that of this one
    Break(
        "data.shards:Shards._digest",
        lambda real: lambda self, path: "0",
        "test_shards.py::test_a_result_of_other_data",
    ),
    # Thousands of images go to a server without a word
    Break(
        "fitting.captioner:_agree",
        raises_instead,
        "test_fit_data.py::test_many_images_are_sent_to_a_server_on_request",
    ),
    # All requests are sent before a server has answered one
    Break("captioning.endpoint:FIRST_REQUESTS", becomes(1000), "test_caption_endpoint.py::test_errors_that_all"),
    # Images of all splits are sent
    Break("workflows.caption:Captioning._splits", of_all_splits, "test_caption_asking.py::test_training_splits_alone"),
    # A request that met a rate limit is rejected for good
    Break("captioning.batch:RETRIED", becomes(()), "test_caption_batch.py::test_an_answer_that_is_missing_is"),
    # A server with a wrong model rejects images for good
    Break(
        "captioning.endpoint:EndpointRun._give_up",
        lambda real: lambda self, server, why: (self._release(server), real(self, server, why)),
        "test_caption_endpoint.py::test_a_server_that_answers_nothing_ends_the_run_and_marks_no_row",
    ),
    # --- Privacy and safety ------------------------------------------------------------------------------------------
    # Published photographs keep their GPS position
    Break("hub.dataset:_without_metadata", leaves, "test_dataset_folder.py::test_images_come_with_their_labels_from"),
    # A JPEG keeps its metadata
    Break("data.image_metadata:jpeg_without_metadata", leaves, "test_image_metadata.py::test_jpeg_loses_thumbnails"),
    # The token of Hugging Face goes to a host that only ends like theirs
    Break(
        "captioning.servers:is_hugging_face",
        lambda real: lambda address: real(address) or address.endswith("huggingface.co"),
        "test_caption_endpoint.py::test_the_token_of_hugging_face_goes",
    ),
    # A token stays in answers that repeat it
    Break("captioning.servers:redact", leaves, "test_caption_endpoint.py::test_a_token_that_a_server_repeats_in_its"),
    # Addresses in errors of servers are published
    Break("captioning.stage:without_private", leaves, "test_caption_recipe.py::test_what_servers_say_is_published_in"),
    # A path within an option is in the card
    Break("hub.card:_without_paths", leaves, "test_card.py::test_options_repeat_the_run_and_hold_no_path"),
    # A token is written into the run folder
    Break(f"{RUN_FOLDER}:is_secret", gives(False), "test_checkpoint.py::test_tokens_and_what_depends_on_the_machine"),
    # A path in a caption is pushed
    Break("hub.push:check_publishable", gives(None), "test_published.py::test_a_path_in_a_caption_ends_the_release"),
    # A tracker gets the folder of the student
    Break("training.trainer:forget_local_student", gives(None), "test_progress.py::test_trackers_and_weights_name_no"),
    # A page of another origin labels in your place
    Break(
        "workflows.label_server:Handler._place",
        lambda real: lambda self: self.path.split("/", 2)[-1],
        "test_label.py::test_a_request_without_the_token_or_from_elsewhere_is_refused",
    ),
    # Metadata name files outside of their folder
    Break("data.metadata:_check_inside", gives(None), "test_published.py::test_metadata_that_name_a_file_elsewhere"),
    # A row of the Hub reads a file of this machine
    Break("data.loading:check_files", gives(None), "test_published.py::test_a_row_of_the_hub_leads_neither_to_this"),
    # Captions are HTML in pages
    Break(
        "pages:jinja2.Environment",
        lambda real: lambda **options: real(**options | {"autoescape": False}),
        "test_report.py::test_names_and_captions_are_text_whatever_they_hold",
    ),
    # A server moves the cursor of the terminal
    Break("output:printable_lines", leaves, "test_text_of_others.py::test_messages_of_a_server_are_escaped_on_the"),
    # A caption is a formula in a table
    Break("workflows.check:spreadsheet_text", leaves, "test_text_of_others.py::test_a_table_of_labels_holds_no"),
    # --- Labels, or images that judge, leak into training or judging -------------------------------------------------
    # Prompts about evaluation images may hold what tells the class
    Break("captioning.stage:check_leak", gives(None), "test_caption_recipe.py::test_a_column_that_goes_along_with"),
    # A column that goes along with the label tells no class
    Break(
        "captioning.questions:_tells_class",
        lambda real: lambda column, split: column in ("label", "image_id"),
        "test_caption_prompts.py::test_columns_that_go_along_with_the_label_tell_the_class_too",
    ),
    # Copies of a held-out image are trained on
    Break(
        "data.loading:image_digests",
        lambda real: lambda split: real(split) | {"image_digest": [None] * len(split)},
        "test_equal_images.py::test_equal_images_are_held_out_together",
    ),
    # Images of validation that are in train are not said
    Break("data.record:_shared", gives([]), "test_equal_images.py::test_images_of_validation_that_are_in_train_are"),
    # Copies of gold images are trained on
    # Frames of one scene judge what other frames of it have taught, or count as so many images
    Break("fitting.scenes:groups_of", always_single, "test_scenes.py::test_fit_judges_by_whole_groups"),
    Break("data.loading:groups_of", always_single, "test_groups.py::test_validation_is_held_out_by_groups"),
    Break("fitting.scenes:Scenes.are_new", always_new, "test_scenes.py::test_validation_images_of_scenes_in_training"),
    Break("evaluation.estimate:_by_group", one_by_one, "test_estimate.py::test_frames_of_a_scene_count_once"),
    Break("data.labels:_without_gold", keeping_copies, "test_labels.py::test_gold_images_and_those_of_no_class_are"),
    # Labels that were picked for their doubt judge
    Break("fitting.evidence:PICKED", becomes(()), "test_judging.py::test_labels_that_the_label_model_picked_judge"),
    # Images that judge are learned from
    Break(
        "fitting.targets:Targets.rows",
        becomes(property(lambda self: (self.evidence.labels >= -1).nonzero()[0])),
        "test_judging.py::test_images_that_judge_have_no_part_in_what_they_judge",
    ),
    # Captions of images that judge in turn taught the targets of the others
    Break(
        "fitting.evidence:Evidence._without",
        lambda real: lambda self, rows: replace(self, holdout=rows),
        "test_judging.py::test_images_that_judge_have_no_part_in_what_they_judge",
    ),
    # An image that chose the weights of all layers judges them
    Break(
        "fitting.judge:Judge.gain",
        lambda real: lambda self, name, looks: real(self, name, looks[[self.right(looks).sum(1).argmax()]]),
        "test_all_layers.py::test_the_best_of_ten_looks_gains_nothing_by_chance",
    ),
    # A label that corrects the estimate has taught what it corrects
    Break(
        "fitting.targets:Targets.learned",
        called_with(lambda self, name, rows, fold=None: (self, name, rows)),
        "test_judging.py::test_labels_that_correct_an_estimate_have_no_part_in_it",
    ),
    # A wrong label vouches for itself
    Break(
        f"{LABEL_MODEL}:LabelModel._logits",
        called_with(lambda self, values, rows, model_of: (self, values, rows, 0 * model_of - 1)),
        "test_label_model.py::test_a_rows_own_label_is_not_in_its_probabilities",
    ),
    # Captions of images that judge teach the views
    Break(f"{VIEWS}:Rows.of", called_with(lambda *args: args[:6]), "test_label_model.py::test_kept_rows_teach"),
    # Equal images are held out apart
    Break(
        f"{VIEWS}:Rows.of",
        called_with(lambda views, labels, seed, ids, groups, *others: (views, labels, seed, ids, None, *others)),
        "test_label_model.py::test_equal_images_are_held_out_together",
    ),
    # An image keeps the caption of another that had its name
    Break("data.joining:_leave_out_changed", gives(None), "test_changed_data.py::test_images_that_have_changed_are"),
    # Embeddings of selected rows are those of the first rows
    Break(
        "data.texts:_ranges",
        lambda real: lambda starts, counts: real(counts.cumsum() - counts, counts),
        "test_dataset.py::test_an_item_holds_label_keys_and_embedding_of_its_own_row",
    ),
    # --- Resuming, and results of other data -------------------------------------------------------------------------
    # A resume does not notice other data
    Break(f"{CHECKPOINT}:check_same_data", gives(None), "test_checkpoint.py::test_changed_data_is_refused_by_what"),
    # A finished run of other data counts as this very run
    Break("workflows.train:check_same_data", gives(None), "test_changed_data.py::test_a_run_of_other_data_is_refused"),
    # A damaged checkpoint is resumed
    Break(f"{CHECKPOINT}:missing_of", gives(None), "test_checkpoint.py::test_a_damaged_checkpoint_is_left_out"),
    # A resumed run may have other options
    Break(f"{RUN_FOLDER}:about", gives("running"), "test_checkpoint.py::test_a_folder_that_is_no_run_or_another_run"),
    # A resumed run averages its weights anew
    Break("training.callbacks:EmaCallback.load", gives(None), "test_checkpoint.py::test_a_resumed_run_ends_as_one"),
    # A result of fit counts as finished for other data
    Break("fitting.folder:differences", gives({}), "test_fit_again.py::test_a_change_is_new_work_beside_the_earlier"),
    # An answer that was begun makes the next one unreadable
    Break("data.labels:_append", whole_lines_only, "test_labels.py::test_what_a_killed_process_had_begun_is_no"),
    # A run is evaluated on other data than it was trained on
    Break("workflows.evaluate:differences", gives({}), "test_changed_data.py::test_figures_are_of_the_data_that_a"),
    # A release compares figures of other labels
    Break("hub.figures:OTHER_FIGURES", becomes(()), "test_changed_data.py::test_a_release_compares_no_figures_of"),
    # Other files of a text encoder count as the same
    Break("training.prepare:encoder_identity", gives(None), "test_changed_data.py::test_another_text_encoder_in_the"),
    # A push overwrites what somebody else has pushed meanwhile
    Break("hub.push:last_push", lambda real: lambda *args: (None, *real(*args)[1:]), "test_push.py::test_somebody"),
    # A push writes over commits of others
    Break(
        "hub.push:last_push",
        called_with(lambda api, repo_id, repo_type, replace: (api, repo_id, repo_type, True)),
        "test_push.py::test_commits_of_others_are_written_over_with_replace_alone",
    ),
    # --- Bits --------------------------------------------------------------------------------------------------------
    # The projector draws from the random numbers of the student
    Break(
        "modeling.modeling_aligned:torch.random.fork_rng",
        lambda real: lambda **options: contextlib.nullcontext(),
        "test_model.py::test_projector_leaves_the_random_state_alone",
    ),
    # A card names annotators
    Break(
        "fitting.command:annotators_in_words",
        lambda real: lambda *args, with_names: real(*args),
        "test_annotators.py::test_fit_estimates_how_accurate",
    ),
    # Imported labels that are no class are written
    Break(
        "workflows.exchange:Exchange._check_unknown", gives(None), "test_labels_of_others.py::test_all_that_a_person"
    ),
    # Weight decay pulls at a learned temperature
    Break("training.optimization:NEVER_DECAYED", becomes(()), "test_optimization.py::test_weight_decay_is_on_what"),
    # Processes share a batch so that a row comes twice and another never
    Break(
        "data.dataset:share_of",
        lambda real: lambda count, number, index: range(index * (count // number), (index + 1) * (count // number)),
        "test_dataset.py::test_every_row_is_drawn_once_an_epoch_whatever_the_tail_and_the_number_of_processes",
    ),
    # A label that a person confirmed is doubted
    Break(
        "label_model.calibration:Calibration.posterior",
        called_with(lambda self, probabilities, labels, reviewed=None: (self, probabilities, labels)),
        "test_label_noise.py::test_reviewed_labels_are_right",
    ),
]


# --- Running them ----------------------------------------------------------------------------------------------------


class Failures:
    """A plugin of pytest: the errors that tests ended with."""

    def __init__(self):
        self.errors: list[BaseException] = []

    def pytest_exception_interact(self, call) -> None:
        self.errors.append(call.excinfo.value)


def outcome_of(change: Break) -> str:
    """`red` where the guard fails, but for errors of a replacement that does not fit; else how it ended."""
    import pytest

    change.apply()
    failures, said = Failures(), io.StringIO()
    words = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "slow or not slow"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main([*words, change.test()], plugins=[failures])
    if not failures.errors:
        return "GREEN" if code == 0 else said.getvalue()
    first = failures.errors[0]
    does_not_fit = isinstance(first, AttributeError | ImportError | NameError | TypeError)
    return f"{type(first).__name__}: {str(first)[:500]}" if does_not_fit else "red"


def outcomes(breaks: Iterable[Break]) -> Iterable[tuple[Break, str]]:
    """Each in a fork of this process, which has imported what they need."""
    for change in breaks:
        importlib.import_module(change.module)
    for change in breaks:
        reading, writing = os.pipe()
        if child := os.fork():
            os.close(writing)
            with open(reading, encoding="utf-8") as told:
                text = told.read()
            os.waitpid(child, 0)
            yield change, text or f"it took longer than {LONGEST} s, or died"
            continue
        signal.alarm(LONGEST)
        with open(writing, "w", encoding="utf-8") as told:
            try:
                told.write(outcome_of(change))
            except BaseException as error:
                told.write(f"{type(error).__name__}: {error}")
        os._exit(0)


def main(words: list[str]) -> None:
    import conftest  # noqa: F401  (sets the environment, which libraries read when they are imported)

    chosen = [change for change in BREAKS if not words or any(word in change.place + change.guard for word in words)]
    unnoticed = 0
    for number, (change, outcome) in enumerate(outcomes(chosen), 1):
        unnoticed += outcome != "red"
        print(f"{number}/{len(chosen)} {outcome}  {change.place} {change.guard}", flush=True)
    sys.exit(f"{unnoticed} of {len(chosen)} breaks were not noticed." if unnoticed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
