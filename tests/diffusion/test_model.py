"""The diffusion model with either network: training loss, generation, vocoding and inpainting."""

import math
from dataclasses import replace

import pytest
import torch

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.diffusion.objective import (
    convert_model_output,
    noise_from_seed,
    random_steps,
    sample_training_noise,
    target,
)
from sashimi_lib.diffusion.samplers import DDIM, DPM_SOLVER, all_steps, log_snr_steps, six_steps
from sashimi_lib.diffusion.schedules import (
    CosineSchedule,
    LinearSchedule,
    LogSNRSchedule,
    add_noise,
    alpha_sigma,
)
from sashimi_lib.models import DiffWaveConfig, SaShiMiUNetConfig
from sashimi_lib.models.denoiser import ConditioningConfig, Denoiser
from tests.awkward import without_shape_checks

MEL = LogMelConfig(8_000, n_mels=5, hop=10, window=60)
SCHEDULE = LogSNRSchedule(6, highest=8.0, lowest=-2.0)
D_STEP, STEPS = (8, 8, 8), torch.tensor([0.0, 3.0, 5.0])
NETWORKS = {
    "diffwave": lambda **conditioning: DiffWaveConfig(
        d_residual=6, d_skip=6, n_layers=4, cycle=4, d_step=D_STEP, **conditioning
    ),
    "sashimi": lambda **conditioning: SaShiMiUNetConfig(d_model=4, n_layers=1, d_step=D_STEP, **conditioning),
}


@pytest.fixture(params=NETWORKS)
def new_model(request):
    """Return a function that makes a model whose output is not zero, unlike that of a new one."""

    def make(schedule=SCHEDULE, predict="noise", **conditioning):
        torch.manual_seed(1)
        model = DiffusionModel(DiffusionConfig(NETWORKS[request.param](**conditioning), schedule, predict))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        return model

    return make


def waveforms(batch=3, length=37):
    return (0.3 * torch.randn(batch, length)).clamp(-1, 1)


class TestObjective:
    @pytest.mark.parametrize("predict", ["noise", "velocity"])
    def test_convert_model_output_inverts_target(self, predict):
        clean, noise, log_snr = (
            torch.randn(3, 9).double(),
            torch.randn(3, 9).double(),
            torch.tensor([4.0, 0, -4]),
        )
        x = add_noise(clean, noise, log_snr)
        clean_hat, noise_hat = convert_model_output(
            x, target(clean, noise, log_snr, predict), log_snr, predict
        )
        assert torch.allclose(clean_hat, clean)
        assert torch.allclose(noise_hat, noise)

    @pytest.mark.parametrize("predict", ["noise", "velocity"])
    def test_estimates_add_up_to_x_for_any_output(self, predict):
        x, log_snr = torch.randn(2, 9).double(), torch.tensor(0.7).double()
        clean, noise = convert_model_output(x, torch.randn(2, 9).double(), log_snr, predict)
        assert torch.allclose(add_noise(clean, noise, log_snr), x)

    def test_an_error_of_velocity_is_an_error_of_noise_times_alpha(self):
        """So both targets estimate the same quantity with different weights."""
        x, output, log_snr = (
            torch.randn(2, 9).double(),
            torch.randn(2, 9).double(),
            torch.tensor(0.7).double(),
        )
        alpha, _ = alpha_sigma(log_snr)
        changes = [
            convert_model_output(x, output + 1, log_snr, predict)[1]
            - convert_model_output(x, output, log_snr, predict)[1]
            for predict in ("noise", "velocity")
        ]
        assert torch.allclose(changes[1], alpha * changes[0])

    def test_random_steps_are_stratified_and_each_is_uniform(self):
        first = torch.stack([random_steps(20, 4) for _ in range(4_000)])
        assert bool((first.sort(dim=1).values.diff(dim=1) == 5).all())
        counts = torch.bincount(first[:, 0].long(), minlength=20)
        assert len(counts) == 20
        assert float(((counts - 200) ** 2 / 200).sum()) < 43.8  # chi-squared, 19 degrees: 1 in 1000
        assert {int(n) for n in random_steps(5, 7)} == set(range(5))
        orders = {tuple(steps.argsort().tolist()) for steps in first}
        assert len(orders) == 24  # the order within a batch is random


