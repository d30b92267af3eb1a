"""Random edits of a finished workflow: of its configuration, code, rules, data files and outputs.

An `Edit` is applied to a `Workspace`, which can undo it. Edits of the configuration need not be valid; the caller draws
again then.
"""

import ast
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from support.configuration import overlaid
from support.dependencies import SCHEMA, configuration, inside, resolved
from support.study import CELLS

OVERLAY, SITE = "profiles/laptop/tiny.yaml", "profiles/laptop/site.yaml"
MODULES = ("aspo", "scripts", "tir")
DATA = ("mine.jsonl", "web.jsonl", "ranks.txt", "extra/config.json", "extra/model.safetensors", "cache/web.sqlite")
TEXTS = (CELLS, "tir/analysis/claims/claims.yaml", "tir/scoring/judge/calibration.yaml")
# The names of files, addresses and packages, and lists that have their own edits.
KEPT = {"path", "cassette", "ranks", "package", "provider", "url", "repo", "file", "member", "sha256", "prompt_sha256"}

# Keys of the finished workflow beside those of the laptop: files of the user, a model of the user, web search, and the
# table for which a teacher makes a corpus.
BASE = {
    "benchmarks": {
        "musique": {"source": {"kind": "local", "path": "mine.jsonl"}},
        "webwalker": {"label": "Web", "task": "web", "metric": "char_f1", "n": 5, "standard": False}
        | {"source": {"kind": "local", "path": "web.jsonl"}},
    },
    "models": {"extra": {"kind": "local", "path": "extra"}},
    "tiny_model": {"ranks": "ranks.txt"},
    "arms": {"tool_star": {"dpo": {"every": 0.25}}},  # twice: RL goes on from the first
    "tables": {
        "extra": {"benchmarks": ["gsm8k"], "rows": [{"label": "extra", "model": "extra"}]},
        "web": {"benchmarks": ["webwalker"], "rows": [{"label": "SFT", "model": "sft"}]},
        "star": {"benchmarks": ["gsm8k"], "rows": [{"label": "star", "model": "tool_star@last"}]},
        "synthesis": {"benchmarks": ["gsm8k"], "in_all": True},
        "spare": {"in_all": False, "rows": [{"label": "first", "model": "aspo@first"}, {"label": "S", "model": "sft"}]},
    },
}


def prepare(directory: Path) -> Path:
    """Add the files and keys of `BASE`."""
    for name in DATA:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(f'{{"question": "{name}", "answer": "1"}}\n')
    overlay = overlaid(yaml.safe_load((directory / OVERLAY).read_text()), BASE)
    (directory / OVERLAY).write_text(yaml.safe_dump(overlay, sort_keys=False))
    return directory


