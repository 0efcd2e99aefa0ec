"""A vector of ``LANES`` float32 as one value in Numba kernels: ``load``, ``store``, ``spread``, ``+ - *``, ``log``.

What a compiler makes of inner loops differs from one machine to another; here one instruction serves all lanes by
construction, and a lane never reads another. ``LANES`` is the same everywhere: a machine with shorter vectors takes
several instructions. Offsets are in elements, and nothing checks them.
"""

import operator
from typing import Any

from llvmlite import ir
from numba import extending, float32, njit, types
from numba.extending import lower_builtin, models, register_model, type_callable

LANES = 16
"""One 512-bit vector of float32."""

intrinsic: Any = extending.intrinsic  # its own type knows nothing of the arguments that a kernel gives

_F32, _I32 = ir.FloatType(), ir.IntType(32)
_VECTOR, _INTEGERS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)


class _Lanes(types.Type):
    def __init__(self):
        super().__init__(name=f"Lanes({LANES})")


lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _VECTOR)


def _constant(number):
    return ir.Constant(_INTEGERS, [number] * LANES)


def _splat(builder, scalar):
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), _constant(0))


def _pointer(context, builder, array_type, array, offset):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def _load(context, builder, array_type, array, offset):
    pointer = _pointer(context, builder, array_type, array, offset)
    return builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)


def _store(context, builder, array_type, array, offset, value):
    pointer = _pointer(context, builder, array_type, array, offset)
    builder.store(value, builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)


def _operator(operation, instruction):
    """Let ``operation`` take lanes and lanes, or a scalar and lanes; products may be fused into sums."""

    @type_callable(operation)
    def types_of(context):
        def typer(a, b):
            return lanes if lanes in (a, b) and {a, b} <= {lanes, float32} else None

        return typer

    def lower(context, builder, signature, args):
        operands = [a if t == lanes else _splat(builder, a) for a, t in zip(args, signature.args, strict=True)]
        return getattr(builder, instruction)(*operands, flags=("contract",))

    for a, b in ((lanes, lanes), (float32, lanes), (lanes, float32)):
        lower_builtin(operation, a, b)(lower)


_operator(operator.add, "fadd")
_operator(operator.iadd, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")


@intrinsic
def spread(context, scalar):
    """Return lanes that all hold ``scalar``."""
    return lanes(float32), lambda context, builder, signature, args: _splat(builder, args[0])


@intrinsic
def load_spread(context, array, offset):
    """Return lanes that all hold ``array[offset]``."""

    def code(context, builder, signature, args):
        return _splat(builder, builder.load(_pointer(context, builder, signature.args[0], *args)))

    return lanes(array, types.intp), code


@intrinsic
def load(context, array, offset):
    """Return ``array[offset : offset + LANES]``."""

    def code(context, builder, signature, args):
        return _load(context, builder, signature.args[0], *args)

    return lanes(array, types.intp), code


@intrinsic
def store(context, array, offset, value):
    """Do ``array[offset : offset + LANES] = value``."""

    def code(context, builder, signature, args):
        _store(context, builder, signature.args[0], *args)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), code


def _exponent_bits(builder, value):
    """Return e of value = m * 2**e with m in [2/3, 4/3)."""
    above = builder.sub(builder.bitcast(value, _INTEGERS), _constant(0x3F2AAAAB))
    return builder.ashr(above, _constant(23))


@intrinsic
def _exponent(context, value):
    def code(context, builder, signature, args):
        return builder.sitofp(_exponent_bits(builder, args[0]), _VECTOR)

    return lanes(lanes), code


@intrinsic
def _mantissa(context, value):
    def code(context, builder, signature, args):
        shifted = builder.shl(_exponent_bits(builder, args[0]), _constant(23))
        return builder.bitcast(builder.sub(builder.bitcast(args[0], _INTEGERS), shifted), _VECTOR)

    return lanes(lanes), code


@njit
def log(x):
    """Return the natural logarithm of normal positive lanes.

    The error is at most 1e-7 and 1e-7 of the result. What is not finite gives NaN.
    """
    f = _mantissa(x) - float32(1.0)
    # (log(1 + f) - f) / f**2 for |f| <= 1/3, of least relative error in the logarithm: 3e-8
    p = float32(0.14027039706707) * f - float32(0.15389207005500793)
    p = p * f + float32(0.1399567872285843)
    p = p * f - float32(0.16415850818157196)
    p = p * f + float32(0.2001117616891861)
    p = p * f - float32(0.2500782310962677)
    p = p * f + float32(0.33333197236061096)
    p = p * f - float32(0.49999937415122986)
    return _exponent(x) * float32(0.6931471805599453) + (f * f * p + f) + (x - x)


@intrinsic
def load_transposed(context, source, at, stride, last, factors, factors_at, out, to):
    """Make a square of ``LANES`` rows: lane ``l`` of row ``k`` is source[at + min(l, last) * stride + k], tapered.

    It is multiplied by factors[factors_at + k]; the rows are stored one after another at ``out[to]``.
    """

    def code(context, builder, signature, args):
        source, at, stride, last, factors, factors_at, out, to = args
        source_type, factors_type, out_type = (signature.args[i] for i in (0, 4, 6))
        taper = _load(context, builder, factors_type, factors, factors_at)
        rows = []
        for lane in range(LANES):
            index = ir.Constant(at.type, lane)
            row = builder.select(builder.icmp_signed("<", index, last), index, last)
            offset = builder.add(at, builder.mul(row, stride))
            rows.append(builder.fmul(_load(context, builder, source_type, source, offset), taper))
        size = LANES // 2
        while size:
            low = [LANES + k - size if k & size else k for k in range(LANES)]
            high = [LANES + k if k & size else k + size for k in range(LANES)]
            for a in range(LANES):
                if not a & size:
                    b = a + size
                    rows[a], rows[b] = (
                        builder.shuffle_vector(rows[a], rows[b], ir.Constant(_INTEGERS, mask)) for mask in (low, high)
                    )
            size //= 2
        for k, row in enumerate(rows):
            offset = builder.add(to, ir.Constant(to.type, k * LANES))
            _store(context, builder, out_type, out, offset, row)
        return context.get_dummy_value()

    i = types.intp
    return types.void(source, i, i, i, factors, i, out, i), code
