"""``sashimi train``: any recipe on any recordings, to a file that the other commands take.

What can be said of a run is what its recipe has fields for, and each recipe's values are the defaults.
"""

import json
import math
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Union, cast

import torch
import tyro

from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.cli.arguments import CorpusName, Device
from sashimi_lib.cli.begin import begin_from
from sashimi_lib.cli.device import check_compiler, device_of
from sashimi_lib.cli.evaluate import judged
from sashimi_lib.cli.log import Log
from sashimi_lib.cli.recordings import (
    check_recordings,
    codes_of,
    dominant_sample_rate,
    lists_of,
    samples_of,
    sequences_of,
    some,
    waveforms_of,
)
from sashimi_lib.cli.stop import Stop
from sashimi_lib.data.corpora import CORPORA, Codes
from sashimi_lib.data.split import FileLists
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.evaluation.likelihood import bigram_bits
from sashimi_lib.models import WaveRNN
from sashimi_lib.models.audio_lm import AudioLM, ModelConfig
from sashimi_lib.pretrained import ModelCard, save
from sashimi_lib.storage.atomic import atomic_write, locked
from sashimi_lib.training import recipes
from sashimi_lib.training.batches import SequenceDataset, check_data
from sashimi_lib.training.checkpoint import checkpoint_exists
from sashimi_lib.training.config import TrainingConfig, differences
from sashimi_lib.training.distributed import DistributedContext, init_distributed
from sashimi_lib.training.execution import DEFAULT_EXECUTION, ExecutionConfig
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.recipes import DiffusionRecipe, Recipe
from sashimi_lib.training.tensorboard import TensorBoard
from sashimi_lib.training.train_state import History
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss

MY_WAVS = "my-wavs"
COUNTED = 20_000_000  # samples at most that the table of pairs counts: enough for 65,536 of them
ABOUT = f"""Train a model on recordings, judge it on others that are kept apart, and write it to a file.

{MY_WAVS} needs nothing but --data, a folder of three or more recordings; the others are the experiments of
the paper and of this book. sashimi train RECIPE --help shows all that can be changed. A run is kept in --out.
After Ctrl-C (exit code 130), SIGTERM (143) or the end of its terminal (129) it is written once more, and so
is the model as far as it got: the same command goes on from there. A second Ctrl-C does not wait for that.

The same command with more --steps makes a run longer; --from begins a new one from a trained model.

On several GPUs: torchrun --nproc-per-node 8 -m sashimi_lib train RECIPE ..., where --batch-size is that of
all of them together. A run may go on with another number of them."""


