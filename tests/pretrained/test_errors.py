"""Models that cannot be saved, and files that cannot be loaded, are refused with the reason."""

import dataclasses
import json
import pickle

import pytest
import torch
from safetensors.torch import save as to_bytes

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.diffusion.schedules import LinearSchedule
from sashimi_lib.models import (
    WaveNet,
    WaveRNN,
    WaveRNNConfig,
)
from sashimi_lib.models.audio_lm import AudioLM, new_model
from sashimi_lib.models.heads import DualSoftmax, JointSoftmax, Logistics
from sashimi_lib.models.sparse import sparse
from sashimi_lib.pretrained import ModelCard, check_savable, save
from sashimi_lib.streaming import compiled
from sashimi_lib.streaming.graph import Graphed
from sashimi_lib.training.pruning import Pruner, PruningConfig
from tests.pretrained.cases import (
    BACKBONES,
    DIFFUSION,
    contents,
    new_subscale,
    new_vocoder,
    random_diffusion_model,
    refused,
    rewrite,
)


def test_other_kinds_of_files_are_refused(model, tmp_path):
    path = tmp_path / "file"
    torch.save(model.state_dict(), path)
    refused(path, "must be a model saved by this library")
    path.write_bytes(pickle.dumps({"a": 1}))
    refused(path, "must be a model saved by this library")
    path.write_bytes(b"")
    refused(path, "must be a model saved by this library")
    path.write_bytes(to_bytes({"weight": torch.ones(2)}))
    refused(path, "expected a sashimi_lib file of kind '1', got None")
    path.write_bytes(to_bytes({"weight": torch.ones(2)}, {"format": "pt"}))
    refused(path, "expected a sashimi_lib file of kind '1', got None")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(share, file):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    refused(file, "must be a model saved by this library")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_damaged_byte_is_found(share, file):
    whole = bytearray(file.read_bytes())
    whole[int(share * len(whole))] ^= 4
    file.write_bytes(whole)
    refused(file, "must be a model")


def test_another_version_is_refused(file):
    tensors, metadata = contents(file)
    rewrite(file, tensors, metadata | {"sashimi_lib": "2"})
    refused(file, "expected a sashimi_lib file of kind '1', got '2'")


@pytest.mark.parametrize(
    ("old", "new", "because"),
    [
        ("WaveNetConfig", "Popen", "class Popen is not registered: import the module"),
        ('"MuLaw"', '"GoldenOutputs"', "missing .*'codes'"),
        ('"stacks": 2', '"stacks": 0', "stacks must be at least 1, got 0"),
        ('"stacks": 2', '"heaps": 2', "heaps"),
        ('"stacks": 2', '"stacks": 3', "Missing key"),
        ('"d_skip": 16', '"d_skip": 17', "size mismatch"),
        ('"levels": 256', '"levels": 3', "levels must be an even integer"),
        ('"sample_rate": 8000', '"sample_rate": -1', "sample_rate must"),
        ('"backbone"', '"spine"', "backbone"),
    ],
)
def test_an_invalid_header_is_refused(old, new, because, file):
    tensors, metadata = contents(file)
    assert old in metadata["header"]
    rewrite(file, tensors, metadata | {"header": metadata["header"].replace(old, new, 1)})
    refused(file, because)


def test_missing_extra_and_wrong_tensors_are_refused(file):
    tensors, metadata = contents(file)
    rewrite(file, {name: x for name, x in tensors.items() if name != "head.bias"}, metadata)
    refused(file, 'Missing key.*"head.bias"')
    rewrite(file, tensors | {"tail.bias": torch.zeros(1)}, metadata)
    refused(file, 'Unexpected key.*"tail.bias"')
    rewrite(file, tensors | {"head.bias": torch.arange(256.0)}, metadata)
    refused(file, "self-test failed: likelihood of the reference codes is .* bits, expected")


