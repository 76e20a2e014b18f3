"""The classifier is accurate on real digits at any level and length; damaged files are refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save as to_bytes
from torch.nn import functional as F

from benchmarks.lib.corpus import load_words
from sashimi_lib import pretrained
from sashimi_lib.audio import fit_length
from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.data.bundled import spoken_digits
from sashimi_lib.evaluation.classifier import (
    BUNDLED_WEIGHTS,
    Classifier,
    ClassifierConfig,
    load_classifier,
    save_classifier,
)

TINY = ClassifierConfig(n_classes=3, mel=LogMelConfig(8_000, n_mels=10, hop=40, window=80), width=2)


@pytest.fixture(scope="module")
def bundled():
    return load_classifier()


@pytest.fixture
def tiny():
    return Classifier(TINY).eval()


@pytest.fixture
def digits():
    return torch.stack([fit_length(clip.waveform, 6_600) for clip in spoken_digits().values()])


@pytest.fixture(scope="module")
def recordings(root):
    folder = root / "runs" / "data" / "digits" / "test"
    if not folder.is_dir():
        pytest.skip("needs the spoken digits in runs/data, which are not here")
    return load_words(folder, 8_000)


def tones(hertz, length=2_000):
    phase = 2 * torch.pi * hertz[:, None] * torch.arange(length) / 8_000
    return 0.5 * torch.sin(phase)


def test_it_is_accurate_on_an_unseen_speaker(bundled, digits):
    label, probability = bundled.classify(digits)
    assert int((label == torch.arange(10)).sum()) >= 9
    assert bool((probability > 1 / 10).all())


def test_it_is_accurate_on_held_out_recordings(bundled, recordings):
    expected = torch.tensor([word.label for word in recordings])
    predicted, _ = bundled.classify(torch.stack([fit_length(word.waveform, 4_096) for word in recordings]))
    assert float((predicted == expected).double().mean()) >= 0.97


def test_its_result_file_is_of_the_bundled_weights(root, bundled, recordings):
    figures = json.loads((root / "book/results/digit_classifier.json").read_text())["figures"]
    assert figures["file_bytes"] == BUNDLED_WEIGHTS.stat().st_size <= 200_000
    assert figures["parameters"] == sum(p.numel() for p in bundled.parameters())
    confusion = torch.tensor(figures["confusion"])
    assert int(confusion.sum()) == len(recordings)
    assert figures["accuracy"]["test"] == float(confusion.trace()) / len(recordings)


@torch.no_grad()
def test_loudness_and_offset_make_no_difference(bundled, digits):
    logits = bundled(digits)
    torch.testing.assert_close(bundled(0.01 * digits), logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(bundled(3 * digits), logits, rtol=1e-3, atol=1e-3)  # a model may overshoot
    torch.testing.assert_close(bundled(0.5 * digits + 0.25), logits, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_silence_around_a_word_makes_little_difference(bundled, digits):
    frames = 8 * bundled.config.mel.hop  # one step of the last layers
    within = bundled.features(F.pad(digits, (frames, frames)))
    alone = bundled.features(digits)
    assert torch.linalg.norm(within - alone) < 0.05 * torch.linalg.norm(alone)
    label, _ = bundled.classify(F.pad(digits, (800, 800)))
    assert int((label == bundled.classify(digits)[0]).sum()) >= 9


@torch.no_grad()
def test_features_are_the_input_of_the_last_layer(bundled, digits):
    features = bundled.features(digits)
    assert features.shape == (10, bundled.head.in_features) == (10, 64)
    assert torch.equal(bundled.head(features), bundled(digits))
    label, probability = bundled.classify(digits)
    torch.testing.assert_close(bundled(digits).softmax(1)[torch.arange(10), label], probability)


@torch.no_grad()
def test_a_waveform_is_classified_independently_of_its_batch(bundled, digits):
    torch.testing.assert_close(bundled(digits[3:4])[0], bundled(digits)[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 79, 300, 3_000])
def test_waveforms_of_any_length_and_silence_are_classified(length, tiny):
    label, probability = tiny.classify(torch.zeros(2, length))
    assert label[0] == label[1]
    assert bool(probability.isfinite().all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_waveform_that_is_not_finite_is_refused(bad, tiny):
    with pytest.raises(ValueError, match="waveform must be finite"):
        tiny(torch.tensor([[0.0, bad, 0.1]]))


@pytest.mark.parametrize(("name", "value"), [("n_classes", 1), ("width", 0)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        ClassifierConfig(**{name: value})


def test_it_can_be_trained_to_classify_tones(tiny):
    tiny.train()
    optimizer = torch.optim.Adam(tiny.parameters(), lr=0.02)
    hertz = torch.tensor([300.0, 900.0, 2_500.0])
    for _ in range(30):
        label = torch.randint(3, (24,))
        waveform = tones(hertz[label] * torch.empty(24).uniform_(0.9, 1.1))
        loss = F.cross_entropy(tiny(waveform), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted, _ = tiny.eval().classify(tones(hertz * 1.05, 1_500))
    assert predicted.tolist() == [0, 1, 2]


def test_a_saved_classifier_loads_with_equal_outputs(tiny, tmp_path):
    tiny.train()(tones(torch.tensor([300.0, 900.0])))  # updates the statistics of batch norm
    save_classifier(tmp_path / "classifier", tiny.eval(), {"data": "tones"}, torch.float32)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    loaded = load_classifier(tmp_path / "classifier")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.config == TINY
    assert not loaded.training
    waveform = tones(torch.tensor([400.0, 2_000.0]))
    assert torch.equal(loaded(waveform), tiny(waveform))
    save_classifier(tmp_path / "half", tiny, {})
    torch.testing.assert_close(
        load_classifier(tmp_path / "half")(waveform), tiny(waveform), rtol=0, atol=0.02
    )


def test_files_that_are_not_a_classifier_are_refused(tiny, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(ValueError, match=r"path must be a classifier .* got .*nowhere"):
        load_classifier(tmp_path / "nowhere")
    path.write_bytes(to_bytes({"weight": torch.ones(2)}))
    with pytest.raises(ValueError, match="expected a sashimi_lib file of kind 'classifier 1', got None"):
        load_classifier(path)
    shutil.copy(pretrained.WEIGHTS / "wavernn.safetensors", path)
    with pytest.raises(ValueError, match="expected a sashimi_lib file of kind 'classifier 1', got '1'"):
        load_classifier(path)
    save_classifier(path, tiny, {})
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(ValueError, match="must be a classifier"):
        load_classifier(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
    with pytest.raises(ValueError, match="damaged file: wrong checksum"):
        load_classifier(path)
    tiny.head.bias.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"head\.bias"):
        save_classifier(path, tiny, {})


def test_the_classifier_is_not_among_the_pretrained_generators():
    assert BUNDLED_WEIGHTS.is_file()
    assert BUNDLED_WEIGHTS.parent.parent == pretrained.WEIGHTS
    assert pretrained.load("digits").sample_rate == load_classifier().config.mel.sample_rate
