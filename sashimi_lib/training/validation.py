"""What held-out data cost a model: the scores of training, of every sequence, without learning from them."""

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.models.trainable import Trainable
from sashimi_lib.ssm.exact import rounding_factors
from sashimi_lib.training.batches import Data, Item, Piece, collate, sequence_of
from sashimi_lib.training.team import ALONE, Team

AT_ONCE = 32_768  # samples of each sequence that go through together, where a model can hear it in pieces


def held_out(
    model: Trainable, data: Data, batch_size: int = 8, truncate: int | None = None, team: Team = ALONE
) -> float:
    """Minus the mean score of all samples of all sequences, so a long sequence counts for more: bits per
    sample of a model of codes, the mean squared error of a diffusion model. A team shares the sequences out.

    Sequences go through as in `losses`, in pieces of ``truncate`` samples if a recipe counts on little
    memory. Always in full precision.

    >>> from sashimi_lib.autoregressive import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.quantize import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> 7 < held_out(model, [torch.full((100,), 120), torch.full((30,), 140)]) < 10
    True

    Chapters: 7, 9 and 10. Raises ValueError for no sequences.
    """
    items = _read(data, team)
    lengths = torch.tensor([len(sequence_of(item)) for item in items], dtype=torch.float64)
    each = losses(model, items, batch_size, truncate or AT_ONCE) if items else lengths
    total, samples = team.total(torch.stack([each @ lengths, lengths.sum()]))
    return float(total / samples)


@torch.no_grad()
@rounding_factors(False)
def losses(
    model: Trainable, data: Data, batch_size: int = 8, frame: int = AT_ONCE
) -> Float[Tensor, " sequences"]:
    """Minus the mean score of each sequence, each heard from its beginning. float64, on the CPU.

    Where the model has a past to carry on, sequences go through in pieces of ``frame`` samples, so that
    minutes of sound need no more memory than one piece. A model that draws random numbers to be scored draws
    the same ones at every call, and the caller's are left as they were.

    Chapters: 7 and 9. Raises ValueError for no sequences.
    """
    items = _read(data)
    order = sorted(range(len(items)), key=lambda number: len(sequence_of(items[number])))  # little padding
    result = torch.zeros(len(items), dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for first in range(0, len(order), batch_size):
            numbers = order[first : first + batch_size]
            whole = collate([items[number] for number in numbers], model.silence)
            model.check(whole.sequence, whole.label)
            result[numbers] = _batch_losses(model, whole.to(model.device), frame)
    return result


def _read(data: Data, team: Team = ALONE) -> list[Item]:
    """The sequences that this process judges."""
    if len(data) == 0:
        raise ValueError("data must hold at least one sequence, got none")
    return [data[number] for number in range(team.rank, len(data), team.size)]


def _batch_losses(model: Trainable, whole: Piece, frame: int) -> Float[Tensor, " batch"]:
    """The same for sequences side by side."""
    past, length = model.beginning_of(whole.sequence), whole.sequence.shape[1]
    total, frame = torch.zeros(len(whole.real), dtype=torch.float64), length if past is None else frame
    for start in range(0, length, frame):
        piece = whole.part(start, start + frame)
        scores, past = model.score(piece.sequence, past, piece.label)
        total -= torch.where(piece.real.cpu(), scores.double().cpu(), 0).sum(1)
    return total / whole.real.cpu().sum(1)
