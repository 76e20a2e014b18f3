"""Fine-tuning: a run that starts from the weights of a trained model."""

from typing import Any

from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.pretrained import ModelCard, load


def load_initial_weights(
    name: str, model: DiscreteAudioModel | DiffusionModel, sample_rate: int
) -> ModelCard:
    """Load the weights of a trained model of the same architecture and sample rate; returns its card. Raises
    ValueError, naming the differences."""
    trained = load(name)
    if trained.sample_rate != sample_rate:
        raise ValueError(
            f"--from {name} has a sample rate of {trained.sample_rate} Hz, this run of {sample_rate}: use "
            f"--sample-rate {trained.sample_rate}"
        )
    loaded, new = describe_shape(trained.model), describe_shape(model)
    names = new if loaded["kind"] == new["kind"] else ["kind"]  # another kind has other settings
    differences = [
        f"{setting} is {loaded[setting]}, this run has {new[setting]}"
        for setting in names
        if loaded[setting] != new[setting]
    ]
    if differences:
        raise ValueError(f"--from {name} has another architecture: {'; '.join(differences)}")
    model.load_state_dict(trained.model.state_dict())
    return trained.card


def describe_shape(model: DiscreteAudioModel | DiffusionModel) -> dict[str, Any]:
    """All settings of a model by name.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> describe_shape(WaveRNN(WaveRNNConfig(8)))["d_hidden"]
    8
    """
    quantizer = None if isinstance(model, DiffusionModel) else model.quantizer
    config: Any = (model.backbone if isinstance(model, AudioLM) else model).config
    return {"kind": type(config).__name__, "quantizer": quantizer, **vars(config)}
