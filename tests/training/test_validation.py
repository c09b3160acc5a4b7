"""Validation during training: what is held out, what is kept, and when training ends."""

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from depalm.datasets.manifest import Sample
from depalm.specs import TrainSpec, ValidationSpec
from depalm.training.batches import encode
from depalm.training.loop import answer_loss, train
from depalm.training.schedule import TrainingError
from depalm.training.state import Training
from depalm.training.validation import Best, batches_of, held_out
from tests.support.features import RandomFeatures
from tests.support.tiny import tiny_llm
from tests.support.training import SETTINGS, Killed, build, equal, samples, weights


def settings(every: int = 3, lr: float = 5e-3, **validation: Any) -> TrainSpec:
    spec = {"every": every, "part": 0.3, **validation}
    return TrainSpec.model_validate({**SETTINGS.given(), "lr": lr, "validation": spec})


def run(folder: Path, told: TrainSpec, method: str = "qp_l0") -> Training:
    llm, adapter = tiny_llm("llama"), build(method)
    assert told.validation is not None
    learned, held = held_out(samples(), told.validation)
    features = RandomFeatures(adapter)
    data = (encode(llm, learned, 10), features, told, 0, folder, {"of": told.given()})
    return train(llm, adapter, *data, held=encode(llm, held, 10))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    lines = log(folder)
    return {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}


def test_samples_that_are_held_out_share_no_medium_with_those_that_are_learned() -> None:
    data = samples(300)
    spec = ValidationSpec(part=0.34)
    learned, held = held_out(data, spec)
    assert len(learned) + len(held) == 300
    assert not {s.media for s in learned} & {s.media for s in held}
    assert len({s.media for s in held}) == 2  # of six
    assert held_out(data[::-1], spec)[1] == held[::-1]  # whatever the order is
    assert len(held_out(data, ValidationSpec(part=0.34, rows=10))[1]) == 10
    # of two media one is learned, and of one none can be held out
    two = [s for s in data if s.media in ("media-0", "media-1")]
    assert len({s.media for s in held_out(two, ValidationSpec(part=0.99))[0]}) == 1
    with pytest.raises(TrainingError, match="one medium is too few"):
        held_out([s for s in data if s.media == "media-0"], spec)


def test_a_sample_is_validated_with_what_most_of_its_references_are() -> None:
    llm = tiny_llm("llama")
    rows = [Sample("x", "m", "q?", ["ab", "cde", "cde"]), Sample("y", "m", "q?", ["a"])]
    data = encode(llm, rows, 10)
    [batch] = batches_of(data, 4, 1)
    learned = [[int(i) for i in row if i >= 0] for row in batch.labels]
    assert learned == [data.texts[1][0][1], data.texts[0][1][1]]


def test_the_loss_is_that_of_a_token_with_all_models_in_evaluation_mode(tmp_path: Path) -> None:
    """Against the loss of every sample alone, summed up by hand, at the end of training."""
    told = settings()
    trained = run(tmp_path, told)
    assert list(losses(tmp_path)) == [3, 6, 9, 12]
    llm, features = tiny_llm("llama"), RandomFeatures(trained.adapter)
    assert told.validation is not None
    _, held = held_out(samples(), told.validation)
    data = encode(llm, held, 10)
    total = count = 0.0
    with torch.no_grad():
        for batch in batches_of(data, 1, 1):
            loss = answer_loss(llm, trained.adapter, features.read(batch.media), batch, 0.0)
            tokens = int((batch.labels >= 0).sum())
            total, count = total + float(loss) * tokens, count + tokens
    assert losses(tmp_path)[12] == pytest.approx(total / count, rel=1e-5)


def test_validation_changes_nothing_of_what_is_learned(tmp_path: Path) -> None:
    """Dropout draws the same numbers however often one looks."""
    often, seldom = (run(tmp_path / str(n), settings(every=n), "qp_inner") for n in (1, 12))
    assert equal(weights(often), weights(seldom))
    assert [line["loss"] for line in log(tmp_path / "1")] == [
        line["loss"] for line in log(tmp_path / "12")
    ]


