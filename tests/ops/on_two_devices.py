"""Batches that are shared between two devices: ``test_bilinear`` runs this in its own process."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from convjax import ops
from convjax.ops._forms import _onednn
from tests.ops.test_bilinear import FORMS

DEPTHWISE = ((2, 9, 4), (3, 1, 4), {"feature_group_count": 4})
ONEDNN = ((2, 9, 4), (3, 4, 4), {"lowering": "onednn"})
CASES = {
    form: (lambda x, w, options=options: ops.conv(x, w, **options), *shapes)
    for form, (*shapes, options) in (FORMS | {"auto": DEPTHWISE, "onednn": ONEDNN}).items()
} | {
    "pointwise_conv": (ops.pointwise_conv, (2, 4, 3, 3), (1, 1, 3, 2)),
    "dense": (ops.dense, (4, 3), (3, 2)),
    "conv_transpose": (ops.conv_transpose, (2, 4, 3), (3, 3, 2)),
    "drop-in": (
        lambda x, w: ops.conv_general_dilated(x, w, (1, 2), "SAME"),
        (2, 3, 5, 4),
        (2, 3, 3, 2),
    ),
}


def check(mine, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), mine, expected
    )


def main():
    jax.config.update("jax_num_cpu_devices", 2)
    automatic = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    explicit = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    specs = (P("data"), P())
    for name, (conv, *shapes) in CASES.items():
        if name == "onednn" and not _onednn.is_there(np.dtype("float32")):
            continue
        generator = np.random.default_rng(0)
        given = [jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes]

        def derivatives(x, w, conv=conv, add=lambda a: a):
            gradients = jax.grad(lambda x, w: add(jnp.sum(conv(x, w) ** 2)), (0, 1))
            return conv(x, w), *jax.jvp(gradients, (x, w), (x, w))

        def shares(x, w, derivatives=derivatives):
            return derivatives(x, w, add=lambda total: jax.lax.psum(total, "data"))

        try:
            whole = jax.jit(derivatives)(*given)
            shared = jax.shard_map(
                shares, mesh=automatic, in_specs=specs, out_specs=(P("data"), specs, specs)
            )
            check(jax.jit(shared)(*given), whole)
            with jax.set_mesh(explicit):
                spread = [
                    jax.device_put(a, NamedSharding(explicit, spec))
                    for a, spec in zip(given, specs, strict=True)
                ]
                found = jax.jit(derivatives)(*spread)
                assert found[0].sharding.spec[0] == found[1][0].sharding.spec[0] == "data"
                check(found, whole)
            if name == "onednn":
                # A call is for one device: the compiler cannot take it apart by itself.
                spread = [
                    jax.device_put(a, NamedSharding(automatic, spec))
                    for a, spec in zip(given, specs, strict=True)
                ]
                assert name in jax.jit(shared).lower(*given).as_text()
                assert name not in jax.jit(derivatives).lower(*spread).as_text()
        except Exception as error:
            error.add_note(f"in {name}")
            raise


if __name__ == "__main__":
    main()
