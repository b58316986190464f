"""High dynamic range and wide colours (PQ, HLG, BT.2020, Display P3) as a BT.709 screen shows them.

It is what ffmpeg makes with
`zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=709,tonemap=hable:desat=0,zscale=t=709`, whose
zscale the decoder's library lacks; its scale filter does the like, but prepares seven seconds for
each clip.
"""

from __future__ import annotations

from functools import cache

import numpy as np

PQ, HLG = 16, 18  # transfer functions by their numbers in ITU-T H.273
# Linear light of other primaries, by their numbers, to BT.709's; rows are R, G, B. From the
# chromaticities in H.273.
_PRIMARIES = {
    # BT.2020
    9: [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    12: [[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]],  # Display P3
}
_PEAK = 10.0  # of 100 cd/m2: what HLG is meant for, and as bright as most pictures in PQ


def for_other_screens(transfer: int, primaries: int) -> bool:
    """Whether frames of these colours need `to_screen`."""
    return transfer in (PQ, HLG) or primaries in _PRIMARIES


def to_screen(pixels: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """uint16 RGB [H, W, 3] of any such colours -> uint8 RGB [H, W, 3] of BT.709."""
    light = _linear(transfer)[pixels]
    if primaries in _PRIMARIES:
        light = light @ np.array(_PRIMARIES[primaries], np.float32).T
    light = np.maximum(light, 0)
    if transfer in (PQ, HLG):
        most = np.maximum(light.max(-1, keepdims=True), 1e-6)
        light *= _curve(most) / (_curve(_PEAK) * most)
    codes = (np.minimum(light, 1) * 65535).astype(np.uint16)
    return _screen()[codes]


@cache
def _linear(transfer: int) -> np.ndarray:
    """Light of each 16-bit code, float32 [65536]: 1 is 100 cd/m2."""
    code = np.linspace(0, 1, 1 << 16)
    if transfer == PQ:  # SMPTE ST 2084
        power = code ** (32 / 2523)
        light = 100 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (
            16384 / 2610
        )
    elif transfer == HLG:  # ARIB STD-B67
        scene = np.where(
            code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        )
        # as a display of 1,000 cd/m2 shows it, colour by colour as zscale has it
        light = _PEAK * scene**1.2
    else:
        light = code**2.4  # BT.1886
    return light.astype(np.float32)


@cache
def _screen() -> np.ndarray:
    """The 8-bit code of each light from 0 to 65535, uint8 [65536], by BT.1886."""
    return np.round(255 * np.linspace(0, 1, 1 << 16) ** (1 / 2.4)).astype(np.uint8)


def _curve(light: np.ndarray | float) -> np.ndarray | float:
    """Hable's curve, which keeps the dark and bends the bright: John Hable, Uncharted 2, GDC
    2010.
    """
    return (light * (0.15 * light + 0.05) + 0.004) / (
        light * (0.15 * light + 0.5) + 0.06
    ) - 0.02 / 0.3
