"""Models in files: what ships says what it should, any other comes back as it was, a bad file is refused."""

import copy
import dataclasses
import json
import math
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from sashimi_lib import __version__
from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.diffusion.samplers import DPM_SOLVER
from sashimi_lib.diffusion.schedules import CosineSchedule, LinearSchedule, LogSNRSchedule
from sashimi_lib.evaluation.classifier import load_classifier
from sashimi_lib.models import (
    DiffWaveConfig,
    IsotropicConfig,
    SampleRNNConfig,
    SaShiMiConfig,
    Subscale,
    SubscaleConfig,
    WaveNet,
    WaveNetConfig,
    WaveRNN,
    WaveRNNConfig,
    build,
)
from sashimi_lib.models.audio_lm import AudioLM, new_model, sample_token
from sashimi_lib.models.heads import DualSoftmax, JointSoftmax, Logistics
from sashimi_lib.models.sashimi_unet import SaShiMiUNetConfig
from sashimi_lib.models.sparse import sparse
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.pretrained import WEIGHTS, ModelCard, bundled_bits, check_savable, load, names, save
from sashimi_lib.ssm.s4 import Form, SSMConfig
from sashimi_lib.storage.tensor_file import write_tensors
from sashimi_lib.streaming import compiled
from sashimi_lib.streaming.graph import Graphed
from sashimi_lib.training.pruning import Pruner, PruningConfig

