"""How fast does a WaveRNN generate on one CPU core, and what does it gain from having lost nine weights of
ten?

    python benchmarks/wavernn_speed.py            about two minutes, on one thread
    python benchmarks/wavernn_speed.py --quick    seconds, to see that it runs; writes nothing

Three ways draw the same codes from the same pruned weights, one PyTorch step at a time: the plain step, which
does the equations as they stand, once for the coarse code and once more for the fine one; the library's dense
step, which takes its product with R once; and its sparse step. Then the loop that Numba compiles: with all
weights, and with the pruned ones, whose zeros it leaves out. Then the product with R alone, by every sparse
format within reach. Times do not depend on what a model has learnt, so the weights are random ones, pruned by
magnitude. Everything takes turns in one run. Writes ``book/results/wavernn_speed.json``.
"""

import argparse
from collections.abc import Callable

import scipy.sparse
import torch
from result import save_result
from timing import interleaved
from torch import Tensor, nn
from torch.nn import functional as F

from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.sampling import TokenSampler
from sashimi_lib.models.sparse import LAYERS, SparseLinear, sparse
from sashimi_lib.models.wavernn import gates
from sashimi_lib.streaming import compiled
from sashimi_lib.training.pruning import Pruner, PruningConfig

SIZES, BLOCKS, BATCHES = (224, 896), ((1, 1), (16, 1), (4, 4)), (1, 4)
SPARSITY, BLOCK, SEED = 0.9, (16, 1), 0
SAMPLES, REPEATS, PRODUCTS = 200, 15, 301  # drawn at a time; turns of models; turns of products


class Plain(WaveRNN):
    """The cell as printed: the whole of it for c_t, with nothing in its place yet, and the whole again."""

    def __init__(self, model: WaveRNN) -> None:
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.register_buffer("masked", self.I_star.detach(), persistent=False)

    def sample_next(self, code: Tensor, state: Tensor, sampler: TokenSampler) -> tuple[Tensor, Tensor]:
        """The next sample: two products with R."""
        coarse = sampler(self.coarse_logits(self.cell(code, torch.zeros_like(code[:, 0]), state)))
        h = self.cell(code, coarse, state)
        return torch.stack([coarse, sampler(self.fine_logits(h))], dim=-1), h

    def cell(self, code: Tensor, coarse: Tensor, state: Tensor) -> Tensor:
        """h_t from x_t = [c_{t-1}, f_{t-1}, c_t] and h_{t-1}."""
        x = torch.cat([code, coarse[:, None]], dim=-1) / 127.5 - 1
        heard = F.linear(x, self.masked, self.bias)
        return gates(self.R(state).unflatten(-1, (3, -1)), heard.unflatten(-1, (3, -1)), state)


def random_weights(d_hidden: int) -> WaveRNN:
    """A WaveRNN that has learnt nothing."""
    torch.manual_seed(SEED)
    return WaveRNN(WaveRNNConfig(d_hidden))


def pruned(d_hidden: int, block: tuple[int, int] = BLOCK) -> WaveRNN:
    """The same, and only the largest blocks of its weights."""
    model = random_weights(d_hidden)
    pruner = Pruner(model, PruningConfig(SPARSITY, block))
    pruner.prune(SPARSITY)
    pruner.bake_masks()
    return model


def ways(d_hidden: int) -> dict[str, Autoregressive]:
    """One size, drawn from in five ways; to the compiled loop, all weights are those of a dense model."""
    model = pruned(d_hidden)
    return {
        "plain": Plain(model),
        "dense": model,
        "sparse": sparse(model),
        "compiled dense": compiled(random_weights(d_hidden)),
        "compiled sparse": compiled(model),
    }


