"""Parameters of the layers that models are made of, by arithmetic: nothing is built. Torch-free."""

from __future__ import annotations

COLOURS = 3


def linear(inputs: int, outputs: int, taps: int = 1) -> int:
    """A linear layer, or a convolution of so many taps, with its bias."""
    return (inputs * taps + 1) * outputs


def resnet(inputs: int, outputs: int, *taps: int) -> int:
    """A residual block: two norms, two chains of convolutions, and a shortcut where the width
    changes.
    """
    convolutions = chain(inputs, outputs, *taps) + chain(outputs, outputs, *taps)
    return (
        2 * inputs
        + 2 * outputs
        + convolutions
        + (linear(inputs, outputs) if inputs != outputs else 0)
    )


def chain(inputs: int, outputs: int, *taps: int) -> int:
    """Convolutions one after the other."""
    return sum(linear(inputs if n == 0 else outputs, outputs, size) for n, size in enumerate(taps))