class TestLoss:
    def test_it_is_the_squared_error_at_random_steps(self, new_model):
        model, x = new_model(), waveforms(length=48)
        torch.manual_seed(7)
        loss, cache = model.loss(x)
        torch.manual_seed(7)
        step, _, seed = sample_training_noise(6, 3)
        noise = noise_from_seed(seed, like=x)
        noisy = add_noise(x, noise, model.config.schedule.log_snr(step))
        assert torch.allclose(loss, (model.backbone(noisy, step.float()) - noise) ** 2)
        assert cache is None

    def test_the_result_does_not_depend_on_how_a_batch_is_split(self, new_model):
        model, x = new_model(n_classes=3).double(), waveforms(5).double()
        label, noise = torch.tensor([0, 1, 2, 1, 0]), model.sample_noise(5)
        whole, _ = model.loss(x, label=label, noise=noise)
        for shard in (slice(0, 2), slice(2, 5)):
            part, _ = model.loss(x[shard], None, label[shard], tuple(values[shard] for values in noise))
            assert torch.allclose(part, whole[shard], atol=1e-10)

    def test_noise_is_gaussian_and_independent_across_sequences(self):
        torch.manual_seed(7)
        noise = noise_from_seed(sample_training_noise(6, 200).seed, like=torch.zeros(200, 500))
        assert float(noise.mean()) == pytest.approx(0, abs=4 / math.sqrt(noise.numel()))
        assert float(noise.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / noise.numel()))
        correlation = noise @ noise.mT / 500 - torch.eye(200)
        assert float(correlation.abs().max()) < 6 * math.sqrt(2 / 500)

    def test_any_length_is_valid(self, new_model):
        loss, _ = new_model().loss(waveforms(length=37))
        assert loss.shape == (3, 37)

    def test_the_mean_loss_by_level_over_all_steps_is_the_training_loss(self, new_model):
        model, x = new_model(LinearSchedule(5)), waveforms(1, 16)
        errors = model.loss_by_level(x.expand(4_000, -1), torch.arange(5).float())
        with torch.no_grad():
            mean = float(model.loss(x.expand(4_000, -1))[0].mean())
        assert float(errors.noise.mean()) == pytest.approx(mean, rel=0.03)

    @pytest.mark.parametrize("predict", ["noise", "velocity"])
    def test_both_errors_differ_by_the_noise_to_signal_ratio(self, new_model, predict):
        model, steps = new_model(predict=predict), torch.tensor([1.0, 2.3, 4.0])
        errors = model.double().loss_by_level(waveforms().double(), steps)
        ratio = (-model.config.schedule.log_snr(steps)).exp()
        assert torch.allclose(errors.clean, ratio * errors.noise, rtol=1e-6)

    def test_losses_by_level_use_the_same_noise_at_every_step_and_call(self, new_model):
        model, x, step = new_model(), waveforms(), torch.tensor([3.0])
        assert torch.equal(
            model.loss_by_level(x, step).noise, model.loss_by_level(x, step.repeat(2)).noise[1:]
        )
        assert not torch.equal(model.loss_by_level(x, step).noise, model.loss_by_level(x, step, seed=1).noise)

    def test_labels_are_dropped_with_the_probability_of_label_dropout(self, new_model):
        model, recorded = new_model(n_classes=3), []
        model.backbone.conditioning.register_forward_pre_hook(lambda _, args: recorded.append(args[1]))
        for _ in range(4):
            model.loss(waveforms(500, 16), label=torch.full((500,), 2))
        recorded = torch.cat(recorded)
        assert set(recorded.tolist()) == {2, 3}
        assert float((recorded == 3).double().mean()) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 2_000))

    def test_a_vocoder_is_conditioned_on_the_spectrogram_of_each_waveform(self, new_model):
        model, recorded = new_model(mel=MEL), []
        model.backbone.register_forward_pre_hook(lambda _, args: recorded.append(args[3]))
        x = waveforms(length=48)
        model.loss(x)
        assert torch.equal(recorded[0], model.log_mel(x))


