"""The training loop, top to bottom (chapters 6 and 7).

What it calls lies beside it, an idea a file: settings and schedules (`config`), what a step trains on
(`batches`), the optimizer, looking at gradients (`guard`), averaging (`ema`), held-out bits (`validation`),
and all that a run has to remember (`run`).
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sashimi_lib.models.autoregression import SoundModel
from sashimi_lib.training.batches import Data
from sashimi_lib.training.config import DEFAULTS, TrainingConfig
from sashimi_lib.training.guard import check_gradients, clip_gradients
from sashimi_lib.training.run import History, Run, each_tensor
from sashimi_lib.training.tensorboard import TensorBoard
from sashimi_lib.training.validation import held_out_bits, score


def train(
    model: SoundModel,
    data: Data,
    config: TrainingConfig = DEFAULTS,
    checkpoint: str | Path | None = None,
    *,
    valid: Data | None = None,
    on_step: Callable[[int, float], None] | None = None,
    tensorboard: TensorBoard | None = None,
    progress: bool = True,
) -> History:
    """Maximise ``model.log_likelihood`` of the data; returns the bits per sample of every step's batch.

    Sequences may differ in length. With ``valid``, others that are only judged, the bits of these come back
    too, and the model ends with its best weights by them; without, with its last ones.

    With a ``checkpoint`` the run is written there as it goes and taken up where it stopped: the same numbers
    come out as without the interruption, to the bit on a CPU. The best weights so far lie beside it, as
    ``NAME.best.pt``. ``on_step(step, bits)`` is called after each step, to look at the model or to
    change its weights (`sashimi_lib.training.pruning.Pruner`).

    >>> from sashimi_lib.autoregressive import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.quantize import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> history = train(model, torch.full((4, 64), 128), TrainingConfig(steps=10), progress=False)
    >>> history.bits[-1] < history.bits[0]
    True

    Chapters: 6 and 7. Raises ValueError for no data, for a rate that waits for validations that do not come,
    and for a checkpoint of another run; and FloatingPointError, naming the parameter, where training
    diverges: the checkpoint is then still the last good one.
    """
    _check(data, valid, config)
    torch.manual_seed(config.seed)
    device = next(model.parameters()).device
    run = Run(model, data, config)
    if checkpoint is not None and Path(checkpoint).exists():
        run.load(checkpoint)
    history = run.history
    bar = tqdm(initial=len(history.bits), total=config.steps, unit="step", disable=not progress)
    while not run.finished:
        started, lr = time.perf_counter(), run.set_rate()

        codes, real, first = next(run.pieces)
        codes, real = codes.to(device), real.to(device)
        if config.truncate is not None and first:
            run.past = model.beginning(len(codes))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            scores, past = score(model, codes, run.past)
        loss = -scores.where(real, 0).sum() / real.sum()
        run.optimizer.zero_grad()
        loss.backward()
        check_gradients(model, loss)
        clip_gradients(model, config)
        run.optimizer.step()
        bits = loss.item()
        if on_step is not None:  # before weights are averaged, judged and saved, for it may change them
            on_step(len(history.bits), bits)
        if run.average is not None:
            run.average.update_parameters(model)
        run.past = None if past is None else each_tensor(Tensor.detach, past)  # gradients end here

        history.bits.append(bits)
        done = len(history.bits)
        speed = int(real.sum()) / (time.perf_counter() - started)
        if tensorboard is not None:
            tensorboard.step(done, bits=bits, learning_rate=lr, samples_per_second=speed)
        if valid is not None and (done % config.valid_every == 0 or done == config.steps):
            run.remember(held_out_bits(run.judged, valid, config.batch_size, config.truncate))
            if tensorboard is not None:
                tensorboard.step(done, valid_bits=history.valid[-1][1])
                tensorboard.clip(done, run.judged)
            if checkpoint is not None and history.waited == 0:
                run.save_best(checkpoint)
        if checkpoint is not None and (done % config.checkpoint_every == 0 or run.finished):
            run.save(checkpoint)
        held_out = f", {history.valid[-1][1]:.3f} held out" if history.valid else ""
        bar.set_postfix_str(f"{bits:.3f} bits{held_out}, {speed:,.0f} samples/s")
        bar.update()
    bar.close()
    if tensorboard is not None:
        tensorboard.flush()
    run.hand_over()
    return history


def _check(data: Data, valid: Data | None, config: TrainingConfig) -> None:
    for name, given in (("data", data), ("valid", valid)):
        if given is not None and len(given) == 0:
            raise ValueError(f"{name} must hold at least one sequence, got none")
    if valid is None and (config.decay == "plateau" or config.stop_after is not None):
        raise ValueError("valid must be given where decay is 'plateau' or stop_after is set, got None")
