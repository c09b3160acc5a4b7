"""How long a job takes until it could begin: a fresh Python that imports what training, generation
or extraction needs, against one that imports torch and the model class of transformers alone.
"""

import subprocess
import sys
from collections.abc import Iterator

from setting import Row, compared

LEAST = "import torch, transformers.models.llama.modeling_llama"
JOBS = {
    "train": "import depalm.jobs.work.train",
    "generate": "import depalm.jobs.work.generate",
    "extract": "import torch, timm, depalm.features.extract",
}


def rows() -> Iterator[Row]:
    for name, code in JOBS.items():
        least = "import torch, timm" if name == "extract" else LEAST
        yield compared(
            f"start of `{name}`",
            lambda code=code: python(code),
            lambda least=least: python(least),
            f"`{least.removeprefix('import ')}`",
            runs=5,
        )


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
