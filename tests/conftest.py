import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from entry import ROOT, Script

from nissl.runs.warm_start import WarmStart


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmStart]:
    """Starts programs from a process that has done the imports."""
    client = WarmStart()
    yield client
    client.close()


@pytest.fixture(scope="session")
def script(warm: WarmStart) -> Script:
    """Runs train.py or evaluate.py as a user would; `expect` is the exit status."""

    def run(name: str, *overrides: str, cwd: Path = ROOT, expect: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / name), *overrides]
        done = warm.run(command, cwd=cwd, env=environment, timeout=600)
        assert done.returncode == expect, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    return run
