"""Comparing days: entries kept in a file and back, what may be compared, and the numbers against plain functions."""

import fnmatch
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nissl.datasets.calcium import CalciumSimulated
from nissl.evaluators.map_activation import TrialMoments, activation_maps
from nissl.evaluators.map_days import MapDays, comparable
from nissl.evaluators.map_entries import Entry, entries_to_arrays, networks_of, read_entries
from nissl.evaluators.pattern_maps import TrialMaps
from nissl.evaluators.zncc import zncc_matrix
from nissl.models.stimulus_cnn import StimulusCNN

CONF = Path(__file__).parents[2] / "conf"
FIGURES = {f"{kind}{ending}" for kind in ("matrices", "change") for ending in ("", "_network", "_evoked")} | {"cells"}
CELLS = ("1", "2", "3", "1+2", "1+3", "2+3", "")
NAMES = ("1", "2", "3", "1+2", "1+3", "2+3", "none")


def entry(day: str, seed: int = 0, common: float = 0.0, trials: int = 4, names: tuple[str, ...] = NAMES) -> Entry:
    """Maps of three cells' places plus noise; `common` adds one picture to every pattern but none."""
    rng = np.random.default_rng([seed, len(day), int(day[-1])])
    places = np.random.default_rng(0).random((3, 4, 4))
    shared = np.random.default_rng(1).random((4, 4))
    cells = tuple("" if name == "none" else name for name in names)
    pattern = np.repeat(np.arange(len(names)), trials)
    pictures = [
        sum((places[int(c) - 1] for c in own.split("+")), common * shared) if own else np.zeros((4, 4)) for own in cells
    ]
    sums = np.stack([pictures[p] + 0.3 * rng.standard_normal((4, 4)) for p in pattern])
    maps = TrialMaps(sums, np.ones(len(pattern), dtype=int), pattern, np.arange(len(pattern)))
    mask = np.ones((4, 4), dtype=bool)
    mask[0, 0] = False
    outputs = ("1", "2", "3", "none")
    labels = np.array([[float(o in (own.split("+") if own else ["none"])) for o in outputs] for own in cells])
    signals = np.column_stack([labels[pattern], np.ones(len(pattern))])  # a network that is always right
    answers = TrialMoments(signals[:, :, None] * signals[:, None], signals[:, :, None] * sums[:, None, mask], pattern)
    return Entry(day, seed, False, "S1", names, cells, ("train", "all"), mask, maps, maps, outputs, answers)


def source(days: tuple[str, ...] = ("POD0", "POD3")) -> Any:
    cells = SimpleNamespace(names=("1", "2", "3"), positions_px=None, radius_px=None)
    return SimpleNamespace(days=days, truths={}, cells=cells, mean_image=None)


def make(**changes: Any) -> MapDays:
    values = yaml.safe_load((CONF / "evaluator/map_days.yaml").read_text())["map_days"]
    del values["_target_"]
    return MapDays(**{**values, "draws": 99, "bootstrap_draws": 60, "match_repeats": 3, **changes})


def save(folder: Path, entries: list[Entry]) -> str:
    (folder / "figures").mkdir(parents=True)
    np.savez_compressed(folder / "figures" / "map_days.npz", **entries_to_arrays(entries))
    return str(folder)


def compare(tmp_path: Path, before: list[Entry], after: list[Entry], **changes: Any) -> Any:
    runs = [save(tmp_path / "a", before), save(tmp_path / "b", after)]
    return make(runs=runs, **changes)(None, SimpleNamespace(source=source()))


def test_entries_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    (back,) = read_entries(save(tmp_path / "run", [entry("POD0", 3)]))
    first = entry("POD0", 3)
    assert (back.day, back.seed, back.names, back.cells, back.how) == ("POD0", 3, NAMES, CELLS, ("train", "all"))
    assert np.allclose(back.maps.sums, first.maps.sums, atol=1e-6) and np.array_equal(back.mask, first.mask)
    assert np.allclose(back.answers.cross, first.answers.cross, atol=1e-6) and back.outputs == first.outputs


