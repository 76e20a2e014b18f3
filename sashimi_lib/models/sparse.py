"""Sparse matrix products for a pruned WaveRNN (chapter 8).

At batch 1 a step consists of matrix-vector products, which are bound by reading the matrix from memory. With
90 % of the weights pruned there is that much less to read. The others are stored as compressed sparse rows
(CSR), which fit blocks of any shape.
"""

import copy
import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sashimi_lib.models.wavernn import WaveRNN

LAYERS = ("R", "O1", "O2", "O3", "O4")  # the pruned layers: nearly all weights of a WaveRNN
MIN_SIZE = 2**16  # weights; smaller matrices stay in a core's cache, where a dense product is faster


class SparseLinear(nn.Module):
    """``W x + b`` with a sparse W, for inference only.

    >>> linear = nn.Linear(4, 2)
    >>> _ = linear.weight.data[:, 1:].zero_()
    >>> sparse, x = SparseLinear(linear), torch.randn(3, 4)
    >>> torch.allclose(sparse(x), linear(x))
    True

    It is made from a dense layer, whose weights are those to save: its own buffers are not persistent.
    Chapter: 8. WaveRNN paper, section 3.
    """

    csr: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            csr = linear.weight.detach().to_sparse_csr()
            # MKL takes 32-bit indices; PyTorch would convert others at every product.
            indices = csr.crow_indices().int(), csr.col_indices().int()
            csr = torch.sparse_csr_tensor(*indices, csr.values(), csr.shape, check_invariants=True)
        self.register_buffer("csr", csr, persistent=False)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias, persistent=False)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The dense W, for the parallel pass."""
        return self.csr.to_dense()

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer: (..., inputs) -> (..., outputs)."""
        vectors = x.reshape(-1, x.shape[-1])
        if len(vectors) == 1 and torch.backends.mkl.is_available():  # twice as fast; MKL only
            y = torch.mv(self.csr, vectors[0])
        else:
            y = (self.csr @ vectors.T).T
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def sparse(model: WaveRNN, min_size: int = MIN_SIZE) -> WaveRNN:
    """Return a copy of a model for generation on a CPU, with `SparseLinear` in place of R and O_1 to O_4.

    It is faster where most of these weights are zero (`sashimi_lib.training.pruning`), and slower elsewhere.
    Matrices of fewer than ``min_size`` weights stay dense, which is faster for them.

    >>> model = WaveRNN()
    >>> for name in LAYERS:
    ...     _ = getattr(model, name).weight.data[16:].zero_()
    >>> torch.equal(sparse(model).generate(5, seed=0), model.generate(5, seed=0))
    True

    Chapter: 8. WaveRNN paper, section 3.
    """
    model = copy.deepcopy(model)
    for name in LAYERS:
        if getattr(model, name).weight.numel() >= min_size:
            setattr(model, name, SparseLinear(getattr(model, name)))
    return model
