import os
import subprocess
import sys
from pathlib import Path

import pytest
from entry import ROOT, Script


@pytest.fixture(scope="session")
def script() -> Script:
    """Runs train.py or evaluate.py as a user would; `expect` is the exit status."""

    def run(name: str, *overrides: str, cwd: Path = ROOT, expect: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "2"}
        command = [sys.executable, str(ROOT / name), *overrides]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == expect, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    return run
