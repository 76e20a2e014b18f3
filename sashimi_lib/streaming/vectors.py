"""A vector type of sixteen float32 numbers for compiled code, whose values are kept in vector registers.

A compiler vectorizes loops over arrays by itself, but keeps no sums in registers from one iteration of an
outer loop to the next, because arrays might overlap. Values of this type cannot: matrix products reach 24
billion multiply-adds a second on a core where plain loops reached 15. ::

    total = broadcast(0)
    for k in range(n):
        total += load(values, k) * broadcast(x[k])  # values[16 k : 16 k + 16] times x[k]
    store(total, y, 0)
"""

import operator
from typing import Any, no_type_check

from llvmlite import ir
from numba import types
from numba.core.extending import models, register_model
from numba.extending import intrinsic, overload

LANES = 16  # where registers are narrower, the compiler uses two or four of them

_NUMBER, _INDEX = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_NUMBER, LANES)


class Float32x16(types.Type):
    """Numba's type of a vector of sixteen float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name="Float32x16")


_float32x16 = Float32x16()


@register_model(Float32x16)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


@intrinsic
@no_type_check
def load(context: Any, array: Any, n: Any) -> Any:
    """Return the n-th group of sixteen numbers of a contiguous array."""

    def generate(target, builder, signature, arguments):
        return builder.load(_address(target, builder, signature.args[0], *arguments), align=4)

    return _float32x16(array, types.int64), generate


@intrinsic
@no_type_check
def store(context: Any, x: Any, array: Any, n: Any) -> Any:
    """Write the n-th group of sixteen numbers of a contiguous array."""

    def generate(target, builder, signature, arguments):
        x, array, n = arguments
        builder.store(x, _address(target, builder, signature.args[1], array, n), align=4)
        return target.get_dummy_value()

    return types.void(_float32x16, array, types.int64), generate


@intrinsic
@no_type_check
def broadcast(context: Any, number: Any) -> Any:
    """Return a vector of sixteen copies of a number."""

    def generate(target, builder, signature, arguments):
        lane = ir.IntType(32)
        first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), arguments[0], lane(0))
        return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(lane, LANES), [0] * LANES))

    return _float32x16(types.float32), generate


@no_type_check
def _address(target, builder, array_type, array, n):
    start = target.make_array(array_type)(target, builder, array).data
    return builder.bitcast(builder.gep(start, [builder.mul(n, _INDEX(LANES))]), _VECTOR.as_pointer())


@no_type_check
def _define(operation, instruction):
    """Define an operator for two vectors."""

    @intrinsic
    def apply(context, x, y):
        def generate(target, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments, flags=("contract", "reassoc"))

        return _float32x16(_float32x16, _float32x16), generate

    @overload(operation)
    def overloaded(x, y):
        if isinstance(x, Float32x16) and isinstance(y, Float32x16):
            return lambda x, y: apply(x, y)


for _operation, _instruction in (
    (operator.add, "fadd"), (operator.iadd, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")
):  # fmt: skip
    _define(_operation, _instruction)
