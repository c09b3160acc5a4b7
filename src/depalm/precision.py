"""The precision in which frozen encoders and adapters compute (docs/methods.md#precision)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@contextmanager
def float32_products(compute: str, device: torch.device | str) -> Iterator[None]:
    """Float32 matrix products and convolutions on a GPU by TF32 (unless `compute` is "float32")
    inside the context, also those of a backward pass. A CPU has no TF32.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if compute == "float32" else "high")
    try:
        with torch.backends.cudnn.flags(allow_tf32=compute != "float32"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(compute: str, device: torch.device | str) -> AbstractContextManager[Any]:
    """Matrix products in half precision inside the context, if `compute` is one; sums, norms and
    weights stay float32.
    """
    if compute not in HALVES:
        return nullcontext()
    return torch.autocast(torch.device(device).type, HALVES[compute])


def autocasting(
    function: Callable[..., Tensor], compute: str, device: torch.device | str
) -> Callable[..., Tensor]:
    """`function`, called in `autocast`."""

    def called(*arguments: Tensor) -> Tensor:
        with autocast(compute, device):
            return function(*arguments)

    return called if compute in HALVES else function


def on_its_way(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; to a GPU it is copied while the processor goes on."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
