"""Configuration: what is accepted, and what a person reads when it is not."""

import copy
import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

from tir.config import load, typed
from tir.config.data import METRICS
from tir.config.references import TAKEN
from tir.config.world import Habits, TinyModel, Trajectories, World
from tir.errors import ConfigError
from tir.scoring.score import METRICS as SCORED
from tir.scoring.score import score_trace
from tir.settings import merged as with_operation
from tir.targets import Targets
from tir.tiny_model import TinyModelSettings
from tir.workflow import operation, params
from tir.world.drafts import Habits as WritersHabits
from tir.world.entities import WorldSettings
from tir.world.trajectories import TrajectorySettings

ROOT = Path(__file__).parent.parent
PAPER = yaml.safe_load((ROOT / "config.yaml").read_text())


def merged(*files: str) -> dict:
    """YAML files merged as Snakemake merges them: mappings key by key, everything else replaced."""

    def update(base, other):
        for key, value in other.items():
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                update(base[key], value)
            else:
                base[key] = value
        return base

    result: dict = {}
    for file in files:
        update(result, copy.deepcopy(yaml.safe_load((ROOT / file).read_text())))
    return result


def fault(change) -> str:
    value = copy.deepcopy(PAPER)
    change(value)
    with pytest.raises(ConfigError) as caught:
        load(value, [str(ROOT / "config.yaml")])
    return str(caught.value)


def test_both_scales_are_valid():
    assert load(PAPER, ["config.yaml"]).rl.steps == 30
    tiny = load(merged("config.yaml", "profiles/laptop/tiny.yaml", "profiles/laptop/site.yaml"), ["config.yaml"])
    assert tiny.device == "cpu" and tiny.data.sft.kind == "world" and tiny.data.sft.repo is None


def test_every_key_is_described_or_speaks_for_itself():
    from tir.config import Arm, Rl, Sft, Tools

    for model in (Arm, Rl, Sft, Tools):
        for name, field in model.model_fields.items():
            assert field.description or name in PAPER["sft"] or name in PAPER["rl"] or name in PAPER["tools"] \
                or name in ("psi", "mode"), (model, name)


def test_settings_that_decide_no_result_are_apart():
    """A result-deciding field between them would not be noticed by Snakemake: each is named here."""
    config = load({**PAPER, "evaluation": {"helpers": {"debugger": {"model": "m"}}}}, ["config.yaml"])
    assert config.model_dump(mode="json", context={"operational": True}) == {
        "tools": {"python": {"workers": None, "queue_timeout_s": 300.0, "recycle_after": 10_000},
                  "search": {"timeout_s": 60.0, "retry_budget_s": 90.0},
                  "web_search": {"timeout_s": 20.0, "retry_budget_s": 120.0, "concurrency": 8}},
        "evaluation": {"helpers": {"debugger": {"timeout_s": 120.0}}},
        "judge": {"concurrency": 50, "timeout_s": 120.0}}
    parts = [json.loads(write(config.tools)) for write in (params, operation)]
    assert with_operation(*parts) == config.tools.model_dump(mode="json")
    assert with_operation({"search": {"top_k": 5}}, parts[1]) == {"search": {"top_k": 5, **parts[1]["search"]}}  # of its sections only


