"""How many samples a device takes at a time, where the configuration says `batch_size: auto`."""

from collections.abc import Callable

import torch

from depalm.progress import logger

ON_CPU = 64  # more is no faster there
USED = 0.7  # share of a GPU's memory; the rest is for what its allocator cannot use


def fitting(
    wanted: int | str, largest: int, work: Callable[[int], object], device: torch.device | str
) -> int:
    """`wanted`, or for "auto" the largest power of two up to `largest` that fits.

    `work` does what is to be done on a number of samples. On a GPU its memory is measured on two
    and on four of them: the same card always gets the same size, whatever else runs on it.
    """
    if isinstance(wanted, int):
        return wanted
    device = torch.device(device)
    if device.type != "cuda":
        return min(ON_CPU, largest)
    peaks = []
    for count in (1, 2, 4):  # the first loads kernels and their workspaces
        torch.cuda.reset_peak_memory_stats(device)
        work(count)
        peaks.append(torch.cuda.max_memory_allocated(device))
    total = torch.cuda.get_device_properties(device).total_memory
    size = size_that_fits(peaks[1], peaks[2], total, largest)
    torch.cuda.empty_cache()
    logger.info("%d samples at a time fit into %.0f GB", size, total / 1e9)
    return size


def size_that_fits(two: int, four: int, total: int, largest: int) -> int:
    """The largest power of two up to `largest` that takes at most USED of `total` bytes, if two
    samples take `two` and four take `four`.
    """
    each = max(1, (four - two) / 2)
    fixed = two - 2 * each
    size = 1
    while 2 * size <= largest and fixed + 2 * size * each <= USED * total:
        size *= 2
    return size
