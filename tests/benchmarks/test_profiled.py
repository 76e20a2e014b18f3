"""A profile names the operators of whole training steps, and their shares of the time."""

import importlib
import json

import pytest
import torch


@pytest.fixture
def benchmark(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as when it is run as a script
    return importlib.import_module


@pytest.mark.slow
def test_a_profile_in_miniature(benchmark, monkeypatch, tmp_path):
    profiled = benchmark("profiled")
    monkeypatch.setattr(profiled, "PRECISIONS", ("float32",))
    monkeypatch.setattr("result.RESULTS", tmp_path)
    trace = tmp_path / "deep" / "trace.json.gz"
    monkeypatch.setattr("sys.argv", ["profiled.py", "--quick", "--trace", str(trace)])
    profiled.main()
    figures = json.loads((tmp_path / "profile_quick.json").read_text())["figures"]
    operators = {row["name"]: row for row in figures["float32"]["operators"]}
    assert operators["aten::bmm"]["calls"] > 1  # kernels of a state space
    assert len(operators) == profiled.TOP
    assert 0.5 < sum(row["share"] for row in operators.values()) <= 1
    assert trace.stat().st_size > 1000


@pytest.mark.slow
def test_throughput_in_miniature_keeps_to_a_name_of_its_own(benchmark, monkeypatch, tmp_path):
    throughput = benchmark("throughput")
    machine = throughput.Device({"float64": 1e10, "float32": 2e10, "bfloat16": 4e10}, 1e10, 1e9, None, "")
    monkeypatch.setattr(throughput, "measured", lambda side: machine)
    monkeypatch.setattr(throughput, "THREADS", torch.get_num_threads())
    monkeypatch.setattr("result.RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["throughput.py", "--quick"])
    throughput.main()
    figures = json.loads((tmp_path / "throughput_quick.json").read_text())["figures"]
    assert [row["precision"] for row in figures["models"]["tiny SaShiMi"]["ways"]] == ["float32", "bfloat16"]
    assert [path.name for path in tmp_path.iterdir()] == ["throughput_quick.json"]
