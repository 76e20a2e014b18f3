"""The longest run that fits: one SaShiMi, trained over several sessions, evaluated, and sampled.

    python -m benchmarks.quality.full_run runs/data/piano --minutes 7
    python -m benchmarks.quality.full_run runs/data/piano --minutes 7     again: resumes

The folder holds ``train``, ``valid`` and ``test``, with whole recordings. The number of steps is fixed when
the run begins, since the learning rate decays to zero by the last one: as many as fit into
``--total-minutes``, by a short timing. Minutes are training time: wall time on a GPU, CPU time without one.
Each session ends with an evaluation on ``test`` and with generated clips, which take a minute or two more. On
a GPU the model is the paper's, on a CPU the small one. Writes ``book/results/full_run.json``, or
``full_run_gpu.json``, and the clips.
"""

import argparse
import itertools
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.lib.corpus import CodesBySplit, excerpts, load_codes
from benchmarks.lib.evaluation import UNIT, summarize_bits
from benchmarks.lib.result import load_or_compute, save_result
from benchmarks.lib.timing import training_seconds
from benchmarks.lib.training import prepare_training, seconds_per_step, write_samples
from sashimi_lib.evaluation.likelihood import bigram_bits, clip_bits
from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.streaming import best_engine
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.recipes import SMALL_SASHIMI, YOUTUBEMIX_SASHIMI_8, Recipe
from sashimi_lib.training.train_state import History
from sashimi_lib.training.trainer import train

STEP_SHARE = 0.9  # of the time is for steps, the rest for validations and checkpoints
VALIDATIONS, CHECKPOINTS = 20, 40  # in a whole run
MAX_VALID_SAMPLES = 200_000
TEST_SECONDS = 8  # of a test excerpt, as long as the paper's segments
CURVE_POINTS = 100  # of the stored loss curve
CONTEXT_STEPS = 50  # losses that are stored on each side of a resumption


class StepTime(NamedTuple):
    """The end of a step: its session, its number, and the seconds of training until then."""

    session: int
    step: int
    seconds: float


class Stopwatch:
    """Appends the time of each step to a file that all sessions of a run share, and tells training when to
    stop."""

    def __init__(self, path: Path, minutes: float) -> None:
        earlier = read_step_times(path)
        self.path, self.seconds = path, 60 * minutes
        self.session, self.before = (earlier[-1].session + 1, earlier[-1].seconds) if earlier else (0, 0.0)
        self.start = training_seconds()

    def record(self, step: int, loss: float) -> None:
        """Write the time of a step that has just ended."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{self.session} {step} {self.before + training_seconds() - self.start:.4f}\n")

    def __call__(self) -> bool:
        """Whether this session's time is over."""
        return training_seconds() - self.start > self.seconds


