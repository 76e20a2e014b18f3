"""The training part of a GPU run (`tools.gpu`): trains on packed codes for a given time.

    python -m tools.gpu_train piano --out runs/gpu --seconds 200

A recipe is one of `tools.train_pretrained` on music, or one of the library's for 8-bit mu-law codes; it is
trained on the packed set of its sample rate. Checkpoints are in ``OUT/training``: the same command resumes
from them, and `tools.train_pretrained` can pack them. Without a file of packed codes it trains on the bundled
piano. Writes the result ``training_gpu``, or on a CPU ``training_quick``.
"""

import time

START = time.monotonic()  # before the imports, whose time counts as well

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.result import ROOT, save_result
from sashimi_lib.training.recipes import RECIPES, Recipe
from sashimi_lib.training.train_state import History
from tools.gpu_processes import StopSignal
from tools.pack_codes import QUANTIZER, Packed, bundled_set, unpack
from tools.train_pretrained import TASKS, Task, best_weights, train_stages

SET_OF_RATE = {16_000: "piano", 8_000: "tunes"}
LOG_EVERY, AVERAGE = 50, 50  # steps between two lines of the log; losses in the reported mean


def tasks() -> dict[str, Task]:
    """All tasks that can be trained from packed codes.

    >>> sorted(tasks())[:3]
    ['digits_isotropic', 'digits_samplernn', 'digits_sashimi']
    """
    from_recipes = {
        name: Task(
            recipe.backbone, recipe.quantizer, recipe.sample_rate, ((recipe.length, recipe.training),), "", ""
        )
        for name, recipe in RECIPES.items()
        if isinstance(recipe, Recipe)
    }
    return {
        name: task
        for name, task in {**from_recipes, **TASKS}.items()
        if task.quantizer == QUANTIZER and task.sample_rate in SET_OF_RATE and not task.is_speech
    }


def select_task(name: str, codes: Path) -> tuple[Task, Packed]:
    """A task by its name, and the packed set of its sample rate. ValueError if either does not exist."""
    available = tasks()
    if name not in available:
        raise ValueError(f"recipe must be one of {', '.join(sorted(available))}, got {name}")
    return available[name], packed_for(available[name], codes)


def packed_for(task: Task, codes: Path) -> Packed:
    """The packed set of a task's sample rate; without a file the bundled piano."""
    if not codes.exists():
        print(f"no packed codes in {codes}: training on the bundled piano, 64 seconds")
    sets, name = unpack(codes) if codes.exists() else bundled_set(), SET_OF_RATE[task.sample_rate]
    if name not in sets:
        raise ValueError(f"codes must contain the set {name}, got {', '.join(sets)}: see tools/pack_codes.py")
    return sets[name]


class StopCondition:
    """Tells training to stop at a deadline or after a signal; counts steps and logs the loss."""

    def __init__(self, deadline: float, signal: StopSignal) -> None:
        self.deadline, self.signal, self.steps = deadline, signal, 0
        self.start = time.monotonic()

    def __call__(self) -> bool:
        return self.signal() or time.monotonic() > self.deadline

    def on_step(self, step: int, loss: float) -> None:
        """Count a step that has just ended."""
        self.steps += 1
        if step % LOG_EVERY == 0:
            print(f"step {step}, loss {loss:.3f}, {time.monotonic() - self.start:.0f} s", flush=True)


def summarize_stage(task: Task, stage: int, history: History) -> dict[str, Any]:
    """Progress of a stage: steps, mean of the last losses, validations."""
    last = history.loss[-AVERAGE:]
    return {
        "stage": stage,
        "steps": len(history.loss),
        "steps_planned": task.stage(stage)[1].steps,
        "bits": sum(last) / len(last),
        "validations": [{"steps": steps, "bits": bits} for steps, bits in history.valid],
    }


def describe_best(name: str, task: Task, runs: Path) -> dict[str, Any] | None:
    """The checkpoint that `tools.train_pretrained` would pack, and its bits; None if there is none yet."""
    try:
        stage, content = best_weights(name, task, runs)
    except ValueError:
        return None
    return {"stage": stage, "steps": content["steps"], "bits": content["loss"]}


def train_until(
    name: str, task: Task, packed: Packed, runs: Path, device: str, deadline: float
) -> dict[str, Any]:
    """Resume training until a deadline of the monotonic clock; returns the figures of this session."""
    stages = []
    with StopSignal() as signal:
        stop = StopCondition(deadline, signal)
        corpora = itertools.repeat(packed.corpus)
        options: dict[str, Any] = {"on_step": stop.on_step, "stop": stop, "progress": False}
        for stage, history in train_stages(name, task, corpora, runs, device, **options):
            stages.append(summarize_stage(task, stage, history))
            print(stages[-1], flush=True)
            if stop():
                break
        seconds = time.monotonic() - stop.start
    return {
        "recipe": name,
        "data": packed.data,
        "credit": packed.credit,
        "minutes_of_data": {split: packed.minutes(split) for split in packed.recordings},
        "stages": stages,
        "steps_of_session": stop.steps,
        "seconds_of_session": seconds,
        "best": describe_best(name, task, runs),
    }


def main() -> None:
    """Train and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--codes", type=Path, default=ROOT / "runs" / "data" / "codes.safetensors")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="time from the start to the last step")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    try:
        task, packed = select_task(options.recipe, options.codes)
    except ValueError as error:
        parser.error(str(error))
    figures = train_until(
        options.recipe,
        task,
        packed,
        options.out / "training",
        "cuda" if gpu else "cpu",
        START + options.seconds,
    )
    save_result(
        "training_gpu" if gpu else "training_quick",
        question="Progress of a recipe in the remaining time",
        config={"recipe": options.recipe, "sample_rate": task.sample_rate},
        figures=figures,
        units={"bits": "bits per sample: mean of the last training losses, or validation loss"},
        repeats=1,
        seed=0,
        data=f"{packed.data}, 8-bit mu-law",
    )


if __name__ == "__main__":
    main()
