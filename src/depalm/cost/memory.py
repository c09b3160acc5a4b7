"""The memory of a job on the device that computes, in bytes: weights, optimizer, activations.

What libraries take besides, the fragments of an allocator and the batches on their way are one
constant. Right within a factor of two.
"""

from depalm.config.plan import RunPlan
from depalm.cost.counts import Rows
from depalm.cost.work import (
    LAYER_WEIGHTS,
    AdapterWork,
    backbone_weights,
    llm_weights,
    positions_beside,
)
from depalm.specs import BackboneShape, LLMSpec

BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}
BASE = 1e9  # torch, its kernels, and what is on its way
KEPT = 16  # values of the width that a layer keeps of a position for the backward pass
HEAD = 64  # width of an attention head
OPTIMIZED = 16  # bytes of a weight in training: itself, its gradient, two moments
ENCODED = 64  # files at a time, where `batch_size: auto` decides


def of_encoder(shape: BackboneShape, batch: int | str) -> float:
    files = ENCODED if batch == "auto" else int(batch)
    return BASE + 4.0 * (
        backbone_weights(shape) + files * shape.tokens * shape.width * (KEPT + shape.layers)
    )


def of_llm(llm: LLMSpec, size: int) -> float:
    """The weights of an LLM, `size` bytes each where they are not quantized."""
    in_layers = LAYER_WEIGHTS * llm.shape.layers * llm.shape.width**2
    of_layers = {None: size, "int8": 1, "int4": 0.5}[llm.quantize]
    return of_layers * in_layers + size * (llm_weights(llm) - in_layers)


def of_training(plan: RunPlan, adapter: AdapterWork, text: float, device: str) -> float:
    """Of a step's batch, all of which goes through the LLM at once."""
    shape, size = plan.llm.shape, BYTES[plan.train.dtype]
    texts = text * plan.train.texts_per_image
    positions = texts + adapter.tokens + positions_beside(plan.method, plan.llm)
    layer = KEPT * positions * shape.width
    if device == "cpu":  # whose attention keeps its matrices
        layer += 2 * positions**2 * shape.width / HEAD
    sources = 0.0
    if plan.layout.sources is not None:
        read = plan.layout.sources
        sources = read.count * read.tokens * read.width * KEPT
    batch = plan.train.batch_size * (size * shape.layers * layer + 4.0 * sources)
    return BASE + of_llm(plan.llm, size) + OPTIMIZED * adapter.parameters + batch


def of_generation(plan: RunPlan, adapter: AdapterWork, rows: Rows, batch: int, dtype: str) -> float:
    """Keys and values of every beam, and the activations of a prefill."""
    shape, size = plan.llm.shape, BYTES[dtype]
    positions = rows.text + adapter.tokens + positions_beside(plan.method, plan.llm)
    cache = 2.0 * shape.layers * positions * shape.width
    return (
        BASE
        + of_llm(plan.llm, size)
        + 4.0 * adapter.parameters
        + batch * size * (cache + KEPT * positions * shape.width)
    )
