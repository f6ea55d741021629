"""Arguments that the fuzzer does not vary, and why; a test holds that there are no others."""

LATER = "it is looked at when a file was fetched, or heads were found"
EITHER = "of loss and cotangent one is given, and it is the loss that is varied"
ANY = "any tree of arrays is taken, and handed to the loss"
MORE = "options by name, which are those of another callable that is varied"
LAX = "the drop-in refuses as lax does, in lax's words: tests/ops/test_general.py"

LOADED = "models.load_weights, which is handed it, varies it"

CALL = "how a network is called: gradflow.profile varies it"

OF_LAX = (
    "lhs", "rhs", "window_strides", "padding", "lhs_dilation", "rhs_dilation",
    "dimension_numbers", "feature_group_count", "batch_group_count", "precision",
    "preferred_element_type", "out_sharding",
)  # fmt: skip

UNTRIED = {
    "ops.conv_general_dilated": dict.fromkeys(OF_LAX, LAX),
    "nn.norm": {"options": MORE},
    "nn.initializers.get": {"argument": "the name in the message"},
    "models.fcn": {"options": MORE},
    "models.create": {
        "options": MORE,
        "weights": LOADED,
        "allow": LOADED,
        "adapt_input": LOADED,
        "use_ema": LOADED,
    },
    "models.from_hub": {
        "options": MORE,
        "revision": LATER,
        "filename": LATER,
        "allow": LATER,
        "rngs": LATER,
        "adapt_input": LOADED,
        "use_ema": LOADED,
    },
    "models.features": {"call": CALL},
    "models.freeze": {"call": CALL, "x": "what nn.read reads a network at, which varies it"},
    "models.auxiliary_logits": {"x": LATER, "train": LATER, "rngs": LATER},
    "gradflow.profile": {"cotangent": EITHER, "targets": ANY},
    "gradflow.paths": {"cotangent": EITHER, "targets": ANY},
    "gradflow.predict": {"cotangent": "an array, which gradflow.correlation varies"},
    "gradflow.trunk": dict.fromkeys(("x", "train", "rngs", "call"), "gradflow.profile varies it"),
    "gradflow.tapped": {"call": CALL},
    "gradflow.noise_scale": {"targets": ANY},
    "gradflow.per_example_norms": {"targets": ANY},
    "train.evaluate": {"call": CALL},
    "train.fit": {"call": CALL},
    "train.make_dispatch": {"call": CALL},
    "train.make_step": {"call": CALL},
    "study.grid": {"axes": "one of them stands for all: depth"},
    "study.version": {"config": "any value is taken"},
}
