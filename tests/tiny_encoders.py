"""Text encoders of random weights, as small as they can be, and images with captions for them."""

from collections.abc import Iterable
from pathlib import Path

import make
import torch
from datasets import DatasetDict, Image
from sentence_transformers import SentenceTransformer

try:
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
except ImportError:  # before 5.4
    from sentence_transformers.models import Pooling, StaticEmbedding, Transformer

    Transformer.get_embedding_dimension = Transformer.get_word_embedding_dimension
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from g4i_hf.data.loading import open_images

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "car", "owl", "long", "bird", "query", "photo", "of", ":"]


def word_tokenizer(words: Iterable[str] = (), **options) -> PreTrainedTokenizerFast:
    """One token a word, in small letters, and an end token. Knows `words` too."""
    known = {word: i for i, word in enumerate(dict.fromkeys([*WORDS, *words]))}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **options)


def save_random(model: torch.nn.Module, folder: Path) -> None:
    """With weights large enough that captions differ much."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.4, generator=generator)
    model.save_pretrained(folder)


def sentence_encoder(folder: Path, config, padding_side: str) -> Path:
    """A transformer that is pooled at the last token, window of 16 tokens."""
    word_tokenizer(padding_side=padding_side, model_max_length=16).save_pretrained(folder / "plain")
    save_random(AutoModel.from_config(config), folder / "plain")
    transformer = Transformer(str(folder / "plain"))
    parts = [transformer, Pooling(transformer.get_embedding_dimension(), "lasttoken")]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"


def save_clip_encoder(folder: Path) -> Path:
    """A text tower pooled at the end token."""
    word_tokenizer().save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = CLIPTextConfig(**sizes, **tokens, max_position_embeddings=8, projection_dim=6)
    save_random(CLIPTextModelWithProjection(config), folder)
    return folder


def save_static_encoder(folder: Path, words: Iterable[str] = (), size: int = 5) -> Path:
    torch.manual_seed(0)
    vectors = StaticEmbedding(word_tokenizer(words).backend_tokenizer, embedding_dim=size)
    model = SentenceTransformer(modules=[vectors], prompts={"caption": "a "})
    model.default_prompt_name = "caption"
    model.save(str(folder))
    return folder


def images_with(captions: list, folder: Path) -> DatasetDict:
    """
    Images of noise with ids bïld-0, ... and these captions, texts or lists of texts, saved to a folder and opened
    from there; the first two rows are the split `test_novel` as well.
    """
    ids = [f"bïld-{row}" for row in range(len(captions))]
    split = make.rows(len(captions), draw=lambda row: make.noise(row, 48), image_id=ids, caption=captions)
    split = split.cast_column("image", Image())
    DatasetDict(train=split, test_novel=split.select(range(2))).save_to_disk(folder)
    return open_images(str(folder))
