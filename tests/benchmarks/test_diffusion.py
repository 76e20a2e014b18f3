"""Both backbones learn from the same digits for as long and are judged on the same terms; no work is lost."""

import importlib
import json
from dataclasses import replace

import pytest
import torch

from sashimi_lib.audio import read, write
from sashimi_lib.data.bundled import spoken_digits
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.diffusion.schedules import LinearSchedule
from sashimi_lib.models import DiffWaveConfig
from sashimi_lib.models.sashimi_unet import SaShiMiUNetConfig
from sashimi_lib.ssm.s4 import SSMConfig

SECONDS = {"SaShiMi": 0.25, "DiffWave": 0.5}  # what every step and sound takes here
TOLD = {"d_step": (8, 8, 8), "n_classes": 10}
DIFFWAVE = DiffWaveConfig(d_residual=4, d_skip=4, n_layers=2, cycle=2, **TOLD)
SASHIMI = SaShiMiUNetConfig(d_model=4, n_layers=1, ssm=SSMConfig(d_state=4), **TOLD)


@pytest.fixture
def benchmark(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as when it is run as a script
    return importlib.import_module("diffusion")


@pytest.fixture
def judging(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("judging")


@pytest.fixture
def corpus(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("corpus")


@pytest.fixture
def digits(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / "digits" / split).mkdir(parents=True)
        for digit in range(10):
            for take in range(2):
                tone = 0.3 * torch.sin(0.1 * (digit + 1) * torch.arange(200)) + 0.01 * torch.randn(200)
                write(tmp_path / "digits" / split / f"{digit}_me_{take}.wav", tone, 8000)
    return tmp_path / "digits"


@pytest.fixture
def tiny(benchmark, monkeypatch, tmp_path):
    small = benchmark.SMALL["DiffWave"]
    training = replace(small.training, batch_size=2)
    configs = {"SaShiMi": SASHIMI, "DiffWave": DIFFWAVE}
    models = {
        name: replace(small, config=DiffusionConfig(config, LinearSchedule(3)), length=256, training=training)
        for name, config in configs.items()
    }
    monkeypatch.setattr(benchmark, "SMALL", models)
    monkeypatch.setattr(benchmark, "REPEATS", {"training": 1, "generation": 1})
    monkeypatch.setattr(
        benchmark, "interleaved", lambda steps, _: [step() for step in steps.values()] and SECONDS
    )
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr("result.RESULTS", tmp_path)
    return models


def run(benchmark, monkeypatch, *command):
    monkeypatch.setattr("sys.argv", ["diffusion.py", *map(str, command)])
    benchmark.main()


def test_both_backbones_are_of_a_size_and_learn_alike(benchmark):
    for models in (benchmark.SMALL, benchmark.FULL):
        a, b = models.values()
        rates = {name: getattr(b.training, name) for name in ("lr", "ssm_lr")}  # each has its own
        assert replace(a, config=b.config, training=replace(a.training, **rates)) == b
        assert replace(a.config, backbone=b.config.backbone) == b.config
        assert a.config.backbone.n_classes == b.config.backbone.n_classes == 10
    sizes = [sum(p.numel() for p in recipe.build(0).parameters()) for recipe in benchmark.SMALL.values()]
    assert max(sizes) < 1.1 * min(sizes)


def test_equal_time_is_more_steps_for_the_faster_and_equal_steps_are_the_slower_ones(benchmark):
    options = benchmark.argparse.Namespace(seconds=60.0, steps=None)
    assert benchmark.budgets(options, {"a": 0.5, "b": 0.1}) == {
        "equal time": {"a": 120, "b": 600},
        "equal steps": {"a": 120, "b": 120},
    }
    options.steps = 7
    assert benchmark.budgets(options, {"a": 0.5, "b": 0.1}) == {"equal steps": {"a": 7, "b": 7}}


def test_as_many_of_every_class_are_spread_over_all_there_are(corpus):
    label = torch.arange(30) % 3
    chosen = corpus.Sounds(torch.arange(30.0)[:, None], label).each(4)
    assert chosen.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert chosen.waveform[:4, 0].tolist() == [0.0, 9.0, 18.0, 27.0]


@pytest.mark.slow
def test_real_digits_are_heard_and_are_nowhere_but_where_they_are(judging, corpus):
    real = torch.stack([corpus.fitted(clip.waveform, 4_096) for clip in spoken_digits().values()])
    spoken = corpus.Sounds(real.repeat(2, 1), torch.arange(10).repeat(2))
    features = judging.features_of(spoken.waveform)
    judged = judging.listen(spoken, features)
    assert judged["accuracy"] >= 0.8
    assert judged["accuracy"] == pytest.approx(sum(judged["accuracy_by_class"]) / 10)
    assert judged["frechet"] == pytest.approx(0, abs=0.1)
    noisy = corpus.Sounds(spoken.waveform + 0.3 * torch.randn(20, 4_096), spoken.label)
    assert judging.listen(noisy, features)["frechet"] > 10


def test_a_network_that_hears_no_noise_misses_all_of_it_at_every_level(judging, corpus):
    model = DiffusionModel(DiffusionConfig(DIFFWAVE))  # a new one says 0
    x = 0.1 * torch.randn(60, 128).clamp(-3, 3)  # more than go at once
    levels = judging.loss_by_level(model, corpus.Sounds(x, torch.arange(60) % 10))
    assert levels["noise"] == pytest.approx([1.0] * judging.LEVELS, abs=0.05)
    assert levels["log_snr"] == sorted(levels["log_snr"], reverse=True)
    assert (levels["step"][0], levels["step"][-1]) == (0, 199)
    snr = torch.tensor(levels["log_snr"]).exp()
    expected = torch.tensor(levels["noise"]) / snr
    torch.testing.assert_close(
        torch.tensor(levels["clean"]).double(), expected.double(), rtol=1e-3, atol=1e-6
    )


@pytest.mark.slow
def test_the_comparison_in_miniature_goes_on_where_it_stopped(benchmark, tiny, digits, tmp_path, monkeypatch):
    command = [digits, "--steps", 2, "--seeds", 0, 5, "--each", 2, "--runs", tmp_path / "runs"]
    command += ["--ways", "every step", "6 steps, guided"]
    trained = []

    def stops(model, *args, **kwargs):
        trained.append(model)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(model, *args, **kwargs)

    train = benchmark.train
    monkeypatch.setattr(benchmark, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        run(benchmark, monkeypatch, *command)
    result = json.loads((tmp_path / "diffusion_digits.json").read_text())
    assert [len(model["runs"]["equal steps"]) for model in result["figures"]["models"].values()] == [1, 1]
    run(benchmark, monkeypatch, *command)
    assert len(trained) == 5  # two runs that were done are not done again
    result = json.loads((tmp_path / "diffusion_digits.json").read_text())
    run(benchmark, monkeypatch, *command)
    assert len(trained) == 5
    assert json.loads((tmp_path / "diffusion_digits.json").read_text())["figures"] == result["figures"]

    assert result["repeats"] == 2
    assert result["config"]["recipes"]["SaShiMi"]["backbone"] == "SaShiMiUNetConfig"
    real = result["figures"]["real_recordings"]
    assert real["accuracy"] == pytest.approx(sum(real["accuracy_by_class"]) / 10)
    for name, model in result["figures"]["models"].items():
        assert model["seconds_per_step"] == SECONDS[name]
        assert model["seconds_per_second_of_sound"] == dict.fromkeys(
            ("every step", "6 steps, guided"), SECONDS[name]
        )
        (runs,) = model["runs"].values()
        assert [(one["seed"], one["steps"]) for one in runs] == [(0, 2), (5, 2)]
        for one in runs:
            assert [steps for steps, _ in one["valid"]] == [1, 2]
            for heard in one["samples"].values():
                assert heard["frechet"] > real["frechet"]  # nothing has been learnt in two steps
                assert len(heard["accuracy_by_class"]) == 10
        assert model["clips"]["6 steps, guided"] == f"diffusion_digits_{name}_6_steps_guided.flac"
        assert all(read(tmp_path / clip)[0].shape == (2_560,) for clip in model["clips"].values())

    run(benchmark, monkeypatch, *command[:1], "--steps", 3, "--seeds", 0, *command[6:])
    assert len(trained) == 7  # other steps are another run


@pytest.mark.slow
def test_a_quick_look_keeps_nothing(benchmark, tiny, digits, tmp_path, monkeypatch, capsys):
    before = set(tmp_path.rglob("*"))
    run(benchmark, monkeypatch, digits, "--quick")
    assert set(tmp_path.rglob("*")) == before
    assert "real_recordings" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_fails_costs_no_other(benchmark, tiny, digits, tmp_path, monkeypatch):
    train = benchmark.train

    def fails(model, *args, **kwargs):
        if isinstance(model.config.backbone, DiffWaveConfig):
            raise RuntimeError("out of memory")
        return train(model, *args, **kwargs)

    monkeypatch.setattr(benchmark, "train", fails)
    command = [digits, "--steps", 2, "--seeds", 0, "--each", 2, "--runs", tmp_path / "runs"]
    with pytest.raises(ExceptionGroup, match="failed: DiffWave, equal steps, seed 0"):
        run(benchmark, monkeypatch, *command, "--ways", "6 steps")
    models = json.loads((tmp_path / "diffusion_digits.json").read_text())["figures"]["models"]
    assert [len(model["runs"]["equal steps"]) for model in models.values()] == [1, 0]
    assert models["SaShiMi"]["clips"].keys() == {"6 steps"}
