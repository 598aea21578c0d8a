"""Finding and loading a vision-language model, and what tells it from all others."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoints import commit_of, folder_digest
from ...options import LocalCaptionerArguments
from ..answers import CaptionerError

if TYPE_CHECKING:
    import torch

EXAMPLES = "llava-hf/llava-1.5-7b-hf, Qwen/Qwen2.5-VL-3B-Instruct, HuggingFaceTB/SmolVLM-Instruct"


class Source:
    """
    A model as it was asked for, found but not loaded yet.

    Args:
        model: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        local: the adapter and `trust_remote_code`.

    Attributes:
        commit: of the Hub model; everything is loaded from this commit, even if the branch moves meanwhile.
        identity: names and versions of model and adapter for `provenance`: a commit for a Hub model, a digest of its
            files for a folder. Of a folder only the name, no path.

    Raises:
        CaptionerError: when there is no such model or adapter, or it cannot describe images.
    """

    def __init__(self, model: str, revision: str | None, local: LocalCaptionerArguments):
        self.model, self.local = model, local
        self.commit = _commit_of(model, revision)
        self.model_type = _config_of(model, self.commit, local.trust_remote_code).model_type
        self.identity: dict[str, Any] = {
            "model": _name_of(model),
            "revision": self.commit or folder_digest(model),
        }
        self.adapter_commit = None
        if local.captioner_adapter:
            self.adapter_commit = _check_adapter(local.captioner_adapter)
            self.identity["adapter"] = _name_of(local.captioner_adapter)
            self.identity["adapter_revision"] = self.adapter_commit or folder_digest(local.captioner_adapter)

    def load(self, device: "str | torch.device") -> tuple[Any, Any]:
        """
        Returns:
            The model on its device, ready to answer, and its processor, which pads on the left.

        Raises:
            CaptionerError: when weights or processor are missing or broken.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        options = {"revision": self.commit, "trust_remote_code": self.local.trust_remote_code}
        with _explained(f"The captioner {self.model!r} cannot be loaded"):
            processor = AutoProcessor.from_pretrained(self.model, **options)
            dtype = dtype_on(device)
            model = AutoModelForImageTextToText.from_pretrained(self.model, dtype=dtype, **options)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None or getattr(processor, "image_processor", None) is None:
            raise CaptionerError(
                f"The captioner {self.model!r} comes without a processor for text and images "
                f"(AutoProcessor gave {type(processor).__name__}). Add the processor of the model it was made from."
            )
        tokenizer.padding_side = "left"  # new tokens go to the right end of every row
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self.local.captioner_adapter:
            model = self._with_adapter(model)
        return model.to(device).eval(), processor

    def _with_adapter(self, model: Any) -> Any:
        """The adapter becomes part of the weights, so that it costs no time."""
        from peft import PeftModel

        adapter = self.local.captioner_adapter
        with _explained(f"The adapter {adapter!r} does not fit the captioner {self.model!r}"):
            adapted = PeftModel.from_pretrained(model, adapter, revision=self.adapter_commit)
            return adapted.merge_and_unload()


def dtype_on(device: "str | torch.device") -> "torch.dtype":
    """bfloat16 on a GPU that has it, else float32."""
    import torch

    kind = torch.device(device).type
    accelerator = getattr(torch, kind) if kind in ("cuda", "xpu") else None
    return torch.bfloat16 if accelerator is not None and accelerator.is_bf16_supported() else torch.float32


def _name_of(model: str) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else model


def _commit_of(model: str, revision: str | None) -> str | None:
    """The commit of a model on the Hub that a branch or tag stands for at present; None for a folder."""
    if Path(model).is_dir():
        return None
    if model.startswith((".", "~", "/")) or model.count("/") > 1:  # no Hub id looks like that
        raise CaptionerError(f"captioner_model is {model!r}, but there is no such folder.")
    with _explained(f"The captioner {model!r} cannot be found"):
        return commit_of(model, revision)


def _config_of(model: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    with _explained(f"The captioner {model!r} cannot be found"):
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    own_code = trust_remote_code and "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if not own_code and type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise CaptionerError(
            f"The captioner {model!r} is a model of type {getattr(config, 'model_type', '?')!r}, which does not take "
            "image and text and write text (AutoModelForImageTextToText does not load it). Models that do are, for "
            f"example, {EXAMPLES}."
        )
    return config


def _check_adapter(adapter: str) -> str | None:
    """The commit of an adapter on the Hub, None for a folder."""
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise CaptionerError("captioner_adapter needs the package peft: `pip install peft`.") from error
    with _explained(f"The adapter {adapter!r} cannot be found"):
        is_folder = Path(adapter).is_dir()
        commit = None if is_folder else commit_of(adapter, None, "adapter_config.json")
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
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CaptionerError(f"{what}: {' '.join(lines) or type(error).__name__}") from error
