"""Sizes in words."""

import pytest

from diagd_cli.files.sizes import decimal


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (28_900_000, "28.9 MB"),
        (2 * 10**18, "2.0 EB"),
    ],
)
def test_sizes(size, told):
    assert decimal(size) == told
