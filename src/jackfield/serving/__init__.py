"""What a native server does with those who come, from accept to the one end of each connection."""

from .choices import ProxyRule, descriptor_room, mode_for
from .info import ServerInfo
from .rereading import Reload, Rereading
from .service import Service

__all__ = ["ProxyRule", "Reload", "Rereading", "ServerInfo", "Service", "descriptor_room", "mode_for"]
