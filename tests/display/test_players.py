"""Players: deterministic HTML with decodable audio, stated and limited levels, errors for invalid audio."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from matplotlib.figure import Figure

from sashimi_lib.audio import MP3_RATES, rms_db
from sashimi_lib.display import players
from tests.awkward import bad_waveforms, good_waveforms, without_shape_checks


def decode(html: str) -> list[tuple[str, np.ndarray, int]]:
    found = re.findall(r'src="data:(audio/\w+);base64,([^"]+)"', html)
    return [
        (kind, *soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")) for kind, data in found
    ]


@pytest.mark.slow
@settings(max_examples=10)
@given(good_waveforms())
def test_any_clip_gets_a_player_that_decodes_to_its_duration(x: torch.Tensor) -> None:
    for lossless in (False, True):
        ((_, data, rate),) = decode(players.listen(x, 8000, "clip", lossless=lossless).html)
        assert len(data) / rate == pytest.approx(len(x) / 8000)


@given(bad_waveforms())
def test_invalid_clips_are_named_by_title(case: tuple[torch.Tensor, str]) -> None:
    bad, message = case
    if message.startswith("lie in"):
        return  # clipped, and stated on the card
    with without_shape_checks(), pytest.raises(ValueError, match="waveform 'the clip' must"):
        players.listen(bad, 8000, "the clip")


@pytest.mark.parametrize("rate", [2000, 4001, 8000, 16000, 22050, 44100, 96000])
@pytest.mark.parametrize("lossless", [False, True])
def test_every_sample_rate_is_converted_to_a_playable_one(rate: int, lossless: bool) -> None:
    x = 0.1 * torch.sin(torch.arange(rate) * 0.3)
    ((kind, data, played),) = decode(players.audio_html(x, rate, lossless))
    assert kind == ("audio/flac" if lossless else "audio/mpeg")
    assert played >= 8000
    assert played in MP3_RATES or (lossless and played == rate)
    assert len(data) / played == pytest.approx(1.0, abs=1e-3)


def test_lossless_encoding_is_exact() -> None:
    x = torch.randint(-9000, 9000, (8000,)) / 32768
    ((kind, data, _),) = decode(players.listen(x, 8000, lossless=True).html)
    assert kind == "audio/flac"
    assert np.array_equal(data, x.numpy())


def test_the_level_is_kept_and_stated() -> None:
    quiet = 0.01 * torch.sin(torch.arange(16000) * 0.2)
    player = players.listen(quiet, 16000, "quiet")
    ((_, data, _),) = decode(player.html)
    assert rms_db(torch.from_numpy(data)) == pytest.approx(rms_db(quiet), abs=0.3)
    assert "-43.0 dBFS" in player.html


def test_a_diverged_clip_is_clipped_and_attenuated_and_the_card_states_it() -> None:
    loud = 5 * torch.sin(torch.arange(16000) * 0.2)
    player = players.listen(loud, 16000, "blow-up", lossless=True)
    ((_, data, _),) = decode(player.html)
    assert rms_db(torch.from_numpy(data)) == pytest.approx(players.GUARD_DB, abs=0.01)
    assert "% of samples clipped" in player.html
    assert "softer to spare your ears" in player.html


def test_html_is_deterministic_and_without_ids() -> None:
    x = torch.rand(4000) - 0.5
    first, second = players.listen(x, 8000, "a").html, players.listen(x.clone(), 8000, "a").html
    assert first == second
    assert " id=" not in first


def test_the_reference_has_a_card_beside_the_clip() -> None:
    player = players.listen(torch.zeros(800), 8000, "model", reference=torch.zeros(1600))
    assert len(decode(player.html)) == 2
    assert "the real clip" in player._repr_html_()
    assert repr(player) == "Player(model, 0.10 s; the real clip, 0.20 s)"


def test_titles_are_escaped_and_images_have_alt_texts() -> None:
    html = players.listen(torch.zeros(800), 8000, "<b>&").html
    assert "<b>" not in html
    assert 'alt="Waveform and spectrogram of &lt;b&gt;&amp;' in html


def test_missing_clips_rates_and_alt_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="sample_rate must be a positive"):
        players.listen_many({"a": torch.zeros(10)}, {"b": 8000})
    with pytest.raises(ValueError, match="clips must hold at least one"):
        players.listen_many({}, 8000)
    with pytest.raises(ValueError, match="alt must describe"):
        players.image_html(Figure(), " ")
    with without_shape_checks(), pytest.raises(ValueError, match=r"shape \(L,\), got shape \(2, 10\)"):
        players.listen(torch.zeros(2, 10), 8000)
