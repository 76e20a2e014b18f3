"""The compiled engine: the whole sample loop in machine code, made on the spot by Numba.

The extra ``fast``. Its wheels bring the compiler along, so that a user needs none. Compiling takes seconds
the first time, and what comes of it is kept on disk.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from sashimi_lib.models.autoregression import Autoregressive
from sashimi_lib.models.blocks import State
from sashimi_lib.models.sampling import Choose, Sampler
from sashimi_lib.models.trainable import Past
from sashimi_lib.models.wavernn import WaveRNN

PIECE = 1024  # samples that are made between two looks at the progress bar


class Compiled(Autoregressive):
    """A model whose samples are drawn by a compiled loop, on the CPU and in single precision; in all else it
    is the model that it was made from. `compiled` makes it.

    Its weights are packed once: after training on, make another.
    """

    def __init__(self, model: WaveRNN) -> None:
        super().__init__()
        try:
            from sashimi_lib.streaming.wavernn import WaveRNNLoop
        except ImportError as error:
            raise ImportError("numba is missing: pip install sashimi_lib[fast]") from error
        if model.device.type != "cpu":
            raise ValueError(f"model must be on the CPU, got one on {model.device}")
        self.model, self.quantizer = model, model.quantizer
        self.loop = WaveRNNLoop(model)

    def initial_state(self, batch_size: int) -> State:
        """The state of silence."""
        return self.model.initial_state(batch_size)

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length *two"], past: Past
    ) -> tuple[Float[Tensor, "batch length"], Past]:
        """As of the model."""
        return self.model.log_likelihood_from(codes, past)

    def absorb(self, codes: Int[Tensor, "batch length *two"], past: Past) -> Past:
        """As of the model: all at once."""
        return self.model.absorb(codes, past)

    def draw(
        self, code: Int[Tensor, "batch *two"], state: State, choose: Choose
    ) -> tuple[Int[Tensor, "batch *two"], State]:
        """As of the model: one sample, not compiled."""
        return self.model.draw(code, state, choose)

    @torch.no_grad()
    def go_on(
        self, past: Past, length: int, choose: Sampler, progress: bool = False
    ) -> tuple[Int[Tensor, "batch length *two"], Past]:
        """The next ``length`` codes after a past, and the past after them, by the compiled loop."""
        code, state = past
        pieces, chance = [], (*code.shape[1:], len(code))  # the order in which `sample` would ask for it
        with tqdm(total=length, unit="sample", unit_scale=True, disable=not progress) as bar:
            for start in range(0, length, PIECE):
                samples = min(PIECE, length - start)
                uniform = torch.rand(samples, *chance, generator=choose.generator, dtype=torch.float64)
                codes, state = self.loop(code, state, uniform, choose.temperature, choose.top_p)
                pieces.append(codes)
                code = codes[:, -1]
                bar.update(samples)
        return torch.cat(pieces, dim=1), (code, state)


def compiled(model: WaveRNN) -> Compiled:
    """The same model for generating on a CPU, many times as fast; the same seed draws the same codes.

    Matrices of which little is left after pruning (`sashimi_lib.training.pruning`) are multiplied without
    their zeros.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> model = WaveRNN(WaveRNNConfig(d_hidden=32))
    >>> torch.equal(compiled(model).generate(50, seed=0), model.generate(50, seed=0))
    True

    Chapter: 8. Raises ImportError, saying what to install, where Numba is missing; and ValueError for a model
    that is not on the CPU, or for which there is no loop.
    """
    return Compiled(model)
