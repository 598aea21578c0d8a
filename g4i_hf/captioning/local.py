"""Captions by a vision-language model in this process. torch is imported when the model is loaded."""

import contextlib
import copy
import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage

from ..checkpoints import commit_of, folder_digest
from ..options import LocalCaptionerArguments
from .answers import OK, Answer, CaptionerError, Deliver, Question, decoding_provenance
from .images import UndecodableImage, batches_of_similar_size, decode

if TYPE_CHECKING:
    import torch
    from transformers import BatchFeature

logger = logging.getLogger(__name__)

EXAMPLES = "llava-hf/llava-1.5-7b-hf, Qwen/Qwen2.5-VL-3B-Instruct, HuggingFaceTB/SmolVLM-Instruct"
DECODING_THREADS = 4
# So many failures in a row raise the question whether the captioner works at all
FAILURES_IN_A_ROW = 20
Row = tuple[Question, PILImage.Image]


class LocalCaptioner:
    """
    Implements [`~g4i_hf.captioning.answers.Captioner`] with a model that `AutoModelForImageTextToText` loads. Its
    weights are loaded when the first image is described.

    An answer depends on image, prompt and provenance alone, also with a temperature: sampling is seeded by the key of
    the question. The other images of a batch change the last bits of the scores at most.

    Args:
        model: Hub id or folder of a vision-language model.
        revision: branch, tag or commit on the Hub. Everything is loaded from the commit that it stands for now.
        max_new_tokens: longest answer.
        temperature: of sampling; 0 takes the likeliest token each time.
        top_p: sample among the likeliest tokens of this total probability.
        seed: of sampling.
        max_side: images are shrunk to this longest side in pixels, and never enlarged.
        local: batch size, adapter, `trust_remote_code`.
        device: where the model runs.

    Raises:
        CaptionerError: when there is no such model or adapter, or it does not describe images.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float | None = None,
        seed: int = 0,
        max_side: int = 768,
        local: LocalCaptionerArguments | None = None,
        device: "str | torch.device" = "cpu",
    ):
        self.model, self.local = model, local or LocalCaptionerArguments()
        self.max_side, self.device = max_side, device
        self.batch_size = self.local.caption_batch_size
        self.commit, self.adapter_commit = _find_model(model, revision, self.local.trust_remote_code), None
        identity = _identity(model, self.commit)
        adapter = self.local.captioner_adapter
        if adapter:
            self.adapter_commit = _find_adapter(adapter)
            of_adapter = _identity(adapter, self.adapter_commit)
            identity |= {"adapter": of_adapter["model"], "adapter_revision": of_adapter["revision"]}
        self.decoding = decoding_provenance(max_new_tokens, temperature, top_p, seed, max_side)
        # The dtype, bfloat16 or float32, may differ between the machines of one run
        self.provenance: dict[str, Any] = {"captioner": "local", **identity, "dtype": "auto", **self.decoding}

    @cached_property
    def generator(self) -> "Generator":
        """
        The loaded model on its device, and its processor, which pads on the left.

        Raises:
            CaptionerError: when one of them cannot be loaded.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        options = {"revision": self.commit, "trust_remote_code": self.local.trust_remote_code}
        with _explained(f"The captioner {self.model!r} cannot be loaded"):
            processor = AutoProcessor.from_pretrained(self.model, **options)
            dtype = dtype_on(self.device)
            model = AutoModelForImageTextToText.from_pretrained(self.model, dtype=dtype, **options)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            raise CaptionerError(
                f"The captioner {self.model!r} comes without a processor for text and images "
                f"(AutoProcessor gave {type(processor).__name__}). Add the processor of the model it was made from."
            )
        tokenizer.padding_side = "left"  # new tokens go to the right end of every row
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        adapter = self.local.captioner_adapter
        if adapter:
            from peft import PeftModel

            with _explained(f"The adapter {adapter!r} does not fit the captioner {self.model!r}"):
                adapted = PeftModel.from_pretrained(model, adapter, revision=self.adapter_commit)
                model = adapted.merge_and_unload()  # part of the weights, it costs no time
        model.to(self.device).eval()
        logger.info("Captioner %s: %s on %s.", self.model, model.dtype, model.device)
        return Generator(model, processor, self.decoding)

    # --- Asking ------------------------------------------------------------------------------------------------------

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """
        See [`~g4i_hf.captioning.answers.Captioner`]. Questions are read some batches ahead.

        Failures are held back until some image is described: those of a captioner that does not work are no answers,
        and are asked for again once it does.
        """
        held: list[tuple[Question, Answer]] = []
        described: Row | None = None
        for batch in self._decoded(questions):
            rows, ready, may_ask = [], [], True
            for question, image in batch:
                if isinstance(image, UndecodableImage):
                    ready.append((question, Answer("undecodable", reason=str(image), attempts=0)))
                elif may_ask := may_ask and allow():
                    rows.append((question, image))
            for row, answer in self._answered(rows):
                held.append((row[0], answer))
                if answer.status == OK:
                    described = row
                elif len(held) < FAILURES_IN_A_ROW:
                    continue
                elif described is None or self._ask([described])[0][0].status != OK:
                    raise CaptionerError(
                        f"The captioner failed on {len(held)} images in a row, the last with: {answer.reason} "
                        "These images have no answer yet; run the command again once the captioner works."
                    )
                ready, held = ready + held, []
            deliver(ready)
            if not may_ask:
                break
        deliver(held)

    def _decoded(
        self, questions: Iterable[Question]
    ) -> Iterator[list[tuple[Question, PILImage.Image | UndecodableImage]]]:
        """Batches with their images; those of the next one are decoded while the model works on one."""
        questions = iter(questions)
        first = next(questions, None)
        if first is None:  # no reason to load the model
            return
        batches = batches_of_similar_size(
            itertools.chain([first], questions),
            self.local.caption_batch_size,
            self.max_side,
            same_prompt=not self.generator.has_chat_template,  # such models may count the padding as positions
        )
        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            decoding = ((batch, pool.map(self._decode, batch)) for batch in batches)
            # `pairwise` takes the next batch, which starts its decoding, before it gives one out
            for (batch, images), _ in itertools.pairwise(itertools.chain(decoding, [None])):
                yield list(zip(batch, images, strict=True))

    def _decode(self, question: Question) -> PILImage.Image | UndecodableImage:
        try:
            return decode(question.image, self.max_side)
        except UndecodableImage as error:
            return error

    def _answered(self, rows: list[Row]) -> Iterator[tuple[Row, Answer]]:
        """Answers together, in smaller batches where memory is short, and alone where an image makes others fail."""
        while rows:
            batch = rows[: self.batch_size]
            answers, is_short = self._ask(batch)
            if is_short and len(batch) > 1:
                self.batch_size = len(batch) // 2
                logger.warning(
                    "Out of memory with %d images; going on with --caption_batch_size %d.", len(batch), self.batch_size
                )
                continue
            rows = rows[len(batch) :]
            if answers[0].status != OK and len(batch) > 1:
                yield from ((row, self._ask([row], attempts=2)[0][0]) for row in batch)
            else:
                yield from zip(batch, answers, strict=True)

    def _ask(self, rows: list[Row], attempts: int = 1) -> tuple[list[Answer], bool]:
        """An answer a row, all `failed` where the model raises an error; and whether that was for lack of memory."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        start, is_short = time.monotonic(), False
        try:
            answers = self.generator.answer([question for question, _ in rows], [image for _, image in rows])
        except Exception as error:  # any model of any kind runs here
            is_short = should_reduce_batch_size(error)
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            if is_short:
                reason += " A smaller image_max_side or max_new_tokens needs less memory."
            answers = [Answer("failed", reason=reason) for _ in rows]
        if is_short:  # not above, where the error still holds the tensors
            clear_device_cache(garbage_collection=True)
        for answer in answers:
            answer.seconds, answer.attempts = time.monotonic() - start, attempts
        return answers, is_short


# --- Generation ------------------------------------------------------------------------------------------------------


class Generator:
    """
    Images and prompts -> answers of one batch.

    Args:
        model: on its device.
        processor: of the model; pads on the left.
        decoding: `max_new_tokens`, `temperature`, `top_p` and `seed` of [`LocalCaptioner`].
    """

    def __init__(self, model: Any, processor: Any, decoding: dict[str, Any]):
        self.model, self.processor, self.decoding = model, processor, decoding
        self.has_chat_template = getattr(processor, "chat_template", None) is not None
        self.end_tokens = _end_tokens(model, processor)
        # The model's own habits, such as a penalty on repetitions, except for those that are options here
        self.config = copy.deepcopy(model.generation_config)
        self.config.update(
            do_sample=False,  # sampling is ours, see [`Sampling`]
            num_beams=1,
            max_length=None,
            max_new_tokens=decoding["max_new_tokens"],
            eos_token_id=sorted(self.end_tokens) or None,
            pad_token_id=processor.tokenizer.pad_token_id,
            **dict.fromkeys(("temperature", "top_p", "top_k")),  # they would only cause warnings
        )

    def answer(self, questions: list[Question], images: list[PILImage.Image]) -> list[Answer]:
        """
        Args:
            questions: B of them.
            images: their upright RGB images.

        Returns:
            B answers, each with its number of tokens. An answer that is cut off has the finish reason `length`.
        """
        import torch
        from transformers import LogitsProcessorList

        inputs = self.inputs(images, [question.prompt for question in questions])
        inputs = inputs.to(self.model.device, self.model.dtype)
        steps = StepCounter()
        processors = LogitsProcessorList([steps])
        temperature, top_p, seed = (self.decoding[name] for name in ("temperature", "top_p", "seed"))
        if temperature > 0:
            keys = [question.key for question in questions]
            processors.append(Sampling(keys, temperature, top_p, seed, self.model.device))
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, generation_config=self.config, logits_processor=processors)
        tokens = tokens[:, tokens.shape[1] - steps.count :].tolist()
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._read(row, count) for row, count in zip(tokens, prompt_tokens, strict=True)]

    def inputs(self, images: list[PILImage.Image], prompts: list[str]) -> "BatchFeature":
        """What the model takes of B images and their prompts, padded on the left."""
        if not self.has_chat_template:
            texts = [self._plain_prompt(prompt) for prompt in prompts]
            return self.processor(images=images, text=texts, padding=True, return_tensors="pt")
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def _plain_prompt(self, prompt: str) -> str:
        """
        For models without a chat template. BLIP-2 continues a text such as `a photo of`, and answers what stands
        between `Question:` and `Answer:`, as its authors ask it; a sentence of ours is put there.
        """
        is_sentence = prompt.rstrip().endswith((".", "?", "!"))
        is_blip_2 = self.model.config.model_type == "blip-2"
        return f"Question: {prompt.strip()} Answer:" if is_blip_2 and is_sentence else prompt

    def _read(self, tokens: list[int], prompt_tokens: int) -> Answer:
        end = next((position for position, token in enumerate(tokens) if token in self.end_tokens), None)
        finished = end is not None or len(tokens) < self.decoding["max_new_tokens"]
        tokens = tokens if end is None else tokens[: end + 1]
        return Answer(
            OK,
            text=self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            finish_reason="stop" if finished else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(tokens),
        )


def _end_tokens(model: Any, processor: Any) -> set[int]:
    """Tokens that end an answer."""
    text_config = model.config.get_text_config(decoder=True)
    candidates = (
        model.generation_config.eos_token_id,
        # The decoder of BLIP is a BERT, which ends with the separator
        text_config.sep_token_id if model.config.model_type == "blip" else text_config.eos_token_id,
        processor.tokenizer.eos_token_id,
    )
    tokens = next((tokens for tokens in candidates if tokens is not None), [])
    return {tokens} if isinstance(tokens, int) else set(tokens)


class StepCounter:
    """
    Counts the tokens of an answer while it is written. Some models return prompt and answer, some the answer alone,
    some with a start token before it: the last `count` tokens are the answer in each case.
    """

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        self.count += 1
        return scores


class Sampling:
    """
    Draws tokens so that an answer depends on its own key alone: neither on the images beside it nor on the order.

    The likeliest token after adding -log(e), e exponential, is distributed as the softmax says, and each row has a
    generator of its own for e.

    Args:
        keys: one a row.
        temperature, top_p: of sampling; the temperature is positive.
        seed: other answers for another one.
        device: of the logits.
    """

    def __init__(self, keys: list[str], temperature: float, top_p: float | None, seed: int, device: "torch.device"):
        import torch
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        self.warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
        if top_p is not None and top_p < 1:
            self.warpers.append(TopPLogitsWarper(top_p))
        self.generators = [torch.Generator(device).manual_seed(seed_of(seed, key)) for key in keys]

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """(B, V) scores -> (B, V) scores whose largest entry is the token drawn."""
        import torch

        scores = self.warpers(input_ids, scores.float()).log_softmax(dim=-1)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores - noise.clamp_min(torch.finfo(noise.dtype).tiny).log()


def seed_of(seed: int, key: str) -> int:
    """A seed in 63 bits for one answer."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest()) >> 1