@dataclass(frozen=True)
class TrainCommand:
    """One run: a recipe, with what was said otherwise, and where its recordings and its files are."""

    recipe: tyro.conf.Suppress[str]
    data: Path
    """The folder of recordings. Your own are split into train, valid and test, about 88/6/6 % of the files by
    a hash of their paths, unless they lie in folders of these names."""
    model: tyro.conf.AvoidSubcommands[ModelConfig | DiffusionConfig]
    training: tyro.conf.OmitArgPrefixes[TrainingConfig]
    execution: tyro.conf.OmitArgPrefixes[ExecutionConfig]
    length: int
    """Samples of a training sequence."""
    sample_rate: int | None
    """In Hz; for None that of most of the sound, but at most 16000."""
    corpus: CorpusName
    """What the folder holds: recordings of your own, or a corpus that sashimi data fetched."""
    valid_seconds: float | None
    """How much held-out sound each validation hears, from all over it; None for all."""
    out: Path | None = None
    """The folder of the run: its checkpoint run.pt, and its model.safetensors. runs/RECIPE unless said."""
    device: Device = "auto"
    """Where to compute; auto takes the GPU if there is one."""
    begin: Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL")] = None
    """Begin from the weights of a trained model of the same shape: the name of one that ships, or the file
    that sashimi train wrote."""
    tensorboard: bool = False
    """Write curves, and a second of sound at each validation, to the folder tensorboard of the run."""

    def run(self) -> int:
        """Train, or go on; returns the exit code. Raises ValueError for what cannot be, or is not as in the
        run that lies there; OSError for what is missing; and FloatingPointError where training diverges."""
        device = device_of(self.device)
        with (
            init_distributed(device) as distributed,
            nullcontext() if distributed.is_main_process else silence(),
        ):
            try:
                return self._run(device, distributed)
            except torch.cuda.OutOfMemoryError as error:
                raise ValueError(
                    "the GPU's memory does not hold a step: --grad-accumulation 2 hears a batch in two parts, one "
                    f"after the other, --activation-checkpointing keeps less of it, --length makes it shorter: {error}"
                ) from error

    def _run(self, device: torch.device, distributed: DistributedContext) -> int:
        """The same as one of a team, of which the first one speaks and keeps files."""
        out = self.out or Path("runs") / self.recipe
        if self.execution.compile:
            check_compiler(device)
        recipe, parts, files = self._prepared()
        model, begun_from = self._begun(recipe)
        for part, data in parts.items():  # now: the turn of some comes after hours
            check_data(model, data, part)
        checkpoint = out / "run.pt"
        with locked(checkpoint) if distributed.is_main_process else nullcontext():
            if distributed.is_main_process:
                check_recordings(checkpoint, files)
                keep_settings(checkpoint, self._settings(recipe, parts, files), self.training.free)
            return self._learnt(model.to(device), recipe, parts, checkpoint, begun_from, files, distributed)

    def _learnt(
        self,
        model: AudioLM | WaveRNN | DiffusionModel,
        recipe: Recipe | DiffusionRecipe,
        parts: dict[str, SequenceDataset],
        checkpoint: Path,
        begun_from: ModelCard | None,
        files: FileLists | None,
        distributed: DistributedContext,
    ) -> int:
        """Train it, judge it, and write it beside its checkpoint; the exit code."""
        out, device, valid = checkpoint.parent, model.device, parts["valid"]
        if self.valid_seconds is not None:
            valid = some(valid, max(1, round(self.valid_seconds * recipe.sample_rate)))
        seconds = {part: f"{samples_of(data) / recipe.sample_rate:,.1f} s" for part, data in parts.items()}
        where = (
            f"the {device.type}"
            if distributed.size == 1
            else f"{distributed.size} processes, each on a {device.type}"
        )
        print(
            f"{self.recipe}: {sum(p.numel() for p in model.parameters()):,} parameters on {where}, "
            f"{recipe.sample_rate:,} Hz; {seconds['train']} to learn from, {seconds['valid']} held out, "
            f"{seconds['test']} for the test; {'goes on from' if checkpoint_exists(checkpoint) else 'kept in'} "
            f"{checkpoint}",
            flush=True,
        )
        with Stop(patient=distributed.size > 1) as stop:
            history = train(
                model,
                parts["train"],
                self.training,
                checkpoint,
                valid=valid,
                stop=stop,
                tensorboard=Log(
                    TensorBoard(out / "tensorboard", recipe.sample_rate) if self.tensorboard else None
                ),
                progress=sys.stderr.isatty(),
                execution=self.execution,
                distributed=distributed,
            )
            stopped = distributed.all_reduce_max(stop()) > 0
            path, card = out / "model.safetensors", self._card(history, begun_from, files)
            if distributed.is_main_process:
                save(path, model, recipe.sample_rate, card)  # the test may take long, and be broken off
        if not distributed.is_main_process:
            return stop.exit_code
        if stopped:
            steps = f"{len(history.loss):,} of {self.training.steps:,} steps"
            print(f"stopped after {steps}: the same command goes on from there")
        else:
            card = self._tested(card, model, parts, recipe.sample_rate)
            save(path, model, recipe.sample_rate, card)
        print(f"{path} has the weights of step {card.steps:,}; now: sashimi generate {path} --out sample.wav")
        return stop.exit_code

    def _begun(
        self, recipe: Recipe | DiffusionRecipe
    ) -> tuple[AudioLM | WaveRNN | DiffusionModel, ModelCard | None]:
        """The model before its first step, and the card of the one whose weights it begins with."""
        model = recipe.build(self.training.seed)
        if self.begin is not None:
            return model, begin_from(self.begin, model, recipe.sample_rate)
        if self.recipe == MY_WAVS and isinstance(model, AudioLM):
            init_ordered_embeddings(model)
        return model, None

    def _prepared(self) -> tuple[Recipe | DiffusionRecipe, dict[str, SequenceDataset], FileLists | None]:
        """The recipe as it was asked for, and the recordings as it takes them; and which of one's own are in
        which part."""
        for name, value in (("length", self.length), ("sample-rate", self.sample_rate)):
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1{' sample' * (name == 'length')}, got {value}")
        if self.valid_seconds is not None and not 0 < self.valid_seconds < math.inf:
            raise ValueError(f"--valid-seconds must be above 0, and finite, got {self.valid_seconds}")
        corpus, progress = CORPORA[self.corpus], sys.stderr.isatty()
        files = corpus.parts(self.data)
        lists = lists_of(corpus, files, self.data)
        settings: dict[str, Any] = {
            "length": self.length,
            "training": self.training,
            "sample_rate": dominant_sample_rate(files) if self.sample_rate is None else self.sample_rate,
        }
        recipe = known(device_of(self.device).type == "cuda")[self.recipe]
        if isinstance(recipe, DiffusionRecipe):
            asked = replace(recipe, config=cast(DiffusionConfig, self.model), **settings)
            return asked, waveforms_of(corpus, files, asked, progress), lists
        wanted = replace(recipe, backbone=cast(ModelConfig, self.model), **settings)
        return wanted, dict(codes_of(corpus, files, wanted, progress)), lists

    def _settings(
        self, recipe: Recipe | DiffusionRecipe, parts: dict[str, SequenceDataset], files: FileLists | None
    ) -> dict[str, Any]:
        """All that must be the same when a run goes on."""
        return {
            "recipe": self.recipe,
            "model": repr(self.model),
            "length": self.length,
            "sample_rate": recipe.sample_rate,
            "corpus": self.corpus,
            "valid_seconds": self.valid_seconds,
            "from": self.begin,
            **{f"samples of {part}": samples_of(data) for part, data in parts.items()},
            **asdict(self.training),
            "recordings": None if files is None else files.as_json(),
        }

    def _card(self, history: History, begun_from: ModelCard | None, files: FileLists | None) -> ModelCard:
        steps = history.best[0] if history.valid else len(history.loss)  # whose weights the model has
        corpus = CORPORA[self.corpus]
        data, credit = f"{self.data.resolve().name}: {corpus.description}", corpus.license
        if begun_from is not None:
            data += f" (begun from {begun_from.name}: {begun_from.data})"
            credit += f" (begun from: {begun_from.credit})"
        return ModelCard(
            self.recipe,
            data=data,
            credit=credit,
            steps=steps,
            samples=steps * self.training.samples_per_step(self.length),
            recordings=files,
        )

    def _tested(
        self,
        card: ModelCard,
        model: AudioLM | WaveRNN | DiffusionModel,
        parts: dict[str, SequenceDataset],
        rate: int,
    ) -> ModelCard:
        """The card with what the test says, which is printed."""
        test, batch_size = parts["test"], self.training.batch_size
        if isinstance(model, DiffusionModel):
            loss = validation_loss(model, test, batch_size)
            print(f"test: mean squared error {loss:.4f}")
            return replace(card, test_loss=loss)
        assert isinstance(test, Codes)
        bits, words = judged(model, test, rate, batch_size)
        pairs = None
        if not isinstance(model.quantizer, CoarseFine):
            counted = some(parts["train"], COUNTED)
            pairs = bigram_bits(sequences_of(counted), sequences_of(test), model.quantizer.levels)
        print(f"test: {words}{'' if pairs is None else f'; a table of pairs needs {pairs:.3f}'}")
        return replace(card, test_bits=bits, bigram_bits=pairs)


