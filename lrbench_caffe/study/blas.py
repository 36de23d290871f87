"""The environment variable that selects the fastest OpenBLAS kernels for a processor."""

from __future__ import annotations

import contextlib
import os

_AVX512_FLAGS = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


def blas_environment(flags: str | None = None) -> dict[str, str]:
    """Return the environment variables that make OpenBLAS use the processor's fastest kernels.

    Debian 11's OpenBLAS 0.3.13 does not recognize newer AMD processors and leaves their AVX-512
    units idle. Its SkylakeX kernels run on every processor with these AVX-512 flags.

    Args:
        flags: The processor's flags as in /proc/cpuinfo, separated by spaces (None: this
            machine's).

    Returns:
        The variables to add to the environment. Empty if OpenBLAS selects its kernels itself, or
        if the environment already sets ``OPENBLAS_CORETYPE``.

    Example:
        >>> blas_environment("fpu avx2")
        {}
    """
    if "OPENBLAS_CORETYPE" in os.environ:
        return {}
    if flags is None:
        flags = _processor_flags()
    return {"OPENBLAS_CORETYPE": "SkylakeX"} if set(flags.split()) >= _AVX512_FLAGS else {}


def _processor_flags() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        return next((line for line in file if line.startswith("flags")), "")
    return ""
