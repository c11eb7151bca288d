import numpy as np
import pytest
from scipy.stats import f_oneway

from nissl.simulate.neurons import POPULATIONS, simulate_neuron, simulate_neurons


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
