"""The part of a GPU run that trains, for so many seconds, from packed codes: see `gpu`.

    python tools/gpu_train.py piano --out runs/gpu --seconds 200

A recipe is one of `train_pretrained` that is music, or one of the library's on 8-bit mu-law codes; it is
trained on the packed set of its rate. Checkpoints lie in ``OUT/training``: the same command goes on from
them, and `train_pretrained` does too. Without a file of packed codes, the piano that ships is what it learns
from. Writes the result ``training_gpu``, or on a CPU ``training_quick``.
"""

import time

BEGAN = time.monotonic()  # what is imported takes of the time as well

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tools")]

from gpu_processes import Told
from pack_codes import QUANTIZER, Packed, shipped, unpack
from result import save_result
from train_pretrained import TASKS, Task, best_weights, learn

from sashimi_lib.training.recipes import RECIPES, Recipe
from sashimi_lib.training.train_state import History

SET_OF_RATE = {16_000: "piano", 8_000: "tunes"}
SAID, AVERAGE = 50, 50  # steps between two lines of the log; losses that a figure is the mean of


def tasks() -> dict[str, Task]:
    """All that can be trained from packed codes.

    >>> sorted(tasks())[:3]
    ['digits_isotropic', 'digits_samplernn', 'digits_sashimi']
    """
    own = {
        name: Task(
            recipe.backbone, recipe.quantizer, recipe.sample_rate, ((recipe.length, recipe.training),), "", ""
        )
        for name, recipe in RECIPES.items()
        if isinstance(recipe, Recipe)
    }
    return {
        name: task
        for name, task in {**own, **TASKS}.items()
        if task.quantizer == QUANTIZER and task.sample_rate in SET_OF_RATE and not task.spoken
    }


def chosen(name: str, codes: Path) -> tuple[Task, Packed]:
    """A recipe by its name, and the packed set of its rate. ValueError where one of them is not there."""
    every = tasks()
    if name not in every:
        raise ValueError(f"recipe must be one of {', '.join(sorted(every))}, got {name}")
    return every[name], packed_for(every[name], codes)


def packed_for(task: Task, codes: Path) -> Packed:
    """The packed set of a recipe's rate, or without a file the piano that ships."""
    if not codes.exists():
        print(f"no packed codes in {codes}: the piano that ships is learnt from, which is 64 seconds")
    sets, name = unpack(codes) if codes.exists() else shipped(), SET_OF_RATE[task.sample_rate]
    if name not in sets:
        raise ValueError(f"codes must hold the set {name}, got {', '.join(sets)}: see tools/pack_codes.py")
    return sets[name]


class Watch:
    """Says when time is up, or a signal came; counts steps, and writes a line now and then."""

    def __init__(self, until: float, told: Told) -> None:
        self.until, self.told, self.steps = until, told, 0
        self.began = time.monotonic()

    def __call__(self) -> bool:
        return self.told() or time.monotonic() > self.until

    def note(self, step: int, loss: float) -> None:
        """To be called after each step."""
        self.steps += 1
        if step % SAID == 0:
            print(f"step {step}, loss {loss:.3f}, {time.monotonic() - self.began:.0f} s", flush=True)


def told(task: Task, stage: int, history: History) -> dict[str, Any]:
    """Where a stage stands."""
    last = history.loss[-AVERAGE:]
    return {
        "stage": stage,
        "steps": len(history.loss),
        "steps_planned": task.stage(stage)[1].steps,
        "bits": sum(last) / len(last),
        "validations": [{"steps": steps, "bits": bits} for steps, bits in history.valid],
    }


def best(name: str, task: Task, runs: Path) -> dict[str, Any] | None:
    """Which weights `train_pretrained` would pack, and their bits; None where there are none yet."""
    try:
        stage, content = best_weights(name, task, runs)
    except ValueError:
        return None
    return {"stage": stage, "steps": content["steps"], "bits": content["loss"]}


def session(name: str, task: Task, packed: Packed, runs: Path, device: str, until: float) -> dict[str, Any]:
    """Train until then, by the monotonic clock, from where the checkpoints stand; what came of it."""
    stages = []
    with Told() as signalled:
        watch = Watch(until, signalled)
        corpora = itertools.repeat(packed.corpus)
        how: dict[str, Any] = {"on_step": watch.note, "stop": watch, "progress": False}
        for stage, history in learn(name, task, corpora, runs, device, **how):
            stages.append(told(task, stage, history))
            print(stages[-1], flush=True)
            if watch():
                break
        took = time.monotonic() - watch.began
    return {
        "recipe": name,
        "data": packed.data,
        "credit": packed.credit,
        "minutes_of_data": {split: packed.minutes(split) for split in packed.recordings},
        "stages": stages,
        "steps_of_session": watch.steps,
        "seconds_of_session": took,
        "best": best(name, task, runs),
    }


def main() -> None:
    """Train, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--codes", type=Path, default=ROOT / "runs" / "data" / "codes.safetensors")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="from the start to the last step")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    try:
        task, packed = chosen(options.recipe, options.codes)
    except ValueError as error:
        parser.error(str(error))
    figures = session(
        options.recipe,
        task,
        packed,
        options.out / "training",
        "cuda" if gpu else "cpu",
        BEGAN + options.seconds,
    )
    save_result(
        "training_gpu" if gpu else "training_quick",
        question="How far a recipe comes in the time that was left",
        config={"recipe": options.recipe, "sample_rate": task.sample_rate},
        figures=figures,
        units={"bits": "bits per sample: the mean of the last losses, or of held-out recordings"},
        repeats=1,
        seed=0,
        data=f"{packed.data}, 8-bit mu-law",
    )


if __name__ == "__main__":
    main()