class TestGenerate:
    def test_the_same_seed_gives_the_same_waveform(self, new_model):
        model = new_model()
        a, b, c = (model.generate(37, 2, seed=seed) for seed in (4, 4, 5))
        assert a.shape == (2, 37)
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert float(a.abs().max()) <= 1
        assert torch.equal(model.generate(37, 2, seed=torch.Generator().manual_seed(4)), a)

    @pytest.mark.parametrize("steps", [None, 3, torch.tensor([5.0, 2.5, 0.0])])
    @pytest.mark.parametrize("sampler", [DDIM, DPM_SOLVER])
    def test_steps_are_all_or_a_number_or_given(self, new_model, steps, sampler):
        model, recorded = new_model(), []
        model.backbone.register_forward_pre_hook(lambda _, args: recorded.append(float(args[1][0])))
        model.generate(16, sampler=sampler, steps=steps)
        path = {None: all_steps(model.config.schedule), 3: log_snr_steps(model.config.schedule, 3)}
        assert recorded == pytest.approx((steps if isinstance(steps, torch.Tensor) else path[steps]).tolist())

    def test_six_steps_of_the_published_schedule(self, new_model):
        model = new_model(LinearSchedule())
        assert model.generate(20, steps=six_steps(model.config.schedule)).shape == (1, 20)

    def test_a_length_is_padded_to_a_multiple_of_the_frame_and_cropped(self, new_model):
        model = new_model()
        frame = model.backbone.frame
        whole = model.generate(-(-37 // frame) * frame, seed=3)
        assert torch.equal(model.generate(37, seed=3), whole[:, :37])

    def test_it_is_clipped_to_full_scale_after_the_last_step_only(self, new_model):
        model, recorded = new_model(), []
        model.backbone.register_forward_pre_hook(lambda _, args: recorded.append(float(args[0].abs().max())))
        waveform = model.generate(64, 4)
        assert max(recorded) > 1.5
        assert float(waveform.abs().max()) <= 1

    def test_each_waveform_depends_on_its_own_label_only(self, new_model):
        model = new_model(n_classes=3).double()
        both = model.generate(32, label=torch.tensor([0, 2]), sampler=DDIM, seed=1)
        assert both.shape == (2, 32)
        other = model.generate(32, label=torch.tensor([0, 1]), sampler=DDIM, seed=1)
        assert torch.allclose(both[0], other[0])
        assert not torch.allclose(both[1], other[1])

    def test_classifier_free_guidance_is_linear_in_both_predictions(self, new_model):
        model = new_model(n_classes=3).double()
        x, step, label = torch.randn(2, 32).double(), torch.tensor([1.0, 4.0]).double(), torch.tensor([0, 2])
        uncond, cond = model.denoise(x, step), model.denoise(x, step, label)
        assert not torch.allclose(uncond[1], cond[1])
        for w in (0.0, 1.0, 1.0001, 3.5):
            clean, noise = model.denoise(x, step, label, guidance=w)
            assert torch.allclose(noise, uncond[1] + w * (cond[1] - uncond[1]))
            assert torch.allclose(clean, uncond[0] + w * (cond[0] - uncond[0]))

    def test_guidance_1_is_the_conditional_prediction_at_the_batch_size_itself(self, new_model):
        model, batch_sizes = new_model(n_classes=3), []
        model.backbone.register_forward_pre_hook(lambda _, args: batch_sizes.append(len(args[0])))
        x, step, label = torch.randn(2, 32), torch.tensor([1.0, 4.0]), torch.tensor([0, 2])
        noise = model.denoise(x, step, label)[1]
        assert torch.equal(noise, model.backbone(x, step, label))
        model.denoise(x, step, label, guidance=2.0)
        assert batch_sizes == [2, 2, 4]

    @pytest.mark.parametrize("length", [1, 2, 5])
    def test_a_vocoder_synthesizes_from_the_given_features(self, new_model, length):
        model, recorded = new_model(mel=MEL), []
        model.backbone.register_forward_pre_hook(lambda _, args: recorded.append(args[3]))
        features = model.log_mel(waveforms(2, 10 * length))
        a, b = (model.synthesize(f, DDIM, seed=3) for f in (features, features + 0.5))
        assert a.shape == (2, 10 * length)
        assert not torch.allclose(a, b)
        assert torch.equal(recorded[0][:, : length + 1], features)
        assert bool((recorded[0][:, length + 1 :] == -1).all())  # silence up to a whole frame of the network

    def test_the_scale_divides_the_input_and_multiplies_the_output(self, new_model):
        plain, x, quarter = new_model(), waveforms(), 0.25
        scaled = DiffusionModel(replace(plain.config, scale=quarter))
        scaled.load_state_dict(plain.state_dict())
        for loss in (
            lambda model, x: model.loss(x)[0],
            lambda model, x: model.loss_by_level(x, STEPS).noise,
        ):
            torch.manual_seed(3)
            expected = loss(plain, x)
            torch.manual_seed(3)
            assert torch.allclose(loss(scaled, quarter * x), expected, atol=1e-6)
        clean_error = plain.loss_by_level(x, STEPS).clean
        assert torch.allclose(scaled.loss_by_level(quarter * x, STEPS).clean, quarter**2 * clean_error)
        generated, small = (model.generate(37, seed=1) for model in (plain, scaled))
        unclipped = generated.abs() < 1
        assert torch.allclose(small[unclipped], quarter * generated[unclipped], atol=1e-6)
        known = torch.arange(37) < 20
        filled, small = plain.inpaint(x, known, seed=1), scaled.inpaint(quarter * x, known, seed=1)
        unclipped = filled.abs() < 1
        assert torch.allclose(small[unclipped], quarter * filled[unclipped], atol=1e-6)

    def test_a_preview_is_a_waveform(self, new_model):
        assert new_model().sample_audio(30, seed=2).shape == (1, 30)

    @pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(100)])
    def test_noise_and_velocity_of_the_same_denoiser_generate_the_same(
        self, new_model, schedule, monkeypatch
    ):
        model = new_model(schedule).double()
        by_noise = model.generate(32, sampler=DPM_SOLVER, steps=9)
        predict_noise, config = model.backbone.forward, model.config

        def velocity(x, step, label=None, features=None):
            alpha, sigma = (c[:, None] for c in alpha_sigma(schedule.log_snr(step)))
            noise = predict_noise(x, step, label, features)
            return alpha * noise - sigma * (x - sigma * noise) / alpha

        monkeypatch.setattr(model.backbone, "forward", velocity)
        model.config = DiffusionConfig(config.backbone, schedule, "velocity")
        assert torch.allclose(model.generate(32, sampler=DPM_SOLVER, steps=9), by_noise, atol=1e-6)


