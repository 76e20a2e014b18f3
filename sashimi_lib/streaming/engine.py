"""The compiled engine: the whole sample loop in machine code, made on the spot by Numba.

The extra ``fast``. Its wheels bring the compiler along, so that a user needs none. Compiling takes seconds
the first time, and what comes of it is kept on disk.
"""

import functools
import itertools
import math
import pkgutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import Autoregressive, DiscreteAudioModel
from sashimi_lib.models.sampling import SamplingConfig
from sashimi_lib.models.sashimi import SaShiMi
from sashimi_lib.models.trainable import Cache
from sashimi_lib.models.wavenet import WaveNet
from sashimi_lib.models.wavernn import WaveRNN
from sashimi_lib.streaming.base import Engine, in_pieces
from sashimi_lib.streaming.graph import graphed

if TYPE_CHECKING:
    from sashimi_lib.streaming.compiled_loop import CompiledLoop, Tree
    from sashimi_lib.streaming.compiled_ops import SamplingRequest

# The loop of a backbone or of a whole model, which is made from the model: MODULE:CLASS, imported when it is
# wanted, for Numba takes seconds. Whoever writes another loop adds it here.
LOOPS: dict[type[nn.Module], str] = {
    SaShiMi: "sashimi_lib.streaming.sashimi:SaShiMiLoop",
    WaveNet: "sashimi_lib.streaming.wavenet:WaveNetLoop",
    WaveRNN: "sashimi_lib.streaming.wavernn:WaveRNNLoop",
}
Model = TypeVar("Model", bound=DiscreteAudioModel)
MAX_BATCH_PER_THREAD = (
    8  # sequences that a thread draws side by side: the states of more would not stay in a cache
)