def test_arms_inherit():
    arms = load(PAPER, ["config.yaml"]).arms
    assert arms["gamma_only"].coefficients()["gamma"] == 0.5 and arms["gamma_only"].alpha == 0.0
    assert arms["lambda_0.3"].lam == 0.3 and arms["lambda_0.3"].alpha == 1.0
    assert arms["grpo"].coefficients() == {}


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c["arms"]["aspo"].update(lamda=1), ["config.yaml: arms.aspo.lamda", "did you mean `lambda`", "lambda: 1"]),
    (lambda c: c["arms"]["beta_only"].update(base="asbo"), ["arms.beta_only.base", "did you mean `aspo`", "base: aspo"]),
    (lambda c: c["sft"].update(epochs=0), ["sft.epochs: 0", "greater than or equal to 1", "epochs: 3"]),
    (lambda c: c["rl"].update(steps="thirty"), ["rl.steps: 'thirty'", "integer"]),
    (lambda c: c["tables"]["table5"]["rows"].append({"label": "x", "model": "aspo@7"}), ["aspo@7", "every 15 steps"]),
    (lambda c: c["benchmarks"]["gsm8k"].update(task="maths"), ["benchmarks.gsm8k.task", "did you mean `math`"]),
    (lambda c: c["data"].pop("sft"), ["data.sft", "missing key"]),
    (lambda c: c.update(tool={}), ["tool: unknown key", "did you mean `tools`"]),
    (lambda c: c["arms"].update(q={"base": "q"}), ["circle: q -> q"]),
    (lambda c: c["rl"].update(save_every=7), ["save_every 7 must divide steps 30"]),
    (lambda c: c["rl"].update(rows=20_000), ["rl.rows: 20000 is more than the 10000 rows", "rows: 10000"]),
    (lambda c: c["data"].update(rl_train={"kind": "world"}) or c.update(world={"rl_train_rows": 100}),
     ["rl.rows: 1000 is more than the 100 rows of world.rl_train_rows", "rows: 100"]),
    (lambda c: c["data"]["sft"].pop("file"), ["data.sft.file: missing key: which file of "]),
    (lambda c: c.update(world={"trajectories": {"problems": {"expand:2": 1}}}), ["world.trajectories.problems.expand:2", "did you mean `expand:3`"]),
    (lambda c: c.update(world={"trajectories": {"problems": {"expand:3": 0}}}), ["world.trajectories.problems: every weight is 0"]),
    (lambda c: c.update(world={"trajectories": {"mix": {"no_tools": 0.5}}}), ["world.trajectories.mix: the shares add up to 0.5, not to 1"]),
    (lambda c: c["rl"].update(rows=16), ["batch_prompts 32 is more than the 16 rows"]),
    (lambda c: c["rl"].update(batch_prompts=30, mini_batch_prompts=30, group_size=5, gpus=8), ["gpus 8 must divide"]),
    (lambda c: c["arms"].update(q={"base": "aspo", "delta": -2.0}), ["arms.q", "only mode clipped reads delta -2"]),
    (lambda c: c["data"]["sft"].update(repo=None), ["kind hub needs `repo`"]),
    (lambda c: c["data"]["corpus"].update(kind="world"), ["needs a `world:` section"]),
    (lambda c: c["benchmarks"].update(gsm9k={**c["benchmarks"]["gsm8k"], "source": {"kind": "world"}}) or c.update(world={}),
     ["benchmarks.gsm9k: the world makes no benchmark gsm9k", "did you mean `gsm8k`"]),
])
def test_a_fault_says_where_why_and_what_to_write(change, words):
    text = fault(change)
    for word in words:
        assert word in text, text


def test_an_inherited_fault_is_reported_once():
    assert fault(lambda c: c["arms"]["aspo"].update(lamda=1)).count("unknown key") == 1


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c["arms"].update({"lambda-0.2": {"base": "aspo", "lambda": 0.2}}),
     ["arms.lambda-0.2: a name is letters, digits, `_` and `.`; write `lambda_0.2`", "lambda_0.2:\n        base: aspo\n        lambda: 0.2"]),
    (lambda c: c["benchmarks"].update({"my-bench": c["benchmarks"]["gsm8k"]}), ["benchmarks.my-bench: a name is", "write `my_bench`"]),
    (lambda c: c["benchmarks"].update({2024: c["benchmarks"]["gsm8k"]}), ["benchmarks.2024: a name is text", "'2024':\n        label"]),
    (lambda c: c["sft_pilots"].update({"5K-rows": {"max_rows": 5000}}), ["sft_pilots.5K-rows: a name is", "a small letter first"]),
])
def test_a_name_that_no_file_could_have_is_corrected(change, words):
    text = fault(change)
    assert text.startswith("a fault in the configuration\n\n") and all(word in text for word in words), text


@pytest.mark.parametrize(("change", "text"), [
    (lambda c: c["rl"].update(save_every=7), "rl: save_every 7 must divide steps 30, or the last step is not kept"),
    (lambda c: c["arms"].update(q={"base": "q"}), "arms.q.base: arms inherit in a circle: q -> q"),
    (lambda c: c["model"].update(base={"kind": "local"}), "model.base: a source of kind local needs `path`"),
    (lambda c: c["benchmarks"]["gsm8k"].pop("label"), "benchmarks.gsm8k.label: missing key: column title in tables"),
    (lambda c: c.update(rl=None), "rl: null: should be a mapping of keys to values"),
    (lambda c: c["tools"].update(routes={"maths": ["python"]}),
     "tools.routes.maths: should be 'math', 'qa' or 'web'; did you mean `math`?\n"
     "  write:\n    tools:\n      routes:\n        math:\n        - python"),
    (lambda c: c["tools"].update(routes={"math": ["pyton"]}),
     "tools.routes.math.0: 'pyton': should be 'python', 'search' or 'web_search'; did you mean `python`?\n  write:\n    - python"),
    (lambda c: c["tools"].update(budget={"serch": 2}),
     "tools.budget.serch: should be 'python' or 'search'; did you mean `search`?\n"
     "  write:\n    tools:\n      budget:\n        search: 2"),
    (lambda c: c["tools"].update(budget=[2]),
     "tools.budget: [2]: should be a valid integer or should be a mapping of keys to values\n  write:\n    tools:\n      budget: 3"),
])
def test_what_is_printed_can_be_pasted_and_replaces_nothing_else(change, text):
    """A fault of a whole section has no YAML to paste, nor has a key whose value nobody can guess."""
    assert fault(change) == f"a fault in the configuration\n\n{ROOT / 'config.yaml'}: {text}"


