"""The jobs of the tables, figures and claims, from docs/results.md; see `support/dependencies.py`.

From the workflow comes only the name of the module of each table and figure.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.stages import Stages

from tir.analysis import figures, tables

CELLS = "tir/analysis/tables/paper_reference.yaml"
STUDY = [f"table{number}" for number in range(1, 14)]
RUNS = {"table9": "smoke", "table10": "medium", "table13": "full"}  # tables of fine-tuning runs
ROWS = {"figure1": "table1", "figure2": "table5", "figure5": "table11", "figure6": "table11"}  # figures of tables


class Study(Stages):
    """All jobs that `snakemake` without a target needs."""

    def __init__(self, directory: Path, stated: Mapping[str, Any] | None = None):
        super().__init__(directory, stated)
        self.all()

    @property
    def generated(self) -> str:
        """What is generated: the world, if any data comes from it, or only the model that training starts from."""
        config = self.config
        data = [config["data"][name] for name in ("sft", "rl_train", "rl_validation", "corpus")]
        data += [each["source"] for each in config["benchmarks"].values()]
        if any(each["kind"] == "world" for each in data):
            return "generated world"
        return "generated model" if config["models"]["base"]["kind"] == "world" else ""

    def origin(self, models=(), seeds=None) -> tuple[list[str], Any]:
        """Inputs and settings of what a generated result says of itself: the parameters of its model, the seeds.

        They are those of the first model shown if none of the models is trained here, else those of the base model.
        """
        if not self.generated:
            return [], None
        given = models and all(model in self.config["models"] for model in models)
        inputs = [self.model(models[0] if given else "base")]
        return inputs, [self.generated, seeds or len(self.config["rl"]["seeds"])]

    def default(self) -> list[str]:
        """Tables of models that `snakemake` makes without a target."""
        return [name for name, table in self.config["tables"].items() if table["in_all"]]

    def rows_of(self, table: str) -> list[dict[str, Any]]:
        """Rows with their model ids; a generated run is compared with no row of the paper."""
        hidden = {"paper": None} if self.generated else {}
        return [row | hidden | {"model": self.ids(row["model"])} for row in self.config["tables"][table]["rows"]]

    def columns_of(self, table: str) -> list[dict[str, Any]]:
        tests = self.config["benchmarks"]
        names = self.config["tables"][table]["benchmarks"] or [name for name in tests if tests[name]["standard"]]
        return [{"name": name} | {key: tests[name][key] for key in ("label", "task", "metric")} for name in names]

    def records(self, pairs, size="", scores=True, traces=False, judged=()) -> tuple[list[str], list[Any]]:
        """Scores, trajectories and verdicts of pairs of a model and a benchmark; what decides, if verdicts are read."""
        files = [self.scores(*pair, size) for pair in pairs if scores]
        files += [self.traces(*pair, size) for pair in pairs if traces]
        read = [pair for pair in self.judged() if pair in judged and scores and not size.startswith("n")]
        verdicts = [self.judge(*pair, size)[0] for pair in read]
        return [*files, *verdicts], [self.config["judge"]["decides"]] if verdicts else []

    def accuracy(self, table: str, size: str = "", scores: bool = True, traces: bool = False):
        """Inputs and settings of a table or figure of models by benchmarks; a column `judge` reads verdicts."""
        rows, columns = self.rows_of(table), self.columns_of(table)
        metrics = {column["name"]: column["metric"] for column in columns}
        pairs = [(model, name) for row in rows for model in row["model"] for name in metrics]
        judged = [(model, name) for model, name in pairs if metrics[name] == "judge"]
        files, decides = self.records(pairs, size, scores, traces, judged)
        return files, [rows, columns, decides]

    def pooled(self, section: str = "trace_analysis", size: str = ""):
        """Inputs and settings of a table or figure of pooled trajectories; the judge's verdicts count if it decides."""
        pairs = [(model, benchmark) for model, benchmark, *_ in self.sets(section)]
        read = pairs if self.config["judge"]["decides"] else []
        files, decides = self.records(pairs, f"{size}sampled/", traces=True, judged=read)
        return files, [self.sets(section), self.config["trace_sampling"], decides]

    def tuning(self, run: str):
        """Inputs and settings of a table or figure of a fine-tuning run."""
        settings = self.run_settings(run)
        shown = [settings[key] for key in ("epochs", "learning_rate", "schedule", "max_rows", "batch_rows")]
        return [self.sft(run)[1]], [run, shown]

    def shown(self) -> list[dict[str, Any]]:
        return [row for table in ("table5", "table6") for row in self.config["tables"].get(table, {"rows": []})["rows"]]

    def behaviour(self):
        """Inputs and settings of a table or figure of what the models of Tables 5 and 6 do."""
        tables = [table for table in ("table5", "table6") if table in self.config["tables"]]
        rows = {row["label"]: row for table in tables for row in self.rows_of(table)}
        columns, evaluation = self.columns_of(tables[0]), self.config["evaluation"]
        pairs = [(model, column["name"]) for row in rows.values() for model in row["model"] for column in columns]
        files, _ = self.records(pairs, scores=False, traces=True)
        return files, [list(rows.values()), columns, evaluation["temperature"], evaluation["samples"]]

    def curves(self):
        """Inputs and settings of a figure of training curves: the arms of Tables 5 and 6, all seeds."""
        arms = list(dict.fromkeys(row["model"].partition("@")[0] for row in self.shown() if "@" in row["model"]))
        return [self.rl(arm, seed) for arm in arms for seed in self.config["rl"]["seeds"]], arms

    def stages(self):
        """Table 8: time, samples, epochs and hardware of each stage."""
        config, rl = self.config, self.config["rl"]
        reads, inputs = [config["device"]], []
        shown = [row["model"] for table in self.default() for row in config["tables"][table]["rows"]]
        compared = [run for run in ("original", "synthesised") if f"sft-{run}" in shown]
        synthesis = config["synthesis"]
        if compared or (synthesis and any(config["data"][name]["kind"] == "synthesis" for name in ("sft", "rl_train"))):
            inputs.append(self.samples()[0])
            reads.append(["synthesis", synthesis["max_questions"], config["device"]])
        for run in [*config["sft_pilots"], "full", *compared]:
            inputs.append(self.sft(run)[1])
            reads.append([run, self.run_settings(run)["max_rows"], self.run_settings(run)["epochs"]])
        for arm in self.curves()[1]:
            inputs += [self.rl(arm, seed) for seed in rl["seeds"]]
            reads.append([arm, rl["seeds"], rl["steps"] * rl["batch_prompts"] * rl["group_size"]])
        for arm in sorted({row.split("@")[0] for row in shown if "@" in row}):
            if self.dpo_steps(arm):
                made, read = self.preferred(arm, [row.split("@")[1] for row in shown if row.split("@")[0] == arm])
                inputs += made
                reads.append(read)
        number = {name: each["n"] for name, each in config["benchmarks"].items()}
        traced = [self.accuracy(table, scores=False, traces=True) for table in self.default()]
        inputs += [path for files, _ in traced for path in files]
        columns = {column["name"] for _, (_, columns, *_) in traced for column in columns}
        pairs = sorted({path for files, _ in traced for path in files})
        reads.append([pairs, {name: number[name] * config["evaluation"]["samples"] for name in columns}])
        samples = config["trace_sampling"]["samples"]
        for model, benchmark, *_ in self.sets():
            inputs.append(self.traces(model, benchmark, "sampled/"))
            reads.append(["trajectories", model, benchmark, number[benchmark] * samples])
        for pair in self.judged():
            inputs.append(self.judge(*pair, "sampled/")[0])
            hardware = None if config["device"] == "cpu" else config["judge"]["gpus"]
            reads.append(["judge", *pair, number[pair[1]] * samples, hardware])
        return inputs, reads

    def preferred(self, arm: str, shown_steps: list[str]) -> tuple[list[str], Any]:
        """What Table 8 reads of an arm's DPO up to the last step shown, and of the RL between one DPO and the next."""
        config, steps, rl = self.config, self.dpo_steps(arm), self.config["rl"]
        shown = max({"first": rl["save_every"], "last": rl["steps"]}.get(step) or int(step) for step in shown_steps)
        ends, inputs = sorted({shown, *(each for each in steps if each <= shown)}), []
        for end, seed in ((end, seed) for end in ends for seed in rl["seeds"]):
            name = self.id(arm, end, seed)
            if end in steps:
                inputs += [self.dpo(name), *(f"runs/dpo/{name}/samples/{task}.jsonl" for task in ("math", "qa"))]
            if end > steps[0]:
                self.rl_after_dpo(arm, end, seed)
                inputs.append(f"models/{arm}-step{end}-seed{seed}/manifest.json")
        numbers = [rl["batch_prompts"], rl["group_size"], config["dpo"]["epochs"]]
        return inputs, [arm, ends, rl["seeds"], config["dpo"]["pairs"], numbers]

    def leakage(self):
        tests = self.config["benchmarks"]
        files = [
            "sft.json",
            "rl_train.parquet",
            "rl_validation.parquet",
            *(f"benchmarks/{name}.jsonl" for name in tests),
        ]
        facts = [
            [name, *(tests[name][key] for key in ("label", "task", "n", "kept_from_validation"))] for name in tests
        ]
        inputs = [*map(self.data, files), self.validation()]
        return inputs, [facts, self.config["data"]["validation"]["decontaminate"]]

    def table(self, name: str, size: str = "") -> str:
        if name in self.config["tables"]:
            inputs, reads = self.accuracy(name, size, traces=name == "table1")
        elif name in ("table3", "table4", "qa_bigrams"):
            inputs, reads = self.pooled("qa_analysis" if name == "qa_bigrams" else "trace_analysis", size)
        elif name in RUNS:
            inputs, reads = self.tuning(RUNS[name])
        elif name == "table2":  # categories of the fine-tuning data
            inputs, reads = [self.data("sft.json")], None
        elif name == "table7":  # the modules of aspo/, with their lines
            inputs, reads = sorted(f"aspo/{path.name}" for path in (self.directory / "aspo").glob("*.py")), None
        elif name == "table8":
            inputs, reads = self.stages()
        elif name == "leakage":
            inputs, reads = self.leakage()
        elif name == "judgements":
            inputs = [self.judge(*pair, "sampled/")[1] for pair in self.judged()]
            verdicts = [
                path for table in self.default() for path in self.accuracy(table)[0] if path.startswith("judge/")
            ]
            inputs += [f"{path}.report.json" for path in verdicts]
            reads = [self.judged(), self.config["judge"]["name"], self.config["judge"]["decides"]]
        elif name == "behaviour":
            inputs, reads = self.behaviour()
        elif name == "shaping":
            inputs, reads = self.curves()
        else:  # arithmetic: of the tables of models
            inputs, reads = [f"results/{each}{end}.csv" for each in self.default() for end in ("", "_detail")], None
            for each in self.default():
                self.table(each)
        cells = [CELLS] if name in (*STUDY, "arithmetic") and not self.generated else []
        ends = ["_detail"] if name in self.config["tables"] else []
        ends += ["_comparisons"] if name in ("table5", "table6") else []
        outputs = [f"results/{size}{name}{end}.csv" for end in ("", *ends)]
        job, module = f"{name}_{size.strip('/')}" if size else name, tables.kind(name).module
        model, origin = self.origin(self.models_of(name))
        return self.job(job, outputs, [*inputs, *cells, *model], [name, reads, origin], "make_table", [module])

    def models_of(self, name: str) -> list[str]:
        """Ids of the models whose records a table or figure reads."""
        if (table := ROWS.get(name, name)) in self.config["tables"]:
            return [model for row in self.rows_of(table) for model in row["model"]]
        if name in ("table3", "table4", "figure3", "qa_bigrams"):
            return [model for model, *_ in self.sets("qa_analysis" if name == "qa_bigrams" else "trace_analysis")]
        if name in ("behaviour", "figure9"):
            return [model for row in self.behaviour()[1][0] for model in row["model"]]
        return []

    def figure(self, name: str) -> str:
        cells = []
        if table := ROWS.get(name):
            only_traces = name == "figure6"
            inputs, reads = self.accuracy(table, scores=not only_traces, traces=only_traces)
        elif name == "figure3":
            inputs, reads = self.pooled()
        elif name == "figure7":
            inputs, reads = self.tuning("full")
        elif name == "figure9":
            inputs, reads = self.behaviour()
        else:
            inputs, reads = self.curves()
            if name == "figure4":  # the number of validation rows, and the paper's curve if a row is compared with it
                compared = not self.generated and any(row["paper"] for row in self.shown())
                reads, cells = [reads, self.config["data"]["validation"]["rows"], compared], [CELLS] if compared else []
        module, (model, origin) = figures.kind(name).module, self.origin(self.models_of(name))
        made, inputs = [f"results/{name}.png"], [*inputs, *cells, *model]
        return self.job(name, made, inputs, [name, reads, origin], "make_figure", [module])

    def claims(self, made: list[str]) -> str:
        """The claims are computed from the records of the tables and figures, and from the size of the training."""
        rl = self.config["rl"]
        parts = [self.accuracy(name, traces=name == "table1")[0] for name in made]
        parts += [self.pooled()[0], self.curves()[0], self.tuning("full")[0]]
        parts += [self.tuning("medium")[0]] if "medium" in self.config["sft_pilots"] else []
        parts += [self.accuracy("table11", scores=False, traces=True)[0]] if "table11" in made else []
        model, origin = self.origin()
        parts += [[self.data("sft.json"), self.data("rl_train.parquet")], model]
        inputs = list(dict.fromkeys(path for part in parts for path in part))
        verdicts = any(re.match(r"(sampled/)?judge/", path) for path in inputs)
        reads = {
            "models": sorted({model for name in made for row in self.rows_of(name) for model in row["model"]}),
            "columns": self.columns_of("table5" if "table5" in made else made[0]),
            "settings": [self.sets(), self.config["statistics"], self.config["judge"]["decides"] if verdicts else None],
            "trajectories": rl["steps"] * rl["batch_prompts"] * rl["group_size"],
            "steps": rl["steps"],
            "origin": origin,
        }
        inputs.append("tir/analysis/claims/claims.yaml")
        return self.job("claims", ["results/claims.json"], inputs, reads, "check_claims")

    def summary(self) -> str:
        """The summary is written from other results, and from what was run."""
        config, rl = self.config, self.config["rl"]
        tables = [name for name in ("table5", "table6") if name in self.default()]
        drawn = [name for name in ("figure1", "figure4", "figure9") if "table1" in config["tables"]]
        results = [f"results/{name}_{end}.csv" for name in tables for end in ("comparisons", "detail")]
        results += ["results/behaviour.csv", "results/shaping.csv", "results/claims.json"]
        inputs, (model, origin) = results + [f"results/{name}.png" for name in drawn], self.origin()
        tests = [[column["label"], config["benchmarks"][column["name"]]["n"]] for column in self.columns_of(tables[0])]
        numbers = [len(rl["seeds"]), *(rl[key] for key in ("steps", "batch_prompts", "group_size"))]
        reads = [tables, self.curves()[1], config["sft"]["epochs"], numbers, tests, origin]
        return self.job("summary", ["results/summary.html"], [*inputs, *model], reads, "write_summary")

    def items(self) -> str:
        """The table of all trajectories of the default tables and of the trace analysis (docs/looking.md)."""
        config, full = self.config, self.config["full_size"]
        shown = [("", name) for name in self.default()]
        if full and full["in_all"]:
            shown += [(f"n{full['n']}", name) for name in full["tables"] if name in config["tables"]]
        places = [
            (size, model, column["name"])
            for size, name in shown
            for row in self.rows_of(name)
            for model in row["model"]
            for column in self.columns_of(name)
        ]
        places += [("sampled", model, benchmark) for model, benchmark, *_ in self.sets()]
        selection: dict[str, dict[str, list[str]]] = {}
        for folder, model, benchmark in dict.fromkeys(places):
            selection.setdefault(folder, {}).setdefault(model, []).append(benchmark)
        records = [
            record(model, benchmark, f"{folder}/".lstrip("/"))
            for record in (self.traces, self.scores)
            for folder, model, benchmark in places
        ]
        judged = [self.judge(*pair, "sampled/")[0] for pair in self.judged()]
        judged += [path for name in self.default() for path in self.accuracy(name)[0] if path.startswith("judge/")]
        model, origin = self.origin([model for _, model, _ in places])
        reads = [selection, list(dict.fromkeys(judged)), config["judge"]["decides"], origin]
        return self.job("items", ["results/items.parquet"], [*records, *judged, *model], reads, "collect_items")

    def comparison(self) -> list[str]:
        """The fine-tuned model beside the first shaped arm, last step, first seed, if the table of items has both."""
        config, arms = self.config, self.curves()[1] if self.shown() else []
        arms = [arm for arm in arms if config["arms"][arm]["estimator"] == "aspo"] or arms
        if not arms:
            return []
        names = ["sft", self.id(arms[0], config["rl"]["steps"], config["rl"]["seeds"][0])]
        tests = [[name, each["label"], each["task"]] for name, each in config["benchmarks"].items() if each["standard"]]
        kept = [
            f"{kind}/{model}/{name}.jsonl" for kind in ("scores", "traces") for model in names for name, *_ in tests
        ]
        if not set(kept) <= set(self.jobs["items"].inputs):
            return []
        model, origin = self.origin(names, seeds=1)  # a page of two single models
        page = [f"tir/analysis/compare/page.{end}" for end in ("html", "css", "js")]
        output, job = f"results/compare/{names[0]}_vs_{names[1]}.html", f"compare:{names[0]},{names[1]}"
        return [self.job(job, [output], [*kept, *page, *model], [tests, origin], "compare_models")]

    def all(self) -> None:
        config, made = self.config, self.default()
        shown = {"table5", "table6"} & set(made)
        static = ["table2", "table3", "table4", "table7", "table8", "leakage"]
        static += ["behaviour", "shaping"] if shown else []
        static += [name for name, run in RUNS.items() if run in (*config["sft_pilots"], "full")]
        static += ["judgements"] if self.judged() else []
        inputs = [self.table(name) for name in [*made, *static, "arithmetic"]]
        every = [f"figure{number}" for number in range(1, 10 if self.shown() else 9)]
        inputs += [self.figure(name) for name in every if ROWS.get(name, "table1") in config["tables"]]
        if config["full_size"] and config["full_size"]["in_all"]:
            inputs += [self.table(name, f"n{config['full_size']['n']}/") for name in config["full_size"]["tables"]]
        smoke = self.job("retrieval_smoke", ["results/retrieval_smoke.csv"], [self.index()], None, "retrieval_smoke")
        inputs += [self.claims(made), smoke]
        inputs += [*([self.summary()] if shown else []), self.items(), *self.comparison()]
        self.job("all", [], inputs)
