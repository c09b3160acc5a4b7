import json
import math
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from depalm.datasets.manifest import Sample
from depalm.features.base import NoFeatures
from depalm.generation.generate import generate
from depalm.specs import TrainSpec
from depalm.specs.settings import GenerateSpec
from depalm.training import loop as train_module
from depalm.training.batches import IGNORED, batch_stream, collate, encode, epoch_batches
from depalm.training.loop import train
from depalm.training.schedule import Schedule, TrainingError
from depalm.training.state import Training
from tests.support.features import RandomFeatures
from tests.support.tiny import METHODS, tiny_llm
from tests.support.training import (
    SETTINGS,
    Killed,
    build,
    equal,
    samples,
    trains_exactly_the_adapter,
    weights,
)


def run(
    folder: Path, method: str = "qp_l0", settings: TrainSpec = SETTINGS, seed: int = 0
) -> Training:
    llm, adapter = tiny_llm("llama"), build(method, seed)
    data, features = encode(llm, samples(), 10), RandomFeatures(adapter)
    return train(llm, adapter, data, features, settings, seed, folder, {"of": "this"})


# batches


def test_only_the_answer_and_its_end_are_labels() -> None:
    llm = tiny_llm("llama")
    data = encode(llm, [Sample("0", "m", "a?", ["bc"]), Sample("1", "n", "", ["d"])], 10)
    batch = collate(data, [[(0, 0)], [(1, 0)]], padding=0)
    (a, mark), (b, c), (d,) = llm.tokenize(["a?", "bc", "d"])
    assert batch.token_ids.tolist() == [[1, a, mark, b, c], [1, d, 0, 0, 0]]
    x = IGNORED
    assert batch.labels.tolist() == [[x, x, b, c, 2], [d, 2, x, x, x]]
    assert batch.media == ["m", "n"]


def test_long_answers_are_cut_but_still_end() -> None:
    data = encode(tiny_llm("llama"), [Sample("0", "m", "", ["abcdef"])], 3)
    [[(_, answer)]] = data.texts
    assert len(answer) == 4
    assert answer[-1] == 2


def test_an_epoch_holds_every_sample_once_and_draws_references_anew() -> None:
    many = [Sample(str(i), "m", "", ["a", "bb", "ccc"]) for i in range(37)]
    data = encode(tiny_llm("llama"), many, 10)
    epochs = [list(chain(*epoch_batches(data, 4, 0, epoch))) for epoch in range(2)]
    for rows in epochs:
        pairs = list(chain(*rows))
        assert sorted(sample for sample, _ in pairs) == list(range(37))
        assert {reference for _, reference in pairs} == {0, 1, 2}
    assert dict(chain(*epochs[0])) != dict(chain(*epochs[1]))
    assert epoch_batches(data, 4, 0, 0) == epoch_batches(data, 4, 0, 0)
    assert epoch_batches(data, 4, 0, 0) != epoch_batches(data, 4, 1, 0)


def test_batches_are_bucketed_by_length_but_not_ordered_by_it() -> None:
    many = [Sample(str(i), "m", "a" * (i * 7 % 20), ["b"]) for i in range(200)]
    data = encode(tiny_llm("llama"), many, 10)
    batches = epoch_batches(data, 4, 0, 0)
    lengths = [[len(data.texts[sample][0][0]) for [(sample, _)] in batch] for batch in batches]
    assert max(max(row) - min(row) for row in lengths) <= 2
    assert [row[0] for row in lengths] != sorted(row[0] for row in lengths)


def test_a_stream_that_skips_goes_on_where_it_was() -> None:
    data = encode(tiny_llm("llama"), samples(), 10)
    stream = batch_stream(data, 4, 0, skip=0)
    whole = [next(stream).token_ids for _ in range(20)]  # two and a half epochs
    resumed = batch_stream(data, 4, 0, skip=11)
    assert all(torch.equal(next(resumed).token_ids, batch) for batch in whole[11:])


# schedule


