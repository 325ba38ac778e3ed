"""Which twin of the inner loop this process uses: the native one where it was built, unless ``JACKFIELD_PURE`` is set.

``native`` is the module in C, or None. A module that has a hot method written twice hands its class to ``native`` when
it is imported.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import pure


def _find() -> Any:
    if os.environ.get("JACKFIELD_PURE", "") not in ("", "0"):
        return None
    try:
        from . import _native
    except ImportError:
        return None  # no compiler when it was installed, or not Linux
    _native.install_poller(pure.conflict)
    return _native


native = _find()

if TYPE_CHECKING:
    from .pure import Channel as Channel
    from .pure import Core as Core
else:
    Channel, Core = (native or pure).Channel, (native or pure).Core
