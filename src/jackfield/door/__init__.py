"""Who may come in: bound sockets, the accept policy, batches of datagrams."""

from jackfield.door.accept import AcceptPolicy, Action, Outcome, Pauses, accept_batch
from jackfield.door.datagrams import Datagram, kernel_drops, receive_batch, reply_socket
from jackfield.door.listener import Listener, open_listeners, peer_of, readable_peer
from jackfield.door.options import bound_unsent, set_stream_options
from jackfield.door.packetinfo import PacketInfo, enable_packet_info, is_wildcard
from jackfield.door.peerqueue import PeerQueue
from jackfield.door.spare import Shedding, Spare
from jackfield.door.unixpath import clear_stale_unix_path

__all__ = [
    "AcceptPolicy",
    "Action",
    "Datagram",
    "Listener",
    "Outcome",
    "PacketInfo",
    "Pauses",
    "PeerQueue",
    "Shedding",
    "Spare",
    "accept_batch",
    "bound_unsent",
    "clear_stale_unix_path",
    "enable_packet_info",
    "is_wildcard",
    "kernel_drops",
    "open_listeners",
    "peer_of",
    "readable_peer",
    "receive_batch",
    "reply_socket",
    "set_stream_options",
]