def without_tables(config):
    config["tables"] = {name: None if table.get("in_all", True) else table for name, table in config["tables"].items()}
    config["full_size"] = None


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c["arms"].update(mine={"base": ["aspo"]}), ["arms.mine.base: ['aspo'] is not an arm", "base: aspo"]),
    (lambda c: c["tables"].update(table3=c["tables"]["table5"]), ["tables.table3: another rule or result is called table3"]),
    (lambda c: c["tables"].update(figure1=c["tables"]["table5"]), ["tables.figure1: another rule"]),
    (lambda c: c["tables"].update(sft_smoke=c["tables"]["table5"]), ["tables.sft_smoke: another rule"]),
    (lambda c: c["sft_pilots"].update(checkpoint={}), ["sft_pilots.checkpoint: the main run"]),
    (lambda c: c["tables"]["table6"]["rows"].append({"label": "x", "model": "aspo@0"}), ["rows.3.model: shows aspo@0", "every 15 steps"]),
    (lambda c: c["judge"].update(model="nope"), ["judge.model: model has no nope; there is base, published, judge, sft"]),
    (without_tables, ["tables: none of them is made by default"]),
    (lambda c: c.update(world={"benchmark_rows": "many"}), ["world.benchmark_rows: 'many': should be a valid integer"]),
    (lambda c: c.update(world={"benchmark_row": 10}), ["world.benchmark_row: unknown key; did you mean `benchmark_rows`?"]),
    (lambda c: c.update(world={"trajectories": {"habits": {"verfy": 0.5}}}), ["world.trajectories.habits.verfy", "did you mean `verify`"]),
    (lambda c: c.update(tiny_model={"layer": 2}), ["tiny_model.layer: unknown key; did you mean `layers`?"]),
    (lambda c: c.update(world={}, model={"base": {"kind": "world"}}, judge={"kind": "rules"}), ["needs a `tiny_model:` section"]),
])
def test_what_no_rule_could_make_is_refused(change, words):
    text = fault(change)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c["sft"].update(epochs="3"), ["sft.epochs: '3': should be a valid integer"]),
    (lambda c: c["sft"].update(epochs=True), ["sft.epochs: true: should be a valid integer"]),
    (lambda c: c["sft"].update(mask_results="no"), ["sft.mask_results: 'no': should be a valid boolean", "mask_results: false"]),
    (lambda c: c["rl"].update(seeds=["1"]), ["rl.seeds.0: '1'"]),
    (lambda c: c["rl"].update(seeds=[1, 2, 1]), ["rl.seeds: [1, 2, 1]: a seed twice", "seeds:\n      - 1\n      - 2"]),
    (lambda c: c["tables"]["table6"]["rows"].append({"label": "ASPO @ 30", "model": "aspo@15"}),
     ["tables.table6.rows.3.label: another row is called ASPO @ 30"]),
    (lambda c: c["benchmarks"]["hotpotqa"].update(metric="math_equal"),
     ["benchmarks.hotpotqa.metric: scores of qa have no math_equal; there is em, f1, acc, char_f1"]),
    (lambda c: c["benchmarks"]["gsm8k"].update(metric="char_f1"), ["benchmarks.gsm8k.metric: scores of math have no char_f1"]),
    (lambda c: c["benchmarks"]["gsm8k"].update(metric="judge"), ["benchmarks.gsm8k.metric: 'judge': nobody judges sft, grpo@30"]),
])
def test_what_would_give_wrong_numbers_is_refused(change, words):
    text = fault(change)
    assert all(word in text for word in words), text


def test_a_float_may_be_written_as_yaml_reads_it():
    value = copy.deepcopy(PAPER)
    value["sft"].update(yaml.safe_load("learning_rate: 7e-6"))  # a string: YAML wants 7.0e-6
    assert load(value, ["config.yaml"]).sft.learning_rate == 7e-6


