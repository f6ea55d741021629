"""Calls of ``convjax.lab``: its malformed command lines are those of ``commands``."""

INSIDE = "called by a question's own functions, whose columns and options the room has made"
EXEMPT = dict.fromkeys(
    (
        *("lab.Seeds", "lab.Ticker", "lab.Trainer", "lab.UsageError", "lab.array", "lab.as_rows"),
        *("lab.by_kind", "lab.check_effect", "lab.check_least", "lab.check_several"),
        *("lab.compiled", "lab.compiler_options", "lab.conclude", "lab.console", "lab.criteria"),
        *("lab.digits", "lab.ensembles", "lab.experiment", "lab.joined", "lab.load"),
        *("lab.log_ratios", "lab.measure", "lab.measure_all", "lab.over_seeds", "lab.parse"),
        *("lab.parts", "lab.pick", "lab.plain_table", "lab.questions", "lab.ratios"),
        *("lab.refusing", "lab.run", "lab.run_config", "lab.stack", "lab.that", "lab.unknown"),
        *("lab.use_platform", "lab.within", "lab.within_errors"),
    ),
    INSIDE,
)
CALLS: dict = {}
ACCEPTED: dict[str, str] = {}
