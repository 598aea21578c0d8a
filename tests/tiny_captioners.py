"""Random vision-language models of the real architectures, each a folder with processor and chat template."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

BASE = ["<pad>", "<s>", "</s>", "<unk>"]
PROMPT_WORDS = "question answer : describe this image in detail what is it a of ? ."
WORDS = [f"w{number}" for number in range(60)] + PROMPT_WORDS.split()
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZE = 32
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|> {% else %}{{ part['text'] }} "
    "{% endif %}{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def tokenizer_with(*special: str) -> PreTrainedTokenizerFast:
    """One token a word, in small letters; `special` tokens are never split."""
    words = {word: number for number, word in enumerate([*BASE, *special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named, extra_special_tokens=[*special])


def qwen2_5_vl() -> tuple[PreTrainedModel, ProcessorMixin]:
    parts = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = tokenizer_with(*parts, "<|im_start|>", "<|im_end|>")
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(parts))
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32}
    text = SMALL | TOKENS | {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 2048}
    config = Qwen2_5_VLConfig(
        text_config=text | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        vision_config=vision | {"patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1]},
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    pixels = {"min_pixels": 16 * 16, "max_pixels": 64 * 64, "patch_size": 8}
    images, videos = Qwen2VLImageProcessor(**pixels), Qwen2VLVideoProcessor(**pixels)
    processor = Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=CHAT)
    return Qwen2_5_VLForConditionalGeneration(config), processor


def blip_2() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Without a chat template, as they are."""
    tokenizer = tokenizer_with("<image>")
    text = SMALL | TOKENS | {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32}
    config = Blip2Config(
        vision_config={**SMALL, "image_size": SIZE, "patch_size": 8},
        qformer_config={**SMALL, "encoder_hidden_size": 32, "vocab_size": 20, "cross_attention_frequency": 1},
        text_config=text | {"vocab_size": len(tokenizer), "max_position_embeddings": 128},
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = BlipImageProcessor(size={"height": SIZE, "width": SIZE})
    return Blip2ForConditionalGeneration(config), Blip2Processor(images, tokenizer, num_query_tokens=4)


FAMILIES = {"qwen2_5_vl": qwen2_5_vl, "blip_2": blip_2}


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """With weights large enough that what a model says depends on the image."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[family]()
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
    model.generation_config.update(**TOKENS)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
