"""Whether a profile and a prediction are of one network and one batch, as far as that shows."""

from convjax.gradflow._lookup import Lookup
from convjax.gradflow._predict import Prediction
from convjax.gradflow._profile import Profile


def check_alike(profile: Profile, measured: Lookup, prediction: Prediction, common: int) -> None:
    """Refuse a profile and a prediction of which it can be known that they are of two things."""
    if not common:
        raise ValueError(
            "the profile has none of the prediction's units, such as "
            f"{prediction.units[0].path!r}; predict the network that was measured"
        )
    expected = {unit.path for unit in prediction.units}
    missing = [path for path in expected if path not in measured]
    # What theory takes for a leaf the profile may have seen through.
    inside = tuple(f"{path}/" if path else "" for path in prediction.unknown)
    missing += [
        path
        for path in measured.rows
        if path != "input" and path not in expected and not path.startswith(inside or ("//",))
    ]
    if missing:
        raise ValueError(
            f"profile and prediction are of two networks: only one of them has {missing[0]!r} "
            f"({len(missing)} such units); predict the network that was measured"
        )
    if profile.batch_size != prediction.batch_size:
        raise ValueError(
            f"the profile is of a batch of {profile.batch_size}, the prediction of one of "
            f"{prediction.batch_size}; give predict the batch that was measured"
        )