def keep_settings(checkpoint: Path, settings: dict[str, Any], free: Collection[str] = ()) -> None:
    """Write the settings of a run beside its checkpoint, as ``run.json``. Raises ValueError, naming what
    differs, where a checkpoint lies there whose run has others; but for those that are ``free``."""
    path = checkpoint.with_name("run.json")
    if path.exists() and checkpoint_exists(checkpoint):
        try:
            there = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): without it the run can go on") from error
        other = differences(there, settings, free)
        if other:
            raise ValueError(
                f"{checkpoint} is of a run with other settings: {'; '.join(other)}. Give the same ones to go "
                "on, or another --out to begin anew"
            )
    with atomic_write(path) as file:
        file.write(json.dumps(settings, indent=1).encode() + b"\n")


@contextmanager
def silence() -> Iterator[None]:
    """Inside ``with`` nothing is said: another process says the same."""
    with redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def known(gpu: bool) -> dict[str, Recipe | DiffusionRecipe]:
    """The recipes by name; for one's own recordings an hour of a CPU core, or the paper's model on a GPU."""
    small = replace(
        recipes.SMALL_SASHIMI,
        training=replace(recipes.SMALL_SASHIMI.training, steps=20_000, valid_every=1_000),
    )
    large = replace(
        recipes.YOUTUBEMIX_SASHIMI_8,
        length=32_768,
        training=TrainingConfig(steps=50_000, batch_size=4, warmup=500, decay="cosine", precision="tf32"),
    )
    return {MY_WAVS: large if gpu else small, **recipes.RECIPES}