def test_a_benchmark_has_the_metrics_that_its_scores_have():
    math = {"id": "a", "sample": 0, "answer": "1", "gold": ["1"], "finish": "answer"}
    for task, metrics in METRICS.items():
        scored = score_trace(math, task=task, judge={"verdict": True, "cached": False})
        scored = {key for key in SCORED if scored[key] is not None} - {"correct"}
        assert set(metrics) | {"judge"} == scored, task


def test_no_table_can_take_the_name_of_a_rule():
    text = "".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    targets = Targets(load(PAPER, ["config.yaml"]))
    made = {*targets.tables, *targets.extra, *targets.figures} - set(PAPER["tables"])
    assert set(re.findall(r"^ *rule (\w+):", text, re.M)) | made <= TAKEN


@pytest.mark.parametrize(("section", "settings"), [
    (World, WorldSettings), (Trajectories, TrajectorySettings), (Habits, WritersHabits), (TinyModel, TinyModelSettings)])
def test_the_worlds_sections_are_the_settings_of_its_makers(section, settings):
    expected = dataclasses.asdict(settings())
    assert section().model_dump(exclude={"trajectories"}) == expected


def test_the_worlds_makers_draw_in_their_own_order():
    """Parameters are JSON with sorted keys; a default among them would be drawn from in another order than the makers'."""
    assert World.model_validate({"seed": 1, "trajectories": {"rows": 9}}).stated() == {"seed": 1, "trajectories": {"rows": 9}}


def test_the_file_that_sets_the_key_is_named(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("sft: {epochs: 0}\n")
    value = copy.deepcopy(PAPER)
    value["sft"]["epochs"] = 0
    with pytest.raises(ConfigError, match="overlay.yaml: sft.epochs"):
        load(value, [str(ROOT / "config.yaml"), str(overlay)])


def test_faults_between_sections_are_all_named_with_their_file(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("""
sft_pilots: {smoke: {max_row: 5, epochs: 0}}
tables:
  mine:
    benchmarks: [gsm9k]
    rows: [{label: a, model: grpo@30}, {label: b, model: asbo@30}]
arms: {first: {base: asbo}, second: {base: first}}
full_size: {tables: [table55]}
""")
    value = merged("config.yaml", str(overlay))
    files = [str(ROOT / "config.yaml"), str(overlay)]
    with pytest.raises(ConfigError) as caught:
        load(value, files)  # arms come first: the others are read of a configuration whose sections are valid
    assert "overlay.yaml: arms.first.base: 'asbo' is not an arm; did you mean `aspo`?" in str(caught.value)
    value["arms"]["first"]["base"] = "aspo"
    with pytest.raises(ConfigError) as caught:
        load(value, files)
    text = str(caught.value)
    assert text.startswith("5 faults") and "(whole file)" not in text and text.count(f"{overlay}: ") == 5
    for words in ("sft_pilots.smoke.max_row: unknown key; did you mean `max_rows`?\n  write:\n    sft_pilots:\n      smoke:\n        max_rows: 5",
                  "sft_pilots.smoke.epochs: 0: should be greater than or equal to 1",
                  "tables.mine.rows.1.model: shows asbo@30, but arms has no asbo; did you mean `aspo@30`?\n  write:\n    model: aspo@30",
                  "tables.mine.benchmarks.0: benchmarks has no gsm9k; did you mean `gsm8k`?\n  write:\n    - gsm8k",
                  "full_size.tables.0: tables has no table55; did you mean `table5`?"):
        assert words in text, text


def test_what_the_command_line_states_is_typed_as_a_file_would_type_it():
    given = {"sft_pilots": {"medium": {"max_rows": "800", "learning_rate": "7e-6"}}, "rl": {"seeds": ["1", "2"]},
             "tables": {"table5": "null"}, "judge": {"kind": "none"}, "retrieval": {"web": "False"}, "n": 3}
    assert typed(given) == {"sft_pilots": {"medium": {"max_rows": 800, "learning_rate": "7e-6"}}, "rl": {"seeds": [1, 2]},
                            "tables": {"table5": None}, "judge": {"kind": "none"}, "retrieval": {"web": False}, "n": 3}


def test_a_fault_of_the_command_line_names_it_and_what_to_write_there():
    stated = {"sft": {"epochs": 0}, "rl": {"stpes": 3}}
    value = copy.deepcopy(PAPER)
    for section, keys in stated.items():
        value[section].update(keys)
    with pytest.raises(ConfigError) as caught:
        load(value, [str(ROOT / "config.yaml")], stated)
    assert "--config: sft.epochs: 0: should be" in str(caught.value)
    assert "--config: rl.stpes: unknown key; did you mean `steps`?\n  write:\n    --config rl='{steps: 3}'" in str(caught.value)
