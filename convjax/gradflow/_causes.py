"""Known causes of a gain that theory did not expect, each tried on the numbers of one unit."""

import dataclasses
import math
from collections.abc import Callable

from convjax.gradflow._look import Look, is_twice
from convjax.gradflow._theory._duals import FUNCTIONS

KNOWN = tuple(FUNCTIONS)
# Logarithms of the smallest normal numbers; bfloat16 has the range of float32.
SMALLEST = {"float32": math.log(1.2e-38), "float16": math.log(6e-5)}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One unit that departs.

    Attributes:
      kind: the node's type, or an activation's name.
      side: ``"activation"`` or ``"gradient"``.
      off: measured less expected gain, in log norm.
      room: how far an explanation may miss.
      gain: the measured gain.
      kernel_variance: measured mean square of its kernel; NaN where it is not known, since the
        profile has that of all parameters together.
      expected_variance: the one that theory used; NaN without a kernel.
      groups: groups of the convolution.
      border: share of an even image's energy that zero padding would leave; 1 where theory was
        told of it, or what is measured does not look like it.
      expected_log_rms: expected log RMS of what departs, in absolute terms.
      measured_train: whether the profile was on batch statistics, or has none.
      expected_train: whether the prediction was.
      where: the unit whose kind is looked at: the first that is of another than told, if any.
      told: the kind that theory was told of.
      look: what is seen of its parameters, where the network was given.
      dependent: in what its kernel's entries are not independent, or "".
      not_fresh: by what the network's weights show that they are not as initialised, or "".
      terms: norms of a residual's output, branch and shortcut; NaN elsewhere.
    """

    kind: str
    side: str
    off: float
    room: float
    gain: float
    kernel_variance: float
    expected_variance: float
    groups: int
    border: float
    expected_log_rms: float
    measured_train: bool
    expected_train: bool
    where: str = "it"
    told: str = ""
    look: Look | None = None
    dependent: str = ""
    not_fresh: str = ""
    terms: tuple[float, float, float] = (math.nan, math.nan, math.nan)


def likely_cause(finding: Finding) -> str:
    """Return the first known cause that explains a departure, or ""."""
    for cause in CAUSES:
        text = cause(finding)
        if text:
            return text
    return ""


def _running_statistics(f: Finding) -> str:
    if f.measured_train or not f.expected_train:
        return ""
    if abs(f.gain) > 0.05 or f.kind != "BatchNorm":
        return "running statistics where theory was asked for the batch's"
    return "running statistics at initialization: the norm hands its input on as it is"


def _another_kind(f: Finding) -> str:
    if f.look is not None and f.look.function is not None and f.told in KNOWN:
        twice = is_twice(f.look.function, f.told)
        if twice:
            return f"{f.where} applies {f.told} twice"
    if f.told and f.told != f.kind:
        return f"{f.where} is {f.kind}, where theory was told of {f.told}"
    return ""


def _trained(f: Finding) -> str:
    return of_aged(f.not_fresh) if f.not_fresh else ""


def of_aged(how: str) -> str:
    """Return in words that weights are not as initialised."""
    return f"weights that are not fresh: {how}; theory is for networks at initialization"


def _dependent(f: Finding) -> str:
    return of_dependent(f.look, f.dependent) if f.look is not None and f.dependent else ""


def of_dependent(look: Look, how: str) -> str:
    """Return in words that a kernel is as large as it should be, perhaps, but not as random."""
    ratio = ""
    if not math.isnan(look.expected):
        times = look.kernel / max(look.expected, 1e-300)
        ratio = f"mean square is {times:.3g} of what its initialiser declares, but its "
    return f"the kernel's {ratio}entries are not independent: {how}"


def _moved_bias(f: Finding) -> str:
    if f.look is None or f.look.bias[1] == 0 or f.kind.endswith("Norm"):
        return ""
    mean, square = f.look.bias
    if 2 * math.log(max(square, 1e-300)) < 2 * f.expected_log_rms - 6:
        return ""
    return f"its bias: mean {mean:.3g}, root mean square {math.sqrt(square):.3g}"


def _epsilon(f: Finding) -> str:
    if f.look is None or not f.look.epsilon > 1e-3:
        return ""
    return f"its epsilon, {f.look.epsilon:.3g}, is not small beside the variance it is added to"


def _wrong_fan(f: Finding) -> str:
    ratio = f.kernel_variance / f.expected_variance if f.expected_variance > 0 else math.nan
    if f.groups == 1 or not ratio > 0:
        return ""
    if abs(math.log(ratio) - math.log(1 / f.groups)) < 0.5:
        return (
            f"wrong fan of a grouped kernel: its variance is {ratio:.2g} of what its initialiser "
            f"gives one group, the fan was counted over all {f.groups} groups"
        )
    return ""


def _zero_branch(f: Finding) -> str:
    if f.kernel_variance == 0 and f.expected_variance != 0:
        return "zero-initialised: its parameters are all zero, so the branch is silent"
    return ""


def _other_kernel(f: Finding) -> str:
    if math.isnan(f.expected_variance) or not f.kernel_variance > 0:
        return ""
    ratio = f.kernel_variance / f.expected_variance if f.expected_variance > 0 else math.inf
    explained = abs(0.5 * math.log(ratio) - f.off) < max(f.room, 0.1) if ratio < math.inf else True
    if abs(math.log(ratio)) > 0.3 and explained:
        return (
            f"its kernel's mean square is {ratio:.3g} times what its initialiser declares: it is "
            "no longer, or never was, what that initialiser makes"
        )
    return ""


def _zero_padding(f: Finding) -> str:
    if f.border > 0.995:
        return ""
    if abs(f.off - 0.5 * math.log(f.border)) < max(f.room, 0.3 * abs(math.log(f.border))):
        return (
            f"zero padding on a small image: it leaves {f.border:.0%} of the energy, and theory "
            "was asked for a padding that keeps it"
        )
    return ""


def _underflow(f: Finding) -> str:
    if f.off > 0:
        return ""
    # Half precision is named where it is seen alone.
    computed = "float32" if f.look is None else f.look.dtype
    for dtype, smallest in SMALLEST.items():
        if computed not in ("", dtype):
            continue
        # Squares and small entries are lost before the root mean square is.
        if f.expected_log_rms < smallest + 4:
            return (
                f"underflow: a root mean square of exp({f.expected_log_rms:.0f}) is less than "
                f"{dtype} holds"
            )
    return ""


def _another_term(f: Finding) -> str:
    whole, branch, shortcut = f.terms
    if not (f.side == "activation" and f.off > 0 and branch * shortcut > 0):
        return ""
    cosine = (whole**2 - branch**2 - shortcut**2) / (2 * branch * shortcut)
    if cosine <= 1:  # two terms may be as alike as that
        return ""
    return (
        f"another term in the sum: of branch and shortcut, of norms {branch:.3g} and "
        f"{shortcut:.3g}, no sum has norm {whole:.3g}"
    )


def _silent(f: Finding) -> str:
    return "its output is exactly zero" if f.off == -math.inf else ""


CAUSES: tuple[Callable[[Finding], str], ...] = (
    _running_statistics,
    _another_kind,
    _trained,
    _wrong_fan,
    _zero_branch,
    _underflow,
    _dependent,
    _other_kernel,
    _moved_bias,
    _epsilon,
    _zero_padding,
    _another_term,
    _silent,
)