SINGERS = ["digits", "digits16", "piano", "wavernn"]  # which draw one sample after the other
SHIPPED = sorted([*SINGERS, "digits_diffusion"])
FLAT = [248, 181, 117, 235, 165]  # what seed 0 draws here where all codes are equally likely
DIAGONAL = SSMConfig(d_state=8, form=Form.DIAGONAL, init="lin", tied=False)
BACKBONES = {
    "sashimi": SaShiMiConfig(d_model=4, n_layers=1, pool=(2, 4), norm="layer"),
    "u-net": SaShiMiConfig(d_model=4, n_layers=1, unet=True, glu=True, ssm=DIAGONAL),
    "isotropic": IsotropicConfig(d_model=4, n_layers=1, norm="layer", ssm=SSMConfig(d_state=4)),
    "wavenet": WaveNetConfig(2, 3, 8, 8, 16, 16, 8),
    "samplernn": SampleRNNConfig((4, 2), 2, 16, 8),
}
DIFFUSION = {
    "diffwave": DiffusionConfig(DiffWaveConfig(d_residual=4, d_skip=4, n_layers=2, d_step=(4, 6, 8))),
    "sashimi of classes": DiffusionConfig(
        SaShiMiUNetConfig(
            d_model=4, n_layers=1, pool=(2, 5), d_step=(4, 6, 8), n_classes=3, ssm=DIAGONAL,
            direction="concat",
        ),
        CosineSchedule(30), "velocity",
    ),
    "vocoder of classes": DiffusionConfig(
        DiffWaveConfig(
            d_residual=4, d_skip=4, n_layers=2, d_step=(4, 6, 8), n_classes=2,
            mel=LogMelConfig(8000, n_mels=8, hop=20, window=256),
        ),
        LogSNRSchedule(40),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def shipped():
    return {name: load(name) for name in SHIPPED}


@pytest.fixture
def model():
    return AudioLM(MuLaw(), build(BACKBONES["wavenet"]))


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "mine.safetensors"
    save(path, model, 8000, ModelCard("mine"))
    return path


def contents(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def rewrite(path, tensors, metadata):
    """Write a file that is not damaged, whatever else is wrong with it."""
    write_tensors(path, metadata["sashimi_lib"], metadata["header"], tensors)


def refused(path, because):
    with pytest.raises(ValueError, match=because) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_what_ships_is_what_is_named():
    assert (
        names()
        == SHIPPED
        == sorted(path.stem for path in WEIGHTS.iterdir() if path.suffix != ".md" and path.is_file())
    )
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 15e6
    for name in SHIPPED:
        assert f"`{name}.safetensors`" in (WEIGHTS / "CREDITS.md").read_text()


@pytest.mark.parametrize("name", SINGERS)
def test_a_shipped_model_knows_itself(name, shipped):
    card, lm = shipped[name].card, shipped[name].model
    assert card.name == name
    assert card.library  # the version that packed it
    assert card.parameters == sum(p.numel() for p in lm.parameters())
    assert "CC" in card.credit
    assert card.samples >= card.steps >= 500
    assert card.test_bits < (12 if card.bigram_bits is None else card.bigram_bits - 0.5)
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in lm.parameters())
    assert shipped[name].sample_rate == (16_000 if name == "piano" else 8000)


@pytest.mark.parametrize("name", SINGERS)
@torch.no_grad()
def test_a_shipped_model_gives_its_expected_bits_and_waveform(name, shipped):
    lm, expected = shipped[name].model, shipped[name].card.expected
    codes = torch.tensor([expected.codes])
    assert codes.shape[:2] == (1, 64)
    assert -float(lm.log_likelihood(codes).mean()) == pytest.approx(expected.bits, abs=1e-3)
    assert torch.equal(lm.quantizer.decode(codes)[0], torch.tensor(expected.waveform))


@pytest.mark.parametrize("name", SINGERS)
@torch.no_grad()
def test_a_shipped_model_draws_its_expected_waveform_again(name, shipped):
    flat = sample_token(torch.zeros(5, 256), generator=torch.Generator().manual_seed(0)).tolist()
    if flat != FLAT:
        pytest.skip("the random numbers of this PyTorch are others, so its draws are other music")
    lm, expected = shipped[name].model, shipped[name].card.expected
    drawn = lm.generate(64, seed=0)[0]
    assert torch.equal(drawn, torch.tensor(expected.codes))
    # In double precision too: no draw hangs on rounding.
    assert torch.equal(copy.deepcopy(lm).double().generate(64, seed=0)[0], drawn)


@pytest.mark.slow
def test_the_shipped_diffusion_model_says_what_it_is_asked_for(shipped):
    model, card = shipped["digits_diffusion"].model, shipped["digits_diffusion"].card
    assert card.parameters == sum(p.numel() for p in model.parameters())
    assert card.steps > 1000
    assert 0 < card.test_loss < 0.5
    assert all(word in card.credit for word in ("Zohar Jackson", "CC BY-SA 4.0"))
    asked = torch.arange(10).repeat(2)
    said = model.generate(4096, label=asked, guidance=2.0, sampler=DPM_SOLVER, steps=12, seed=1)
    heard, _ = load_classifier().classify(said)
    right = (heard == asked).view(2, 10).any(0)
    assert int(right.sum()) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGERS)
def test_a_shipped_model_gives_its_expected_bits_on_clips_that_ship(name, shipped):
    given = bundled_bits(shipped[name].model, shipped[name].sample_rate)
    assert given == pytest.approx(shipped[name].card.bundled_bits, abs=1e-3)


def test_only_rates_of_the_clips_that_ship_can_be_judged(model):
    with pytest.raises(ValueError, match="sample_rate must be 8000 or 16000"):
        bundled_bits(model, 44_100)


@pytest.mark.parametrize("quantizer", [MuLaw(), Linear(16)], ids=str)
@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_any_model_comes_back_as_it_was(name, quantizer, tmp_path):
    lm = AudioLM(quantizer, build(BACKBONES[name]))
    card = ModelCard("mine", data="noise", credit="nobody", steps=3, samples=99, test_bits=7.5)
    save(tmp_path / "new" / "file", lm, 22_050, card)
    before = torch.get_rng_state()
    back = load(tmp_path / "new" / "file")
    assert torch.equal(torch.get_rng_state(), before)
    assert back.model.quantizer == quantizer
    assert back.model.backbone.config == BACKBONES[name]
    assert back.sample_rate == 22_050
    expected = dataclasses.replace(card, parameters=back.card.parameters, expected=back.card.expected)
    assert back.card == expected
    codes = torch.randint(0, quantizer.levels, (2, 40))
    assert torch.equal(back.model(codes)[0], lm(codes)[0])
    assert tuple(lm.generate(64, seed=0)[0].tolist()) == back.card.expected.codes


@pytest.mark.parametrize("levels", [256, 16])
@pytest.mark.parametrize("name", ["wavernn", *BACKBONES])
@torch.no_grad()
def test_any_16_bit_model_comes_back_as_it_was(name, levels, tmp_path):
    config = BACKBONES.get(name, WaveRNNConfig(12, levels=levels))
    model = new_model(config, CoarseFine(levels))
    before = torch.get_rng_state()
    save(tmp_path / "file", model, 8000, ModelCard("mine"))
    back = load(tmp_path / "file")
    assert torch.equal(torch.get_rng_state(), before)
    assert type(back.model) is type(model)
    assert back.model.quantizer == CoarseFine(levels)
    codes = torch.randint(0, levels, (2, 40, 2))
    assert torch.equal(back.model.log_likelihood(codes), model.log_likelihood(codes))
    expected = back.card.expected
    drawn = model.generate(64, seed=0)[0]
    assert expected.codes == tuple(map(tuple, drawn.tolist()))
    assert torch.equal(model.quantizer.decode(drawn), torch.tensor(expected.waveform))


def diffusion(name):
    """A diffusion model that has something to say: a new one begins at zero."""
    model = DiffusionModel(DIFFUSION[name])
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("name", DIFFUSION)
@torch.no_grad()
def test_any_diffusion_model_comes_back_as_it_was(name, tmp_path):
    model = diffusion(name)
    before = torch.get_rng_state()
    save(tmp_path / "file", model, 8000, ModelCard("mine", test_loss=0.25))
    back = load(tmp_path / "file")
    assert torch.equal(torch.get_rng_state(), before)
    assert back.model.config == DIFFUSION[name]
    assert (back.sample_rate, back.card.test_loss, back.card.test_bits) == (8000, 0.25, None)
    n, waveform = model.config.backbone.n_classes, torch.tensor([back.card.expected.waveform])
    assert torch.tensor(back.card.expected.noise).shape == (max(n, 1), 8)
    x, step = 0.1 * torch.randn(3, 40), torch.full((3,), 7.5)
    label = torch.tensor([0, 1, n - 1]) if n else None
    features = model.log_mel(x) if model.log_mel else None
    said, again = (m.denoise(x, step, label, features=features) for m in (model, back.model))
    assert all(torch.equal(a, b) for a, b in zip(said, again, strict=True))
    if features is None:
        assert torch.allclose(waveform, back.model.sample_audio(64), atol=1e-5)
    assert waveform.shape == (1, 64)
    assert waveform.std() > 0.01


@pytest.mark.parametrize("name", DIFFUSION)
def test_a_diffusion_model_that_says_something_else_is_refused(name, tmp_path):
    path, model = tmp_path / "file", diffusion(name)
    save(path, model, 8000, ModelCard("mine"))
    tensors, metadata = contents(path)
    for tensor in (
        "conditioning.out.weight",
        *(["conditioning.classes.weight"] if model.config.backbone.n_classes else []),
    ):
        rewrite(path, tensors | {f"backbone.{tensor}": -tensors[f"backbone.{tensor}"]}, metadata)
        refused(path, "what it takes for noise must be")
    header = json.loads(metadata["header"])
    header["card"]["expected"] = {"class": "GoldenOutputs", "codes": [1], "waveform": [0.0], "bits": 8.0}
    rewrite(path, tensors, metadata | {"header": json.dumps(header)})
    refused(path, "another kind of model: GoldenOutputs")
    assert header["diffusion"]["class"] == "DiffusionConfig"
    header["diffusion"]["schedule"]["steps"] = 1
    rewrite(path, tensors, metadata | {"header": json.dumps(header)})
    refused(path, "steps must be at least 2, got 1")


def test_a_schedule_of_ones_own_cannot_be_saved(tmp_path):
    class Own(LinearSchedule):
        """What no header can describe."""

    model = DiffusionModel(dataclasses.replace(DIFFUSION["diffwave"], schedule=Own()))
    with pytest.raises(ValueError, match="class Own is not registered: decorate it"):
        save(tmp_path / "file", model, 8000, ModelCard("own"))
    assert not (tmp_path / "file").exists()


def test_the_bits_of_a_16_bit_model_on_clips_that_ship_are_of_both_its_codes():
    model = WaveRNN(WaveRNNConfig(12))
    for parameter in model.parameters():
        parameter.data.zero_()
    assert bundled_bits(model, 8000) == pytest.approx(16, abs=1e-5)
    model.O4.bias.data[0] = 30.0  # the fine code is 0, for certain
    fine = torch.cat([CoarseFine().encode(clip.waveform) for clip in bundled.spoken_digits().values()])[:, 1]
    expected = 8 + 30 / math.log(2) * (fine != 0).double().mean()
    assert bundled_bits(model, 8000) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("head", [Logistics(4, 16), JointSoftmax(4, 16), DualSoftmax(4, 16, d_hidden=7)])
def test_a_head_of_ones_own_cannot_be_saved(head, tmp_path):
    model = AudioLM(CoarseFine(16), build(BACKBONES["sashimi"]), head)
    with pytest.raises(
        ValueError, match=r"its backbone's own head, DualSoftmax(.|\n)*; got " + type(head).__name__
    ):
        save(tmp_path / "file", model, 8000, ModelCard("mine"))
    assert not (tmp_path / "file").exists()


def test_saving_leaves_the_model_alone_and_keeps_single_precision(model, tmp_path):
    model.double()
    save(tmp_path / "file", model, 8000, ModelCard("mine"))
    assert next(model.parameters()).dtype == torch.float64
    assert next(load(tmp_path / "file").model.parameters()).dtype == torch.float32


def test_half_precision_halves_the_file_and_rounds_the_weights(model, tmp_path):
    for dtype in (torch.float32, torch.float16):
        save(tmp_path / str(dtype), model, 16_000, ModelCard("mine"), dtype)
    whole, half = ((tmp_path / str(dtype)).stat().st_size for dtype in (torch.float32, torch.float16))
    weights = sum(p.numel() for p in model.parameters())
    assert abs(whole - half - 2 * weights) < 100  # the headers differ by a few letters
    for name, weight in load(tmp_path / "torch.float16").model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, model.state_dict()[name].half().float())


