"""Jobs that are killed at random moments end with the bytes of undisturbed ones."""

import re
import subprocess
import sys

import pytest

from tests.support.project import ROOT

KILLS = 20


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and killed on Linux")
def test_twenty_kills_at_random_moments_change_no_byte() -> None:
    """In a process of its own, which forks; docs/faults.md#kills has a log of a hundred."""
    command = [sys.executable, "-m", "tests.support.kills", str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": killed after") == KILLS
    for job in ("extraction", "training", "generation"):
        assert re.search(rf"^{job} \d+: killed", done.stdout, re.MULTILINE)
        assert re.search(rf"^{job} \d+: whole .*the bytes of an und", done.stdout, re.MULTILINE)