class TestInpaint:
    @pytest.fixture
    def known(self):
        known = torch.ones(37, dtype=torch.bool)
        known[10:25] = False
        return known

    @pytest.mark.parametrize("resample", [1, 3])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_known_samples_stay_bit_for_bit_and_others_change(self, new_model, known, resample, dtype):
        model, x = new_model(), waveforms().to(dtype)
        y = model.inpaint(x, known, steps=5, resample=resample, seed=2)
        assert y.dtype == dtype
        assert torch.equal(y[:, known], x[:, known])
        assert bool((y[:, ~known] != x[:, ~known]).all())
        assert float(y.abs().max()) <= 1
        assert torch.equal(model.inpaint(x, known, steps=5, resample=resample, seed=2), y)
        x[:, ~known] = 0  # unknown samples have no influence
        assert torch.equal(model.inpaint(x, known, steps=5, resample=resample, seed=2), y)

    def test_known_samples_in_the_network_s_input_have_the_noise_of_the_step(self, new_model, known):
        model, recorded = new_model(), []
        model.backbone.register_forward_pre_hook(lambda _, args: recorded.append((args[1][0], args[0])))
        x = torch.full((200, 37), 0.8)
        model.inpaint(x, known, steps=4)
        for step, noisy in recorded:
            alpha, sigma = alpha_sigma(model.config.schedule.log_snr(step))
            given_part = noisy[:, :37][:, known]
            assert float(given_part.mean()) == pytest.approx(float(0.8 * alpha), abs=0.06 * float(sigma))
            assert float(given_part.std()) == pytest.approx(float(sigma), rel=0.05)

    def test_a_mask_without_known_samples_is_valid(self, new_model, known):
        x = waveforms()
        assert new_model().inpaint(x, known & False, steps=3).shape == x.shape


