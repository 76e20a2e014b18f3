"""The longest run that fits: one SaShiMi, trained until time is up, taken up again, judged and heard.

    python benchmarks/full_run.py runs/data/piano --minutes 7
    python benchmarks/full_run.py runs/data/piano --minutes 7     once more: it goes on where it stopped

The folder holds ``train``, ``valid`` and ``test``, whole recordings in each. How many steps there will be is
settled when the run begins, for the learning rate falls to nothing by the last one: as many as fit in
``--total-minutes``, after a short timing. Minutes are of training: of the wall on a GPU, of one thread on a
CPU that others share. Each call ends with a verdict on the recordings of ``test`` and with the first draws,
which take a minute or two more. On a GPU the model is the paper's, on a CPU the small one. Writes
``book/results/full_run.json``, or ``full_run_gpu.json``, and the draws.
"""

import argparse
import itertools
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from autoregressive import draw, now, prepared, seconds_per_step
from corpus import Corpus, excerpts, load
from result import kept, save_result
from verdict import UNIT, verdict

from sashimi_lib.evaluation.likelihood import bigram_bits, clip_bits
from sashimi_lib.models.audio_lm import Autoregressive
from sashimi_lib.streaming import best_engine
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.recipes import SMALL_SASHIMI, YOUTUBEMIX_SASHIMI_8, Recipe
from sashimi_lib.training.train_state import History
from sashimi_lib.training.trainer import train

SHARE = 0.9  # of the time goes into steps, the rest into validations and checkpoints
VALIDATIONS, CHECKPOINTS = 20, 40  # in a whole run
VALID = 200_000  # samples at most, of each validation
JUDGED = 8  # seconds of an excerpt of the test, as long as the paper's segments
POINTS, AROUND = 100, 50  # of the curve; losses that are kept on each side of where a run was taken up


class Note(NamedTuple):
    """When a step ended: after so many seconds of training, in which session."""

    session: int
    step: int
    seconds: float


class Stopwatch:
    """Writes down when each step ended, a line a step, of all sessions of a run in one file; and says when
    the time of this session is up."""

    def __init__(self, path: Path, minutes: float) -> None:
        notes = read_notes(path)
        self.path, self.seconds = path, 60 * minutes
        self.session, self.before = (notes[-1].session + 1, notes[-1].seconds) if notes else (0, 0.0)
        self.began = now()

    def note(self, step: int, loss: float) -> None:
        """To be called after each step."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{self.session} {step} {self.before + now() - self.began:.4f}\n")

    def __call__(self) -> bool:
        """Whether time is up."""
        return now() - self.began > self.seconds


def read_notes(path: Path) -> list[Note]:
    """What was written down: none where there was no session yet."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = map(str.split, lines)
    return [Note(int(session), int(step), float(seconds)) for session, step, seconds in rows]


def suitable() -> Recipe:
    """What learns the most in minutes: the paper's model where there is a GPU, on as many samples a step but
    in shorter segments, which bring more at first and whose kernels cost less; else the small one."""
    if not torch.cuda.is_available():
        return SMALL_SASHIMI
    training = replace(YOUTUBEMIX_SASHIMI_8.training, batch_size=8)
    return replace(YOUTUBEMIX_SASHIMI_8, length=16_384, training=training)


def planned(recipe: Recipe, corpus: Corpus, minutes: float, steps: int | None) -> dict[str, Any]:
    """How many steps a run has: so many, or as many as fit, and how long one took."""
    seconds = seconds_per_step({"SaShiMi": recipe}, corpus)["SaShiMi"]
    fitting = max(1, int(SHARE * 60 * minutes / min(seconds)))
    return {"steps": steps or fitting, "seconds_per_step": seconds}


