"""What a GPU does in extraction, training and generation, and what it could do.

The LLM has LLaMA-7B's shape and random weights in bfloat16, the backbone is ViT-L/14. Baselines and
limits are measured in the same run: the bare forward pass of the backbone in each precision, the
paper's design of a training step (backbone in the loop, logits at all positions), and a matrix
product. A training step is worth 4 N FLOP a position: a forward pass of the frozen LLM of N
parameters, and a backward pass to its inputs alone.

Usage: python bench/gpu.py [cuda|cpu]; cpu takes tiny shapes, to try the script itself.
"""

import sys
import time
from collections.abc import Callable
from statistics import median, stdev

import timm
import torch
from setting import method, random_llm
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from depalm import __version__
from depalm.adapters.adapter import Adapter
from depalm.backbones.vision import TimmViT
from depalm.generation.generate import beam_search, pad_left
from depalm.llms.base import LLM
from depalm.llms.injection import hidden_states
from depalm.precision import autocast, float32_products
from depalm.provenance import device_name
from depalm.specs import TrainSpec
from depalm.specs.backbone import BackboneShape
from depalm.specs.llm import LLMShape
from depalm.specs.settings import GenerateSpec
from depalm.training.batches import IGNORED, Batch
from depalm.training.loop import answer_loss, attention_on, new_optimizer

METHODS = ("qp_l0", "qp_inner", "limber_all")
PROMPT, ANSWER = 14, 6
TINY = {
    "layers": 32,
    "width": 64,
    "intermediate": 128,
    "vit": "vit_tiny_patch16_224",
    "matrix": 256,
}
FULL = {
    "layers": 32,
    "width": 4096,
    "intermediate": 11008,
    "vit": "vit_large_patch14_224",
    "matrix": 8192,
}


def main(name: str) -> None:
    device = torch.device(name)
    sizes = FULL if device.type == "cuda" else TINY
    print(f"{device_name(device)}, torch {torch.__version__}, depalm {__version__}\n")
    print("| what | ours | beside it | ratio |\n| :-- | --: | :-- | --: |")
    peak = limits(device, int(sizes["matrix"]))
    vit = extraction(device, str(sizes["vit"]))
    shape = BackboneShape.model_validate(vit.shape)
    llm = large_llm(device, sizes)
    for kind in METHODS:
        training(kind, llm, vit, shape, device, peak)
    for kind in METHODS[:2]:
        for batch in (16, 64):
            generation(kind, llm, shape, batch, device)


def measure(work: Callable[[], object], runs: int = 5) -> tuple[float, float]:
    """Median seconds of `work`, and their standard deviation, after two runs that do not count."""
    times = []
    for i in range(2 + runs):
        wait()
        started = time.perf_counter()
        work()
        wait()
        if i >= 2:
            times.append(time.perf_counter() - started)
    return median(times), stdev(times)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def row(what: str, ours: str, beside: str, ratio: float) -> None:
    print(f"| {what} | {ours} | {beside} | {ratio:.2f} |", flush=True)


def limits(device: torch.device, side: int) -> float:
    """FLOP a second of a large bfloat16 matrix product."""
    first, second = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    taken, spread = measure(lambda: first @ second)
    peak: float = 2 * side**3 / taken
    row("matrix product, bfloat16", f"{peak / 1e12:.0f} TFLOP/s", f"± {spread / taken:.0%}", 1.0)
    return peak


@torch.inference_mode()
def extraction(device: torch.device, model: str) -> TimmViT:
    """Images a second through the backbone as extraction runs it, against its bare forward pass in
    the same precision.
    """
    torch.manual_seed(0)
    bare = timm.create_model(model, num_classes=0).eval().to(device)
    vit = TimmViT(bare).eval().requires_grad_(False)
    pixels = torch.randn(64, 3, 224, 224, device=device)
    for compiled in (False, True):
        if compiled:
            vit.compile_blocks()  # those of `bare` too
        for compute in ("float32", "tf32", "bfloat16", "float16"):
            with float32_products(compute, device), autocast(compute, device):
                ours, spread = measure(lambda: vit.layers(pixels)[-1].half())
                alone, _ = measure(lambda: bare.forward_features(pixels))
            said = f"tokens of {model}, {compute}" + (", compiled" if compiled else "")
            told = f"{64 / ours:.0f} images/s ± {spread / ours:.0%}"
            row(said, told, f"bare: {64 / alone:.0f}", alone / ours)
    return vit


def large_llm(device: torch.device, sizes: dict[str, int | str]) -> LLM:
    torch.set_default_dtype(torch.bfloat16)
    with device:
        llm = random_llm(
            hidden_size=int(sizes["width"]),
            intermediate_size=int(sizes["intermediate"]),
            num_hidden_layers=int(sizes["layers"]),
            num_attention_heads=32,
        )
    torch.set_default_dtype(torch.float32)
    return llm


