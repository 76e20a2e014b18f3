"""Costs equal those counted by hand, peaks count their work, and agreement detects a difference."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.lib import agreement, arithmetic, peaks, rates
from benchmarks.speed import generation
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SampleRNNConfig, SaShiMiConfig, WaveNetConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.models.audio_lm import AudioLM, new_model
from sashimi_lib.ssm.s4 import Form, SSMConfig, StateSpace

TINY = SaShiMiConfig(d_model=4, n_layers=1, pool=(2,), ssm=SSMConfig(d_state=6))


def sashimi(seed=0):
    torch.manual_seed(seed)
    return new_model(TINY, MuLaw())


# What a sample costs


def test_a_sashimi_counted_by_hand():
    cost = arithmetic.cost(sashimi())
    # 4 channels at every sample, 8 at every other one; three modes each, so 4 vectors and a rotation of 36.
    fast, slow = 4 * 4 + 2 * 4 * 8 + 4 * 36, 8 * 8 + 2 * 8 * 16 + 8 * 36
    pools, head = 8 * 8 + 8 * 8, 4 * 256
    assert cost.multiply_adds == fast + (slow + pools) / 2 + head == 1616
    fast = (16 + 4) + (32 + 8) + (32 + 4) + (4 * 3 * 4 + 3 * 6 + 2 * 4)  # shared: B, p and q of six numbers
    slow = (64 + 8) + (128 + 16) + (128 + 8) + (4 * 3 * 8 + 3 * 6 + 2 * 8)
    pools, head = (64 + 8) + (64 + 8), 1024 + 256
    assert cost.weights == fast + (slow + pools) / 2 + head + 4 == 1767  # 4: a row of the embedding
    assert cost.state == 2 * 24 + (2 * 48 + 2 * 16) / 2 == 112  # read and written; frames in and out
    assert cost.resident == fast + slow + pools + head + 4 * 256 + 24 + 48 + 16 == 3188


def test_the_papers_sashimi_takes_less_than_a_million_multiply_adds():
    dense, pools, head = 8 * 20_480 * (1 + 4 / 4 + 16 / 16), 4 * 8_192, 64 * 256
    states = 8 * 32 * 12 * (64 + 128 / 4 + 256 / 16)
    with_gates = 8 * 64 * 64 * 3
    cost = arithmetic.cost(rates.DENSE["SaShiMi-8"]())
    assert cost.multiply_adds == dense + pools + head + states == 884_736
    glu = arithmetic.cost(rates.DENSE["SaShiMi-8, GLU"]())
    assert glu.multiply_adds == cost.multiply_adds + with_gates


def test_channels_with_systems_of_their_own_read_more():
    shared, own = (arithmetic.cost(StateSpace(5, SSMConfig(d_state=6, tied=tied))) for tied in (True, False))
    assert own.weights - shared.weights == 4 * 3 * 6
    assert own[:1] == shared[:1] == (5 * 36,)


def test_a_diagonal_system_has_no_low_rank_part():
    config = SSMConfig(d_state=6, form=Form.DIAGONAL, init="lin")
    assert arithmetic.cost(StateSpace(5, config)).multiply_adds == 5 * 3 * 8


def test_a_wavenet_counted_by_hand():
    model = new_model(WaveNetConfig(1, 2, d_residual=3, d_dilation=2, d_skip=5, d_end=4, d_model=6), MuLaw())
    cost = arithmetic.cost(model)
    products = 6 * 3 + 2 * (6 * 4 + 2 * 3) + 4 * 5 + 5 * 4 + 4 * 6 + 6 * 256
    assert cost == (products, products + 4 + 6 + 256 + 6, 2 * 2 * 3, products + 266 + 256 * 6 + 3 * 3)


def test_a_samplernn_counted_by_hand():
    cost = arithmetic.cost(new_model(SampleRNNConfig((2, 2), d_hidden=4, d_embedding=3), MuLaw()))
    gru, said = 2 * 12 * 4, 4 * 8
    by_tier = (2 * 4 + gru + said) / 2 + (4 * 4 + gru + said) / 4
    assert cost.multiply_adds == by_tier + 2 * 3 * 4 + 4 * 4 + 4 * 256
    assert cost.state == (2 * 4 + 2 * 8) * (1 / 2 + 1 / 4)


def test_a_wavernn_counted_by_hand():
    cost = arithmetic.cost(WaveRNN(WaveRNNConfig(4)))
    products = 12 * 4 + 2 * 6 + 3 * 6 + 2 * (2 * 2 + 2 * 256)
    weights = products + 12 + 2 * (2 + 256)
    assert cost == (products, weights, 8, weights + 4)


def test_zeros_cost_nothing():
    linear = nn.Linear(6, 4)
    with torch.no_grad():
        linear.weight[:, 2:] = 0
    assert arithmetic.cost(linear) == (8, 12, 0, 12)


# What the machine gives


def test_reading_reads_everything_so_often():
    numbers = np.zeros(3 * 128, np.float32)
    numbers[[0, 127, 128, 383]] = 1, 2, 4, 8
    assert peaks.repeated_sum(numbers, 5) == 75
    load = peaks.streaming_read(4 * 3 * 128 + 100, total_bytes=10_000)
    assert load.run() == [6 * 3 * 128.0] * torch.get_num_threads()
    assert load.amount == torch.get_num_threads() * 6 * 4 * 3 * 128


def test_shares_of_the_best_counted_by_hand():
    cost = arithmetic.Cost(multiply_adds=10, weights=6, state=1, resident=7)
    machine = {"product": 1000.0, "28": 400.0}
    row = {"batch": 2, "threads": 1, "samples_per_second": 20.0}
    assert rates.shares_of_peak(row, cost, machine) == {
        "share_of_product": 20 * 10 / 1000,
        "share_of_reading": 10 * 4 * (6 + 2) / 400,
    }
    several = rates.shares_of_peak({**row, "threads": 8}, cost, machine)  # two of eight threads have work
    assert several["share_of_reading"] == 10 * 4 * (2 * 6 + 2) / 400


@pytest.mark.slow
def test_every_engine_has_its_row(monkeypatch):
    monkeypatch.setattr(rates, "COMPILED", {"a": partial(rates.random_wavernn, 32)})
    monkeypatch.setattr(rates, "EAGER", {"b": partial(rates.random_wavernn, 4)})
    monkeypatch.setattr(peaks, "BYTES_PER_RUN", 2**20)
    threads = torch.get_num_threads()
    figures = rates.measure_rates((1, 3), repeats=1, seconds=0.0)
    torch.set_num_threads(threads)
    rows = {(row["model"], row["engine"], row["threads"], row["batch"]): row for row in figures["rates"]}
    assert sorted(rows) == [
        (*engine, threads, batch)
        for engine in (("a", "compiled"), ("a", "eager"), ("b", "eager"))
        for threads in rates.THREADS
        for batch in (1, 3)
    ]
    for (_, engine, *_), row in rows.items():
        assert ("share_of_reading" in row) == (engine == "compiled")
    assert [each["threads"] for each in figures["machine"]] == [1, 2]
    assert figures["failed"] == {}
    assert json.loads(json.dumps(figures)) == figures


@pytest.mark.slow
def test_runs_of_a_loop_that_packs_its_state_are_long_enough(monkeypatch):
    monkeypatch.setattr(rates, "MIN_COMPILED_SAMPLES", 96)
    model = rates.random_wavernn(16)
    quick = rates.calibrated_runs({"eager": model, "compiled": rates.compiled(model)}, (1, 32), seconds=0.0)
    assert {(run.engine, run.batch): run.samples for run in quick} == {
        ("eager", 1): 32, ("eager", 32): 32, ("compiled", 1): 96, ("compiled", 32): 96
    }  # fmt: skip
    (longer,) = rates.calibrated_runs({"compiled": rates.compiled(model)}, (1,), seconds=0.1)
    assert longer.samples > 96
    assert longer.samples % rates.FRAME == 0


def out_of_memory(*_, **__):
    raise RuntimeError("out of memory\nof some GPU")


@pytest.mark.slow
def test_a_model_that_fails_is_named_and_does_not_stop_the_others(monkeypatch, capsys):
    monkeypatch.setattr(rates, "COMPILED", {"a": partial(rates.random_wavernn, 32)})
    monkeypatch.setattr(rates, "EAGER", {"b": partial(rates.random_wavernn, 4)})
    monkeypatch.setattr(peaks, "BYTES_PER_RUN", 2**20)
    monkeypatch.setattr(rates, "compiled", out_of_memory)
    threads = torch.get_num_threads()
    figures = rates.measure_rates((1,), repeats=1, seconds=0.0)
    torch.set_num_threads(threads)
    assert figures["failed"] == {"a": "RuntimeError: out of memory"}
    assert "a failed: RuntimeError: out of memory\n" in capsys.readouterr().out
    assert {row["model"] for row in figures["rates"]} == {"b"}


# Agreement


@torch.no_grad()
@pytest.mark.parametrize("make", [sashimi, lambda: WaveRNN(WaveRNNConfig(8))], ids=["SaShiMi", "WaveRNN"])
def test_stepwise_logits_are_those_of_the_parallel_pass(make):
    model = make().double()
    codes = model.generate(50, 2)
    cache = model.prefill(codes[:, :7], model.initial_cache(2))
    stepwise, parallel = (
        logits_of(model, codes[:, 7:], cache)
        for logits_of in (agreement.stepwise_logits, agreement.parallel_logits)
    )
    assert stepwise.shape == (*codes[:, 7:].shape, 256)
    assert agreement.relative_error(stepwise, parallel)["worst_sample"] < 1e-10


def test_relative_error_of_all_samples_and_of_the_worst():
    expected = torch.tensor([[[3.0, 4.0], [0.0, 12.0]]])
    actual = expected + torch.tensor([[[0.0, 0.5], [0.0, 1.2]]])
    assert agreement.relative_error(actual, expected) == pytest.approx(
        {"whole": 1.3 / 13, "worst_sample": 0.1}
    )


@pytest.mark.slow
def test_agreement_detects_another_model(monkeypatch):
    same = agreement.agreement(sashimi(), 40, 30, seed=0)
    assert same["equal_samples"] == 30
    assert max(same["compiled_against_steps"].values()) < 1e-5
    assert max(same["compiled_against_float64"].values()) < 1e-5
    compiled = agreement.compiled
    monkeypatch.setattr(agreement, "compiled", lambda model: compiled(sashimi(seed=1)))
    other = agreement.agreement(sashimi(), 40, 30, seed=0)
    assert other["equal_samples"] < 30
    assert other["compiled_against_steps"]["whole"] > 0.01
    assert other["steps_against_float64"]["whole"] < 1e-5


@pytest.mark.slow
def test_a_long_run_records_its_state_and_its_last_second():
    model = sashimi()
    figures = agreement.long_run(model, minutes=2, sample_rate=10, seed=0)
    assert figures["samples"] == 1_200
    assert len(figures["samples_per_second"]) == len(figures["largest_state_entry"]) == 2
    assert max(figures["last_second_against_steps"].values()) < 1e-5
    state = (torch.tensor(9), (torch.tensor([-3.0]), (), torch.ones(2)))  # nine samples into a frame
    assert agreement.largest_entry(state) == 3


# The whole


def test_a_part_that_fails_does_not_stop_the_others(monkeypatch, tmp_path):
    broken = [True]

    def measure(effort):
        if broken:
            raise RuntimeError("no")
        return {"time": 2.0}

    monkeypatch.setattr(generation, "PARTS", {"rates": measure, "minutes": lambda effort: {"time": 1.0}})
    monkeypatch.setattr(generation, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["generation.py"])
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit, match="failed: rates; the other parts are stored"):
        generation.main()
    assert not (tmp_path / "generation.json").exists()
    broken.clear()
    monkeypatch.setattr(
        generation, "PARTS", generation.PARTS | {"minutes": out_of_memory}
    )  # is there already
    generation.main()
    torch.set_num_threads(threads)
    result = json.loads((tmp_path / "generation.json").read_text())
    assert result["figures"] == {"rates": {"time": 2.0}, "minutes": {"time": 1.0}}


def test_parts_are_stored_until_all_are_done(monkeypatch, tmp_path):
    calls = []

    def part(name, effort):
        calls.append((name, effort.minutes))
        return {"time": 1.0}

    monkeypatch.setattr(generation, "PARTS", {name: partial(part, name) for name in ("rates", "minutes")})
    monkeypatch.setattr(generation, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    threads = torch.get_num_threads()
    for options in (["--only", "rates"], ["--only", "rates"], ["--quick"], [], []):
        monkeypatch.setattr("sys.argv", ["generation.py", "--minutes", "3", *options])
        generation.main()
    torch.set_num_threads(threads)
    assert calls == [
        ("rates", 3), ("rates", 3), ("rates", 1), ("minutes", 1), ("minutes", 3), ("rates", 3), ("minutes", 3)
    ]  # fmt: skip
    result = json.loads((tmp_path / "generation.json").read_text())
    assert result["figures"] == {"rates": {"time": 1.0}, "minutes": {"time": 1.0}}
    assert not list((tmp_path / "runs").iterdir())
    assert isinstance(generation.models()["piano, trained"], AudioLM)