class TestBadInput:
    @pytest.mark.parametrize(
        ("call", "named"),
        [
            (lambda m: m.check(torch.full((1, 32), math.nan)), "x must be finite"),
            (lambda m: m.check(torch.full((1, 32), 1.5)), r"x must lie in \[-1, 1\]"),
            (lambda m: m.loss(waveforms(), label=torch.zeros(3).long()), "label must be None"),
            (lambda m: m.loss(waveforms(), cache=(torch.zeros(3), None)), "cache must be None"),
            (lambda m: m.loss_by_level(waveforms(), torch.tensor([6.0])), r"step must lie in 0\.\.5"),
            (lambda m: m.generate(0), "length must be at least 1 sample, got 0"),
            (lambda m: m.generate(16, steps=1), "n must be at least 2 steps, got 1"),
            (lambda m: m.generate(16, steps=torch.tensor([6.0])), r"step must lie in 0\.\.5"),
            (lambda m: m.generate(16, guidance=2.0), "guidance must be finite, and 1 where no label"),
            (lambda m: m.generate(16, label=torch.zeros(1).long()), "label must be None"),
            (lambda m: m.synthesize(torch.zeros(1, 4, 5)), "features must not be given"),
            (lambda m: m.inpaint(waveforms(), torch.ones(37).bool()), "not all of them True"),
            (
                lambda m: m.inpaint(waveforms(), torch.zeros(36).bool()),
                "known_mask must be a boolean mask of 37 samples",
            ),
            (
                lambda m: m.inpaint(waveforms(), torch.zeros(37)),
                "known_mask must be a boolean mask of 37 samples",
            ),
            (lambda m: m.inpaint(waveforms() * math.inf, torch.zeros(37).bool()), "waveform must be finite"),
            (
                lambda m: m.inpaint(waveforms(), torch.zeros(37).bool(), resample=0),
                "resample must be at least 1",
            ),
        ],
    )
    def test_of_an_unconditional_model_is_named(self, new_model, call, named):
        with without_shape_checks(), pytest.raises(ValueError, match=named):
            call(new_model())

    @pytest.mark.parametrize(
        ("call", "named"),
        [
            (
                lambda m: m.check(waveforms(2), torch.tensor([0, 3])),
                r"label must hold 2 numbers in 0\.\.2",
            ),
            (
                lambda m: m.loss(waveforms(2), label=torch.tensor([0])),
                "label must hold 2 numbers, got shape",
            ),
            (lambda m: m.generate(16, label=torch.tensor([-1])), r"label must hold 1 numbers in 0\.\.2"),
            (lambda m: m.generate(16, label=torch.tensor([0]), guidance=math.nan), "guidance must be finite"),
            (lambda m: m.generate(16, guidance=2.0), "1 where no label is given, got 2.0"),
        ],
    )
    def test_of_a_class_conditional_model_is_named(self, new_model, call, named):
        with without_shape_checks(), pytest.raises(ValueError, match=named):
            call(new_model(n_classes=3))

    @pytest.mark.parametrize(
        ("call", "named"),
        [
            (lambda m: m.generate(16), "features must be given"),
            (
                lambda m: m.synthesize(torch.zeros(1, 4, 6)),
                r"features must have shape \(batch, at least 2 frames, 5\)",
            ),
            (lambda m: m.synthesize(torch.zeros(1, 1, 5)), "at least 2 frames"),
            (lambda m: m.synthesize(torch.full((1, 4, 5), math.nan)), "features must be finite"),
        ],
    )
    def test_of_a_vocoder_is_named(self, new_model, call, named):
        with without_shape_checks(), pytest.raises(ValueError, match=named):
            call(new_model(mel=MEL))

    @pytest.mark.parametrize(
        "settings", [{"predict": "sound"}, {"label_dropout": 1.0}, {"label_dropout": -0.1}, {"scale": 0.0}]
    )
    def test_of_settings_is_named(self, settings):
        with without_shape_checks(), pytest.raises(ValueError, match=f"{next(iter(settings))} must"):
            DiffusionConfig(NETWORKS["diffwave"](), **settings)