def adapter_of(kind: str, llm: LLM, shape: BackboneShape, device: torch.device) -> Adapter:
    return Adapter(method(kind), shape, LLMShape(layers=len(llm.layers), width=llm.width)).to(
        device
    )


def training(
    kind: str, llm: LLM, vit: TimmViT, shape: BackboneShape, device: torch.device, peak: float
) -> None:
    """A step from features in memory, against the paper's design and the matrix peak."""
    adapter = adapter_of(kind, llm, shape, device).train()
    optimizer = new_optimizer(adapter, TrainSpec(lr=1e-4))
    token_ids = torch.randint(3, 32_000, (16, PROMPT + ANSWER))
    labels = token_ids.roll(-1, dims=1)
    labels[:, :PROMPT] = IGNORED
    batch = Batch([], token_ids, labels)
    # the same questions, four an image
    numbers = torch.arange(4).repeat_interleave(PROMPT + ANSWER).expand(4, -1)
    shared = Batch([], token_ids.view(4, -1), labels.view(4, -1), texts=numbers)
    sizes = len(adapter.source_layers), 1 if adapter.cls_only else shape.tokens
    features = torch.randn(16, *sizes, shape.width, device=device).half()
    pixels = torch.randn(16, 3, 224, 224, device=device)

    def update(loss: torch.Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def step(compute: str = "tf32", batch: Batch = batch) -> None:
        with attention_on(device), float32_products(compute, device):
            read = features[: len(batch.token_ids)]
            update(answer_loss(llm, adapter, read, batch, 2e-3, compute))

    def in_the_loop() -> None:
        with torch.no_grad():
            read = vit(pixels)[:, adapter.source_layers, : sizes[1]]
        logits = llm.head(hidden_states(llm, token_ids.to(device), adapter(read))).float()
        targets = labels.to(device).flatten()
        update(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets))

    paper, _ = measure(in_the_loop, runs=3)
    against = f"paper's design: {1e3 * paper:.0f} ms"
    for said, compute, of in (
        ("bfloat16", "bfloat16", batch),
        ("bfloat16, 4 texts an image", "bfloat16", shared),
        ("tf32", "tf32", batch),
    ):
        taken, spread = measure(lambda compute=compute, of=of: step(compute, of))
        told = f"{1e3 * taken:.0f} ms ± {spread / taken:.0%}"
        row(f"training step of 16, {kind}, adapter in {said}", told, against, paper / taken)
    injection = adapter(features)
    text = PROMPT + ANSWER + (0 if injection.prompt is None else len(injection.prompt))
    span = len(injection.span(len(llm.layers)))
    positions = 16 * (text + injection.count * span / len(llm.layers))
    parameters = sum(p.numel() for p in llm.layers.parameters())
    share = 4 * parameters * positions / taken / peak
    row(f"its LLM, {kind}", f"{positions:.0f} positions", "share of the matrix product", share)
    if device.type == "cuda":
        row(f"its GPU, {kind}", "kernels / wall", "busy share", busy(step) / taken)


def busy(work: Callable[[], object]) -> float:
    """Seconds that kernels run in one call of `work`."""
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        work()
        wait()
    events = [event for event in record.events() or [] if event.device_type == DeviceType.CUDA]
    return float(sum(event.self_device_time_total for event in events)) / 1e6


@torch.inference_mode()
def generation(kind: str, llm: LLM, shape: BackboneShape, batch: int, device: torch.device) -> None:
    """New tokens a second by beam search, against the reading of the weights for each token."""
    adapter = adapter_of(kind, llm, shape, device).eval()
    decoding = GenerateSpec(beams=3, max_new_tokens=50, batch_size=batch)
    token_ids, valid = pad_left([[1] * (PROMPT - i % 4) for i in range(batch)], 2)
    features = torch.randn(
        batch, len(adapter.source_layers), shape.tokens, shape.width, device=device
    ).half()
    arguments = (token_ids.to(device), valid.to(device), adapter(features), decoding)
    taken, spread = measure(lambda: beam_search(llm, *arguments), runs=3)
    single = GenerateSpec(beams=3, max_new_tokens=1, batch_size=batch)
    prefill, _ = measure(lambda: beam_search(llm, *arguments[:3], single), runs=3)
    step = (taken - prefill) / (decoding.max_new_tokens - 1)
    weights = sum(p.numel() * p.element_size() for p in llm.model.parameters())
    buffer = torch.empty(weights // 4, dtype=torch.int16, device=device)
    copied, _ = measure(lambda: buffer.clone())
    reading = weights / (2 * buffer.numel() * 2 / copied)  # a copy reads and writes
    told = f"{batch * 50 / taken:.0f} tokens/s ± {spread / taken:.0%}"
    beside = f"a step: {1e3 * step:.1f} ms, its weights' reading: {1e3 * reading:.1f} ms"
    row(f"generation of {batch}, 3 beams, {kind}", told, beside, reading / step)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda")
