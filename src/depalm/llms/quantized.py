"""A frozen LLM whose layers hold their weights in 8 or 4 bits, by bitsandbytes.

int8 is LLM.int8() (Dettmers et al. 2022): weights by row, inputs by token, and what stands out of
either in the LLM's precision. int4 is the normal float of QLoRA (nf4; Dettmers et al. 2023), in
blocks of 64 weights. Gradients pass through both. Embedding, norms and output embedding stay.
"""

from typing import Any

import torch
from torch import nn

from depalm.llms.base import LLM, LLMError


def quantize(llm: LLM, kind: str, device: torch.device | str) -> None:
    """Let every Linear in the layers of `llm` hold `kind` (int8, int4), and move it to `device`,
    layer by layer. Raises LLMError without bitsandbytes, or if there is no Linear.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise LLMError(
            "quantize needs bitsandbytes; in the root of the checkout: "
            "pip install -c constraints.txt -e '.[quantize]'"
        ) from error
    count = 0
    for layer in llm.layers:
        linears = [name for name, part in layer.named_modules() if type(part) is nn.Linear]
        for name in linears:
            above, _, last = name.rpartition(".")
            linear = layer.get_submodule(name)
            setattr(layer.get_submodule(above), last, _smaller(bitsandbytes.nn, linear, kind))
        layer.to(device)  # which makes the weights small
        count += len(linears)
    if not count:
        raise LLMError(f"{llm.model.config.model_type!r} has no Linear in its layers to quantize")
    llm.model.to(device).requires_grad_(False)


def _smaller(library: Any, linear: Any, kind: str) -> nn.Module:
    """The Linear of bitsandbytes with these weights."""
    sizes = linear.in_features, linear.out_features, linear.bias is not None
    made: nn.Module = (
        library.Linear8bitLt(*sizes, has_fp16_weights=False)
        if kind == "int8"
        else library.Linear4bit(*sizes, compute_dtype=linear.weight.dtype, quant_type="nf4")
    )
    made.load_state_dict(linear.state_dict())
    # else a processor with bfloat16 units reorders the weights where no gradient is asked for, in
    # place, and none passes through them any more
    made.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return made.eval()
