"""What a native server does with those who come, from accept to the one end of each connection."""

from .choices import descriptor_room, mode_for
from .entry import ProxyRule
from .service import Service

__all__ = ["ProxyRule", "Service", "descriptor_room", "mode_for"]
