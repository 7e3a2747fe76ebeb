"""The generated series of the `signals` section of the config."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from laglens.config.section import Section

Coefficient = Annotated[float, Field(gt=-1, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Period = Annotated[float, Field(ge=2)]  # below two samples it could not be told from a longer one
Probability = Annotated[float, Field(ge=0, le=1)]


GENERATORS_WITH_EVENTS = (
    *("heavy_tailed_ar1", "garch11", "jump_diffusion"),
    *("regime_switching", "trend_breaks", "season_trend_outliers"),
)


class Generated(Section):
    """Keys of every generator."""

    length: int = Field(512, ge=8, le=10_000_000, description="samples in time")
    samples: int = Field(1, ge=1, le=100_000, description="independent series")
    seed: int | None = Field(
        None, ge=0, description="random stream of this signal; null: made from the study's seed and the signal's name"
    )
    time_step: PositiveFloat = Field(1.0, description="one sample is this many `time_unit`")
    time_unit: str = Field("samples", description="unit of time on figures and in tables")
    unit: str = Field("", description="unit of the values")

    @property
    def known_length(self) -> int:
        """Samples in time."""
        return self.length


class Wave(Section):
    """One sine or cosine: amplitude x function(angle + phase)."""

    period: float | None = Field(None, ge=2, description="period in samples")
    angular: float | None = Field(
        None, gt=0, le=math.pi, description="angular frequency in radians per sample, instead of `period`"
    )
    amplitude: NonNegative = Field(1.0, description="amplitude; 0 takes the wave out and leaves all else as it is")
    phase: float = Field(0.0, description="phase in radians")
    function: Literal["sin", "cos"] = Field("sin", description="sine or cosine")

    @model_validator(mode="after")
    def _one_frequency(self) -> Self:
        if (self.period is None) == (self.angular is None):
            raise ValueError("a component needs either 'period' (samples) or 'angular' (radians per sample)")
        return self

    @property
    def samples_per_radian(self) -> float:
        """Samples in which the angle grows by one radian."""
        return 1 / self.angular if self.angular is not None else self.samples_per_turn / math.tau

    @property
    def samples_per_turn(self) -> float:
        """The period, however it was given."""
        return self.period if self.period is not None else math.tau / (self.angular or math.nan)


class Harmonics(Generated):
    """Sum of waves. Series after the first have random phases."""

    generator: Literal["harmonics"]
    components: list[Wave] = Field(min_length=1, description="the waves; at least one with an amplitude above 0")
    noise: NonNegative = Field(0.0, description="standard deviation of white noise")

    @model_validator(mode="after")
    def _heard(self) -> Self:
        if not self.noise and not any(wave.amplitude for wave in self.components):
            raise ValueError("every amplitude is 0 and there is no noise: the series would be constant")
        return self


class Chirp(Generated):
    """A sine whose period changes from one end to the other. Series after the first have random phases."""

    generator: Literal["chirp"]
    period_start: Period = Field(description="period at the first sample, in samples")
    period_end: Period = Field(description="period at the last sample, in samples")
    sweep: Literal["linear", "logarithmic"] = Field("logarithmic", description="how the frequency changes with time")
    amplitude: PositiveFloat = Field(1.0, description="amplitude")
    phase: float = Field(0.0, description="phase of the first sample in radians")
    noise: NonNegative = Field(0.0, description="standard deviation of white noise")


class Lagged(Generated):
    """Keys of the generators with a planted lag."""

    lag: PositiveInt = Field(description="the lag in samples; below `length`")
    noise: PositiveFloat = Field(1.0, description="standard deviation of e")

    @model_validator(mode="after")
    def _lag_fits(self) -> Self:
        if self.lag >= self.length:
            raise ValueError(f"lag {self.lag} is not below length {self.length}: nothing would ever come back")
        return self


class PlantedLag(Lagged):
    """x_t = coefficient x_(t - lag) + e_t: the past acts at one lag, and nothing is periodic."""

    generator: Literal["planted_lag"]
    coefficient: Coefficient = Field(0.8, description="weight of the past, between -1 and 1")


class RandomWalkEcho(Lagged):
    """Random walk whose every step comes back once: x_t - x_(t-1) = e_t + echo e_(t - lag)."""

    generator: Literal["random_walk_echo"]
    echo: float = Field(0.8, description="strength of the echo")


class Published(Generated):
    """One of the nine series of the distribution study as it was published, number for number."""

    generator: Literal[
        "heavy_tailed_ar1", "garch11", "jump_diffusion", "regime_switching", "trend_breaks", "random_walk",
        "season_trend_outliers", "multi_seasonality", "one_over_f",
    ]  # fmt: skip
    variant: Literal["published"] = Field(description="published: parameters fixed, numpy's legacy random numbers")
    length: int = Field(1000, ge=8, le=10_000_000, description="samples in time")
    seed: int | None = Field(42, ge=0, le=2**31, description="legacy seed of the first series; the next take the next")


class Corrected(Generated):
    """Keys of the corrected forms of the nine series of the distribution study."""

    variant: Literal["corrected"] = Field("corrected", description="published or corrected; see docs/signals.md")
    length: int = Field(1000, ge=8, le=10_000_000, description="samples in time")


class HeavyTailedAR1(Corrected):
    """AR(1) with Student-t noise, started in its stationary state."""

    generator: Literal["heavy_tailed_ar1"]
    coefficient: float = Field(0.7, ge=-0.999, le=0.999, description="weight of the sample before")
    degrees_of_freedom: float = Field(3.0, gt=1, description="of the noise; smaller: heavier tails")
    scale: PositiveFloat = Field(1.0, description="scale of the noise")


class GARCH11(Corrected):
    """Returns whose variance depends on the return and the variance before."""

    generator: Literal["garch11"]
    omega: PositiveFloat = Field(0.1, description="constant part of the variance")
    alpha: Probability = Field(0.1, description="weight of the squared return before")
    beta: Probability = Field(0.87, description="weight of the variance before; alpha + beta below 1")
    degrees_of_freedom: float | None = Field(8.0, gt=2, description="of the t innovations; null: Gaussian")

    @model_validator(mode="after")
    def _stationary(self) -> Self:
        if self.alpha + self.beta > 0.999:
            raise ValueError(f"alpha + beta is {self.alpha + self.beta:g}: above 0.999 the variance does not settle")
        return self


class JumpDiffusion(Corrected):
    """Random walk with rare large jumps."""

    generator: Literal["jump_diffusion"]
    drift: float = Field(0.0, description="mean step")
    volatility: NonNegative = Field(1.0, description="standard deviation of a step")
    jump_probability: Probability = Field(0.05, description="probability of a jump at a sample")
    jump_size: PositiveFloat = Field(5.0, description="standard deviation of a jump")


class RegimeSwitching(Corrected):
    """White noise whose mean and spread follow a hidden Markov state."""

    generator: Literal["regime_switching"]
    means: list[float] = Field([-2.0, 2.0], min_length=2, description="mean in each state")
    deviations: list[NonNegative] = Field([0.5, 2.0], min_length=2, description="standard deviation in each state")
    stay: Probability = Field(0.95, description="probability of staying in the state")

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.means) != len(self.deviations):
            raise ValueError(f"{len(self.means)} means but {len(self.deviations)} deviations: one of each per state")
        return self


class TrendBreaks(Corrected):
    """Piecewise straight line with white noise."""

    generator: Literal["trend_breaks"]
    slopes: list[float] = Field([0.1, -0.1, 0.05], min_length=2, description="rise per sample in each piece")
    breaks: list[float] = Field([0.3, 0.7], min_length=1, description="ends of the pieces but the last, / length")
    noise: NonNegative = Field(0.5, description="standard deviation of white noise")

    @model_validator(mode="after")
    def _pieces(self) -> Self:
        if len(self.slopes) != len(self.breaks) + 1:
            raise ValueError(f"{len(self.slopes)} slopes need {len(self.slopes) - 1} breaks, not {len(self.breaks)}")
        if sorted({0.0, *self.breaks, 1.0}) != [0.0, *self.breaks, 1.0]:
            raise ValueError(f"breaks {self.breaks} are not rising shares between 0 and 1")
        return self


class RandomWalk(Corrected):
    """Sum of independent steps."""

    generator: Literal["random_walk"]
    drift: float = Field(0.0, description="mean step")
    volatility: PositiveFloat = Field(1.0, description="standard deviation of a step")


class SeasonTrendOutliers(Corrected):
    """Line, sine, white noise and rare outliers. Series after the first have random phases."""

    generator: Literal["season_trend_outliers"]
    trend: float = Field(0.01, description="rise per sample")
    period: Period = Field(10.0, description="period of the sine in samples")
    amplitude: PositiveFloat = Field(2.0, description="amplitude of the sine")
    noise: NonNegative = Field(0.3, description="standard deviation of white noise")
    outlier_probability: Probability = Field(0.02, description="probability of an outlier at a sample")
    outlier_size: PositiveFloat = Field(5.0, description="standard deviation of an outlier")


class MultiSeasonality(Corrected):
    """Waves whose periods are not nested, with white noise. Series after the first have random phases."""

    generator: Literal["multi_seasonality"]
    components: list[Wave] = Field(
        [Wave(period=10, amplitude=3.0), Wave(period=13, amplitude=1.5, phase=math.pi / 4)],
        min_length=1,
        description="the waves",
    )
    noise: PositiveFloat = Field(0.2, description="standard deviation of white noise")


class OneOverF(Corrected):
    """Noise whose power falls with frequency as a power law, standardised."""

    generator: Literal["one_over_f"]
    method: Literal["spectral", "arfima"] = Field("spectral", description="shaped spectrum, or fractional differencing")
    exponent: float = Field(1.0, gt=0, le=2, description="power ~ 1 / frequency^exponent; spectral only")
    difference: float = Field(0.4, gt=0, lt=0.5, description="order of fractional differencing; arfima only")
