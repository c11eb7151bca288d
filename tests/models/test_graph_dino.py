"""Sizes, invariances, padding, and agreement with the published network."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from nissl.models.graph_dino import GraphDINO, import_weights, our_name, to_dense, wave_features
from nissl.tasks.distillation import dino_loss, teacher_probabilities

WEIGHTS = Path(os.environ.get("NISSL_DATA", "data")) / "weights" / "graph_dino_allen"


def small_model(**changes: object) -> GraphDINO:
    torch.manual_seed(0)
    options = {"dim": 16, "depth": 2, "num_heads": 2, "num_positions": 6, "num_prototypes": 10, **changes}
    return GraphDINO(**options).eval()  # type: ignore[arg-type]


def tree(n: int, seed: int) -> Data:
    rng = np.random.default_rng(seed)
    parent = np.array([int(rng.integers(max(0, i - 3), i)) for i in range(1, n)])
    child = np.arange(1, n)
    edges = np.stack([np.concatenate([child, parent]), np.concatenate([parent, child])])
    pos = torch.from_numpy(rng.normal(0, 100, (n, 3)).astype(np.float32))
    return Data(pos=pos, edge_index=torch.from_numpy(edges), label=torch.tensor(0))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("heads", "prototypes", "total", "encoder"), [(8, 1000, 431_382, 264_878), (4, 5000, 832_694, 150_190)]
)
def test_published_configurations_have_the_published_size(
    heads: int, prototypes: int, total: int, encoder: int
) -> None:
    model = GraphDINO(32, 7, heads, num_prototypes=prototypes, head="reference")
    assert count(model) == total
    assert count(model) - count(model.projector) == encoder


def test_a_batch_gives_one_row_per_graph() -> None:
    model, batch = small_model(), Batch.from_data_list([tree(12, 0), tree(20, 1), tree(20, 2)])
    assert model(batch).shape == (3, 10) and model.embed(batch).shape == (3, 16)


def test_the_cls_token_is_a_neighbour_of_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    import nissl.models.graph_dino as module

    original = module.Neighbours
    monkeypatch.setattr(module, "Neighbours", lambda dense: seen.append(dense) or original(dense))
    small_model().embed(Batch.from_data_list([tree(12, 0)]))
    assert torch.equal(seen[0][0, 0], torch.eye(13)[0]) and torch.equal(seen[0][0, :, 0], torch.eye(13)[0])


@pytest.mark.parametrize("changes", [{}, {"readout": "cls_and_mean", "num_waves": 2}])
def test_padding_changes_nothing(changes: dict[str, object]) -> None:
    model, graphs = small_model(**changes), [tree(12, 0), tree(30, 1), tree(21, 2)]
    together = model.embed(Batch.from_data_list(graphs))
    alone = torch.cat([model.embed(Batch.from_data_list([g])) for g in graphs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_with_and_without_gradients_the_embedding_is_the_same() -> None:
    model, batch = small_model(), Batch.from_data_list([tree(12, 0), tree(30, 1)])
    with torch.no_grad():
        fused = model.embed(batch)
    torch.testing.assert_close(model.embed(batch), fused, atol=1e-5, rtol=1e-4)


def test_permuting_nodes_changes_nothing() -> None:
    model, graph = small_model(), tree(25, 0)
    pos, adjacency, pe, _ = to_dense(Batch.from_data_list([graph]), torch.randn(25, 6))
    order = torch.randperm(25)
    permuted = model.embed_dense(pos[:, order], adjacency[:, order][:, :, order], pe[:, order])
    torch.testing.assert_close(permuted, model.embed_dense(pos, adjacency, pe), atol=1e-5, rtol=1e-4)


def test_dense_adjacency_is_symmetric_with_self_loops_and_zero_padding() -> None:
    batch = Batch.from_data_list([tree(4, 0), tree(6, 1)])
    _, adjacency, _, mask = to_dense(batch, torch.zeros(10, 6))
    assert mask is not None and mask.sum(dim=1).tolist() == [4, 6]
    assert torch.equal(adjacency, adjacency.transpose(1, 2))
    assert adjacency[0, :4, :4].sum() == 4 + 2 * 3 and adjacency[0, 4:, :4].sum() == 0


def test_the_positional_encoding_of_a_graph_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    import nissl.models.graph_dino as module

    original = module.laplacian_positions
    monkeypatch.setattr(module, "laplacian_positions", lambda *a, **k: calls.append(1) or original(*a, **k))
    model = small_model()
    for _ in range(3):
        model.embed(Batch.from_data_list([tree(12, 0), tree(20, 1), tree(12, 0)]))
    assert len(calls) == 2


def test_hidden_nodes_lose_their_position_but_not_their_place_in_the_tree() -> None:
    model, graphs = small_model(hidden_token=True), [tree(12, 0), tree(20, 1)]
    hidden = torch.zeros(32, dtype=torch.bool)
    hidden[[3, 15]] = True
    seen = model.embed_nodes(Batch.from_data_list(graphs), None)
    without = model.embed_nodes(Batch.from_data_list(graphs), hidden)
    assert seen.shape == (32, 16) and not torch.allclose(seen, without)
    graphs[0].pos[3] += 500.0
    torch.testing.assert_close(model.embed_nodes(Batch.from_data_list(graphs), hidden), without)
    assert not torch.allclose(model.embed_nodes(Batch.from_data_list(graphs), None), seen)


def test_without_a_hidden_token_there_is_no_parameter_for_it() -> None:
    assert (
        "tokens.hidden" not in small_model().state_dict()
        and "tokens.hidden" in small_model(hidden_token=True).state_dict()
    )


def test_waves_are_sines_and_cosines_of_height_and_distance() -> None:
    pos = torch.tensor([[3.0, 2.0, 4.0]])
    assert torch.equal(wave_features(pos, 0), pos)
    features = wave_features(pos, 1)[0]
    distance = 29**0.5
    angle = torch.pi / 4 * torch.tensor([2.0, distance])
    expected = torch.cat([pos[0], torch.tensor([5.0, distance]), angle.sin(), angle.cos()])
    torch.testing.assert_close(features, expected)
    turned = wave_features(torch.tensor([[-4.0, 2.0, 3.0]]), 4)[0]
    torch.testing.assert_close(turned[3:], wave_features(pos, 4)[0, 3:])


def test_nodes_are_embedded_by_the_wider_readout_too() -> None:
    model = small_model(readout="cls_and_mean")
    assert model.embed_nodes(Batch.from_data_list([tree(12, 0)]), None).shape == (12, 16)


def test_bounded_logits_are_cosines() -> None:
    logits = small_model(head="bounded")(Batch.from_data_list([tree(12, s) for s in range(8)])).detach()
    assert float(logits.abs().max()) <= 1.0 + 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "free"}, "model.head"),
        ({"positions": "odd"}, "model.positions"),
        ({"signs": "odd"}, "model.signs"),
        ({"num_waves": -1}, "model.num_waves"),
        ({"readout": "mean"}, "model.readout"),
        ({"position_scale_um": 0}, "scale"),
    ],
)
def test_wrong_arguments_are_errors(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(**changes)


def test_a_file_that_is_no_published_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"something": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="not a GraphDINO checkpoint"):
        import_weights(tmp_path / "x.pt")


def published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict under the authors' names."""
    from nissl.models.graph_dino import BLOCK_NAMES, ENCODER_NAMES

    names = {}
    for ours in state:
        if ours.startswith("blocks."):
            _, index, rest = ours.split(".", 2)
            for theirs, mine in BLOCK_NAMES.items():
                if rest.startswith(mine):
                    names[f"blocks.{index}.{theirs}{rest.removeprefix(mine)}"] = state[ours]
        else:
            for theirs, mine in ENCODER_NAMES.items():
                if ours.startswith(mine):
                    names[theirs + ours.removeprefix(mine)] = state[ours]
    return {f"student_encoder.{name}": value for name, value in names.items()}


