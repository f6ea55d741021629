"""A profile's table, looked up by path and measure, for every replica."""

import math

import numpy as np

from convjax.gradflow._profile import Profile


class Lookup:
    """A profile's table, looked up by path and measure; means over replicas."""

    def __init__(self, profile: Profile):
        table = profile.table()
        self.replicas = int(table["replica"].max()) + 1
        rows = len(table["path"]) // self.replicas
        self.rows = {path: i for i, path in enumerate(table["path"][:rows].tolist())}
        self.kinds = dict(zip(self.rows, table["kind"].tolist(), strict=False))
        self.columns = {
            name: np.asarray(column).reshape(self.replicas, rows)
            for name, column in table.items()
            if name.endswith(("_log_norm", "_size", "_count"))
        }

    def __contains__(self, path: str) -> bool:
        return path in self.rows

    def log(self, path: str, measure: str) -> np.ndarray:
        """Return one log norm for every replica."""
        if path not in self.rows:
            return np.full(self.replicas, np.nan)
        return self.columns[f"{measure}_log_norm"][:, self.rows[path]]

    def log_rms(self, path: str) -> np.ndarray:
        """Return the log root mean square of an activation, for every replica."""
        if path not in self.rows:
            return np.full(self.replicas, np.nan)
        size = self.columns["activation_size"][0, self.rows[path]]
        return self.log(path, "activation") - 0.5 * math.log(max(size, 1))

    def terms(self, path: str) -> tuple[float, float, float]:
        """Return the norms of a sum and of its two terms, NaN elsewhere: means over replicas."""
        whole, branch, shortcut = (
            float(np.mean(np.exp(self.log(path, name))))
            for name in ("activation", "branch", "shortcut")
        )
        return whole, branch, shortcut

    def kernel_variance(self, path: str) -> float:
        """Return the mean square of all parameters of a unit."""
        if path not in self.rows:
            return math.nan
        count = self.columns["parameter_count"][0, self.rows[path]]
        log = self.log(path, "parameter")
        return float(np.mean(np.exp(2 * log))) / max(count, 1)
