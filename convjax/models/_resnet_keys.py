"""What timm and torchvision, and Keras, call the weights of ``models.resnet``."""

from convjax.models._network import Keys

TORCH = Keys(
    (
        ("stem/conv", "conv1"),
        ("stem/norm", "bn1"),
        ("stem/conv1", "conv1.0"),
        ("stem/norm1", "conv1.1"),
        ("stem/conv2", "conv1.3"),
        ("stem/norm2", "conv1.4"),
        ("stem/conv3", "conv1.6"),
        ("stem/norm3", "bn1"),
        ("stage{s}/{i}/branch/conv{k}", "layer{s}.{i}.conv{k}"),
        ("stage{s}/{i}/branch/norm{k}", "layer{s}.{i}.bn{k}"),
        ("stage{s}/{i}/branch/squeeze/reduce", "layer{s}.{i}.se.fc1"),
        ("stage{s}/{i}/branch/squeeze/expand", "layer{s}.{i}.se.fc2"),
        ("stage{s}/{i}/shortcut/conv", "layer{s}.{i}.downsample.0"),
        ("stage{s}/{i}/shortcut/norm", "layer{s}.{i}.downsample.1"),
        ("head/dense", "fc"),
    )
)
TORCH_D = Keys(
    (
        ("stage{s}/{i}/shortcut/conv", "layer{s}.{i}.downsample.1"),
        ("stage{s}/{i}/shortcut/norm", "layer{s}.{i}.downsample.2"),
        *TORCH.rules,
    )
)
TORCH_LEGACY = Keys(
    (
        ("stem/conv", "layer0.conv1"),
        ("stem/norm", "layer0.bn1"),
        ("stage{s}/{i}/branch/squeeze/reduce", "layer{s}.{i}.se_module.fc1"),
        ("stage{s}/{i}/branch/squeeze/expand", "layer{s}.{i}.se_module.fc2"),
        ("head/dense", "last_linear"),
        *TORCH.rules,
    )
)
KERAS = Keys(
    (
        ("stem/conv", "conv1_conv"),
        ("stem/norm", "conv1_bn"),
        ("stage{s}/{i}/branch/conv{k}", "conv{s+1}_block{i+1}_{k}_conv"),
        ("stage{s}/{i}/branch/norm{k}", "conv{s+1}_block{i+1}_{k}_bn"),
        ("stage{s}/{i}/shortcut/conv", "conv{s+1}_block{i+1}_0_conv"),
        ("stage{s}/{i}/shortcut/norm", "conv{s+1}_block{i+1}_0_bn"),
        ("head/dense", "predictions"),
    )
)
