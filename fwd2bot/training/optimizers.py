"""Muon for the weight matrices of hidden layers, AdamW for everything else; their state as flat named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fwd2bot.training.config import TrainConfig

_EMBEDDINGS = ("embed", "lm_head", "position", "class_embedding", "projector")


def build_optimizers(config: TrainConfig, named: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Optimizers over the parameters that want gradients."""
    matrices = [p for name, p in named.items() if p.ndim == 2 and not any(word in name for word in _EMBEDDINGS)]
    chosen = {id(p) for p in matrices} if config.optimizer == "muon" else set()
    rest = [p for p in named.values() if id(p) not in chosen]
    other_rate = config.other_learning_rate if config.optimizer == "muon" else config.learning_rate
    built: list[torch.optim.Optimizer] = []
    if chosen:
        built.append(
            torch.optim.Muon(
                matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    if rest:
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        built.append(torch.optim.AdamW(rest, lr=other_rate, betas=(0.9, config.beta2), weight_decay=decay))
    for optimizer in built:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return built


def begin_state(optimizers: list[torch.optim.Optimizer]) -> None:
    """Make room for the state of every parameter, as a first step would, and leave the weights as they are."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.0
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def rate_at(step: int, config: TrainConfig) -> float:
    """Share of the full learning rate at a step: linear rise, flat, linear fall to zero."""
    done = step / config.steps
    rise = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
    return min(rise, (1.0 - done) / config.cooldown if config.cooldown else 1.0)


def set_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Set every group's learning rate to its share."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * share


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All state as `optimizer.number.parameter.number.name` -> tensor."""
    flat = {}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                flat[f"optimizer.{number}.{index}.{name}"] = torch.as_tensor(value)
    return flat


def load_optimizer_tensors(optimizers: list[torch.optim.Optimizer], flat: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    for number, optimizer in enumerate(optimizers):
        whole = optimizer.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        mine = f"optimizer.{number}."
        for key, value in flat.items():
            if key.startswith(mine):
                index, name = key.removeprefix(mine).split(".", 1)
                state.setdefault(int(index), {})[name] = value
        whole["state"] = state
        optimizer.load_state_dict(whole)
