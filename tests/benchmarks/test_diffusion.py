"""Both backbones train on the same digits for equally long and are evaluated alike; no work is lost."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.lib import digit_metrics as metrics
from benchmarks.lib.corpus import LabelledAudio
from benchmarks.quality import diffusion
from sashimi_lib.audio import fit_length, read, write
from sashimi_lib.data.bundled import spoken_digits
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.diffusion.schedules import LinearSchedule
from sashimi_lib.models import DiffWaveConfig
from sashimi_lib.models.sashimi_unet import SaShiMiUNetConfig
from sashimi_lib.ssm.s4 import SSMConfig

SECONDS = {"SaShiMi": 0.25, "DiffWave": 0.5}  # of each step and generated example here
CONDITIONING = {"d_step": (8, 8, 8), "n_classes": 10}
DIFFWAVE = DiffWaveConfig(d_residual=4, d_skip=4, n_layers=2, cycle=2, **CONDITIONING)
SASHIMI = SaShiMiUNetConfig(d_model=4, n_layers=1, ssm=SSMConfig(d_state=4), **CONDITIONING)


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
def tiny(monkeypatch, tmp_path):
    small = diffusion.SMALL["DiffWave"]
    training = replace(small.training, batch_size=2)
    configs = {"SaShiMi": SASHIMI, "DiffWave": DIFFWAVE}
    models = {
        name: replace(small, config=DiffusionConfig(config, LinearSchedule(3)), length=256, training=training)
        for name, config in configs.items()
    }
    monkeypatch.setattr(diffusion, "SMALL", models)
    monkeypatch.setattr(diffusion, "REPEATS", {"training": 1, "generation": 1})
    monkeypatch.setattr(
        diffusion, "interleaved", lambda steps, _: [step() for step in steps.values()] and SECONDS
    )
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    return models


def run(monkeypatch, *command):
    monkeypatch.setattr("sys.argv", ["diffusion.py", *map(str, command)])
    diffusion.main()


def test_both_backbones_have_equal_size_and_training():
    for models in (diffusion.SMALL, diffusion.FULL):
        a, b = models.values()
        rates = {name: getattr(b.training, name) for name in ("lr", "ssm_lr")}  # each has its own
        assert replace(a, config=b.config, training=replace(a.training, **rates)) == b
        assert replace(a.config, backbone=b.config.backbone) == b.config
        assert a.config.backbone.n_classes == b.config.backbone.n_classes == 10
    sizes = [sum(p.numel() for p in recipe.build(0).parameters()) for recipe in diffusion.SMALL.values()]
    assert max(sizes) < 1.1 * min(sizes)


def test_equal_time_is_more_steps_for_the_faster_and_equal_steps_are_the_slower_ones():
    options = diffusion.argparse.Namespace(seconds=60.0, steps=None)
    assert diffusion.budgets(options, {"a": 0.5, "b": 0.1}) == {
        "equal time": {"a": 120, "b": 600},
        "equal steps": {"a": 120, "b": 120},
    }
    options.steps = 7
    assert diffusion.budgets(options, {"a": 0.5, "b": 0.1}) == {"equal steps": {"a": 7, "b": 7}}


@pytest.mark.slow
def test_real_digits_are_classified_correctly_and_have_no_distance_from_themselves():
    real = torch.stack([fit_length(clip.waveform, 4_096) for clip in spoken_digits().values()])
    spoken = LabelledAudio(real.repeat(2, 1), torch.arange(10).repeat(2))
    features = metrics.classifier_features(spoken.waveform)
    figures = metrics.digit_metrics(spoken, features)
    assert figures["accuracy"] >= 0.8
    assert figures["accuracy"] == pytest.approx(sum(figures["accuracy_by_class"]) / 10)
    assert figures["frechet"] == pytest.approx(0, abs=0.1)
    noisy = LabelledAudio(spoken.waveform + 0.3 * torch.randn(20, 4_096), spoken.label)
    assert metrics.digit_metrics(noisy, features)["frechet"] > 10


def test_a_network_that_predicts_zero_misses_all_noise_at_every_level():
    model = DiffusionModel(DiffusionConfig(DIFFWAVE))  # a new one predicts 0
    x = 0.1 * torch.randn(60, 128).clamp(-3, 3)  # more than one batch
    levels = metrics.loss_by_level(model, LabelledAudio(x, torch.arange(60) % 10))
    assert levels["noise"] == pytest.approx([1.0] * metrics.LEVELS, abs=0.05)
    assert levels["log_snr"] == sorted(levels["log_snr"], reverse=True)
    assert (levels["step"][0], levels["step"][-1]) == (0, 199)
    snr = torch.tensor(levels["log_snr"]).exp()
    expected = torch.tensor(levels["noise"]) / snr
    torch.testing.assert_close(
        torch.tensor(levels["clean"]).double(), expected.double(), rtol=1e-3, atol=1e-6
    )


@pytest.mark.slow
def test_a_small_comparison_resumes_where_it_stopped(tiny, digits, tmp_path, monkeypatch):
    command = [digits, "--steps", 2, "--seeds", 0, 5, "--each", 2, "--runs", tmp_path / "runs"]
    command += ["--ways", "every step", "6 steps, guided"]
    trained = []

    def stops(model, *args, **kwargs):
        trained.append(model)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(model, *args, **kwargs)

    train = diffusion.train
    monkeypatch.setattr(diffusion, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *command)
    result = json.loads((tmp_path / "diffusion_digits.json").read_text())
    assert [len(model["runs"]["equal steps"]) for model in result["figures"]["models"].values()] == [1, 1]
    run(monkeypatch, *command)
    assert len(trained) == 5  # two runs that were done are not done again
    result = json.loads((tmp_path / "diffusion_digits.json").read_text())
    run(monkeypatch, *command)
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
            for sampled in one["samples"].values():
                assert sampled["frechet"] > real["frechet"]  # after two steps
                assert len(sampled["accuracy_by_class"]) == 10
        assert model["clips"]["6 steps, guided"] == f"diffusion_digits_{name}_6_steps_guided.flac"
        assert all(read(tmp_path / clip)[0].shape == (2_560,) for clip in model["clips"].values())

    run(monkeypatch, *command[:1], "--steps", 3, "--seeds", 0, *command[6:])
    assert len(trained) == 7  # other steps are another run


@pytest.mark.slow
def test_quick_writes_nothing(tiny, digits, tmp_path, monkeypatch, capsys):
    before = set(tmp_path.rglob("*"))
    run(monkeypatch, digits, "--quick")
    assert set(tmp_path.rglob("*")) == before
    assert "real_recordings" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(tiny, digits, tmp_path, monkeypatch):
    train = diffusion.train

    def fails(model, *args, **kwargs):
        if isinstance(model.config.backbone, DiffWaveConfig):
            raise RuntimeError("out of memory")
        return train(model, *args, **kwargs)

    monkeypatch.setattr(diffusion, "train", fails)
    command = [digits, "--steps", 2, "--seeds", 0, "--each", 2, "--runs", tmp_path / "runs"]
    with pytest.raises(ExceptionGroup, match="failed: DiffWave, equal steps, seed 0"):
        run(monkeypatch, *command, "--ways", "6 steps")
    models = json.loads((tmp_path / "diffusion_digits.json").read_text())["figures"]["models"]
    assert [len(model["runs"]["equal steps"]) for model in models.values()] == [1, 0]
    assert models["SaShiMi"]["clips"].keys() == {"6 steps"}
