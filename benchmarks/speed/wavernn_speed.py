"""How fast does a WaveRNN generate on one CPU core, and how much does it gain when 90 % of its weights are
pruned?

    python -m benchmarks.speed.wavernn_speed            about two minutes, on one thread
    python -m benchmarks.speed.wavernn_speed --quick    seconds, to see that it runs; writes nothing

Three PyTorch implementations generate the same codes from the same pruned weights: the paper's equations as
printed, which compute the cell twice a sample, for the coarse code and for the fine one; the library's dense
step, which multiplies by R once; and its sparse step. Then the loop compiled by Numba: with all weights, and
with the pruned ones, whose zeros it skips. Then the product with R alone, in every available sparse format.
Times do not depend on training, so the weights are random, pruned by magnitude. All are timed in turn in one
run. Writes ``book/results/wavernn_speed.json``.
"""

import argparse
from collections.abc import Callable

import scipy.sparse
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.lib.models import BLOCK, SEED, SPARSITY, pruned_wavernn, random_wavernn
from benchmarks.lib.result import save_result
from benchmarks.lib.timing import interleaved
from sashimi_lib.models import WaveRNN
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.sampling import TokenSampler
from sashimi_lib.models.sparse import LAYERS, SparseLinear, sparse
from sashimi_lib.models.wavernn import gates
from sashimi_lib.streaming import compiled

SIZES, BLOCKS, BATCHES = (224, 896), ((1, 1), (16, 1), (4, 4)), (1, 4)
SAMPLES, REPEATS, PRODUCT_REPEATS = 200, 15, 301  # samples a run; repeats of runs, and of products


class PaperWaveRNN(WaveRNN):
    """The cell as printed in the paper: computed for the coarse code with c_t = 0, and again for the fine."""

    def __init__(self, model: WaveRNN) -> None:
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.register_buffer("masked", self.I_star.detach(), persistent=False)

    def sample_next(self, code: Tensor, state: Tensor, sampler: TokenSampler) -> tuple[Tensor, Tensor]:
        """Sample the next code, with two products by R."""
        coarse = sampler(self.coarse_logits(self.cell(code, torch.zeros_like(code[:, 0]), state)))
        h = self.cell(code, coarse, state)
        return torch.stack([coarse, sampler(self.fine_logits(h))], dim=-1), h

    def cell(self, code: Tensor, coarse: Tensor, state: Tensor) -> Tensor:
        """h_t from the inputs x_t = [c_{t-1}, f_{t-1}, c_t] and h_{t-1}."""
        x = torch.cat([code, coarse[:, None]], dim=-1) / 127.5 - 1
        inputs = F.linear(x, self.masked, self.bias)
        return gates(self.R(state).unflatten(-1, (3, -1)), inputs.unflatten(-1, (3, -1)), state)


def variants(d_hidden: int) -> dict[str, Autoregressive]:
    """Five implementations of one size. "compiled dense" has unpruned weights, since the compiled loop skips
    zeros by itself."""
    model = pruned_wavernn(d_hidden)
    return {
        "plain": PaperWaveRNN(model),
        "dense": model,
        "sparse": sparse(model),
        "compiled dense": compiled(random_wavernn(d_hidden)),
        "compiled sparse": compiled(model),
    }


def generation(sizes: tuple[int, ...], samples: int, repeats: int) -> dict[str, dict[str, object]]:
    """Samples per second at batch size 1 of each variant of each size, and their ratios."""
    models = {size: variants(size) for size in sizes}
    # Compiled loops generate more samples a run, so that a run takes long enough to be timed.
    lengths = {
        variant: samples * (20 if variant.startswith("compiled") else 1)
        for variant in next(iter(models.values()))
    }
    runs = {
        f"{size} {variant}": lambda model=model, variant=variant: model.generate(lengths[variant])
        for size in sizes
        for variant, model in models[size].items()
    }
    seconds = interleaved(runs, repeats)
    figures: dict[str, dict[str, object]] = {}
    for size in sizes:
        speed = {variant: lengths[variant] / seconds[f"{size} {variant}"] for variant in models[size]}
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
    """The pruned matrices."""
    return [getattr(model, name).weight for name in LAYERS]


def products(linear: nn.Linear, block: tuple[int, int], batch: int) -> dict[str, Callable[[], Tensor]]:
    """Functions that compute ``x W^T`` in each format; the library's own is "csr"."""
    weight, x = linear.weight.detach(), torch.randn(batch, linear.in_features)
    right = x[0] if batch == 1 else x.T  # scipy has a routine for a single vector
    csr, scipy_csr = SparseLinear(linear), scipy.sparse.csr_array(weight.numpy())
    formats: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: linear(x),
        "csr": lambda: csr(x),
        "scipy csr": lambda: torch.from_numpy(scipy_csr @ right.numpy()).view(-1, batch).T,
    }
    if block != (1, 1):
        scipy_bsr = scipy.sparse.bsr_array(weight.numpy(), blocksize=block)
        formats["scipy bsr"] = lambda: torch.from_numpy(scipy_bsr @ right.numpy()).view(-1, batch).T
    if block[0] == block[1] > 1:  # MKL supports square blocks only
        blocks = weight.to_sparse_bsr(block)
        formats["bsr"] = lambda: (blocks @ x.T).T
    return formats


@torch.no_grad()
def product_table(sizes: tuple[int, ...], repeats: int) -> list[dict[str, object]]:
    """Microseconds of a product with R, by hidden size, block, batch size and format."""
    rows: list[dict[str, object]] = []
    for size in sizes:
        for block in BLOCKS:
            linear = pruned_wavernn(size, block).R.requires_grad_(False)
            for batch in BATCHES:
                seconds = interleaved(products(linear, block, batch), repeats)
                row = {name: 1e6 * value for name, value in seconds.items()}
                print(size, block, batch, {name: round(value) for name, value in row.items()}, flush=True)
                rows.append({"d_hidden": size, "block": block, "batch": batch, "microseconds": row})
    return rows


def main() -> None:
    """Time everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few samples; nothing is written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    samples, repeats, product_repeats = (20, 3, 5) if quick else (SAMPLES, REPEATS, PRODUCT_REPEATS)
    figures = generation(SIZES, samples, repeats)
    for name, figure in figures.items():
        print(name, figure, flush=True)
    table = product_table(SIZES, product_repeats)
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
            "turns_of_products": PRODUCT_REPEATS,
            "weights": "random, pruned by magnitude",
        },
        figures={"generation": figures, "products_with_R": table},
        units={
            "samples_per_second": "generated samples over the median seconds of a run",
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