def test_an_interrupted_save_leaves_the_old_file(file, model, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    before = file.read_bytes()
    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save(file, model, 16_000, ModelCard("other"))
    assert file.read_bytes() == before


def test_nothing_is_unpickled(file, monkeypatch):
    def unpickled(*_, **__):
        raise AssertionError("unpickled")

    for where in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(where, unpickled)
    load(file)


def test_other_kinds_of_files_are_refused(model, tmp_path):
    path = tmp_path / "file"
    torch.save(model.state_dict(), path)
    refused(path, "must be a model that this library saved")
    path.write_bytes(pickle.dumps({"a": 1}))
    refused(path, "must be a model that this library saved")
    path.write_bytes(b"")
    refused(path, "must be a model that this library saved")
    path.write_bytes(to_bytes({"weight": torch.ones(2)}))
    refused(path, "expected a sashimi_lib file of kind '1', got None")
    path.write_bytes(to_bytes({"weight": torch.ones(2)}, {"format": "pt"}))
    refused(path, "expected a sashimi_lib file of kind '1', got None")


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=f"one of {', '.join(SHIPPED)}, or a file's path"):
        load("violin")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(share, file):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    refused(file, "must be a model that this library saved")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_damaged_byte_is_found(share, file):
    whole = bytearray(file.read_bytes())
    whole[int(share * len(whole))] ^= 4
    file.write_bytes(whole)
    refused(file, "must be a model")


