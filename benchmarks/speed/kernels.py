"""What does an SSM kernel cost? Time and memory of a training step against length, beside the textbook
methods.

A step: 64 channels, N = 64, batch size 1; kernel, FFT convolution, backward pass to every parameter. The
methods are timed in turn, so that other load slows them alike. Then one training step of SaShiMi-8 at 16,000
samples, and how its time divides. Writes ``book/results/kernels.json``.

    python -m benchmarks.speed.kernels            about 10 minutes on 2 cores
    python -m benchmarks.speed.kernels --quick    under a minute, to see that it runs; writes nothing
"""

import argparse
import ctypes.util
import itertools
from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from benchmarks.lib.breakdown import step_breakdown
from benchmarks.lib.result import save_result
from benchmarks.lib.timing import interleaved
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm.convolution import causal_conv
from sashimi_lib.ssm.kernels import kernel, kernel_cauchy, kernel_vandermonde
from sashimi_lib.ssm.s4 import Form, SSMConfig, StateSpace

SEED, H, REPEATS = 0, 64, 9
LENGTHS = [1024, 2048, 4096, 8192, 16000, 32768, 65536, 131072]
NAIVE_LIMIT = 16000  # beyond this length the matrices of the reference methods take more than 2 GB
REFERENCE = {Form.HURWITZ: "cauchy", Form.DIAGONAL: "vandermonde"}
REFERENCE_OF_NAME = {"dplr": "cauchy", "diagonal": "vandermonde"}


def fast_kernel(ssm: StateSpace, length: int) -> Tensor:
    """The kernel as the layer computes it: powers in float64, the rest in float32."""
    return kernel(ssm.recurrence(), length, torch.float32)


def reference_kernel(ssm: StateSpace, length: int) -> Tensor:
    """The textbook method in single precision, with C as the parameter of the truncated kernel, as in the
    published code."""
    system = ssm.system()
    if ssm.config.form is not Form.DIAGONAL:
        single = (x.to(torch.complex64) for x in system[:-1])
        return kernel_cauchy(type(system)(*single, system.dt.float()), length)
    A_bar = torch.exp(system.dt[:, None] * system.Lambda)
    B_bar = (A_bar - 1) / system.Lambda * system.B
    return kernel_vandermonde(*(x.to(torch.complex64) for x in (A_bar, B_bar, system.C)), length)


def training_step(form: Form, make: Callable[[StateSpace, int], Tensor], length: int) -> Callable[[], None]:
    """A function that runs one forward and backward pass of new state spaces."""
    torch.manual_seed(SEED)
    ssm = StateSpace(H, SSMConfig(form=form, init="lin" if form is Form.DIAGONAL else "legs"))
    u, target = torch.randn(2, 1, H, length)

    def step() -> None:
        ssm.zero_grad()
        y = causal_conv(u, make(ssm, length), ssm.D)
        (y - target).square().mean().backward()

    return step


def peak_mb(step: Callable[[], None]) -> float:
    """Peak memory of the tensors of one step in MB, from the profiler's record of allocations."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = itertools.grad_accumulation(
        event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())
    )
    return round(max(allocated) / 2**20, 1)


def reuse_memory() -> None:
    """Let glibc reuse the memory of large tensors, as it does in a long training run.

    By default each large tensor is a new mapping that the kernel fills with zeros, page by page; beyond
    30,000 samples that takes longer than the FFTs. Without glibc nothing changes.
    """
    library = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(library), "mallopt", None) if library else None
    if mallopt:
        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
        accepted = all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_TOP_PAD, 2**30)])
        print(f"memory of large tensors is reused: {accepted}")


def lengths_table(lengths: list[int], repeats: int) -> list[dict[str, object]]:
    """Every form, method and length, shortest first."""
    rows: list[dict[str, object]] = []
    for length in lengths:
        for form, reference in REFERENCE.items():
            functions = {"kernel": training_step(form, fast_kernel, length)}
            if length <= NAIVE_LIMIT:
                functions[reference] = training_step(form, reference_kernel, length)
            name = "diagonal" if form is Form.DIAGONAL else "dplr"
            for method, seconds in interleaved(functions, repeats).items():
                memory = peak_mb(functions[method])
                rows.append(
                    {"form": name, "method": method, "length": length, "seconds": seconds, "peak_mb": memory}
                )
                print(rows[-1], flush=True)
    return rows


def step_shares(length: int, n_layers: int, repeats: int) -> dict[str, float]:
    """How the time of a whole training step of SaShiMi divides (`step_breakdown`)."""
    torch.manual_seed(SEED)
    model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(n_layers=n_layers)))
    return step_breakdown(model, torch.randint(0, 256, (1, length)), repeats)


def times_faster(rows: list[dict[str, object]], form: str, length: int = 16000) -> float:
    """Seconds of the reference method over those of the fast kernel."""
    seconds = {
        row["method"]: float(row["seconds"]) for row in rows if (row["form"], row["length"]) == (form, length)
    }  # type: ignore
    return round(seconds[REFERENCE_OF_NAME[form]] / seconds["kernel"], 1)


def growth(rows: list[dict[str, object]], form: str) -> float:
    """Seconds of the fast kernel at 131,072 samples over those at 16,000."""
    seconds = {
        row["length"]: float(row["seconds"])  # type: ignore
        for row in rows
        if (row["form"], row["method"]) == (form, "kernel")
    }
    return round(seconds[131072] / seconds[16000], 2)


def summary(rows: list[dict[str, object]], reused: list[dict[str, object]]) -> dict[str, float]:
    """Speed-up at 16,000 samples and growth of time from there, with memory reused and without."""
    figures = {"L_log_L_growth_16000_to_131072": round(131072 * log(131072) / (16000 * log(16000)), 2)}
    for form in REFERENCE_OF_NAME:
        figures[f"{form}_times_faster_at_16000"] = times_faster(rows, form)
        figures[f"{form}_times_faster_at_16000_memory_kept"] = times_faster(reused, form)
        figures[f"{form}_growth_16000_to_131072_memory_kept"] = growth(reused, form)
    return figures


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small lengths, one repeat, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # repeatable, and fair to both methods
    rows = lengths_table([1024, 2048] if quick else LENGTHS, 1 if quick else REPEATS)
    reuse_memory()
    reused = lengths_table([1024] if quick else [16000, 131072], 1 if quick else REPEATS)
    step = step_shares(1600 if quick else 16000, 1 if quick else 8, 1 if quick else 3)
    print(step)
    if quick:
        return
    save_result(
        "kernels",
        question="time and memory of a training step against length: our kernels beside their textbook twins",
        config={
            "H": H,
            "N": 64,
            "batch": 1,
            "threads": 1,
            "naive_limit": NAIVE_LIMIT,
            "allocator": "glibc, memory kept",
        },
        figures={
            "rows": rows,
            "rows_memory_kept": reused,
            "summary": summary(rows, reused),
            "sashimi_8_step_at_16000": step,
        },
        units={
            "seconds": "s, median; the least, of a step of SaShiMi-8",
            "peak_mb": "MB that the tensors of a step hold at once",
            "share": "of the step's time",
        },
        repeats=REPEATS,
        seed=SEED,
    )


if __name__ == "__main__":
    main()
