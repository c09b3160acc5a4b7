"""Tuning of a frozen model beside the adapter: a scale and a bias behind its Linears and norms."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from depalm.adapters.errors import AdapterError


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


class Tuning(nn.Module):
    """The trainable part of tuning `model`, which itself stays frozen and unchanged.

    linears: a scale and a bias for the output of every Linear ("bias tuning" of the paper, after
        LLaMA-Adapter V2). Of an nn.MultiheadAttention it is the last one: it has no others.
    norms: a scale, and a bias where the norm has one, for the output of every norm: with the frozen
        weights these are the weights that unfreezing the norm would train.

    Raises AdapterError if the model has none of what is asked for.
    """

    def __init__(self, model: nn.Module, linears: bool = False, norms: bool = False):
        super().__init__()
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
                self.parts[key] = Affine(weight.shape[0], bias)
        for kind, asked in (("linears", linears), ("norms", norms)):
            if asked and not found[kind]:
                raise AdapterError(f"{type(model).__name__} has no {kind} to tune")

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Let `model`, of the same architecture, run with this tuning until the handles are
        removed.
        """
        return [
            model.get_submodule(name).register_forward_hook(_behind(self.parts[key]))
            for key, name in self.names.items()
        ]


def _behind(part: nn.Module) -> Callable[[nn.Module, object, Any], Any]:
    def hook(module: nn.Module, inputs: object, output: Any) -> Any:  # noqa: ARG001
        if isinstance(output, tuple):  # of attention: its weights come second
            return (part(output[0]), *output[1:])
        return part(output)

    return hook
