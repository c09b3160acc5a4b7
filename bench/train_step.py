"""A training step from the cache against one with the backbone in the loop and logits everywhere.

Both train `qp_l0` on the same batch of captions; the cache is a real shard on disk, read anew for
every step. Usage: python bench/train_step.py [threads]
"""

import sys
import tempfile
from pathlib import Path

import timm
import torch
from setting import BACKBONE, BATCH, LLM_SHAPE, VOCABULARY, method, random_llm, report, seconds
from torch.nn.attention import SDPBackend, sdpa_kernel

from depalm.adapters.adapter import Adapter
from depalm.backbones.vision import TimmViT
from depalm.cache.reader import TokenCache
from depalm.cache.writer import write_shard
from depalm.llms.injection import hidden_states
from depalm.training.batches import IGNORED, Batch
from depalm.training.loop import answer_loss

CAPTION = 14


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    llm = random_llm()
    vit = TimmViT(timm.create_model("vit_base_patch16_224", num_classes=0)).eval()
    vit.requires_grad_(False)  # frozen, as `load_backbone` returns it
    pixels = torch.randn(BATCH, 3, 224, 224)
    adapter = Adapter(method("qp_l0"), BACKBONE, LLM_SHAPE)
    optimizer = torch.optim.AdamW(adapter.parameters(), 1e-4)
    layer = adapter.source_layers[0]
    token_ids = torch.randint(3, VOCABULARY, (BATCH, CAPTION))
    labels = token_ids.roll(-1, dims=1)
    labels[:, -4:] = IGNORED  # captions differ in length
    names = [f"image-{i}" for i in range(BATCH)]
    batch = Batch(names, token_ids, labels)

    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "shard-0-of-1.zarr"
        with write_shard(
            shard, {}, BACKBONE.given(), ["cls", f"tokens/layer_{layer}"], "float16"
        ) as writer:
            writer.add(names, writer.pack(vit(pixels)))
        cache = TokenCache([shard], {})

        def update(loss: torch.Tensor) -> None:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def from_cache() -> None:
            with sdpa_kernel(SDPBackend.MATH):
                features = cache.read(names, [layer], cls_only=False)
                update(answer_loss(llm, adapter, features, batch, 2e-3))

        def with_backbone() -> None:
            features = vit(pixels)[:, [layer]]
            logits = llm.head(hidden_states(llm, token_ids, adapter(features)))
            update(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), labels.flatten(), label_smoothing=2e-3
                )
            )

        report(
            f"step of {BATCH} from the cache",
            seconds(from_cache, runs=5),
            seconds(with_backbone, runs=3),
            "backbone in the loop, logits at all positions",
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
