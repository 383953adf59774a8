"""What directions that have nothing to do with one another give: the values beside which a measured one is read.

All are for uniformly random directions in d dimensions. A saved audit is read with these alone, without torch.
"""

import math

# Median of sqrt(count * d) times the smallest cosine between two random spaces of ``count`` dimensions: where
# t^2 / 2 + t = ln 2, from the smallest singular value of a square Gaussian matrix (Edelman 1988).
_SMALLEST = math.sqrt(1 + 2 * math.log(2)) - 1


def chance_max_cosine(d: int, count: int) -> float:
    """Mean of the largest ``|<x_i, y>|`` of a random unit vector y with ``count`` orthonormal x_i in d dimensions.

    ``(a - (ln ln 2c + ln 4 pi - 2 gamma) / (2 a)) / sqrt(d)`` with ``a = sqrt(2 ln 2c)``, the mean of the largest of c
    absolute values of Gaussians (Cramer 1946). Right to about 1 % from 100 dimensions on.

    >>> round(chance_max_cosine(576, 576), 3)
    0.138
    """
    if d < 2 or count < 2:
        return 1.0 if d < 2 else math.sqrt(2 / (math.pi * d))
    logarithm = math.log(2 * count)
    a = math.sqrt(2 * logarithm)
    twice_gamma = 1.1544
    largest = a - (math.log(logarithm) + math.log(4 * math.pi) - twice_gamma) / (2 * a)
    return min(1.0, largest / math.sqrt(d))


def chance_share(count: int, d: int) -> float:
    """Share of a random vector's squared length in a space of ``count`` dimensions: ``count / d``.

    It is the mean squared cosine of the angles between two random spaces, too.
    """
    return min(1.0, count / d)


def chance_angle(count: int, d: int) -> float:
    """Median of the largest principal angle between two random spaces of ``count`` dimensions, in degrees.

    NaN where the spaces fill more than a quarter of the d dimensions: the limit that this rests on is then far.
    """
    if 4 * count > d:
        return math.nan
    return math.degrees(math.acos(min(1.0, _SMALLEST / math.sqrt(count * d))))