def test_another_format_is_refused(file):
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
def test_a_header_that_describes_no_model_or_another_is_refused(old, new, because, file):
    tensors, metadata = contents(file)
    assert old in metadata["header"]
    rewrite(file, tensors, metadata | {"header": metadata["header"].replace(old, new, 1)})
    refused(file, because)


def test_missing_left_over_and_other_tensors_are_refused(file):
    tensors, metadata = contents(file)
    rewrite(file, {name: x for name, x in tensors.items() if name != "head.bias"}, metadata)
    refused(file, 'Missing key.*"head.bias"')
    rewrite(file, tensors | {"tail.bias": torch.zeros(1)}, metadata)
    refused(file, 'Unexpected key.*"tail.bias"')
    rewrite(file, tensors | {"head.bias": torch.arange(256.0)}, metadata)
    refused(file, "must cost .* bits per sample, and costs")


def test_a_header_is_text_that_anybody_can_read(file):
    header = json.loads(contents(file)[1]["header"])
    assert header["backbone"]["class"] == "WaveNetConfig"
    assert header["quantizer"] == {"class": "MuLaw", "levels": 256}
    assert header["card"]["library"] == __version__


def a_vocoder():
    return Vocoder(WaveRNNConfig(12, d_conditioning=3), LogMelConfig(8000, n_mels=8, hop=20, window=256))


