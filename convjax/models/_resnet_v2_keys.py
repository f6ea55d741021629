"""What timm and Keras call the weights of ``models.resnet_v2``."""

from convjax.models._network import Keys

# A unit's first norm stands before its residual where channels change, and in its branch elsewhere.
_TORCH_UNIT = "stages.{s-1}.blocks.{i}"
TORCH = Keys(
    (
        ("stem/conv", "stem.conv"),
        ("stem/conv{k}", "stem.conv{k}"),
        ("stem/norm{k}", "stem.norm{k}"),
        *(
            (f"stage{{s}}/{{i}}/{where}{kind}{{k}}", f"{_TORCH_UNIT}.{kind}{{k}}")
            for where in ("", "branch/", "residual/branch/")
            for kind in ("norm", "conv")
        ),
        ("stage{s}/{i}/residual/shortcut/conv", f"{_TORCH_UNIT}.downsample.conv"),
        ("head/norm", "norm"),
        ("head/dense", "head.fc@1x1"),
    )
)
_KERAS_UNIT = "conv{s+1}_block{i+1}"
KERAS = Keys(
    (
        ("stem/conv", "conv1_conv"),
        ("stage{s}/{i}/norm1", f"{_KERAS_UNIT}_preact_bn"),
        ("stage{s}/{i}/branch/norm1", f"{_KERAS_UNIT}_preact_bn"),
        *(
            (f"stage{{s}}/{{i}}/{where}branch/{kind}{{k}}", f"{_KERAS_UNIT}_{theirs}")
            for where in ("", "residual/")
            for kind, theirs in (("norm", "{k-1}_bn"), ("conv", "{k}_conv"))
        ),
        ("stage{s}/{i}/residual/shortcut/conv", f"{_KERAS_UNIT}_0_conv"),
        ("head/norm", "post_bn"),
        ("head/dense", "predictions"),
    )
)
