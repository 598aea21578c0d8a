"""Captions from a vision-language model in this process. torch is imported when the model is loaded."""

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage

from ..data.images import UndecodableImage, decode
from ..names import check_dataset_name, folder_or_id, identity_of, loading
from ..options import Decoding, LocalCaptionerArguments
from .answers import OK, Answer, Captioner, CaptionerError, Deliver, Question

if TYPE_CHECKING:
    import torch
    from transformers import BatchFeature

logger = logging.getLogger(__name__)

EXAMPLES = "llava-hf/llava-1.5-7b-hf, Qwen/Qwen2.5-VL-3B-Instruct, HuggingFaceTB/SmolVLM-Instruct"
DECODING_THREADS = 4
FAILURES_IN_A_ROW = 20  # after which the captioner is tested on an image that it described before
Row = tuple[Question, PILImage.Image]


class LocalCaptioner(Captioner):
    """
    A model of `AutoModelForImageTextToText`, by Hub id or folder, loaded at the first question. A revision is resolved
    to a commit on creation. Raises OSError for a model that does not exist, CaptionerError for one of another type.
    """

    def __init__(
        self,
        model: str,
        decoding: Decoding | None = None,
        *,
        revision: str | None = None,
        local: LocalCaptionerArguments | None = None,
        device: "str | torch.device" = "cpu",
    ):
        self.model, self.decoding, self.device = model, decoding or Decoding(), device
        self.local = local or LocalCaptionerArguments()
        self.batch_size = self.local.caption_batch_size
        check_dataset_name(model, "captioner_model")
        digest, commit = identity_of(model, revision)
        self.revision = digest or commit
        self._check_kind()
        # The dtype, bfloat16 or float32, may differ between the machines of a run
        self.provenance = {"captioner": "local", "model": folder_or_id(model), "revision": self.revision}
        self.provenance |= {"dtype": "auto", **self.decoding.provenance}

    def _loading(self) -> AbstractContextManager:
        return loading(f"The captioner {self.model!r}", code_option="--trust_remote_code true")

    def _check_kind(self) -> None:
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

        with self._loading():
            config = AutoConfig.from_pretrained(
                self.model, revision=self.revision, trust_remote_code=self.local.trust_remote_code
            )
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not self.local.trust_remote_code:
            raise CaptionerError(
                f"The captioner {self.model!r} is a model of type {config.model_type!r}, which "
                f"AutoModelForImageTextToText does not load. It loads, for example, {EXAMPLES}."
            )

    @cached_property
    def generator(self) -> "Generator":
        """The loaded model and processor. Raises OSError if one of them cannot be loaded."""
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        with self._loading():
            processor = AutoProcessor.from_pretrained(
                self.model, revision=self.revision, trust_remote_code=self.local.trust_remote_code
            )
            tokenizer = processor.tokenizer
            has_bfloat16 = torch.device(self.device).type == "cuda" and torch.cuda.is_bf16_supported()
            dtype = torch.bfloat16 if has_bfloat16 else torch.float32
            model = AutoModelForImageTextToText.from_pretrained(
                self.model, revision=self.revision, trust_remote_code=self.local.trust_remote_code, dtype=dtype
            )
        tokenizer.padding_side = "left"  # so that new tokens are at the right end of every row
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model.to(self.device).eval()
        logger.info("Captioner %s: %s on %s.", self.model, model.dtype, model.device)
        torch.manual_seed(0)  # for sampling
        return Generator(model, processor, self.decoding)

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]. Failures are held back until an image is described."""
        held: list[tuple[Question, Answer]] = []
        described: Row | None = None
        questions, may_ask = iter(questions), True
        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            while may_ask and (batch := list(islice(questions, self.batch_size))):
                rows, ready = [], []
                for question, image in zip(batch, pool.map(self._decode, batch), strict=True):
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
                    elif described is None or self._ask([described])[0].status != OK:
                        raise CaptionerError(
                            f"The captioner failed on {len(held)} images in a row, the last with: {answer.reason} "
                            "These images have no answer yet; run the command again once the captioner works."
                        )
                    ready, held = ready + held, []
                deliver(ready)
        deliver(held)

    def _decode(self, question: Question) -> PILImage.Image | UndecodableImage:
        try:
            return decode(question.image, self.decoding.image_max_side)
        except UndecodableImage as error:
            return error

    def _answered(self, rows: list[Row]) -> Iterator[tuple[Row, Answer]]:
        """Answers in batches: smaller ones if memory is short, single images if one makes its batch fail."""
        while rows:
            batch = rows[: self.batch_size]
            answers = self._ask(batch)
            if len(batch) > self.batch_size:  # memory was short
                continue
            rows = rows[len(batch) :]
            if answers[0].status != OK and len(batch) > 1:
                yield from ((row, self._ask([row], attempts=2)[0]) for row in batch)
            else:
                yield from zip(batch, answers, strict=True)

    def _ask(self, rows: list[Row], attempts: int = 1) -> list[Answer]:
        """One batch: all `failed` if the model raises an error. An out-of-memory error halves the batch size."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        generator = self.generator  # an error on loading is not a failure of these images
        start, is_short = time.monotonic(), False
        try:
            answers = generator.answer(rows)
        except CaptionerError:
            raise
        except Exception as error:  # from any model
            is_short = should_reduce_batch_size(error)
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            if is_short:
                reason += " A smaller image_max_side or max_new_tokens needs less memory."
            answers = [Answer("failed", reason=reason) for _ in rows]
        if is_short:  # not in the `except`, where the error still references the tensors
            clear_device_cache(garbage_collection=True)
            self.batch_size = max(1, len(rows) // 2)
            logger.warning("Out of memory with %d images; now %d in a batch.", len(rows), self.batch_size)
        for answer in answers:
            answer.seconds, answer.attempts = time.monotonic() - start, attempts
        return answers


class Generator:
    """Generates the answers of a batch. The model is on its device, the processor pads on the left."""

    def __init__(self, model: Any, processor: Any, decoding: Decoding):
        self.model, self.processor, self.decoding = model, processor, decoding
        self.has_chat_template = processor.chat_template is not None
        tokenizer = processor.tokenizer
        ends = model.generation_config.eos_token_id
        # The decoder of BLIP is a BERT, whose end token is the separator
        ends = [*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id, tokenizer.sep_token_id]
        self.end_tokens = set(ends) - {None}
        # Other settings of the model, such as a repetition penalty, are unchanged
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if decoding.temperature > 0:
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0}
            sampling["top_p"] = decoding.top_p or 1.0
        self.config = copy.deepcopy(model.generation_config)
        self.config.update(
            **sampling,
            num_beams=1,
            max_length=None,
            eos_token_id=sorted(self.end_tokens) or None,
            pad_token_id=tokenizer.pad_token_id,
        )

    def answer(self, rows: list[Row]) -> list[Answer]:
        """Raises CaptionerError if the class names exceed the context of the model."""
        import torch
        from transformers import LogitsProcessorList

        inputs = self.inputs([image for _, image in rows], [question.prompt for question, _ in rows])
        inputs = inputs.to(self.model.device, self.model.dtype)
        limits = [self.decoding.tokens_for(question.choices) for question, _ in rows]
        self._check_length(inputs["attention_mask"].shape[1] + max(limits), max(len(row[0].choices) for row in rows))
        self.config.max_new_tokens, steps = max(limits), StepCounter()
        with torch.inference_mode():
            tokens = self.model.generate(
                **inputs, generation_config=self.config, logits_processor=LogitsProcessorList([steps])
            )
        tokens = tokens[:, tokens.shape[1] - steps.count :].tolist()
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._read(*row) for row in zip(tokens, prompt_tokens, limits, strict=True)]

    def _check_length(self, tokens: int, num_choices: int) -> None:
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if num_choices and window and tokens > window:
            raise CaptionerError(
                f"The names of {num_choices - 1:,} classes, image and answer take {tokens:,} tokens, more than the "
                f"{window:,} of the captioner. Take a model with a longer context, or --prompt plain."
            )

    def inputs(self, images: list[PILImage.Image], prompts: list[str]) -> "BatchFeature":
        """The model inputs of B images and their prompts, padded on the left."""
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
        """For models without a chat template. BLIP-2 was trained to answer questions in this form."""
        is_sentence = prompt.rstrip().endswith((".", "?", "!"))
        is_blip_2 = self.model.config.model_type == "blip-2"
        return f"Question: {prompt.strip()} Answer:" if is_blip_2 and is_sentence else prompt

    def _read(self, tokens: list[int], prompt_tokens: int, limit: int) -> Answer:
        tokens = tokens[:limit]  # other rows of the batch may have a higher limit
        end = next((position for position, token in enumerate(tokens) if token in self.end_tokens), None)
        finished = end is not None or len(tokens) < limit
        tokens = tokens if end is None else tokens[: end + 1]
        return Answer(
            OK,
            text=self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            finish_reason="stop" if finished else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(tokens),
        )


class StepCounter:
    """Counts generated tokens: the last `count` are the answer, even if a model also returns the prompt."""

    count = 0

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        self.count += 1
        return scores
