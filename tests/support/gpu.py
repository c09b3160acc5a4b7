"""Where the tests of tests/gpu run: on the GPU, or as `DEPALM_GPU_TESTS` says (cpu tries the tests
themselves).
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from depalm.llms.base import LLM
from tests.support.tiny import tiny_llm

DEVICE = torch.device(os.environ.get("DEPALM_GPU_TESTS", "cuda"))
CPU = torch.device("cpu")
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="this machine has no GPU"
    ),
]


def llm_on(
    device: torch.device, family: str = "llama", dtype: torch.dtype = torch.float32, **shape: Any
) -> LLM:
    """The same weights on every device."""
    llm = tiny_llm(family, **shape)
    llm.model.to(device, dtype)
    return llm


def error(ours: Tensor, reference: Tensor) -> float:
    """|ours - reference| / |reference|."""
    return float((ours.cpu().double() - reference.cpu().double()).norm() / reference.norm())