class Workspace:
    """A folder whose files can be edited and restored, with their times."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._before: dict[Path, tuple[bytes, int] | None] = {}
        self.forget()

    def forget(self) -> None:
        """Note which outputs have been damaged since: none."""
        self.deleted: set[str] = set()
        self.foreign: set[str] = set()

    def path(self, name: str) -> Path:
        """A file that is about to change."""
        path = self.directory / name
        if path not in self._before:
            self._before[path] = (path.read_bytes(), path.stat().st_mtime_ns) if path.exists() else None
        return path

    def configure(self, change: Mapping[str, Any]) -> None:
        """Change keys of the configuration."""
        path = self.path(OVERLAY)
        overlay = overlaid(yaml.safe_load(path.read_text()), change)
        path.write_text(yaml.safe_dump(overlay, sort_keys=False))

    def substitute(self, name: str, pattern: str, new: str) -> None:
        path = self.path(name)
        text, number = re.subn(pattern, new, path.read_text(), flags=re.M)
        assert number, f"{name} has no {pattern}"
        path.write_text(text)

    def restore(self) -> None:
        for path, before in self._before.items():
            if before is None:
                path.unlink(missing_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(before[0])
            os.utime(path, ns=(before[1], before[1]))
        self._before.clear()
        self.forget()


class Edit(NamedTuple):
    kind: str
    what: str
    apply: Callable[[Workspace], None]

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


class State:
    """What the edits of a finished workflow are drawn from.

    Attributes:
        config: its configuration.
        outputs: its output files.
        planned_with: the modules that a plan imports; another constant there might break the plan.
        keys, files: its settings and modules in random order, each once before any comes again.
    """

    def __init__(self, directory: Path, outputs: list[str], planned_with: set[str], draw: random.Random):
        self.directory, self.outputs, self.planned_with = directory, outputs, planned_with
        self.config = configuration(directory)
        keys: dict[tuple[str, ...], list[tuple]] = {}
        for path, *rest in leaves(self.config):
            name = (path[0], *path[2:]) if path[0] in ("arms", "benchmarks", "models", "tables") else path
            keys.setdefault(name, []).append((path, *rest))
        self.keys, self.files = _cycle([*keys.values()], draw), _cycle(modules(directory), draw)


def _cycle(items: list[Any], draw: random.Random) -> Iterator[Any]:
    while True:
        yield from draw.sample(items, len(items))


# --- the configuration ----------------------------------------------------------------------------------------------


def leaves(value: Any, schema: Mapping[str, Any] = SCHEMA, path: tuple[str, ...] = ()) -> Iterator[tuple]:
    """Path, value and schema of every scalar setting."""
    for part in resolved(schema):
        if isinstance(value, dict) and part.get("type") == "object":
            for key, each in value.items():
                yield from leaves(each, inside(part, key), (*path, key))
            return
    if not isinstance(value, dict | list) and path[-1] not in KEPT:
        yield path, value, resolved(schema)


def another_value(draw: random.Random, key: str, value: Any, options: list[Mapping[str, Any]]) -> Any:
    """A value of the same kind, often at a bound; the old value if there is none."""
    part = draw.choice(options)
    kind = part.get("type")
    low = part.get("minimum", part.get("exclusiveMinimum", 0))
    high = part.get("maximum", part.get("exclusiveMaximum", 10**9))
    if key == "model":
        return draw.choice(["base", "extra", "encoder", "sft"])
    if "enum" in part:
        return draw.choice(part["enum"])
    if kind == "boolean":
        return not value
    if kind == "integer":
        return draw.choice([min(high, (value or 0) + 1), max(low, (value or 0) // 2), min(high, 2 * (value or 1))])
    if kind == "number":
        return round(draw.choice([low + (high - low) / 3, (value or 0) / 2, min(high, (value or 0) * 1.5 + 0.01)]), 9)
    if kind == "string" and "pattern" not in part:
        return f"{value or ''}x"
    return None if kind == "null" else value


def a_setting(draw: random.Random, state: State) -> Edit | None:
    path, value, options = draw.choice(next(state.keys))
    drawn = [another_value(draw, path[-1], value, options) for _ in range(9)]
    new = next((each for each in drawn if each != value), value)
    return None if new == value else setting("setting", path, new)


def setting(kind: str, path: tuple[str, ...], value: Any) -> Edit:
    def apply(workspace: Workspace) -> None:
        change = value
        for key in reversed(path):
            change = {key: change}
        workspace.configure(change)

    return Edit(kind, f"{'.'.join(path)} = {value!r}", apply)


def seeds(draw: random.Random, state: State) -> Edit:
    return setting("seeds", ("rl", "seeds"), draw.choice([[1, 2], [2], [2, 1], [1, 2, 3], [7, 1]]))


def steps(draw: random.Random, state: State) -> Edit:
    rl = {"save_every": draw.choice([2, 4, 5, 10, 20]), "steps": draw.choice([20, 20, 40])}
    return setting("steps", ("rl",), rl)


def an_arm(draw: random.Random, state: State) -> Edit:
    """A new arm, and its row in a table; sometimes without the row."""
    table = draw.choice(["table5", "table6", "extra", None])
    arm = {"base": draw.choice(["aspo", "grpo", "beta_only"])} | draw.choice([{}, {"lambda": 0.9}, {"gamma": 0.1}])
    if arm["base"] == "grpo":
        arm = {"estimator": "grpo"}
    rows = {table: {"rows": [*state.config["tables"][table]["rows"], {"model": "bold@last"}]}} if table else {}

    def apply(workspace: Workspace) -> None:
        workspace.configure({"arms": {"bold": arm}, "tables": rows})

    return Edit("arm", f"bold {arm} in {table}", apply)


def a_coefficient(draw: random.Random, state: State) -> Edit:
    arm = draw.choice(["grpo", "aspo", "gamma_only", "alpha_only"])
    key = draw.choice(["lambda", "alpha", "beta", "gamma", "psi_k"])
    return setting("coefficient", ("arms", arm, key), draw.choice([0.25, 2.0]))


def a_pilot(draw: random.Random, state: State) -> Edit:
    name, keys = draw.choice(["smoke", "medium", "short"]), draw.choice([{"epochs": 2}, {"seed": 7}, {"max_rows": 50}])
    return setting("pilot", ("sft_pilots", name), keys)


def a_benchmark(draw: random.Random, state: State) -> Edit:
    """A removed benchmark, a new one, or one from another source."""
    name = draw.choice(["gsm8k", "aime25", "2wiki", "musique", "webwalker"])
    local = {"kind": "local", "path": draw.choice(["mine.jsonl", "web.jsonl"])}
    new = {"label": "Later", "task": draw.choice(["math", "qa", "web"]), "metric": "em", "source": local}
    new |= {"standard": draw.random() < 0.7, "kept_from_validation": draw.random() < 0.3}
    path, value = draw.choice([((name,), None), (("later",), new), ((name, "source"), local)])
    return setting("benchmark", ("benchmarks", *path), value)


def a_model(draw: random.Random, state: State) -> Edit:
    local = {"kind": "local", "path": "extra"}
    name, value = draw.choice([("base", local), ("more", local), ("extra", {"kind": "world"}), ("encoder", local)])
    return setting("model", ("models", name), value)


def a_table(draw: random.Random, state: State) -> Edit:
    """Rows removed, added, in another order or with another label; a table removed, added, or made by default."""
    name = draw.choice(list(state.config["tables"]))
    table = state.config["tables"][name]
    rows = [{key: value for key, value in row.items() if value is not None} for row in table["rows"]]
    model = draw.choice(
        ["sft", "sft-epoch1", "sft-smoke", "extra", "base", "grpo@first", "aspo@last", "beta_only@last"]
    )
    changed = draw.choice(
        [
            {"rows": rows[1:] or rows},
            {"rows": rows[::-1]},
            {"rows": [*rows, {"model": model}]},
            {"rows": [{**rows[0], "label": "renamed"}, *rows[1:]]},
            {"in_all": not table["in_all"]},
            {"benchmarks": draw.choice([["gsm8k"], ["musique", "hotpotqa"], None])},
            None,
        ]
    )
    if draw.random() < 0.2:
        name, changed = "added", {"rows": [{"model": model}]}
    return setting("table", ("tables", name), changed)


def an_analysis(draw: random.Random, state: State) -> Edit:
    name = draw.choice(["trace_analysis", "trace_analysis", "qa_analysis"])
    sets = [{key: value for key, value in each.items() if value is not None} for each in state.config[name]]
    more = {
        "model": draw.choice(["sft", "aspo@last", "extra"]),
        "benchmark": draw.choice(["aime24", "musique"]),
        "n": 9,
    }
    return setting(
        "analysis", (name,), draw.choice([sets[1:], sets[::-1], [*sets, more], [{**sets[0], "n": 3}, *sets[1:]]])
    )


def tools_of_a_task(draw: random.Random, state: State) -> Edit:
    routes = {draw.choice(["math", "qa", "web"]): draw.choice([["python"], ["python", "search"], ["web_search"], []])}
    path = draw.choice([("tools", "routes"), ("evaluation", "tools", "routes")])
    return setting("tools", path, routes)


def a_helper(draw: random.Random, state: State) -> Edit:
    name, model = draw.choice(["debugger", "refiner"]), draw.choice(["base", "extra", "sft"])
    return setting("helper", ("evaluation", "helpers", name), {"model": model})


def a_large_change(draw: random.Random, state: State) -> Edit:
    return setting(
        "large change",
        *draw.choice(
            [
                (("preset",), draw.choice(["upstream_rl", "upstream_eval", "upstream"])),
                (("data", "prompt"), r"Answer in \boxed{}."),
                (("full_size", "in_all"), True),
                (("judge", "kind"), "rules"),
                (("judge", "decides"), True),
                (("retrieval", "backend"), "bm25"),
                (("world", "trajectories", "rows"), 3000),
                (("evaluation", "tools"), {"budget": 5}),
            ]
        ),
    )


def another_layout(draw: random.Random, state: State) -> Edit:
    """The same configuration in another layout: comments, line breaks, and settings of a section in another order."""
    seed = draw.random()

    def shuffled(value: Any, order: random.Random) -> Any:
        """The order of benchmarks, models and tables counts, as it is that of columns and rows."""
        if not isinstance(value, dict):
            return value
        keys = list(value)
        if not any(isinstance(each, dict) for each in value.values()):
            order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}

    def apply(workspace: Workspace) -> None:
        path = workspace.path(OVERLAY)
        text = yaml.safe_dump(
            shuffled(yaml.safe_load(path.read_text()), random.Random(seed)), sort_keys=False, width=40
        )
        path.write_text(f"# {seed}\n{text}")

    return Edit("layout", OVERLAY, apply)


def the_site(draw: random.Random, state: State) -> Edit:
    """Settings of the machine. They change no result, but a server that stands elsewhere is another judge or helper."""
    key = draw.choice(
        [
            "retrieval_endpoint: http://127.0.0.1:1243",
            "retrieval_server: {runs_on: local, queue_s: 7}",
            "tokens: [SOME_KEY]",
            "images: {hardware: cpu, tmp: /scratch}",
            "judge_endpoint: http://127.0.0.1:8000",
            "helper_endpoint: http://127.0.0.1:8000/v1",
        ]
    )

    def apply(workspace: Workspace) -> None:
        if key not in workspace.path(SITE).read_text():
            workspace.substitute(SITE, r"^site:\n", f"site:\n  {key}\n")

    return Edit("site", key, apply)


# --- code and rules -------------------------------------------------------------------------------------------------


def commented(source: str, draw: random.Random) -> str:
    """Add comments and empty lines before some top-level statements and at the end."""
    lines = source.splitlines()
    for statement in reversed(ast.parse(source).body[1:]):
        if draw.random() < 0.5:
            first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
            lines[first - 1 : first - 1] = ["", f"# A comment, {draw.random()}.", ""]
    return "\n".join([*lines, "", "# The end.", ""])


def redocumented(source: str, draw: random.Random) -> str:
    """Replace or add docstrings, and reformat the whole file."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and draw.random() < 0.7:
            own = node.body[1:] if ast.get_docstring(node) is not None else node.body
            node.body = [ast.Expr(ast.Constant(f"Other words, {draw.random()}.")), *own]
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def reworded(source: str, draw: random.Random) -> str:
    """Change descriptions and bounds of the fields of configuration models."""
    source = re.sub(r'description="', f'description="word {draw.random()} ', source)
    return re.sub(r"le=100_000\b", "le=100_001", source)