def test_the_rate_warms_up_over_a_fifth_and_ends_at_a_ten_thousandth() -> None:
    settings = TrainSpec(batch_size=1, lr=2.0, steps=100)
    rates = [Schedule(settings, 10).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(2.0 / 20)
    assert rates[19] == rates[20] == pytest.approx(2.0)
    assert rates[99] == pytest.approx(2e-4)
    assert all(a > b for a, b in pairwise(rates[20:]))


def test_epochs_count_steps_of_accumulated_batches() -> None:
    settings = TrainSpec(batch_size=4, accumulate=2, lr=1.0, epochs=3)
    assert Schedule(settings, 33).total == 14  # 9 batches = 4.5 steps an epoch, 13.5 in three
    assert Schedule(TrainSpec(batch_size=4, lr=1.0, steps=7), 33).total == 7


def test_a_schedule_of_batches_starts_low_and_peaks_at_a_fifth() -> None:
    """A step has the rate of its last batch; by hand: 20 batches, of which 4 warm up."""
    settings = TrainSpec(
        batch_size=4, accumulate=2, lr=1.0, epochs=5, warmup=0.2, final_lr=0.1, schedule="batches"
    )
    schedule = Schedule(settings, 16)
    assert schedule.total == 10
    risen = [0.1 + 0.9 * batch / 4 for batch in (1, 3)]
    fallen = [0.1 + 0.9 * (1 + math.cos(math.pi * (b - 4) / 15)) / 2 for b in range(5, 20, 2)]
    assert [schedule.rate(step) for step in range(10)] == pytest.approx([*risen, *fallen])
    single = Schedule(settings.model_copy(update={"accumulate": 1, "final_lr": 1e-4}), 80)
    rates = [single.rate(step) for step in range(single.total)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates.index(max(rates)) == single.total // 5
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(1e-4)


def test_leftover_batches_are_dropped_at_the_end_of_each_epoch() -> None:
    """Of 9 batches, 2 each: the ninth, in each of three epochs."""
    settings = TrainSpec(
        batch_size=4, accumulate=2, lr=1.0, epochs=3, leftovers="drop", schedule="batches"
    )
    schedule = Schedule(settings, 33)
    assert (schedule.batches, schedule.total) == (8, 12)
    data = encode(tiny_llm("llama"), samples(33), 10)
    stream = batch_stream(data, 4, 0, 0, schedule.batches)
    epochs = [next(stream).epoch for _ in range(24)]
    assert epochs == [0] * 8 + [1] * 8 + [2] * 8
    resumed = batch_stream(data, 4, 0, 10, schedule.batches)
    assert [next(resumed).epoch for _ in range(7)] == [1] * 6 + [2]
    # the rate goes by the batches that were dropped too: step 4 ends with batch 10 of 26
    warmup, last = round(0.2 * 26), 25
    assert schedule.rate(4) == pytest.approx(
        1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (10 - warmup) / (last - warmup))) / 2
    )
    with pytest.raises(TrainingError, match="lower accumulate or batch_size"):
        Schedule(settings, 3)


# training


@pytest.mark.parametrize("method", METHODS)
def test_exactly_the_adapter_is_trained(tmp_path: Path, method: str) -> None:
    trains_exactly_the_adapter(tiny_llm("llama"), method, tmp_path)


def test_it_learns_what_only_the_features_tell(tmp_path: Path) -> None:
    llm = tiny_llm("llama")
    pictures = [Sample(str(i), f"media-{i}", "what is it?", ["abc"[i % 3]]) for i in range(6)]
    settings = TrainSpec(batch_size=6, lr=3e-2, steps=200, dtype="float32")
    adapter = build("qp_l0")
    data = encode(llm, pictures, 10)
    train(llm, adapter, data, RandomFeatures(adapter), settings, 0, tmp_path, {"of": "this"})
    texts = generate(
        llm, adapter, pictures, RandomFeatures(adapter), GenerateSpec(beams=2, max_new_tokens=6)
    )
    assert texts == ["a", "b", "c", "a", "b", "c"]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert equal(weights(first), weights(second))
    assert not equal(weights(first), weights(run(tmp_path / "c", seed=1)))


