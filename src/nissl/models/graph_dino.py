"""GraphDINO: a transformer over the nodes of a neuron that knows its tree, and the projector it is trained through.

Weis et al. 2023, "Self-Supervised Graph Representation Learning for Neuronal Morphologies", TMLR,
https://openreview.net/forum?id=ThhMzfrd6r; code of the authors: marissaweis/ssl_neuron@0a292e7178 (MIT).

Each block is `x = LN(x); x = Attn(x, A) + x; x = LN(x); x = MLP(x) + x`. The residual is taken *after* the norm, which
is not the usual pre-norm; kept, so that the published weights work. The embedding is the CLS token after a last norm
and one linear layer; the projector turns it into prototype logits and is used in training only.

Departures, each a constructor argument: positions are divided by `position_scale_um` (the reference feeds raw um, next
to which the positional encoding of order N^-1/2 is negligible at first); `positions="smooth"` (see
`laplacian_positions`); `head="bounded"` for a projector whose logits cannot grow without limit; `num_waves` for sines
and cosines of height and distance among the node's features; `readout="cls_and_mean"`, which lets the mean of all nodes
into the embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nissl.models.ac_attention import ACAttention, Neighbours
from nissl.models.laplacian_positions import KINDS, SIGNS, Kind, Signs, laplacian_positions, repeated_eigenvalues

NUM_FEATURES = 3  # x, y, z
PROJECTOR_DIM = 128  # as in the reference
CACHED_ENCODINGS = 4096  # graphs whose positional encoding is remembered, 26 kB each at 200 nodes

# B graphs, N nodes of the largest graph, D features, P columns of the positional encoding, K prototypes


class GraphBatch(Protocol):
    """What a batch of neurons offers: a `torch_geometric.data.Batch` of trees."""

    pos: Tensor  # (nodes, 3) um
    edge_index: Tensor  # (2, edges), each edge in both directions
    ptr: Tensor  # (B + 1,) first node of each graph
    pe: Tensor  # (nodes, P) positional encoding; may be absent


class Block(nn.Module):
    """One transformer block in the reference's order."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, use_exp: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = ACAttention(dim, num_heads, use_exp)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim))

    def forward(self, x: Tensor, adjacency: Neighbours, padding: Tensor | None) -> Tensor:
        x = self.norm1(x)
        x = self.attention(x, adjacency, padding) + x
        x = self.norm2(x)
        return self.mlp(x) + x


class BoundedHead(nn.Module):
    """Cosines with K unit prototypes: the logits stay in [-1, 1] before the temperature.

    The usual DINO head (Caron et al. 2021, https://arxiv.org/abs/2104.14294): three layers, an l2-normalised
    bottleneck, and a last layer whose rows have norm 1.
    """

    def __init__(self, dim: int, num_prototypes: int, hidden: int = PROJECTOR_DIM, bottleneck: int = 64) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, bottleneck))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.prototypes)

    def forward(self, x: Tensor) -> Tensor:
        normalise = nn.functional.normalize
        return normalise(self.mlp(x), dim=-1) @ normalise(self.prototypes, dim=-1).T


