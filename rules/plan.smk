# What keeps a plan (`-n`) of ten thousand jobs short. Nothing here touches a run. Figures: make bench-graph.

import ast
import atexit
import gc

# What differs between the jobs of a rule.
PER_JOB = {"wildcards", "input", "threads"}


def reads(expression):
    """Names in an expression; none in a text that is no expression, which Snakemake takes as it stands."""
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError:
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def settled(resource, rule):
    """The resource with its value, where all jobs of a plan have the same; else as it is."""
    text = resource.raw
    evaluable = resource.is_evaluable() and isinstance(text, str)
    if not evaluable or PER_JOB & reads(text):
        return resource
    return resource.evaluate(
        None, input=[], attempt=1, threads=1, rulename=rule, async_run=None
    )


if workflow.output_settings.dryrun:
    # A profile's texts are Python to Snakemake, run anew for every job: half the time of a large plan. In a plan all jobs
    # are at their first attempt and on this machine, so that most have one value per rule.
    for each in workflow.rules:
        for name, resource in list(each.resources.items()):
            each.resources[name] = settled(resource, each.name)
    # A plan keeps all it makes until it ends: nothing to collect on the way, nor at the end.
    gc.disable()
    atexit.register(gc.freeze)
