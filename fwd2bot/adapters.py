"""Stage-specific LoRA (Sec. 3.5): one linear layer, a pair of low-rank matrices for each stage, one switch for all.

The switch is a `threading.local`, so threads that use one model in different stages do not meet, and torch.compile
traces it (it cannot trace a ContextVar). Files have PEFT's layout: `peft.PeftModel.from_pretrained` loads them.
"""

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fwd2bot.errors import ModelError

COMPRESS, GENERATE = "compress", "generate"
_MARK = ".lora."
_OTHER_SCALES = ("use_rslora", "alpha_pattern", "rank_pattern")
"""Of an adapter_config.json: what makes a layer's scale something else than lora_alpha / r."""


class _Current(threading.local):
    stage: str | None = None


_current = _Current()


@contextmanager
def stage(name: str | None) -> Iterator[None]:
    """Within the block every adapted layer uses the adapter of this stage; None is the plain model."""
    previous, _current.stage = _current.stage, name
    try:
        yield
    finally:
        _current.stage = previous


def recompute_in_stage(name: str | None) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The pair that torch.utils.checkpoint's `context_fn` wants: backward recomputes in the stage of the forward.

    Without it pass 1 would be recomputed in whatever stage, and whatever thread, backward happens to be in.
    """
    return nullcontext(), stage(name)


class LowRank(nn.Module):
    """x -> scale * up(down(x)); starts at zero. down (R, in), up (out, R)."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        device = linear.weight.device
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, linear.in_features, device=device))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def product(self, dtype: torch.dtype | None = None) -> Tensor:
        """What the adapter adds to the weight: (out, in), computed in its own type or another."""
        return self.up.to(dtype) @ self.down.to(dtype) * self.scale

    def forward(self, inputs: Tensor) -> Tensor:
        low = F.linear(inputs, self.down.to(inputs.dtype)) * self.scale
        return F.linear(low, self.up.to(low.dtype))


class StageLinear(nn.Linear):
    """A linear layer that keeps its weight and its name, plus one `LowRank` for each adapter.

    `routes` says which adapter a stage uses: {"compress": "compress", "generate": "generate"}, or both "shared".
    """

    def __init__(self, linear: nn.Linear, routes: Mapping[str, str], rank: int, alpha: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.routes = dict(routes)
        self.lora = nn.ModuleDict({name: LowRank(linear, rank, alpha) for name in dict.fromkeys(routes.values())})
        self.folded: dict[str | None, Tensor] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        if self.folded:
            return F.linear(inputs, self.folded.get(_current.stage, self.weight), self.bias)
        outputs = F.linear(inputs, self.weight, self.bias)
        adapter = self.routes.get(_current.stage) if _current.stage is not None else None
        if adapter is None:
            return outputs
        change: Tensor = self.lora[adapter](inputs)
        return outputs + change

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StageLinear":
        """`to`, `half` and the like take the copies with them."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no types for it
        moved = {id(weight): fn(weight) for weight in self.folded.values()}  # stages may share one
        self.folded = {stage: moved[id(weight)] for stage, weight in self.folded.items()}
        return self

    def low_ranks(self) -> dict[str, LowRank]:
        """The adapters by name."""
        return {name: module for name, module in self.lora.items() if isinstance(module, LowRank)}


def attach(root: nn.Module, below: str, routes: Mapping[str, str], rank: int, alpha: float) -> None:
    """Replaces every linear layer under the module path `below` by a `StageLinear`; no routes, nothing to do."""
    if not routes:
        return
    parent = root.get_submodule(below)
    paths = [path for path, module in parent.named_modules() if type(module) is nn.Linear]
    for path in paths:
        linear = parent.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        parent.set_submodule(path, StageLinear(linear, routes, rank, alpha))


@torch.no_grad()
def fold(root: nn.Module) -> None:
    """For inference: a copy of every adapted weight with the adapter added, for each stage.

    Faster by two products a layer, at the price of the copies. The adapters themselves stay, but are not used.
    """
    for module in root.modules():
        if isinstance(module, StageLinear):
            sums = {name: module.weight + low_rank.product() for name, low_rank in module.low_ranks().items()}
            module.folded = {stage: sums[name] for stage, name in module.routes.items()}


def unfold(root: nn.Module) -> None:
    """Without the copies: adapters count as they are, and as they become."""
    for module in root.modules():
        if isinstance(module, StageLinear):
            module.folded = {}


def adapter_names(root: nn.Module) -> list[str]:
    """The adapters that are attached, in order."""
    layers = (module for module in root.modules() if isinstance(module, StageLinear))
    return list(dict.fromkeys(name for layer in layers for name in layer.lora))


def adapter_parameters(root: nn.Module) -> dict[str, nn.Parameter]:
    """Every low-rank matrix by its path."""
    return {path: parameter for path, parameter in root.named_parameters() if _MARK in path}


def without_adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as it was before `attach`."""
    return {path: tensor for path, tensor in state.items() if _MARK not in path}


def save_adapter(root: nn.Module, name: str, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Writes one adapter as PEFT does: adapter_config.json and adapter_model.safetensors."""
    layers = _layers_with(root, name)
    tensors, some = {}, next(iter(layers.values()))
    for path, low_rank in layers.items():
        for key, parameter in (("lora_A", low_rank.down), ("lora_B", low_rank.up)):
            tensors[f"base_model.model.{path}.{key}.weight"] = parameter.detach().to("cpu", dtype).contiguous()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": some.scale * some.down.shape[0],
        "lora_dropout": 0.0,
        "r": some.down.shape[0],
        "target_modules": list(layers),
        "task_type": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_adapter(root: nn.Module, name: str, folder: Path) -> None:
    """Fills one attached adapter from a folder in PEFT's layout.

    Its alpha is taken over, and what was folded is unfolded. Raises ModelError when a file is missing or damaged, when
    layers or rank are not the attached ones, or when PEFT would scale its layers by more than one alpha and one rank.
    """
    layers = _layers_with(root, name)
    unfold(root)
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        tensors, scale = load_file(folder / "adapter_model.safetensors"), float(config["lora_alpha"]) / int(config["r"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"The adapter in {folder} cannot be read ({error}); save or download it again.") from error
    if scaled := next((name for name in _OTHER_SCALES if config.get(name)), None):
        raise ModelError(f"The adapter in {folder} is scaled by {scaled}, which is not read here; train it without.")
    wanted = {
        f"base_model.model.{path}.{key}.weight": parameter
        for path, low_rank in layers.items()
        for key, parameter in (("lora_A", low_rank.down), ("lora_B", low_rank.up))
    }
    if wanted.keys() != tensors.keys():
        odd = sorted(wanted.keys() ^ tensors.keys())[0]
        raise ModelError(f"The adapter in {folder} is made for other layers than this model's: see {odd}.")
    for key, parameter in wanted.items():
        if parameter.shape != tensors[key].shape:
            got, expected = tuple(tensors[key].shape), tuple(parameter.shape)
            raise ModelError(f"The adapter in {folder} does not fit: {key} is {got}, this model needs {expected}.")
        with torch.no_grad():
            parameter.copy_(tensors[key])
    for low_rank in layers.values():
        low_rank.scale = scale


def _layers_with(root: nn.Module, name: str) -> dict[str, LowRank]:
    found: dict[str, LowRank] = {}
    for path, module in root.named_modules():
        if isinstance(module, StageLinear) and name in module.lora:
            found[path] = module.low_ranks()[name]
    assert found, f"no layer carries an adapter {name!r}"
    return found
