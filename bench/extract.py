"""Extraction of JPEG files, end to end, against the bare forward pass of its backbone.

Extraction reads, decodes and resizes files of 640 x 480 pixels, runs ViT-B/16 at 224 pixels, and
writes the rows to a new store; loading the weights counts too. The baseline is timm's
`forward_features` on one batch in memory. Both are measured in turns.

Usage: python bench/extract.py [threads] [files] [workers]
"""

import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from setting import BACKBONE, BATCH, seconds

from depalm.backbones.load import load_backbone
from depalm.features.encoder import Encoder
from depalm.features.extract import Extraction, extract
from depalm.files import sha256_file
from depalm.identity import weights_identity
from depalm.specs import BackboneSpec

MODEL, ROUNDS = "vit_base_patch16_224", 3
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
def main(threads: int, files: int, workers: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = timm.create_model(MODEL).eval()
    pixels = torch.randn(BATCH, 3, 224, 224)
    settings = Extraction(batch_size=BATCH, workers=workers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(model.state_dict(), folder / "model.safetensors")
        media = [f"{i}.jpg" for i in range(files)]
        sizes = [photo(folder / media[i], i) for i in range(files)]
        print(
            f"{files} JPEG files of {sum(sizes) / files / 1e3:.0f} kB, {workers} decoding workers"
        )

        def forward() -> None:
            for _ in range(files // BATCH):
                model.forward_features(pixels)

        keys = {name: sha256_file(folder / name) for name in media}
        encoder, arrays = Encoder("vit", SPEC, folder), [f"tokens/layer_{BACKBONE.layers - 1}"]

        def extraction() -> None:
            shutil.rmtree(folder / "store", ignore_errors=True)
            extract(encoder, folder, keys, arrays, folder / "store", settings, "cpu")

        rounds = [(seconds(forward, 1, 0), seconds(extraction, 1, 0)) for _ in range(ROUNDS)]
        start = seconds(lambda: (load_backbone(SPEC, folder), weights_identity(folder)))
    bare, whole = (median(times) for times in zip(*rounds, strict=True))
    print(f"bare forward: {files / bare:.1f} files a second")
    print(
        f"extraction: {files / whole:.1f} files a second, "
        f"{median(forward / whole for forward, whole in rounds):.0%} of the bare rate; without "
        f"{start:.1f} s of loading the weights, "
        f"{median(forward / (whole - start) for forward, whole in rounds):.0%}"
    )


def photo(path: Path, seed: int) -> int:
    """A JPEG file with the spectrum of a photograph (amplitude 1 / frequency^1.2); its bytes."""
    noise = np.random.default_rng(seed).normal(size=(3, 480, 640))
    frequency = np.hypot(np.fft.fftfreq(480)[:, None], np.fft.rfftfreq(640))
    frequency[0, 0] = np.inf  # no mean
    spectrum = np.fft.rfft2(noise) / frequency**1.2
    image = np.fft.irfft2(spectrum, s=(480, 640)).transpose(1, 2, 0)
    pixels = (128 + 50 * image / image.std()).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path.stat().st_size


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:] + ["2", "256", "1"][len(sys.argv) - 1 :])))
