"""The cache: what it is keyed by, concurrent writers, damage; and encodings that are computed once."""

import logging
import multiprocessing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nissl.datasets.morphology_cache import DiskCache, EncodingMemory, default_folder, key_of, open_cache
from nissl.datasets.swc_cells import Preprocessing, SourceCells, read_source
from nissl.datasets.swc_report import Rules

CELL = "1 1 5 5 5 5 -1\n2 3 5 25 5 1 1\n3 2 5 45 5 1 2\n4 3 5 65 5 1 3\n"
ARRAYS = {"pos": np.arange(12.0).reshape(4, 3), "parent": np.array([-1, 0, 1, 2])}


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    assert cache.load("cells", "a") is None
    cache.store("cells", "a", ARRAYS)
    again = cache.load("cells", "a")
    assert again is not None and again.keys() == ARRAYS.keys() and (cache.hits, cache.misses) == (1, 1)
    np.testing.assert_array_equal(again["pos"], ARRAYS["pos"])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "another entry"])
def test_a_damaged_entry_is_thrown_away_with_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(tmp_path)
    cache.store("cells", "a", ARRAYS)
    path = cache.path("cells", "a")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        place = content.index(np.float64(7.0).tobytes())
        content[place + 6] ^= 1
    elif damage == "another entry":
        cache.store("cells", "b", ARRAYS)
        content = bytearray(cache.path("cells", "b").read_bytes())
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b""}.get(damage, bytes(content)))
    with caplog.at_level(logging.WARNING):
        assert cache.load("cells", "a") is None
    assert "is damaged" in caplog.text and not path.exists()


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        DiskCache(tmp_path / "file").store("cells", "a", ARRAYS)
    assert "cannot write the cache entry" in caplog.text


def _write_and_read(folder: str, worker: int) -> int:
    cache = DiskCache(Path(folder))
    for _ in range(40):
        cache.store("cells", "same", {"value": np.full(20_000, 7)})
        found = cache.load("cells", "same")
        assert found is not None and np.all(found["value"] == 7)
    return worker


def test_writers_of_one_entry_never_show_each_other_a_half(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.starmap(_write_and_read, [(str(tmp_path), k) for k in range(3)]) == [0, 1, 2]
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["same.npz"]


def test_keys_depend_on_every_part_and_on_where_parts_end() -> None:
    keys = [
        key_of("a", "b"), key_of("ab", ""), key_of(b"a", "b"), key_of({"x": 1}), key_of({"x": 2}),
        key_of(np.arange(3)), key_of(np.arange(3, dtype=np.int32)), key_of([1.0, None]),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key_of({"x": 1, "y": (1, 2)}) == key_of({"y": [1, 2], "x": 1})


def test_auto_is_the_folder_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NISSL_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    opened = open_cache("auto")
    assert opened is not None and opened.folder == tmp_path and open_cache(None) is None
    monkeypatch.delenv("NISSL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "nissl"


def read(folder: Path, cache: DiskCache | None, **settings: object) -> SourceCells:
    return read_source(folder, [], Preprocessing(Rules(), **settings), cache=cache)  # type: ignore[arg-type]


def test_cells_from_the_cache_are_those_read_with_reports_and_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    (folder / "a.swc").write_text(CELL)
    (folder / "b.swc").write_text(CELL.replace("1 1 5", "1 3 5"))  # refused: no soma
    (folder / "c.swc").write_text("# nothing\n")
    cache = DiskCache(tmp_path / "cache")
    settings = {"compartments": ["soma", "dendrite"]}
    plain, cold, warm = read(folder, None, **settings), read(folder, cache, **settings), read(folder, cache, **settings)
    assert (cache.hits, cache.misses) == (1, 1)
    for found in (cold, warm):
        assert found.keys == plain.keys and found.reports == plain.reports and found.left_out == plain.left_out
        assert found.failures == plain.failures and list(found.failures) == ["b.swc"] and found.paths == plain.paths
        for name in ("pos", "radius", "type", "parent"):
            np.testing.assert_array_equal(getattr(found.cells[0], name), getattr(plain.cells[0], name))
        assert found.cells[0].id == "a.swc"


def test_another_content_or_setting_is_another_entry(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    (folder / "a.swc").write_text(CELL)
    cache = DiskCache(tmp_path / "cache")
    assert len(read(folder, cache).cells[0]) == 4
    assert len(read(folder, cache, compartments=["soma", "dendrite"]).cells[0]) == 3
    (folder / "a.swc").write_text(CELL + "5 3 5 85 5 1 4\n")
    assert len(read(folder, cache).cells[0]) == 5
    assert (cache.hits, cache.misses) == (0, 3)


def count_columns(edges: np.ndarray, num_nodes: int, rng: np.random.Generator | None, num_columns: int) -> np.ndarray:
    assert rng is None and edges.shape == (2, 2 * (num_nodes - 1))
    return np.full((num_nodes, num_columns), num_nodes, np.float32)


def test_a_tree_is_encoded_once_in_memory_and_on_disk(tmp_path: Path) -> None:
    parents = [np.array([-1, 0, 1]), np.array([-1, 0, 0, 0]), np.array([-1, 0, 1])]
    encode = partial(count_columns, num_columns=2)
    first = EncodingMemory(DiskCache(tmp_path))
    found = first.encodings(parents, encode)
    assert [pe.shape for pe in found] == [(3, 2), (4, 2), (3, 2)] and first.computed == 2
    first.encodings(parents[:2], encode)
    assert first.computed == 2
    again = EncodingMemory(DiskCache(tmp_path))
    np.testing.assert_array_equal(again.encodings(parents, encode)[1], found[1])
    assert again.computed == 0
    again.encodings(parents, partial(count_columns, num_columns=3))
    assert again.computed == 2, "another way of encoding is another entry"


def test_encoders_without_a_name_are_remembered_in_memory_alone(tmp_path: Path) -> None:
    memory = EncodingMemory(DiskCache(tmp_path))

    def encode(edges: np.ndarray, num_nodes: int, rng: object) -> np.ndarray:
        return np.zeros((num_nodes, 1), np.float32)

    memory.encodings([np.array([-1, 0])], encode)
    memory.encodings([np.array([-1, 0])], encode)
    assert memory.computed == 1 and not (tmp_path / "encodings").exists()
