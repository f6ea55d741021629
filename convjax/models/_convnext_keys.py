"""What timm and Keras call the weights of ``models.convnext``."""

from convjax.models._network import Keys

_TORCH_UNIT = "stages.{s-1}.blocks.{i}"
TORCH = Keys(
    (
        ("stem/conv", "stem.0"),
        ("stem/norm", "stem.1"),
        ("stage{s}/down/norm", "stages.{s-1}.downsample.0"),
        ("stage{s}/down/conv", "stages.{s-1}.downsample.1"),
        ("stage{s}/{i}/branch/conv", f"{_TORCH_UNIT}.conv_dw"),
        ("stage{s}/{i}/branch/norm", f"{_TORCH_UNIT}.norm"),
        ("stage{s}/{i}/branch/expand", f"{_TORCH_UNIT}.mlp.fc1"),
        ("stage{s}/{i}/branch/project", f"{_TORCH_UNIT}.mlp.fc2"),
        ("stage{s}/{i}/branch/response", f"{_TORCH_UNIT}.mlp.grn"),
        ("stage{s}/{i}/branch/scale/value", f"{_TORCH_UNIT}.gamma"),
        ("head/norm", "head.norm"),
        ("head/dense", "head.fc"),
    )
)
# timm's small networks have 1x1 convolutions for the perceptron.
_PERCEPTRON = ("stage{s}/{i}/branch/expand", "stage{s}/{i}/branch/project")
TORCH_1X1 = Keys(
    tuple((ours, f"{there}@1x1" if ours in _PERCEPTRON else there) for ours, there in TORCH.rules)
)
# Stages and what lies between them are numbered together.
TORCHVISION = Keys(
    (
        ("stem/conv", "features.0.0"),
        ("stem/norm", "features.0.1"),
        *(
            rule
            for s in (1, 2, 3, 4)
            for rule in (
                (f"stage{s}/down/norm", f"features.{2 * s - 2}.0"),
                (f"stage{s}/down/conv", f"features.{2 * s - 2}.1"),
                (f"stage{s}/{{i}}/branch/conv", f"features.{2 * s - 1}.{{i}}.block.0"),
                (f"stage{s}/{{i}}/branch/norm", f"features.{2 * s - 1}.{{i}}.block.2"),
                (f"stage{s}/{{i}}/branch/expand", f"features.{2 * s - 1}.{{i}}.block.3"),
                (f"stage{s}/{{i}}/branch/project", f"features.{2 * s - 1}.{{i}}.block.5"),
                (
                    f"stage{s}/{{i}}/branch/scale/value",
                    f"features.{2 * s - 1}.{{i}}.layer_scale@spatial",
                ),
            )
        ),
        ("head/norm", "classifier.0"),
        ("head/dense", "classifier.2"),
    )
)


def keras(name: str) -> Keys:
    """Return the names in Keras, all of which begin with the network's own."""
    unit = name + "_stage_{s-1}_block_{i}"
    return Keys(
        (
            ("stem/conv", f"{name}_stem_conv"),
            ("stem/norm", f"{name}_stem_layernorm"),
            ("stage{s}/down/norm", f"{name}_downsampling_layernorm_{{s-2}}"),
            ("stage{s}/down/conv", f"{name}_downsampling_conv_{{s-2}}"),
            # A grouped convolution there, not a depthwise one.
            ("stage{s}/{i}/branch/conv/kernel", f"{unit}_depthwise_conv/kernel@grouped"),
            ("stage{s}/{i}/branch/conv", f"{unit}_depthwise_conv"),
            ("stage{s}/{i}/branch/norm", f"{unit}_layernorm"),
            ("stage{s}/{i}/branch/expand", f"{unit}_pointwise_conv_1"),
            ("stage{s}/{i}/branch/project", f"{unit}_pointwise_conv_2"),
            ("stage{s}/{i}/branch/scale/value", f"{unit}_layer_scale/gamma"),
            ("head/norm", f"{name}_head_layernorm"),
            ("head/dense", f"{name}_head_dense"),
        )
    )
