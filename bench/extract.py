"""Extraction of JPEG files, end to end, against the bare forward pass of its backbone.

Extraction reads, decodes and resizes files of 640 x 480 pixels, runs ViT-B/16 at 224 pixels, and
writes the rows to a new store; loading the weights counts too. The baseline is timm's
`forward_features` on as many batches in memory, in the same precision.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from setting import BACKBONE, Row, compared, product

from depalm.features.encoder import Encoder
from depalm.features.extract import Extraction, extract
from depalm.files import sha256_file
from depalm.precision import autocast
from depalm.specs import BackboneSpec

MODEL, FILES, SIZE = "vit_base_patch16_224", 256, 64
SPEC = BackboneSpec.model_validate(
    {
        "version": 1,
        "path": ".",
        "modality": "image",
        "loader": "timm",
        "model": MODEL,
        "image_size": 224,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "shape": BACKBONE.given(),
    }
)


@torch.inference_mode()
def rows() -> Iterator[Row]:
    torch.manual_seed(0)
    model = timm.create_model(MODEL).eval()
    pixels = torch.randn(SIZE, 3, 224, 224)
    settings = Extraction(batch_size=SIZE, workers=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(model.state_dict(), folder / "model.safetensors")
        media = [f"{i}.jpg" for i in range(FILES)]
        for i in range(FILES):
            photo(folder / media[i], i)
        keys = {name: sha256_file(folder / name) for name in media}
        arrays = [f"tokens/layer_{BACKBONE.layers - 1}"]
        for compute in ("float32", "bfloat16"):
            encoder = Encoder("vit", SPEC, folder, compute=compute)

            def forward(compute: str = compute) -> None:
                with autocast(compute, "cpu"):
                    for _ in range(FILES // SIZE):
                        model.forward_features(pixels)

            def extraction(encoder: Encoder = encoder) -> None:
                shutil.rmtree(folder / "store", ignore_errors=True)
                extract(encoder, folder, keys, arrays, folder / "store", settings, "cpu")

            yield compared(
                f"extraction of {FILES} JPEG files, {compute}",
                extraction,
                forward,
                "bare forward pass",
                runs=2,
                show=lambda taken: f"{FILES / taken:.1f} files/s",
                limit=product(forward) if compute == "float32" else None,
            )


def photo(path: Path, seed: int) -> None:
    """A JPEG file with the spectrum of a photograph (amplitude 1 / frequency^1.2)."""
    noise = np.random.default_rng(seed).normal(size=(3, 480, 640))
    frequency = np.hypot(np.fft.fftfreq(480)[:, None], np.fft.rfftfreq(640))
    frequency[0, 0] = np.inf  # no mean
    spectrum = np.fft.rfft2(noise) / frequency**1.2
    image = np.fft.irfft2(spectrum, s=(480, 640)).transpose(1, 2, 0)
    pixels = (128 + 50 * image / image.std()).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
