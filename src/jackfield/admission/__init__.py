"""Who may come in: values and a clock in, verdicts out.  Nothing here opens, reads or waits.

But for what several workers share: ``ledger``, ``shared`` and what belongs to them have memory and locks in common with
other processes, and wait for each other for a bounded moment.  Only who has workers imports them.
"""

from jackfield.admission.addresses import Credentials
from jackfield.admission.admission import Admission, Refusal
from jackfield.admission.datagrams import DatagramGuard
from jackfield.admission.networks import PeerList, parse_ip, parse_peer
from jackfield.admission.penalties import Ban, Penalties
from jackfield.admission.rates import Rate, TokenBucket

__all__ = [
    "Admission",
    "Ban",
    "Credentials",
    "DatagramGuard",
    "PeerList",
    "Penalties",
    "Rate",
    "Refusal",
    "TokenBucket",
    "parse_ip",
    "parse_peer",
]
