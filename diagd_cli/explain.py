"""What is said about an exception, in one line."""

from __future__ import annotations

import errno

from diagd_cli.errors import DiagdError, is_out_of_memory


def explain(error: BaseException) -> str:
    """What to say about any exception."""
    if is_out_of_memory(error):
        return "Out of memory. Ask for fewer --frames, use a smaller preset, or free some memory"
    if isinstance(error, DiagdError):
        return str(error)
    if isinstance(error, OSError):
        from diagd_cli.files.atomic import is_full, write_failure

        if error.errno == errno.ENAMETOOLONG:
            return f"The name {error.filename} is too long. Choose a shorter one"
        if is_full(str(error)):
            return str(write_failure(error.filename or "A file", str(error)))
    return f"{type(error).__name__}: {error}. This is a bug in diagd; -v shows where"
