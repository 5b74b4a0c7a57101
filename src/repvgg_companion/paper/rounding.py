"""The rules by which the paper cut or rounded its numbers."""

import math

_EPSILON = 1e-9  # 1.33 * 100 is 133.00000000000003 in binary floating point


def truncated(value: float, digits: int = 0) -> float:
    """`value` cut to `digits` decimals, the rule of the paper's percentages, ratios and parameter column."""
    scale = 10**digits
    return math.trunc(value * scale + math.copysign(_EPSILON * max(1.0, abs(value * scale)), value)) / scale


def rounded(value: float, digits: int = 0) -> float:
    """`value` rounded half away from zero to `digits` decimals, the rule of the FLOPs and Wino MULs columns."""
    scale = 10**digits
    return math.copysign(math.floor(abs(value) * scale + 0.5 + _EPSILON) / scale, value)
