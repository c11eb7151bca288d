"""A movie larger than memory: 10 GiB, trained on with at most 2 GiB resident.

    OMP_NUM_THREADS=1 python benchmarks/calcium_loading.py [--kind npy|hdf5] [--steps 50]

40,960 frames of 512 x 256 pixels (uint16). `npy`: a sparse, memory-mapped file; each frame has a few bright rows, the
rest are holes that read as zeros. `hdf5`: a virtual data set that shows few stored stretches of noise again and again.
Either is opened as `calcium_movie` does, checked, measured and trained on, frames averaged to 128 x 64; printed are
peak resident memory and frames per CPU-second. Not a test: it takes minutes on a busy machine.

Measured with npy and 10 steps (one thread, 2 shared cores with AMX): peak 1.04 GiB, of which 0.42 GiB are imports;
8.4 CPU-s to open, check and measure; 1,719 frames read and 241 trained per CPU-second.
With hdf5 and 5 steps: peak 0.73 GiB; 8.5 CPU-s; 1,247 read, 234 trained.
"""

from __future__ import annotations

import argparse
import mmap
import resource
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch
import yaml

from nissl.datasets.calcium import CalciumMovie
from nissl.datasets.datamodule import DataModule
from nissl.models.stimulus_cnn import StimulusCNN

CONF = Path(__file__).parents[1] / "conf/dataset/calcium_movie.yaml"
SHAPE = (40_960, 512, 256)
FPS, EVERY = 7.5, 40  # a stimulation every 40 frames


def write_npy(path: Path) -> None:
    """A file with holes: 10 GiB long, a few hundred MB on disk."""
    movie = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=SHAPE)
    rng = np.random.default_rng(0)
    for start in range(0, SHAPE[0], EVERY):
        frames = movie[start : start + EVERY]
        frames[:, :4] = rng.integers(90, 140, size=(len(frames), 4, SHAPE[2]))
        top = 100 * (start // EVERY % 4) + 8
        frames[12:20, top : top + 8] = 400
        movie.flush()
        movie._mmap.madvise(mmap.MADV_DONTNEED)  # what was written must not count as memory of the training


def write_hdf5(path: Path) -> None:
    """10 GiB of frames, few MB of distinct ones."""
    rng = np.random.default_rng(0)
    tile = rng.integers(90, 140, size=(EVERY, *SHAPE[1:]), dtype=np.uint16)
    layout = h5py.VirtualLayout(shape=SHAPE, dtype=np.uint16)
    for i in range(4):  # four distinct stretches of 40 frames, each mapped to every fourth place
        with h5py.File(path.with_name(f"part{i}.h5"), "w") as file:
            stretch = tile.copy()
            stretch[12:20, 100 * i : 100 * i + 80, 40:200] += 60
            file["frames"] = stretch
        source = h5py.VirtualSource(str(path.with_name(f"part{i}.h5")), "frames", shape=tile.shape)
        for start in range(i * EVERY, SHAPE[0], 4 * EVERY):
            stop = min(start + EVERY, SHAPE[0])
            layout[start:stop] = source[: stop - start]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("movie", layout)


def write_events(path: Path) -> None:
    rows = [f"{start + 12},{start + 13},{i % 4 + 1}" for i, start in enumerate(range(0, SHAPE[0] - EVERY, EVERY))]
    path.write_text("\n".join(["onset_frame,offset_frame,cells", *rows]) + "\n")


def resident_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("npy", "hdf5"), default="npy")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", default=None, help="where the movie is written; default the system's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        path = folder / ("movie.npy" if arguments.kind == "npy" else "movie.h5")
        (write_npy if arguments.kind == "npy" else write_hdf5)(path)
        write_events(folder / "events.csv")
        values = yaml.safe_load(CONF.read_text())
        del values["_target_"]
        values |= {"fps": FPS, "num_outputs": 5, "resize": [128, 64], "mask": "none"}
        values |= {"path": str(path), "events_path": str(folder / "events.csv")}
        print(f"movie: {np.prod(SHAPE) * 2 / 2**30:.1f} GiB, at start {resident_gib():.2f} GiB resident")
        began = time.process_time()
        source = CalciumMovie(**values)
        print(f"opened, checked, measured: {time.process_time() - began:.1f} CPU-s, peak {resident_gib():.2f} GiB")
        data = DataModule(source, batch_size=64)
        net = StimulusCNN(1, 5, (16, 32, 64, 64), (1, 1, 1, 0), 4, 128, 0.0, False)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        reading = training = 0.0
        batches = iter(data.train_dataloader())
        for _ in range(arguments.steps):
            began = time.process_time()
            batch = next(batches)
            reading += time.process_time() - began
            began = time.process_time()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(batch["frames"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            training += time.process_time() - began
        frames = 64 * arguments.steps
        print(f"{frames} training frames: read {frames / reading:.0f}, trained {frames / training:.0f} per CPU-second")
        peak = resident_gib()
        print(f"peak resident memory {peak:.2f} GiB: {'within' if peak <= 2 else 'ABOVE'} 2 GiB")


if __name__ == "__main__":
    main()
