"""From a folder of recordings to a new sound: what is learnt, kept, judged, made and said on the way."""

import math
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from sashimi_lib import audio
from sashimi_lib.cli import main
from sashimi_lib.cli import train as training
from sashimi_lib.cli.arguments import CorpusName
from sashimi_lib.cli.evaluate import single_split
from sashimi_lib.cli.recordings import dominant_sample_rate, subsample
from sashimi_lib.cli.stop import Stop
from sashimi_lib.cli.train_arguments import parse
from sashimi_lib.data.corpora import CORPORA, FOLDER
from sashimi_lib.diffusion.samplers import DPM_SOLVER
from sashimi_lib.evaluation.likelihood import bigram_bits, clip_bits, mean_bits
from sashimi_lib.evaluation.metrics import METRICS, HeldOut
from sashimi_lib.models import SamplingConfig, SaShiMiConfig
from sashimi_lib.pretrained import load
from sashimi_lib.training.checkpoint import load_checkpoint
from sashimi_lib.training.recipes import RECIPES, DiffusionRecipe
from sashimi_lib.training.train_state import History

RATE = 4_000
ROUNDED = 2**-15  # to 16 bits
SMALL = ["--model.d-model", "4", "--model.n-layers", "1", "--model.ssm.d-state", "4", "--length", "128"]
MY_WAVS = ["train", "my-wavs", "--data", "recordings", *SMALL, "--device", "cpu"]
MODEL = "runs/my-wavs/model.safetensors"
EVALUATE_ALL = ["evaluate", "wavernn", "--data", "recordings", "--part", "all"]


def tone(number, samples=2_000, rate=RATE):
    return 0.3 * torch.sin(2 * math.pi * 100 * (1 + number) * torch.arange(samples) / rate)


