"""Blocks of results in pages: generated from files, and checked for manual edits."""

import json

import pytest

from tir.analysis.pages import blocks, faults, fill, study_blocks
from tir.common.errors import DataError

PAGE = (
    "before\n<!-- results: one -->\n<!-- end of one -->\nbetween\n<!-- results: two -->\n<!-- end of two -->\nafter\n"
)
BUILDERS = {"one": lambda: "| 1 |\n", "two": lambda: "second"}


def test_blocks_are_filled_and_can_be_refilled():
    page = fill(PAGE, BUILDERS)
    assert page.startswith("before\n") and "\nbetween\n" in page and page.endswith("after\n")
    assert "\n| 1 |\n" in page and "\nsecond\n" in page
    assert not faults(page, ["one", "two"])
    assert fill(page, BUILDERS) == page
    assert "third" in fill(page, BUILDERS | {"two": lambda: "third"})


def test_an_edit_and_a_missing_block_are_faults():
    page = fill(PAGE, BUILDERS)
    assert faults(page.replace("| 1 |", "| 2 |"), ["one", "two"]) == [
        "one: the block was edited after it was generated; run `make readme`"
    ]
    assert faults(page.replace("<!-- end of two -->", ""), ["one", "two"]) == ["two: its markers are missing"]
    assert faults(PAGE, ["one"])  # never filled
    with pytest.raises(DataError, match="unknown block two"):
        fill(PAGE, {"one": lambda: ""})


def test_blocks_are_generated_from_results(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "traces/sft").mkdir(parents=True)
    (tmp_path / "results/table5.md").write_text(
        "**Scores**\n\n| model | Avg |\n| --- | ---: |\n| SFT | 41.7 |\n\nMetrics: token F1.\n\n"
        "ASPO − SFT: +0.8 [-1.6, +3.2], p = 0.551 (1.000 corrected): not distinguishable at this n.\n"
    )
    (tmp_path / "results/claims.csv").write_text(
        "claim,stated,measured,interval,n,verdict\na,1,2,1 to 3,40,holds\nb,1,1,1 to 1,40,open\nc,1,1,1 to 1,40,open\n"
    )
    segments = [{"by": "model", "text": "<python>1</python>"}, {"by": "tool", "text": "<result>\n1\n</result>"}]
    record = {"question": "q", "gold": ["1"], "n_python": 1, "n_search": 0, "segments": segments}
    records = [record | {"answer": "2", "question": "wrong"}, record | {"answer": "1"}]
    (tmp_path / "traces/sft/gsm8k.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    built = blocks(tmp_path)
    assert built["table5"]() == "| model | Avg |\n| --- | ---: |\n| SFT | 41.7 |\n\nMetrics: token F1."
    assert built["differences"]().startswith("- ASPO − SFT: +0.8")
    assert built["claims"]().startswith("3 claims: open 2, holds 1.") and "| b | 1 |" in built["claims"]()
    assert "question: q\n" in built["math"]() and "\ntool:     <result>\n          1\n" in built["math"]()
    with pytest.raises(DataError, match="make demo"):
        built["search"]()
    with pytest.raises(DataError, match="make demo"):
        built["times"]()


def test_blocks_of_the_study_show_the_effects_on_accuracy(tmp_path):
    (tmp_path / "results/study").mkdir(parents=True)
    (tmp_path / "results/study/effects.csv").write_text(
        "arm,outcome,task,baseline,value,difference,lo,hi,holm_p,seeds,items\n"
        "aspo,accuracy,math,60,62.25,2.25,-1.5,6,0.4120,2,80\naspo,accuracy,qa,60,70,10,9,11,0.00003,2,80\n"
        "aspo,calls,math,1,1.1,0.1,0,1,0.5,2,80\naspo,forgotten,qa,,,,,,,2,0\n"
    )
    (tmp_path / "results/study/power.md").write_text("**Power**\n\n| outcome |\n| --- |\n| accuracy |\n\nA note.\n")
    built = study_blocks(tmp_path)
    rows = built["effects"]().splitlines()[2:]
    assert rows == [
        "| aspo | accuracy | math | 60.0 | 62.3 | +2.3 | -1.5 to +6.0 | 0.412 | 2 | 80 |",
        "| aspo | accuracy | qa | 60.0 | 70.0 | +10.0 | +9.0 to +11.0 | < 0.001 | 2 | 80 |",
    ]
    assert built["power"]() == "| outcome |\n| --- |\n| accuracy |"
    with pytest.raises(DataError, match="make study"):
        study_blocks(tmp_path / "absent")["effects"]()
