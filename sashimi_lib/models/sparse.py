"""A pruned WaveRNN that does not multiply by its zeros (chapter 8).

At batch 1 a step is matrix-vector products, and these wait for the matrix to come from memory. With nine of
ten weights gone there is that much less to fetch, if the processor does not have to fetch them one by one.
That is what blocks of 16x1 weights are for: 16 rows in a band share a list of columns, so a band is a small
dense matrix times a few entries of the vector.
"""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sashimi_lib.models.wavernn import WaveRNN

LAYERS = ("R", "O1", "O2", "O3", "O4")  # nearly all of a WaveRNN's weights, and all that pruning touches
SMALL = (
    2**16
)  # weights of a matrix that stays in a core's own cache: zeros cost less there than skipping them


class SparseLinear(nn.Module):
    """``W x + b`` by bands of so many rows, each with only those columns that it has weights in.

    It is right for any matrix, and fast for one whose zeros come in blocks as high as a band. Bands are as
    wide as the widest of them. It is made from a dense layer, to generate and not to train, and is not saved:
    save that one.

    >>> linear = nn.Linear(8, 4)
    >>> _ = linear.weight.data[:, :6].zero_()
    >>> sparse, x = SparseLinear(linear, rows=2), torch.randn(3, 8)
    >>> sparse.columns
    tensor([[6, 7],
            [6, 7]])
    >>> torch.allclose(sparse(x), linear(x), atol=1e-6)
    True

    Chapter: 8. WaveRNN paper, section 3. Raises ValueError for bands that do not fill the matrix.
    """

    columns: Int[Tensor, "bands width"]
    bands: Float[Tensor, "bands width rows"]
    bias: Float[Tensor, " outputs"] | None

    def __init__(self, linear: nn.Linear, rows: int = 16) -> None:
        super().__init__()
        weight = linear.weight.detach()
        if len(weight) % rows:
            raise ValueError(f"rows must divide the {len(weight)} rows of a matrix, got {rows}")
        bands = weight.unflatten(0, (-1, rows)).mT
        used = (bands != 0).any(-1)
        width = max(1, int(used.sum(1).max()))  # narrower bands are filled up with columns of zeros
        columns = used.int().sort(dim=1, descending=True, stable=True).indices[:, :width]
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.in_features = linear.in_features
        self.register_buffer("columns", columns.contiguous(), persistent=False)
        self.register_buffer("bands", bands.take_along_dim(columns[..., None], 1), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """W with its zeros, for a pass over a whole sequence."""
        bands, _, rows = self.bands.shape
        columns = self.columns[..., None].expand_as(self.bands)
        full = self.bands.new_zeros(bands, self.in_features, rows).scatter(1, columns, self.bands)
        return full.mT.flatten(0, 1)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Features (..., inputs) -> (..., outputs)."""
        columns, bands = self.columns, self.bands
        vectors = x.reshape(-1, self.in_features)
        if len(vectors) == 1:  # the way that is taken at every sample, with no transposing
            heard = vectors[0].index_select(0, columns.view(-1)).view(len(bands), 1, -1)
            y = torch.bmm(heard, bands)
        else:
            heard = vectors.index_select(1, columns.view(-1)).view(-1, *columns.shape)
            y = torch.bmm(heard.transpose(0, 1), bands).transpose(0, 1)
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def sparse(model: WaveRNN, rows: int = 16, small: int = SMALL) -> WaveRNN:
    """The same model for generating on a CPU, its products with R and O_1 to O_4 by `SparseLinear`.

    ``rows`` is the height of the blocks that it was pruned by (`sashimi_lib.training.pruning`); another is as
    right, and slower. Matrices of fewer than ``small`` weights stay dense, which is faster for them.

    >>> model = WaveRNN()
    >>> for name in LAYERS:
    ...     _ = getattr(model, name).weight.data[:, 16:].zero_()
    >>> torch.equal(sparse(model).generate(5, seed=0), model.generate(5, seed=0))
    True

    Chapter: 8. WaveRNN paper, section 3. Raises ValueError for rows that do not divide those of a matrix.
    """
    model = copy.deepcopy(model)
    for name in LAYERS:
        if getattr(model, name).weight.numel() >= small:
            setattr(model, name, SparseLinear(getattr(model, name), rows))
    return model