def test_the_best_adapter_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    """At a rate at which it gets worse: the adapter is that of the best step, to the byte."""
    last = run(tmp_path / "last", settings(1, lr=0.3))
    found = losses(tmp_path / "last")
    best = min(found, key=lambda step: found[step])
    assert best < 12
    kept = run(tmp_path / "best", settings(1, lr=0.3, keep="best"))
    assert (kept.best.step, kept.best.loss) == (best, found[best])
    assert not equal(weights(kept), weights(last))
    assert equal(weights(kept), kept.best.tensors)


def test_training_ends_when_it_gets_no_better(tmp_path: Path) -> None:
    found = losses_of(run(tmp_path / "whole", settings(1, lr=0.3)), tmp_path / "whole")
    ended = run(tmp_path / "ended", settings(1, lr=0.3, patience=2))
    expected, best, since = 0, math.inf, 0
    for step, loss in found.items():
        expected, since = step, 0 if loss < best else since + 1
        best = min(best, loss)
        if since == 2:
            break
    assert expected < 12
    assert ended.step == expected
    assert len(log(tmp_path / "ended")) == expected


def losses_of(_: Training, folder: Path) -> dict[int, float]:
    return losses(folder)


def test_a_killed_run_that_validates_ends_with_the_same_bytes(
    tmp_path: Path, killed_at: list[int]
) -> None:
    told = settings(every=2, keep="best")
    whole = run(tmp_path / "whole", told)
    killed_at += [12 + 6 * 3 + 8 + 4 * 3]  # the ninth step; a validation is three batches
    with pytest.raises(Killed):
        run(tmp_path / "killed", told)
    resumed = run(tmp_path / "killed", told)
    assert equal(weights(resumed), weights(whole))
    assert resumed.best.progress == whole.best.progress
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert resumed.tokens == whole.tokens


def test_the_log_counts_tokens(tmp_path: Path) -> None:
    trained = run(tmp_path, settings())
    counts = [line["tokens"] for line in log(tmp_path)]
    assert counts == sorted(counts)
    assert counts[-1] == trained.tokens > trained.samples


def test_a_validation_without_a_number_ends_training(tmp_path: Path) -> None:
    llm, adapter = tiny_llm("llama"), build("qp_l0")
    told = settings(every=1)
    assert told.validation is not None
    learned, held = held_out(samples(), told.validation)
    bad = {sample.media for sample in held}

    class Damaged(RandomFeatures):
        def read(self, media: Any, epoch: int = 0) -> torch.Tensor:
            values = super().read(media, epoch)
            return values * math.nan if bad & set(media) else values

    data = (encode(llm, learned, 10), Damaged(adapter), told, 0, tmp_path, {})
    with pytest.raises(TrainingError, match="step 1: the validation loss is nan"):
        train(llm, adapter, *data, held=encode(llm, held, 10))


def test_a_validation_loads_when_nobody_else_does(tmp_path: Path) -> None:
    """Batches are loaded ahead by a thread, and decoders serve one at a time."""
    busy = threading.Lock()

    class Alone(RandomFeatures):
        def load(self, media: Any, epoch: int = 0) -> torch.Tensor:
            assert busy.acquire(blocking=False), "two load at once"
            try:
                time.sleep(0.1)  # longer than a step takes
                return super().load(media, epoch)
            finally:
                busy.release()

    llm, adapter = tiny_llm("llama"), build("qp_l0")
    told = settings(every=1)
    assert told.validation is not None
    learned, held = held_out(samples(), told.validation)
    data = (encode(llm, learned, 10), Alone(adapter), told, 0, tmp_path, {})
    train(llm, adapter, *data, held=encode(llm, held, 10))
    assert len(losses(tmp_path)) == 12


def test_best_takes_only_what_is_better() -> None:
    best, adapter = Best(), build("qp_l0")
    best.take(2.0, 1, adapter)
    best.take(2.0, 2, adapter)
    assert (best.loss, best.step, best.since) == (2.0, 1, 1)
    best.take(1.0, 3, adapter)
    assert (best.loss, best.step, best.since) == (1.0, 3, 0)
