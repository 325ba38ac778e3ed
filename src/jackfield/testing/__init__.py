"""For the tests of those who build on Jackfield: servers and connections for a handler, a clock, conformance suites.

- `serve(handler)`: a real server on an ephemeral port, for the length of a with block.
- `run_handler(handler, data)` and `memory_connection(handler)`: a handler on one end of a socket pair, without a port.
- `ManualClock`: a clock that stands still until the test moves it.
- `check_socket(factory)` and `check_server(factory)`: what sockets and servers have to do, held against yours.
"""

from .conformance import check_server, check_socket
from .manual_clock import ManualClock
from .memory import MemoryClient, memory_connection, run_handler
from .own_process import OwnProcess
from .server_handlers import AskedToFail, async_handler, blocking_handler
from .server_suite import DATAGRAM_SERVER, STREAM_SERVER
from .servers import ClassServers, NativeServers, ServerFactory, stdlib_servers
from .serving import ServedServer, serve
from .socket_suite import SOCKET
from .sockets import SocketFactory, green_sockets, stdlib_sockets, thread_sockets
from .suite import ConformanceError, NotPromised, Report, Suite
from .units import GreenUnits, ThreadUnits, Units

__all__ = [
    "DATAGRAM_SERVER",
    "SOCKET",
    "STREAM_SERVER",
    "AskedToFail",
    "ClassServers",
    "ConformanceError",
    "GreenUnits",
    "ManualClock",
    "MemoryClient",
    "NativeServers",
    "NotPromised",
    "OwnProcess",
    "Report",
    "ServedServer",
    "ServerFactory",
    "SocketFactory",
    "Suite",
    "ThreadUnits",
    "Units",
    "async_handler",
    "blocking_handler",
    "check_server",
    "check_socket",
    "green_sockets",
    "memory_connection",
    "run_handler",
    "serve",
    "stdlib_servers",
    "stdlib_sockets",
    "thread_sockets",
]
