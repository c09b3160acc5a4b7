"""The backbone: a frozen encoder -> tokens of every block, summary token first."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from depalm.backbones.files import BackboneError, weight_files
from depalm.files import read_json


class Backbone(nn.Module, ABC):
    """A frozen encoder -> tokens [B, L, T, D] of B inputs from L layers (docs/design.md#backbone).

    Slot 0 of T is the summary token: the class says whether that is CLS, a pooled output, or a
    mean. The patches follow in reading order. With `mean_pool` (`cls_is_mean_pool` of the spec) the
    mean of the other tokens is the summary token instead, as in the paper's runs on single tokens
    of MAViL. `shape` is {"layers": L, "tokens": T, "width": D}.
    """

    def __init__(self, layers: int, tokens: int, width: int, mean_pool: bool = False):
        super().__init__()
        self.shape = {"layers": layers, "tokens": tokens, "width": width}
        self.mean_pool = mean_pool

    def compile_blocks(self) -> None:
        """Compile the blocks of the encoder, as far as it has any. They are alike, so that one of
        them is compiled for all.
        """

    def forward(self, inputs: Tensor) -> Tensor:
        """Decoded inputs of B files, e.g. pixels [B, 3, H, W] -> [B, L, T, D]."""
        return torch.stack(self.layers(inputs), dim=1)

    def layers(self, inputs: Tensor) -> list[Tensor]:
        """As `forward`, but L x [B, T, D], not gathered: extraction keeps few of them."""
        found = self.tokens(inputs)
        return [mean_first(tokens[:, 1:]) for tokens in found] if self.mean_pool else found

    @abstractmethod
    def tokens(self, inputs: Tensor) -> list[Tensor]:
        """-> L x [B, T, D], the output of every block, through the final norm if the model has one
        for it; the class's own summary token first.
        """


class BlockBackbone(Backbone):
    """A transformer whose `blocks` give one sequence each, and whose `norm` ends the last. Of it
    `arranged` makes the T `tokens`.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[nn.Module],
        norm: Callable[[Tensor], Tensor],
        tokens: int,
        width: int,
        mean_pool: bool = False,
    ):
        parts = (tuple(blocks), norm)
        super().__init__(len(parts[0]), tokens, width, mean_pool)
        self.model = model
        self.parts = parts  # in a tuple, so that they are in `model` only

    def compile_blocks(self) -> None:
        for block in self.parts[0]:
            # not the module: its outputs are recorded by hooks, which stay outside
            block.forward = torch.compile(block.forward, dynamic=False)

    def run(self, inputs: Tensor) -> None:
        """The forward pass of the whole model."""
        self.model(inputs)

    def tokens(self, inputs: Tensor) -> list[Tensor]:
        blocks, norm = self.parts
        with recorded(blocks) as outputs:
            self.run(inputs)
        return [self.arranged(norm(output)) for output in outputs]

    def arranged(self, output: Tensor) -> Tensor:
        """The output of a block, through the norm -> [B, T, D]; by default it has CLS first."""
        return output


class PooledBackbone(BlockBackbone):
    """A transformer whose blocks give `prefix` tokens in front of `patches`. The summary token is
    the first of them, if that is CLS (`has_cls`), or else what `pooled` makes of each layer; the
    others, registers, are dropped.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[nn.Module],
        norm: Callable[[Tensor], Tensor],
        patches: int,
        width: int,
        mean_pool: bool = False,
        prefix: int = 0,
        has_cls: bool = False,
    ):
        super().__init__(model, blocks, norm, 1 + patches, width, mean_pool)
        self.prefix, self.has_cls = prefix, has_cls

    def arranged(self, output: Tensor) -> Tensor:
        """[B, prefix + patches, D] -> [B, 1 + patches, D]."""
        if self.has_cls and self.prefix == 1:
            return output
        summary = output[:, 0] if self.has_cls else self.pooled(output)
        return torch.cat((summary.unsqueeze(1), output[:, self.prefix :]), dim=1)

    def pooled(self, tokens: Tensor) -> Tensor:
        """[B, prefix + patches, D] -> [B, D]; by default the mean of the patches."""
        return tokens[:, self.prefix :].mean(dim=1)


@contextmanager
def recorded(blocks: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """The output [B, T, D] of each of `blocks`, as they run within the context."""
    outputs: list[Tensor] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(record) for block in blocks]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def mean_first(tokens: Tensor) -> Tensor:
    """[B, T, D] -> [B, 1 + T, D]: the mean of the tokens before them."""
    return torch.cat((tokens.mean(dim=1, keepdim=True), tokens), dim=1)


def read_weights(weights: Path) -> dict[str, Tensor]:
    """The tensors of all safetensors in a directory. Raises BackboneError."""
    state: dict[str, Tensor] = {}
    for path in weight_files(weights):
        try:
            state |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise BackboneError(
                f"{path} cannot be read ({error}); fetch or convert it again"
            ) from error
    return state


def fill(model: nn.Module, state: Mapping[str, Tensor], name: str, weights: Path) -> None:
    """Load `state` into `model`, every name of either in the other. Raises BackboneError."""
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BackboneError(f"{weights} does not hold the weights of {name}: {error}") from error


def _check_type(kind: Any, weights: Path) -> None:
    """Raise BackboneError if config.json is that of another model than of class `kind`."""
    config = read_json(weights / "config.json")
    found = config.get("model_type") if isinstance(config, dict) else None
    wanted = kind.config_class.model_type  # of a part, such as clip_vision_model, or of the whole
    if found is not None and found not in (wanted, wanted.removesuffix("_vision_model")):
        raise BackboneError(
            f"{weights} holds a {found!r} model, but the loader is for {wanted!r}: correct loader "
            "in the backbone's YAML, or its source"
        )


def load_transformers(kind: Any, weights: Path, **options: Any) -> Any:
    """The model of class `kind` of transformers, from its directory as it is published.

    It may be a part of what is there, such as the vision half of CLIP. Raises BackboneError if the
    directory lacks something or holds another model.
    """
    if not (weights / "config.json").is_file():
        raise BackboneError(f"{weights} holds no config.json; fetch the model again")
    weight_files(weights)
    _check_type(kind, weights)
    try:
        model, report = kind.from_pretrained(
            weights,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BackboneError(f"{weights} holds no {kind.__name__}: {error}") from error
    if report["missing_keys"]:
        raise BackboneError(
            f"{weights} does not hold the weights of a {kind.__name__}: it lacks "
            f"{sorted(report['missing_keys'])}"
        )
    return model
