"""Names of the metrics of a score record; nothing is imported, so that exports need no package for scoring."""

# By rules. A metric is null in the records of a task that does not have it.
RULE_METRICS = ("em", "f1", "acc", "char_f1", "math_equal")
METRICS = (*RULE_METRICS, "judge", "correct")
