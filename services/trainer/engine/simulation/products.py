"""What oneDNN keeps for the products of a run.

On a CPU torch hands products of bfloat16 to oneDNN, which compiles a kernel for every shape that it
meets, of up to megabytes where the hardware has tiles, and keeps the last 1024 of them. Batches
differ in shape, so kernels can outweigh a small model. Their size is measured: the products of a
simulated step are computed, and again for batches that are a little larger.
"""

import ctypes
import gc
import os
import platform
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from services.trainer.engine.footprint import resident_bytes

_aten: Any = torch.ops.aten
_PLAIN = (_aten.mm.default, _aten.mm.out, _aten.bmm.default, _aten.bmm.out)
_ADDED = (_aten.addmm.default, _aten.addmm_.default, _aten.baddbmm.default)
_KEPT = int(os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024"))
_ROUNDS, _LARGER = 4, 8
"""So often they are computed again, each time for so many rows more."""
_A_KERNEL_BYTES = 1 << 16
"""What takes less by product has no kernel of its own: another library computes it."""


@dataclass(frozen=True, slots=True)
class Product:
    """Of matrices (batch, rows, inner) and (batch, inner, columns); `batch` is 0 for single ones.
    A turned matrix lies in memory with its last two dimensions exchanged."""

    batch: int
    rows: int
    inner: int
    columns: int
    left_turned: bool
    right_turned: bool
    dtype: torch.dtype

    def has(self, size: int) -> bool:
        return size in (self.rows, self.inner, self.columns)

    def larger(self, size: int, by: int) -> "Product":
        """Of which the dimension of this size, or else the rows, are so many more."""
        if self.inner == size:
            return replace(self, inner=self.inner + by)
        if self.columns == size:
            return replace(self, columns=self.columns + by)
        return replace(self, rows=self.rows + by)

    def compute(self) -> None:
        left = self._matrix(self.rows, self.inner, self.left_turned)
        right = self._matrix(self.inner, self.columns, self.right_turned)
        torch.matmul(left, right)

    def _matrix(self, rows: int, columns: int, turned: bool) -> Tensor:
        shape = (columns, rows) if turned else (rows, columns)
        matrix = torch.zeros((self.batch, *shape) if self.batch else shape, dtype=self.dtype)
        return matrix.transpose(-2, -1) if turned else matrix


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a batch: rows, their length with padding, and rows of logits."""

    rows: int
    width: int
    labels: int

    @property
    def tokens(self) -> int:
        return self.rows * self.width


def product_of(func: Any, args: Sequence[Any]) -> Product | None:
    """What an operation multiplies, if it is a product."""
    if func not in _PLAIN and func not in _ADDED:
        return None
    left, right = args[0:2] if func in _PLAIN else args[1:3]
    batch = left.shape[0] if left.dim() == 3 else 0
    rows, inner = left.shape[-2:]
    return Product(
        batch, rows, inner, right.shape[-1], _is_turned(left), _is_turned(right), left.dtype
    )


def kernel_bytes(products: Set[Product], shape: Shape, shapes: Set[Shape]) -> int:
    """What the libraries hold for products once batches of all `shapes` have been computed, of
    which one of `shape` takes these `products`."""
    gc.collect()  # once: what is computed below leaves no garbage
    of_labels = {p for p in products if p.has(shape.labels)}
    of_tokens = {p for p in products if p.has(shape.tokens)} - of_labels
    of_shape = products - of_labels - of_tokens
    first_bytes = _measured(products)
    further = (
        (of_labels, shape.labels, len({s.labels for s in shapes})),
        (of_tokens, shape.tokens, len({s.tokens for s in shapes})),
        (of_shape, shape.width, len({(s.rows, s.width) for s in shapes})),
    )
    kernels, taken = len(products), 0.0
    for kind, size, count in further:
        each = _measured(p.larger(size, _LARGER * i) for p in kind for i in range(1, _ROUNDS + 1))
        if each > _ROUNDS * len(kind) * _A_KERNEL_BYTES:
            kernels += len(kind) * (count - 1)
            taken += each / _ROUNDS * (count - 1)
    return round(first_bytes + taken * min(1, _KEPT / kernels))


def _measured(products: Iterable[Product]) -> int:
    """How much more is resident after they have been computed."""
    listed = list(products)
    before = _settled_bytes()
    for product in listed:
        product.compute()
    return max(0, _settled_bytes() - before)


def _settled_bytes() -> int:
    """What is resident when all that is free has gone back to the kernel."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


def _is_turned(matrix: Tensor) -> bool:
    return matrix.stride(-1) != 1 and matrix.stride(-2) == 1
