"""Images and prompts -> answers of one batch: how a model is asked, sampled and read."""

import copy
import hashlib
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image as PILImage
from transformers import GenerationConfig, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from ..answers import OK, Answer

if TYPE_CHECKING:
    from transformers import BatchFeature


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

    def __init__(self, keys: list[str], temperature: float, top_p: float | None, seed: int, device: torch.device):
        self.warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
        if top_p is not None and top_p < 1:
            self.warpers.append(TopPLogitsWarper(top_p))
        self.generators = [torch.Generator(device).manual_seed(seed_of(seed, key)) for key in keys]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, V) scores -> (B, V) scores whose largest entry is the token drawn."""
        scores = self.warpers(input_ids, scores.float()).log_softmax(dim=-1)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores - noise.clamp_min(torch.finfo(noise.dtype).tiny).log()


def seed_of(seed: int, key: str) -> int:
    """A seed in 63 bits for one answer."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest()) >> 1


class StepCounter:
    """
    Counts the tokens of an answer while it is written. Some models return prompt and answer, some the answer alone,
    some with a start token before it: the last `steps` tokens are the answer in each case.
    """

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return scores


class Generator:
    """
    Args:
        model: on its device.
        processor: of the model; pads on the left.
        model_type: of its configuration.
        max_new_tokens: longest answer.
        temperature, top_p, seed: of sampling; a temperature of 0 takes the likeliest token each time.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        model_type: str,
        max_new_tokens: int,
        temperature: float,
        top_p: float | None,
        seed: int,
    ):
        self.model, self.processor, self.model_type = model, processor, model_type
        self.max_new_tokens, self.temperature, self.top_p, self.seed = max_new_tokens, temperature, top_p, seed
        self.end_tokens = _end_tokens(model, processor)
        self.config = _generation_config(model, processor, self.end_tokens, max_new_tokens)

    @property
    def has_chat_template(self) -> bool:
        return getattr(self.processor, "chat_template", None) is not None

    def answer(self, images: list[PILImage.Image], prompts: list[str], keys: list[str]) -> list[Answer]:
        """
        Args:
            images: B upright RGB images.
            prompts, keys: B of them.

        Returns:
            B answers, each with its number of tokens. An answer that is cut off has the finish reason `length`.
        """
        inputs = self.inputs(images, prompts).to(self.model.device, self.model.dtype)
        counter = StepCounter()
        processors = LogitsProcessorList([counter])
        if self.temperature > 0:
            processors.append(Sampling(keys, self.temperature, self.top_p, self.seed, self.model.device))
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, generation_config=self.config, logits_processor=processors)
        tokens = tokens[:, tokens.shape[1] - counter.steps :].cpu()
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._read(row.tolist(), count) for row, count in zip(tokens, prompt_tokens, strict=True)]

    def inputs(self, images: list[PILImage.Image], prompts: list[str]) -> "BatchFeature":
        """What the model takes of B images and their prompts, padded on the left."""
        if not self.has_chat_template:
            texts = [_plain_prompt(prompt, self.model_type) for prompt in prompts]
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

    def _read(self, tokens: list[int], prompt_tokens: int) -> Answer:
        end = next((position for position, token in enumerate(tokens) if token in self.end_tokens), None)
        finished = end is not None or len(tokens) < self.max_new_tokens
        tokens = tokens if end is None else tokens[: end + 1]
        return Answer(
            OK,
            text=self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            finish_reason="stop" if finished else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(tokens),
        )


def _plain_prompt(prompt: str, model_type: str) -> str:
    """
    For models without a chat template. BLIP-2 continues a text such as `a photo of`, and answers what stands between
    `Question:` and `Answer:`, as its authors ask it; a sentence of ours is put there.
    """
    is_sentence = prompt.rstrip().endswith((".", "?", "!"))
    return f"Question: {prompt.strip()} Answer:" if model_type == "blip-2" and is_sentence else prompt


def _end_tokens(model: Any, processor: Any) -> set[int]:
    """Tokens that end an answer."""
    text_config = model.config.get_text_config(decoder=True)
    for tokens in (
        model.generation_config.eos_token_id if model.generation_config is not None else None,
        # The decoder of BLIP is a BERT, which ends with the separator
        text_config.sep_token_id if model.config.model_type == "blip" else text_config.eos_token_id,
        processor.tokenizer.eos_token_id,
    ):
        if tokens is not None:
            return {tokens} if isinstance(tokens, int) else set(tokens)
    return set()


def _generation_config(model: Any, processor: Any, end_tokens: set[int], max_new_tokens: int) -> GenerationConfig:
    """The model's own habits, such as a penalty on repetitions, except for those that are options here."""
    config = copy.deepcopy(model.generation_config) or GenerationConfig.from_model_config(model.config)
    config.update(
        do_sample=False,  # sampling is ours, see [`Sampling`]
        num_beams=1,
        max_length=None,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_tokens) or None,
        pad_token_id=processor.tokenizer.pad_token_id,
        temperature=None,
        top_p=None,
        top_k=None,
        min_p=None,
        typical_p=None,
        epsilon_cutoff=None,
        eta_cutoff=None,
    )
    return config
