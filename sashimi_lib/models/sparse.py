"""A pruned WaveRNN that does not multiply by its zeros (chapter 8).

At batch 1 a step is matrix-vector products, and these wait for the matrix to come from memory. With nine of
ten weights gone there is that much less to fetch. What is left is stored as compressed sparse rows (CSR),
which serve blocks of any shape alike.
"""

import copy
import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sashimi_lib.models.wavernn import WaveRNN

LAYERS = ("R", "O1", "O2", "O3", "O4")  # nearly all of a WaveRNN's weights, and all that pruning touches
SMALL = (
    2**16
)  # weights of a matrix that stays in a core's own cache: zeros cost less there than skipping them


class SparseLinear(nn.Module):
    """``W x + b`` by the entries of W that are not zero; for generating, so it does not train.

    >>> linear = nn.Linear(4, 2)
    >>> _ = linear.weight.data[:, 1:].zero_()
    >>> sparse, x = SparseLinear(linear), torch.randn(3, 4)
    >>> torch.allclose(sparse(x), linear(x))
    True

    It is made from a dense layer and is not saved: save that one. Chapter: 8. WaveRNN paper, section 3.
    """

    csr: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            csr = linear.weight.detach().to_sparse_csr()
            # MKL wants indices of 32 bits, and PyTorch would convert others anew for every product.
            places = csr.crow_indices().int(), csr.col_indices().int()
            csr = torch.sparse_csr_tensor(*places, csr.values(), csr.shape, check_invariants=True)
        self.register_buffer("csr", csr, persistent=False)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias, persistent=False)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """W with its zeros, for a pass over a whole sequence."""
        return self.csr.to_dense()

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Features (..., inputs) -> (..., outputs)."""
        vectors = x.reshape(-1, x.shape[-1])
        if len(vectors) == 1 and torch.backends.mkl.is_available():  # twice as fast, and only MKL has it
            y = torch.mv(self.csr, vectors[0])
        else:
            y = (self.csr @ vectors.T).T
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def sparse(model: WaveRNN, small: int = SMALL) -> WaveRNN:
    """The same model for generating on a CPU, its products with R and O_1 to O_4 by `SparseLinear`.

    It is faster where most of these weights are zero (`sashimi_lib.training.pruning`), and slower where they
    are not. Matrices of fewer than ``small`` weights stay dense, which is faster for them.

    >>> model = WaveRNN()
    >>> for name in LAYERS:
    ...     _ = getattr(model, name).weight.data[16:].zero_()
    >>> torch.equal(sparse(model).generate(5, seed=0), model.generate(5, seed=0))
    True

    Chapter: 8. WaveRNN paper, section 3.
    """
    model = copy.deepcopy(model)
    for name in LAYERS:
        if getattr(model, name).weight.numel() >= small:
            setattr(model, name, SparseLinear(getattr(model, name)))
    return model
