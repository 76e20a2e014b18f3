"""The figures that the README states are the measured ones."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in README.splitlines() if re.match(r"\| \w+-\d", line)]


def figures(name: str) -> dict:
    return json.loads((ROOT / f"book/results/{name}.json").read_text())["figures"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_speeds_of_one_sequence_on_one_core_are_the_measured_ones(row):
    measured, model = figures("generation")["rates"], row[0].partition(" (")[0]
    rates = {
        rate["engine"]: f"{rate['samples_per_second']:,.0f}"
        for rate in measured["rates"]
        if (rate["model"], rate["batch"], rate["threads"]) == (model, 1, 1)
    }
    parameters = measured["models"][model]["parameters"]
    assert row[1:4] == [f"{parameters / 1e6:.2f} M", rates["eager"], rates["compiled"]]


def test_other_speeds_are_the_measured_ones():
    minutes = figures("generation")["minutes"]["SaShiMi-8"]["samples_per_second"]
    assert f"SaShiMi-8 is near it: {min(minutes):,.0f} to {max(minutes):,.0f} samples/s" in README
    one, many = (
        rate["samples_per_second"]
        for rate in figures("generation_gpu")["rates"]
        if (rate["model"], rate["engine"]) == ("SaShiMi-8", "graph") and rate["batch"] in (1, 512)
    )
    assert f"generates {one:,.0f} samples/s in one sequence and {many:,.0f} in 512" in README


def test_models_that_the_readme_calls_faster_than_real_time_are_so():
    slower = [row[0] for row in ROWS if int(row[3].replace(",", "")) <= int(row[4].replace(",", ""))]
    assert slower == ["SaShiMi-8 (the paper's)"]
    assert "all of them but SaShiMi-8 generate faster than real time" in README
