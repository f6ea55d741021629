"""Options that a question cannot do are refused, each by its name, before anything is measured."""

import importlib

import pytest

# What each option must be at least; of those that are lists every value, none twice.
LEAST = {
    "convolution_audit": {"sizes": 3, "padding_layers": 2, "depthwise_width": 2, "seeds": 2}
    | {"depths": 2, "jacobian_layers": 1, "jacobian_seeds": 2},
    "path_lengths": {"depths": 6, "width": 1, "batch_size": 4, "seeds": 2},
    "residual_power_law": {"depths": 8, "width": 1, "batch_size": 4, "seeds": 2},
    "shattering": {"depths": 1, "inputs": 2, "line_depths": 4, "points": 4, "samples": 1}
    | {"seeds": 2, "line_seeds": 2},
    "skip_and_scale": {"depths": 1, "width": 1, "batch_size": 1, "seeds": 2},
    "plain_gain": {"depths": 1, "seeds": 3},
    "edge_of_chaos": {"depths": 1, "width": 1, "batch_size": 1, "seeds": 2, "discard": 0}
    | {"bias_variance": 0},
    "batch_norm_explosion": {"batch_sizes": 4, "depths": 1, "discard": 0, "width": 1, "seeds": 2},
    "theory": {"depths": 4, "width": 2, "batch_size": 4, "seeds": 2},
    "degradation": {"width": 1, "seeds": 1, "steps": 1, "batch_size": 2, "lesions": 2},
    "dynamics": {"width": 1, "seeds": 1, "batch_size": 2, "first": 2, "runs": 1, "watch": 1},
    "gradient_norms": {"widths": 1, "seeds": 1, "steps": 0, "momentum": 0},
    "transfer": {"seeds": 2, "pretrain_steps": 1, "steps": 1, "batch_size": 2, "budgets": 1}
    | {"shifts": 0, "per_class": 1},
}
REFUSED = {
    "convolution_audit": [
        ({"widths": (8,)}, "widths=[8] must hold one number of at least 1 for each of sizes"),
        ({"padding_seeds": (8, 1)}, "padding_seeds=[8, 1] must hold one number of at least 2"),
        ({"padding_images": (0, 1)}, "padding_images=[0, 1] must hold one number of at least"),
    ],
    "residual_power_law": [
        ({"digits_batch_size": 5000}, "digits_batch_size=5000: there are 1437 digits"),
    ],
    "shattering": [
        ({"inputs": 9, "width": 8}, "inputs=9 cannot be orthogonal where width=8"),
        ({"line_depths": (4, 7)}, "line_depths=[4, 7] must be even"),
    ],
    "skip_and_scale": [
        ({"scales": ("2",)}, "scales: '2' is not known"),
        ({"scales": ("1", "1")}, "scales=['1', '1'] must hold at least one value, none twice"),
        ({"depths": (900,)}, "depths=(900,): beyond 500 units"),
    ],
    "plain_gain": [
        ({"inits": ("orthogonal",)}, "the entries of 'orthogonal' are not independent"),
        ({"inits": ("hee",)}, "init='hee' is not known; did you mean 'he'"),
        ({"inits": ()}, "inits=[] must hold at least one value"),
        ({"widths": (64, 64)}, "widths=[64, 64] must hold at least one value, none twice"),
        ({"widths": (64, 1)}, "widths=[64, 1] must each be at least 22: of 1000 narrower"),
    ],
    "edge_of_chaos": [
        ({"weight_variances": (1.0, 1.5)}, "weight_variances=[1.0, 1.5] must lie on both sides"),
        ({"weight_variances": ()}, "weight_variances=[] must hold at least one value"),
        ({"weight_variances": (1.0, 1.0, 4.0)}, "weight_variances=[1.0, 1.0, 4.0] must hold"),
        ({"weight_variances": (0.0, 4.0)}, "weight_variances=(0.0, 4.0) must be greater than 0"),
        ({"depths": (40, 9), "discard": 9}, "discard=9 leaves no layer of 9 in depths=[40, 9]"),
    ],
    "batch_norm_explosion": [
        ({"activations": ()}, "activations=[] must hold at least one value"),
        ({"depths": (30, 16), "discard": 8}, "depths=[30, 16] must each be at least 17"),
    ],
    "theory": [
        ({"networks": ("plane",)}, "did you mean 'plain'"),
        ({"networks": ()}, "networks=[] must hold at least one value"),
        ({"depths": (4, 5)}, "depths=[4, 5] must be even"),
    ],
    "degradation": [
        ({"depths": (20, 57)}, "depths=[20, 57]: 57 is not 6n + 2"),
        ({"depths": (2, 20)}, "2 is not 6n"),
        ({"depths": (20, 20)}, "must rise"),
        ({"depths": (20,)}, "depths=[20] must be two or more"),
        ({"batch_size": 1438}, "batch_size=1438 must be at most 1437, the images of training"),
        ({"lesions": 1438}, "lesions=1438 must be at most 1437, the images of training"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be greater than 0"),
        ({"path": "a"}, "path: the digits come with scikit-learn"),
        ({"data": "fashion-mnist", "path": "a"}, "folder='a' holds no train-images-idx3-ubyte"),
    ],
    "dynamics": [
        ({"depths": (50, 9)}, "depths=[50, 9]: 9 cannot be built"),
        ({"depths": (50, 50)}, "depths=[50, 50] must hold at least one value, none twice"),
        ({"steps": 9}, "steps=9 must be at least 10"),
        ({"runs": 6}, "runs=6 must be at most seeds=5"),
        ({"batch_size": 5000}, "batch_size=5000 must lie between 1 and the 1437 examples"),
        ({"decay": 0.0}, "decay=0.0 must be greater than 0"),
    ],
    "gradient_norms": [
        ({"depths": (9,)}, "6, 8, 10, …; the nearest would be 8 or 10"),
        ({"depths": (4,)}, "depths=[4]: 4 cannot be built"),
        ({"depths": (8, 8)}, "depths=[8, 8] must hold at least one value, none twice"),
        ({"norms": ("btach",)}, "norm='btach' is not known; did you mean 'batch'"),
        ({"norms": ()}, "norms=[] must hold at least one value"),
        ({"shortcuts": ("residual",)}, "shortcut='residual' is not known"),
        ({"activations": ("rely",)}, "activation='rely' is not known; did you mean 'relu'"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be greater than 0"),
        ({"batch_size": 5000}, "batch_size=5000 must lie between 1 and the 1797 examples"),
    ],
    "transfer": [
        ({"tuning_rate": 0.0}, "tuning_rate=0.0 must be greater than 0"),
        ({"budgets": (5, 2)}, "budgets=[5, 2] must rise"),
        ({"budgets": (2, 500)}, "class '5' has 121 images left"),
        ({"pretrain_classes": ("0", "ten")}, "pretrain_classes: 'ten' is not known"),
        ({"pretrain_classes": ("0",)}, "pretrain_classes needs at least two classes, and has 0"),
        ({"pretrain_classes": ("0", "1"), "target_classes": ("1", "2")}, "'1' is in both"),
        (
            {"target_classes": ("4", "4")},
            "target_classes=['4', '4'] must hold at least one value, none twice",
        ),
        ({"network": "resnet2_cifar"}, "did you mean"),
        ({"weights": "a.pth", "pretrain_classes": ("0", "1")}, "leave out pretrain_classes"),
        ({"stage_decay": 0.0}, "stage_decay=0.0 must be greater than 0"),
        ({"per_class": 9}, "class '5' has 6 images left"),
        ({"path": "a"}, "path: the digits come with scikit-learn"),
        ({"images": "a", "data": "fashion-mnist"}, "images='a' takes the place of data and path"),
        ({"data": "fashion-mnist", "path": "a"}, "folder='a' holds no train-images-idx3-ubyte"),
    ],
}


def refused(name, options):
    module = importlib.import_module(f"experiments.{name}")
    with pytest.raises(ValueError) as error:
        module.cells(module.Config(**options))
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "option", "least"),
    [(name, *bound) for name, every in LEAST.items() for bound in every.items()],
)
def test_too_small_an_option_is_refused(name, option, least):
    module = importlib.import_module(f"experiments.{name}")
    default = getattr(module.Config(), option)
    several = isinstance(default, tuple)
    value = (least + 2, least - 1) if several else least - 1
    assert f"{option}={value} must be at least {least}" in refused(name, {option: value})
    lists = [(), (least + 2,) * 2] if default else [(least + 2,) * 2]
    for values in lists if several else ():
        told = refused(name, {option: values})
        assert f"{option}={list(values)} must hold at least one value, none twice" in told


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [(name, *case) for name, every in REFUSED.items() for case in every],
)
def test_a_wrong_option_is_refused(name, options, message):
    assert message in refused(name, options)