def test_a_run_without_maps_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"was not evaluated with map_days.*evaluate.py"):
        read_entries(tmp_path)


def test_a_common_picture_on_one_day_is_called_an_effect_only_with_enough_networks(tmp_path: Path) -> None:
    days = [[entry("POD0", s) for s in range(4)], [entry("POD3", s, common=1.5) for s in range(4)]]
    result = compare(tmp_path / "four", *days)
    assert result.scalars["days/zncc_sum_change"] > 0 and result.scalars["days/zncc_sum_effect"] == 1
    assert result.scalars["days/zncc_sum_p_seed"] == pytest.approx(2 / 70)
    assert "the ZNCC sum of activation patterns rose from" in result.notes[0] and "4 + 4 seeds" in result.notes[0]
    rose, sure = (result.scalars[f"days_pattern/zncc_sum_networks_{word}"] for word in ("rose", "rose_p05"))
    assert rose == 4 and 0 < sure <= 4
    few = compare(tmp_path / "two", days[0][:2], days[1][:2])
    assert few.scalars["days/zncc_sum_effect"] == 0 and "was not distinguishable" in few.notes[0]
    assert any("train 4 or more" in note for note in few.notes)


def test_levels_are_sums_of_the_matrices_of_mean_maps(tmp_path: Path) -> None:
    days = [entry("POD0")], [entry("POD3", common=0.5)]
    result = compare(tmp_path, *days)
    for own, name in zip(days, ("reference", "day"), strict=True):
        maps = own[0].maps.mean_maps(7, "frame")[:, own[0].mask]
        assert result.scalars[f"days/zncc_sum_{name}"] == pytest.approx(zncc_matrix(maps).sum(), rel=1e-5)
        evoked = (maps - maps[-1])[:-1]
        assert result.scalars[f"days_evoked/zncc_sum_{name}"] == pytest.approx(zncc_matrix(evoked).sum(), rel=1e-5)
    own = days[1][0]
    patterns = activation_maps(own.answers.total(), own.labels(), True)[:-1]
    assert result.scalars["days_pattern/zncc_sum_day"] == pytest.approx(zncc_matrix(patterns).sum(), rel=1e-4)
    rows = {(row["maps"], row["day"]): row for row in result.tables["levels"]}
    assert rows["network", "POD3"]["zncc_sum"] == pytest.approx(result.scalars["days/zncc_sum_day"])
    assert set(result.figures) == FIGURES


def test_the_headline_and_its_null_worlds_are_those_of_the_chosen_maps(tmp_path: Path) -> None:
    days = [entry("POD0", s) for s in range(4)], [entry("POD3", s, common=1.5) for s in range(4)]
    often = {"null_effects": {"network": 5, "pattern": 1}, "null_worlds": 20}
    result = compare(tmp_path / "network", *days, headline="network", **often)
    assert "the ZNCC sum of gradcam maps was not distinguishable" in result.notes[0]
    assert "5 of 20 worlds without an effect came out as one: headline withheld" in result.notes[0]
    scalars = result.scalars
    assert scalars["days/zncc_sum_effect"] == 0 and scalars["days_pattern/zncc_sum_effect"] == 1
    assert any("1 of 20 worlds without an effect gave one." in note for note in result.notes)
    evoked = [note for note in result.notes if "evoked maps rose" in note]
    assert evoked and "worlds without" not in evoked[0], "none were tried for evoked maps"


def test_a_pattern_without_a_map_is_an_empty_row_of_the_matrix(tmp_path: Path) -> None:
    first = entry("POD0")
    counts = np.where(first.maps.pattern == 1, 0, first.maps.counts)
    result = compare(
        tmp_path, [replace(first, maps=replace(first.maps, counts=counts))], [entry("POD3")], headline="network"
    )
    matrix = result.figures["matrices"].data["reference"]
    assert matrix.shape == (7, 7) and np.isnan(matrix[1]).all() and np.isfinite(np.delete(matrix[0], 1)).all()
    assert len(result.arrays["names"]) == 6 and result.arrays["matrix_reference_pattern"].shape == (6, 6)


