"""What goes into the log because of peers: escaped, cut, held back where it comes too often, and never an error."""

from .journal import Incident, Journal
from .standing import standing_journal

__all__ = ["Incident", "Journal", "standing_journal"]