def read_step_times(path: Path) -> list[StepTime]:
    """The step times of all sessions; none if there is no file yet."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = map(str.split, lines)
    return [StepTime(int(session), int(step), float(seconds)) for session, step, seconds in rows]


def suitable_recipe() -> Recipe:
    """The recipe that gets furthest in minutes: on a GPU the paper's model with as many samples per step, in
    shorter segments, which train faster at first and whose SSM kernels are cheaper; on a CPU the small
    one."""
    if not torch.cuda.is_available():
        return SMALL_SASHIMI
    training = replace(YOUTUBEMIX_SASHIMI_8.training, batch_size=8)
    return replace(YOUTUBEMIX_SASHIMI_8, length=16_384, training=training)


def plan_run(recipe: Recipe, corpus: CodesBySplit, minutes: float, steps: int | None) -> dict[str, Any]:
    """The number of steps of a run, as given or as many as fit, and the measured seconds of a step."""
    seconds = seconds_per_step({"SaShiMi": recipe}, corpus)["SaShiMi"]
    fitting = max(1, int(STEP_SHARE * 60 * minutes / min(seconds)))
    return {"steps": steps or fitting, "seconds_per_step": seconds}


def train_session(
    recipe: Recipe, corpus: CodesBySplit, folder: Path, minutes: float, total: float, steps: int | None = None
) -> tuple[Autoregressive, TrainingConfig, dict[str, Any]]:
    """Resume the run in a folder for some minutes. Returns the model with the weights of the best validation
    so far, its training configuration, and the figures of the run."""
    plan = load_or_compute(folder / "plan.json", lambda: plan_run(recipe, corpus, total, steps))
    model, config = prepare_training(recipe, plan["steps"], 1.0, seed=0)
    config = replace(
        config,
        warmup=config.steps // 50,
        valid_every=max(1, config.steps // VALIDATIONS),
        checkpoint_every=max(1, config.steps // CHECKPOINTS),
    )
    data = excerpts(corpus["train"], recipe.length, sum(map(len, corpus["train"]))).clips
    valid = excerpts(corpus["valid"], recipe.length, MAX_VALID_SAMPLES).clips
    stopwatch = Stopwatch(folder / "steps.txt", minutes)
    checkpoint = folder / "run.pt"
    history = train(
        model, data, config, checkpoint, valid=valid, on_step=stopwatch.record, stop=stopwatch, progress=False
    )
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps_planned": config.steps,
        "epochs": len(history.loss) * config.batch_size / len(data),
        "timed_seconds_per_step": plan["seconds_per_step"],
    }
    return (
        model,
        config,
        figures | summarize_run(history, read_step_times(stopwatch.path), recipe.samples_per_step),
    )


def summarize_run(history: History, times: list[StepTime], samples_per_step: int) -> dict[str, Any]:
    """Curves and speeds of a run over all its sessions. Steps after the last checkpoint of an interrupted
    session are lost: only their repetition counts as a step, but their time counts as well."""
    loss, last = history.loss, {time.step: time for time in times}
    seconds = [last[step].seconds for step in range(len(loss))]
    first = {time.session: time.step for time in reversed(times)}
    durations = [after - before for before, after in itertools.pairwise(seconds)]
    return {
        "steps": len(loss),
        "samples_per_step": samples_per_step,
        "seconds": seconds[-1],
        "samples_per_second": len(loss) * samples_per_step / seconds[-1],
        "samples_per_second_in_a_step": samples_per_step / statistics.median(durations or seconds),
        "curve": [
            {
                "steps": part[-1] + 1,
                "samples": (part[-1] + 1) * samples_per_step,
                "seconds": seconds[part[-1]],
                "bits": statistics.fmean(loss[part[0] : part[-1] + 1]),
            }
            for part in split_range(len(loss), CURVE_POINTS)
        ],
        "validations": [
            {"steps": steps, "seconds": seconds[steps - 1], "bits": bits} for steps, bits in history.valid
        ],
        "resumed": [
            {
                "steps": first[number],
                "seconds": seconds[first[number] - 1],
                "bits_before": loss[max(0, first[number] - CONTEXT_STEPS) : first[number]],
                "bits_after": loss[first[number] :][:CONTEXT_STEPS],
            }
            for number in sorted(first)
            if number > 0
        ],
    }


def split_range(length: int, parts: int) -> list[range]:
    """0 to ``length - 1`` in ``parts`` nearly equal ranges, or in ``length`` if that is fewer."""
    parts = min(length, parts)
    ends = [length * part // parts for part in range(parts + 1)]
    return [range(start, end) for start, end in itertools.pairwise(ends)]


def main() -> None:
    """Train for some minutes, evaluate, generate, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--minutes", type=float, default=7.0, help="training time of this call")
    parser.add_argument(
        "--total-minutes", type=float, help="training time of the whole run (default: twice --minutes)"
    )
    parser.add_argument("--steps", type=int, help="steps of the whole run, in place of --total-minutes")
    parser.add_argument("--about", default="recordings", help="description of the data, for the result")
    parser.add_argument("--run", type=Path, default=Path("runs/full_run"), help="folder of the run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe, name = suitable_recipe(), "full_run_gpu" if torch.cuda.is_available() else "full_run"
    corpus = load_codes(options.folder, options.sample_rate, recipe.quantizer)
    total = options.total_minutes or 2 * options.minutes
    model, config, figures = train_session(recipe, corpus, options.run, options.minutes, total, options.steps)
    print({key: value for key, value in figures.items() if isinstance(value, int | float)}, flush=True)
    test = excerpts(corpus["test"], TEST_SECONDS * options.sample_rate, sum(map(len, corpus["test"])))
    figures |= {
        "test_bits": summarize_bits(clip_bits(model, test.clips, chunk_length=8_192), test),
        "test_samples": sum(map(len, test.clips)),
        "bigram_bits": bigram_bits(corpus["train"], test.clips),
    }
    settings = {"recipe": asdict(replace(recipe, training=config)), "sample_rate": options.sample_rate}
    write_result(name, settings, figures, options)  # generation takes minutes, and may fail
    clips = write_samples(best_engine(model), name, options.sample_rate)
    write_result(name, settings, figures | {"clips": clips}, options)


def write_result(
    name: str, settings: dict[str, Any], figures: dict[str, Any], options: argparse.Namespace
) -> None:
    """Write the result."""
    save_result(
        name,
        question="Likelihood of one SaShiMi after the longest run that fits, over several sessions",
        config=settings,
        figures=figures,
        units={
            "bits": "bits per sample: training loss, averaged over ranges of steps, or validation loss",
            "bits_before": "bits per sample of each of the last batches before a resumption",
            "bits_after": "bits per sample of each of the first batches after that",
            "test_bits": UNIT,
            "seconds": "of training so far: of one CPU thread, or wall time on a GPU",
        },
        repeats=1,
        seed=0,
        data=f"{options.folder.name}, {options.about}: {TEST_SECONDS} s test excerpts, 8-bit mu-law",
    )


if __name__ == "__main__":
    main()
