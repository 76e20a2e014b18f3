"""``sashimi train``: train any recipe on any recordings, into a file that the other commands take."""

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.cli.device import check_compiler, device_of
from sashimi_lib.cli.evaluate import format_report
from sashimi_lib.cli.initial_weights import load_initial_weights
from sashimi_lib.cli.recordings import (
    codes_of,
    dominant_sample_rate,
    file_lists,
    samples_of,
    sequences_of,
    subsample,
    waveforms_of,
)
from sashimi_lib.cli.run_folder import card_of, check_recordings, save_settings, settings_of
from sashimi_lib.cli.stop import Stop
from sashimi_lib.cli.train_arguments import MY_WAVS, TrainCommand, available_recipes
from sashimi_lib.data.corpora import CORPORA, Codes
from sashimi_lib.data.sequences import SequenceDataset
from sashimi_lib.data.split import FileLists
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.evaluation.likelihood import ConfidenceInterval, bigram_bits
from sashimi_lib.evaluation.metrics import HeldOut, bits
from sashimi_lib.models import WaveRNN
from sashimi_lib.models.audio_lm import AudioLM, ModelConfig
from sashimi_lib.pretrained import ModelCard, save
from sashimi_lib.storage.atomic import locked
from sashimi_lib.training.batches import check_data
from sashimi_lib.training.checkpoint import checkpoint_exists
from sashimi_lib.training.distributed import DistributedContext, init_distributed
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.logger import ConsoleLogger, Logger, MultiLogger
from sashimi_lib.training.recipes import DiffusionRecipe, Recipe
from sashimi_lib.training.tensorboard import TensorBoardLogger
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss

Model = AudioLM | WaveRNN | DiffusionModel
MAX_COUNTED_SAMPLES = 20_000_000  # samples at most for the bigram baseline: enough for 65,536 pairs


class Inputs(NamedTuple):
    """What a run trains: a recipe with the options applied, the data of each part, and the names of the
    recordings of each part where they are your own."""

    recipe: Recipe | DiffusionRecipe
    parts: dict[str, SequenceDataset]
    files: FileLists | None


def run(command: TrainCommand) -> int:
    """Train, or resume; returns the exit code. Raises ValueError for invalid options and for a run with other
    settings in the same folder; OSError for missing files; and FloatingPointError where training diverges."""
    device = device_of(command.device)
    with init_distributed(device) as distributed, nullcontext() if distributed.is_main_process else quiet():
        try:
            return _run(command, device, distributed)
        except torch.cuda.OutOfMemoryError as error:
            raise ValueError(
                "CUDA out of memory: try --grad-accumulation 2, --activation-checkpointing or a smaller "
                f"--length ({error})"
            ) from error


def _run(command: TrainCommand, device: torch.device, distributed: DistributedContext) -> int:
    """The same in one process of several, of which the first prints and writes files."""
    if command.execution.compile:
        check_compiler(device)
    inputs = prepare(command)
    model, base = initial_model(command, inputs.recipe)
    for part, data in inputs.parts.items():  # now: some are needed only after hours
        check_data(model, data, part)
    checkpoint = (command.out or Path("runs") / command.recipe) / "run.pt"
    with locked(checkpoint) if distributed.is_main_process else nullcontext():
        if distributed.is_main_process:
            check_recordings(checkpoint, inputs.files)
            settings = settings_of(command, inputs.recipe.sample_rate, inputs.parts, inputs.files)
            save_settings(checkpoint, settings, command.training.resumable_fields)
        return _train(command, inputs, model.to(device), checkpoint, base, distributed)


def prepare(command: TrainCommand) -> Inputs:
    """Apply the options to the recipe, and read the recordings for it. Raises ValueError for invalid ones."""
    _check(command)
    corpus, progress = CORPORA[command.corpus], sys.stderr.isatty()
    files = corpus.parts(command.data)
    lists = file_lists(corpus, files, command.data)
    settings: dict[str, Any] = {
        "length": command.length,
        "training": command.training,
        "sample_rate": dominant_sample_rate(files) if command.sample_rate is None else command.sample_rate,
    }
    recipe = available_recipes(device_of(command.device).type == "cuda")[command.recipe]
    if isinstance(recipe, DiffusionRecipe):
        recipe = replace(recipe, config=cast(DiffusionConfig, command.model), **settings)
        return Inputs(recipe, waveforms_of(corpus, files, recipe, progress), lists)
    recipe = replace(recipe, backbone=cast(ModelConfig, command.model), **settings)
    return Inputs(recipe, dict(codes_of(corpus, files, recipe, progress)), lists)


