"""What a policy of `jax.checkpoint` is asked about a convolution: whether to save one of lax's.

Such policies know lax's primitives alone. `jax.checkpoint_policies.dots_saveable`, say, saves what
`jax.lax.dot_general` and `jax.lax.conv_general_dilated` give, and nothing else.
"""

from collections.abc import Callable
from functools import partial

import jax
from jax.extend.core import Primitive, Var
from jax.extend.core.primitives import conv_general_dilated_p
from jax.interpreters import partial_eval


def ask_as_lax(primitive: Primitive, by_lax: Callable) -> None:
    """Let policies see a primitive as the equation of lax's convolution that ``by_lax`` has."""
    rule = partial(_rule, by_lax)
    partial_eval.partial_eval_jaxpr_custom_rules[primitive] = rule


def _rule(by_lax: Callable, policy: Callable, unknown, instantiated, eqn):
    """Return the equation before and after, whether its result is unknown and there, and residuals.

    As JAX does for every primitive without a rule, but for what the policy is asked.
    """
    operands = zip(eqn.invars, instantiated, strict=True)
    residuals = [v for v, there in operands if not there and isinstance(v, Var)]
    if any(unknown):
        return None, eqn, [True], [True], residuals
    if _saves(policy, partial(by_lax, **eqn.params), [v.aval for v in eqn.invars]):
        return eqn, None, [False], [False], []
    return eqn, eqn, [False], [True], residuals


def _saves(policy: Callable, by_lax: Callable, avals: list) -> bool:
    structs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    for eqn in jax.make_jaxpr(by_lax)(*structs).eqns:
        if eqn.primitive is conv_general_dilated_p:
            said = policy(eqn.primitive, *(v.aval for v in eqn.invars), **eqn.params)
            # Else it is an object that says to compute it anew, or to move it to another memory.
            return said is True or type(said).__name__ == "SaveableType"
    return False
