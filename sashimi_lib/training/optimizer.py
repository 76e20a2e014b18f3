"""The optimizer: AdamW, with a learning rate of its own for state-space dynamics, and optionally Muon for the
matrices between hidden channels."""

from typing import Any

import torch
from torch import nn

from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.muon import MuonAdamW, hidden_matrices


def fused(device: torch.device) -> bool:
    """Return whether to use the fused AdamW, which updates all parameters in one kernel: on a GPU.

    >>> fused(torch.device("cpu"))
    False
    """
    return device.type == "cuda"


def new_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over `parameter_groups`, or with ``config.muon_lr``
    `sashimi_lib.training.muon.MuonAdamW`.

    >>> new_optimizer(nn.Linear(2, 2), TrainingConfig()).param_groups[0]["fused"]
    False

    Chapters: 6 and 10. Raises ValueError for ``muon_lr`` with a model without a backbone.
    """
    kind = torch.optim.AdamW if config.muon_lr is None else MuonAdamW
    return kind(parameter_groups(model, config), fused=fused(next(model.parameters()).device))


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
    """Return the parameter groups of the optimizer: hidden matrices at ``muon_lr``, if that is set
    (`sashimi_lib.training.muon.hidden_matrices`), state-space dynamics at ``ssm_lr`` without weight decay,
    and all other parameters at ``lr``.

    The dynamics are what the method ``ssm_parameters()`` of a module, of any class, returns.

    >>> from sashimi_lib.ssm.s4 import SSMParameters
    >>> groups = parameter_groups(SSMParameters(2), TrainingConfig())
    >>> [(group["full_lr"], len(group["params"])) for group in groups]
    [(0.004, 2), (0.001, 4)]

    Chapters: 6 and 10. S4 paper, appendix; SaShiMi paper, appendix C.2.
    """
    slow = {p for module in model.modules() for p in _ssm_parameters(module)}
    matrices = set() if config.muon_lr is None else set(hidden_matrices(model))
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = config.weight_decay
    groups = [
        _group([p for p in trained if p not in slow | matrices], config.lr, decay),
        _group([p for p in trained if p in slow], config.ssm_lr, 0.0),
    ]
    if config.muon_lr is not None:
        groups.append(_group([p for p in trained if p in matrices], config.muon_lr, decay) | {"muon": True})
    return [group for group in groups if group["params"]]


def _group(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> dict[str, Any]:
    return {"params": parameters, "full_lr": lr, "weight_decay": weight_decay}


def _ssm_parameters(module: nn.Module) -> list[nn.Parameter]:
    method = getattr(type(module), "ssm_parameters", None)  # of the class: a submodule may have that name
    return [] if method is None else method(module)
