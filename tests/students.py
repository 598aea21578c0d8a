"""Small students of many architectures, for tests that must hold for all of them."""

from transformers import (
    BeitConfig,
    ConvNextConfig,
    DeiTConfig,
    Dinov2Config,
    MobileNetV2Config,
    RegNetConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from g4i_hf import AlignedImageClassification

ID2LABEL = {0: "ant", 1: "bee", 2: "cat", 3: "dog", 4: "elk"}
TINY_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48, "patch_size": 16}
TINY_TIMM_VIT = {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 2}

# name -> (timm name or configuration, student_args), for images of 48 x 48
STUDENTS = {
    "resnet": (ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, layer_type="basic"), None),
    "vit": (ViTConfig(**TINY_VIT, intermediate_size=64), None),
    "deit": (DeiTConfig(**TINY_VIT, intermediate_size=64), None),
    "deit-two-heads": (
        DeiTConfig(**TINY_VIT, intermediate_size=64, architectures=["DeiTForImageClassificationWithTeacher"]),
        None,
    ),
    "swin": (SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=3, image_size=48), None),
    "convnext": (ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4), None),
    "mobilenet_v2": (MobileNetV2Config(depth_multiplier=0.25, image_size=48), None),
    "regnet": (RegNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, groups_width=4), None),
    "beit": (BeitConfig(**TINY_VIT, intermediate_size=64), None),
    "dinov2": (Dinov2Config(**TINY_VIT), None),
    "timm-resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16]}),
    "timm-vit": ("vit_tiny_patch16_224", TINY_TIMM_VIT),
    "timm-deit-two-heads": ("deit_tiny_distilled_patch16_224", TINY_TIMM_VIT),
    "timm-efficientnet": ("efficientnet_lite0", None),
    "timm-mobilenetv3": ("mobilenetv3_small_050", None),
    "timm-convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "timm-swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 48, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 3},
    ),
    "timm-mixer": ("mixer_s16_224", {"img_size": 48}),
    "timm-regnet": ("regnety_002", None),
    "timm-poolformer": ("poolformer_s12", None),
}
TWO_HEADS = {"deit-two-heads", "timm-deit-two-heads"}


def aligned_model(name: str, text_embed_dim: int = 12, **kwargs) -> AlignedImageClassification:
    student, student_args = STUDENTS[name]
    return AlignedImageClassification.from_student(
        student, id2label=ID2LABEL, text_embed_dim=text_embed_dim, student_args=student_args, image_size=48, **kwargs
    )
