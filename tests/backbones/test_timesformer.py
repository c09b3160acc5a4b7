"""TimeSformer: the tokens of the library's own model, frame by frame."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers import TimesformerConfig, TimesformerModel

from depalm.adapters.resamplers import Average
from depalm.backbones.audio_video import TimeSformer
from depalm.backbones.load import load_backbone
from depalm.identity import token_identity
from depalm.modes import drop_paths, in_training_mode
from tests.support.encoders import TIMESFORMER_SPEC, tiny_timesformer
from tests.support.specs import backbone_spec

FILM = torch.linspace(-9, 9, 2 * 4 * 3 * 32 * 32).sin().view(2, 4, 3, 32, 32)


def test_timesformer_gives_the_normed_output_of_every_block_frame_by_frame(tmp_path: Path) -> None:
    model = tiny_timesformer(tmp_path).timesformer
    with torch.inference_mode():
        output = model(FILM, output_hidden_states=True)
        normed = torch.stack([model.layernorm(h) for h in output.hidden_states[1:]], dim=1)
    torch.testing.assert_close(output.last_hidden_state, normed[:, -1])
    tokens = load_backbone(backbone_spec(TIMESFORMER_SPEC), tmp_path)(FILM)
    torch.testing.assert_close(tokens[:, :, 0], normed[:, :, 0])
    for frame in range(4):
        for place in range(4):
            # the model has all four frames of a place together
            expected = normed[:, :, 1 + 4 * place + frame]
            torch.testing.assert_close(tokens[:, :, 1 + 4 * frame + place], expected)
    as_is = backbone_spec({**TIMESFORMER_SPEC, "token_order": "patches"})
    torch.testing.assert_close(load_backbone(as_is, tmp_path)(FILM), normed)
    plain = backbone_spec({**TIMESFORMER_SPEC, "final_norm": False, "token_order": "patches"})
    expected = torch.stack(output.hidden_states[1:], dim=1)
    torch.testing.assert_close(load_backbone(plain, tmp_path)(FILM), expected)


@pytest.mark.parametrize(("order", "squares"), [("frames", 784), ("patches", 0)])
def test_groups_of_timesformer_are_squares_of_one_frame(order: str, squares: int) -> None:
    """On coordinates: each token tells the frame, row and column that it is of."""

    class Blocks(nn.Module):
        def forward(self, film: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
            places = torch.cartesian_prod(torch.arange(14), torch.arange(14), torch.arange(16))
            tokens = places[:, [2, 0, 1]].float()  # frame, row, column; frames innermost
            return self.block(torch.cat((torch.zeros(1, 3), tokens))[None])

    blocks = Blocks()
    blocks.block = nn.Identity()
    blocks.config = SimpleNamespace(hidden_size=3)
    blocks.embeddings = SimpleNamespace(num_patches=196)
    blocks.encoder = SimpleNamespace(layer=[blocks.block])
    blocks.layernorm = nn.Identity()
    tokens = TimeSformer(blocks, 16, time_average=False, order=order)(FILM)[:, 0]
    resampler = Average(3, 3137, grid=[16, 14, 14])
    groups = resampler.group(tokens[:, 1:])[0].long()  # [784, 4, 3]
    found = 0
    for group in groups.tolist():
        frames, rows, columns = map(set, zip(*group, strict=True))
        square = len(frames) == 1 and len(rows) == len(columns) == 2
        found += square and min(rows) % 2 == min(columns) % 2 == 0 and max(rows) - min(rows) == 1
    assert found == squares


def test_the_drop_path_of_timesformer_decides_no_token_but_in_training(tmp_path: Path) -> None:
    tiny_timesformer(tmp_path)
    spec = backbone_spec({**TIMESFORMER_SPEC, "drop_path": 0.9})
    model = load_backbone(spec, tmp_path)
    clean = load_backbone(backbone_spec(TIMESFORMER_SPEC), tmp_path)(FILM)
    assert model(FILM).equal(clean)
    assert token_identity(spec) == token_identity(backbone_spec(TIMESFORMER_SPEC))
    with in_training_mode(drop_paths(model)):
        assert not model(FILM).equal(clean)
    assert model(FILM).equal(clean)


def test_timesformer_averaged_over_time(tmp_path: Path) -> None:
    """Of a film at rest, all frames of a place have the same tokens but for their time."""
    model = tiny_timesformer(tmp_path)
    model.timesformer.embeddings.time_embeddings.data.zero_()
    model.save_pretrained(tmp_path)
    film = FILM[:, :1].expand(-1, 4, -1, -1, -1)
    whole = load_backbone(backbone_spec(TIMESFORMER_SPEC), tmp_path)(film)
    shape = {**TIMESFORMER_SPEC["shape"], "tokens": 5}
    average = load_backbone(
        backbone_spec({**TIMESFORMER_SPEC, "time_average": True, "shape": shape}), tmp_path
    )
    at_rest = whole[:, :, 1:].view(2, 3, 4, 4, 32).transpose(2, 3)  # [B, L, patches, F, D]
    torch.testing.assert_close(at_rest, at_rest[:, :, :, :1].expand_as(at_rest))
    torch.testing.assert_close(average(film)[:, :, 1:], at_rest[:, :, :, 0])
    torch.testing.assert_close(average(film)[:, :, 0], whole[:, :, 0])
    moving = load_backbone(backbone_spec(TIMESFORMER_SPEC), tmp_path)(FILM)[:, :, 1:]
    torch.testing.assert_close(average(FILM)[:, :, 1:], moving.view(2, 3, 4, 4, 32).mean(dim=2))


def test_timesformer_takes_other_numbers_of_frames(tmp_path: Path) -> None:
    """As a model of 8 frames that has each of the 4 time embeddings twice."""
    model = tiny_timesformer(tmp_path)
    film = torch.cat((FILM, FILM.flip(1)), dim=1)
    spec = {**TIMESFORMER_SPEC, "frames": 8, "shape": {"layers": 3, "tokens": 33, "width": 32}}
    tokens = load_backbone(backbone_spec(spec), tmp_path)(film)
    old = model.timesformer.embeddings.time_embeddings
    longer = TimesformerModel(TimesformerConfig(**{**model.config.to_dict(), "num_frames": 8}))
    state = model.timesformer.state_dict()
    state["embeddings.time_embeddings"] = interpolate(old.mT, size=8, mode="nearest").mT
    longer.load_state_dict(state)
    with torch.inference_mode():
        hidden = longer.eval()(film, output_hidden_states=True).hidden_states
    expected = longer.layernorm(torch.stack(hidden[1:], dim=1))
    torch.testing.assert_close(tokens[:, :, 0], expected[:, :, 0])
    patches = expected[:, :, 1:].unflatten(2, (4, 8)).transpose(2, 3).flatten(2, 3)
    torch.testing.assert_close(tokens[:, :, 1:], patches)
