"""Stands where train.py stands in a sweep: keeps the run-folder contract, computes in milliseconds, imports nothing.

The objective is (x - 2)^2 + seed + 10 for data set b. x=5 fails with an error, x=6 is killed, x=7 gives NaN.
"""

import fcntl
import json
import os
import sys
import time
from pathlib import Path

values = dict(text.split("=", 1) for text in sys.argv[1:])
folder = Path(values["run_dir"])
folder.mkdir(exist_ok=True)
lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
with (folder / "starts.txt").open("a") as file:
    file.write("start\n")
x, seed = float(values["x"]), int(values["seed"])


def write(name: str, content: object) -> None:
    (folder / f".{name}").write_text(json.dumps(content))
    os.replace(folder / f".{name}", folder / name)


def say(status: str, reason: str = "", trace: str = "") -> None:
    write(
        "status.json",
        {"kind": "training", "pid": os.getpid(), "status": status, "reason": reason, "traceback": trace},
    )


say("running")
(folder / "config.yaml").write_text(f"format: 1\nseed: {seed}\nx: {x}\ndataset: {values['dataset']}\n")
for step in range(5):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "val/loss": (x - 2) ** 2 + 1 / (step + 1)}) + "\n")
    time.sleep(float(values.get("pause", "0.02")))
if x == 5:
    say("failed", "ValueError: five", "line")
    sys.exit(1)
if x == 6:
    os.kill(os.getpid(), 9)
result = None if x == 7 else (x - 2) ** 2 + seed + 10 * (values["dataset"] == "b")
write("summary.json", {"val/loss/last": result})
say("finished")
