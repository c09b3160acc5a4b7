"""A frozen LLM that is larger than a GPU: each process has a part of every layer."""

import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from depalm.llms.base import LLM


def shard_layers(llm: LLM, device: torch.device) -> LLM:
    """Spread the weights of the decoder layers over the processes, and give each what is left:
    embeddings and norms, whole. A layer is whole only while it computes (FSDP2), so all processes
    must call it equally often. `llm` is loaded on the CPU; it moves to `device`, layer by layer.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in llm.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    return llm.to(device)
