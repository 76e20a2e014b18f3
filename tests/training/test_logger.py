"""Loggers receive what training reports, in its order."""

import torch

from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.training.logger import SILENT, ConsoleLogger, MultiLogger
from sashimi_lib.training.trainer import TrainingConfig, train

CODES = torch.full((4, 16, 2), 120)
CONFIG = TrainingConfig(steps=4, batch_size=2, valid_every=2)


class Recorder:
    def __init__(self):
        self.calls = []

    def log_step(self, step, **scalars):
        self.calls.append((step, *scalars))

    def log_audio(self, step, model):
        self.calls.append((step, type(model).__name__))

    def flush(self):
        self.calls.append("flush")


def run(logger=SILENT):
    torch.manual_seed(1)
    return train(WaveRNN(WaveRNNConfig(8)), CODES, CONFIG, valid=CODES, logger=logger, progress=False)


def test_every_logger_receives_every_step_and_the_model_at_each_validation():
    first, second = Recorder(), Recorder()
    history = run(MultiLogger(first, second))
    metrics = ("loss", "learning_rate", "samples_per_second")
    validated = [[(step, "valid_loss"), (step, "WaveRNN")] for step in (2, 4)]
    assert first.calls == [(1, *metrics), (2, *metrics), *validated[0], (3, *metrics), (4, *metrics),
                           *validated[1], "flush"]  # fmt: skip
    assert second.calls == first.calls
    assert history == run()


def test_the_console_shows_the_mean_loss_since_the_last_validation(capsys):
    history = run(ConsoleLogger())
    means = [sum(history.loss[at : at + 2]) / 2 for at in (0, 2)]
    assert capsys.readouterr().out == "".join(
        f"step {step}: training loss {mean:.3f}, validation loss {valid:.3f}\n"
        for mean, (step, valid) in zip(means, history.valid, strict=True)
    )


def test_the_silent_logger_prints_nothing(capsys):
    run()
    assert capsys.readouterr().out == ""