def test_features_are_those_of_the_epoch_also_after_a_resume(
    tmp_path: Path, killed_at: list[int]
) -> None:
    epochs: list[int] = []

    class Views(RandomFeatures):
        def read(self, media: Sequence[str], epoch: int = 0) -> torch.Tensor:
            epochs.append(epoch)
            return super().read(media, epoch)

    llm = tiny_llm("llama")
    data = encode(llm, samples(10), 10)  # 3 batches an epoch
    arguments = (
        data,
        Views(build("qp_l0")),
        SETTINGS.model_copy(update={"steps": 7}),
        0,
        tmp_path,
        "identity",
    )
    killed_at += [5]
    with pytest.raises(Killed):
        train(llm, build("qp_l0"), *arguments)
    assert epochs == [0, 0, 0, 1, 1, 1, 2]  # the last was loaded ahead
    train(llm, build("qp_l0"), *arguments)
    assert epochs[7:] == [1, 2]


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, killed_at: list[int]
) -> None:
    whole = run(tmp_path / "whole")
    killed_at += [12 + 7]  # the eighth step of the next run
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    resumed = run(tmp_path / "killed")
    assert equal(weights(resumed), weights(whole))
    assert (resumed.samples, resumed.loss) == (whole.samples, whole.loss)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    for log in logs:
        assert [line.pop("step") for line in log] == list(range(1, 13))
        assert all(line.pop("seconds") >= 0 for line in log)
    assert logs[0] == logs[1]


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    run(tmp_path)
    training = Training(build("qp_l0"), torch.optim.AdamW([torch.zeros(1)]))
    assert (tmp_path / "checkpoint.safetensors").is_file()
    assert not training.load(tmp_path / "checkpoint.safetensors", "another identity")
    assert training.step == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
@pytest.mark.parametrize(("checkpoints", "resumed"), [(1, "step 9 of 12"), (2, None)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path,
    killed_at: list[int],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    checkpoints: int,
    resumed: str | None,
) -> None:
    """As a power cut leaves it. Without any that is whole, training starts anew."""
    whole = run(tmp_path / "whole")
    killed_at += [12 + 10]
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    names = ["checkpoint.safetensors", "checkpoint.before.safetensors"]
    for name in names[:checkpoints]:
        damage(tmp_path / "killed" / name)
    with caplog.at_level("INFO", "depalm"):
        again = run(tmp_path / "killed")
    for name in names[:checkpoints]:
        assert f"{name} is damaged" in caplog.text
    assert ("resumed at" in caplog.text) == (resumed is not None)
    assert resumed is None or resumed in caplog.text
    assert equal(weights(again), weights(whole))
    assert len((tmp_path / "killed" / "train.jsonl").read_text().splitlines()) == 12


def test_accumulated_batches_count_as_one_step(tmp_path: Path) -> None:
    settings = TrainSpec(batch_size=2, accumulate=3, lr=1e-3, steps=4, dtype="float32")
    assert run(tmp_path, settings=settings).samples == 24


def first_gradient(settings: TrainSpec, tmp_path: Path) -> float:
    run(tmp_path, settings=settings)
    line = (tmp_path / "train.jsonl").read_text().splitlines()[0]
    return float(json.loads(line)["grad_norm"])


def test_losses_of_accumulated_batches_are_averaged_or_summed(tmp_path: Path) -> None:
    mean = TrainSpec(batch_size=2, accumulate=4, lr=1e-3, steps=1, dtype="float32")
    total = mean.model_copy(update={"accumulation": "sum"})
    assert first_gradient(total, tmp_path / "sum") == pytest.approx(
        4 * first_gradient(mean, tmp_path / "mean"), rel=1e-5
    )


def test_the_frozen_llm_may_drop_out_as_in_its_own_training(
    tmp_path: Path, killed_at: list[int]
) -> None:
    """OPT has a dropout of 0.1; a resumed run draws what an undisturbed one draws."""
    dropping = SETTINGS.model_copy(update={"frozen_dropout": True})
    kept: dict[str, Training] = {}

    def opt(name: str, settings: TrainSpec) -> None:
        llm, adapter = tiny_llm("opt"), build("qp_l0")
        data, features = encode(llm, samples(), 10), RandomFeatures(adapter)
        kept[name] = train(llm, adapter, data, features, settings, 0, tmp_path / name, "identity")
        assert not any(module.training for module in llm.model.modules())

    opt("clean", SETTINGS)
    opt("dropping", dropping)
    opt("again", dropping)
    assert kept["dropping"].loss != kept["clean"].loss
    assert equal(weights(kept["dropping"]), weights(kept["again"]))
    killed_at += [36 + 7]
    with pytest.raises(Killed):
        opt("killed", dropping)
    opt("killed", dropping)
    assert equal(weights(kept["dropping"]), weights(kept["killed"]))


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, settings=TrainSpec(batch_size=4, lr=1e-3, steps=3, checkpoint_seconds=0))
    good = load_file(tmp_path / "checkpoint.safetensors")

    class Broken(RandomFeatures):
        def read(self, *arguments: Any) -> torch.Tensor:
            return super().read(*arguments) * math.nan

    llm, adapter = tiny_llm("llama"), build("qp_l0")
    data = encode(llm, samples(), 10)
    with pytest.raises(TrainingError, match=r"step 2: loss nan.*checkpoint"):
        train(llm, adapter, data, Broken(adapter), SETTINGS, 0, tmp_path, {"of": "this"})
    kept = load_file(tmp_path / "checkpoint.safetensors")
    assert equal(kept, good)