# --- Finding a model -------------------------------------------------------------------------------------------------


def dtype_on(device: "str | torch.device") -> "torch.dtype":
    """bfloat16 on a GPU that has it, else float32."""
    import torch

    kind = torch.device(device).type
    accelerator = getattr(torch, kind) if kind in ("cuda", "xpu") else None
    return torch.bfloat16 if accelerator is not None and accelerator.is_bf16_supported() else torch.float32


def _identity(model: str, commit: str | None) -> dict[str, Any]:
    """For `provenance`: a commit for a Hub model; of a folder its name without the path, and a digest of its files."""
    if commit is None:
        return {"model": Path(model).resolve().name, "revision": folder_digest(model)}
    return {"model": model, "revision": commit}


def _find_model(model: str, revision: str | None, trust_remote_code: bool) -> str | None:
    """
    The commit of a model on the Hub, None for a folder.

    Raises:
        CaptionerError: when there is no such model, or it does not describe images.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    is_folder = Path(model).is_dir()
    if not is_folder and (model.startswith((".", "~", "/")) or model.count("/") > 1):  # no Hub id looks like that
        raise CaptionerError(f"captioner_model is {model!r}, but there is no such folder.")
    with _explained(f"The captioner {model!r} cannot be found"):
        commit = None if is_folder else commit_of(model, revision)
        config = AutoConfig.from_pretrained(model, revision=commit, trust_remote_code=trust_remote_code)
    own_code = trust_remote_code and "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if not own_code and type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise CaptionerError(
            f"The captioner {model!r} is a model of type {config.model_type!r}, which does not take image and text "
            "and write text (AutoModelForImageTextToText does not load it). Models that do are, for example, "
            f"{EXAMPLES}."
        )
    return commit


def _find_adapter(adapter: str) -> str | None:
    """The commit of a LoRA adapter on the Hub, None for a folder; same errors as for a model."""
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise CaptionerError("captioner_adapter needs the package peft: `pip install peft`.") from error
    with _explained(f"The adapter {adapter!r} cannot be found"):
        commit = None if Path(adapter).is_dir() else commit_of(adapter, None, "adapter_config.json")
        config = PeftConfig.from_pretrained(adapter, revision=commit)
    if config.is_prompt_learning:
        raise CaptionerError(
            f"The adapter {adapter!r} is of type {config.peft_type.value}, which cannot become part of the weights. "
            "captioner_adapter takes LoRA adapters."
        )
    return commit


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Missing files and models that do not fit, in one line instead of a traceback through three libraries."""
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise CaptionerError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error
