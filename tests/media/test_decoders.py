"""What decides cached tokens: the backbone, the transform and the view."""

import pytest

from depalm.identity import token_identity
from depalm.media.decoders import DECODERS, load_decoder, view_seed
from tests.support.specs import backbone_spec

BACKBONE = {
    "version": 1,
    "loader": "any",
    "path": "weights",
    "shape": {"layers": 1, "tokens": 2, "width": 3},
}
IMAGE = {
    **BACKBONE,
    "modality": "image",
    "image_size": 8,
    "mean": [0.5, 0.25, 0.0],
    "std": [0.5, 0.25, 1.0],
}
SOUND = {**BACKBONE, "modality": "audio", "sampling_rate": 16000, "seconds": 10}
SPECS = {
    "image": IMAGE,
    "video": {**IMAGE, "modality": "video", "frames": 16},
    "fbank": {**SOUND, "audio": "fbank", "frames": 64, "mel_bins": 16, "mean": -4.0, "std": 4.5},
    "waveform": {**SOUND, "audio": "waveform"},
    "log_mel": {**SOUND, "audio": "log_mel", "mel_bins": 80},
}
CHANGES = {
    "image": {"image_size": 16, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
    "video": {"frames": 8, "image_size": 16, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
    "fbank": {
        "frames": 32,
        "mel_bins": 8,
        "mean": 0.0,
        "std": 1.0,
        "sampling_rate": 8000,
        "seconds": 5,
    },
    "waveform": {"sampling_rate": 48000, "seconds": 5},
    "log_mel": {"mel_bins": 128, "sampling_rate": 8000, "seconds": 30},
}


def test_every_decoder_is_tested_here() -> None:
    assert DECODERS.keys() == SPECS.keys() == CHANGES.keys()


@pytest.mark.parametrize("kind", SPECS)
def test_identity_changes_with_every_key_and_with_the_view(kind: str) -> None:
    identity = token_identity(backbone_spec(SPECS[kind]))
    assert {**identity["backbone"], "path": "weights"} == SPECS[kind]
    assert identity["view"] == 0
    transforms = [
        identity["transform"],
        load_decoder(backbone_spec(SPECS[kind])).describe(with_seed=True),
    ]
    for key, value in CHANGES[kind].items():
        transforms.append(token_identity(backbone_spec({**SPECS[kind], key: value}))["transform"])
    assert all(a != b for i, a in enumerate(transforms) for b in transforms[:i])
    first, second = (token_identity(backbone_spec(SPECS[kind]), view) for view in (1, 2))
    assert first["transform"] == second["transform"] == transforms[1]
    assert first != second


def test_a_view_of_a_file_has_its_own_seed_and_the_clean_one_none() -> None:
    assert view_seed("a.jpg", 0) is None
    seeds = [view_seed(name, view) for name in ("a.jpg", "b.jpg") for view in (1, 2)]
    assert len(set(seeds)) == 4
    assert view_seed("a.jpg", 1) == seeds[0]
    assert all(seed is not None and 0 <= seed < 2**63 for seed in seeds)
