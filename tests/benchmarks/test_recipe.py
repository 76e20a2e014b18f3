"""The comparison of training settings: equal time, one run for each variant and seed, stored and resumed."""

import json

import pytest
import torch

from benchmarks.quality import recipe
from benchmarks.quality.recipe import VARIANTS, Job, Variant, run, run_job, stage_seconds
from sashimi_lib.models import SaShiMiConfig
from sashimi_lib.models.blocks import S4Block
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training.config import TrainingConfig

CONFIG = TrainingConfig(batch_size=2, lr=0.01, muon_lr=0.02, decay="cosine")
SMALL = SaShiMiConfig(d_model=4, n_layers=1, ssm=SSMConfig(d_state=4))


def tones(count, length=640):
    t = torch.arange(length)
    return [(128 + 40 * torch.sin(0.1 * (n + 1) * t)).long() for n in range(count)]


def test_a_run_has_the_steps_that_fit_into_its_time(tmp_path):
    variant = Variant(64, CONFIG, SMALL, first=(32, CONFIG), first_share=0.5)
    result = run(variant, tones(2), tones(1), 20, [0.5, 1.0], seed=0, checkpoint=tmp_path / "run.json")
    assert {path.name for path in tmp_path.glob("run.?.pt")} == {"run.0.pt", "run.1.pt"}
    assert result["steps"] == 20 + 10
    assert result["samples"] == 20 * 64 + 10 * 128
    seconds, bits = zip(*result["curve"], strict=True)
    assert list(seconds) == pytest.approx([2, 4, 6, 8, 10, 12, 14, 16, 18, 20])
    assert bits[-1] < bits[0]


def test_each_stage_is_timed():
    variant = Variant(64, CONFIG, SMALL, first=(32, CONFIG))
    assert all(0 < seconds < 5 for seconds in stage_seconds(variant, tones(2)))
    assert len(stage_seconds(variant, tones(2))) == 2


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "RUNS", tmp_path)
    monkeypatch.setattr(recipe, "VARIANTS", {"new": Variant(64, CONFIG, SMALL)})
    job, corpus = Job("tunes", 1, ("new",), seeds=(0, 1)), {"train": tones(2)}
    first = run_job(job, corpus, tones(1), {"new": [10.0]}, minutes=1)
    monkeypatch.setattr(recipe, "run", lambda *_: pytest.fail("was stored"))
    assert run_job(job, corpus, tones(1), {"new": [10.0]}, minutes=1) == json.loads(json.dumps(first))
    assert [entry["seed"] for entry in first["new"]] == [0, 1]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_job_names_variants_and_each_differs_from_the_new_recipe(name):
    assert all(variant in VARIANTS for job in recipe.JOBS for variant in job.variants)
    assert name == "new" or VARIANTS[name] != VARIANTS["new"]


def test_zero_branches_leave_the_residual_stream_as_it_is():
    model = Variant(64, CONFIG, SMALL, prepare=recipe.zero_branches).build(0)
    x = torch.randn(1, 16, 4)
    block = [module for module in model.modules() if isinstance(module, S4Block)][-1]
    assert torch.allclose(block(x)[0] - x, block.layer.output.bias.expand_as(x))


def test_dropout_acts_in_training_and_not_in_evaluation():
    model = Variant(64, CONFIG, SMALL, prepare=recipe.dropout).build(0)
    codes = tones(1, 64)[0][None]
    assert not torch.equal(model(codes)[0], model(codes)[0])
    with torch.no_grad():
        assert torch.equal(model(codes)[0], model(codes)[0])
