# A profile's texts are expressions to Snakemake, evaluated for every job: a third of the time of a plan with many jobs.
# Those that hold for all jobs of a rule are evaluated once here; what a job is given stays the same.

import ast

from snakemake.resources import Resource


def depends_on(expression):
    """Names an expression reads; none for a text that is no expression, which Snakemake takes as it stands."""
    try:
        return {
            node.id
            for node in ast.walk(ast.parse(expression, mode="eval"))
            if isinstance(node, ast.Name)
        }
    except SyntaxError:
        return set()


def settled(resource, rule):
    """A resource with its value, if it has one for all jobs of the rule; else the resource itself."""
    per_job = {
        "wildcards",
        "input",
        "attempt",
        "threads",
        "system_tmpdir",
        "shutil",
        "async_run",
    }
    if (
        not resource.is_evaluable()
        or not isinstance(resource.raw, str)
        or per_job & depends_on(resource.raw)
    ):
        return resource
    return resource.evaluate(
        None, input=[], attempt=1, threads=1, rulename=rule, async_run=None
    )


for each in workflow.rules:
    for name, resource in list(each.resources.items()):
        each.resources[name] = settled(resource, each.name)
