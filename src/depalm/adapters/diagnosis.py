"""Why a computation with an adapter and a frozen LLM gave numbers that are not finite."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.errors import shortened
from depalm.llms.base import LLM


def cause(llm: LLM, adapter: Adapter, features: Tensor | None, media: Sequence[str]) -> str | None:
    """The part that is not finite, and the remedy; None if no input or weight is at fault.

    `features` [B, L, T, D] are those of `media` that `adapter` reads, None if it reads none.
    """
    if features is not None:
        bad = [name for name, row in zip(media, features, strict=True) if not _finite(row)]
        if bad:
            return (
                f"the features of {shortened(bad)} are not finite: extract them again; if that "
                "does not help, the backbone's weights are damaged"
            )
    if name := _first_bad(adapter.state_dict()):
        return f"the adapter's {name} is not finite: train it again, with a lower lr"
    if name := _first_bad(llm.model.state_dict()):
        return (
            f"the LLM's {name} is not finite in {_dtype(llm)}: set a dtype that holds it, or get "
            "the model again if it is damaged"
        )
    with torch.no_grad():
        injected = adapter(features)
    crossed = (part for pair in injected.cross.values() for part in pair)
    if not all(map(_finite, [*injected.tokens.values(), *crossed])):
        return "what the adapter makes of the features overflows: train it again, with a lower lr"
    if llm.dtype == torch.float16:
        return "the LLM overflows in float16: set dtype to bfloat16 or float32"
    return None


def _first_bad(tensors: Mapping[str, Tensor]) -> str | None:
    return next((name for name, tensor in tensors.items() if not _finite(tensor)), None)


def _finite(tensor: Tensor) -> bool:
    # of a sharded LLM this process's part: the others may not be asking
    part = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return bool(part.isfinite().all())


def _dtype(llm: LLM) -> str:
    return str(llm.dtype).removeprefix("torch.")
