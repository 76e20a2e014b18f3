"""Distances between generated and real audio, for models without a likelihood (chapter 9).

- `frechet` compares the distributions of features, such as those of a classifier;
- `spectrum_distance` compares average spectra;
- `stft_distance` compares pairs of waveforms, for a vocoder, which is conditioned on a spectrogram.

All are 0 for equal sets or pairs of waveforms.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.audio import check_waveform
from sashimi_lib.audio.mel import LogMel, LogMelConfig

MAX_FFT_SIZE = 2048  # samples, of `stft_distance`
Sounds = Tensor | Sequence[Tensor]  # waveforms: a batch (n, length), or (length,) of different lengths


def frechet(a: Float[Tensor, "n d"], b: Float[Tensor, "m e"]) -> float:
    """Return the Fréchet distance of two sets of vectors, each approximated by a Gaussian:

        |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    With rows of centered vectors ``A`` and ``C_a = A^T A`` the last trace is the sum of the singular values
    of ``A B^T``, which avoids the square root of a nearly singular matrix. The distance is biased upward for
    few vectors: compare sets of equal size, and report the distance of two real sets too.

    >>> a = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    >>> round(frechet(a, a), 6), round(frechet(a, a + 1), 6), round(frechet(a, 2 * a), 6)
    (0.0, 2.0, 6.0)

    Chapters: 9 and 11. Heusel et al., 2017. Raises ValueError unless both sets hold at least two finite
    vectors, of equal width.
    """
    for name, vectors in (("a", a), ("b", b)):
        if len(vectors) < 2 or not bool(vectors.isfinite().all()):
            raise ValueError(
                f"{name} must hold at least two vectors, all finite, got {len(vectors)} with "
                f"{int((~vectors.isfinite()).sum())} NaN or infinite numbers"
            )
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"b must hold vectors as wide as those of a, {a.shape[1]}, got {b.shape[1]}")
    (mean_a, A), (mean_b, B) = _centered(a), _centered(b)
    # A = Q R with orthonormal Q: the singular values of A B^T are those of the small R_a R_b^T.
    shared = torch.linalg.svdvals(torch.linalg.qr(A, mode="r")[1] @ torch.linalg.qr(B, mode="r")[1].T)
    apart = (mean_a - mean_b).square().sum() + A.square().sum() + B.square().sum() - 2 * shared.sum()
    return max(0.0, float(apart))  # rounding may leave -1e-15 of equal sets


def _centered(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean, and centered vectors A scaled so that ``A^T A`` is the sample covariance."""
    vectors = vectors.detach().double()
    mean = vectors.mean(dim=0)
    return mean, (vectors - mean) / (len(vectors) - 1) ** 0.5


@torch.no_grad()
def spectrum_distance(generated: Sounds, real: Sounds, mel: LogMelConfig) -> float:
    """Return the root mean square difference over mel bands of two average log-mel spectra, in dB.

    The averages are over all frames of a batch, or of a list of waveforms of different lengths.

    >>> real = 0.5 * torch.randn(4, 4_000).clamp(-1, 1)
    >>> mel = LogMelConfig(8_000, n_mels=20, hop=100, window=400)
    >>> round(spectrum_distance(0.1 * real, real, mel), 2)
    20.0

    Chapter: 9. Raises ValueError for no sounds; and ValueError and ImportError as `LogMel` does.
    """
    for name, sounds in (("generated", generated), ("real", real)):
        if len(sounds) == 0:
            raise ValueError(f"{name} must hold at least one sound, got none")
    difference = _mean_spectrum(generated, mel) - _mean_spectrum(real, mel)
    return 40 * float(difference.square().mean().sqrt())  # a unit of LogMel is 40 dB


def _mean_spectrum(sounds: Sounds, mel: LogMelConfig) -> Float[Tensor, " n_mels"]:
    log_mel = LogMel(mel).to(sounds[0].device)
    return torch.cat([log_mel(sound[None])[0].double() for sound in sounds]).mean(dim=0).cpu()


@torch.no_grad()
def stft_distance(
    generated: Float[Tensor, "batch length"], real: Float[Tensor, "batch length"]
) -> Float[Tensor, " batch"]:
    """Return the multi-resolution STFT distance of each generated waveform to its real one; it ignores phase.

    For windows of 240, 600 and 1,200 samples it adds the norm of the difference of the two spectrograms over
    the norm of the real one, and the mean difference of their logarithms; the result is the mean over the
    windows. (A quarter of the amplitude gives 0.75 + log 4.)

    >>> real = 0.5 * torch.randn(2, 4_000).clamp(-1, 1)
    >>> stft_distance(torch.stack([real[0], 0.25 * real[1]]), real)
    tensor([0.0000, 2.1...])

    Chapter: 9. Yamamoto, Song and Kim, 2020; computed by auraloss (Steinmetz and Reiss, 2020).
    Raises ImportError, naming the extra to install, if auraloss is missing; and ValueError as
    `check_waveform` does, and for waveforms too short for the longest transform.
    """
    try:
        from auraloss.freq import MultiResolutionSTFTLoss
    except ImportError as error:
        raise ImportError('auraloss is missing: pip install "sashimi_lib[vocoder]"') from error
    check_waveform(generated, "generated")
    check_waveform(real, "real")
    if real.shape[1] <= MAX_FFT_SIZE // 2:
        raise ValueError(f"real must be longer than {MAX_FFT_SIZE // 2} samples, got {real.shape[1]}")
    distance = MultiResolutionSTFTLoss(
        fft_sizes=[512, 1024, MAX_FFT_SIZE], hop_sizes=[50, 120, 240], win_lengths=[240, 600, 1200]
    )
    # One by one: on a batch it takes the norm of all waveforms together, which loud ones dominate.
    pairs = zip(generated.split(1), real.split(1), strict=True)
    return torch.stack([distance(x[None], y[None]) for x, y in pairs])
