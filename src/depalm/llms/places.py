"""Where tokens stand in their texts, and which others they may attend to."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """The places of S new tokens in each of B rows, among all N tokens so far, the new ones last.

    positions: [B, S], counted from 0 in the text of each.
    seen: [B, S, N] bool, what each attends to; None if that is all up to itself (S = N).
    keys: [B, N], the positions of all tokens.
    """

    positions: Tensor
    seen: Tensor | None
    keys: Tensor

    def behind(self, count: int, new: bool) -> "Places":
        """The places with `count` tokens in front of the row, which all others see; with `new`
        they are among the new tokens themselves.
        """
        positions, seen, keys = self.positions + count, self.seen, self.keys + count
        batch, device = len(positions), positions.device
        first = torch.arange(count, device=device).expand(batch, -1)
        keys = torch.cat((first, keys), dim=1)
        if new:
            positions = torch.cat((first, positions), dim=1)
        if seen is not None:
            seen = torch.nn.functional.pad(seen, (count, 0), value=True)
            if new:
                total = seen.shape[2]
                causal = torch.ones(count, total, dtype=torch.bool, device=device).tril()
                seen = torch.cat((causal.expand(batch, -1, -1), seen), dim=1)
        return Places(positions, seen, keys)

    @property
    def valid(self) -> Tensor | None:
        """[B, S], False at padding, which does not even see itself; None if there is none, or only
        behind the texts.
        """
        if self.seen is None:
            return None
        new = self.positions.shape[1]
        return self.seen[:, :, -new:].diagonal(dim1=1, dim2=2)

    def mask(
        self, dtype: torch.dtype, window: int | None = None, needed: bool = False
    ) -> Tensor | None:
        """The additive mask [B, 1, S, N] of attention; with a `window` no token sees one that is
        so many positions before it, or more. None says that each sees all up to itself, unless a
        mask is `needed`.
        """
        seen, total = self.seen, self.keys.shape[1]
        limit = window if window is not None and (seen is not None or total > window) else None
        if limit is not None or (needed and seen is None):
            apart = self.positions[:, :, None] - self.keys[:, None, :]  # [B, S, N]
            seen = (apart >= 0) if seen is None else seen
            seen = seen if limit is None else seen & (apart < limit)
        if seen is None:
            return None
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def in_a_row(valid: Tensor, new: int) -> Places:
    """One text in each row, `valid` [B, N] (False at padding, which nobody sees), of which the last
    `new` tokens are new.
    """
    total = valid.shape[1]
    keys = _counted(valid)
    own = torch.arange(total - new, total, device=valid.device)  # the place of each new token
    causal = torch.arange(total, device=valid.device) <= own[:, None]  # [S, N]
    return Places(keys[:, total - new :], causal & valid[:, None, :], keys)


def unpadded(batch: int, length: int, device: torch.device) -> Places:
    """Texts of `length` tokens, all new, without padding, or with padding behind them."""
    positions = torch.arange(length, device=device).expand(batch, -1)
    return Places(positions, None, positions)


def side_by_side(texts: Tensor) -> Places:
    """Several texts one behind the other in each row, none of which sees another: `texts` [B, S] is
    the number of the text that a token belongs to.
    """
    length = texts.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=texts.device).tril()
    seen = (texts[:, :, None] == texts[:, None, :]) & causal
    positions = seen.sum(dim=2) - 1
    return Places(positions, seen, positions)


def branches(valid: Tensor, lineage: Tensor) -> Places:
    """The newest token of each beam, all beams of a sample in one row: `valid` [B, S] of the prompt
    that they share, `lineage` [B, beams, N] of what is generated, True where it is the beam's own.
    The last tokens of it are the new ones.
    """
    beams, generated = lineage.shape[1:]
    prompt = valid[:, None].expand(-1, beams, -1)
    length = valid.sum(dim=1, keepdim=True)
    positions = length + lineage.sum(dim=2) - 1
    # every call adds a token for each beam
    depth = torch.arange(generated, device=valid.device) // beams
    keys = torch.cat((_counted(valid), length + depth), dim=1)
    return Places(positions, torch.cat((prompt, lineage), dim=2), keys)


def _counted(valid: Tensor) -> Tensor:
    """The positions of tokens [B, N], padding not counted."""
    return (valid.long().cumsum(dim=1) - 1).clamp(min=0)
