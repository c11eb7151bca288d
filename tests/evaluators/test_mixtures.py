import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from nissl.evaluators.mixtures import (
    MixtureSettings,
    choose_by_bic,
    cluster_reliability,
    fit_mixture,
    held_out_likelihood,
    one_standard_error,
    stability,
)

DIAGONAL = MixtureSettings("diag", 1e-3, 2)


def three(separation: float = 12.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(c * separation, 1.0, size=(40, 2)) for c in range(3)])


def test_three_separated_gaussians_are_three_by_both_choices_and_perfectly_stable() -> None:
    x = three()
    fit, curve = choose_by_bic(x, 5, DIAGONAL, 0)
    assert fit.n_components == 3 and curve.argmin() == 2
    assert one_standard_error(held_out_likelihood(x, 5, DIAGONAL, 4, 0)) == 3
    seeds, samples, together = stability(x, 3, DIAGONAL, 3, 0)
    assert seeds == samples == pytest.approx(1.0)
    assert set(np.unique(together)) == {0.0, 1.0}
    assert set(cluster_reliability(fit.predict(x), together).values()) == {1.0}


def test_one_gaussian_is_one_by_both_choices() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    assert choose_by_bic(x, 4, DIAGONAL, 0)[0].n_components == 1
    assert one_standard_error(held_out_likelihood(x, 4, DIAGONAL, 4, 0)) == 1
    _, samples, together = stability(x, 3, DIAGONAL, 3, 0)
    assert samples < 0.8 and together.min() < 1


def test_the_diagonal_mixture_is_scikit_learns() -> None:
    x = three(3.0)
    expected = GaussianMixture(3, covariance_type="diag", reg_covar=1e-3, n_init=2, random_state=0).fit(x)
    np.testing.assert_array_equal(fit_mixture(x, 3, DIAGONAL, 0).predict(x), expected.predict(x))


def test_the_smallest_number_within_one_standard_error_is_taken() -> None:
    clear = np.array([[0.0, 1.0, 1.01], [0.1, 1.1, 1.09], [0.0, 1.0, 1.02]])
    assert one_standard_error(clear) == 2
    assert one_standard_error(np.array([[0.0, 1.0, 2.0]])) == 3, "one repeat has no error"


def test_a_cluster_of_one_has_no_reliability() -> None:
    assert np.isnan(cluster_reliability(np.array([0, 1, 1]), np.ones((3, 3)))[0])


def test_one_cell_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least two training cells"):
        choose_by_bic(np.zeros((1, 3)), 4, DIAGONAL, 0)
