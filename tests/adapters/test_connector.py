from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from depalm.adapters.connector import Connector, CrossAttention, mlp
from depalm.adapters.errors import ConnectorError
from depalm.adapters.grouping import grouping
from depalm.adapters.injectors import TokenScale
from depalm.adapters.qp_mapper import QPMapper, rotate
from depalm.adapters.registry import RESAMPLERS
from depalm.adapters.resamplers import RandomSubset
from depalm.specs.method import ConnectorSpec, L0Injection

WIDTH = 16
GRID = torch.arange(36.0).view(6, 6)  # patch numbers of a 6 x 6 grid, row by row


def numbered(tokens: int) -> Tensor:
    """Tokens [1, T, D] that carry their own number in every channel; CLS is -1."""
    return (torch.arange(tokens) - 1.0)[None, :, None].expand(1, tokens, WIDTH)


def build(kind: str, tokens: int, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return RESAMPLERS[kind](WIDTH, tokens, **options).eval()


def test_groups_are_squares_on_a_grid_and_neighbours_elsewhere() -> None:
    squares = build("max", 37)(numbered(37))[0, 1:, 0]  # the last patch of each 2 x 2 square
    assert squares.tolist() == GRID[1::2, 1::2].flatten().tolist()
    runs = build("max", 9)(numbered(9))[0, 1:, 0]
    assert runs.tolist() == [3.0, 7.0]


def test_average_is_over_the_patches_of_a_group() -> None:
    output = build("avg", 37)(numbered(37))
    assert output.shape == (1, 10, WIDTH)
    assert output[0, 0].eq(-1).all()  # CLS in front, untouched
    first_square = GRID[:2, :2].mean()
    assert output[0, 1].eq(first_square).all()


def test_the_released_average_pools_channels() -> None:
    tokens = torch.randn(2, 5, WIDTH)
    output = build("avg", 5, fidelity="released")(tokens)
    side_by_side = tokens[:, 1:].flatten(1)  # [B, 4 D]
    expected = nn.functional.avg_pool1d(side_by_side[:, None], 4)[:, 0]
    torch.testing.assert_close(output[:, 1], expected)
    assert not torch.allclose(output, build("avg", 5)(tokens))


@pytest.mark.parametrize("kind", ["avg", "max", "linear", "conv", "qpmapper", "random_patch"])
@pytest.mark.parametrize(("tokens", "groups"), [(37, 9), (9, 2)])
def test_every_reduction_keeps_the_groups_and_cls(kind: str, tokens: int, groups: int) -> None:
    values = torch.randn(2, tokens, WIDTH)
    resampler = build(kind, tokens)
    output = resampler(values)
    assert output.shape == (2, groups + 1, WIDTH)
    assert resampler.count == groups + 1
    assert torch.equal(output[:, 0], values[:, 0])
    dropped = build(kind, tokens, cls="drop")(values)
    torch.testing.assert_close(dropped, output[:, 1:])


def test_a_duplicated_cls_is_reduced_like_a_group() -> None:
    values = torch.randn(2, 5, WIDTH)
    resampler = build("linear", 5, cls="duplicate")
    output = resampler(values)
    own = values[:, :1].repeat(1, 4, 1).flatten(1)
    torch.testing.assert_close(output[:, 0], resampler.linear(own))


@pytest.mark.parametrize("kind", ["conv", "qpmapper", "linear"])
def test_a_group_is_reduced_near_its_place(kind: str) -> None:
    values = torch.randn(1, 37, WIDTH)
    changed = values.clone()
    changed[0, 1] += 1.0  # the first patch, far from the last square
    resampler = build(kind, 37)
    before, after = resampler(values), resampler(changed)
    assert not torch.allclose(before[0, 1], after[0, 1])
    torch.testing.assert_close(before[0, -1], after[0, -1])


def test_a_random_patch_is_one_of_its_group_in_training() -> None:
    resampler = build("random_patch", 37).train()
    draws = torch.stack([resampler(numbered(37))[0, 1:, 0] for _ in range(50)])
    assert set(draws[:, 0].tolist()) == set(GRID[:2, :2].flatten().tolist())


def test_a_random_subset_keeps_order_and_is_everything_in_evaluation() -> None:
    subset = RandomSubset(WIDTH, 101)
    sizes = []
    for _ in range(300):
        kept = subset(numbered(101))[0, :, 0]
        assert kept[0] == -1
        assert kept.tolist() == sorted(set(kept.tolist()))
        sizes.append(len(kept) - 1)
    assert min(sizes) == 6  # 0.0625 of 100 patches
    assert max(sizes) == 50
    assert 0.15 < sizes.count(50) / 300 < 0.3  # N(0.25, 0.2) beyond 0.5, or the one draw in ten
    assert torch.equal(subset.eval()(numbered(101)), numbered(101))


@pytest.mark.parametrize(("patches", "factor"), [(25, 4), (10, 4), (9, 4)])
def test_patches_that_do_not_divide_are_an_error(patches: int, factor: int) -> None:
    with pytest.raises(ConnectorError, match="not divisible"):
        grouping(patches, factor)


def test_the_mapper_keeps_the_outputs_of_its_queries() -> None:
    tokens = torch.randn(3, 7, WIDTH)
    assert QPMapper(WIDTH, 7, layers=2, queries=4)(tokens).shape == (3, 4, WIDTH)
    assert QPMapper(WIDTH, 7, layers=2)(tokens).shape == (3, 7, WIDTH)


def test_the_mapper_is_the_library_encoder_over_tokens_and_queries() -> None:
    mapper = QPMapper(WIDTH, 7, layers=1, queries=4, heads=2).eval()
    theirs = nn.TransformerEncoderLayer(
        WIDTH, 2, WIDTH, 0.1, "gelu", layer_norm_eps=1e-4, batch_first=True
    ).eval()
    ours = mapper.layers[0]
    state = {
        "self_attn.in_proj_weight": ours.attention_in.weight,
        "self_attn.in_proj_bias": ours.attention_in.bias,
        "self_attn.out_proj.weight": ours.attention_out.weight,
        "self_attn.out_proj.bias": ours.attention_out.bias,
        "linear1.weight": ours.feed_forward[0].weight,
        "linear1.bias": ours.feed_forward[0].bias,
        "linear2.weight": ours.feed_forward[3].weight,
        "linear2.bias": ours.feed_forward[3].bias,
        "norm1.weight": ours.attention_norm.weight,
        "norm1.bias": ours.attention_norm.bias,
        "norm2.weight": ours.feed_forward_norm.weight,
        "norm2.bias": ours.feed_forward_norm.bias,
    }
    theirs.load_state_dict(state)
    tokens = torch.randn(3, 7, WIDTH)
    assert mapper.queries is not None
    sequence = torch.cat((tokens, mapper.queries.expand(3, -1, -1)), dim=1)
    torch.testing.assert_close(mapper(tokens), theirs(sequence)[:, 7:])


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("positions", ["none", "rotary"])
def test_outputs_that_nobody_reads_are_left_out(norm_first: bool, positions: str) -> None:
    options: dict[str, Any] = {"heads": 2, "norm_first": norm_first, "positions": positions}
    mapper = QPMapper(WIDTH, 7, layers=2, queries=4, **options).eval()
    tokens = torch.randn(3, 7, WIDTH)
    assert mapper.queries is not None
    sequence = torch.cat((tokens, mapper.queries.expand(3, -1, -1)), dim=1)
    for layer in mapper.layers:
        sequence = layer(sequence, last=11)
    torch.testing.assert_close(mapper(tokens), sequence[:, 7:])


def test_layers_of_a_source_have_their_own_queries() -> None:
    mapper = QPMapper(WIDTH, 7, layers=1, queries=2, query_sets=3).eval()
    tokens = torch.randn(1, 7, WIDTH)
    assert not torch.allclose(mapper(tokens, 0), mapper(tokens, 1))
    torch.testing.assert_close(mapper(tokens, 0), mapper(tokens, 3))


@pytest.mark.parametrize(
    ("positions", "differs"), [("none", False), ("learned", True), ("rotary", True)]
)
def test_positions_tell_patches_apart(positions: str, differs: bool) -> None:
    mapper = QPMapper(WIDTH, 7, layers=1, queries=2, positions=positions).eval()
    tokens = torch.randn(1, 7, WIDTH)
    swapped = tokens[:, [0, 2, 1, 3, 4, 5, 6]]
    assert torch.allclose(mapper(tokens), mapper(swapped), atol=1e-5) != differs


def test_the_cls_mark_tells_cls_from_patches_only() -> None:
    mapper = QPMapper(WIDTH, 7, layers=1, queries=2, positions="cls").eval()
    tokens = torch.randn(1, 7, WIDTH)
    swapped = tokens[:, [0, 2, 1, 3, 4, 5, 6]]
    torch.testing.assert_close(mapper(tokens), mapper(swapped))
    assert not torch.allclose(mapper(tokens), mapper(tokens[:, [1, 0, 2, 3, 4, 5, 6]]))


def test_rotation_makes_scores_depend_on_distance_alone() -> None:
    query, key = torch.randn(2, 8)
    turned_query, turned_key = (rotate(value.expand(1, 1, 10, 8))[0, 0] for value in (query, key))
    scores = turned_query @ turned_key.T
    torch.testing.assert_close(scores.diagonal(2), scores.diagonal(2)[:1].expand(8))
    assert not torch.allclose(scores[0, 0], scores[0, 5])


def test_cross_attention_starts_as_nothing_and_reads_per_position() -> None:
    cross = CrossAttention(WIDTH, 24, heads=2)
    hidden, tokens = torch.randn(2, 5, 24), torch.randn(2, 3, WIDTH)
    pair = cross.keys_values(tokens)
    assert cross(hidden, *pair).eq(0).all()
    assert cross.gate is not None
    with torch.no_grad():
        cross.gate.fill_(1.0)
    full = cross(hidden, *pair)
    assert full.abs().sum() > 0
    torch.testing.assert_close(full[:, 3:4], cross(hidden[:, 3:4], *pair))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"adapter_dim": 12, "mapper": {"layers": 1, "queries": 2}},
            "12 is not divisible by its 8",
        ),
        ({"resampler": {"type": "avg"}}, "6 patches are not divisible by groups of 4"),
        ({"mapper": {"layers": 1, "heads": 16, "positions": "rotary"}}, "even head width"),
    ],
)
def test_parts_that_do_not_fit_are_an_error(options: dict[str, Any], message: str) -> None:
    spec = ConnectorSpec.model_validate(options)
    inner = options.get("adapter_dim", WIDTH)
    with pytest.raises(ConnectorError, match=message):
        Connector(spec, WIDTH, inner, 32, 7)


