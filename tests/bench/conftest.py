"""The fixture that chooses a twin, for each module of this folder."""

from __future__ import annotations

from bench_support import twin

__all__ = ["twin"]
