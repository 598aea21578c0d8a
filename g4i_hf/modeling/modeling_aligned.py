"""`AlignedImageClassification`: a plain image classifier and a projector into the space of the text embeddings."""

import contextlib
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
)
from transformers.utils import ModelOutput

from .configuration_aligned import AlignedImageClassificationConfig
from .processing import timm_pretrained_cfg
from .student import (
    PRETRAINED_CFG_KEYS,
    add_adapters,
    classifier_layers,
    feature_size,
    find_target_modules,
    has_batch_norms,
    new_student,
    plain_student,
    pretrained_student,
    save_timm_model,
    student_config_from,
)

MAX_LOGIT_SCALE = 100.0  # as in CLIP (arXiv 2103.00020, section 2.5)
# Of a student's image processor and architecture. Other entries of timm, such as `file`, describe other weights
PUBLIC_PRETRAINED_CFG = (
    *PRETRAINED_CFG_KEYS,
    *("test_input_size", "test_crop_pct", "min_input_size", "fixed_input_size", "pool_size"),
    *("first_conv", "classifier"),
)


@dataclass
class AlignedImageClassifierOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): cross entropy, if `labels` are given.
        logits (`torch.FloatTensor` of shape `(B, num_labels)`): the student's logits.
        image_embeds (`torch.FloatTensor` of shape `(B, D)`, *optional*): the projected features, of unit norm.
        logit_scale (`torch.FloatTensor` of shape `()`, *optional*): the learned inverse temperature, at most 100.
        logit_bias (`torch.FloatTensor` of shape `()`, *optional*): the learned bias of the logits.
        features (`torch.FloatTensor` of shape `(B, F)`, *optional*): the features, before the projector.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*): of the student.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    logit_scale: torch.FloatTensor | None = None
    logit_bias: torch.FloatTensor | None = None
    features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class Projector(nn.Module):
    """
    Maps the feature of the student (B, F) to the space of the text embeddings (B, D), by an MLP. Its
    initialisation restores the random state, so that a student trains the same with and without a projector.
    """

    def __init__(self, in_features: int, config: AlignedImageClassificationConfig):
        super().__init__()
        self.normalizes = True
        hidden, out = config.projector_hidden_size, config.text_embed_dim
        norm = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}[config.projector_norm]
        with torch.random.fork_rng(devices=[]):
            fc1, fc2 = nn.Linear(in_features, hidden), nn.Linear(hidden, out)
            self.layers = nn.Sequential(OrderedDict(fc1=fc1, norm=norm(hidden), act=nn.ReLU(), fc2=fc2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features (B, F) -> image_embeds (B, D), each row of unit norm; in training only if `normalizes`."""
        embeds = self.layers(features.to(self.dtype))
        if embeds.dtype in (torch.float16, torch.bfloat16):  # too coarse for a unit norm
            embeds = embeds.float()
        return embeds if self.training and not self.normalizes else nn.functional.normalize(embeds, dim=-1)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class _ForwardPass(threading.local):
    """
    A context in which a hook collects the inputs of the classifier layers: during the forward pass of a model, but not
    during the second one of activation checkpointing. There is one for all models, so that the hook also holds in the
    copy of a classifier that peft trains.
    """

    inputs: list[torch.Tensor] | None = None

    def __enter__(self) -> list[torch.Tensor]:
        self.inputs = []
        return self.inputs

    def __exit__(self, *_) -> None:
        self.inputs = None


FORWARD_PASS = _ForwardPass()


def _collect(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    if FORWARD_PASS.inputs is not None:
        FORWARD_PASS.inputs.append(args[0])


@contextlib.contextmanager
def single_values_normalized(model: nn.Module) -> Iterator[None]:
    """
    A context in which a batch norm with a single value per channel in training uses its running statistics, without
    updating them. Otherwise torch raises an error, such as for one image with maps of one pixel.
    """
    switched: list[nn.Module] = []

    def switch(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if module.training and args[0].numel() == args[0].shape[1]:
            switched.append(module.eval())

    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(switch) for norm in norms if not isinstance(norm, nn.SyncBatchNorm)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in switched:
            module.train()


def _at_most(value: torch.Tensor, limit: float) -> torch.Tensor:
    """Clamp the value but not the gradient, so that training can decrease the value."""
    return value + (value.clamp(max=limit) - value).detach()


class AlignedImageClassification(PreTrainedModel):
    """
    A student, as `AutoModelForImageClassification` returns it, and a projector from its feature to the space of the
    text embeddings. Without text it is an image classifier for `pipeline`, `Trainer` and `evaluate`.

    The feature is the input of the student's last layer, (B, F), for any architecture; for students with two heads
    (distilled DeiT) the mean of the inputs of both heads.
    """

    config_class = AlignedImageClassificationConfig
    config: AlignedImageClassificationConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # Trainer would otherwise multiply loss and gradient by the accumulation steps (transformers #47688)
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_attention_backend = True
    backbone_is_frozen = norm_statistics_are_frozen = False

    def __init__(self, config: AlignedImageClassificationConfig, student: PreTrainedModel | None = None):
        super().__init__(config)
        self.num_labels = config.num_labels
        if student is None:
            of_student = config.student_config  # `from_pretrained` may have been given other classes
            of_student.id2label, of_student.label2id = dict(config.id2label), dict(config.label2id)
            student = new_student(of_student)
        self.student = student
        if config.lora is not None:
            add_adapters(self.student, config.lora)
        self.projector = Projector(feature_size(self.student), config)
        # Not in the released student, like the projector
        if config.logit_scale_init is not None:
            self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init))
        if config.logit_bias_init is not None:
            self.logit_bias = nn.Parameter(torch.tensor(config.logit_bias_init))
        for layer in classifier_layers(self.student):
            layer.register_forward_pre_hook(_collect)
        self.supports_gradient_checkpointing = self.student.supports_gradient_checkpointing
        if next(self.parameters()).device.type != "meta":
            # Student and projector are initialised; post_init would draw their weights again
            for module in self.modules():
                module._is_hf_initialized = True
        self.post_init()

    @classmethod
    def from_student(
        cls,
        name_or_config: str | PreTrainedConfig,
        *,
        id2label: dict[int, str],
        text_embed_dim: int,
        pretrained: bool = False,
        student_args: dict[str, Any] | None = None,
        image_size: int | None = None,
        image_settings: dict[str, Any] | None = None,
        revision: str | None = None,
        lora: dict[str, Any] | None = None,
        **config_kwargs,
    ) -> "AlignedImageClassification":
        """
        Wrap a student: any transformers image classification checkpoint or configuration, or any timm name.

        Args:
            name_or_config: folder, Hub id, timm name, transformers model type, or a `PreTrainedConfig`.
            id2label: class names by index; the head gets as many outputs.
            text_embed_dim: D, the size of the text embeddings.
            pretrained: use the weights of the checkpoint, not new ones.
            student_args: arguments of `timm.create_model`, or fields of the student's configuration.
            image_size: side of the input in pixels, for position embeddings and the image processor.
            image_settings: further entries of a timm student's `pretrained_cfg`, such as `crop_pct`.
            revision: branch, tag or commit of a Hub checkpoint.
            lora: `r`, `lora_alpha` and `lora_dropout`.
            config_kwargs: fields of [`AlignedImageClassificationConfig`], such as `projector_norm`.
        """
        hub_kwargs = {"revision": revision} if revision else {}
        config = student_config_from(name_or_config, student_args, image_size, **hub_kwargs)
        config.id2label = {int(i): name for i, name in id2label.items()}
        config.label2id = {name: i for i, name in config.id2label.items()}
        if pretrained:
            if isinstance(name_or_config, PreTrainedConfig):
                raise ValueError("pretrained=True needs the name of a checkpoint, but a configuration was given.")
            student = pretrained_student(name_or_config, config, **hub_kwargs)
        elif lora is not None:
            raise ValueError("LoRA adapts a pretrained student: set pretrained to true, or leave LoRA out.")
        else:
            student = new_student(config)
        if isinstance(student.config, TimmWrapperConfig):
            student.config.pretrained_cfg = timm_pretrained_cfg(student, image_size, image_settings)
        # AutoModelForImageClassification selects one of DeiT's two classes by this name
        student.config.architectures = [type(student).__name__]
        if lora is not None:
            config_kwargs["lora"] = lora | {"target_modules": find_target_modules(student)}
        aligned = AlignedImageClassificationConfig(student.config, text_embed_dim=text_embed_dim, **config_kwargs)
        return cls(aligned, student)

    def learn_logits(self, temperature: float, bias: float = -10.0) -> None:
        """Make temperature and bias parameters of the model; keeps existing ones."""
        where = {"device": self.device, "dtype": self.projector.dtype}
        for name, value in {"logit_scale": -math.log(temperature), "logit_bias": bias}.items():
            if not hasattr(self, name):
                setattr(self.config, f"{name}_init", value)
                setattr(self, name, nn.Parameter(torch.tensor(value, **where)))

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_image_embeds: bool | None = None,
        return_dict: bool | None = None,
        output_features: bool = False,
        features: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> AlignedImageClassifierOutput | tuple[torch.Tensor, ...]:
        """
        Args:
            pixel_values: (B, 3, H, W), normalised; None with `features`.
            labels: (B,) class indices, -100 for unlabelled images; adds `loss` to the output.
            output_image_embeds: return `image_embeds`; by default in training only.
            return_dict: if False, return a tuple instead of an output object.
            output_features: return `features`.
            features: (B, F), cached features of a frozen backbone, for which only classifier and projector run. See
                [`takes_features`].
            output_hidden_states: return `hidden_states` of the student; not with `features`.
            output_attentions: return `attentions` of the student; not with `features`.
        """
        optional: dict[str, Any] = {}
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        if features is not None:
            (classifier,) = classifier_layers(self.student)
            logits, inputs = classifier(features.to(classifier.weight.dtype)), [features]
        else:
            with FORWARD_PASS as inputs:
                wanted = {name: value for name, value in wanted.items() if value}
                of_student = self.student(pixel_values=pixel_values.to(self.student.dtype), **wanted)
            logits = of_student.logits
            optional |= {name: getattr(of_student, name, None) for name in ("hidden_states", "attentions")}

        features = image_embeds = None  # of the output
        projects = output_image_embeds or (output_image_embeds is None and self.training)
        if projects or output_features:
            features = inputs[0].flatten(1)
            if len(inputs) > 1:
                features = torch.stack([head_input.flatten(1) for head_input in inputs]).mean(0)
        if projects:
            frozen = not any(parameter.requires_grad for parameter in self.projector.parameters())
            image_embeds = self.projector(features.detach() if frozen else features)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.view(-1, self.num_labels), labels.view(-1))
        if image_embeds is not None and hasattr(self, "logit_scale"):
            optional["logit_scale"] = _at_most(self.logit_scale.exp(), MAX_LOGIT_SCALE)
        if image_embeds is not None and hasattr(self, "logit_bias"):
            optional["logit_bias"] = self.logit_bias + 0  # an output, not the parameter itself, as FSDP requires
        if output_features:
            optional["features"] = features
        output = AlignedImageClassifierOutput(loss=loss, logits=logits, image_embeds=image_embeds, **optional)
        return output if return_dict is not False else output.to_tuple()

    def freeze_backbone(self) -> None:
        """Freeze all but classifier and projector, in evaluation mode even while training; not with LoRA."""
        if self.config.lora is not None or hasattr(self, "peft_config"):
            raise ValueError("The student has adapters of peft, and freeze_backbone would freeze them. Leave one out.")
        self.student.requires_grad_(False)
        for layer in classifier_layers(self.student):
            layer.requires_grad_(True)
        self.backbone_is_frozen = True
        self.train(self.training)

    def freeze_norm_statistics(self) -> None:
        """
        Batch norms of the student use and keep their running statistics, even while training; their scale and shift
        train. Statistics of small batches would destroy a pretrained network within an epoch.
        """
        self.norm_statistics_are_frozen = True
        self.train(self.training)

    @property
    def takes_features(self) -> bool:
        """Whether logits are a single linear layer of the feature, so that features can be cached."""
        layers = classifier_layers(self.student)
        return len(layers) == 1 and isinstance(layers[0], nn.Linear)

    def freeze_unused(self) -> None:
        """Freeze a parameter that a classifier does not use and DDP would wait for: DINOv2's mask token."""
        for name, parameter in self.student.named_parameters():
            if name.endswith("mask_token"):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "AlignedImageClassification":
        super().train(mode)
        if self.backbone_is_frozen:
            self.student.eval()
            for layer in classifier_layers(self.student):
                layer.train(mode)
        if self.norm_statistics_are_frozen:
            for module in self.student.modules():
                if getattr(module, "running_var", None) is not None:
                    module.training = False  # not `eval()`, as norms of timm may contain dropout
        return self

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        """Raises ValueError for a student that cannot, or whose batch norms would see each batch twice."""
        if has_batch_norms(self.student):
            what = "The student has batch norms, which would count a batch twice where it is computed again"
            raise ValueError(f"{what}: leave activation_checkpointing (gradient_checkpointing) out.")
        self.student.activation_checkpointing_enable(*args, **kwargs)

    def get_input_embeddings(self) -> None:
        """None, as there are no tokens; accelerate calls it before it shards weights by FSDP2."""

    def _init_weights(self, module: nn.Module) -> None:
        # Only called for weights that a checkpoint lacks; torch's initialisation, as in the projector
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def save_student(
    model: AlignedImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """
    Write the student without projector and adapters, and its image processor, which a timm student does not need;
    transformers and timm load it without this package.
    """
    student, config, folder = plain_student(model), model.config.student_config, Path(folder)
    if not isinstance(config, TimmWrapperConfig):
        student.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
        return
    names = [config.id2label[i] for i in range(config.num_labels)]
    trained = getattr(config, "pretrained_cfg", None) or {}
    public = {name: trained[name] for name in trained if name in PUBLIC_PRETRAINED_CFG}
    tensors = student.timm_model.state_dict()
    save_timm_model(folder, tensors, config.architecture, names, public, config.model_args)


AutoConfig.register(AlignedImageClassificationConfig.model_type, AlignedImageClassificationConfig)
AutoModel.register(AlignedImageClassificationConfig, AlignedImageClassification)
AutoModelForImageClassification.register(AlignedImageClassificationConfig, AlignedImageClassification)

__all__ = ["AlignedImageClassification", "AlignedImageClassifierOutput"]