def about(name: str, recipe: Recipe | DiffusionRecipe) -> str:
    """A recipe in a line.

    >>> about("small_sashimi", recipes.SMALL_SASHIMI)
    'SaShiMi, 16,000 Hz, 1,000 steps of 2 x 4,096 samples'
    """
    backbone = recipe.config.backbone if isinstance(recipe, DiffusionRecipe) else recipe.backbone
    kind = type(backbone).__name__.removesuffix("Config")
    what = f"{kind}, diffusion" if isinstance(recipe, DiffusionRecipe) else kind
    of = "for recordings of your own" if name == MY_WAVS else f"{recipe.sample_rate:,} Hz"
    training = recipe.training
    return f"{what}, {of}, {training.steps:,} steps of {training.batch_size} x {recipe.length:,} samples"


def parse(words: Sequence[str]) -> TrainCommand:
    """The command that the words after ``train`` ask for; wrong usage exits with 2."""
    cpu = ("--device", "cpu") in pairwise(words) or "--device=cpu" in words  # what is not said depends on it
    kinds: Any = tuple(
        Annotated[
            Any,
            tyro.conf.subcommand(name, description=about(name, recipe), constructor=_command(name, recipe)),
        ]
        for name, recipe in known(gpu=torch.cuda.is_available() and not cpu).items()
    )
    return tyro.cli(Union[kinds], prog="sashimi train", description=ABOUT, args=words)  # noqa: UP007


def _command(name: str, recipe: Recipe | DiffusionRecipe) -> Callable[..., TrainCommand]:
    """`TrainCommand` with what is done unless it is said otherwise: all but ``data``."""
    corpus = name.split("_")[0]
    return partial(
        TrainCommand,
        recipe=name,
        model=recipe.config if isinstance(recipe, DiffusionRecipe) else recipe.backbone,
        training=recipe.training,
        execution=DEFAULT_EXECUTION,
        length=recipe.length,
        sample_rate=None if name == MY_WAVS else recipe.sample_rate,
        corpus=cast(CorpusName, corpus) if corpus in CORPORA else "folder",
        valid_seconds=20.0 if name == MY_WAVS else None,
    )
