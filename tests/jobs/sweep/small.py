"""Rows of a sweep, written by hand."""

from __future__ import annotations

METHODS = {"NTP": "ntp", "spatial": "spatial", "ZipAR": "zipar"}


def estimate(mean: float, reach: float | None = 0.1) -> dict:
    """A mean and its interval, `reach` to either side; None for one clip."""
    low, high = (None, None) if reach is None else (mean - reach, mean + reach)
    return {"mean": mean, "low": low, "high": high, "clips": 1 if reach is None else 4}


def row(k: int, d: int, speed: float, over: float, reach: float | None = 0.02, psnr: float = -0.3, **changes) -> dict:
    """A decoding `speed` times as fast as NTP whose NLL is 2 + `over`, the difference known to `reach`."""
    facts = {"method": "diagd", "k": k, "d": d, "stand_in": "previous-frame", "repair": True}
    facts |= {name: changes.pop(name) for name in list(changes) if name in facts}
    found = {"label": f"DiagD k={k} d={d}", "decoding": facts, "steps": round(2400 / speed), "samples": 4}
    found |= {"speedup": estimate(speed), "tokens_per_second": estimate(90 * speed)}
    found |= {"frames_per_second": estimate(0.3 * speed), "token_agreement": estimate(0.4)}
    found |= {"nll": estimate(2 + over), "psnr": estimate(20 + psnr), "ssim": estimate(0.5), "action_accuracy": None}
    found["fd_inv"] = {"value": 3.2, "samples": 32, "real": 32}
    differences = {"nll": estimate(over, reach), "psnr": estimate(psnr, reach), "ssim": estimate(0.0, reach)}
    return {**found, "difference": {**differences, "action_accuracy": None}, **changes}


def ntp(**changes) -> dict:
    """The row that others are held against: NLL 2, PSNR 20 dB."""
    return row(20, 300, 1.0, 0.0, psnr=0.0, method="ntp") | {"label": "NTP", "difference": None} | changes


def report(rows: list[dict], **changes) -> dict:
    """A sweep's report, as JSON has it."""
    found = {"command": "diagd sweep a.mp4", "preset": "freedoom", "base_preset": "freedoom", "frames": 8, "context": 4}
    found |= {"sampling": {"top_p": 0.8}, "clips": ["a.mp4"], "seeds": [0], "batch": 4, "skipped": {}, "limits": []}
    return found | {"rows": rows, "notes": [], "recommended": None} | changes