def test_days_with_unequal_patterns_are_refused_unless_told_to_align(tmp_path: Path) -> None:
    before, after = [entry("POD0")], [entry("POD3", names=(*NAMES[:5], "none"))]
    with pytest.raises(ValueError, match=r"only in the reference \['2\+3'\].*align"):
        compare(tmp_path / "refused", before, after)
    result = compare(tmp_path / "aligned", before, after, align="intersection")
    assert len(result.arrays["names"]) == 6
    assert any("patterns only one of the days has are left out: 2+3" in note for note in result.notes)


def test_days_mapped_in_other_ways_are_refused() -> None:
    other = replace(entry("POD3"), how=("test", "all"), area="M1")
    with pytest.raises(ValueError, match=r"area: 'S1' and 'M1'; maps:"):
        comparable([entry("POD0"), other], ("POD0", "POD3"), None)


def test_a_pattern_without_a_map_falls_out_on_both_days() -> None:
    first = entry("POD0")
    counts = np.where(first.maps.pattern == 1, 0, first.maps.counts)
    without = replace(first, maps=replace(first.maps, counts=counts))
    kept, framed, notes = comparable([without, entry("POD3")], ("POD0", "POD3"), None)
    assert all(own.names == NAMES for own in framed)  # frames and answers are there all the same
    assert all(own.names == ("1", "3", "1+2", "1+3", "2+3", "none") for own in kept)
    assert kept[1].maps.pattern.max() == 5 and "without a map by some network" in notes[0]


def test_one_day_alone_leaves_its_maps_for_later(tmp_path: Path) -> None:
    run = save(tmp_path / "a", [entry("POD0")])
    result = make(runs=[run])(None, SimpleNamespace(source=source()))
    assert result.scalars == {} and "only the day 'POD0' is here" in result.notes[0]
    assert result.arrays["entries"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"align": "union"}, "align='union' is unknown"),
        ({"order": "listed"}, "order='listed' is unknown"),
        ({"headline": "gradcam"}, "headline='gradcam' is unknown"),
        ({"null_effects": {"gradcam": 1}}, "null_effects names gradcam"),
    ],
)
def test_unknown_choices_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_a_task_of_one_network_is_its_own_list() -> None:
    task = SimpleNamespace(model="m", device="cpu")
    assert [(n.seed, n.day, n.model) for n in networks_of(task)] == [(0, None, "m")]


def test_a_run_of_two_days_compares_itself(two_days: CalciumSimulated) -> None:
    torch.manual_seed(0)
    model = StimulusCNN(1, 5, (8, 16), (1, 1), 3, 16, 0.0, False).eval()
    task = SimpleNamespace(model=model, device=torch.device("cpu"))
    result = make(which="all")(task, SimpleNamespace(source=two_days))
    assert result.arrays["entries"] == 2 and "one network for both days" in result.notes[0]
    for kind in ("days", "days_evoked", "days_pattern"):
        told = {f"{kind}/truth_r_disjoint_day", f"{kind}/truth_auroc_module_reference"}
        assert told | {f"{kind}/disjoint_beyond_targets_change", "days_truth/zncc_sum_change"} <= set(result.scalars)
    assert set(result.figures) == {*FIGURES, "clusters", "maps"}
    assert "correlation with the true matrix" in " ".join(result.notes) and "evoked maps" in " ".join(result.notes)
    for name in result.scalars:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in MapDays.metrics), name


@pytest.fixture(scope="module")
def two_days() -> CalciumSimulated:
    values = yaml.safe_load((CONF / "dataset/calcium_simulated.yaml").read_text())
    del values["_target_"]
    tiny = {
        "size_px": 36, "num_cells": 8, "num_targets": 4, "modules": [[1, 4], [2], [3]], "trials": 3, "num_outputs": 5,
        "min_target_distance_px": 7.0, "days": {"POD0": 1.0, "POD3": 2.0},
    }  # fmt: skip
    return CalciumSimulated(**{**values, **tiny})
