"""The jobs of the tables, figures and claims, from docs/results.md; see `support/dependencies.py`.

From the workflow comes only the name of the module of each table and figure.
"""

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

    def rows_of(self, table: str) -> list[dict[str, Any]]:
        return [row | {"model": self.ids(row["model"])} for row in self.config["tables"][table]["rows"]]

    def columns_of(self, table: str) -> list[dict[str, Any]]:
        tests = self.config["benchmarks"]
        names = self.config["tables"][table]["benchmarks"] or [name for name in tests if tests[name]["standard"]]
        return [{"name": name} | {key: tests[name][key] for key in ("label", "task", "metric")} for name in names]

    def records(self, pairs, size="", scores=True, traces=False, judged=()) -> tuple[list[str], list[Any]]:
        """Scores, trajectories and verdicts of pairs of a model and a benchmark; what decides, if verdicts are read."""
        files = [self.scores(*pair, size) for pair in pairs if scores]
        files += [self.traces(*pair, size) for pair in pairs if traces]
        verdicts = [self.judge(*pair)[0] for pair in self.judged() if pair in judged and scores and not size]
        return [*files, *verdicts], [self.config["judge"]["decides"]] if verdicts else []

    def accuracy(self, table: str, size: str = "", scores: bool = True, traces: bool = False):
        """Inputs and settings of a table or figure of models by benchmarks; a column `judge` reads verdicts."""
        rows, columns = self.rows_of(table), self.columns_of(table)
        metrics = {column["name"]: column["metric"] for column in columns}
        pairs = [(model, name) for row in rows for model in row["model"] for name in metrics]
        judged = [(model, name) for model, name in pairs if metrics[name] == "judge"]
        files, decides = self.records(pairs, size, scores, traces, judged)
        return files, [rows, columns, self.config["statistics"], decides]

    def pooled(self, section: str = "trace_analysis", size: str = ""):
        """Inputs and settings of a table or figure of pooled trajectories; the judge's verdicts count if it decides."""
        pairs = [(model, benchmark) for model, benchmark, *_ in self.sets(section)]
        read = pairs if self.config["judge"]["decides"] else []
        files, decides = self.records(pairs, size, traces=True, judged=read)
        return files, [self.sets(section), self.config["statistics"], decides]

    def tuning(self, run: str):
        """Inputs and settings of a table or figure of a fine-tuning run."""
        settings = self.run_settings(run)
        shown = [settings[key] for key in ("epochs", "learning_rate", "schedule", "max_rows", "batch_rows")]
        return [self.sft(run)[1]], [run, shown]

    def shown(self) -> list[dict[str, Any]]:
        return [row for table in ("table5", "table6") for row in self.config["tables"].get(table, {"rows": []})["rows"]]

    def curves(self):
        """Inputs and settings of a figure of training curves: the arms of Tables 5 and 6, all seeds."""
        arms = list(dict.fromkeys(row["model"].partition("@")[0] for row in self.shown() if "@" in row["model"]))
        return [self.rl(arm, seed) for arm in arms for seed in self.config["rl"]["seeds"]], arms

    def stages(self):
        """Table 8: time, samples, epochs and hardware of each stage."""
        config, rl = self.config, self.config["rl"]
        reads, inputs = [config["device"]], []
        for run in [*config["sft_pilots"], "full"]:
            inputs.append(self.sft(run)[1])
            reads.append([run, self.run_settings(run)["max_rows"], self.run_settings(run)["epochs"]])
        for arm in self.curves()[1]:
            inputs.append(self.rl(arm, rl["seeds"][0]))
            reads.append([arm, rl["seeds"][0], rl["steps"] * rl["batch_prompts"] * rl["group_size"]])
        number = {name: each["n"] * config["evaluation"]["samples"] for name, each in config["benchmarks"].items()}
        for model, benchmark, *_ in self.sets():
            inputs.append(self.traces(model, benchmark))
            reads.append(["trajectories", model, benchmark, number[benchmark]])
        for pair in self.judged():
            inputs.append(self.judge(*pair)[0])
            hardware = None if config["device"] == "cpu" else config["judge"]["gpus"]
            reads.append(["judge", *pair, number[pair[1]], hardware])
        return inputs, reads

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
            inputs = [self.judge(*pair)[1] for pair in self.judged()]
            reads = [self.config["judge"]["name"], self.config["judge"]["decides"]]
        else:  # arithmetic: of the tables of models
            made = [each for each, table in self.config["tables"].items() if table["in_all"]]
            inputs, reads = [f"results/{each}{end}.csv" for each in made for end in ("", "_detail")], None
            for each in made:
                self.table(each)
        cells = [CELLS] if name in (*STUDY, "arithmetic") else []
        companions = ["_detail"] if name in self.config["tables"] else []
        outputs = [f"results/{size}{name}{end}.csv" for end in ("", *companions)]
        job, module = f"{name}_{size.strip('/')}" if size else name, tables.kind(name).module
        return self.job(job, outputs, [*inputs, *cells], [name, reads], "make_table", [module])

    def figure(self, name: str) -> str:
        cells = []
        if table := ROWS.get(name):
            only_traces = name == "figure6"
            inputs, reads = self.accuracy(table, scores=not only_traces, traces=only_traces)
        elif name == "figure3":
            inputs, reads = self.pooled()
        elif name == "figure7":
            inputs, reads = self.tuning("full")
        else:
            inputs, reads = self.curves()
            if name == "figure4":  # the number of validation rows, and the paper's curve if a row is compared with it
                compared = any(row["paper"] for row in self.shown())
                reads, cells = [reads, self.config["data"]["validation"]["rows"], compared], [CELLS] if compared else []
        module = figures.kind(name).module
        return self.job(name, [f"results/{name}.png"], [*inputs, *cells], [name, reads], "make_figure", [module])

    def claims(self, made: list[str]) -> str:
        """The claims are computed from the records of the tables and figures, and from the size of the training."""
        rl = self.config["rl"]
        parts = [self.accuracy(name, traces=name == "table1")[0] for name in made]
        parts += [self.pooled()[0], self.curves()[0], self.tuning("full")[0], [self.data("sft.json")]]
        inputs = list(dict.fromkeys(path for part in parts for path in part))
        verdicts = any(path.startswith("judge/") for path in inputs)
        reads = {
            "models": sorted({model for name in made for row in self.rows_of(name) for model in row["model"]}),
            "columns": self.columns_of("table5" if "table5" in made else made[0]),
            "settings": [self.sets(), self.config["statistics"], self.config["judge"]["decides"] if verdicts else None],
            "trajectories": rl["steps"] * rl["batch_prompts"] * rl["group_size"],
        }
        inputs.append("tir/analysis/claims/claims.yaml")
        return self.job("claims", ["results/claims.json"], inputs, reads, "check_claims")

    def all(self) -> None:
        config = self.config
        made = [name for name, table in config["tables"].items() if table["in_all"]]
        static = ["table2", "table3", "table4", "table7", "table8", "leakage"]
        static += [name for name, run in RUNS.items() if run in (*config["sft_pilots"], "full")]
        static += ["judgements"] if self.judged() else []
        inputs = [self.table(name) for name in [*made, *static, "arithmetic"]]
        every = [f"figure{number}" for number in range(1, 9)]
        inputs += [self.figure(name) for name in every if ROWS.get(name, "table1") in config["tables"]]
        if config["full_size"] and config["full_size"]["in_all"]:
            inputs += [self.table(name, f"n{config['full_size']['n']}/") for name in config["full_size"]["tables"]]
        smoke = self.job("retrieval_smoke", ["results/retrieval_smoke.csv"], [self.index()], None, "retrieval_smoke")
        self.job("all", [], [*inputs, self.claims(made), smoke])