def generation(sizes: tuple[int, ...], samples: int, repeats: int) -> dict[str, dict[str, object]]:
    """Samples per second at batch 1, of each model in each way; and by how much sparse is ahead."""
    models = {size: ways(size) for size in sizes}
    # The compiled loop draws more samples a turn, so that a turn is not over before the clock has moved.
    drawn = {way: samples * (20 if way.startswith("compiled") else 1) for way in next(iter(models.values()))}
    steps = {
        f"{size} {way}": lambda model=model, way=way: model.generate(drawn[way])
        for size in sizes
        for way, model in models[size].items()
    }
    seconds = interleaved(steps, repeats)
    figures: dict[str, dict[str, object]] = {}
    for size in sizes:
        speed = {way: drawn[way] / seconds[f"{size} {way}"] for way in models[size]}
        figures[f"WaveRNN-{size}"] = {
            "samples_per_second": speed,
            "sparse_over_dense": speed["sparse"] / speed["dense"],
            "sparse_over_plain": speed["sparse"] / speed["plain"],
            "compiled_over_dense": speed["compiled dense"] / speed["dense"],
            "compiled_sparse_over_compiled_dense": speed["compiled sparse"] / speed["compiled dense"],
            "weights": sum(p.numel() for p in models[size]["dense"].parameters()),
            "weights_not_zero": sum(int(p.count_nonzero()) for p in layers(models[size]["dense"])),
        }
    return figures


def layers(model: WaveRNN) -> list[nn.Parameter]:
    """The matrices that were pruned."""
    return [getattr(model, name).weight for name in LAYERS]


def products(linear: nn.Linear, block: tuple[int, int], batch: int) -> dict[str, Callable[[], Tensor]]:
    """``x W^T`` in every format, ready to be timed: the library's own is "csr"."""
    weight, x = linear.weight.detach(), torch.randn(batch, linear.in_features)
    right = x[0] if batch == 1 else x.T  # scipy has a routine for one vector
    csr, of_scipy = SparseLinear(linear), scipy.sparse.csr_array(weight.numpy())
    formats: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: linear(x),
        "csr": lambda: csr(x),
        "scipy csr": lambda: torch.from_numpy(of_scipy @ right.numpy()).view(-1, batch).T,
    }
    if block != (1, 1):
        blocks_of_scipy = scipy.sparse.bsr_array(weight.numpy(), blocksize=block)
        formats["scipy bsr"] = lambda: torch.from_numpy(blocks_of_scipy @ right.numpy()).view(-1, batch).T
    if block[0] == block[1] > 1:  # MKL knows square blocks only
        blocks = weight.to_sparse_bsr(block)
        formats["bsr"] = lambda: (blocks @ x.T).T
    return formats


@torch.no_grad()
def product_table(sizes: tuple[int, ...], repeats: int) -> list[dict[str, object]]:
    """Microseconds of a product with R, by size, block, batch and format."""
    rows: list[dict[str, object]] = []
    for size in sizes:
        for block in BLOCKS:
            linear = pruned(size, block).R.requires_grad_(False)
            for batch in BATCHES:
                seconds = interleaved(products(linear, block, batch), repeats)
                row = {name: 1e6 * value for name, value in seconds.items()}
                print(size, block, batch, {name: round(value) for name, value in row.items()}, flush=True)
                rows.append({"d_hidden": size, "block": block, "batch": batch, "microseconds": row})
    return rows


def main() -> None:
    """Time it all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few samples; nothing is written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    samples, repeats, turns = (20, 3, 5) if quick else (SAMPLES, REPEATS, PRODUCTS)
    figures = generation(SIZES, samples, repeats)
    for name, figure in figures.items():
        print(name, figure, flush=True)
    table = product_table(SIZES, turns)
    if quick:
        return
    save_result(
        "wavernn_speed",
        question="Samples per second of WaveRNN at batch 1 on one CPU core: the plain step, the dense one "
        "and the sparse one, from the same pruned weights; the compiled loop, dense and sparse; and the "
        "product with R in each sparse format",
        config={
            "sparsity": SPARSITY,
            "block": BLOCK,
            "pruned": LAYERS,
            "samples_per_turn": SAMPLES,
            "turns_of_products": PRODUCTS,
            "weights": "random, pruned by magnitude",
        },
        figures={"generation": figures, "products_with_R": table},
        units={
            "samples_per_second": "drawn samples over the median seconds of a turn",
            "sparse_over_dense": "ratio of the two medians",
            "sparse_over_plain": "ratio of the two medians",
            "compiled_over_dense": "ratio of the two medians",
            "compiled_sparse_over_compiled_dense": "ratio of the two medians",
            "weights_not_zero": "of R and O_1 to O_4, without their biases",
            "microseconds": "median of one product with R, (3 d_hidden, d_hidden), for the whole batch",
        },
        repeats=REPEATS,
        seed=SEED,
    )


if __name__ == "__main__":
    main()
