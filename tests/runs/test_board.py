import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from nissl.runs.board import serve, serve_sweep

LOG = """
import os, sys
os.environ["TRACKIO_DIR"] = sys.argv[1]
import trackio
run = trackio.init(project="nissl", name="first", embed=False, auto_log_gpu=False, auto_log_cpu=False)
run.log({"val/loss": 0.5}, step=1)
run.finish()
"""


def test_without_runs_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train with logger=default or logger=local first"):
        serve(tmp_path)


@pytest.mark.slow
def test_the_board_serves_the_runs_folder_until_ctrl_c_and_prints_no_token(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", LOG, str(tmp_path / ".trackio")], check=True, env=environment, timeout=120)
    command = [sys.executable, "-u", "-m", "nissl.cli", "board", "--runs", str(tmp_path), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as board:
        assert board.stdout is not None
        lines = []
        try:
            for line in board.stdout:
                lines.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                    break
            assert found, "".join(lines)
            with urllib.request.urlopen(found[0], timeout=30) as answer:
                assert answer.status == 200 and b"<html" in answer.read().lower()
        finally:
            board.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                board.wait(20)
            board.kill()
        rest = board.stdout.read()
    assert board.returncode == 130, rest
    assert "token" not in "".join(lines) + rest


def test_a_sweep_without_a_record_has_no_dashboard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it has no study.db"):
        serve_sweep(tmp_path)