def test_importing_reads_the_sizes_and_lists_what_does_not_fit(tmp_path: Path) -> None:
    model = small_model(head="reference", positions="reference", position_scale_um=1.0)
    published = published_names(model.state_dict())
    torch.save(published, tmp_path / "ckpt.pt")
    state, architecture, metadata = import_weights(tmp_path / "ckpt.pt")
    assert architecture["num_heads"] == 2 and architecture["depth"] == 2 and metadata["licence"] == "MIT"
    GraphDINO(**architecture).load_state_dict(state)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())

    published["student_encoder.mlp_head.2.weight"] = published.pop("student_encoder.mlp_head.1.weight")
    torch.save(published, tmp_path / "ckpt.pt")
    with pytest.raises(
        ValueError, match=r"unknown names \['mlp_head.2.weight'\], missing names \['to_embedding.weight'"
    ):
        import_weights(tmp_path / "ckpt.pt")


def test_an_unknown_name_keeps_its_own() -> None:
    assert our_name("blocks.0.extra.weight") == "blocks.0.extra.weight" and our_name("other") == "other"


@pytest.mark.data
def test_published_weights_give_the_published_embeddings_logits_and_loss() -> None:
    if not (WEIGHTS / "ckpt.pt").is_file():
        pytest.skip(f"needs {WEIGHTS}/ckpt.pt; set NISSL_DATA")
    parity = np.load(WEIGHTS / "parity.npz", allow_pickle=False)
    models = {}
    for which in ("student", "teacher"):
        state, architecture, _ = import_weights(WEIGHTS / "ckpt.pt", which)  # type: ignore[arg-type]
        models[which] = GraphDINO(**architecture).eval()
        models[which].load_state_dict(state)
    pos, adjacency, pe, embedding, logits = (
        torch.stack([torch.from_numpy(parity[f"{name}_{k}"]).float() for k in range(4)])
        for name in ("pos", "adjacency", "laplacian_pe", "embedding", "logits")
    )
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            ours = models["student"].embed_dense(pos, adjacency, pe)
            our_logits = models["student"].projector(ours)
            teacher_logits = models["teacher"].projector(models["teacher"].embed_dense(pos, adjacency, pe))
        torch.testing.assert_close(ours.detach(), embedding, atol=1e-4, rtol=0)
        torch.testing.assert_close(our_logits.detach(), logits, atol=1e-4, rtol=0)
        centre = torch.load(WEIGHTS / "ckpt.pt", weights_only=True, map_location="cpu")["teacher_centers"][0]
        loss = dino_loss(our_logits, teacher_probabilities(teacher_logits, centre, 0.06), 0.9)
        assert float(loss.detach()) == pytest.approx(float(parity["dino_loss_views_01_vs_23"]), abs=1e-5)
    for k in range(4):
        edges = np.stack(np.nonzero(parity[f"adjacency_{k}"] - np.eye(200, dtype=np.uint8)))
        code = models["student"].position_encoder()(edges, 200)
        np.testing.assert_allclose(np.abs(np.sum(code * parity[f"laplacian_pe_{k}"], axis=0)), 1.0, atol=1e-5)
