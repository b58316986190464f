"""What decodings are measured by, and how well a figure is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Measure:
    """Something that tells good decodings from bad ones.

    key: its name in rows, JSON and CSV.
    name: its name in tables and sentences.
    bound: its name in a bound, such as `nll<=+2%`.
    figure: its name among the figures of one sample, which has a value a frame.
    digits: digits after the decimal point where it is shown.
    unit: what follows the number, with a space before it; "" for none.
    low_is_good: whether less of it is better.
    """

    key: str
    name: str
    bound: str
    figure: str
    digits: int
    unit: str = ""
    low_is_good: bool = False


PSNR = Measure("psnr", "PSNR", "psnr", "psnr", 2, " dB")
SSIM = Measure("ssim", "SSIM", "ssim", "ssim", 3)
NLL = Measure("nll", "NLL", "nll", "nll", 3, low_is_good=True)  # nats a token
ACTIONS = Measure("action_accuracy", "actions", "actions", "hits", 3)
MEASURES = (PSNR, SSIM, NLL, ACTIONS)  # in the order of rows, tables and JSON
NLL_FIRST = (NLL, PSNR, SSIM, ACTIONS)  # in the order of what a sweep chooses by


@dataclass(frozen=True)
class Estimate:
    """A mean over clips and its 95% interval.

    mean: of one value a clip.
    low, high: ends of the interval; None for fewer than two clips.
    clips: how many there are.
    """

    mean: float
    low: float | None
    high: float | None
    clips: int

    def rounded(self, digits: int = 5) -> Estimate:
        """The same to so many digits, as rows have it: what is told of them can be checked by their
        JSON.
        """
        low, high = (None if end is None else round(end, digits) for end in (self.low, self.high))
        return Estimate(round(self.mean, digits), low, high, self.clips)


@dataclass(frozen=True)
class Distance:
    """A Frechet distance between features of what was made and of what is real.

    value: None for fewer than two samples on a side.
    samples, real: how many there are on either side.
    """

    value: float | None
    samples: int
    real: int


def facts_of(figure: Estimate | Distance | None) -> dict | None:
    """A figure as JSON has it; None where there is none."""
    if figure is None or (isinstance(figure, Distance) and figure.value is None):
        return None
    return asdict(figure)
