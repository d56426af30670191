"""Frozen linear layers that share an input, with the LoRA updates beside them.

With frozen W, y = x Wᵀ + h Bᵀ for each layer, where h = s (m ⊙ x) Aᵀ and m is the dropout mask.
The gradients are, with g that of y and e = s g B that of h,

    dB = gᵀ h    dA = eᵀ (m ⊙ x)    dx = g W + m ⊙ (e A)

so that x, h and m are all there is to keep, and layers with one input share the large products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, autograd

from services.trainer.engine.fast.arithmetic import apply, product_dtype
from services.trainer.engine.fast.dropout import keep_mask, masked
from services.trainer.engine.fast.linears import FrozenLinear, LowRank, joint_weight

_JOINT_RANKS = 64


def joint_product(x: Tensor, linears: Sequence[FrozenLinear]) -> Tensor | None:
    """(…, inputs) to (…, all outputs): the layers' outputs side by side.

    Nothing if the weights do not lie below one another in memory.
    """
    weight = joint_weight([linear.weight for linear in linears])
    return None if weight is None else _product(x, weight, linears)


def single_product(x: Tensor, linear: FrozenLinear) -> Tensor:
    return _product(x, linear.weight, [linear])


@dataclass(frozen=True, slots=True)
class _Update:
    """A low-rank update: `outputs` are those it is added to, `ranks` its part of h."""

    outputs: slice
    ranks: slice
    scaling: float
    dropout: float


def _product(x: Tensor, weight: Tensor, linears: Sequence[FrozenLinear]) -> Tensor:
    dtype = product_dtype(weight)
    updates: list[_Update] = []
    factors: list[LowRank] = []
    output = rank = 0
    for linear in linears:
        outputs = slice(output, output + linear.weight.shape[0])
        output = outputs.stop
        factor = linear.low_rank
        if factor is not None:
            ranks = slice(rank, rank + factor.down.shape[0])
            rank = ranks.stop
            # What dropout keeps is scaled up; here that is done last.
            scaling = factor.scaling / (1 - factor.dropout)
            updates.append(_Update(outputs, ranks, scaling, factor.dropout))
            factors.append(factor)
    return cast(
        Tensor,
        apply(
            _Product,
            x.to(dtype),
            weight.to(dtype),
            _joint_bias(linears, dtype),
            updates,
            *(factor.down for factor in factors),
            *(factor.up for factor in factors),
        ),
    )


def _joint_bias(linears: Sequence[FrozenLinear], dtype: torch.dtype) -> Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    biases = [
        linear.weight.new_zeros(linear.weight.shape[0]) if linear.bias is None else linear.bias
        for linear in linears
    ]
    return torch.cat(biases).to(dtype)


class _Product(autograd.Function):
    """Computes in the type of x; the factors A and B and their gradients may be of a finer one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        updates: Sequence[_Update],
        *factors: Tensor,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        ctx.updates, ctx.shape = updates, x.shape
        ctx.factor_dtypes = [factor.dtype for factor in factors]
        if not updates:
            ctx.save_for_backward(weight)
            return y.view(*x.shape[:-1], y.shape[-1])
        downs = _cat(factors[: len(updates)]).to(x.dtype)
        ups = _pieces(updates, factors[len(updates) :], x.dtype, y.shape[1])
        masks = [keep_mask(rows, update.dropout) if update.dropout else None for update in updates]
        h = _scaled(_compressed(rows, downs, updates, masks), updates)
        for piece in ups:
            piece.outputs_of(y).addmm_(piece.ranks_of(h), piece.up.t())
        ctx.save_for_backward(weight, rows, h, downs, *masks)
        ctx.ups = ups
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        weight, *saved = cast(list[Any], ctx.saved_tensors)
        updates: Sequence[_Update] = ctx.updates
        dy = gradients[0].reshape(-1, weight.shape[0])
        dx = dy @ weight if ctx.needs_input_grad[0] else None
        d_factors: list[Tensor] = []
        if updates:
            rows, h, downs, *masks = saved
            ups: Sequence[_Piece] = ctx.ups
            dh = _scaled(_cat([piece.outputs_of(dy) @ piece.up for piece in ups], 1), updates)
            if dx is not None:
                _add_expanded(dx, dh, downs, updates, masks)
            d_factors = [
                *_gradients_of_downs(dh, rows, updates, masks),
                *_gradients_of_ups(dy, h, updates, ups),
            ]
        return (
            None if dx is None else dx.view(ctx.shape),
            None,
            None,
            None,
            *(g.to(dtype) for g, dtype in zip(d_factors, ctx.factor_dtypes, strict=True)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """`up` (outputs, ranks) of one adapter, or of several on the diagonal. Where that is all
    there is, the slices are None."""

    up: Tensor
    outputs: slice | None
    ranks: slice | None

    def outputs_of(self, rows: Tensor) -> Tensor:
        return rows if self.outputs is None else rows[:, self.outputs]

    def ranks_of(self, rows: Tensor) -> Tensor:
        return rows if self.ranks is None else rows[:, self.ranks]


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def _pieces(
    updates: Sequence[_Update], ups: Sequence[Tensor], dtype: torch.dtype, width: int
) -> list[_Piece]:
    """Few ranks go together into one matrix (width, ranks) although most of it is zeros: what
    a thin product costs is its way through memory, not its arithmetic."""
    ranks = updates[-1].ranks.stop
    if len(updates) > 1 and ranks <= _JOINT_RANKS:
        joint = ups[0].new_zeros(width, ranks, dtype=dtype)
        for update, up in zip(updates, ups, strict=True):
            joint[update.outputs, update.ranks] = up
        return [_Piece(joint, None, None)]
    alone = len(updates) == 1
    return [
        _Piece(
            up.to(dtype),
            None if up.shape[0] == width else update.outputs,
            None if alone else update.ranks,
        )
        for update, up in zip(updates, ups, strict=True)
    ]


def _scaled(h: Tensor, updates: Sequence[_Update]) -> Tensor:
    """In place: each adapter's part times its scaling."""
    if len({update.scaling for update in updates}) == 1:
        return h.mul_(updates[0].scaling)
    for update in updates:
        h[:, update.ranks] *= update.scaling
    return h


def _compressed(
    rows: Tensor, downs: Tensor, updates: Sequence[_Update], masks: Sequence[Tensor | None]
) -> Tensor:
    """h (rows, ranks), not yet scaled: the input as each adapter sees it, times its A."""
    if all(mask is None for mask in masks):
        return rows @ downs.t()
    parts = [
        (rows if mask is None else masked(rows, mask)) @ downs[update.ranks].t()
        for update, mask in zip(updates, masks, strict=True)
    ]
    return _cat(parts, 1)


def _add_expanded(
    dx: Tensor,
    dh: Tensor,
    downs: Tensor,
    updates: Sequence[_Update],
    masks: Sequence[Tensor | None],
) -> None:
    if all(mask is None for mask in masks):
        dx.addmm_(dh, downs)
        return
    for update, mask in zip(updates, masks, strict=True):
        expanded = dh[:, update.ranks] @ downs[update.ranks]
        dx.add_(expanded if mask is None else masked(expanded, mask))


def _gradients_of_downs(
    dh: Tensor, rows: Tensor, updates: Sequence[_Update], masks: Sequence[Tensor | None]
) -> list[Tensor]:
    if all(mask is None for mask in masks):
        together = dh.t() @ rows
        return [together[update.ranks] for update in updates]
    return [
        dh[:, update.ranks].t() @ (rows if mask is None else masked(rows, mask))
        for update, mask in zip(updates, masks, strict=True)
    ]


def _gradients_of_ups(
    dy: Tensor, h: Tensor, updates: Sequence[_Update], pieces: Sequence[_Piece]
) -> list[Tensor]:
    """Computed as (ranks, outputs), which is the faster way round."""
    found = [piece.ranks_of(h).t() @ piece.outputs_of(dy) for piece in pieces]
    if len(pieces) < len(updates):
        found = [found[0][update.ranks, update.outputs] for update in updates]
    return [gradient.t() for gradient in found]
