"""Stands where train.py stands in a sweep: keeps the run-folder contract, computes in milliseconds.

The objective is (x - 2)^2 + seed + 10 for data set b. x=5 fails with an error, x=6 is killed, x=7 gives NaN.
"""

import os
import sys
import time
from pathlib import Path

from nissl.runs.folder import lock, write_json

values = dict(text.split("=", 1) for text in sys.argv[1:])
folder = Path(values["run_dir"])
folder.mkdir(exist_ok=True)
lock(folder)
with (folder / "starts.txt").open("a") as file:
    file.write("start\n")
x, seed = float(values["x"]), int(values["seed"])
status = {"kind": "training", "pid": os.getpid(), "reason": "", "traceback": ""}
write_json(folder / "status.json", {**status, "status": "running"})
for step in range(5):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {step}, "val/loss": {(x - 2) ** 2 + 1 / (step + 1)}}}\n')
    time.sleep(float(values.get("pause", "0.02")))
if x == 5:
    write_json(
        folder / "status.json", {**status, "status": "failed", "reason": "ValueError: five", "traceback": "line"}
    )
    sys.exit(1)
if x == 6:
    os.kill(os.getpid(), 9)
result = float("nan") if x == 7 else (x - 2) ** 2 + seed + 10 * (values["dataset"] == "b")
write_json(folder / "summary.json", {"val/loss/last": result})
write_json(folder / "status.json", {**status, "status": "finished"})