class ChangeConstant(ast.NodeTransformer):
    """Change the value of one constant of a syntax tree, the one at `index` among those that can be changed."""

    def __init__(self, index: int):
        self.left = index

    def visit_Expr(self, node):
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)  # a docstring

    def visit_ClassDef(self, node):
        return node if any(getattr(base, "id", "") == "Model" for base in node.bases) else self.generic_visit(node)

    def visit_JoinedStr(self, node):
        return node

    def visit_Constant(self, node):
        if not isinstance(node.value, bool | int | float | str):
            return node
        self.left -= 1
        if self.left != -1:
            return node
        old = node.value
        return ast.Constant(not old if isinstance(old, bool) else f"{old}?" if isinstance(old, str) else old + 1)


def with_another_constant(source: str, draw: random.Random) -> str:
    """The source with one random constant changed, or with a new one."""
    counter = ChangeConstant(1 << 30)
    counter.visit(ast.parse(source))
    number = (1 << 30) - counter.left
    if not number:
        return source + "\nCHANGED = True\n"
    changed = ChangeConstant(draw.randrange(number)).visit(ast.parse(source))
    return ast.unparse(ast.fix_missing_locations(changed)) + "\n"


def _of_a_module(kind: str, file: str, change: Callable[[str], str]) -> Edit:
    def apply(workspace: Workspace) -> None:
        path = workspace.path(file)
        path.write_text(change(path.read_text()))

    return Edit(kind, file, apply)