def record():
    Path("recordings").mkdir()
    for number in range(4):
        audio.write(f"recordings/{number}.wav", tone(number), RATE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder where commands are run, with four recordings of half a second."""
    monkeypatch.chdir(tmp_path)
    record()
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on these, finished once and for all."""
    path = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        record()
        assert main([*MY_WAVS, "--steps", "6"]) == 0
    return path


@pytest.fixture
def trained(finished, folder):
    """The folder, after training."""
    shutil.copytree(finished / "runs", folder / "runs")
    return folder


def history_of(run="runs/my-wavs"):
    return History.from_state_dict(load_checkpoint(f"{run}/run.pt")["history"])


def steps_done(run="runs/my-wavs"):
    return len(history_of(run).loss)


# Training


@pytest.mark.slow
def test_from_recordings_to_a_new_sound_in_two_commands(folder, capsys):
    assert main([*MY_WAVS, "--steps", "6"]) == 0
    said = capsys.readouterr().out
    assert "cpu, 4,000 Hz; train 1.0 s, valid 0.5 s, test 0.5 s; checkpoints in runs/my-wavs/run.pt" in said
    history = history_of()
    mean, judged = sum(history.loss) / 6, history.valid[-1][1]
    assert f"step 6: training loss {mean:.3f}, validation loss {judged:.3f}\n" in said
    assert "test: " in said
    assert "bigram baseline: " in said
    assert main(["generate", MODEL, "--seconds", "0.1", "--out", "x.wav"]) == 0
    assert capsys.readouterr().out == "0.10 s of sound in x.wav\n"
    waveform, rate = audio.read("x.wav")
    assert rate == RATE
    made = load(MODEL).model
    wanted = made.quantizer.decode(made.generate(400, seed=0))[0]
    assert torch.allclose(waveform, wanted, atol=ROUNDED)


def test_the_card_says_what_was_done_and_how_well(trained):
    model = load(MODEL)
    test = replace(FOLDER, sample_rate=RATE).codes("recordings", "test")
    bits = float(clip_bits(model.model, [test[0]])[0])
    assert model.sample_rate == RATE
    assert model.card.test_bits == pytest.approx(bits, abs=1e-5)
    assert (model.card.test_interval, model.card.test_recordings) == (None, 1)
    train = replace(FOLDER, sample_rate=RATE, length=128).codes("recordings", "train")
    pairs = bigram_bits(*([part[n] for n in range(len(part))] for part in (train, test)))
    assert model.card.bigram_bits == pytest.approx(pairs, abs=1e-5)
    assert (model.card.name, model.card.steps, model.card.samples) == ("my-wavs", 6, 6 * 2 * 128)
    assert model.card.data.startswith("recordings: ")


@pytest.mark.slow
def test_it_learns(folder):
    assert main([*MY_WAVS, "--steps", "40"]) == 0
    history = history_of()
    assert sum(history.loss[-5:]) < sum(history.loss[:5]) - 1


def test_a_finished_run_is_not_trained_again_and_other_settings_are_named(trained, capsys):
    before = history_of()
    assert main([*MY_WAVS, "--steps", "6"]) == 0
    assert history_of() == before
    capsys.readouterr()
    assert main([*MY_WAVS, "--steps", "8", "--batch-size", "1", "--model.ssm.d-state", "6"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("sashimi: runs/my-wavs/run.pt belongs to a run with other settings: model was ")
    assert "batch_size was 2 and is now 1. Use the same settings to resume, or another --out" in said
    assert main([*MY_WAVS, "--steps", "8", "--out", "elsewhere"]) == 0
    assert steps_done("elsewhere") == 8


def test_damaged_settings_are_named(trained, capsys):
    Path("runs/my-wavs/run.json").write_text('{"recipe": "my-')
    assert main([*MY_WAVS, "--steps", "6"]) == 1
    assert capsys.readouterr().err.startswith("sashimi: runs/my-wavs/run.json is damaged (")
    Path("runs/my-wavs/run.json").unlink()
    assert main([*MY_WAVS, "--steps", "6"]) == 0


def test_more_recordings_are_another_run(trained, capsys):
    audio.write("recordings/4.wav", tone(4), RATE)
    assert main([*MY_WAVS, "--steps", "6"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("sashimi: runs/my-wavs/run.pt belongs to a run with other recordings: ")
    assert "4.wav is new. Use the same ones to resume" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_told_to_stop_it_ends_well_and_goes_on_as_if_nothing_had_been(
    trained, monkeypatch, capsys, number, code
):
    learn = training.train

    def interrupted(*arguments, **settings):
        def on_step(step, loss):
            if step == 2:
                signal.raise_signal(number)

        return learn(*arguments, on_step=on_step, **settings)

    command = [*MY_WAVS, "--steps", "6", "--out", "again"]
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", interrupted)
        assert main(command) == code
    assert signal.getsignal(number) is before
    assert "stopped after 3 of 6 steps; run the same command to resume" in capsys.readouterr().out
    assert steps_done("again") == 3
    assert load("again/model.safetensors").card.test_bits is None
    assert main(command) == 0
    assert "resuming from again/run.pt" in capsys.readouterr().out
    once, twice = (load(f"{run}/model.safetensors") for run in ("runs/my-wavs", "again"))
    for name, tensor in once.model.state_dict().items():
        assert torch.equal(twice.model.state_dict()[name], tensor), name
    assert twice.card.test_bits == once.card.test_bits


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(trained, capsys):
    command = [*MY_WAVS, "--steps", "6", "--checkpoint-every", "2", "--out", "again"]
    assert main(command) == 0
    checkpoint = Path("again/run.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    capsys.readouterr()
    with pytest.warns(
        UserWarning, match=r"again/run\.pt\.damaged; the run resumes from again/run\.previous\.pt"
    ):
        assert main(command) == 0
    assert "resuming from again/run.pt" in capsys.readouterr().out
    assert steps_done("again") == 6
    assert history_of("again") == history_of()


@pytest.mark.slow
def test_where_the_disk_is_full_it_says_so_and_goes_on_from_there_when_it_is_not(trained, unshared):
    Path("small").mkdir()
    room = Path("runs/my-wavs/run.pt").stat().st_size * 5 // 2  # for two checkpoints, and not for a third
    command = [sys.executable, "-m", "sashimi_lib", *MY_WAVS, "--steps", "6", "--checkpoint-every", "1"]
    script = f"""
        mount -t tmpfs -o size={room} none small
        {shlex.join(command)} --out small/run; echo exit $?; ls small/run
        mount -o remount,size=64m small
        {shlex.join(command)} --out small/run; echo exit $?; ls small/run; cp -r small/run again
    """
    command = [*unshared, "bash", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == "sashimi: [Errno 28] No space left on device: 'small/run/run.pt'\n"
    first, second = done.stdout.split("exit 1")
    assert "checkpoints in small/run/run.pt" in first
    there = second.split("my-wavs: ")[0].split()
    assert {"run.json", "run.pt"} <= set(there)
    assert not any("partial" in name for name in there)
    assert "resuming from small/run/run.pt" in second
    assert "exit 0" in second
    assert history_of("again") == history_of()


def test_the_second_signal_does_not_wait(folder, monkeypatch):
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    def impatient(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", impatient)
    assert main(MY_WAVS) == 130


@pytest.mark.slow
def test_as_a_program_it_ends_well_by_sigterm(folder):
    command = [sys.executable, "-m", "sashimi_lib", *MY_WAVS, "--checkpoint-every", "1"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while program.poll() is None and not (folder / "runs/my-wavs/run.pt").exists():
        time.sleep(0.05)
    program.send_signal(signal.SIGTERM)
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 143
    assert f"stopped after {steps_done():,} of 9,000 steps" in said
    assert load(MODEL).card.name == "my-wavs"


def test_a_diffusion_model_from_training_to_sound(folder, capsys):
    small = ["--model.backbone.d-residual", "4", "--model.backbone.d-skip", "4"]
    small += ["--model.backbone.n-layers", "2", "--length", "256", "--steps", "2", "--out", "run"]
    assert main(["train", "digits_diffwave", "--data", "recordings", *small]) == 0
    assert "test: mean squared error" in capsys.readouterr().out
    path = "run/model.safetensors"
    assert load(path).card.test_loss > 0
    make = ["generate", path, "--seconds", "0.02", "--out", "x.wav"]
    assert main([*make, "--label", "3", "--count", "2"]) == 0
    wanted = load(path).model.generate(160, label=torch.tensor([3, 3]), sampler=DPM_SOLVER, steps=20)
    for number in (1, 2):
        heard = audio.read(f"x_{number}.wav")[0]
        assert torch.allclose(heard, wanted[number - 1], atol=ROUNDED)
    capsys.readouterr()
    for arguments, because in (
        (["evaluate", path, "--data", "recordings"], "bits needs a model with a likelihood"),
        ([*make, "--top-p", "0.5"], f"need an autoregressive model, {path} is a diffusion model"),
    ):
        assert main(arguments) == 1
        assert because in capsys.readouterr().err


def test_a_model_of_classes_is_told_those_of_a_corpus_that_has_them(folder, monkeypatch):
    Path("data/recordings").mkdir(parents=True)
    for number in range(20):
        audio.write(f"data/recordings/{number % 10}_theo_{number}.wav", tone(number), RATE)
    heard, learn = [], training.train

    def listening(model, data, *arguments, **settings):
        heard.extend(data)
        return learn(model, data, *arguments, **settings)

    monkeypatch.setattr(training, "train", listening)
    small = ["--model.backbone.d-residual", "4", "--model.backbone.d-skip", "4"]
    small += [
        "--model.backbone.n-layers",
        "2",
        "--length",
        "2000",
        "--steps",
        "1",
        "--sample-rate",
        str(RATE),
    ]
    with pytest.warns(UserWarning, match="another format than published|another version"):
        assert main(["train", "digits_diffwave", "--data", "data", "--corpus", "fsdd", *small]) == 0
    assert sorted(label for _, label in heard) == sorted(number % 10 for number in range(8, 20))


@pytest.mark.slow
def test_curves_and_clips_are_written_where_they_are_wanted(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*MY_WAVS, "--steps", "2", "--valid-every", "2", "--tensorboard"]) == 0
    events = EventAccumulator("runs/my-wavs/tensorboard")
    events.Reload()
    history = history_of()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(history.loss)
    assert [(clip.step, clip.sample_rate) for clip in events.Audio("sample")] == [(2, RATE)]


def test_a_gpu_that_is_too_small_is_told_what_to_do(folder, monkeypatch, capsys):
    def fail(*arguments, **settings):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(training, "train", fail)
    assert main(MY_WAVS) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "sashimi: CUDA out of memory: try --grad-accumulation 2, --activation-checkpointing or a smaller"
    )
    assert "Tried to allocate 20.00 GiB" in said
    assert said.count("\n") == 1


# What can be said of a run


@pytest.mark.parametrize("name", ["beethoven_samplernn_3", "sc09_diffwave", "wavernn_896", "small_isotropic"])
def test_what_is_not_said_is_as_in_the_recipe(name):
    command, recipe = parse([name, "--data", "x", "--lr", "0.5"]), RECIPES[name]
    assert command.training == replace(recipe.training, lr=0.5)
    assert command.model == (recipe.config if isinstance(recipe, DiffusionRecipe) else recipe.backbone)
    assert (command.length, command.sample_rate) == (recipe.length, recipe.sample_rate)
    corpus = name.split("_")[0]
    assert command.corpus == (corpus if corpus in CORPORA else "folder")


def test_a_gpu_gets_a_larger_model(monkeypatch):
    for there, said, layers in (
        (True, [], 8),
        (True, ["--device", "cuda"], 8),
        (True, ["--device", "cpu"], 2),
        (True, ["--device=cpu"], 2),
        (False, [], 2),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        config = parse(["my-wavs", "--data", "x", *said]).model
        assert isinstance(config, SaShiMiConfig)
        assert config.n_layers == layers


def test_the_corpora_that_can_be_named_are_those_there_are():
    assert set(get_args(CorpusName)) == set(CORPORA)


def test_the_rate_is_that_of_most_of_the_sound_up_to_sixteen_thousand(folder):
    assert dominant_sample_rate(FOLDER.parts(folder / "recordings")) == RATE
    audio.write("recordings/long.wav", tone(1, 48_000, 8_000), 8_000)
    assert dominant_sample_rate(FOLDER.parts(folder / "recordings")) == 8_000
    audio.write("recordings/longer.wav", tone(1, 400_000, 44_100), 44_100)
    assert dominant_sample_rate(FOLDER.parts(folder / "recordings")) == 16_000


def test_some_of_the_data_comes_from_all_over_it():
    data = [torch.full((10,), number) for number in range(10)]
    assert [int(part[0]) for part in subsample(data, 30)] == [0, 3, 6]
    assert len(subsample(data, 1)) == 1
    assert subsample(data, 100) is data


# Making and judging


def test_several_sounds_from_a_recording_each_in_a_file_of_its_own(trained):
    audio.write("prompt.wav", tone(1, 800, 2 * RATE), 2 * RATE)
    command = ["generate", MODEL, "--seconds", "0.05", "--count", "3", "--out", "x.flac", "--seed", "4"]
    assert main([*command, "--prompt", "prompt.wav", "--temperature", "0.9", "--top-p", "0.8"]) == 0
    model = load(MODEL).model
    heard = audio.resample(audio.read("prompt.wav")[0], 2 * RATE, RATE)
    prompt = model.quantizer.encode(heard.expand(3, -1))
    wanted = model.quantizer.decode(
        model.generate(200, prompt=prompt, sampling=SamplingConfig(0.9, 0.8), seed=4)
    )
    sounds = [audio.read(f"x_{number}.flac")[0] for number in (1, 2, 3)]
    assert torch.allclose(torch.stack(sounds), wanted, atol=ROUNDED)


@pytest.mark.parametrize("part", ["test", "train", "all"])
def test_bits_of_few_recordings_have_no_interval_however_many_their_pieces(trained, part, capsys):
    capsys.readouterr()
    command = ["evaluate", MODEL, "--data", "recordings", "--part", part, "--seconds", "0.1"]
    assert main(command) == 0
    model = load(MODEL).model
    heard = replace(FOLDER, sample_rate=RATE, length=400)
    parts = ["train", "valid", "test"] if part == "all" else [part]
    codes = [heard.codes("recordings", each) for each in parts]
    pieces = [each[number] for each in codes for number in range(len(each))]
    recordings = len({path for each in codes for path in each.recordings})
    assert len(pieces) == 5 * recordings
    bits = clip_bits(model, pieces).mean()
    said = capsys.readouterr().out
    assert said == (
        f"bits: {bits:.3f} bits per sample, no confidence interval for fewer than 5 recordings, here "
        f"{recordings} ({recordings / 2:.1f} s in {5 * recordings} sequences)\n"
    )


def test_the_interval_of_many_recordings_is_over_recordings(trained, capsys):
    Path("more").mkdir()
    for number in range(6):
        audio.write(f"more/{number}.wav", 0.1 * (number + 1) * tone(number, 1_200), RATE)
    capsys.readouterr()
    assert main(["evaluate", MODEL, "--data", "more", "--part", "all", "--seconds", "0.1"]) == 0
    codes = replace(FOLDER, sample_rate=RATE, length=400, split=single_split).codes("more", "test")
    pieces, names = [codes[n] for n in range(18)], [path.stem for path in codes.recordings]
    assert names == [str(number) for number in range(6) for _ in range(3)]
    mean, (low, high), _ = mean_bits(clip_bits(load(MODEL).model, pieces), pieces, names)
    assert capsys.readouterr().out == (
        f"bits: {mean:.3f} bits per sample, 95 % confidence interval over 6 recordings {low:.3f} to "
        f"{high:.3f} (1.8 s in 18 sequences)\n"
    )


def test_several_metrics_are_printed_a_line_each_and_by_name(trained, capsys):
    command = ["evaluate", MODEL, "--data", "recordings", "--seconds", "0.1", "--count", "2", "--seed", "3"]
    capsys.readouterr()
    assert main([*command, "--metrics", "bits,spectrum_distance"]) == 0
    lines = capsys.readouterr().out.splitlines()
    model = load(MODEL).model
    codes = replace(FOLDER, sample_rate=RATE, length=400).codes("recordings", "test")
    data = HeldOut([codes[n] for n in range(5)], RATE, count=2, seed=3)
    assert [line.partition(": ")[0] for line in lines] == ["bits", "spectrum_distance"]
    assert lines[1] == (
        f"spectrum_distance: {METRICS['spectrum_distance'](model, data).mean:.3f} dB (0.5 s in 5 sequences)"
    )


# How it ends


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (["train", "my-wavs", "--data", "missing"], "missing must be a folder of recordings"),
        (["train", "my-wavs", "--data", "two"], "two must contain at least three different recordings"),
        (["train", "my-wavs", "--data", "texts"], "got none in texts"),
        (["train", "my-wavs", "--data", "damaged"], "folder must contain usable audio, got none in damaged"),
        (["train", "sc09_sashimi_8", "--data", "recordings"], "sc09 is not in recordings: found no zero/"),
        (["train", "my-wavs", "--data", "recordings", "--length", "0"], "--length must be at least 1 sample"),
        (["train", "my-wavs", "--data", "recordings", "--device", "cuda"], "no GPU available to PyTorch"),
        (["generate", "nobody", "--out", "x.wav"], "got 'nobody'"),
        (["generate", "wavernn", "--out", "x.mp3"], "path must end in .wav or .flac, got x.mp3"),
        (["generate", "wavernn", "--out", "x.wav", "--count", "0"], "--count must be at least 1"),
        (["generate", "wavernn", "--out", "x.wav", "--label", "3"], "--label needs a diffusion model"),
        (["generate", "wavernn", "--out", "x.wav", "--prompt", "no.wav"], "no such audio file: no.wav"),
        (["evaluate", "wavernn", "--data", "missing"], "missing must be a folder of recordings"),
        (["evaluate", "wavernn", "--data", "recordings", "--metrics", "bits,mos"], "got 'mos'"),
        ([*EVALUATE_ALL, "--metrics", "stft_distance"], "needs a vocoder"),
        (["evaluate", "wavernn", "--data", "recordings", "--count", "0"], "--count must be at least 1"),
        (["evaluate", "wavernn", "--data", "recordings", "--seconds", "0"], "--seconds must be finite"),
        (["data", "fetch", "bach"], "NAME must be one of sc09, beethoven,"),
        (["data", "fetch", "folder"], "there is nothing to fetch"),
        (["data", "fetch", "beethoven"], "beethoven.zip has to be downloaded by hand"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(folder, arguments, because, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, sounds in (("two", 2), ("texts", 0), ("damaged", 0)):
        (folder / name).mkdir()
        for number in range(sounds):
            audio.write(f"{name}/{number}.wav", tone(number), RATE)
    (folder / "texts/notes.txt").write_text("no sound")
    for number in range(3):
        (folder / f"damaged/{number}.wav").write_bytes(b"RIFF")
    there = set(folder.iterdir())
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert because in said.err
    assert said.err.startswith("sashimi: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert set(folder.iterdir()) == there


def test_training_that_diverges_says_so(folder, capsys):
    assert main([*MY_WAVS, "--steps", "9", "--lr", "1e30", "--warmup", "0"]) == 1
    assert capsys.readouterr().err.startswith("sashimi: training diverged: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], ["my-wavs", "sc09_sashimi_8"]),
        (["train", "synthesize", "--data", "recordings"], ["synthesize", "my-wavs", "sc09_sashimi_8"]),
        (["train", "my-wavs"], ["--data"]),
        (["train", "my-wavs", "--data", "recordings", "--steps", "many"], ["--steps"]),
        (["train", "my-wavs", "--data", "recordings", "--steps", "0"], ["steps must be at least 1, got 0"]),
        (["generate", "piano"], ["--out"]),
        (["data"], ["list", "fetch"]),
    ],
)
def test_wrong_usage_ends_with_two_and_names_what_there_is(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)


def test_every_corpus_is_listed(capsys):
    assert main(["data", "list"]) == 0
    said = capsys.readouterr().out
    for corpus in CORPORA.values():
        assert corpus.name in said
        assert corpus.license in said


def test_a_corpus_that_is_there_is_not_fetched_again(tmp_path, capsys):
    (tmp_path / "fsdd").mkdir()
    assert main(["data", "fetch", "fsdd", "--to", str(tmp_path)]) == 0
    assert f"fsdd is in {tmp_path / 'fsdd'}" in capsys.readouterr().out


def test_help_comes_without_pytorch_and_tells_the_exit_codes():
    code = (
        "import sys\nfrom sashimi_lib.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    for arguments in ([], ["generate"], ["evaluate"], ["stream"], ["data"], ["data", "fetch"]):
        command = [sys.executable, "-c", code, *arguments, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert arguments or all(word in done.stdout for word in ("train", "130", "143"))


def test_help_of_training_shows_what_a_recipe_says(capsys):
    for arguments, words in (
        ([], ["my-wavs", "wavernn_896", "130", "143"]),
        (["sc09_sashimi_8"], ["--steps", "1100000", "--batch-size", "--lr", "--length", "16000", "--out"]),
    ):
        with pytest.raises(SystemExit) as end:
            main(["train", *arguments, "--help"])
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert all(word in said for word in words)
