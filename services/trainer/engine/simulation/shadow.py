"""Tensors without contents, and a record of what memory they would take.

Numbers of floating point become shadows: they have a type, a shape and a storage, and no memory
behind it. Token ids, positions and masks stay real, for which of them a model sees decides what it
computes. An operation is real if all that it reads is.
"""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import bitsandbytes
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from services.trainer.engine.simulation.products import Product, product_of
from services.trainer.engine.simulation.record import Record

_aten: Any = torch.ops.aten
_gemm_4bit: Any = cast(Any, bitsandbytes).functional.torch.ops.bitsandbytes.gemm_4bit.default
_tree: Any = pytree
_fake_mode: Any = FakeTensorMode  # untyped

_aten_device: Any = torch.ops.prim.device.default
_FILLED = (_aten.full.default,)
"""What masks are made of: real, like the masks, and safe in a cache that outlives a simulation."""
_UNFILLED = (_aten.empty.memory_format, _aten.empty_strided.default)
_REAL_NUMBERS = 64
"""A new tensor of floating point with no more elements is a sum or a constant, and stays real."""


class Shadow(TorchDispatchMode):
    """Where tensors have no contents. Reading a number out of one gives 1. `products` are those
    computed so far."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self.products: set[Product] = set()
        self._mode = _fake_mode(allow_non_fake_inputs=True)
        self._alive: dict[int, tuple[object, int]] = {}
        """By the storage's id: a weak reference, which must live to call back, and the number."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is _aten_device:
            return args[0].fake_device  # asked for more often than anything
        named = dict(kwargs or {})
        shadows = _any_shadow(args, named)
        if shadows and func is _aten._local_scalar_dense.default:
            return _one(args[0].dtype)
        if shadows or _is_large(func, args, named):
            with self._mode:
                result = func(*args, **named)
            # What it remembers is referred to weakly, and a module's `to` refuses that.
            self._mode.fake_tensor_converter.meta_converter.tensor_memo.clear()
        else:
            result = func(*args, **named)
        product = product_of(func, args)
        if product is not None:
            self.products.add(product)
        sizes = _SCRATCH[func](*args, **named) if func in _SCRATCH else []
        scratch = [self.record.begin(size_bytes) for size_bytes in sizes]
        for tensor in _tensors(result):
            self.notice(tensor)
        for number in scratch:
            self.record.end(number)
        return result

    def notice(self, tensor: Tensor) -> int | None:
        """Records the tensor's storage if it is new; returns its number, if it has any bytes."""
        storage = tensor.untyped_storage()
        key = id(storage)
        known = self._alive.get(key)
        if known is not None:
            return known[1]
        size_bytes = storage.nbytes()
        if size_bytes == 0:
            return None
        number = self.record.begin(size_bytes)

        def forget(_reference: object) -> None:
            del self._alive[key]
            self.record.end(number)

        self._alive[key] = weakref.ref(storage, forget), number
        return number


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in _tree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _any_shadow(args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    return any(isinstance(tensor, FakeTensor) for tensor in _tensors((args, named)))


def _is_large(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether what reads no tensor makes one that is to have no contents."""
    if func in _UNFILLED:
        return True
    if func in _FILLED:
        return False
    if _tensors((args, named)) or not (args and isinstance(args[0], list | tuple)):
        return False
    dtype: torch.dtype = named.get("dtype") or torch.get_default_dtype()
    return dtype.is_floating_point and math.prod(args[0]) > _REAL_NUMBERS


def _one(dtype: torch.dtype) -> float | int | bool:
    if dtype is torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _of_gemm_4bit(
    rows: Tensor,
    _packed: Tensor,
    shape: Sequence[int],
    scales: Tensor,
    _blocksize: int,
    _kind: str,
    _bias: Tensor | None = None,
    packed_scales: Tensor | None = None,
    *_: Any,
) -> list[int]:
    """bitsandbytes unpacks the weight's scales, and the whole weight, to multiply by it."""
    weight_bytes = math.prod(shape) * rows.element_size()
    if packed_scales is None:
        return [weight_bytes]
    scale_bytes = packed_scales.numel() * scales.element_size()
    return [scale_bytes, scale_bytes, weight_bytes]


def _of_bernoulli(kept: Tensor, *_: Any, **__: Any) -> list[int]:
    """On a CPU torch draws into 32-bit integers first."""
    return [4 * kept.numel()] if kept.device.type == "cpu" else []


_SCRATCH: dict[Any, Callable[..., list[int]]] = {
    _gemm_4bit: _of_gemm_4bit,
    _aten.bernoulli_.float: _of_bernoulli,
}
"""The sizes in bytes of what an operation takes before it makes its result, and gives back after:
as shadows it makes the result alone."""
