"""Training steps of each method from the cache against the paper's design.

Both train on 16 captions, whose lengths are those of COCO (13.5 tokens ± 2.4). The paper's design
has the backbone in the loop (ViT-B/16), pads a random batch to its longest caption, computes logits
at all positions and steps AdamW parameter by parameter. Ours reads a real shard on disk anew for
every step. With `texts_per_image: 4` the same 16 captions are those of four images. In bfloat16,
LLM and adapter compute in it on float32 master weights, and the baseline stays in float32.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import timm
import torch
from setting import (
    BACKBONE,
    BATCH,
    LLM_SHAPE,
    METHODS,
    VOCABULARY,
    Row,
    compared,
    in_bfloat16,
    method,
    product,
    random_llm,
)
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.backbones.vision import TimmViT
from depalm.cache.formats import CLS, array_names
from depalm.cache.reader import TokenCache
from depalm.cache.writer import write_shard
from depalm.llms.base import LLM
from depalm.llms.injection import hidden_states
from depalm.specs import TrainSpec
from depalm.specs.base import Compute
from depalm.training.batches import IGNORED, Batch, TrainingSet, collate, epoch_batches
from depalm.training.loop import answer_loss, attention_on, new_optimizer

CPU = torch.device("cpu")
NAMES = [f"image-{i}" for i in range(BATCH)]
SHARED = 4


def rows() -> Iterator[Row]:
    llm = random_llm()
    vit = TimmViT(timm.create_model("vit_base_patch16_224", num_classes=0)).eval()
    vit.requires_grad_(False)  # frozen, as `load_backbone` returns it
    for name in METHODS:
        yield step(name, llm, llm, vit)
    halved = in_bfloat16(llm)
    for name in ("qp_l0", "qp_inner", "limber_all"):
        yield step(name, halved, llm, vit, compute="bfloat16")
        yield step(name, llm, llm, vit, SHARED)
        yield step(name, halved, llm, vit, SHARED, "bfloat16")


def captions(shared: int) -> tuple[Batch, Batch]:
    """A batch of the middle length, as length-bucketed batches are, and one as random ones are."""
    generator = torch.Generator().manual_seed(0)
    lengths = (13.5 + 2.4 * torch.randn(800, generator=generator)).round().clamp(8, 24).long()
    media = [f"{i // shared}" for i in range(800)]
    texts = [[([1], torch.randint(3, VOCABULARY, (int(n),)).tolist())] for n in lengths]
    data = TrainingSet(media, texts, shared)
    bucketed = [collate(data, of, 0) for of in epoch_batches(data, BATCH // shared, 0, 0)]
    width = median(batch.token_ids.shape[1] for batch in bucketed)
    ours = next(batch for batch in bucketed if batch.token_ids.shape[1] >= width)
    longest = sorted(int(lengths[i : i + BATCH].max()) for i in range(0, 800, BATCH))
    token_ids = torch.randint(3, VOCABULARY, (BATCH, longest[len(longest) // 2]))
    return ours, Batch(NAMES, token_ids, token_ids.roll(-1, dims=1))


def step(
    name: str,
    llm: LLM,
    plain_llm: LLM,
    vit: TimmViT,
    shared: int = 1,
    compute: Compute = "float32",
) -> Row:
    """Ours on `llm`, with `shared` texts an image, against the paper's design on `plain_llm`."""
    adapter = Adapter(method(name), BACKBONE, LLM_SHAPE)
    read = adapter.source_layers
    ours, theirs = captions(shared)
    images = NAMES[: len(ours.token_ids)]
    pixels = torch.randn(BATCH, 3, 224, 224)
    settings = TrainSpec(batch_size=BATCH, lr=1e-4, epochs=1)
    fused = new_optimizer(adapter, settings)
    plain = torch.optim.AdamW(adapter.parameters(), 1e-4, foreach=False)

    def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 0.8)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with tempfile.TemporaryDirectory() as folder:
        cache = shard(Path(folder), vit, pixels, read, adapter.cls_only)

        def from_cache() -> None:
            with attention_on(CPU):
                features = cache.read(images, read, adapter.cls_only) if read else None
                update(answer_loss(llm, adapter, features, ours, 2e-3, compute), fused)

        def with_backbone() -> None:
            features = vit(pixels)[:, read, : 1 if adapter.cls_only else None] if read else None
            hidden = hidden_states(plain_llm, theirs.token_ids, adapter(features))
            logits = plain_llm.head(hidden)
            loss = partial(torch.nn.functional.cross_entropy, ignore_index=IGNORED)
            update(loss(logits.flatten(0, 1), theirs.labels.flatten(), label_smoothing=2e-3), plain)

        said = f"training step, {name}" + (f", {shared} texts an image" if shared > 1 else "")
        said += f", {compute}" if compute != "float32" else ""
        bound = product(from_cache, getattr(torch, compute))
        return compared(said, from_cache, with_backbone, "the paper's design", limit=bound)


@torch.inference_mode()
def shard(
    folder: Path, vit: TimmViT, pixels: Tensor, layers: list[int], cls_only: bool
) -> TokenCache:
    """The cache of all images, with the rows that are read."""
    arrays = sorted({CLS, *array_names(layers, cls_only)})
    with write_shard(folder / "s.zarr", {}, BACKBONE.given(), arrays, "float16") as writer:
        writer.add(NAMES, writer.pack(vit.layers(pixels)))
    return TokenCache([folder / "s.zarr"], {})
