"""One job for several seeds of a run: the files, and the bytes, of a job for each."""

import shutil
from pathlib import Path

from depalm.files import sha256_file
from tests.support.workflow import VQA, build, configuration, planned, run

SEEDS = [0, 1, 2]
RUNS = [f"{VQA}/qp_l0/seed{seed}" for seed in SEEDS]
TARGETS = [f"{path}/adapter.safetensors" for path in RUNS]


def test_seeds_of_one_job_have_the_bytes_of_jobs_of_their_own(tmp_path: Path) -> None:
    folder = build(tmp_path)
    grid = [
        {
            "datasets": ["shapes-vqa"],
            "backbones": ["vit-tiny"],
            "llms": ["llama-tiny"],
            "methods": ["qp_l0"],
            "fractions": ["100pct"],
            "seeds": SEEDS,
        }
    ]
    together = configuration(tmp_path, "together", grid=grid, seeds_per_job=2)
    apart = configuration(tmp_path, "apart", grid=grid)
    jobs = planned(folder, *together, "--", *TARGETS)
    assert {rule: jobs[rule] for rule in ("train", "train_seeds_0")} == dict.fromkeys(
        ("train", "train_seeds_0"), 1
    )
    log = run(folder, *together, "--", *TARGETS)
    assert "train: 100% 12/12" in log
    assert planned(folder, *together, "--", *TARGETS) == {}
    # a seed that is asked for alone brings the other of its job along, and no third
    (folder / TARGETS[1]).unlink()
    assert planned(folder, *together, "--", TARGETS[1]) == {"train_seeds_0": 1}
    run(folder, *together, "--", TARGETS[1])
    before = [sha256_file(folder / target) for target in TARGETS]
    assert len(set(before)) == len(SEEDS)
    for path in RUNS:
        shutil.rmtree(folder / path)
    assert planned(folder, *apart, "--", *TARGETS) == {"train": 3}
    run(folder, *apart, "--", *TARGETS)
    assert [sha256_file(folder / target) for target in TARGETS] == before
