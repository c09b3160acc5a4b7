"""Fair tuning: the same candidates and budget for every method, chosen by what is held out."""

from pathlib import Path
from typing import Any

import pytest

from depalm.files import read_json
from depalm.jobs.train import TrainJob
from depalm.jobs.tune import TuneJob
from depalm.jobs.work import tune as work
from depalm.specs import TrainSpec, TuneSpec
from depalm.training.schedule import TrainingError
from tests.support.runs import METHOD, SETTINGS, common, write_files
from tests.support.tiny import METHODS

BEST = 1e-2
TUNE = TuneSpec(lr=[1e-9, BEST, 1e-8, 1e-7], part=0.25)
LENGTH = TrainSpec(checkpoint_seconds=0.0, steps=40)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


def job(files: Path, folder: Path, tune: TuneSpec = TUNE, name: str = "qp_l0") -> TuneJob:
    method = {**METHODS[name], "version": 1}
    given = common(files, folder, method, "llm", "vit")
    return TuneJob(
        **{key: value for key, value in given.items() if key not in ("adapter", "record")},
        subset=str(files / "subset.json"),
        train=LENGTH.over(SETTINGS),
        tune=tune,
        seed=0,
        tuned=str(folder / "tuned.json"),
    )


def tuned(of: TuneJob) -> dict[str, Any]:
    of.run()
    content: dict[str, Any] = read_json(of.tuned)
    return content


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    rounds = [
        [{key: value for key, value in trial.items() if key != "seconds"} for trial in of["trials"]]
        for of in result["rounds"]
    ]
    return {"chosen": result["chosen"], "rounds": rounds}


@pytest.mark.parametrize(
    ("count", "factor", "rounds"),
    [
        (2, 2, [(2, 1.0)]),
        (4, 2, [(4, 0.5), (2, 1.0)]),
        (9, 3, [(9, 1 / 3), (3, 1.0)]),
        (5, 2, [(5, 0.25), (3, 0.5), (2, 1.0)]),
    ],
)
def test_rounds_halve_the_candidates(
    count: int, factor: int, rounds: list[tuple[int, float]]
) -> None:
    assert TuneSpec(lr=[10.0**-i for i in range(count)], factor=factor).rounds == rounds


def test_steps_may_be_chosen_too() -> None:
    spec = TuneSpec(lr=[1e-3, 1e-2], steps=[10, 20])
    assert len(spec.candidates) == 4
    assert {"lr": 1e-3, "steps": 20} in spec.candidates
    chosen = TrainSpec(epochs=8, lr=1.0).with_chosen({"lr": 1e-3, "steps": 20})
    assert (chosen.lr, chosen.steps, chosen.epochs) == (1e-3, 20, None)


def test_what_learns_is_chosen_on_the_same_budget_for_each_method(
    files: Path, tmp_path: Path
) -> None:
    found = [tuned(job(files, tmp_path / name, name=name)) for name in ("qp_l0", "blind")]
    for result in found:
        assert result["chosen"] == {"lr": BEST}
        first, last = (of["trials"] for of in result["rounds"])
        assert [trial["lr"] for trial in first] == TUNE.lr
        assert last[0]["lr"] == BEST  # in the order of the losses
        assert last[0]["loss"] == min(trial["loss"] for trial in last)
        # a half of 40 steps, four times, and all of them twice
        assert result["spent"]["steps"] == 4 * 20 + 2 * 40
        assert result["held_out"] == 2  # samples of one medium of four
    trials = [of["trials"] for of in found[0]["rounds"]]
    assert len({trial["held_out"] for of in trials for trial in of}) == 1


def test_a_killed_tuning_trains_no_trial_twice(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tuned(job(files, tmp_path / "whole"))
    real, trained = work.train, []

    def dying(*arguments: Any, **named: Any) -> Any:
        trained.append(arguments[4].lr)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(work, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        job(files, tmp_path / "killed").run()
    again = tuned(job(files, tmp_path / "killed"))
    assert without_times(again) == without_times(whole)
    assert trained == [
        *TUNE.lr[:3],
        TUNE.lr[2],
        TUNE.lr[3],
        *(t["lr"] for t in again["rounds"][1]["trials"]),
    ]
    count = len(trained)
    Path(tmp_path, "killed", "tuned.json").unlink()  # as Snakemake does before it starts a job
    assert without_times(tuned(job(files, tmp_path / "killed"))) == without_times(whole)
    assert len(trained) == count


def test_a_candidate_that_diverges_is_not_chosen(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = work.train

    def diverging(*arguments: Any, **named: Any) -> Any:
        if arguments[4].lr > 1:
            raise TrainingError("loss is nan at step 1")
        return real(*arguments, **named)

    monkeypatch.setattr(work, "train", diverging)
    result = tuned(job(files, tmp_path / "some", TuneSpec(lr=[9.0, 1e-3])))
    assert result["chosen"] == {"lr": 1e-3}
    assert result["rounds"][0]["trials"][0]["failed"] == "loss is nan at step 1"
    with pytest.raises(TrainingError, match="no candidate of tune could be trained: loss is nan"):
        job(files, tmp_path / "none", TuneSpec(lr=[9.0, 8.0])).run()


def test_a_run_trains_with_what_was_chosen(files: Path, tmp_path: Path) -> None:
    """As one that has it in its settings: the same bytes; and its record tells of the tuning."""
    of_tuning = job(files, tmp_path / "cell")
    result = tuned(of_tuning)

    def trained(name: str, **changes: Any) -> tuple[bytes, dict[str, Any]]:
        folder = tmp_path / name
        TrainJob(
            **common(files, folder, METHOD, "llm", "vit"),
            subset=str(files / "subset.json"),
            curve=str(folder / "train.jsonl"),
            rejects=str(folder / "train.rejects.parquet"),
            seed=3,
            **changes,
        ).run()
        record = read_json(folder / "adapter.json")["training"]
        return (folder / "adapter.safetensors").read_bytes(), record

    told = {"tuned": of_tuning.tuned, "tune": TUNE}
    by_tuning, record = trained("tuned", train=LENGTH.over(SETTINGS), **told)
    by_hand, other = trained("by-hand", train=TrainSpec(lr=BEST).over(LENGTH.over(SETTINGS)))
    assert by_tuning == by_hand
    assert record["tuned"] == {
        "chosen": {"lr": BEST},
        "candidates": {"lr": TUNE.lr},
        "held_out": result["held_out"],
        "steps_spent": 160,
    }
    assert record["config_sha256"] != other["config_sha256"]
    assert "tuned" not in other
