"""Tuning of a frozen model beside the adapter: a scale and a bias behind its Linears and norms."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Affine(nn.Module):
    """output -> output * scale + bias, which starts as the identity."""

    def __init__(self, width: int, bias: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, output: Tensor) -> Tensor:
        output = output * self.scale.to(output.dtype)
        return output if self.bias is None else output + self.bias.to(output.dtype)


class Tuning(nn.Module):
    """The trainable part of tuning `model`, which itself stays frozen and unchanged.

    linears: a scale and a bias for the output of every Linear ("bias tuning" of the paper).
    norms: a scale, and a bias where the norm has one, for the output of every norm: with the frozen
        weights these are the weights that unfreezing the norm would train.
    """

    def __init__(self, model: nn.Module, linears: bool, norms: bool):
        super().__init__()
        self.names: dict[str, str] = {}
        self.parts = nn.ModuleDict()
        for name, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if weight is None:
                continue
            is_linear, is_norm = isinstance(module, nn.Linear), weight.dim() == 1
            if (is_linear and linears) or (is_norm and norms):
                width = weight.shape[0]
                bias = is_linear or getattr(module, "bias", None) is not None
                key = name.replace(".", "-")  # a module's name must not have dots
                self.names[key] = name
                self.parts[key] = Affine(width, bias)

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Let `model`, of the same architecture, run with this tuning until the handles are
        removed.
        """
        return [
            model.get_submodule(name).register_forward_hook(_behind(self.parts[key]))
            for key, name in self.names.items()
        ]


def _behind(part: nn.Module):  # type: ignore[no-untyped-def]
    def hook(module: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> Tensor:  # noqa: ARG001
        return part(output)

    return hook


def build_tuning(model: nn.Module, options: Mapping[str, bool]) -> Tuning | None:
    """The tuning that the `finetune` options {"linears", "norms"} ask for; None if they ask
    nothing.
    """
    linears, norms = options.get("linears", False), options.get("norms", False)
    return Tuning(model, linears, norms) if linears or norms else None