def test_an_mlp_has_as_many_linears_as_its_depth() -> None:
    for depth in (1, 2, 3):
        layers = [m for m in mlp(8, 12, depth).modules() if isinstance(m, nn.Linear)]
        assert len(layers) == depth
        assert (layers[0].in_features, layers[-1].out_features) == (8, 12)


def connector(**options: Any) -> Connector:
    torch.manual_seed(0)
    spec = ConnectorSpec.model_validate(options)
    return Connector(spec, WIDTH, WIDTH, 6, tokens=17).eval()


def test_rms_norms_have_an_epsilon_of_a_ten_thousandth() -> None:
    tokens = torch.full((1, 17, WIDTH), 1e-2)
    norm = connector(resampler={"type": "avg"}).norm
    # 0.01 / sqrt(0.01^2 + 1e-4)
    torch.testing.assert_close(norm(tokens), torch.full_like(tokens, 1 / 2**0.5))
    attention = CrossAttention(16, 16, heads=2)
    assert attention.norm.eps == attention.query_norm.eps == 1e-4
    scale = L0Injection.model_validate({"at": "l0", "token_norm": "rms"})
    assert TokenScale(8, scale).norm.eps == 1e-4


def test_the_norm_stands_behind_the_resampler_or_in_front_of_the_last_linear() -> None:
    mapper = {"layers": 1, "queries": 1, "heads": 2, "activation": "identity"}
    options = {"resampler": {"type": "avg"}, "mapper": mapper}
    tokens = torch.randn(2, 17, WIDTH)
    outside = connector(**options)
    inside = connector(**options, norm_at="resampler")
    assert outside.state_dict().keys() == inside.state_dict().keys()
    pooled = outside.resampler(tokens)
    expected = outside.project_out(outside.norm(outside.mapper(pooled)))
    torch.testing.assert_close(outside(tokens), expected)
    expected = inside.project_out(inside.mapper(inside.norm(pooled)))
    torch.testing.assert_close(inside(tokens), expected)
    assert not torch.allclose(inside(tokens), outside(tokens))
    with pytest.raises(ValidationError, match="no resampler for the norm"):
        connector(norm_at="resampler")


def test_a_feed_forward_without_activation_is_linear() -> None:
    mapper = QPMapper(WIDTH, 4, layers=1, queries=1, heads=2, activation="identity").eval()
    first, _, _, second, _ = mapper.layers[0].feed_forward
    values = torch.randn(3, WIDTH)
    whole = values @ first.weight.T @ second.weight.T + first.bias @ second.weight.T + second.bias
    torch.testing.assert_close(mapper.layers[0].feed_forward(values), whole)