class Compiled(Engine):
    """A model whose samples are drawn by a compiled loop, on the CPU and in single precision; in all else it
    is the model that it was made from. `compiled` makes it.

    Its weights are packed once: after training on, make another. A batch is shared among as many threads as
    ``torch.get_num_threads()`` says; one sequence by itself takes one thread.
    """

    def __init__(self, model: Autoregressive) -> None:
        super().__init__(model)
        self.loop = _loop_of(model)

    @torch.no_grad()
    def generate_from(
        self,
        cache: Cache,
        length: int,
        sampling: SamplingConfig = SamplingConfig(),
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> tuple[Int[Tensor, "batch length *two"], Cache]:
        """The next ``length`` codes after a past, and the past after them, by the compiled loop."""
        from sashimi_lib.streaming.compiled_ops import SamplingRequest, options_of

        code, state = cache
        pieces, memory, options = [], self.loop.begin(state), options_of(sampling)
        nothing = np.zeros((len(code), 0, self.loop.codes), np.int64)
        no_logits = np.zeros((*nothing.shape, self.loop.levels), np.float32)
        for samples in in_pieces(length, progress):
            # In the order in which `sample_token` would ask for them.
            shape = samples, self.loop.codes, len(code)
            chance = torch.rand(shape, generator=generator, dtype=torch.float64)
            uniform = chance.movedim(-1, 0).contiguous().numpy()
            request = SamplingRequest(uniform, options, nothing, no_logits)
            pieces.append(self._run(code, samples, memory, request))
            code = pieces[-1][:, -1]
        return torch.cat(pieces, dim=1), (code, self.loop.end(memory))

    @torch.no_grad()
    def teacher_forced_logits(
        self, codes: Int[Tensor, "batch length *two"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length *two levels"], Cache]:
        """The logits that the compiled loop gives each of some codes, sample by sample; and the past after
        them."""
        from sashimi_lib.streaming.compiled_ops import SamplingRequest, options_of

        self.quantizer.check(codes)
        code, state = cache
        memory = self.loop.begin(state)
        given = codes.reshape(*codes.shape[:2], self.loop.codes).contiguous().numpy()
        logits = np.empty((*given.shape, self.loop.levels), np.float32)
        no_chance, options = np.zeros((len(given), 0, self.loop.codes)), options_of(SamplingConfig())
        self._run(code, codes.shape[1], memory, SamplingRequest(no_chance, options, given, logits))
        after = codes[:, -1], self.loop.end(memory)
        return torch.from_numpy(logits).reshape(*codes.shape, self.loop.levels), after

    def _run(self, code: Tensor, samples: int, memory: "Tree", request: "SamplingRequest") -> Tensor:
        """The loop, on some rows of the batch at a time in each thread."""
        from sashimi_lib.streaming.compiled_loop import tree_map

        batch = len(code)
        codes = np.empty((batch, 1 + samples, self.loop.codes), np.int64)
        codes[:, 0] = code.reshape(batch, self.loop.codes).numpy()

        def run(rows: slice) -> bool:
            mine = tree_map(lambda x: x[rows], (codes, memory, request))
            return self.loop.run(*mine)

        threads = torch.get_num_threads()
        shares = max(min(batch, threads), math.ceil(batch / MAX_BATCH_PER_THREAD))
        edges = np.linspace(0, batch, shares + 1).astype(int)
        with ThreadPoolExecutor(threads) as pool:
            if not all(pool.map(run, itertools.starmap(slice, itertools.pairwise(edges)))):
                raise ValueError("logits must be finite: the state has blown up")
        return torch.from_numpy(codes[:, 1:]).reshape(batch, samples, *code.shape[1:])


def compiled(model: Autoregressive) -> Compiled:
    """The same model for generating on a CPU, many times as fast. The same seed draws the same codes until
    rounding decides one, typically after thousands (`sashimi_lib.streaming.base` says why).

    There are loops for a WaveRNN, and for a SaShiMi or a WaveNet with one softmax or the dual one. Matrices
    of a WaveRNN of which little is left after pruning (`sashimi_lib.training.pruning`) are multiplied without
    their zeros.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> model = WaveRNN(WaveRNNConfig(d_hidden=32))
    >>> torch.equal(compiled(model).generate(50, seed=0), model.generate(50, seed=0))
    True

    Chapters: 7 and 8. Raises ImportError where Numba cannot be imported, saying what to install or what is
    wrong; and ValueError for a model that is not on the CPU, or for which there is no loop.
    """
    return Compiled(model)


def best_engine(model: Model) -> Model | Engine:
    """The same model by the fastest engine that there is for it here: the compiled one on a CPU, graphs on a
    GPU; the model itself where neither can be had.

    >>> from sashimi_lib.models import WaveRNNConfig
    >>> type(best_engine(WaveRNN(WaveRNNConfig(d_hidden=32)))).__name__
    'Compiled'

    Chapters: 7 and 8. Without Numba it warns once, and says why.
    """
    if not isinstance(model, Autoregressive) or isinstance(model, Engine):
        return model
    try:
        return graphed(model) if model.device.type == "cuda" else compiled(model)
    except ValueError:  # no loop for such a model, or none on such a device
        return model
    except ImportError as error:
        _warn_once(f"samples are drawn slowly, since {error}")
        return model


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def _loop_of(model: Autoregressive) -> "CompiledLoop":
    """The loop for a model."""
    backbone = model.backbone if isinstance(model, AudioLM) else model
    place = next((LOOPS[kind] for kind in type(backbone).__mro__ if kind in LOOPS), None)
    if place is None:
        kinds = ", ".join(kind.__name__ for kind in LOOPS)
        raise ValueError(f"model must be of a kind that has a loop ({kinds}), got {type(backbone).__name__}")
    if model.device.type != "cpu":
        raise ValueError(f"model must be on the CPU, got one on {model.device}")
    _import_numba()
    return pkgutil.resolve_name(place)(model)


def _import_numba() -> None:
    """Raise ImportError with what is the matter, where it cannot be imported: NumPy too new for it, say."""
    try:
        import numba  # noqa: F401
    except Exception as error:  # a package that does not fit another may fail in any way
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            raise ImportError('numba is missing: pip install "sashimi_lib[fast]"') from error
        raise ImportError(f"numba is installed, but cannot be imported: {error}") from error
