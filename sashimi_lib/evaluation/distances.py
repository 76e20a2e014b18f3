"""How far generated sounds are from real ones, where there is no likelihood to ask for (chapter 9).

Three questions, from the most to the least that is asked of a model:

- `frechet`: are sounds as varied, and varied in the same ways, as a listener's features of them tell;
- `spectrum_distance`: is their average spectrum that of real sounds;
- `stft_distance`: is this sound that sound, for a vocoder, which is conditioned on its spectrogram.

All are 0 for sounds that cannot be told apart, and none is a likelihood.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.audio import check_waveform
from sashimi_lib.audio.mel import LogMel, LogMelConfig

LONGEST = 2048  # samples of the longest transform of `stft_distance`
Sounds = Tensor | Sequence[Tensor]  # waveforms: a batch (n, length), or (length,) of different lengths


def frechet(a: Float[Tensor, "n d"], b: Float[Tensor, "m e"]) -> float:
    """The Fréchet distance of two sets of vectors, taken as two Gaussians with their means and covariances:

        |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    With rows of centred vectors ``A`` and ``C_a = A^T A`` the last trace is the sum of the singular values of
    ``A B^T``, so that no square root of a nearly singular matrix is taken. Few vectors make the distance too
    large: compare sets of equal numbers, and give that of two real sets beside it.

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
    (mean_a, A), (mean_b, B) = _centred(a), _centred(b)
    # A = Q R with orthonormal Q: the singular values of A B^T are those of the small R_a R_b^T.
    shared = torch.linalg.svdvals(torch.linalg.qr(A, mode="r")[1] @ torch.linalg.qr(B, mode="r")[1].T)
    apart = (mean_a - mean_b).square().sum() + A.square().sum() + B.square().sum() - 2 * shared.sum()
    return max(0.0, float(apart))  # rounding may leave -1e-15 of equal sets


def _centred(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and vectors around it, scaled so that their products sum to the sample covariance."""
    vectors = vectors.detach().double()
    mean = vectors.mean(dim=0)
    return mean, (vectors - mean) / (len(vectors) - 1) ** 0.5


@torch.no_grad()
def spectrum_distance(generated: Sounds, real: Sounds, mel: LogMelConfig) -> float:
    """How far the average log-mel spectrum of all frames is from that of real sounds, in dB.

    It is the root of the mean square over the bands. Sounds are a batch, or waveforms of different lengths.

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
    return 40 * float(difference.square().mean().sqrt())  # 40 dB to one of LogMel's units


def _mean_spectrum(sounds: Sounds, mel: LogMelConfig) -> Float[Tensor, " n_mels"]:
    log_mel = LogMel(mel).to(sounds[0].device)
    return torch.cat([log_mel(sound[None])[0].double() for sound in sounds]).mean(dim=0).cpu()


@torch.no_grad()
def stft_distance(
    generated: Float[Tensor, "batch length"], real: Float[Tensor, "batch length"]
) -> Float[Tensor, " batch"]:
    """How far each sound is from the one it should be, phases aside: the multi-resolution STFT distance.

    At windows of 240, 600 and 1,200 samples it is the norm of the difference of the two spectrograms over the
    norm of the real one, and the mean difference of their logarithms; it returns the mean over the three of
    the sum of both. (A quarter of the amplitude comes to 0.75 + log 4.)

    >>> real = 0.5 * torch.randn(2, 4_000).clamp(-1, 1)
    >>> stft_distance(torch.stack([real[0], 0.25 * real[1]]), real)
    tensor([0.0000, 2.1...])

    Chapter: 9. Yamamoto, Song and Kim, 2020; computed by auraloss (Steinmetz and Reiss, 2020).
    Raises ImportError, saying what to install, where that is missing; and ValueError as `check_waveform`
    does, and for sounds too short for the longest transform.
    """
    try:
        from auraloss.freq import MultiResolutionSTFTLoss
    except ImportError as error:
        raise ImportError('auraloss is missing: pip install "sashimi_lib[vocoder]"') from error
    check_waveform(generated, "generated")
    check_waveform(real, "real")
    if real.shape[1] <= LONGEST // 2:
        raise ValueError(f"real must be longer than {LONGEST // 2} samples, got {real.shape[1]}")
    distance = MultiResolutionSTFTLoss(
        fft_sizes=[512, 1024, LONGEST], hop_sizes=[50, 120, 240], win_lengths=[240, 600, 1200]
    )
    # One by one: of a batch it would take the norm of all sounds together, and hear the loud ones alone.
    pairs = zip(generated.split(1), real.split(1), strict=True)
    return torch.stack([distance(x[None], y[None]) for x, y in pairs])