def reference_head(dim: int, num_prototypes: int, hidden: int = PROJECTOR_DIM) -> nn.Sequential:
    """The published projector; nothing bounds its logits."""
    return nn.Sequential(
        nn.Linear(dim, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.LayerNorm(hidden),
        nn.Linear(hidden, num_prototypes),
    )


class GraphDINO(nn.Module):
    """Neurons to embeddings, and on to prototype logits.

    Args:
        dim: features D, also the size of the embedding.
        depth: number of blocks.
        num_heads: attention heads, each of the full D.
        mlp_ratio: hidden size of the blocks' MLP, in D.
        use_exp: see `ACAttention`.
        num_positions: columns P of the positional encoding.
        positions: its kind.
        position_scale_um: positions are divided by this; 1 in the reference.
        num_prototypes: logits K.
        head: the projector.
        num_waves: 0 has x, y, z as features of a node, as published; above it see `wave_features`.
        readout: "cls", as published, or "cls_and_mean": also the mean of all nodes after the last block.
        signs: what is done about the arbitrary sign of the encoding's columns, see `laplacian_positions`.
        hidden_token: learn what stands for a hidden node; see `embed_nodes`.
    """

    def __init__(
        self,
        dim: int = 32,
        depth: int = 7,
        num_heads: int = 8,
        mlp_ratio: int = 2,
        use_exp: bool = True,
        num_positions: int = 32,
        positions: Kind = "smooth",
        position_scale_um: float = 100.0,
        num_prototypes: int = 1000,
        head: Literal["reference", "bounded"] = "reference",
        signs: Signs = "flip",
        hidden_token: bool = False,
        num_waves: int = 0,
        readout: Literal["cls", "cls_and_mean"] = "cls",
    ) -> None:
        super().__init__()
        if num_waves < 0:
            raise ValueError(f"model.num_waves must be 0 or more, came {num_waves}")
        if readout not in ("cls", "cls_and_mean"):
            raise ValueError(f"model.readout must be cls or cls_and_mean, came {readout!r}")
        if positions not in KINDS:
            raise ValueError(f"model.positions must be one of {', '.join(KINDS)}, came {positions!r}")
        if signs not in SIGNS:
            raise ValueError(f"model.signs must be one of {', '.join(SIGNS)}, came {signs!r}")
        if head not in ("reference", "bounded"):
            raise ValueError(f"model.head must be reference or bounded, came {head!r}")
        if not position_scale_um > 0:
            raise ValueError(f"model.position_scale_um must be positive, came {position_scale_um}")
        self.num_positions, self.positions, self.position_scale_um = num_positions, positions, position_scale_um
        self.num_prototypes, self.signs, self.hidden_token = num_prototypes, signs, hidden_token
        self.num_waves, self.readout, self.embedding_dim = num_waves, readout, dim
        self.tokens = Tokens(dim, num_positions, hidden_token, num_waves)
        self.blocks = nn.ModuleList([Block(dim, num_heads, mlp_ratio, use_exp) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.to_embedding = nn.Linear(dim if readout == "cls" else 2 * dim, dim)
        self.projector: nn.Module = (reference_head if head == "reference" else BoundedHead)(dim, num_prototypes)
        self._encodings: OrderedDict[bytes, Tensor] = OrderedDict()

    def forward(self, batch: GraphBatch) -> Tensor:
        """Prototype logits, (B, K)."""
        return self.projector(self.embed(batch))

    def embed(self, batch: GraphBatch) -> Tensor:
        """Embeddings, (B, D). A batch without positional encodings gets them, in `batch.pe`."""
        return self.embed_dense(*self._dense(batch))

    def embed_nodes(self, batch: GraphBatch, hidden: Tensor | None) -> Tensor:
        """Embeddings of the nodes, (nodes, D), by the same last layers as the cell's, a node standing for the mean too.

        Args:
            hidden: (nodes,) bool, nodes whose features are replaced by a learnt token, while their place in the tree
                stays; None hides none.
        """
        pos, adjacency, pe, mask = self._dense(batch)
        is_node = torch.ones(pos.shape[:2], dtype=torch.bool, device=pos.device) if mask is None else mask
        hidden_dense = None
        if hidden is not None:
            hidden_dense = torch.zeros_like(is_node)
            hidden_dense[is_node] = hidden
        tokens = self._transform(pos, adjacency, pe, mask, hidden_dense)
        nodes = self.norm(tokens[:, 1:][is_node])
        return self.to_embedding(nodes if self.readout == "cls" else torch.cat([nodes, nodes], dim=-1))

    def _dense(self, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        if getattr(batch, "pe", None) is None:
            batch.pe = self._encode_batch(batch)
        return to_dense(batch, batch.pe)

    def embed_dense(self, pos: Tensor, adjacency: Tensor, pe: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embeddings, (B, D), of padded graphs.

        Args:
            pos: (B, N, 3) um.
            adjacency: (B, N, N) in {0, 1} with ones on the diagonal.
            pe: (B, N, P).
            mask: (B, N), true for nodes, false for padding; None where there is no padding.
        """
        tokens = self._transform(pos, adjacency, pe, mask)
        cls = self.norm(tokens[:, 0])
        if self.readout == "cls":
            return self.to_embedding(cls)
        nodes = tokens[:, 1:]
        if mask is None:
            mean = nodes.mean(dim=1)
        else:
            mean = (nodes * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return self.to_embedding(torch.cat([cls, self.norm(mean)], dim=-1))

    def _transform(
        self, pos: Tensor, adjacency: Tensor, pe: Tensor, mask: Tensor | None, hidden: Tensor | None = None
    ) -> Tensor:
        """Tokens after the last block, (B, N + 1, D), CLS first; `hidden` (B, N)."""
        b, n, _ = pos.shape
        with_cls = pos.new_zeros(b, n + 1, n + 1)
        with_cls[:, 0, 0] = 1.0  # CLS reaches the nodes through the global term alone
        with_cls[:, 1:, 1:] = adjacency
        padding = None if mask is None else nn.functional.pad(~mask, (1, 0), value=False)
        x = self.tokens(pos / self.position_scale_um, pe, hidden)  # (B, N + 1, D)
        neighbours = Neighbours(with_cls)
        for block in self.blocks:
            x = block(x, neighbours, padding)
        return x

    def position_encoder(self) -> Callable[..., np.ndarray]:
        """A picklable `laplacian_positions(edge_index, num_nodes, rng=None)` of this model's kind and size.

        A task hands it to the training data (`source.encode`), so that it runs in the loader's workers.
        """
        return partial(laplacian_positions, num_columns=self.num_positions, kind=self.positions, signs=self.signs)

    def repeated_eigenvalues(self, edge_index: np.ndarray, num_nodes: int) -> int:
        """Columns of this model's positional encoding that are not determined, see `laplacian_positions`."""
        return repeated_eigenvalues(edge_index, num_nodes, self.num_positions, self.positions)

    def _encode_batch(self, batch: GraphBatch) -> Tensor:
        """Canonical encodings, (nodes, P); remembered by topology, so one graph is never solved twice."""
        encode = self.position_encoder()
        starts, edges = batch.ptr.cpu().numpy(), batch.edge_index.cpu().numpy()
        graph_of_edge = np.searchsorted(starts, edges[0], side="right") - 1  # ascending: a batch keeps graphs together
        edge_starts = np.searchsorted(graph_of_edge, np.arange(len(starts)))
        encodings = []
        for g, first in enumerate(starts[:-1]):
            local = edges[:, edge_starts[g] : edge_starts[g + 1]] - first
            num_nodes = int(starts[g + 1] - first)
            key = num_nodes.to_bytes(8) + local.astype(np.int32).tobytes()
            if key not in self._encodings:
                self._encodings[key] = torch.from_numpy(encode(local, num_nodes))
                if len(self._encodings) > CACHED_ENCODINGS:
                    self._encodings.popitem(last=False)
            encodings.append(self._encodings[key])
        return torch.cat(encodings).to(batch.pos)


class Tokens(nn.Module):
    """Node and position embeddings with a CLS token in front."""

    def __init__(self, dim: int, num_positions: int, hidden_token: bool, num_waves: int = 0) -> None:
        super().__init__()
        self.num_waves = num_waves
        num_features = NUM_FEATURES + (2 + 4 * num_waves if num_waves else 0)
        self.from_features = nn.Sequential(nn.Linear(num_features, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.from_positions = nn.Linear(num_positions, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.cls_position = nn.Parameter(torch.empty(1, 1, dim))
        # Absent unless used, so that published weights have neither too few names nor too many.
        self.hidden = nn.Parameter(torch.empty(dim)) if hidden_token else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.cls_token)
        nn.init.normal_(self.cls_position)
        if self.hidden is not None:
            nn.init.normal_(self.hidden)

    def forward(self, features: Tensor, pe: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, N, 3), (B, N, P) and (B, N) bool to (B, N + 1, D)."""
        nodes = self.from_features(wave_features(features, self.num_waves))
        if hidden is not None:
            assert self.hidden is not None, "the task checks that the model has a token for hidden nodes"
            nodes = torch.where(hidden[..., None], self.hidden, nodes)
        nodes = nodes + self.from_positions(pe)
        cls = (self.cls_token + self.cls_position).expand(len(nodes), -1, -1)
        return torch.cat([cls, nodes], dim=1)


def wave_features(pos: Tensor, num_waves: int) -> Tensor:
    """x, y, z with distances and waves, (..., 3) to (..., 5 + 4 W); unchanged for W = 0.

    Distance from the y axis and from the origin, then sine and cosine of y and of the latter with periods 8, 4, 2, ...
    (in the unit of `pos`). A network of a few hundred steps does not find fine differences in depth by itself (Tancik
    et al. 2020, https://arxiv.org/abs/2006.10739).
    """
    if num_waves == 0:
        return pos
    distance = pos.norm(dim=-1, keepdim=True)
    from_axis = pos[..., ::2].norm(dim=-1, keepdim=True)
    frequency = torch.pi / 4.0 * 2.0 ** torch.arange(num_waves, dtype=pos.dtype, device=pos.device)
    phases = torch.cat([pos[..., 1:2] * frequency, distance * frequency], dim=-1)  # (..., 2 W)
    return torch.cat([pos, from_axis, distance, phases.sin(), phases.cos()], dim=-1)


def to_dense(batch: GraphBatch, pe: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Padded `pos`, `adjacency` (with self-loops), `pe` and `mask` of a batch; no mask where all sizes are equal."""
    ptr = batch.ptr
    sizes = ptr[1:] - ptr[:-1]
    b, n = len(sizes), int(sizes.max())
    graph = torch.repeat_interleave(torch.arange(b, device=ptr.device), sizes)
    row = torch.arange(len(graph), device=ptr.device) - ptr[graph]
    adjacency = batch.pos.new_zeros(b, n, n)
    i, j = batch.edge_index
    adjacency[graph[i], row[i], row[j]] = 1.0
    adjacency.diagonal(dim1=1, dim2=2).fill_(1.0)
    if bool((sizes == n).all()):
        return batch.pos.view(b, n, -1), adjacency, pe.view(b, n, -1), None
    mask = torch.arange(n, device=ptr.device) < sizes[:, None]
    pos, padded_pe = batch.pos.new_zeros(b, n, batch.pos.shape[1]), pe.new_zeros(b, n, pe.shape[1])
    pos[mask], padded_pe[mask] = batch.pos, pe
    return pos, adjacency, padded_pe, mask


# Published weights ----------------------------------------------------------------------------------------------------

ENCODER_NAMES = {
    "cls_token": "tokens.cls_token",
    "cls_pos_embedding": "tokens.cls_position",
    "to_node_embedding.": "tokens.from_features.",
    "to_pos_embedding.": "tokens.from_positions.",
    "mlp_head.0.": "norm.",
    "mlp_head.1.": "to_embedding.",
    "projector.": "projector.",
}
BLOCK_NAMES = {
    "norm1.": "norm1.",
    "norm2.": "norm2.",
    "attn.qkv_projection.": "attention.qkv.",
    "attn.proj.": "attention.out.",
    "attn.predict_gamma.": "attention.trade_off.",
    "mlp.net.": "mlp.",
}


def import_weights(
    path: str | Path, which: Literal["student", "teacher"] = "student"
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Weights of the authors' `ckpt.pt`, under our names.

    Sizes are read from shapes: D, depth, H, MLP ratio, P and K.

    Returns:
        State dict of a `GraphDINO`, its constructor arguments, and where the weights are from.

    Raises:
        ValueError: if the file is no such checkpoint; unknown and missing names are listed.
    """
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    prefix = f"{which}_encoder."
    published = {name.removeprefix(prefix): value for name, value in loaded.items() if name.startswith(prefix)}
    if "blocks.0.attn.qkv_projection.weight" not in published or "to_pos_embedding.weight" not in published:
        raise ValueError(
            f"'{path}' is not a GraphDINO checkpoint of marissaweis/ssl_neuron: no '{prefix}blocks.0.attn...'. "
            f"It holds {', '.join(list(loaded)[:5])}, ..."
        )
    dim, num_positions = published["to_pos_embedding.weight"].shape
    architecture = {
        "dim": dim,
        "depth": 1 + max(int(name.split(".")[1]) for name in published if name.startswith("blocks.")),
        "num_heads": published["blocks.0.attn.qkv_projection.weight"].shape[0] // (3 * dim),
        "mlp_ratio": published["blocks.0.mlp.net.0.weight"].shape[0] // dim,
        "use_exp": True,
        "num_positions": num_positions,
        "positions": "reference",
        "position_scale_um": 1.0,
        "num_prototypes": published["projector.7.weight"].shape[0],
        "head": "reference",
    }
    state = {our_name(name): value for name, value in published.items()}
    expected = GraphDINO(**architecture).state_dict()
    unknown, missing = sorted(state.keys() - expected.keys()), sorted(expected.keys() - state.keys())
    if unknown or missing:
        raise ValueError(f"'{path}' does not fit GraphDINO: unknown names {unknown}, missing names {missing}")
    metadata = {
        "source": f"{Path(path).name}, {which} of marissaweis/ssl_neuron",
        "licence": "MIT",
        "citation": "Weis et al. 2023, TMLR, https://openreview.net/forum?id=ThhMzfrd6r",
    }
    return state, architecture, metadata


def our_name(published: str) -> str:
    """Our name of a published parameter; an unknown one keeps its own."""
    if published.startswith("blocks."):
        _, index, rest = published.split(".", 2)
        for theirs, ours in BLOCK_NAMES.items():
            if rest.startswith(theirs):
                return f"blocks.{index}.{ours}{rest.removeprefix(theirs)}"
        return published
    for theirs, ours in ENCODER_NAMES.items():
        if published.startswith(theirs):
            return ours + published.removeprefix(theirs)
    return published
