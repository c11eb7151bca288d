import numpy as np
import pytest
from scipy.stats import f_oneway, ks_2samp

from nissl.simulate.neurons import (
    FAMILY,
    MORE_POPULATIONS,
    POPULATIONS,
    SimulatedNeuron,
    simulate_neuron,
    simulate_neurons,
)


def test_every_cell_is_a_tree_rooted_at_the_soma() -> None:
    for neuron in simulate_neurons(5, seed=0):
        n = len(neuron.pos)
        assert 60 < n < 1500 and neuron.parent[0] == -1 and neuron.type[0] == 1
        assert np.all(neuron.parent[1:] >= 0) and np.all(neuron.parent[1:] < np.arange(1, n))
        np.testing.assert_array_equal(neuron.pos[0], 0.0)


def test_cells_depend_on_seed_population_and_number_alone() -> None:
    few, many, other = simulate_neurons(2, seed=0), simulate_neurons(4, seed=0), simulate_neurons(2, seed=1)
    np.testing.assert_array_equal(few[3].pos, many[5].pos)
    assert few[3].population == many[5].population == POPULATIONS[1]
    assert not np.array_equal(few[0].pos, other[0].pos)


def test_size_does_not_tell_the_populations_apart() -> None:
    medians = [
        np.median([np.linalg.norm(simulate_neuron(p, np.random.default_rng(k)).pos, axis=1).std() for k in range(40)])
        for p in POPULATIONS
    ]
    rms = [
        [np.sqrt((simulate_neuron(p, np.random.default_rng([q, k])).pos ** 2).sum(axis=1).mean()) for k in range(40)]
        for q, p in enumerate(POPULATIONS)
    ]
    assert f_oneway(*np.log(rms)).pvalue > 0.05, "overall size has one distribution"
    assert max(medians) < 2 * min(medians)


def test_basket_cells_fork_more_often_than_stellate_cells() -> None:
    num_forks = {}
    for p in ("stellate", "basket"):
        cells = [simulate_neuron(p, np.random.default_rng(k)) for k in range(20)]
        num_forks[p] = [int((np.bincount(c.parent[1:], minlength=len(c.pos))[1:] >= 2).sum()) for c in cells]
    assert np.median(num_forks["basket"]) > 2 * np.median(num_forks["stellate"])


def test_an_unknown_population_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown population 'granule'"):
        simulate_neuron("granule", np.random.default_rng(0))


def cells_of(population: str, count: int = 30) -> list[SimulatedNeuron]:
    return simulate_neurons(count, 0, [population])


def path_to_soma(neuron: SimulatedNeuron) -> np.ndarray:
    length = np.zeros(len(neuron.pos))
    for i in range(1, len(length)):
        above = neuron.parent[i]
        length[i] = length[above] + np.linalg.norm(neuron.pos[i] - neuron.pos[above])
    return length


def test_the_first_five_populations_are_what_they_were() -> None:
    """Quick experiments are compared over versions."""
    sizes_and_ends = {
        "tufted": (509, [98.15, 233.608, 2.953]),
        "untufted": (445, [14.318, 142.665, -12.003]),
        "bitufted": (406, [-27.808, 146.641, -77.237]),
        "stellate": (306, [55.708, 53.251, -157.092]),
        "basket": (496, [-38.874, 41.492, 54.111]),
    }
    for neuron in simulate_neurons(1, 0):
        size, end = sizes_and_ends[neuron.population]
        assert len(neuron.pos) == size and neuron.pos[-1] == pytest.approx(end, abs=2e-3)


def test_every_population_is_a_tree_of_a_family_and_asked_for_by_name() -> None:
    assert set(FAMILY) == {*POPULATIONS, *MORE_POPULATIONS}
    for neuron in simulate_neurons(3, 0, MORE_POPULATIONS):
        n = len(neuron.pos)
        assert 100 < n < 3000 and neuron.parent[0] == -1 and np.all(neuron.parent[1:] < np.arange(1, n))
    few, many = simulate_neurons(1, 0, ["direct"]), simulate_neurons(2, 0, ["basket", "direct"])
    np.testing.assert_array_equal(few[0].pos, many[2].pos)


def test_wiring_differs_by_paths_and_not_by_where_the_tips_may_lie() -> None:
    paths, radii, cable = {}, {}, {}
    for population in ("thrifty", "direct"):
        cells = cells_of(population)
        rms = [np.sqrt(np.mean(np.sum(c.pos**2, axis=1))) for c in cells]
        paths[population] = np.array([path_to_soma(c).mean() / r for c, r in zip(cells, rms, strict=True)])
        radii[population] = np.concatenate([np.quantile(np.linalg.norm(c.pos, axis=1) / r, [0.25, 0.5, 0.75])
                                            for c, r in zip(cells, rms, strict=True)])  # fmt: skip
        cable[population] = [len(c.pos) for c in cells]
    assert paths["thrifty"].min() > paths["direct"].max(), "thrifty cells take detours"
    assert np.median(cable["thrifty"]) < np.median(cable["direct"])
    assert abs(np.median(radii["thrifty"]) / np.median(radii["direct"]) - 1) < 0.1


def test_axonal_populations_share_their_dendrites() -> None:
    share, forks = {}, {}
    for population in ("martinotti", "chandelier"):
        cells = cells_of(population)
        forks[population] = [int(np.sum(c.type == 3)) for c in cells]
        share[population] = [np.ptp(c.pos[c.type == 2][:, 1]) / np.ptp(c.pos[:, 1]) for c in cells]
        assert all(np.sum(c.type == 2) > 50 for c in cells)
    assert ks_2samp(forks["martinotti"], forks["chandelier"]).pvalue > 0.01
    assert min(share["martinotti"]) > 0.5
