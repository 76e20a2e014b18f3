"""Every causal backbone in a small size, and an embedding with dropout."""

from torch import nn

from sashimi_lib.models import (
    IsotropicConfig,
    IsotropicS4,
    SampleRNN,
    SampleRNNConfig,
    SaShiMi,
    SaShiMiConfig,
    WaveNet,
    WaveNetConfig,
)

BACKBONES = {
    "sashimi": lambda: SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)),
    "u-net": lambda: SaShiMi(SaShiMiConfig(d_model=4, n_layers=1, unet=True)),
    "isotropic": lambda: IsotropicS4(IsotropicConfig(d_model=4, n_layers=1)),
    "wavenet": lambda: WaveNet(WaveNetConfig(2, 3, 8, 8, 16, 16, 8)),
    "samplernn": lambda: SampleRNN(SampleRNNConfig((4, 2), 1, 16, 8)),
}


class DropoutEmbedding(nn.Module):
    """An embedding with dropout, so that training draws random numbers."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def forward(self, codes):
        return nn.functional.dropout(self.embedding(codes), 0.3)
