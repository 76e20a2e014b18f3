"""What the notes of a melody are like: its key, its intervals and its rhythm (chapter 11).

All take the result of `sashimi_lib.evaluation.pitch.notes`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from sashimi_lib.evaluation.likelihood import ConfidenceInterval, confidence_interval
from sashimi_lib.evaluation.pitch import Note

MAJOR = (0, 2, 4, 5, 7, 9, 11)  # the pitch classes of C major
MAX_INTERVAL = 12  # semitones
DURATION_EDGES = tuple(2.0 ** (k / 2) for k in range(-8, 5))  # 1/16 s to 4 s, two bins an octave


def diatonic_share(melody: Sequence[Note]) -> float:
    """Return the share of notes in the best of the twelve major scales; 0 for no notes.

    A minor scale is a major one from another note. Random notes reach `diatonic_chance`.

    >>> diatonic_share([Note(pitch, 0.0, 0.0) for pitch in (60, 62, 64, 66)])  # D is the fifth of G major
    1.0

    Chapter: 11.
    """
    pitches = torch.tensor([note.pitch for note in melody], dtype=torch.long)
    return float(_best_scale(pitches[None])[0]) if melody else 0.0


def diatonic_chance(count: int, draws: int = 10_000) -> float:
    """Return the mean `diatonic_share` of ``count`` random notes, uniform over the twelve pitch classes.

    The mean over ``draws`` melodies from a fixed seed, to about 0.001. It is 7/12 for infinitely many notes,
    and above that for few, since the scale is chosen to fit them.

    >>> diatonic_chance(1), round(diatonic_chance(40), 2)
    (1.0, 0.7...)

    Chapter: 11. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    generator = torch.Generator().manual_seed(0)
    return float(_best_scale(torch.randint(12, (draws, count), generator=generator)).mean())


def _best_scale(pitches: Integer[Tensor, "melodies notes"]) -> Float[Tensor, " melodies"]:
    """Return the share of the notes of each melody in the scale that contains most of them."""
    scales = torch.zeros(12, 12, dtype=torch.float64)
    for tonic in range(12):
        scales[tonic, [(tonic + step) % 12 for step in MAJOR]] = 1
    classes = torch.nn.functional.one_hot(pitches % 12, 12).double()
    return (classes.sum(dim=1) @ scales.T).amax(dim=1) / pitches.shape[1]


def interval_counts(melody: Sequence[Note]) -> Integer[Tensor, " 25"]:
    """Return how often each interval between successive notes occurs, from -12 to 12 semitones.

    Larger intervals count as an octave.

    >>> counts = interval_counts([Note(60, 0.0, 0.0), Note(60, 0.5, 0.0), Note(79, 1.0, 0.0)])
    >>> counts.nonzero()[:, 0].tolist()
    [12, 24]

    Chapter: 11.
    """
    intervals = torch.tensor([note.pitch for note in melody], dtype=torch.long).diff()
    return torch.bincount(intervals.clamp(-MAX_INTERVAL, MAX_INTERVAL) + MAX_INTERVAL, minlength=25)


def duration_counts(melody: Sequence[Note]) -> Integer[Tensor, " 12"]:
    """Return how many durations of notes are in each bin of `DURATION_EDGES`, half an octave wide.

    Durations beyond the edges count in the first and last bin. The last note is left out: it lasts until the
    end of the waveform, not until another note.

    >>> duration_counts([Note(60, 0.0, 0.2), Note(62, 0.2, 0.2), Note(64, 0.4, 9.0)]).tolist()
    [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]

    Chapter: 11.
    """
    durations = torch.tensor([note.duration for note in melody[:-1]], dtype=torch.float64)
    inner = torch.tensor(DURATION_EDGES[1:-1], dtype=torch.float64)
    return torch.bincount(torch.bucketize(durations, inner, right=True), minlength=len(inner) + 1)


def histogram_distance(a: Integer[Tensor, " bins"], b: Integer[Tensor, " bins"]) -> float:
    """Return the Jensen-Shannon distance of two histograms: 0 if they are proportional, 1 if no bin is in
    both, and 1 if one is empty.

    The square root of the Jensen-Shannon divergence in bits. It is biased upward for few counts, which
    `pooled_distance` corrects.

    >>> a, b = torch.tensor([3, 1, 0]), torch.tensor([0, 0, 5])
    >>> histogram_distance(a, 2 * a), histogram_distance(a, b)
    (0.0, 1.0)

    Chapter: 11. Lin, 1991; Endres and Schindelin, 2003; computed by scipy. Raises ValueError for negative
    counts, and unless both have equally many bins.
    """
    if a.shape != b.shape or bool((a < 0).any()) or bool((b < 0).any()):
        raise ValueError(f"b must have as many bins as a, no count negative, got {a.tolist()}, {b.tolist()}")
    if a.sum() == 0 or b.sum() == 0:
        return 1.0
    return float(jensenshannon(a.double().numpy(), b.double().numpy(), base=2))


def pooled_distance(
    histograms: Integer[Tensor, "recordings bins"], reference: Integer[Tensor, " bins"]
) -> ConfidenceInterval:
    """Return the `histogram_distance` of the sum of several recordings' histograms from a reference, with a
    95 % confidence interval over recordings.

    The sum is compared, since each melody has its own rhythm: alone it is far from all melodies together.
    Estimate and interval are those of the jackknife's pseudo-values ``m R - (m - 1) R_i``, where R is the
    distance with all m recordings, and R_i that without the i-th; they correct most of the bias. The estimate
    may be slightly negative for equal distributions.

    >>> histograms = torch.tensor([[9, 1], [8, 2], [9, 1], [8, 2], [9, 1]])
    >>> pooled_distance(histograms, torch.tensor([1, 1]))
    ConfidenceInterval(mean=0.33..., interval=(0.25..., 0.41...), recordings=5)

    Chapter: 11. Tukey, 1958. Raises ValueError as `histogram_distance` does, and for no recordings.
    """
    m, pooled = len(histograms), histograms.sum(dim=0)
    distance = histogram_distance(pooled, reference)
    without_one = [histogram_distance(pooled - histogram, reference) for histogram in histograms]
    pseudo_values = m * distance - (m - 1) * torch.tensor(without_one, dtype=torch.float64)
    return confidence_interval(pseudo_values, torch.ones(m, dtype=torch.long))
