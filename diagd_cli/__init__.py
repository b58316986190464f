"""diagd: fast video generation with autoregressive Transformers by Diagonal Decoding."""

__version__ = "0.1.0"
