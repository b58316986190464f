"""Ratios measured side by side in one run: `python -m benchmarks.NAME --help`. Not part of the
package.
"""