def a_subscale():
    return Subscale(SubscaleConfig(12, factor=4, lookahead=1, d_conditioning=3, layers=2, levels=16))


@pytest.mark.parametrize("make", [a_vocoder, a_subscale])
@torch.no_grad()
def test_models_that_are_no_backbone_with_a_head_come_back_as_they_were(make, tmp_path):
    model = make()
    before = torch.get_rng_state()
    save(tmp_path / "file", model, 8000, ModelCard("mine"))
    back = load(tmp_path / "file")
    assert torch.equal(torch.get_rng_state(), before)
    assert type(back.model) is type(model)
    assert back.model.config == model.config
    codes = torch.randint(0, model.quantizer.levels, (2, 40, 2))
    assert torch.equal(back.model.log_likelihood(codes), model.log_likelihood(codes))
    assert len(back.card.expected.codes) == 64
    tensors, metadata = contents(tmp_path / "file")
    rewrite(
        tmp_path / "file", tensors | {"cell.O2.bias": torch.arange(1.0 * model.quantizer.levels)}, metadata
    )
    refused(tmp_path / "file", "must cost .* bits per sample, and costs")


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
            r"differs in .*R\.parametrizations\.weight\.original.*finish a `Pruner`",
        ),
        (lambda: sparse(pruning(finished=True)), r"differs in .*R\.weight.*not a `sparse` one"),
        (with_a_gain, r"differs in backbone\.gain"),
        (lambda: compiled(WaveRNN(WaveRNNConfig(12))), "got the engine Compiled: save its `model`"),
        (lambda: Graphed(WaveRNN(WaveRNNConfig(12)), capture=False), "got the engine Graphed"),
    ],
    ids=["pruner", "sparse", "another tensor", "compiled", "graphed"],
)
def test_what_load_would_refuse_is_refused_before_it_is_trained_and_before_it_is_written(
    make, because, tmp_path
):
    model = make()
    with pytest.raises(ValueError, match=because):
        check_savable(model)
    with pytest.raises(ValueError, match=because):
        save(tmp_path / "file", model, 8000, ModelCard("mine"))
    assert not (tmp_path / "file").exists()


def test_what_can_be_saved_is_and_nothing_is_drawn_to_know_it(tmp_path):
    models = [pruning(finished=True), a_vocoder(), a_subscale(), diffusion("diffwave")]
    models += [new_model(config, MuLaw()) for config in BACKBONES.values()]
    before = torch.get_rng_state()
    for model in models:
        check_savable(model)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="class Own is not registered"):
        check_savable(AudioLM(Own(), models[-1].backbone))


class Own(MuLaw):
    """What no header can describe."""


def test_what_cannot_be_saved_is_refused(model, tmp_path):
    class Own(WaveNet):
        """A backbone that no header can describe."""

    own = AudioLM(MuLaw(), Own(model.backbone.config))
    del own.backbone.config
    with pytest.raises(ValueError, match="backbone that keeps its config, got Own"):
        save(tmp_path / "file", own, 8000, ModelCard("own"))
    with pytest.raises(ValueError, match="sample_rate"):
        save(tmp_path / "file", model, 0, ModelCard("mine"))
    model.head.weight.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"head\.weight"):
        save(tmp_path / "file", model, 8000, ModelCard("mine"))
    assert not (tmp_path / "file").exists()


@pytest.mark.slow
def test_an_installed_wheel_brings_the_models(root, tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "sashimi_lib", tmp_path / "source" / "sashimi_lib", ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path / "source")
    make = "import setuptools.build_meta as b; b.build_wheel('..')"
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path / "source", check=True, capture_output=True)
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), tmp_path / "installed", "zip")
    use = "from sashimi_lib.pretrained import *; print(*[load(name).card.name for name in names()], WEIGHTS)"
    done = subprocess.run(
        [sys.executable, "-c", use],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [*SHIPPED, str(tmp_path / "installed" / "sashimi_lib" / "weights")]
