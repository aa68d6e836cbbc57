"""Element-wise functions that a CPU evaluates in one pass over memory each.

MLX evaluates operation by operation, and each one is a pass. `mx.compile` makes one C++ loop of a whole function, with
the same result, bit by bit. It vectorises the loop only if the function is at most ten operations deep and has no
maximum, minimum or clip; a deeper one becomes several loops that repeat work. On Linux, `install_loops` builds the
loops in advance by `evaluate_samples`; where they are not built, MLX evaluates operation by operation.
"""

import mlx.core as mx

# Coefficients of minimax polynomials, highest power first; r = 2^(1/32).
# u(a) / a, where 2 Phi(-a) = (1 + u(a) / r)^-32 for a >= 0
EXCESS = (2.0487969e-05, -8.2910559e-05, 0.0014232846, 0.010481093, 0.025479968)
DOUBLINGS = tuple(2 * 2 ** (2**index / 32) for index in range(5))  # 2 r, 2 r^2, 2 r^4, 2 r^8, 2 r^16
POWER = (0.00015349587, 0.0013398915, 0.0096184497, 0.055503324, 0.24022648, 0.6931472, 1.0)  # 2^f for |f| <= 0.5
TURN = (-0.0016839712, 0.019890475, -0.10823755, -0.63735866, -0.79772596, 0.99999528)  # 1 - a phi(a) / Phi(-a)

INTEGERS = 1.5 * 2**23  # fp32 numbers near it are integers
ROUNDER = 1.5 * 2**23 + 127  # y + ROUNDER has round(y) + 127 in its last bits


def extend_polynomial(value: mx.array, coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    """Horner's rule continued: value x^n plus the polynomial of n `coefficients`, highest power first."""
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def evaluate_polynomial(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    """Polynomial with these coefficients, highest power first, by Horner's rule."""
    return extend_polynomial(x * coefficients[0] + coefficients[1], coefficients[2:], x)


@mx.compile
def compute_excess(x: mx.array) -> mx.array:
    """u(|x|), of the tail of GELU."""
    magnitude = mx.abs(x)
    return evaluate_polynomial(EXCESS, magnitude) * magnitude


@mx.compile
def double_excess(excess: mx.array) -> mx.array:
    """2 (1 + u / r)^32 - 2 of u: five times squared as (1 + u)^2 - 1 = u (u + 2), with the scaling by r."""
    for doubling in DOUBLINGS:
        excess = excess * (excess + doubling)
    return excess


@mx.compile
def subtract_tail(x: mx.array, excess: mx.array) -> mx.array:
    """max(x, 0) - |x| Phi(-|x|)."""
    magnitude = mx.abs(x)
    return (x + magnitude) * 0.5 - magnitude / (excess + 2.0)


@mx.compile
def turn_tail(magnitude: mx.array) -> mx.array:
    """1 - a phi(a) / Phi(-a) of a = |x|."""
    return evaluate_polynomial(TURN, magnitude)


@mx.compile
def scale_by_slope(
    cotangent: mx.array, x: mx.array, sign: mx.array, magnitude: mx.array, output: mx.array, turn: mx.array
) -> mx.array:
    """Cotangent times the slope of GELU; Phi(-|x|) is recovered from the output."""
    tail = ((x + mx.abs(x)) * 0.5 - output) / magnitude
    return cotangent * (sign * (0.5 - tail * turn) + 0.5)


def find_fraction(y: mx.array) -> mx.array:
    """y minus the nearest integer."""
    return y - ((y + ROUNDER) - ROUNDER)


@mx.compile
def begin_power(y: mx.array) -> mx.array:
    """First half of the polynomial for 2^f, f the fraction of y."""
    return evaluate_polynomial(POWER[:4], find_fraction(y))


@mx.compile
def finish_power(y: mx.array, begun: mx.array) -> mx.array:
    """Second half of the polynomial for 2^f, after `begin_power`."""
    return extend_polynomial(begun, POWER[4:], find_fraction(y))


@mx.compile
def round_to_multiples(x: mx.array, step: mx.array) -> mx.array:
    """x rounded to multiples of `step`, half to even; x / step of a magnitude up to 2^22."""
    return (((x / step) + INTEGERS) - INTEGERS) * step


@mx.compile
def round_about_centre(x: mx.array, centre: mx.array, step: mx.array) -> mx.array:
    """x rounded to multiples of `step` from `centre`; (x - centre) / step of a magnitude up to 2^22."""
    return ((((x - centre) / step) + INTEGERS) - INTEGERS) * step + centre


def evaluate_samples() -> int:
    """Evaluate every function, with each layout of its inputs that occurs, so that MLX compiles its loops.

    Returns the number of loops, one per evaluation: a stream that is split from joined tokens has another layout.
    """
    x = mx.ones((2, 3, 4, 8))
    step = mx.ones((2, 3, 4, 1))
    samples = [compute_excess(x), double_excess(x), subtract_tail(x, x), turn_tail(x), begin_power(x)]
    samples += [finish_power(x, x), scale_by_slope(x, x, x, x, x, x)]
    for tokens in (slice(None), slice(2)):
        part = x[:, tokens], mx.contiguous(step[:, tokens])
        samples += [round_to_multiples(*part), round_about_centre(part[0], part[1], part[1])]
    mx.eval(samples)
    return len(samples)
