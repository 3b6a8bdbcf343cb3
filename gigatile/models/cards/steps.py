"""Chains of scalings, as cards write them, folded into the one form that we have: ``(pixel * scale - mean) / std``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from gigatile.errors import ModelError
from gigatile.models.normalise import parse_normalisation


@dataclass(frozen=True, slots=True)
class Scaling:
    """Linear so far, or by statistics of the whole image."""

    where: str
    """How messages name the place in the card."""
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    normalize: str = "none"

    def linear(self, gain: Sequence[float], offset: Sequence[float]) -> Scaling:
        """After what there is: ``value * gain + offset``, one number each or one per channel.

        Raises
        ------
        ModelError
            It follows statistics of the image, is no number, or makes all pixels equal.
        """
        self._refuse_after_statistics("a scaling")
        if not gain or not offset or not all(map(isfinite, (*gain, *offset))) or 0 in gain:
            found = f"gain {list(gain)}, offset {list(offset)}"
            raise ModelError(self.where, expected="finite numbers, and no gain of 0", found=found)
        if not self.mean and not self.std and len(set(gain)) == 1:
            mean = () if not any(offset) else tuple(-shift for shift in offset)
            return Scaling(self.where, self.scale * gain[0], mean)
        count = max(len(self.mean), len(self.std), len(gain), len(offset))
        m, d = self._spread(self.mean or (0.0,), count), self._spread(self.std or (1.0,), count)
        g, o = self._spread(gain, count), self._spread(offset, count)
        # ((s p - m) / d) g + o = (s p - (m - o d / g)) / (d / g)
        mean = tuple(m[i] - o[i] * d[i] / g[i] for i in range(count))
        return Scaling(self.where, self.scale, mean, tuple(d[i] / g[i] for i in range(count)))

    def standard(self, mean: Sequence[float], std: Sequence[float]) -> Scaling:
        """After what there is: ``(value - mean) / std``.

        Raises
        ------
        ModelError
            As for `linear`; or the counts differ.
        """
        self._refuse_after_statistics("a scaling")
        if not mean or not std or not all(map(isfinite, (*mean, *std))) or 0 in std:
            raise ModelError(self.where, expected="finite means and deviations above 0", found=f"{mean}, {std}")
        count = max(len(self.mean), len(self.std), len(mean), len(std))
        m, d = self._spread(self.mean or (0.0,), count), self._spread(self.std or (1.0,), count)
        mu, sd = self._spread(mean, count), self._spread(std, count)
        return Scaling(
            self.where,
            self.scale,
            tuple(m[i] + mu[i] * d[i] for i in range(count)),
            tuple(d[i] * sd[i] for i in range(count)),
        )

    def statistics(self, method: str) -> Scaling:
        """By statistics of the whole image. A linear step before it drops out, unless it turns values upside down.

        Raises
        ------
        ModelError
            There are statistics already, or the step before it has a negative factor.
        """
        self._refuse_after_statistics("a second normalisation")
        parse_normalisation(method)
        if self.scale < 0 or any(d < 0 for d in self.std):
            raise ModelError(self.where, expected="positive factors before statistics", found=f"scale {self.scale}")
        return Scaling(self.where, 1.0, (), (), method)

    def _refuse_after_statistics(self, what: str) -> None:
        if self.normalize != "none":
            raise ModelError(
                self.where,
                expected="nothing after statistics of the image",
                found=what,
                fix="Give the model file itself, with --normalize or --scale, --mean and --std.",
            )

    def _spread(self, numbers: Sequence[float], count: int) -> tuple[float, ...]:
        if len(numbers) not in (1, count):
            raise ModelError(self.where, expected=f"1 or {count} numbers", found=str(len(numbers)))
        return tuple(numbers) * (count if len(numbers) == 1 else 1)
