"""A profile is the same program in every process, so that one kept on disk is found again."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import hashlib, jax, jax.numpy as jnp
from flax import nnx
from convjax import gradflow, nn
from convjax.gradflow import _profile

rngs = nnx.Rngs(0)
unit = [nn.Conv(3, 3, (1, 1), use_bias=True, rngs=rngs), nn.norm("batch", 3, rngs=rngs)]
net = nn.Residual(nn.Chain([*unit, nn.Activation("relu")]))
compiled, programs = _profile._results, []

def results(*arrays, **how):
    programs.append(compiled.lower(*arrays, **how).as_text())
    raise SystemExit(print(hashlib.sha256(programs[0].encode()).hexdigest()))

_profile._results = results
gradflow.profile(net, jnp.ones((2, 3, 3, 3)), cotangent=jnp.ones((2, 3, 3, 3)), train=True)
"""


def told(seed):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(seed)}
    run = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_how_this_process_hashes_names_is_not_in_the_program():
    one, other = told(1), told(3)
    assert one and one == other