def test_numbers_that_are_looked_at_late_spoil_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: steps behind a bad one are given to the device before it is found."""
    monkeypatch.setattr(train_module, "on_cpu", lambda _: False)
    monkeypatch.setattr(train_module, "LOOK_SECONDS", 1e9)
    llm, adapter = tiny_llm("llama"), build("qp_l0")
    data = encode(llm, samples(), 10)
    reads: list[int] = []

    class Broken(RandomFeatures):
        def read(self, *arguments: Any) -> torch.Tensor:
            reads.append(1)
            return super().read(*arguments) * (math.nan if len(reads) == 6 else 1.0)

    never = SETTINGS.model_copy(update={"checkpoint_seconds": 1e9})
    with pytest.raises(TrainingError, match=r"step 5: loss nan"):
        train(llm, adapter, data, Broken(adapter), never, 0, tmp_path / "late", {"of": "this"})
    assert len(reads) == SETTINGS.steps + 1  # all were taken, and the bad one read once more
    good = build("qp_l0")
    first = never.model_copy(update={"steps": 5})
    # the rates are those of the whole schedule
    monkeypatch.setattr(Schedule, "rate", rates_of(Schedule(never, len(data))))
    train(llm, good, data, RandomFeatures(good), first, 0, tmp_path / "first", {"of": "this"})
    assert equal(dict(adapter.state_dict()), dict(good.state_dict()))


def rates_of(schedule: Schedule) -> Callable[[Schedule, int], float]:
    rate = schedule.rate
    return lambda _, step: rate(step)


def test_looks_that_are_far_between_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = run(tmp_path / "each")
    monkeypatch.setattr(train_module, "on_cpu", lambda _: False)
    monkeypatch.setattr(train_module, "LOOK_SECONDS", 1e9)
    late = run(tmp_path / "late", settings=SETTINGS.model_copy(update={"checkpoint_seconds": 1e9}))
    assert equal(weights(each), weights(late))
    logs = [
        [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]
        for name in ("each", "late")
    ]
    for log in logs:
        assert all(line.pop("seconds") >= 0 for line in log)
    assert logs[0] == logs[1]


def test_no_samples_is_an_error(tmp_path: Path) -> None:
    llm = tiny_llm("llama")
    arguments = (encode(llm, [], 5), NoFeatures(), SETTINGS, 0, tmp_path, "identity")
    with pytest.raises(TrainingError, match="no training samples"):
        train(llm, build("blind"), *arguments)
