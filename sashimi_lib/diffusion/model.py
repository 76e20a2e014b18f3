"""A diffusion model of waveforms: training objective, generation, vocoding and inpainting (chapter 9).

A noise schedule sets the signal-to-noise ratio of each step, a bidirectional network predicts the noise, and
a sampler goes from noise to a waveform.
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
from sashimi_lib.diffusion.guidance import check_label_shape, check_labels, drop_labels, guided_output
from sashimi_lib.diffusion.inpainting import check_known_mask, replace_known
from sashimi_lib.diffusion.objective import (
    Predict,
    TrainingNoise,
    convert_model_output,
    noise_from_seed,
    sample_training_noise,
    target,
)
from sashimi_lib.diffusion.samplers import (
    ANCESTRAL,
    DPM_SOLVER,
    Constrain,
    DiffusionSampler,
    Steps,
    repaint_steps,
    resolve_steps,
    sample,
)
from sashimi_lib.diffusion.schedules import PUBLISHED, Schedule, add_noise
from sashimi_lib.models.denoiser import DenoiserConfig
from sashimi_lib.models.trainable import Cache, Trainable
from sashimi_lib.registry import register
from sashimi_lib.ssm.kernel_cache import cached_kernels
from sashimi_lib.ssm.precision import tf32_allowed


@register
@dataclass(frozen=True)
class DiffusionConfig:
    """A diffusion model: its denoiser, its noise schedule and its training target.

    The published models have the defaults. Choose the velocity, alpha noise - sigma clean, for a schedule
    whose last step is pure noise: there the noise has no information about the signal. Waveforms in [-1, 1]
    are quiet compared to noise of variance 1, and at half of the steps the signal would be lost in it;
    divided by their root mean square they are as loud.
    """

    backbone: DenoiserConfig  # Architecture of the denoiser.
    schedule: Schedule = PUBLISHED  # Noise schedule.
    predict: Predict = "noise"  # What the denoiser predicts: noise, or velocity.
    label_dropout: float = 0.1  # Share of labels dropped in training, for classifier-free guidance.
    scale: float = 1.0  # Waveforms are divided by it before noise is added; about their RMS.

    def __post_init__(self) -> None:
        """Raise ValueError for another prediction, for a share outside [0, 1), and for a scale that is not
        positive."""
        if self.predict not in get_args(Predict):
            raise ValueError(f"predict must be one of {', '.join(get_args(Predict))}, got {self.predict!r}")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must lie in [0, 1), got {self.label_dropout}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {self.scale}")


class LevelLoss(NamedTuple):
    """Mean squared errors of the noise and of the clean waveform, one value per step."""

    noise: Float[Tensor, " steps"]
    clean: Float[Tensor, " steps"]


class DiffusionModel(Trainable):
    """A diffusion model: a noise schedule and a denoising network.

    >>> from sashimi_lib.models import DiffWaveConfig
    >>> config = DiffusionConfig(DiffWaveConfig(d_residual=8, d_skip=8, n_layers=4, cycle=4))
    >>> model = DiffusionModel(config)
    >>> loss, _ = model.loss(torch.zeros(2, 100))
    >>> loss.shape
    torch.Size([2, 100])
    >>> model.generate(100, steps=5, seed=0).shape
    torch.Size([1, 100])

    With ``config.backbone.mel`` it is a vocoder, conditioned on mel spectrograms: see `synthesize`. With
    ``config.backbone.n_classes`` it is conditioned on class labels.

    Chapter: 9. DDPM paper (Ho et al., 2020); DiffWave paper (Kong et al., 2021).
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.log_mel = LogMel(config.backbone.mel) if config.backbone.mel else None

    @property
    def pad_value(self) -> float:
        """The value of a silent sample, which pads the shorter sequences of a batch."""
        return 0.0

    def initial_cache(self, batch_size: int) -> None:
        """Return None: the network is bidirectional and takes whole sequences."""

    def loss(
        self,
        x: Float[Tensor, "batch length"],
        cache: Cache | None = None,
        label: Int[Tensor, " batch"] | None = None,
        noise: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch length"], None]:
        """Return the squared error of the network's output at each sample, each sequence at a random step.

        ``noise`` is the `TrainingNoise` of these sequences. The values of samples and labels are not read,
        which would synchronize with a GPU: `check` validates them. Raises ValueError for a cache, for labels
        of a model without classes, and unless there is one label per sequence.
        """
        if cache is not None:
            raise ValueError("cache must be None: a diffusion model takes whole sequences only")
        n_classes = self.config.backbone.n_classes
        check_label_shape(label, len(x), n_classes)
        step, dropout, seed = self.sample_noise(len(x)) if noise is None else noise
        if label is not None:
            label = drop_labels(label, dropout, self.config.label_dropout, n_classes)
        length, x = x.shape[1], self._pad(x)
        features, x = self._features(x), x / self.config.scale
        epsilon, log_snr = noise_from_seed(seed, like=x), self.config.schedule.log_snr(step)
        step = step.to(x, non_blocking=True)
        output = self.backbone(add_noise(x, epsilon, log_snr), step, label, features)
        error = output.to(x.dtype) - target(x, epsilon, log_snr, self.config.predict)
        return error.square()[:, :length], None

    def sample_noise(self, batch_size: int) -> TrainingNoise:
        """Sample steps, label dropout and noise seeds for a batch, independently of the model's device."""
        return sample_training_noise(self.config.schedule.steps, batch_size)

    def check(self, x: Float[Tensor, "batch length"], label: Int[Tensor, " batch"] | None = None) -> None:
        """Raise ValueError unless ``x`` lies in [-1, 1] and ``label`` is None or valid for this model."""
        check_waveform(x, "x")
        check_labels(label, len(x), self.config.backbone.n_classes)

    def denoise(
        self,
        x: Float[Tensor, "batch length"],
        step: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
        guidance: float = 1.0,
        features: Float[Tensor, "batch frames n_mels"] | None = None,
    ) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
        """Estimate the clean waveform and the noise in ``x``, both in units of ``config.scale``.

        ``guidance`` is the scale of classifier-free guidance, ``uncond + guidance (cond - uncond)``: 0
        ignores the label, 1 is the conditional estimate, and larger values exaggerate the effect of the
        label. The conditional and the unconditional estimate are computed in one forward pass.

        Raises ValueError for labels out of range or of a model without classes; for guidance that is not
        finite, or other than 1 without labels; and as `sashimi_lib.models.denoiser.Denoiser` does.

        Chapter: 9. Ho and Salimans (2022), equation 6, whose w is ``guidance - 1``.
        """
        return self._denoise(x, step, self._validated_labels(label, len(x)), guidance, features)

    def _denoise(
        self,
        x: Tensor,
        step: Tensor,
        label: Tensor | None = None,
        guidance: float = 1.0,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`denoise` for validated labels: sampling validates them once, not at every step."""
        output = guided_output(self.backbone, x, step, label, guidance, features)
        return convert_model_output(x, output, self.config.schedule.log_snr(step), self.config.predict)

    @torch.no_grad()
    @tf32_allowed(False)
    def loss_by_level(
        self,
        x: Float[Tensor, "batch length"],
        steps: Float[Tensor, " steps"],
        label: Int[Tensor, " batch"] | None = None,
        seed: int = 0,
    ) -> LevelLoss:
        """Compute the mean squared errors of the estimated noise and clean waveform at given steps.

        The noise depends on ``seed`` only: it is the same at all steps and for every model. Either error
        compares models that predict noise with models that predict velocity; the two differ by the
        signal-to-noise ratio of the step. Raises ValueError as `check` does, and for steps outside the
        schedule.
        """
        check_waveform(x, "x")
        length, x = x.shape[1], self._pad(x).to(self.device)
        features, x = self._features(x), x / self.config.scale
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        noise_errors, clean_errors = [], []
        with parametrize.cached(), cached_kernels(self):
            for step in steps.double().cpu():
                noisy = add_noise(x, noise, self.config.schedule.log_snr(step))
                clean_hat, noise_hat = self.denoise(noisy, step.expand(len(x)), label, features=features)
                noise_errors.append(F.mse_loss(noise_hat[:, :length], noise[:, :length]))
                clean_errors.append(F.mse_loss(clean_hat[:, :length], x[:, :length]) * self.config.scale**2)
        return LevelLoss(torch.stack(noise_errors), torch.stack(clean_errors))

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
        """Generate waveforms of ``length`` samples in [-1, 1], one per label if there are labels.

        ``guidance`` is the scale of classifier-free guidance, see `denoise`. ``steps`` are all steps of the
        schedule (None), n steps uniform in log-SNR (`sashimi_lib.diffusion.samplers.log_snr_steps`), or a
        tensor of steps. The result is clipped to [-1, 1] once, after the last step. The same seed gives the
        same waveforms. Raises ValueError for a length or steps out of range, for a vocoder, which needs
        features, and as `denoise` does.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        shape = (batch_size if label is None else len(label), length)
        denoise = partial(self._denoise, label=self._validated_labels(label, shape[0]), guidance=guidance)
        steps = resolve_steps(self.config.schedule, steps)
        return self._sample(shape, denoise, sampler, steps, self.generator(seed), progress)

    def synthesize(
        self,
        features: Float[Tensor, "batch frames n_mels"],
        sampler: DiffusionSampler = ANCESTRAL,
        steps: Steps = None,
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Float[Tensor, "batch length"]:
        """Synthesize waveforms from log-mel spectrograms of `LogMel`: ``hop (frames - 1)`` samples.

        The other arguments are those of `generate`. Raises ValueError for features that are not finite, of
        another number of bands or of fewer than two frames, and for a model that is not mel-conditioned.
        """
        if self.log_mel is None:
            raise ValueError("features must not be given: this model is not mel-conditioned")
        mel = self.log_mel.config
        check_features(features, mel)
        length = (features.shape[1] - 1) * mel.hop
        padding = math.ceil(self._padded_length(length) / mel.hop) + 1 - features.shape[1]
        features = F.pad(features, (0, 0, 0, padding), value=-1.0).to(self.device)  # -1 is silence
        denoise = partial(self._denoise, features=features)
        shape = (len(features), length)
        steps = resolve_steps(self.config.schedule, steps)
        return self._sample(shape, denoise, sampler, steps, self.generator(seed), progress)

    def inpaint(
        self,
        waveform: Float[Tensor, "batch length"],
        known_mask: Bool[Tensor, " length"],
        label: Int[Tensor, " batch"] | None = None,
        guidance: float = 1.0,
        sampler: DiffusionSampler = ANCESTRAL,
        steps: Steps = None,
        resample: int = 1,
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Float[Tensor, "batch length"]:
        """Generate the samples of ``waveform`` where ``known_mask`` is False; the known samples stay as they
        are, bit for bit.

        At each step the known samples of x are replaced by the waveform with the noise of that step. With
        ``resample`` above 1 each step is repeated that many times, with a step of the forward process in
        between: the cost grows in proportion, and gap and surroundings agree better. On Gaussian signals,
        where the optimum is known, the error of the gap is twice the optimum with 1, a sixth more with 10.

        The other arguments are those of `generate`. Raises ValueError for a waveform outside [-1, 1], for a
        mask of another length or without a False, and for ``resample`` below 1.

        Chapter: 9. RePaint (Lugmayr et al., 2022), section 4.
        """
        check_waveform(waveform)
        check_known_mask(known_mask, waveform.shape[1])
        generator, shape = self.generator(seed), (len(waveform), waveform.shape[1])
        clean, mask = (self._pad(x).to(self.device) for x in (waveform / self.config.scale, known_mask))
        constrain = replace_known(clean, mask, self.config.schedule, generator)
        denoise = partial(self._denoise, label=self._validated_labels(label, shape[0]), guidance=guidance)
        steps = repaint_steps(resolve_steps(self.config.schedule, steps), resample)
        x = self._sample(shape, denoise, sampler, steps, generator, progress, constrain)
        return torch.where(known_mask.to(waveform.device), waveform, x.to(waveform))

    def sample_audio(self, length: int, seed: int = 0) -> Float[Tensor, "batch length"]:
        """Generate a waveform in 20 steps. Raises ValueError for a vocoder, which needs features."""
        return self.generate(length, sampler=DPM_SOLVER, steps=20, seed=seed)

    def _sample(
        self,
        shape: tuple[int, int],
        denoise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        sampler: DiffusionSampler,
        steps: Tensor,
        generator: torch.Generator,
        progress: bool,
        constrain: Constrain | None = None,
    ) -> Tensor:
        """Run a sampler from noise to waveforms of a given shape."""
        batch, length = shape
        weight = next(self.parameters())
        x = torch.randn(
            batch, self._padded_length(length), generator=generator, device=weight.device, dtype=weight.dtype
        )

        def denoise_at(x: Tensor, step: float) -> tuple[Tensor, Tensor]:
            return denoise(x, torch.full((batch,), step, dtype=torch.float64))

        # Weight norm and the kernels are computed once, not at every step.
        with parametrize.cached(), cached_kernels(self):
            x = sample(denoise_at, self.config.schedule, steps, x, sampler, generator, constrain, progress)
        return (self.config.scale * x[:, :length]).clamp(-1, 1)

    def _padded_length(self, length: int) -> int:
        """Round up to the next multiple of the network's ``frame``."""
        return length + -length % self.backbone.frame

    def _pad(self, x: Tensor) -> Tensor:
        """Pad to `_padded_length` with zeros, or with False."""
        return F.pad(x, (0, -x.shape[-1] % self.backbone.frame))

    def _features(self, x: Tensor) -> Tensor | None:
        """Compute the conditioning spectrogram of training waveforms, None for other models."""
        return None if self.log_mel is None else self.log_mel(x)

    def _validated_labels(self, label: Tensor | None, batch: int) -> Tensor | None:
        """Return the labels on the model's device; see `check_labels`."""
        check_labels(label, batch, self.config.backbone.n_classes)
        return None if label is None else label.to(self.device)
