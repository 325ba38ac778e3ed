"""What a native server does with those who come, from accept to the one end of each connection."""

from .background import in_background
from .choices import ProxyRule, descriptor_room, mode_for, server_tls
from .drain import Aside, Drain
from .ended import Ended
from .info import ServerInfo
from .rereading import Reload, Rereading
from .service import Service

__all__ = [
    "Aside",
    "Drain",
    "Ended",
    "ProxyRule",
    "Reload",
    "Rereading",
    "ServerInfo",
    "Service",
    "descriptor_room",
    "in_background",
    "mode_for",
    "server_tls",
]
