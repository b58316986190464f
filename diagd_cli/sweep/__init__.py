"""Many decodings of the same clips: quality against speed, the front of the best, and the fastest within a bound."""
