"""Adjacency-conditioned attention: self-attention that each node may shift towards its neighbours.

For node i and head h, with x the input of the layer and A the adjacency with ones on the diagonal:

    (l_i, g_i) = exp(W x_i + b)                                      two numbers per node, shared by all heads
    a_ij^h     = softmax_j( l_i (q_i^h . k_j^h) / sqrt(D) + g_i A_ij )
    out_i      = Wo concat_h( sum_j a_ij^h v_j^h ) + bo

g = 0, l = 1 is plain attention; a large g averages over neighbours and self. Every head works in all D features, so the
scale is D^-1/2 and Wo takes H * D.

Source: Weis et al. 2023, https://openreview.net/forum?id=ThhMzfrd6r; the code of marissaweis/ssl_neuron@0a292e7178.

Computed in an exact form that costs well under half. Since heads have the full D, the scores are x (Wq^h' Wk^h) x'
with a D x D matrix per head, so keys need no projection of their own; and Wo folds into the values, so the heads'
outputs are summed and not projected. A and g are never copied per head. With gradients on a CPU the softmax is made
block by block of query nodes, small enough to stay in the cache, and made again in the backward pass instead of being
stored; from the log of its sum, which is kept, one exponential does (benchmarks/graph_dino.py). A tree's adjacency is
nearly empty, so g is added where it has entries and nowhere else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

# B graphs, N nodes (with the CLS token), D features, H heads

PADDED_SCORE = -1e9  # exp of it is 0, and it stays finite times 0
BLOCK_FLOATS = 2**17  # softmax weights of a block of query nodes, 512 kB in float32: a part of a core's own cache


class ACAttention(nn.Module):
    """One attention layer.

    Args:
        dim: features D of a node.
        num_heads: H.
        use_exp: exp of the predicted trade-off, as published; else the prediction itself.
    """

    def __init__(self, dim: int, num_heads: int, use_exp: bool = True) -> None:
        super().__init__()
        self.dim, self.num_heads, self.use_exp = dim, num_heads, use_exp
        self.qkv = nn.Linear(dim, 3 * num_heads * dim, bias=False)  # feature order (q | k | v, head, dim)
        self.out = nn.Linear(num_heads * dim, dim)
        self.trade_off = nn.Linear(dim, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.qkv.reset_parameters()
        self.out.reset_parameters()
        self.trade_off.reset_parameters()
        nn.init.uniform_(self.trade_off.weight, 0.0, 0.01)  # l and g start near 1, as in the reference

    def forward(self, x: Tensor, adjacency: Tensor | Neighbours, padding: Tensor | None = None) -> Tensor:
        """Mix the nodes.

        Args:
            x: (B, N, D).
            adjacency: (B, N, N) in {0, 1} with ones on the diagonal; as `Neighbours` where several layers share it.
            padding: (B, N), true where there is no node; None where there is no padding.

        Returns:
            (B, N, D).
        """
        b, n, d = x.shape
        h = self.num_heads
        neighbours = Neighbours(adjacency) if isinstance(adjacency, Tensor) else adjacency
        wq, wk, wv = self.qkv.weight.view(3, h, d, d)  # (H, D out, D in) each
        wo = self.out.weight.view(d, h, d)  # (D out, H, D in)
        score_weight = torch.einsum("hod,hoe->hed", wq, wk).reshape(h * d, d)
        value_weight = torch.einsum("ohk,hkd->hod", wo, wv).reshape(h * d, d)

        trade_off = self.trade_off(x)
        if self.use_exp:
            trade_off = trade_off.exp()
        local, gain = trade_off[..., :1], trade_off[..., 1]
        q = linear(x * (local * d**-0.5), score_weight).view(b, n, h, d)
        v = linear(x, value_weight).view(b, n, h, d).transpose(1, 2)  # (B, H, N, D)
        if torch.is_grad_enabled() and x.device.type == "cpu":
            mixed = _attend_blockwise(q, x, v, gain, neighbours, padding)
        else:
            attend = _attend if torch.is_grad_enabled() else _attend_fused
            mixed = attend(q, x, v, _mask(gain, neighbours, padding))
        return mixed + self.out.bias


class Neighbours:
    """Adjacency of a batch of graphs, (B, N, N) in {0, 1}, and where its entries are, found once for all layers."""

    def __init__(self, dense: Tensor) -> None:
        self.dense = dense
        self._entries: dict[int, Entries] = {}

    def entries(self, num_heads: int) -> Entries:
        """Where the entries lie in the scores of this many heads."""
        if num_heads not in self._entries:
            n = self.dense.shape[1]
            size = _block_size(n, num_heads)
            graph, row, column = self.dense.nonzero(as_tuple=True)  # by graph, then by row
            heads = torch.arange(num_heads, device=row.device) * n
            place = (((row % size) * num_heads * n + column)[:, None] + heads).view(-1)
            row = graph * n + row
            blocks = [(g, start) for g in range(len(self.dense)) for start in range(0, n, size)]
            first = torch.searchsorted(row, torch.tensor([g * n + start for g, start in blocks])).tolist()
            self._entries[num_heads] = Entries(
                row,
                [
                    QueryBlock(g, slice(start, min(start + size, n)), slice(a * num_heads, b * num_heads),
                          place[a * num_heads : b * num_heads])
                    for (g, start), a, b in zip(blocks, first, [*first[1:], len(row)], strict=True)
                ],
            )  # fmt: skip
        return self._entries[num_heads]


class QueryBlock(NamedTuple):
    """Some query nodes of one graph.

    Attributes:
        graph: its number in the batch.
        rows: the query nodes.
        entries: the adjacency's entries in these rows, each once per head, among all.
        place: where they lie in the block's flat scores (rows, H, N).
    """

    graph: int
    rows: slice
    entries: slice
    place: Tensor


class Entries(NamedTuple):
    """Entries of the adjacency: node in the batch of each, (E,), and the blocks they are in."""

    row: Tensor
    blocks: list[QueryBlock]


def _mask(gain: Tensor, neighbours: Neighbours, padding: Tensor | None) -> Tensor:
    """What is added to the scores of all heads, (B, N, N); gain (B, N)."""
    mask = gain[..., None] * neighbours.dense
    return mask if padding is None else mask.masked_fill(padding[:, None, :], -torch.inf)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention summed over heads; q (B, N, H, D), k (B, N, D) shared, v (B, H, N, D), mask (B, N, N)."""
    b, n, h, d = q.shape
    scores = (q.reshape(b, n * h, d) @ k.transpose(1, 2)).view(b, n, h, n)
    scores = scores + mask[:, :, None, :]
    return torch.softmax(scores, dim=-1).view(b, n, h * n) @ v.reshape(b, h * n, d)


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same through the fused kernel: no (B, N, H, N) in memory, faster only where no gradient is needed."""
    keys = k[:, None].expand(-1, q.shape[2], -1, -1)
    heads = scaled_dot_product_attention(q.transpose(1, 2), keys, v, attn_mask=mask[:, None], scale=1.0)
    return heads.sum(dim=1)


def _attend_blockwise(
    q: Tensor, k: Tensor, v: Tensor, gain: Tensor, neighbours: Neighbours, padding: Tensor | None
) -> Tensor:
    """`_attend` with (N, H, N) never in memory at once, neither forward nor backward, and no dense mask."""
    return _BlockwiseAttention.apply(q, k, v, gain, neighbours, padding)


class _BlockwiseAttention(torch.autograd.Function):
    """`_attend` block by block. Padded keys have a further column that makes their scores very small."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, gain: Tensor, neighbours: Neighbours, padding: Tensor | None
    ) -> Tensor:
        dtypes = q.dtype, v.dtype, gain.dtype
        q, v, gain = q.to(k.dtype), v.to(k.dtype).contiguous(), gain.to(k.dtype)  # they differ under autocast
        b, n, h, d = q.shape
        entries = neighbours.entries(h)
        if padding is None:
            long_q, long_k = q, k
        else:
            long_q = torch.cat([q, q.new_ones(b, n, h, 1)], dim=-1)
            long_k = torch.cat([k, PADDED_SCORE * padding[..., None].to(k.dtype)], dim=-1)
        out, log_sum = torch.empty(b, n, d, dtype=k.dtype), torch.empty(b, n, h, 1, dtype=k.dtype)
        scores = torch.empty(
            _block_size(n, h) * h * n, dtype=k.dtype
        )  # the same memory for every block: it stays cached
        weights = torch.empty_like(scores)
        with torch.autocast("cpu", enabled=False):
            gains = _per_head(gain.view(-1)[entries.row], h)
            for g, rows, own, place in entries.blocks:
                size = rows.stop - rows.start
                s, p = (memory[: size * h * n] for memory in (scores, weights))
                torch.mm(long_q[g, rows].view(size * h, -1), long_k[g].T, out=s.view(size * h, n))
                s.index_add_(0, place, gains[own])
                torch.softmax(s.view(size, h, n), dim=-1, out=p.view(size, h, n))
                torch.mm(p.view(size, h * n), v[g].view(h * n, d), out=out[g, rows])
                log_sum[g, rows] = _log_sum(s.view(size, h, n), p.view(size, h, n))
        ctx.save_for_backward(q, k, v, gain, long_k, log_sum)
        ctx.entries, ctx.dtypes, ctx.is_padded = entries, dtypes, padding is not None
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, gain, long_k, log_sum = ctx.saved_tensors
        b, n, h, d = q.shape
        grad_out = grad_outputs[0].to(k.dtype).contiguous()
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        gains = _per_head(gain.view(-1)[ctx.entries.row], h)
        grad_gains = torch.empty_like(gains)
        ones = q.new_ones(b, n, h, 1)
        long_q = torch.cat([q, ones, -log_sum] if ctx.is_padded else [q, -log_sum], dim=-1)
        long_k = torch.cat([long_k, ones[:, :, 0]], dim=-1)  # scores less the log of their sum of exponentials
        weights = torch.empty(_block_size(n, h) * h * n, dtype=k.dtype)
        grads = torch.empty_like(weights)
        with torch.autocast("cpu", enabled=False):
            for g, rows, own, place in ctx.entries.blocks:
                size = rows.stop - rows.start
                p, grad_s = (memory[: size * h * n] for memory in (weights, grads))
                torch.mm(long_q[g, rows].view(size * h, -1), long_k[g].T, out=p.view(size * h, n))
                p.index_add_(0, place, gains[own]).exp_()
                grad_v[g].view(h * n, d).addmm_(p.view(size, h * n).T, grad_out[g, rows])
                # Softmax: dS = P (dP - sum(P dP)).
                torch.mm(grad_out[g, rows], v[g].view(h * n, d).T, out=grad_s.view(size, h * n))
                grad_s.mul_(p)
                by_key = grad_s.view(size * h, n)
                by_key.addcmul_(p.view(size * h, n), by_key.sum(dim=-1, keepdim=True), value=-1.0)
                torch.mm(by_key, k[g], out=grad_q[g, rows].view(size * h, d))
                grad_k[g].addmm_(by_key.T, q[g, rows].view(size * h, d))
                torch.index_select(grad_s, 0, place, out=grad_gains[own])
        grad_gain = gain.new_zeros(b * n).index_add_(0, ctx.entries.row, grad_gains.view(-1, h).sum(dim=1)).view(b, n)
        of_q, of_v, of_gain = ctx.dtypes
        return grad_q.to(of_q), grad_k, grad_v.to(of_v), grad_gain.to(of_gain), None, None


def _per_head(values: Tensor, num_heads: int) -> Tensor:
    """Each of the values (E,) once per head, (E H,)."""
    return values[:, None].expand(-1, num_heads).reshape(-1)


def _log_sum(scores: Tensor, weights: Tensor) -> Tensor:
    """Log of the sum of exponentials of the scores (rows, H, N), (rows, H, 1), from their softmax.

    One key is enough, unless its weight is too small to have a logarithm of full precision.
    """
    first = weights[..., :1]
    if bool((first > torch.finfo(first.dtype).tiny).all()):
        return scores[..., :1] - first.log()
    return torch.logsumexp(scores, dim=-1, keepdim=True)


def _block_size(num_nodes: int, num_heads: int) -> int:
    return min(num_nodes, max(1, BLOCK_FLOATS // (num_heads * num_nodes)))