@pytest.mark.parametrize("name", DIFFUSION)
def test_a_diffusion_model_that_fails_its_self_test_is_refused(name, tmp_path):
    path, model = tmp_path / "file", random_diffusion_model(name)
    save(path, model, 8000, ModelCard("mine"))
    tensors, metadata = contents(path)
    for tensor in (
        "conditioning.out.weight",
        *(["conditioning.classes.weight"] if model.config.backbone.n_classes else []),
    ):
        rewrite(path, tensors | {f"backbone.{tensor}": -tensors[f"backbone.{tensor}"]}, metadata)
        refused(path, "self-test failed: the estimated noise is")
    header = json.loads(metadata["header"])
    header["card"]["expected"] = {"class": "GoldenOutputs", "codes": [1], "waveform": [0.0], "bits": 8.0}
    rewrite(path, tensors, metadata | {"header": json.dumps(header)})
    refused(path, "self-test failed: reference outputs of a DiffusionModel are not GoldenOutputs")
    assert header["diffusion"]["class"] == "DiffusionConfig"
    header["diffusion"]["schedule"]["steps"] = 1
    rewrite(path, tensors, metadata | {"header": json.dumps(header)})
    refused(path, "steps must be at least 2, got 1")


def test_an_unregistered_schedule_cannot_be_saved(tmp_path):
    class Own(LinearSchedule):
        """Not registered."""

    model = DiffusionModel(dataclasses.replace(DIFFUSION["diffwave"], schedule=Own()))
    with pytest.raises(ValueError, match="class Own is not registered: decorate it"):
        save(tmp_path / "file", model, 8000, ModelCard("own"))
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("head", [Logistics(4, 16), JointSoftmax(4, 16), DualSoftmax(4, 16, d_hidden=7)])
def test_a_head_other_than_the_default_cannot_be_saved(head, tmp_path):
    model = AudioLM(CoarseFine(16), BACKBONES["sashimi"].build(), head)
    with pytest.raises(
        ValueError, match=r"its backbone's default head, DualSoftmax(.|\n)*; got " + type(head).__name__
    ):
        save(tmp_path / "file", model, 8000, ModelCard("mine"))
    assert not (tmp_path / "file").exists()


def pruning(finished):
    model = WaveRNN(WaveRNNConfig(256))
    pruner = Pruner(model, PruningConfig(0.9, (16, 1)))
    pruner.prune(0.9)
    if finished:
        pruner.bake_masks()
    return model


def with_a_gain():
    model = new_model(BACKBONES["wavenet"], MuLaw())
    model.backbone.register_buffer("gain", torch.ones(4))
    return model


@pytest.mark.parametrize(
    ("make", "because"),
    [
        (
            lambda: pruning(finished=False),
            r"differs in .*R\.parametrizations\.weight\.original.*finish pruning",
        ),
        (lambda: sparse(pruning(finished=True)), r"differs in .*R\.weight.*not a `sparse` one"),
        (with_a_gain, r"differs in backbone\.gain"),
        (lambda: compiled(WaveRNN(WaveRNNConfig(12))), "got the engine Compiled: save its `model`"),
        (lambda: Graphed(WaveRNN(WaveRNNConfig(12)), capture=False), "got the engine Graphed"),
    ],
    ids=["pruner", "sparse", "another tensor", "compiled", "graphed"],
)
def test_a_model_that_load_cannot_restore_is_refused_by_check_savable_and_save(make, because, tmp_path):
    model = make()
    with pytest.raises(ValueError, match=because):
        check_savable(model)
    with pytest.raises(ValueError, match=because):
        save(tmp_path / "file", model, 8000, ModelCard("mine"))
    assert not (tmp_path / "file").exists()


class Own(MuLaw):
    """Not registered."""


def test_check_savable_does_not_change_the_random_state(tmp_path):
    models = [pruning(finished=True), new_vocoder(), new_subscale(), random_diffusion_model("diffwave")]
    models += [new_model(config, MuLaw()) for config in BACKBONES.values()]
    before = torch.get_rng_state()
    for model in models:
        check_savable(model)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="class Own is not registered"):
        check_savable(AudioLM(Own(), models[-1].backbone))


def test_invalid_models_and_rates_are_refused(model, tmp_path):
    class Own(WaveNet):
        """A backbone without a config."""

    own = AudioLM(MuLaw(), Own(model.backbone.config))
    del own.backbone.config
    with pytest.raises(ValueError, match="saving a Own is not supported"):
        save(tmp_path / "file", own, 8000, ModelCard("own"))
    with pytest.raises(ValueError, match="sample_rate"):
        save(tmp_path / "file", model, 0, ModelCard("mine"))
    model.head.weight.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"head\.weight"):
        save(tmp_path / "file", model, 8000, ModelCard("mine"))
    assert not (tmp_path / "file").exists()
