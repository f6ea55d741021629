"""List the experiments, or run one: ``python -m experiments [name] [options]``."""

import gc
import importlib
import io
import signal
import sys
from collections.abc import Callable

# One line here is all that a new experiment needs: its name, its module, what it shows.
# The module is imported when it is run, so that listing them takes no time.
EXPERIMENTS = {
    "all": (
        "experiments.everything",
        "every experiment at its default size and the report of them all; goes on where it was",
    ),
    "report": (
        "experiments.report",
        "one HTML page of what a folder of results holds: claims, figures to point at, tables",
    ),
    "gradient-norms": (
        "experiments.gradient_norms",
        "how the gradient fades or explodes across depth, in plain and residual networks",
    ),
    "theory": (
        "experiments.theory",
        "how well mean-field theory predicts the gradient at every unit, and its scatter",
    ),
    "claims": (
        "experiments.claims",
        "what course texts say of these networks, sentence by sentence, with a verdict",
    ),
    "plain-gain": (
        "experiments.plain_gain",
        "how the gradient of plain ReLU networks shrinks with depth and scatters, by initialiser",
    ),
    "edge-of-chaos": (
        "experiments.edge_of_chaos",
        "where plain tanh networks pass from fading to exploding gradients",
    ),
    "batch-norm-explosion": (
        "experiments.batch_norm_explosion",
        "how fast batch norm makes plain networks explode, by batch size",
    ),
    "skip-and-scale": (
        "experiments.skip_and_scale",
        "what shortcuts, and the scale of the branches beside them, do to the gradient",
    ),
    "residual-power-law": (
        "experiments.residual_power_law",
        "how residual networks with batch norm turn an exponential into a power law",
    ),
    "convolution-audit": (
        "experiments.convolution_audit",
        "what padding, depthwise kernels, wrong fans and orthogonal kernels do to the gradient",
    ),
    "degradation": (
        "experiments.degradation",
        "why depth needs shortcuts: training loss of deep plain networks, lesions, features",
    ),
    "dynamics": (
        "experiments.dynamics",
        "what steps of training do to batch norm's explosion, and to branches born at zero",
    ),
    "separable": (
        "experiments.separable",
        "what separable and 1x1 convolutions cost and lose, against what course texts say",
    ),
    "path-lengths": (
        "experiments.path_lengths",
        "along how many branches the gradient comes back, and what the shortcut does to it",
    ),
    "shattering": (
        "experiments.shattering",
        "how alike the gradients of neighbouring inputs are, with and without shortcuts",
    ),
    "transfer": (
        "experiments.transfer",
        "what pretraining, frozen features and fine-tuning do for few examples, layer by layer",
    ),
    "train": (
        "experiments.train_network",
        "any network of the zoo trained on digits, CIFAR, your arrays or pictures, and watched",
    ),
    "cifar": (
        "experiments.cifar",
        "He et al. 2015, Table 6, by the paper's settings; and a short schedule to 94 %",
    ),
    "inspect": (
        "experiments.inspect_network",
        "what any network costs, and its gradient profile on your weights and your images",
    ),
    "bench-profile": (
        "experiments.bench_profile",
        "what measuring a gradient profile costs, against a plain gradient",
    ),
    "bench-ops": (
        "experiments.benchmarks.ops",
        "how fast convolutions, norms, pools and activations are, against lax and PyTorch",
    ),
    "bench-forms": (
        "experiments.benchmarks.forms",
        "which form of a convolution is fastest where, and what the automatic choice loses",
    ),
    "bench-drop-in": (
        "experiments.benchmarks.drop_in",
        "what one argument does for a network of Flax's own layers",
    ),
    "bench-models": (
        "experiments.benchmarks.models",
        "how long a training step takes, against lax, Keras and PyTorch",
    ),
    "bench-train": (
        "experiments.benchmarks.train",
        "what training's loop, watching, data and checkpoints cost, against the bare step",
    ),
    "bench-memory": (
        "experiments.benchmarks.memory",
        "what rematerialisation saves in memory and costs in time, up to ResNet-1202",
    ),
    "bench-study": (
        "experiments.benchmarks.study",
        "what a study costs a cell over the work itself, and how fast it is read",
    ),
}


def main(argv: list[str], ready: Callable[[], object] = lambda: None) -> int:
    """Run the experiment that the first argument names, and return its exit code.

    Args:
      argv: its name, and its own arguments.
      ready: called once all is imported, before it begins.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(listing())
        return 0
    try:
        from experiments import _cli

        with _cli.speaking_plainly():
            if argv[0] not in EXPERIMENTS:
                raise _cli.UsageError(_cli.unknown("experiment", argv[0], EXPERIMENTS))
            module = importlib.import_module(EXPERIMENTS[argv[0]][0])
            ready()
            return module.main(argv[1:])
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("convjax", "experiments"):
            raise
        print(f"error: {error.name} is missing: pip install convjax[experiments]", file=sys.stderr)
    return 2


def listing() -> str:
    """Return what there is to run, one line each."""
    wide = max(map(len, EXPERIMENTS))
    lines = [f"  python -m experiments {n:{wide}}  {what}" for n, (_, what) in EXPERIMENTS.items()]
    return "\n".join(["Experiments (--help after a name explains its options):", "", *lines])


def run(argv: list[str]) -> int:
    """Run the command line; Ctrl-C ends it without a traceback, also while it is importing."""
    # An import that is interrupted may raise anything; the signal's own way is to end the process.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return main(argv, ready=lambda: signal.signal(signal.SIGINT, before))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # Tracing makes millions of objects and hardly a cycle: collecting less often saves a tenth.
    gc.set_threshold(50_000, 20, 20)
    # A file's name may hold what the terminal cannot show, and is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))