def _check(command: TrainCommand) -> None:
    if command.length < 1:
        raise ValueError(f"--length must be at least 1 sample, got {command.length}")
    if command.sample_rate is not None and command.sample_rate < 1:
        raise ValueError(f"--sample-rate must be at least 1, got {command.sample_rate}")
    if command.valid_seconds is not None and not 0 < command.valid_seconds < math.inf:
        raise ValueError(f"--valid-seconds must be above 0, and finite, got {command.valid_seconds}")


def initial_model(command: TrainCommand, recipe: Recipe | DiffusionRecipe) -> tuple[Model, ModelCard | None]:
    """The model before its first step; and the card of the one that it is fine-tuned from, if any."""
    model = recipe.build(command.training.seed)
    if command.begin is not None:
        return model, load_initial_weights(command.begin, model, recipe.sample_rate)
    if command.recipe == MY_WAVS and isinstance(model, AudioLM):
        init_ordered_embeddings(model)
    return model, None


def _train(
    command: TrainCommand,
    inputs: Inputs,
    model: Model,
    checkpoint: Path,
    base: ModelCard | None,
    distributed: DistributedContext,
) -> int:
    """Train the model, evaluate it, and save it beside its checkpoint; returns the exit code."""
    print(_headline(command, inputs, model, checkpoint, distributed), flush=True)
    path, rate = checkpoint.with_name("model.safetensors"), inputs.recipe.sample_rate
    with Stop(patient=distributed.size > 1) as stop:
        history = train(
            model,
            inputs.parts["train"],
            command.training,
            checkpoint,
            valid=_validation_data(command, inputs),
            stop=stop,
            logger=_logger(command, checkpoint.parent, rate),
            progress=sys.stderr.isatty(),
            execution=command.execution,
            distributed=distributed,
        )
        stopped = distributed.all_reduce_max(stop()) > 0
        card = card_of(command, history, base, inputs.files)
        if distributed.is_main_process:
            save(path, model, rate, card)  # the evaluation may take long, and be interrupted
    if not distributed.is_main_process:
        return stop.exit_code
    if stopped:
        steps = f"{len(history.loss):,} of {command.training.steps:,} steps"
        print(f"stopped after {steps}; run the same command to resume")
    else:
        card = _tested(card, model, inputs, command.training.batch_size)
        save(path, model, rate, card)
    print(f"saved {path}, weights of step {card.steps:,}; try: sashimi generate {path} --out sample.wav")
    return stop.exit_code


def _headline(
    command: TrainCommand, inputs: Inputs, model: Model, checkpoint: Path, distributed: DistributedContext
) -> str:
    rate = inputs.recipe.sample_rate
    seconds = ", ".join(f"{part} {samples_of(data) / rate:,.1f} s" for part, data in inputs.parts.items())
    device = (
        model.device.type if distributed.size == 1 else f"{distributed.size} processes on {model.device.type}"
    )
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"{command.recipe}: {parameters:,} parameters, {device}, {rate:,} Hz; "
        f"{seconds}; {'resuming from' if checkpoint_exists(checkpoint) else 'checkpoints in'} {checkpoint}"
    )


def _validation_data(command: TrainCommand, inputs: Inputs) -> SequenceDataset:
    valid = inputs.parts["valid"]
    if command.valid_seconds is None:
        return valid
    return subsample(valid, max(1, round(command.valid_seconds * inputs.recipe.sample_rate)))


def _logger(command: TrainCommand, folder: Path, sample_rate: int) -> Logger:
    if not command.tensorboard:
        return ConsoleLogger()
    return MultiLogger(ConsoleLogger(), TensorBoardLogger(folder / "tensorboard", sample_rate))


def _tested(card: ModelCard, model: Model, inputs: Inputs, batch_size: int) -> ModelCard:
    """The card with the figures of the test, which are printed."""
    test = inputs.parts["test"]
    if isinstance(model, DiffusionModel):
        loss = validation_loss(model, test, batch_size)
        print(f"test: mean squared error {loss:.4f}")
        return replace(card, test_loss=loss)
    assert isinstance(test, Codes)
    report = bits(model, HeldOut(sequences_of(test), inputs.recipe.sample_rate, test.recordings, batch_size))
    print(f"test: {format_report(report)}")
    assert isinstance(report.value, ConfidenceInterval)
    mean, interval, recordings = report.value
    card = replace(card, test_bits=mean, test_interval=interval, test_recordings=recordings)
    if isinstance(model.quantizer, CoarseFine):  # the table of all pairs would be too large
        return card
    counted = subsample(inputs.parts["train"], MAX_COUNTED_SAMPLES)
    baseline = bigram_bits(sequences_of(counted), sequences_of(test), model.quantizer.levels)
    print(f"bigram baseline: {baseline:.3f} bits per sample")
    return replace(card, bigram_bits=baseline)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside ``with`` nothing is printed: another process prints the same."""
    with redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
