"""A script for test_killed: train in child processes that are killed with SIGKILL, until one finishes.

``python kill_worker.py FOLDER`` writes FOLDER/NAME/history.json and model.pt of each configuration when its
run has finished. Every other child kills itself inside a write; the others are killed at a random time.
"""

import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training.checkpoint import load_checkpoint
from sashimi_lib.training.trainer import TrainingConfig, train

CONFIGURATIONS = {
    "plain": TrainingConfig(steps=24, batch_size=2, decay="cosine", checkpoint_every=2, valid_every=7),
    "tbptt": TrainingConfig(
        steps=24, batch_size=2, tbptt_length=20, checkpoint_every=2, valid_every=12
    ),
    "average_and_plateau": TrainingConfig(
        steps=24, batch_size=2, lr=0.02, ema=0.9, warmup=3, clip_norm=1.0,
        decay="plateau", plateau_factor=0.5, plateau_patience=0, valid_every=4, checkpoint_every=3,
    ),
}  # fmt: skip
KILLS = 4  # per configuration; fewer if a child finishes first


def run(name: str, checkpoint: Path | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train to the end; return the history and the weights of the best validation.

    Validation data are noise, so that the best validation is not the last and a plateau is reached.
    """
    t = torch.arange(48)
    sine = MuLaw().encode(0.5 * torch.sin(0.3 * (t + 2 * torch.arange(7)[:, None])))
    sequences = [codes[: 48 - 5 * n] for n, codes in enumerate(sine)]
    noise = torch.randint(256, (2, 24), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))
    history = train(model, sequences, CONFIGURATIONS[name], checkpoint, valid=noise, progress=False)
    return dataclasses.asdict(history), model.state_dict()


def kill_inside_a_write(rng: random.Random) -> None:
    """Make this process kill itself in one of the next writes: half written, not synced, or not renamed."""

    def killing(function: Callable, calls: int) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls -= 1
            if calls == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    where = rng.choice(["save", "write", "fsync", "replace"])
    if where == "save":  # write some bytes, then kill
        torch.save = lambda content, file: (
            file.write(b"PK\x03\x04 half"),
            file.flush(),
            os.kill(os.getpid(), signal.SIGKILL),
        )
    elif where == "write":
        torch.save = killing(torch.save, rng.randint(1, 2))
    else:
        setattr(os, where, killing(getattr(os, where), rng.randint(1, 4)))


def finish(name: str, folder: Path) -> None:
    """Train in one child process after another until one finishes."""
    rng, checkpoint, kills, seconds = random.Random(name), folder / "run.pt", 0, 0.0
    while True:
        inside, delay = kills % 2 == 0, rng.uniform(0.1, 0.9) * max(seconds, 0.2)
        child, started = os.fork(), time.perf_counter()
        if child == 0:
            if inside and kills < KILLS:
                kill_inside_a_write(rng)
            history, weights = run(name, checkpoint)
            torch.save(weights, folder / "model.pt")
            (folder / "history.json").write_text(json.dumps(history))
            os._exit(0)
        if kills < KILLS and not inside:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        kills, seconds = kills + 1, max(seconds, time.perf_counter() - started)
        for path in folder.glob("*.pt"):
            load_checkpoint(path)  # every file with its final name is intact
    print(name, kills)


if __name__ == "__main__":
    for name in CONFIGURATIONS:
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        finish(name, folder)
