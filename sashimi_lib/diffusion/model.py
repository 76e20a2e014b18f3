"""A diffusion model of sound: it learns to hear the noise in a noisy sound, and sings by taking it away.

A schedule says how noisy each step is, a network hears both ways and says what is noise, a sampler goes from
noise to sound (chapter 9).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize

from sashimi_lib.audio import check_waveform
from sashimi_lib.audio.mel import LogMel, check_features
from sashimi_lib.diffusion.objective import Draws, Predict, estimates, noise_of, random_draws, target
from sashimi_lib.diffusion.samplers import (
    ANCESTRAL,
    DPM_SOLVER,
    Constrain,
    DiffusionSampler,
    every_step,
    grid,
    resampled,
    sample,
)
from sashimi_lib.diffusion.schedules import PUBLISHED, Schedule, add_noise
from sashimi_lib.models.denoiser import DenoiserConfig
from sashimi_lib.models.trainable import Cache, Trainable
from sashimi_lib.registry import register
from sashimi_lib.ssm.kernel_cache import cached_kernels
from sashimi_lib.ssm.precision import tf32_allowed

Steps = int | Float[Tensor, " n"] | None  # so many steps of `grid`, these steps, or every step there is


@register
@dataclass(frozen=True)
class DiffusionConfig:
    """The shape of the network, the noise schedule, what the network says (its ``noise``, or its ``velocity``
    alpha noise - sigma sound), the share of labels that training leaves out, and the ``scale`` that sounds
    are divided by before noise is added to them.

    The published models have the defaults. A velocity is worth asking for where a schedule ends in nothing
    but noise: there noise tells nothing about the sound. Labels are left out now and then so that the model
    can also sing without, which guidance needs; where there are no classes that has no meaning. Sounds in
    [-1, 1] are quiet beside noise of variance 1, and half of a schedule's steps would tell nothing but noise
    from noise: with a ``scale`` of about their root mean square they are as loud.

    Chapter: 9. Raises ValueError for another prediction, for a share outside [0, 1), and for a scale that is
    not positive.
    """

    backbone: DenoiserConfig
    schedule: Schedule = PUBLISHED
    predict: Predict = "noise"
    label_dropout: float = 0.1
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.predict not in get_args(Predict):
            raise ValueError(f"predict must be one of {', '.join(get_args(Predict))}, got {self.predict!r}")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must lie in [0, 1), got {self.label_dropout}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {self.scale}")


class LevelLoss(NamedTuple):
    """Mean squared errors of the noise and of the clean sound, one of each for every step asked about."""

    noise: Float[Tensor, " steps"]
    clean: Float[Tensor, " steps"]


class DiffusionModel(Trainable):
    """A schedule and a network.

    >>> from sashimi_lib.models import DiffWaveConfig
    >>> config = DiffusionConfig(DiffWaveConfig(d_residual=8, d_skip=8, n_layers=4, cycle=4))
    >>> model = DiffusionModel(config)
    >>> loss, _ = model.loss(torch.zeros(2, 100))
    >>> loss.shape
    torch.Size([2, 100])
    >>> model.generate(100, steps=5, seed=0).shape
    torch.Size([1, 100])

    With ``config.backbone.mel`` it is a vocoder: it learns the sounds that have a spectrogram, and `synthesize`
    makes one. With ``config.backbone.n_classes`` it can be told what a sound is a sound of.

    Chapter: 9. DDPM paper (Ho et al., 2020); DiffWave paper (Kong et al., 2021).
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.log_mel = LogMel(config.backbone.mel) if config.backbone.mel else None

    @property
    def pad_value(self) -> float:
        """A sample of silence."""
        return 0.0

    def initial_cache(self, batch_size: int) -> None:
        """No past: sounds are heard as wholes, from both ends."""

    def loss(
        self,
        x: Float[Tensor, "batch length"],
        cache: Cache | None = None,
        label: Int[Tensor, " batch"] | None = None,
        noise: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch length"], None]:
        """Return the squared error of the network's prediction of each sample, each sound at a random step.

        ``noise`` holds the `Draws` of these sounds. Samples and labels are not looked at, which would have the
        CPU wait for a GPU: `check` does that. Raises ValueError for a past, and for labels that the model
        cannot take or that are not one for each sound.
        """
        if cache is not None:
            raise ValueError("cache must be None: a diffusion model takes whole sounds only")
        self._check_labels_fit(label, len(x))
        step, dropout, seed = self.sample_noise(len(x)) if noise is None else noise
        if label is not None:
            dropped = (dropout < self.config.label_dropout).to(label.device, non_blocking=True)
            label = torch.where(dropped, self.config.backbone.n_classes, label)
        length, x = x.shape[1], self._padded(x)
        features, x = self._features(x), x / self.config.scale
        epsilon, level = noise_of(seed, like=x), self.config.schedule.log_snr(step)
        step = step.to(x, non_blocking=True)
        prediction = self.backbone(add_noise(x, epsilon, level), step, label, features)
        error = prediction.to(x.dtype) - target(x, epsilon, level, self.config.predict)
        return error.square()[:, :length], None

    def sample_noise(self, batch_size: int) -> Draws:
        """Steps, dropped labels and noise of so many sounds, the same ones wherever the weights are."""
        return random_draws(self.config.schedule.steps, batch_size)

    def check(self, x: Float[Tensor, "batch length"], label: Int[Tensor, " batch"] | None = None) -> None:
        """Raise ValueError unless these are sounds in [-1, 1], with labels of its classes if any."""
        check_waveform(x, "x")
        self._checked(label, len(x))

    def denoise(
        self,
        x: Float[Tensor, "batch length"],
        step: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
        guidance: float = 1.0,
        features: Float[Tensor, "batch frames n_mels"] | None = None,
    ) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
        """Estimates of the clean sound and of the noise in noisy ones, both in units of ``config.scale``.

        With ``guidance`` w, what is said without the label is drawn on through what is said with it, ``none +
        w (told - none)``: 0 ignores it, 1 believes it, more exaggerates it. Both are asked in one pass.

        Raises ValueError for labels out of range or where there are no classes; for guidance that is not
        finite, or other than 1 without labels; and as `sashimi_lib.models.denoiser.Denoiser` does.

        Chapter: 9. Ho and Salimans (2022), equation 6, whose w is one less.
        """
        return self._denoise(x, step, self._checked(label, len(x)), guidance, features)

    def _denoise(
        self,
        x: Tensor,
        step: Tensor,
        label: Tensor | None = None,
        guidance: float = 1.0,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The same of labels that have been checked: sampling checks them once, not at every step."""
        if guidance == 1:
            said = self.backbone(x, step.to(x, non_blocking=True), label, features)
        elif label is None or not math.isfinite(guidance):
            raise ValueError(f"guidance must be finite, and 1 where no label is given, got {guidance}")
        else:
            none = torch.full_like(label, self.config.backbone.n_classes)
            twice = None if features is None else torch.cat([features, features])
            steps = torch.cat([step, step]).to(x, non_blocking=True)
            both = self.backbone(torch.cat([x, x]), steps, torch.cat([label, none]), twice)
            told, untold = both.chunk(2)
            said = untold + guidance * (told - untold)
        return estimates(x, said, self.config.schedule.log_snr(step), self.config.predict)

    @torch.no_grad()
    @tf32_allowed(False)
    def loss_by_level(
        self,
        x: Float[Tensor, "batch length"],
        steps: Float[Tensor, " steps"],
        label: Int[Tensor, " batch"] | None = None,
        seed: int = 0,
    ) -> LevelLoss:
        """How well it hears the noise, and the sound, at each of some steps: with the same noise at all of
        them, and for every model.

        Models that say noise and models that say velocity compare by either of the two; these differ by the
        signal-to-noise ratio of the step alone. Raises ValueError as `loss` does, and for steps beyond the
        schedule's ends.
        """
        check_waveform(x, "x")
        length, x = x.shape[1], self._padded(x).to(self.device)
        features, x = self._features(x), x / self.config.scale
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        of_noise, of_clean = [], []
        with parametrize.cached(), cached_kernels(self):
            for step in steps.double().cpu():
                noisy = add_noise(x, noise, self.config.schedule.log_snr(step))
                clean_hat, noise_hat = self.denoise(noisy, step.expand(len(x)), label, features=features)
                of_noise.append(F.mse_loss(noise_hat[:, :length], noise[:, :length]))
                of_clean.append(F.mse_loss(clean_hat[:, :length], x[:, :length]) * self.config.scale**2)
        return LevelLoss(torch.stack(of_noise), torch.stack(of_clean))

    def generate(
        self,
        length: int,
        batch_size: int = 1,
        label: Int[Tensor, " batch"] | None = None,
        guidance: float = 1.0,
        sampler: DiffusionSampler = ANCESTRAL,
        steps: Steps = None,
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Float[Tensor, "batch length"]:
        """Sounds of ``length`` samples, one for each label where there are labels, in [-1, 1].

        ``steps`` are every step of the schedule, or so many of `sashimi_lib.diffusion.samplers.grid`, or
        those that are given. What goes beyond [-1, 1] is cut at the very end, not on the way. The same seed
        gives the same sounds. Raises ValueError for a length or steps out of range, where a spectrogram is
        missing, and as `denoise` does.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        shape = (batch_size if label is None else len(label), length)
        denoise = partial(self._denoise, label=self._checked(label, shape[0]), guidance=guidance)
        return self._synthesize(shape, denoise, sampler, self._path(steps), self.generator(seed), progress)

    def synthesize(
        self,
        features: Float[Tensor, "batch frames n_mels"],
        sampler: DiffusionSampler = ANCESTRAL,
        steps: Steps = None,
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Float[Tensor, "batch length"]:
        """Sounds with these spectrograms, as `LogMel` makes them: ``hop`` samples a frame after the first.

        Otherwise as `generate`. Raises ValueError for features that are not finite, of another number of
        bands or of fewer than two frames, and where the model follows no spectrogram.
        """
        if self.log_mel is None:
            raise ValueError("features must not be given: this model follows no spectrogram")
        mel = self.log_mel.config
        check_features(features, mel)
        length = (features.shape[1] - 1) * mel.hop
        more = math.ceil(self._whole(length) / mel.hop) + 1 - features.shape[1]
        features = F.pad(features, (0, 0, 0, more), value=-1.0).to(self.device)  # -1 is silence
        denoise = partial(self._denoise, features=features)
        shape = (len(features), length)
        return self._synthesize(shape, denoise, sampler, self._path(steps), self.generator(seed), progress)

    def inpaint(
        self,
        waveform: Float[Tensor, "batch length"],
        known: Bool[Tensor, " length"],
        label: Int[Tensor, " batch"] | None = None,
        guidance: float = 1.0,
        sampler: DiffusionSampler = ANCESTRAL,
        steps: Steps = None,
        resample: int = 1,
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Float[Tensor, "batch length"]:
        """These sounds with other samples in place of those that are not ``known``; the known ones stay as
        they are, bit for bit.

        On the way, the known samples are put back at each step, as noisy as the step has them. With
        ``resample`` above 1 each step is taken so many times, and undone by fresh noise in between: that
        costs as many times more, and gap and surroundings agree better. On Gaussian sounds, where the best
        is known, gaps are off by twice as much as they need be with 1, and by a sixth more with 10.

        Otherwise as `generate`. Raises ValueError for sounds that are none, for a mask that does not tell of
        every sample, or of none that is unknown, and for a ``resample`` below 1.

        Chapter: 9. RePaint (Lugmayr et al., 2022), section 4.
        """
        check_waveform(waveform)
        if known.shape != waveform.shape[1:] or known.dtype != torch.bool or bool(known.all()):
            raise ValueError(
                f"known must be a mask of {waveform.shape[1]} samples, not all of them known, got shape "
                f"{tuple(known.shape)}, dtype {known.dtype}, {int(known.sum())} known"
            )
        generator = self.generator(seed)
        given, mask = (self._padded(whole).to(self.device) for whole in (waveform / self.config.scale, known))

        def constrain(x: Tensor, step: float) -> Tensor:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            level = self.config.schedule.log_snr(torch.tensor(step))
            return torch.where(mask, add_noise(given.to(x), noise, level), x)

        denoise = partial(self._denoise, label=self._checked(label, len(waveform)), guidance=guidance)
        path, shape = resampled(self._path(steps), resample), (len(waveform), waveform.shape[1])
        x = self._synthesize(shape, denoise, sampler, path, generator, progress, constrain)
        return torch.where(known.to(waveform.device), waveform, x.to(waveform))

    def sample_audio(self, length: int, seed: int = 0) -> Float[Tensor, "batch length"]:
        """A waveform that the model makes up, in 20 steps. Raises ValueError where it needs a spectrogram."""
        return self.generate(length, sampler=DPM_SOLVER, steps=20, seed=seed)

    def _synthesize(
        self,
        shape: tuple[int, int],
        denoise: Callable[..., tuple[Tensor, Tensor]],
        sampler: DiffusionSampler,
        path: Tensor,
        generator: torch.Generator,
        progress: bool,
        constrain: Constrain | None = None,
    ) -> Tensor:
        """From noise to sounds of that shape; ``denoise(x, steps)`` is told all there is to tell."""
        batch, length = shape
        weight = next(self.parameters())
        start = torch.randn(
            batch, self._whole(length), generator=generator, device=weight.device, dtype=weight.dtype
        )

        def at(x: Tensor, step: float) -> tuple[Tensor, Tensor]:
            return denoise(x, torch.full((batch,), step, dtype=torch.float64))

        # Weights under weight norm are multiplied out once, kernels are made once: not at every step.
        with parametrize.cached(), cached_kernels(self):
            x = sample(at, self.config.schedule, path, start, sampler, generator, constrain, progress)
        return (self.config.scale * x[:, :length]).clamp(-1, 1)

    def _path(self, steps: Steps) -> Tensor:
        if steps is None:
            return every_step(self.config.schedule)
        return grid(self.config.schedule, steps) if isinstance(steps, int) else steps

    def _whole(self, length: int) -> int:
        """The next length that the network's frame divides."""
        return length + -length % self.backbone.frame

    def _padded(self, x: Tensor) -> Tensor:
        """Up to such a length, with silence, or with False."""
        return F.pad(x, (0, -x.shape[-1] % self.backbone.frame))

    def _features(self, x: Tensor) -> Tensor | None:
        """The spectrogram of sounds themselves, where the model is told one."""
        return None if self.log_mel is None else self.log_mel(x)

    def _checked(self, label: Tensor | None, batch: int) -> Tensor | None:
        """The labels, where the weights are. Raises ValueError unless there are none, or one of the classes
        for each sound."""
        self._check_labels_fit(label, batch)
        n = self.config.backbone.n_classes
        if label is not None and bool(((label < 0) | (label >= n)).any()):
            raise ValueError(f"label must hold {batch} numbers in 0..{n - 1}, got {label.tolist()}")
        return None if label is None else label.to(self.device)

    def _check_labels_fit(self, label: Tensor | None, batch: int) -> None:
        """The same without a look at their values."""
        if label is None:
            return
        if self.config.backbone.n_classes == 0:
            raise ValueError("label must be None: this model knows no classes")
        if label.shape != (batch,):
            raise ValueError(f"label must hold {batch} numbers, got shape {tuple(label.shape)}")
