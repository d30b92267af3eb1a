"""Results in the format of lm-evaluation-harness, read back as the harness's own programs read them."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256

import pytest
from support import made_up
from support.paths import ROOT

PROMPT = "Use tools."
SETTINGS = {"evaluation": {"temperature": 0.5, "top_p": 0.9, "max_response_tokens": 300, "samples": 1}}


@pytest.fixture
def root(tmp_path):
    made_up.write_scores(tmp_path, ["sft"])
    made_up.write_traces(tmp_path, ["sft"])
    (tmp_path / "prompt.txt").write_text(PROMPT)
    return tmp_path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def export(root, *benchmarks, status=0):
    """Run the script on some benchmarks; returns its folder, or what it printed if it shall fail."""
    records = {kind: [root / kind / f"sft/{name}.jsonl" for name in benchmarks] for kind in ("traces", "scores")}
    output = root / "results/lm_eval/sft"
    command = [sys.executable, "-m", "scripts.write_lm_eval", "--traces", *records["traces"]]
    command += ["--scores", *records["scores"], "--system-prompt", root / "prompt.txt", "--output", output]
    done = subprocess.run([*command, "--params", json.dumps(SETTINGS)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr if status else output


def read(folder):
    """Results, and rows by benchmark, found as `lm_eval.utils` and `scripts/zeno_visualize.py` of the harness do."""
    files = [path.as_posix() for path in folder.iterdir() if path.is_file()]
    results = [path for path in files if "/results_" in path and ".json" in path]
    samples = [path for path in files if "/samples_" in path and ".json" in path]
    assert len(results) == 1
    names = [path.rpartition("/")[2] for path in samples]
    tasks = [name[name.find("_") + 1 : name.rfind("_")] for name in names]
    return json.loads((folder / results[0]).read_text()), {
        task: lines(folder / name) for task, name in zip(tasks, names, strict=True)
    }


def test_the_files_have_the_names_and_the_fields_of_the_harness(root):
    results, samples = read(export(root, "gsm8k", "musique"))
    assert set(samples) == set(results["configs"]) == set(results["results"]) == {"gsm8k", "musique"}
    for name, rows in samples.items():
        config, traces = results["configs"][name], lines(root / f"traces/sft/{name}.jsonl")
        scores = lines(root / f"scores/sft/{name}.jsonl")
        metrics = [each["metric"] for each in config["metric_list"]]
        assert config["output_type"] == "generate_until" and not config.get("filter_list")
        assert [row["doc_id"] for row in rows] == list(range(30)) and len(rows) == len(traces)
        assert ("math_equal" in metrics, "char_f1" in metrics) == (name == "gsm8k", name == "musique")
        for row, trace, score in zip(rows, traces, scores, strict=True):
            assert row["arguments"]["gen_args_0"]["arg_0"] == f"{PROMPT}\n\nq" and row["target"] == "1"
            assert row["resps"] == [["".join(each["text"] for each in trace["segments"])]]
            assert row["filtered_resps"] == ["1"] and row["filter"] == "none" and row["metrics"] == metrics
            assert [row[each] for each in metrics] == [float(score[each]) for each in metrics]
            doc = json.dumps(row["doc"], indent=2, ensure_ascii=False)
            hashed = (doc, row["arguments"]["gen_args_0"]["arg_0"], row["target"])
            assert [row[f"{each}_hash"] for each in ("doc", "prompt", "target")] == [
                sha256(text.encode()).hexdigest() for text in hashed
            ]
        mean = sum(score["f1"] for score in scores) / 30
        assert results["results"][name]["f1,none"] == pytest.approx(mean)
        assert 0 < results["results"][name]["f1_stderr,none"] < 0.2
    assert results["config"]["model_args"] == {"pretrained": "sft"} and results["n-shot"] == {"gsm8k": 0, "musique": 0}
    generation = {"until": [], "do_sample": True, "max_gen_toks": 300, "temperature": 0.5, "top_p": 0.9}
    assert results["configs"]["gsm8k"]["generation_kwargs"] == generation
    assert json.loads((root / "results/lm_eval/sft.provenance.json").read_text())["config"] == SETTINGS


def test_several_samples_of_an_item_are_one_row_with_their_mean(root):
    for kind in ("traces", "scores"):
        path = root / kind / "sft/gsm8k.jsonl"
        rows = lines(path)
        made_up.write_lines(
            path, [*rows, *(row | {"sample": 1} | ({"em": 1.0} if "em" in row else {}) for row in rows)]
        )
    results, samples = read(export(root, "gsm8k"))
    scores = lines(root / "scores/sft/gsm8k.jsonl")
    assert len(samples["gsm8k"]) == 30 and results["configs"]["gsm8k"]["repeats"] == 2
    first = samples["gsm8k"][0]
    assert len(first["resps"][0]) == 2 and first["filtered_resps"] == [["1", "1"]]
    assert first["em"] == (scores[0]["em"] + 1) / 2
    assert results["results"]["gsm8k"]["em,none"] == pytest.approx(sum(each["em"] for each in scores) / 60)


def test_what_has_no_score_is_null_and_not_counted(root):
    path = root / "scores/sft/gsm8k.jsonl"
    made_up.write_lines(path, [row | {"em": 1.0} for row in lines(path)[:-2]])
    results, samples = read(export(root, "gsm8k"))
    assert [row["em"] for row in samples["gsm8k"]] == [1.0] * 28 + [None] * 2
    assert results["results"]["gsm8k"]["em,none"] == 1 and results["n-samples"]["gsm8k"] == {
        "original": 30,
        "effective": 28,
    }
    path.unlink()
    results, samples = read(export(root, "gsm8k"))
    assert results["results"]["gsm8k"] == {"alias": "gsm8k"} and samples["gsm8k"][0]["metrics"] == []


def test_a_second_export_leaves_nothing_of_the_first(root):
    export(root, "gsm8k", "musique")
    assert set(read(export(root, "gsm8k"))[1]) == {"gsm8k"}


def test_unfinished_missing_and_damaged_records_are_named(root):
    path = root / "traces/sft/gsm8k.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-30])
    assert f"{path}:30: not valid JSON Lines" in export(root, "gsm8k", status=1)
    path.rename(f"{path}.partial")
    assert "gsm8k: still being written: 28 trajectories are there" in export(root, "gsm8k", status=1)
    (root / "traces/sft/gsm8k.jsonl.partial").unlink()
    assert f"{path}: cannot read file: No such file or directory" in export(root, "gsm8k", status=1)
    path.write_text("")
    assert f"{path}: no trajectories" in export(root, "gsm8k", status=1)
    assert not (root / "results").exists()
