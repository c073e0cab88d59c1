"""Lengths of samples as a distribution: their mean, the longest of several, the sum of several.

On a grid of equally spaced lengths, so that every question is a sum: nothing is drawn, and equal
questions get equal answers.
"""

from __future__ import annotations

from math import erfc, exp, gcd, log, sqrt

import numpy as np
import numpy.typing as npt

from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]

POINTS = 4096  # of a grid
LONGEST = 1 << 16  # points of a sum's grid, beyond which it is coarsened
#: standard normal quantile of the longest of 50,000 samples, 1 - 1/50,000: what a maximum means
#: where a file gives a mean and a maximum; the sets people tune on hold 15,000 to 200,000
LONGEST_OF_A_SET = 4.107
_TAIL = 6.0  # standard deviations of the logarithm beyond which nothing is left


class Lengths(NamedTuple):
    """Masses at lengths `pitch`, 2 `pitch`, ... ; they sum to 1."""

    pitch: float  # [tokens]
    mass: F8  # (n,)

    @property
    def at(self) -> F8:
        """The lengths, (n,). [tokens]"""
        return self.pitch * np.arange(1, self.mass.size + 1, dtype=np.float64)

    @property
    def mean(self) -> float:
        """Expected length. [tokens]"""
        return float(self.mass @ self.at)

    @property
    def attended(self) -> float:
        """Mean length of the sample that a token is in, E[l^2] / E[l]. [tokens]

        What attention costs a token where it stops at the ends of samples.
        """
        return float(self.mass @ self.at**2) / self.mean

    def longest(self, samples: float) -> Lengths:
        """Distribution of the longest of so many.

        Notes
        -----
        P(max <= x) = P(l <= x)^n.
        """
        below = np.minimum(np.cumsum(self.mass), 1.0) ** samples
        below[-1] = 1.0
        return Lengths(self.pitch, np.diff(below, prepend=0.0))

    def together(self, batch: int, among: int) -> float:
        """Expected longest of so many that stand together where `among` at once are sorted.

        Parameters
        ----------
        batch, among : int
            Samples; every `among` are sorted from the longest on, batches follow each other.

        Returns
        -------
        float
            Mean over the batches. [tokens]

        Notes
        -----
        Batches begin at all multiples x of gcd(batch, among) alike. One that holds where sorted
        samples begin anew has the longest of `among`; of another it is the (1 + x)-th, whose mean
        its median stands for, at the share (among - x - 0.3) / (among + 0.4) of all (Benard).
        """
        if batch >= among:
            return self.longest(batch).mean
        apart = gcd(batch, among)
        at = np.arange(apart, among - batch + 1, apart)
        share = (among - at - 0.3) / (among + 0.4)
        place = np.searchsorted(np.cumsum(self.mass), share)
        later = self.at[np.minimum(place, self.mass.size - 1)].sum()
        return float((self.longest(among).mean * batch / apart + later) * apart / among)

    def total(self, samples: int) -> Lengths:
        """Distribution of the sum of so many.

        Notes
        -----
        The samples-fold convolution, by squaring; a grid that grows too long is coarsened, which
        keeps the mean.
        """
        result: Lengths | None = None
        power = self
        while True:
            if samples & 1:
                result = power if result is None else _sum(result, power)
            samples >>= 1
            if not samples:
                return result if result is not None else self
            power = _sum(power, power)


def _sum(a: Lengths, b: Lengths) -> Lengths:
    pitch = max(a.pitch, b.pitch)
    x, y = (_coarser(d, pitch).mass for d in (a, b))
    size = x.size + y.size
    fast = 1 << (size - 1).bit_length()
    mass = np.fft.irfft(np.fft.rfft(x, fast) * np.fft.rfft(y, fast), fast)[: size - 1]
    mass = np.maximum(mass, 0.0)  # of lengths 2, 3, ... pitches
    found = Lengths(pitch, np.concatenate(([0.0], mass / mass.sum())))
    return _coarser(found, 2 * pitch) if size > LONGEST else found


def _coarser(d: Lengths, pitch: float) -> Lengths:
    return d if d.pitch == pitch else on_grid(d.at, d.mass, pitch)


def on_grid(at: npt.ArrayLike, mass: npt.ArrayLike, pitch: float) -> Lengths:
    """Masses at any lengths, each shared between its neighbours on a grid so that its mean stays.

    What is shorter than `pitch` counts as `pitch`.
    """
    place = np.maximum(np.asarray(at, dtype=float) / pitch, 1.0)
    weight = np.asarray(mass, dtype=float)
    low = np.floor(place).astype(np.int64)
    share = place - low
    out = np.zeros(int(low.max()) + 1)
    np.add.at(out, low - 1, weight * (1.0 - share))
    np.add.at(out, low, weight * share)
    if out[-1] == 0.0:
        out = out[:-1]
    return Lengths(pitch, out / out.sum())


def listed(lengths: npt.ArrayLike, weights: npt.ArrayLike, cut: float) -> Lengths:
    """Samples as they are, or a histogram of them, cut to `cut` tokens."""
    at = np.minimum(np.asarray(lengths, dtype=float), cut)
    return on_grid(at, weights, max(1.0, float(at.max()) / POINTS))


def lognormal(mean: float, maximum: float, cut: float) -> Lengths:
    """Lengths whose logarithm is normal, cut to `cut` tokens.

    Parameters
    ----------
    mean, maximum : float
        Mean of all, and the longest of a set of 50,000. [tokens]
    cut : float
        Tokens that are read of a longer one.

    Notes
    -----
    With z = `LONGEST_OF_A_SET`: ln maximum = mu + z s and ln mean = mu + s^2 / 2, hence
    s = z - sqrt(z^2 - 2 ln(maximum / mean)), at most z.
    """
    spread = sigma(mean, maximum)
    if spread == 0.0:
        return listed([mean], [1.0], cut)
    middle = log(mean) - spread * spread / 2
    z = np.linspace(-_TAIL, _TAIL, POINTS + 1)
    # the mass between two edges, where its own mean is: cutting and gridding then keep the mean
    mass, first = np.diff(_normal(z)), np.diff(_normal(z - spread))
    top = min(cut, exp(middle + _TAIL * spread))
    return listed(mean * first / mass, mass, top)


def _normal(z: F8) -> F8:
    """Standard normal distribution function."""
    return np.array([0.5 * erfc(-x / sqrt(2.0)) for x in z.tolist()])


def sigma(mean: float, maximum: float) -> float:
    """Standard deviation of the logarithm for a mean and the longest of a set. [1]"""
    z = LONGEST_OF_A_SET
    return z - sqrt(max(0.0, z * z - 2.0 * log(max(1.0, maximum / mean))))
