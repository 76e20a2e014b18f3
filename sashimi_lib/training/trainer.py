"""The training loop of all models, of codes or diffusion (chapters 6 to 10).

The other modules of this package are its parts: settings and schedules (`config`), batches (`batches`),
gradients (`gradient_step`) and their checks (`finite_checks`), the optimizer (`optimizer`), the moving
average of weights (`ema`), validation (`validation`), the state of a run (`train_state`), loggers (`logger`),
options for memory and speed (`execution`), and several processes (`distributed`).
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from tqdm.auto import tqdm

from sashimi_lib.data.sequences import SequenceDataset
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.storage.atomic import locked
from sashimi_lib.training.batches import check_data
from sashimi_lib.training.config import DEFAULTS, TrainingConfig
from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext
from sashimi_lib.training.execution import DEFAULT_EXECUTION, ExecutionConfig, apply_execution
from sashimi_lib.training.finite_checks import check_gradients, clip_gradients
from sashimi_lib.training.gradient_step import GradientStep
from sashimi_lib.training.logger import SILENT, Logger
from sashimi_lib.training.rng import preserve_rng_state
from sashimi_lib.training.train_state import History, TrainState
from sashimi_lib.training.validation import validation_loss


def train(
    model: Trainable,
    data: SequenceDataset,
    config: TrainingConfig = DEFAULTS,
    checkpoint: str | Path | None = None,
    *,
    valid: SequenceDataset | None = None,
    on_step: Callable[[int, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    logger: Logger = SILENT,
    progress: bool = True,
    execution: ExecutionConfig = DEFAULT_EXECUTION,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> History:
    """Train a model to minimize its mean loss on ``data``; return the losses of all steps and validations:
    bits per sample of a model of codes, the mean squared error of a diffusion model.

    Sequences may differ in length, and have labels for a conditional model: see
    `sashimi_lib.data.sequences.SequenceDataset`. With ``valid``, held-out data, the model ends with the
    weights of the lowest validation loss; without, with its last ones.

    With a ``checkpoint`` path, the state is saved there regularly, and training resumes from it. On a CPU,
    with the same number of threads, a resumed run gives the same numbers as an uninterrupted one, with data
    that draw random numbers too if they do so as `sashimi_lib.data.sequences.SequenceDataset` says. A run may
    resume with more steps or other `sashimi_lib.training.config.TrainingConfig.resumable_fields`. The
    previous checkpoint is kept as ``NAME.previous.pt``, and used, with a warning, if the latest is damaged;
    the best weights so far are in ``NAME.best.pt``. One process at a time may use a checkpoint.

    ``on_step(step, loss)`` is called after each step; it may change the weights
    (`sashimi_lib.training.pruning.Pruner`). ``stop()`` is called after each step; training saves a checkpoint
    and ends when it returns True. ``logger`` receives the metrics of every step, and the model at every
    validation. ``execution`` has options that save memory or time. The random state of the caller is
    preserved.

    Under ``torchrun``, call it in every process with the ``distributed`` context of
    `sashimi_lib.training.distributed.init_distributed`; each process takes its shard of the global batch.
    Only rank 0 writes files and shows progress. Except for rounding, models of this library train the same
    with any number of processes, and a run may resume with another number.

    >>> import torch
    >>> from sashimi_lib.models.audio_lm import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> history = train(model, torch.full((4, 64), 128), TrainingConfig(steps=10), progress=False)
    >>> history.loss[-1] < history.loss[0]
    True

    Chapters: 6, 7, 9 and 10. Raises ValueError for empty data, for labels without a conditional model, for
    ``tbptt_length`` with a model of whole sequences, for a schedule that needs validation data without any,
    for more processes than sequences in a batch, and for a checkpoint of another run or in use by another
    process; OSError if a checkpoint cannot be written; and FloatingPointError, naming the parameter, if
    training diverges: the checkpoint is then the last good one.
    """
    _check(model, data, valid, config, distributed)
    logger = logger if distributed.is_main_process else SILENT
    state = TrainState(model, data, config, valid, distributed)
    gradient_step = GradientStep(model, config, execution, distributed)
    lock = nullcontext() if checkpoint is None or not distributed.is_main_process else locked(checkpoint)
    with lock, preserve_rng_state(model.device), apply_execution(model, execution):
        if checkpoint is not None:
            state.load(checkpoint)
        bar = _progress_bar(state, progress)
        while not state.finished:
            started, computed, lr = time.perf_counter(), compute_seconds(model), state.set_learning_rate()
            loss = _train_step(state, gradient_step)
            if on_step is not None:  # before weights are averaged, validated and saved: it may change them
                on_step(len(state.history.loss), loss)
            state.record_step(loss)

            steps = len(state.history.loss)
            speed = gradient_step.samples / (time.perf_counter() - started)
            state.history.seconds += compute_seconds(model) - computed
            logger.log_step(steps, loss=loss, learning_rate=lr, samples_per_second=speed)
            if state.validation_due:
                _validate(state, logger, checkpoint)
            should_stop = stop is not None and stop()
            is_last = state.finished or distributed.all_reduce_max(should_stop) > 0
            if checkpoint is not None and (steps % config.checkpoint_every == 0 or is_last):
                state.save(checkpoint)
            bar.set_postfix_str(_progress_text(state.history, speed))
            bar.update()
            if is_last:
                break
        bar.close()
        logger.flush()
        state.load_best_weights()
    return state.history


def compute_seconds(model: Trainable) -> float:
    """Return a clock in seconds: wall time on a GPU; on a CPU, the time of all its cores together that this
    process uses.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> model = WaveRNN(WaveRNNConfig(8))
    >>> compute_seconds(model) <= compute_seconds(model)
    True
    """
    return time.perf_counter() if model.device.type == "cuda" else time.process_time()


def _train_step(state: TrainState, gradient_step: GradientStep) -> float:
    """Train on the next batch, or chunk of one; return its loss."""
    state.seed_rng()
    batch = next(state.stream)
    if state.config.tbptt_length is not None and batch.is_start:
        state.cache = state.model.initial_cache(len(batch.sequence))
    state.optimizer.zero_grad()
    batch_loss, state.cache = gradient_step(batch, state.cache)
    state.stream.prefetch()  # while a GPU computes: the next line waits for it
    loss = check_gradients(state.model, batch_loss)
    clip_gradients(state.model, state.config)
    state.optimizer.step()
    return loss


def _validate(state: TrainState, logger: Logger, checkpoint: str | Path | None) -> None:
    """Validate, log the result, and save the weights if they are the best so far."""
    config, steps = state.config, len(state.history.loss)
    assert state.valid is not None
    loss = validation_loss(
        state.eval_model, state.valid, config.batch_size, config.tbptt_length, state.distributed
    )
    state.record_validation(loss)
    logger.log_step(steps, valid_loss=loss)
    logger.log_audio(steps, state.eval_model)
    if checkpoint is not None and state.history.validations_since_best == 0:
        state.save_best(checkpoint)


def _progress_bar(state: TrainState, progress: bool) -> tqdm:
    return tqdm(
        initial=len(state.history.loss),
        total=state.config.steps,
        unit="step",
        disable=not (progress and state.distributed.is_main_process),
    )


def _progress_text(history: History, samples_per_second: float) -> str:
    validation = f"validation {history.valid[-1][1]:.3f}, " if history.valid else ""
    return f"loss {history.loss[-1]:.3f}, {validation}{samples_per_second:,.0f} samples/s"


def _check(
    model: Trainable,
    data: SequenceDataset,
    valid: SequenceDataset | None,
    config: TrainingConfig,
    distributed: DistributedContext,
) -> None:
    """Raise ValueError for data, settings and processes that do not go together."""
    if len(data) == 0:
        raise ValueError("data must hold at least one sequence, got none")
    if valid is not None:  # all of it now, not only at the first validation
        check_data(model, valid, "valid")
    if valid is None and (config.decay == "plateau" or config.early_stopping_patience is not None):
        raise ValueError("valid must be given for decay 'plateau' and for early_stopping_patience, got None")
    if config.tbptt_length is not None and model.initial_cache(1) is None:
        raise ValueError(
            f"tbptt_length must be None for a model of whole sequences, got {config.tbptt_length}"
        )
    if config.batch_size < distributed.size:
        raise ValueError(
            f"batch_size must be at least {distributed.size}, a sequence for each process, "
            f"got {config.batch_size}"
        )
