"""A profile names the operators of whole training steps, and their shares of the time."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.speed import profiled, throughput


def event(key, device_type, microseconds, count=1):
    """An averaged event as `torch.profiler` gives it: an operator has the device time of its kernels."""
    return SimpleNamespace(key=key, device_type=device_type, self_device_time_total=microseconds, count=count)


EVENTS = [  # of one step on a GPU, which takes 100 microseconds
    event("ProfilerStep*", DeviceType.CPU, 0.0),
    event("ProfilerStep*", DeviceType.CUDA, 100.0),
    event("aten::mm", DeviceType.CPU, 60.0, count=2),
    event("ampere_sgemm_128x64_nn", DeviceType.CUDA, 60.0, count=2),
    event("aten::add", DeviceType.CPU, 20.0, count=5),
    event("vectorized_elementwise_kernel", DeviceType.CUDA, 20.0, count=5),
    event("cudaLaunchKernel", DeviceType.CPU, 0.0, count=7),
]


def test_the_time_of_each_operator_counts_once():
    rows, seconds = profiled.operator_table(EVENTS, "self_device_time_total")
    assert seconds == pytest.approx(80e-6)
    assert [(row["name"], row["calls"], row["milliseconds"], row["share"]) for row in rows] == [
        ("aten::mm", 2, pytest.approx(0.06), pytest.approx(0.75)),
        ("aten::add", 5, pytest.approx(0.02), pytest.approx(0.25)),
        ("cudaLaunchKernel", 7, 0, 0),
    ]


def test_steps_of_the_profiler_and_kernels_of_the_gpu_are_no_operators():
    assert {row.key for row in profiled.operator_events(EVENTS)} == {
        "aten::mm", "aten::add", "cudaLaunchKernel"
    }  # fmt: skip


@pytest.mark.slow
def test_a_small_profile(monkeypatch, tmp_path):
    monkeypatch.setattr(profiled, "PRECISIONS", ("float32",))
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    trace = tmp_path / "deep" / "trace.json.gz"
    monkeypatch.setattr("sys.argv", ["profiled.py", "--quick", "--trace", str(trace)])
    profiled.main()
    figures = json.loads((tmp_path / "profile_quick.json").read_text())["figures"]
    operators = {row["name"]: row for row in figures["float32"]["operators"]}
    assert operators["aten::bmm"]["calls"] > 1  # kernels of a state space
    assert len(operators) == profiled.TOP
    assert "ProfilerStep*" not in operators
    assert 0.5 < sum(row["share"] for row in operators.values()) <= 1
    assert trace.stat().st_size > 1000


@pytest.mark.slow
def test_quick_throughput_has_a_result_name_of_its_own(monkeypatch, tmp_path):
    machine = throughput.Device({"float64": 1e10, "float32": 2e10, "bfloat16": 4e10}, 1e10, 1e9, None, "")
    monkeypatch.setattr(throughput, "measure_device", lambda side: machine)
    monkeypatch.setattr(throughput, "THREADS", torch.get_num_threads())
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["throughput.py", "--quick"])
    throughput.main()
    figures = json.loads((tmp_path / "throughput_quick.json").read_text())["figures"]
    assert [row["precision"] for row in figures["models"]["tiny SaShiMi"]["ways"]] == ["float32", "bfloat16"]
    assert [path.name for path in tmp_path.iterdir()] == ["throughput_quick.json"]
