"""
An MLP-Mixer (Tolstikhin et al., arXiv 2105.01601) as small as the other students, whose sizes timm does not have: an
example of an architecture of one's own, see docs/guides/training.md.

    g4i train --module recipes/emoji_styles/mlp_mixer.py --config recipes/emoji_styles/train.yaml --image_size 32 \\
        --student mlp_mixer --student_args '{"patch_size": 8, "num_blocks": 4, "embed_dim": 96}'
"""

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import MlpMixer

# That it has to be built for the size of its images, which it is then given as `img_size`
default_cfgs = generate_default_cfgs({"mlp_mixer": {"input_size": (3, 224, 224), "fixed_input_size": True}})


@register_model
def mlp_mixer(pretrained: bool = False, **kwargs) -> MlpMixer:
    """`patch_size`, `num_blocks`, `embed_dim` and `mlp_ratio` are given as `student_args`."""
    return build_model_with_cfg(MlpMixer, "mlp_mixer", pretrained, **kwargs)
