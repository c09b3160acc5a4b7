"""Tuning of a frozen model beside the adapter: a scale and a bias behind its Linears and norms, and
LoRA.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.hooks import RemovableHandle

from depalm.adapters.errors import AdapterError
from depalm.specs import LoRASpec, TuningSpec

Hook = Callable[[nn.Module, Any, Any], Any]


class Affine(nn.Module):
    """output -> output * (1 + scale) + bias; both start at 0, where weight decay draws them to."""

    def __init__(self, width: int, bias: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, output: Tensor) -> Tensor:
        tuned = output * (
            1 + self.scale
        )  # in float32: half precision knows little between 1 and 1.01
        if self.bias is not None:
            tuned = tuned + self.bias
        return tuned.to(output.dtype)


class LoRA(nn.Module):
    """output + alpha / rank * B A input (Hu et al. 2021), of a Linear from `inputs` to `outputs`.

    A [rank, inputs] starts as a Linear's weights do, B [outputs, rank] at 0, as in peft.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float):
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """[..., inputs], [..., outputs] -> [..., outputs]; what is added is computed in float32."""
        added = linear(linear(inputs.to(self.a.dtype), self.a), self.b) * self.scale
        return output + added.to(output.dtype)


class Tuning(nn.Module):
    """The trainable part of tuning `model`, which itself stays frozen and unchanged.

    linears: a scale and a bias for the output of every Linear ("bias tuning" of the paper, after
        LLaMA-Adapter V2). Of an nn.MultiheadAttention it is the last one: it has no others.
    norms: a scale, and a bias where the norm has one, for the output of every norm: with the frozen
        weights these are the weights that unfreezing the norm would train.
    lora: a change of low rank for every Linear whose name ends with one of its `targets`.

    Raises AdapterError if the model has none of what is asked for.
    """

    def __init__(self, model: nn.Module, spec: TuningSpec):
        super().__init__()
        linears, norms = spec.linears, spec.norms
        self.names: dict[str, str] = {}
        self.parts = nn.ModuleDict()
        found = {"linears": False, "norms": False}
        for name, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if not isinstance(weight, Tensor):
                continue
            is_linear, is_norm = isinstance(module, nn.Linear), weight.dim() == 1
            if (is_linear and linears) or (is_norm and norms):
                found["linears" if is_linear else "norms"] = True
                bias = is_linear or getattr(module, "bias", None) is not None
                above = name.rpartition(".")[0]
                if isinstance(model.get_submodule(above), nn.MultiheadAttention):
                    name = above  # it does not call its Linear, but that one's output is its own
                key = name.replace(".", "-")  # a module's name must not have dots
                self.names[key] = name
                width = module.out_features if isinstance(module, nn.Linear) else len(weight)
                self.parts[key] = Affine(width, bias)
        for kind, asked in (("linears", linears), ("norms", norms)):
            if asked and not found[kind]:
                raise AdapterError(f"{type(model).__name__} has no {kind} to tune")
        self.loras = nn.ModuleDict()
        if spec.lora is not None:
            self._add_loras(model, spec.lora)

    def _add_loras(self, model: nn.Module, spec: LoRASpec) -> None:
        known = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        for target in spec.targets:
            found = [name for name in known if name.rpartition(".")[2] == target]
            if not found:
                there = sorted({name.rpartition(".")[2] for name in known})
                raise AdapterError(
                    f"lora: {type(model).__name__} has no Linear {target!r}; it has "
                    f"{', '.join(there)}"
                )
            for name in found:
                if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention):
                    raise AdapterError(
                        f"lora: {name} is never called: its attention uses its weights"
                    )
                sizes = known[name].in_features, known[name].out_features
                key = name.replace(".", "-")
                self.names[key] = name
                self.loras[key] = LoRA(*sizes, spec.rank, spec.alpha)

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Let `model`, of the same architecture, run with this tuning until the handles are
        removed.
        """
        hooks = [(key, _beside(part)) for key, part in self.loras.items()]
        hooks += [(key, _behind(part)) for key, part in self.parts.items()]
        return [
            model.get_submodule(self.names[key]).register_forward_hook(hook) for key, hook in hooks
        ]


def _behind(part: nn.Module) -> Hook:
    def hook(module: nn.Module, inputs: object, output: Any) -> Any:  # noqa: ARG001
        if isinstance(output, tuple):  # of attention: its weights come second
            return (part(output[0]), *output[1:])
        return part(output)

    return hook


def _beside(part: nn.Module) -> Hook:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
        return part(inputs[0], output)

    return hook