def modules(directory: Path) -> list[str]:
    paths = sorted(path for part in MODULES for path in (directory / part).rglob("*.py"))
    return [path.relative_to(directory).as_posix() for path in paths]


def a_constant(draw: random.Random, state: State) -> Edit:
    file, seed = next(state.files), draw.random()
    if file in state.planned_with:
        return _of_a_module("constant", file, lambda source: f"{source}\nCHANGED = {seed}\n")
    return _of_a_module("constant", file, lambda source: with_another_constant(source, random.Random(seed)))


def an_import(draw: random.Random, state: State) -> Edit:
    file, new = draw.choice(modules(state.directory)), draw.choice(["tir.common.records", "tir.scoring.reward", "json"])
    return _of_a_module("import", file, lambda source: f"{source}\n\ndef later():\n    import {new}\n")


def no_code(draw: random.Random, state: State) -> Edit:
    """Comments, docstrings, formatting, and the words about settings."""
    file, seed = draw.choice(modules(state.directory)), draw.random()
    change = draw.choice([commented, redocumented, reworded])
    return _of_a_module(change.__name__, file, lambda source: change(source, random.Random(seed)))


def a_command(draw: random.Random, state: State) -> Edit:
    """Another option in the command of a rule."""
    rules = [(path, script) for path in sorted((state.directory / "rules").glob("*.smk")) for script in _scripts(path)]
    path, script = draw.choice(rules)
    name, pattern = path.relative_to(state.directory).as_posix(), rf"-m scripts\.{script}\b"
    return Edit("command", script, lambda workspace: workspace.substitute(name, pattern, r"-B \g<0>"))


