"""Where tokens stand in their texts, and which others they may attend to."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """The places of S new tokens in each of B rows, among all N tokens so far, the new ones last.

    positions: [B, S], counted from 0 in the text of each.
    seen: [B, S, N] bool, what each attends to; None if that is all up to itself (S = N).
    """

    positions: Tensor
    seen: Tensor | None

    def behind(self, count: int, new: bool) -> "Places":
        """The places with `count` tokens in front of the row, which all others see; with `new`
        they are among the new tokens themselves.
        """
        positions, seen = self.positions + count, self.seen
        batch, device = len(positions), positions.device
        if new:
            first = torch.arange(count, device=device).expand(batch, -1)
            positions = torch.cat((first, positions), dim=1)
        if seen is not None:
            seen = torch.nn.functional.pad(seen, (count, 0), value=True)
            if new:
                total = seen.shape[2]
                causal = torch.ones(count, total, dtype=torch.bool, device=device).tril()
                seen = torch.cat((causal.expand(batch, -1, -1), seen), dim=1)
        return Places(positions, seen)

    def mask(self, dtype: torch.dtype) -> Tensor | None:
        """The additive mask [B, 1, S, N] of attention."""
        if self.seen is None:
            return None
        mask = torch.zeros(self.seen.shape, dtype=dtype, device=self.seen.device)
        return mask.masked_fill(~self.seen, torch.finfo(dtype).min)[:, None]


def in_a_row(valid: Tensor, new: int) -> Places:
    """One text in each row, `valid` [B, N] (False at padding, which nobody sees), of which the last
    `new` tokens are new.
    """
    keys = valid.shape[1]
    positions = (valid.long().cumsum(dim=1) - 1).clamp(min=0)[:, keys - new :]
    own = torch.arange(keys - new, keys, device=valid.device)  # the place of each new token
    causal = torch.arange(keys, device=valid.device) <= own[:, None]  # [S, N]
    return Places(positions, causal & valid[:, None, :])


def unpadded(batch: int, length: int, device: torch.device) -> Places:
    """Texts of `length` tokens, all new, without padding, or with padding behind them."""
    return Places(torch.arange(length, device=device).expand(batch, -1), None)


def side_by_side(texts: Tensor) -> Places:
    """Several texts one behind the other in each row, none of which sees another: `texts` [B, S] is
    the number of the text that a token belongs to.
    """
    length = texts.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=texts.device).tril()
    seen = (texts[:, :, None] == texts[:, None, :]) & causal
    return Places(seen.sum(dim=2) - 1, seen)


def branches(valid: Tensor, lineage: Tensor) -> Places:
    """The newest token of each beam, all beams of a sample in one row: `valid` [B, S] of the prompt
    that they share, `lineage` [B, beams, N] of what is generated, True where it is the beam's own.
    The last tokens of it are the new ones.
    """
    prompt = valid[:, None].expand(-1, lineage.shape[1], -1)
    positions = valid.sum(dim=1, keepdim=True) + lineage.sum(dim=2) - 1
    return Places(positions, torch.cat((prompt, lineage), dim=2))
