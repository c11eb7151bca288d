import numpy as np
import pytest

from nissl.models.laplacian_positions import _smooth, laplacian_positions, normalised_adjacency, repeated_eigenvalues


def tree_edges(parent: list[int]) -> np.ndarray:
    child, above = np.arange(1, len(parent)), np.array(parent[1:])
    return np.stack([np.concatenate([child, above]), np.concatenate([above, child])])


def random_tree(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return tree_edges([-1] + [int(rng.integers(max(0, i - 3), i)) for i in range(1, n)])


def test_a_path_of_three_has_the_published_reference_code() -> None:
    code = laplacian_positions(tree_edges([-1, 0, 1]), 3, 4, "reference")
    np.testing.assert_allclose(np.abs(code[:, 0]), np.abs(np.array([1, 0, -1])) / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(np.abs(code[:, 1]), np.sqrt([2, 3, 2]) / np.sqrt(7), atol=1e-6)
    np.testing.assert_array_equal(code[:, 2:], 0)


def test_a_path_of_three_has_eigenvalues_0_1_2_without_self_loops() -> None:
    a = normalised_adjacency(tree_edges([-1, 0, 1]), 3, self_loops=False)
    np.testing.assert_allclose(np.linalg.eigvalsh(np.eye(3) - a), [0, 1, 2], atol=1e-12)
    code = laplacian_positions(tree_edges([-1, 0, 1]), 3, 2, "smooth")
    np.testing.assert_allclose(np.abs(code[:, 0]), np.array([1, 0, 1]) / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(np.abs(code[:, 1]), [0.5, np.sqrt(0.5), 0.5], atol=1e-6)


@pytest.mark.parametrize("kind", ["smooth", "reference"])
@pytest.mark.parametrize("n", [40, 150])
def test_columns_are_orthogonal_unit_eigenvectors(kind: str, n: int) -> None:
    edges = random_tree(n, seed=n)
    code = laplacian_positions(edges, n, 16, kind).astype(float)  # type: ignore[arg-type]
    a = normalised_adjacency(edges, n, self_loops=kind == "reference")
    values = np.sum(code * (a @ code), axis=0)
    np.testing.assert_allclose(a @ code, code * values, atol=1e-6)
    np.testing.assert_allclose(code.T @ code, np.eye(16), atol=1e-5)
    descending = 1 - values if kind == "smooth" else values - 1
    assert np.all(np.diff(descending) > -1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_half_size_form_equals_the_full_one(seed: int) -> None:
    edges = random_tree(120, seed)
    fast, slow = laplacian_positions(edges, 120, 12), _smooth(edges, 120, 12)
    np.testing.assert_allclose(np.abs(np.sum(fast * slow, axis=0)), 1.0, atol=1e-5)


def test_the_spectrum_of_a_tree_without_self_loops_is_symmetric_about_1() -> None:
    values = np.linalg.eigvalsh(np.eye(30) - normalised_adjacency(random_tree(30, 0), 30, self_loops=False))
    np.testing.assert_allclose(values + values[::-1], 2.0, atol=1e-10)


def test_small_graphs_are_padded_with_zeros() -> None:
    code = laplacian_positions(random_tree(5, 0), 5, 32)
    assert code.shape == (5, 32) and np.all(code[:, 4:] == 0) and np.all(np.any(code[:, :4] != 0, axis=0))


def test_canonical_signs_do_not_depend_on_node_order() -> None:
    n = 30
    edges, order = random_tree(n, 8), np.random.default_rng(0).permutation(n)
    code, renamed = laplacian_positions(edges, n, 6), laplacian_positions(order[edges], n, 6)
    np.testing.assert_allclose(renamed[order], code, atol=1e-5)


def test_drawn_signs_flip_whole_columns_and_come_from_the_generator() -> None:
    edges = random_tree(40, 0)
    canonical = laplacian_positions(edges, 40, 8)
    a, b = (laplacian_positions(edges, 40, 8, rng=np.random.default_rng(s)) for s in (1, 1))
    np.testing.assert_array_equal(a, b)
    signs = np.sum(a * canonical, axis=0)
    np.testing.assert_allclose(np.abs(signs), 1.0, atol=1e-5)
    assert set(np.sign(signs)) == {-1.0, 1.0}


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="kind must be one of smooth, reference"):
        laplacian_positions(random_tree(5, 0), 5, 2, "rough")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="signs must be one of flip"):
        laplacian_positions(random_tree(5, 0), 5, 2, signs="any")  # type: ignore[arg-type]


def test_a_walk_on_a_path_of_three_is_back_by_hand() -> None:
    path = np.array([[1, 2, 0, 1], [0, 1, 1, 2]])
    code = laplacian_positions(path, 3, 2, "random_walk")
    # From an end: to the middle, and back with 1/2, also after 4 steps. From the middle: always back after 2.
    np.testing.assert_allclose(code, [[0.5, 0.5], [1.0, 1.0], [0.5, 0.5]], atol=1e-7)
    edges, order = random_tree(20, 0), np.random.default_rng(0).permutation(20)
    renamed = laplacian_positions(order[edges], 20, 4, "random_walk")
    np.testing.assert_allclose(renamed[order], laplacian_positions(edges, 20, 4, "random_walk"), atol=1e-6)


def test_no_encoding_is_zeros() -> None:
    assert not laplacian_positions(random_tree(9, 0), 9, 4, "none").any()


def test_signs_are_kept_dropped_or_made_canonical_whatever_the_generator() -> None:
    edges, rng = random_tree(30, 0), np.random.default_rng(0)
    canonical = laplacian_positions(edges, 30, 6)
    np.testing.assert_array_equal(laplacian_positions(edges, 30, 6, rng=rng, signs="canonical"), canonical)
    np.testing.assert_array_equal(laplacian_positions(edges, 30, 6, rng=rng, signs="absolute"), np.abs(canonical))
    raw = laplacian_positions(edges, 30, 6, rng=rng, signs="raw")
    np.testing.assert_array_equal(np.abs(raw), np.abs(canonical))
    np.testing.assert_array_equal(raw, laplacian_positions(edges, 30, 6, signs="raw"))


def test_a_star_shares_the_eigenvalue_of_its_arms_and_a_path_shares_none() -> None:
    star, path = tree_edges([-1] + [0] * 6), tree_edges([-1, 0, 1, 2, 3, 4])
    # Eigenvalues of a star of 6 arms without self-loops: 0, five times 1, 2.
    assert repeated_eigenvalues(star, 7, 32, "smooth") == 5 and repeated_eigenvalues(star, 7, 3, "smooth") == 3
    assert repeated_eigenvalues(path, 6, 32, "smooth") == repeated_eigenvalues(path, 6, 32, "reference") == 0
    assert repeated_eigenvalues(star, 7, 32, "random_walk") == 0, "no eigenvectors there"
