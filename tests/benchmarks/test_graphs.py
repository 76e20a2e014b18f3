"""Small models on a CPU, where steps are not recorded: nothing that was measured is lost."""

import json

import pytest
import torch

from benchmarks.speed import graphs
from sashimi_lib.streaming.graph import Graphed

pytestmark = pytest.mark.slow


def test_every_batch_has_graphs_of_its_own(monkeypatch):
    batches, generate_from = [], Graphed.generate_from

    def recording(engine, cache, *rest):
        batches.append((id(engine), len(cache[0])))
        return generate_from(engine, cache, *rest)

    monkeypatch.setattr(Graphed, "generate_from", recording)
    rows = graphs.slice_states(graphs.TINY["tiny WaveRNN"], "a", 3, 1, 0.0) + graphs.slice_states(
        graphs.TINY["tiny WaveRNN"], "a", 1, 1, 0.0
    )
    assert [(row["engine"], row["batch"]) for row in rows] == [
        ("eager", 3), ("graph", 3), ("eager", 1), ("graph", 1)
    ]  # fmt: skip
    assert sorted(batch for _, batch in {*batches}) == [1, 3]


def test_all_is_measured_and_the_best_batch_named():
    written = []
    figures = graphs.measure(
        graphs.TINY, (1, 2), 20, float("inf"), lambda figures: written.append(json.dumps(figures)), 1, 0.0
    )
    assert figures["equal_samples"] == {"tiny SaShiMi": 20, "tiny WaveRNN": 20}
    assert [json.loads(each)["complete"] for each in written] == [False, False, False, True]
    for model, best in figures["highest_throughput"].items():
        for engine, row in best.items():
            speeds = [
                other["samples_per_second"]
                for other in figures["rates"]
                if (other["model"], other["engine"]) == (model, engine)
            ]
            assert len(speeds) == 2
            assert row["samples_per_second"] == max(speeds)


def test_failures_are_recorded_and_the_rest_is_measured(monkeypatch):
    calibrated_runs = graphs.calibrated_runs

    def no_memory(engines, batches, seconds):
        if batches == (2,):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nMore about that")
        return calibrated_runs(engines, batches, seconds)

    monkeypatch.setattr(graphs, "calibrated_runs", no_memory)
    figures = graphs.measure(graphs.TINY, (1, 2), 20, float("inf"), lambda figures: None, 1, 0.0)
    failed = [row for row in figures["rates"] if "failed" in row]
    assert [(row["model"], row["batch"]) for row in failed] == [("tiny SaShiMi", 2), ("tiny WaveRNN", 2)]
    assert {row["failed"] for row in failed} == {"OutOfMemoryError: CUDA out of memory."}
    assert len(figures["rates"]) == 4 + 2


def test_nothing_starts_after_the_deadline():
    figures = graphs.measure(graphs.TINY, (1, 2), 20, 0.0, lambda figures: None)
    assert figures["rates"] == []


def test_the_command_writes_a_result_of_its_own_name(monkeypatch, tmp_path):
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["graphs.py", "--quick"])
    graphs.main()
    result = json.loads((tmp_path / "generation_quick.json").read_text())
    assert result["device"].startswith("CPU")
    assert result["figures"]["complete"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_papers_models_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["graphs.py"])
    with pytest.raises(SystemExit):
        graphs.main()
    assert "needs a GPU; use --quick to try it on a CPU" in capsys.readouterr().err
