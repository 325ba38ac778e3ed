"""How one admitted connection is run: serial, thread, process, green, async; one file each, one face."""

from .batches import AsyncBatchCrew, Batch, GreenCrew
from .datagrams import AsyncCrew, Crew
from .greens import Greens
from .loops import GreenLoop, Loop, PollLoop, open_loop
from .processes import Processes, let_term_in
from .serial import Serial
from .tasks import Tasks
from .threads import Threads
from .units import Mode, Units

__all__ = [
    "AsyncBatchCrew",
    "AsyncCrew",
    "Batch",
    "Crew",
    "GreenCrew",
    "GreenLoop",
    "Greens",
    "Loop",
    "Mode",
    "PollLoop",
    "Processes",
    "Serial",
    "Tasks",
    "Threads",
    "Units",
    "let_term_in",
    "open_loop",
]
