"""AdamW with two learning rates: state-space dynamics train slowly and without weight decay."""

from typing import Any

import torch
from torch import nn

from sashimi_lib.training.config import TrainingConfig


def fused(device: torch.device) -> bool:
    """Return whether to use the fused AdamW, which updates all parameters in one kernel: on a GPU.

    >>> fused(torch.device("cpu"))
    False
    """
    return device.type == "cuda"


def new_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over `parameter_groups`.

    >>> new_optimizer(nn.Linear(2, 2), TrainingConfig()).param_groups[0]["fused"]
    False

    Chapters: 6 and 10.
    """
    return torch.optim.AdamW(parameter_groups(model, config), fused=fused(next(model.parameters()).device))


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the moments of a ``state_dict``. The options of the optimizer stay as they are: learning rates
    follow from the configuration, and ``fused`` from the device, which may differ from that of the saved run.

    Chapter: 10. Raises ValueError for moments of other parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    sizes = [[len(group["params"]) for group in part] for part in (groups, saved["param_groups"])]
    if sizes[0] != sizes[1]:
        raise ValueError(f"optimizer has groups of {sizes[0]} parameters, the checkpoint of {sizes[1]}")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Return the parameter groups of AdamW: state-space dynamics at ``ssm_lr`` without weight decay, all
    other parameters at ``lr``.

    The dynamics are what the method ``ssm_parameters()`` of a module, of any class, returns.

    >>> from sashimi_lib.ssm.s4 import SSMParameters
    >>> groups = parameter_groups(SSMParameters(2), TrainingConfig())
    >>> [(group["full_lr"], len(group["params"])) for group in groups]
    [(0.004, 2), (0.001, 4)]

    Chapter: 6. S4 paper, appendix; SaShiMi paper, appendix C.2.
    """
    slow = {p for module in model.modules() for p in _ssm_parameters(module)}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p not in slow],
            "full_lr": config.lr,
            "weight_decay": config.weight_decay,
        },
        {
            "params": [p for p in trained if p in slow],
            "full_lr": config.ssm_lr,
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def _ssm_parameters(module: nn.Module) -> list[nn.Parameter]:
    method = getattr(type(module), "ssm_parameters", None)  # of the class: a submodule may have that name
    return [] if method is None else method(module)