def session(
    recipe: Recipe, corpus: Corpus, folder: Path, minutes: float, total: float, steps: int | None = None
) -> tuple[Autoregressive, TrainingConfig, dict[str, Any]]:
    """Train for so many minutes, from where the run in the folder stands: the model of the best validation
    so far, how it was trained, and all that is known of the run."""
    plan = kept(folder / "plan.json", lambda: planned(recipe, corpus, total, steps))
    model, config = prepared(recipe, plan["steps"], 1.0, seed=0)
    config = replace(
        config,
        warmup=config.steps // 50,
        valid_every=max(1, config.steps // VALIDATIONS),
        checkpoint_every=max(1, config.steps // CHECKPOINTS),
    )
    data = excerpts(corpus["train"], recipe.length, sum(map(len, corpus["train"]))).clips
    valid = excerpts(corpus["valid"], recipe.length, VALID).clips
    watch = Stopwatch(folder / "steps.txt", minutes)
    checkpoint = folder / "run.pt"
    history = train(
        model, data, config, checkpoint, valid=valid, on_step=watch.note, stop=watch, progress=False
    )
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps_planned": config.steps,
        "epochs": len(history.loss) * config.batch_size / len(data),
        "timed_seconds_per_step": plan["seconds_per_step"],
    }
    return model, config, figures | told(history, read_notes(watch.path), recipe.samples_per_step)


def told(history: History, notes: list[Note], samples_per_step: int) -> dict[str, Any]:
    """The story of a run. A session that was cut off did its last steps in vain: those count that a later
    one did again, but the time that was lost counts as well."""
    loss, last = history.loss, {note.step: note for note in notes}
    seconds = [last[step].seconds for step in range(len(loss))]
    first = {note.session: note.step for note in reversed(notes)}
    took = [after - before for before, after in itertools.pairwise(seconds)]
    return {
        "steps": len(loss),
        "samples_per_step": samples_per_step,
        "seconds": seconds[-1],
        "samples_per_second": len(loss) * samples_per_step / seconds[-1],
        "samples_per_second_in_a_step": samples_per_step / statistics.median(took or seconds),
        "curve": [
            {
                "steps": part[-1] + 1,
                "samples": (part[-1] + 1) * samples_per_step,
                "seconds": seconds[part[-1]],
                "bits": statistics.fmean(loss[part[0] : part[-1] + 1]),
            }
            for part in stretches(len(loss), POINTS)
        ],
        "validations": [
            {"steps": steps, "seconds": seconds[steps - 1], "bits": bits} for steps, bits in history.valid
        ],
        "resumed": [
            {
                "steps": first[number],
                "seconds": seconds[first[number] - 1],
                "bits_before": loss[max(0, first[number] - AROUND) : first[number]],
                "bits_after": loss[first[number] :][:AROUND],
            }
            for number in sorted(first)
            if number > 0
        ],
    }


def stretches(number: int, parts: int) -> list[range]:
    """0 to ``number - 1`` in so many equal parts, or in as many as there can be."""
    parts = min(number, parts)
    ends = [number * part // parts for part in range(parts + 1)]
    return [range(start, end) for start, end in itertools.pairwise(ends)]


def main() -> None:
    """Train for a while, judge, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--minutes", type=float, default=7.0, help="training time of this call")
    parser.add_argument("--total-minutes", type=float, help="of the whole run; twice --minutes unless said")
    parser.add_argument("--steps", type=int, help="of the whole run, in place of a timing; both settled once")
    parser.add_argument("--about", default="recordings", help="what the folder holds, for the result")
    parser.add_argument("--run", type=Path, default=Path("runs/full_run"), help="where the run is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe, name = suitable(), "full_run_gpu" if torch.cuda.is_available() else "full_run"
    corpus = load(options.folder, options.sample_rate, recipe.quantizer)
    total = options.total_minutes or 2 * options.minutes
    model, config, figures = session(recipe, corpus, options.run, options.minutes, total, options.steps)
    print({key: value for key, value in figures.items() if isinstance(value, int | float)}, flush=True)
    test = excerpts(corpus["test"], JUDGED * options.sample_rate, sum(map(len, corpus["test"])))
    figures |= {
        "test_bits": verdict(clip_bits(model, test.clips, frame=8_192), test),
        "test_samples": sum(map(len, test.clips)),
        "bigram_bits": bigram_bits(corpus["train"], test.clips),
    }
    settings = {"recipe": asdict(replace(recipe, training=config)), "sample_rate": options.sample_rate}
    record(name, settings, figures, options)  # the draws take minutes, and may fail
    record(name, settings, figures | {"clips": draw(best_engine(model), name, options.sample_rate)}, options)


def record(name: str, settings: dict[str, Any], figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the result."""
    save_result(
        name,
        question="How far one SaShiMi comes in the longest run that fits, stopped and taken up again",
        config=settings,
        figures=figures,
        units={
            "bits": "bits per sample: of the batches of equal stretches of steps, or of held-out recordings",
            "bits_before": "bits per sample of each of the last batches before the run was taken up again",
            "bits_after": "bits per sample of each of the first batches after that",
            "test_bits": UNIT,
            "seconds": "of training so far: of one CPU thread, or of the wall on a GPU",
        },
        repeats=1,
        seed=0,
        data=f"{options.folder.name}, {options.about}: {JUDGED} s excerpts of held-out ones, 8-bit mu-law",
    )


if __name__ == "__main__":
    main()