class LinearDenoiser(Denoiser):
    """A linear denoiser, enough for Gaussian waveforms: a gain per principal direction and whole step."""

    config, frame = ConditioningConfig(), 1

    def __init__(self, directions, steps):
        super().__init__()
        self.register_buffer("directions", directions.float())
        self.gains = torch.nn.Embedding.from_pretrained(torch.zeros(steps, len(directions)), freeze=False)

    def forward(self, x, step, label=None, features=None):
        return (self.gains(step.long()) * (x @ self.directions)) @ self.directions.T


def smooth_waveforms(length):
    """Return the covariance of slowly varying waveforms, its eigenvalues and eigenvectors."""
    t = torch.arange(length).double()
    covariance = 0.04 * torch.exp(-((t[:, None] - t) ** 2) / 18) + 0.0004 * torch.eye(length)
    return covariance, *torch.linalg.eigh(covariance)


@pytest.mark.parametrize("predict", ["noise", "velocity"])
def test_training_reaches_the_optimal_denoiser_and_generation_the_distribution(predict, shapes_unchecked):
    """For Gaussian waveforms with a given covariance, the optimal error is known at each step."""
    length, schedule = 8, LogSNRSchedule(30, highest=6.0, lowest=-5.0)
    covariance, values, vectors = smooth_waveforms(length)

    def data(n):
        return (torch.randn(n, length).double() * values.sqrt() @ vectors.T).clamp(-1, 1).float()

    model = DiffusionModel(DiffusionConfig(NETWORKS["diffwave"](), schedule, predict))
    model.backbone = LinearDenoiser(vectors, schedule.steps)
    optimizer = torch.optim.Adam(model.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=500)
    for _ in range(500):
        loss = model.loss(data(300))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()

    steps = torch.arange(schedule.steps).double()
    alpha, sigma = alpha_sigma(schedule.log_snr(steps)[:, None])
    optimum = (alpha**2 * values / (alpha**2 * values + sigma**2)).mean(1)
    errors = model.loss_by_level(data(20_000), steps)
    assert torch.allclose(errors.noise.double(), optimum, rtol=0.02, atol=0)
    generated = model.generate(length, 20_000, sampler=DPM_SOLVER, seed=1).double()
    assert float(torch.linalg.norm(generated.T.cov() - covariance) / torch.linalg.norm(covariance)) < 0.06


def test_resampling_brings_an_inpainted_gap_near_its_conditional_distribution(shapes_unchecked):
    """For Gaussian waveforms, mean and standard deviation of a gap given the rest are known. One pass is not
    enough: at early steps the generated part hardly depends on the surroundings."""
    covariance, values, vectors = smooth_waveforms(8)
    schedule = LogSNRSchedule(30, highest=8.0, lowest=-5.0)
    model = DiffusionModel(DiffusionConfig(NETWORKS["diffwave"](), schedule))
    model.backbone = LinearDenoiser(vectors, schedule.steps)
    alpha, sigma = alpha_sigma(schedule.log_snr(torch.arange(schedule.steps))[:, None])
    model.backbone.gains.weight.data = (sigma / (alpha**2 * values + sigma**2)).float()  # the optimal gains
    known = torch.tensor([True, True, True, False, False, False, True, True])
    x = torch.randn(1, 8).double() * values.sqrt() @ vectors.T
    regression = covariance[~known][:, known] @ covariance[known][:, known].inverse()
    mean = regression @ x[0, known]
    std = (covariance[~known][:, ~known] - regression @ covariance[known][:, ~known]).trace().sqrt()

    def error(resample):
        y = model.inpaint(x.expand(2_000, -1), known, resample=resample)
        return float((y[:, ~known] - mean).square().sum(1).mean().sqrt() / std)

    assert error(1) > 1.7
    assert error(10) < 1.25
