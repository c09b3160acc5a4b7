"""What the library generates."""

import torch
from torch import Tensor

from depalm.llms.base import LLM


def library_beam_search(
    llm: LLM, token_ids: Tensor, valid: Tensor, beams: int, max_new_tokens: int
) -> list[list[int]]:
    """New tokens of each row by the library's own beam search, up to EOS."""
    token_ids, valid = behind_front(llm, token_ids, valid)
    found = llm.model.generate(
        input_ids=token_ids,
        attention_mask=valid.long(),
        num_beams=beams,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        early_stopping=False,
        length_penalty=1.0,
        eos_token_id=llm.eos,
        pad_token_id=llm.eos,
    )[:, token_ids.shape[1] :].tolist()
    return [row[: row.index(llm.eos)] if llm.eos in row else row for row in found]


def behind_front(llm: LLM, token_ids: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """A batch with the start of the chat in front, which the library knows nothing of."""
    front = torch.tensor(llm.front, dtype=torch.long).expand(len(token_ids), -1)
    there = torch.ones_like(front, dtype=torch.bool)
    return torch.cat((front, token_ids), dim=1), torch.cat((there, valid), dim=1)
