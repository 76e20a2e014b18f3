"""Fine-tuning: a run that starts from the weights of a trained model."""

from typing import Any

from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.pretrained import ModelCard, load


def begin_from(name: str, model: DiscreteAudioModel | DiffusionModel, sample_rate: int) -> ModelCard:
    """Load the weights of a trained model of the same architecture and sample rate; returns its card. Raises
    ValueError, naming the differences."""
    trained = load(name)
    if trained.sample_rate != sample_rate:
        raise ValueError(
            f"--from {name} has a sample rate of {trained.sample_rate} Hz, this run of {sample_rate}: use "
            f"--sample-rate {trained.sample_rate}"
        )
    there, here = shape_of(trained.model), shape_of(model)
    parts = here if there["kind"] == here["kind"] else ["kind"]  # others have other settings
    other = [
        f"{part} is {there[part]} there and {here[part]} here" for part in parts if there[part] != here[part]
    ]
    if other:
        raise ValueError(f"--from {name} has another architecture: {'; '.join(other)}")
    model.load_state_dict(trained.model.state_dict())
    return trained.card


def shape_of(model: DiscreteAudioModel | DiffusionModel) -> dict[str, Any]:
    """All settings of a model by name.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> shape_of(WaveRNN(WaveRNNConfig(8)))["d_hidden"]
    8
    """
    quantizer = None if isinstance(model, DiffusionModel) else model.quantizer
    config: Any = (model.backbone if isinstance(model, AudioLM) else model).config
    return {"kind": type(config).__name__, "quantizer": quantizer, **vars(config)}