def _scripts(path: Path) -> list[str]:
    text = re.sub(r"^onstart:.*|^onsuccess:.*", "", path.read_text(), flags=re.M | re.S)
    return sorted(set(re.findall(r"-m scripts\.(\w+)", text)))


def no_command(draw: random.Random, state: State) -> Edit:
    """Comments, threads, logs and docstrings in the rules."""
    name = draw.choice(["data", "models", "retrieval", "sft", "rl", "dpo", "traces", "judge", "analysis"])
    pattern, new = draw.choice(
        [
            (r"\Z", "\n# The end.\n"),
            (r"^( +)shell:$", r"\1# A command.\n\g<0>"),
            (r"^(    log:\n +f?)\"logs/", r'\1"logs/x'),
        ]
    )
    name = f"rules/{name}.smk"
    return Edit("rule's text", f"{name} {pattern}", lambda workspace: workspace.substitute(name, pattern, new))


# --- files ----------------------------------------------------------------------------------------------------------


def a_data_file(draw: random.Random, state: State) -> Edit:
    name = draw.choice([*DATA, *TEXTS])

    def apply(workspace: Workspace) -> None:
        with workspace.path(name).open("a") as file:
            file.write("# more\n")

    return Edit("data", name, apply)


def a_touched_file(draw: random.Random, state: State) -> Edit:
    """A new time, or the same content written again: of a data file, a module or an output."""
    name = draw.choice([*DATA, *TEXTS, *modules(state.directory), *state.outputs, *state.outputs])
    again = draw.random() < 0.5

    def apply(workspace: Workspace) -> None:
        path = workspace.path(name)
        if path.exists():
            path.write_bytes(path.read_bytes()) if again else path.touch()

    return Edit("same content", name, apply)


def a_foreign_output(draw: random.Random, state: State) -> Edit:
    name = draw.choice(state.outputs)

    def apply(workspace: Workspace) -> None:
        if workspace.path(name).exists():  # another edit may have deleted it
            workspace.path(name).write_text("from elsewhere\n")
            workspace.foreign.add(name)

    return Edit("foreign output", name, apply)


def deleted_outputs(draw: random.Random, state: State) -> Edit:
    """One output, or all in its folder and in folders beside it, as somebody deletes them who needs the space."""
    name = draw.choice(state.outputs)
    folder = draw.choice([name, str(Path(name).parent), name.partition("/")[0]])
    names = [each for each in state.outputs if f"{each}/".startswith(f"{folder}/")]

    def apply(workspace: Workspace) -> None:
        for each in names:
            workspace.path(each).unlink(missing_ok=True)
        workspace.foreign.difference_update(names)
        workspace.deleted.update(names)

    return Edit("deleted outputs", folder, apply)


EDITS = [
    *[a_setting] * 14,
    *[seeds, steps, an_arm, a_coefficient, a_pilot, a_benchmark, a_model, a_table, a_table, an_analysis],
    *[tools_of_a_task, a_helper, a_large_change, another_layout, the_site],
    *[a_constant] * 4,
    *[an_import, no_code, no_code, a_command, no_command],
    *[a_data_file, a_touched_file, a_foreign_output, deleted_outputs],
]


def random_edit(draw: random.Random, state: State) -> Edit:
    """One edit of a random kind."""
    while True:
        edit = draw.choice(EDITS)(draw, state)
        if edit:
            return edit
