"""The training loop, top to bottom: one for models of codes and diffusion models alike (chapters 6 to 10).

What it calls lies beside it, an idea a file: settings and schedules (`config`), what a step trains on
(`batches`), its gradients (`step`) and a look at them (`guard`), the optimizer, averaging (`ema`), held-out
data (`validation`), all that a run has to remember (`run`), where it reports to (`logger`); and for large
models how a step is computed (`execution`), and by how many processes (`distributed`).
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
    """Minimize ``model.loss`` over the data; returns the loss of every step's batch, the mean over its
    samples: bits per sample of a model of codes, the mean squared error of a diffusion model.

    Sequences may differ in length, and may have labels, if the model can be told them: see
    `sashimi_lib.data.sequences.SequenceDataset`. With ``valid``, others that are only judged, the loss of these comes
    back too, and the model ends with its best weights by it; without, with its last ones.

    With a ``checkpoint`` the run is written there as it goes and taken up where it stopped. On a CPU, with as
    many threads and data that draw random numbers, if any, as `sashimi_lib.data.sequences.SequenceDataset` says, the
    same numbers come out as without the interruption. It may go on for more steps than it was begun with, or
    with other `sashimi_lib.training.config.TrainingConfig.free` settings. The checkpoint before the last is
    kept as ``NAME.previous.pt``, and taken up with a warning where the last is damaged; the best weights so
    far as ``NAME.best.pt``. One process at a time may train there.

    ``on_step(step, loss)`` is called after each step, to look at the model or to change its weights
    (`sashimi_lib.training.pruning.Pruner`). ``stop()`` is asked after each step: where it says yes, the run
    is written and ends there. ``logger`` receives numbers of every step and the model at every validation.
    ``execution`` says how to do with less memory, or time. The caller's random numbers are left as they were.

    In a ``distributed`` (see `sashimi_lib.training.distributed.joined`) every process calls this alike, and takes its shard
    of the global batch; the first one alone writes files and shows progress. Models of codes learn the same,
    but for rounding, by however many processes, and a run may go on with more of them, or fewer.

    >>> import torch
    >>> from sashimi_lib.models.audio_lm import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> history = train(model, torch.full((4, 64), 128), TrainingConfig(steps=10), progress=False)
    >>> history.loss[-1] < history.loss[0]
    True

    Chapters: 6, 7, 9 and 10. Raises ValueError for no data, for labels that the model cannot be told, for
    pieces where it hears only wholes, for a rate that waits for validations that do not come, for more
    processes than a batch has sequences, and for a checkpoint of another run or in use by another process;
    OSError where one cannot be written; and FloatingPointError, naming the parameter, where training
    diverges: the checkpoint is then still the last good one.
    """
    _check(model, data, valid, config, distributed)
    logger = logger if distributed.is_main_process else SILENT
    run, step = (
        TrainState(model, data, config, valid, distributed),
        GradientStep(model, config, execution, distributed),
    )
    own = nullcontext() if checkpoint is None or not distributed.is_main_process else locked(checkpoint)
    with own, preserve_rng_state(model.device), apply_execution(model, execution):
        if checkpoint is not None:
            run.load(checkpoint)
        history = run.history
        bar = tqdm(
            initial=len(history.loss),
            total=config.steps,
            unit="step",
            disable=not (progress and distributed.is_main_process),
        )
        while not run.finished:
            started, lr = time.perf_counter(), run.set_rate()
            run.set_random()

            piece = next(run.pieces)
            if config.tbptt_length is not None and piece.is_start:
                run.cache = model.initial_cache(len(piece.sequence))
            run.optimizer.zero_grad()
            scored, run.cache = step(piece, run.cache)
            run.pieces.read_ahead()  # a GPU computes meanwhile; what comes next waits for it
            loss = check_gradients(model, scored)
            clip_gradients(model, config)
            run.optimizer.step()
            if on_step is not None:  # before weights are averaged, judged and saved, for it may change them
                on_step(len(history.loss), loss)
            if run.average is not None:
                run.average.update_parameters(model)

            history.loss.append(loss)
            done = len(history.loss)
            speed = step.samples / (time.perf_counter() - started)
            logger.log_step(done, loss=loss, learning_rate=lr, samples_per_second=speed)
            if valid is not None and (done % config.valid_every == 0 or done == config.steps):
                run.record_validation(
                    validation_loss(
                        run.eval_model, valid, config.batch_size, config.tbptt_length, distributed
                    )
                )
                logger.log_step(done, valid_loss=history.valid[-1][1])
                logger.log_audio(done, run.eval_model)
                if checkpoint is not None and history.validations_since_best == 0:
                    run.save_best(checkpoint)
            told = stop is not None and stop()
            ends = run.finished or distributed.all_reduce_max(told) > 0
            if checkpoint is not None and (done % config.checkpoint_every == 0 or ends):
                run.save(checkpoint)
            judged = f", {history.valid[-1][1]:.3f} held out" if history.valid else ""
            bar.set_postfix_str(f"loss {loss:.3f}{judged}, {speed:,.0f} samples/s")
            bar.update()
            if ends:
                break
        bar.close()
        logger.flush()
        run.load_best_weights()
    return history


def _check(
    model: Trainable,
    data: SequenceDataset,
    valid: SequenceDataset | None,
    config: TrainingConfig,
    distributed: DistributedContext,
) -> None:
    if len(data) == 0:
        raise ValueError("data must hold at least one sequence, got none")
    if valid is not None:  # all of it, now: its turn comes only after many steps
        check_data(model, valid, "valid")
    if valid is None and (config.decay == "plateau" or config.early_stopping_patience is not None):
        raise ValueError("valid must be given where decay is 'plateau' or stop_after is set, got None")
    if config.tbptt_length is not None and model.initial_cache(1) is None:
        raise ValueError(
            f"tbptt_length must be None for a model of whole sequences, got {config.tbptt_length}"
        )
    if config.batch_size < distributed.size:
        raise ValueError(
            f"batch_size must be at least {distributed.size}, a sequence for each process, got {config.batch_size}"
        )
