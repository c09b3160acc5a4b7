"""The adapter of a method: the only thing that is trained, saved and loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from depalm.connectors import NORMS, Connector, CrossAttention
from depalm.files import atomic_file, read_json, write_json
from depalm.injection import Injection


class AdapterError(ValueError):
    """A method that does not fit its backbone or LLM, or a checkpoint made for others."""


def select_layers(available: int, layers: Mapping[str, int]) -> list[int]:
    """Layer indices out of `available` layers; negative indices count from the end.

    Either ``{count, stride, end}``: `count` layers (1), `stride` apart (1), the last of which is
    `end` (-1), so that ``count: 6, end: -4`` of 32 layers is 23..28; or ``{from, to, stride}``,
    both included. Raises AdapterError if one lies outside or none is left.
    """

    def index(value: int) -> int:
        return value + available if value < 0 else value

    stride = layers.get("stride", 1)
    if "from" in layers:
        chosen = list(range(index(layers["from"]), index(layers.get("to", -1)) + 1, stride))
    else:
        end, count = index(layers.get("end", -1)), layers.get("count", 1)
        chosen = [end - stride * i for i in reversed(range(count))]
    if not chosen or chosen[0] < 0 or chosen[-1] >= available:
        raise AdapterError(f"layers {dict(layers)} do not fit into {available} layers")
    return chosen


class TokenScale(nn.Module):
    """What each target layer does to its tokens [B, K, D]: norm, then a learned scale and bias."""

    def __init__(self, width: int, norm: str, scale: bool, bias: bool, gate: bool):
        super().__init__()
        self.norm = NORMS[norm](width)
        self.scale = nn.Parameter(torch.ones(width)) if scale else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.gate = nn.Parameter(torch.zeros(1)) if gate else None

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        if self.scale is not None:
            tokens = tokens * self.scale
        if self.bias is not None:
            tokens = tokens + self.bias
        return tokens if self.gate is None else tokens * torch.tanh(self.gate)


class Adapter(nn.Module):
    """A method (config/methods/*.yaml) between a backbone and an LLM of the given shapes.

    Everything in it is float32 and trainable. `source_layers` are the backbone layers that it
    reads, `target_layers` the LLM layers it acts on. Raises AdapterError or ConnectorError for a
    method that does not fit them.
    """

    def __init__(
        self,
        method: Mapping[str, Any],
        backbone_shape: Mapping[str, int],
        llm_shape: Mapping[str, int],
    ):
        super().__init__()
        self.inject: Mapping[str, Any] = method["inject"]
        self.kept: str = method.get("tokens", "all")
        self.merge: str | None = method.get("merge")
        self.source_layers: list[int] = []
        self.target_layers: list[int] = []
        width, layers = llm_shape["width"], llm_shape["layers"]
        if self.inject["at"] != "none":
            self.source_layers = select_layers(backbone_shape["layers"], method.get("source", {}))
            self.target_layers = (
                [0]
                if self.inject["at"] == "l0"
                else select_layers(layers, self.inject.get("targets", {}))
            )
            self._build_connectors(method, backbone_shape, width)
        count = method.get("prompt_tokens", 0)
        self.prompt = nn.Parameter(torch.randn(count, width)) if count else None
        self.layer_prompts = None
        if count and method.get("prompt_at") == "every_layer":
            self.layer_prompts = nn.Parameter(torch.randn(layers - 1, count, width))

    def _build_connectors(
        self, method: Mapping[str, Any], backbone_shape: Mapping[str, int], llm_width: int
    ) -> None:
        inject = self.inject
        options = dict(method.get("connector") or {})
        shared = options.pop("shared", True)
        output: int = llm_width
        if options.get("adapter_dim") == "llm":
            options["adapter_dim"] = llm_width
        if inject["at"] == "cross_attention":
            output = inject.get("width") or options.get("adapter_dim") or backbone_shape["width"]
            cross = {key: inject[key] for key in ("heads", "gate") if key in inject}
            self.cross_attention = CrossAttention(output, llm_width, **cross)
        sources = 1 if self.merge else len(self.source_layers)
        merged = len(self.source_layers) if self.merge == "concat" else 1
        tokens = {"all": backbone_shape["tokens"], "patches": backbone_shape["tokens"] - 1}
        self.connectors = nn.ModuleList(
            Connector(backbone_shape["width"] * merged, output, tokens.get(self.kept, 1), **options)
            for _ in range(1 if shared else sources)
        )
        scaling = {
            "norm": inject.get("token_norm", "none"),
            **{key: inject.get(key, False) for key in ("scale", "bias", "gate")},
        }
        self.scales = nn.ModuleList()
        if inject["at"] != "cross_attention" and (
            scaling["norm"] != "none" or any(scaling[key] for key in ("scale", "bias", "gate"))
        ):
            self.scales.extend(TokenScale(llm_width, **scaling) for _ in self.target_layers)

    @property
    def cls_only(self) -> bool:
        """Whether the CLS tokens suffice, of which the cache holds those of every layer."""
        return self.kept == "cls"

    @property
    def trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, features: Tensor | None) -> Injection:
        """Features of the source layers [B, L, T, D] (T = 1: CLS only) -> what the LLM receives.

        A method that reads no layer takes None. Each source goes through its connector once,
        however many targets read it; target i of n reads source (i * sources) // n.
        """
        prompts: dict[int, Tensor] = {}
        if self.layer_prompts is not None:
            prompts = dict(enumerate(self.layer_prompts, start=1))
        if features is None or not self.source_layers:
            return Injection(prompt=self.prompt, layer_prompts=prompts)
        sources = [
            self.connectors[i % len(self.connectors)](tokens, i)
            for i, tokens in enumerate(self._sources(features.float()))
        ]
        count = len(self.target_layers)
        read = {t: (i * len(sources)) // count for i, t in enumerate(self.target_layers)}
        if self.inject["at"] == "cross_attention":
            pairs = [self.cross_attention.keys_values(tokens) for tokens in sources]
            return Injection(
                prompt=self.prompt,
                layer_prompts=prompts,
                cross={target: pairs[source] for target, source in read.items()},
                reader=self.cross_attention,
            )
        tokens = {target: sources[source] for target, source in read.items()}
        for scale, target in zip(self.scales, self.target_layers, strict=False):
            tokens[target] = scale(tokens[target])
        last = (
            None if self.inject.get("keep", self.inject["at"] == "l0") else self.target_layers[-1]
        )
        return Injection(tokens, last, self.prompt, prompts)

    def _sources(self, features: Tensor) -> list[Tensor]:
        """[B, L, T, D] -> the tokens that are kept of each source, or of all sources merged."""
        if self.kept == "patches":
            features = features[:, :, 1:]
        if self.merge == "mean":
            return [features.mean(dim=1)]
        if self.merge == "concat":
            return [features.transpose(1, 2).flatten(2)]  # [B, T, L D]
        return list(features.unbind(dim=1))


def save_adapter(
    adapter: Adapter, weights: Path, config_path: Path, config: Mapping[str, Any]
) -> None:
    """Write the adapter's tensors (safetensors) and, as JSON, what it was made for."""
    tensors = {name: value.cpu().contiguous() for name, value in adapter.state_dict().items()}
    with atomic_file(weights) as temporary:
        save_file(tensors, temporary)
    write_json(config_path, {**config, "trainable_parameters": adapter.trainable_parameters})


def load_adapter(
    weights: Path, config_path: Path, expected: Mapping[str, Any], device: torch.device | str
) -> Adapter:
    """Read back an adapter made for the method, backbone and LLM of `expected`.

    Raises AdapterError naming the first part that differs from what the checkpoint was trained
    with.
    """
    config = read_json(config_path)
    for part in ("method", "backbone", "llm"):
        if config[part] != json.loads(json.dumps(expected[part])):
            raise AdapterError(
                f"{weights} was trained with {part} {config[part]}, not with {expected[part]}"
            )
    adapter = Adapter(config["method"], config["backbone"]["shape"], config["llm"]["shape"])
    adapter.load_state_dict(load_file(weights))
    return adapter.to(device)
