"""Load tests: what ``jackfield bench`` is made of. A plan, processes that carry it out, what they measured."""

from jackfield.bench.crowd import Crowd, LostProcessError
from jackfield.bench.histogram import Histogram
from jackfield.bench.load import Beat
from jackfield.bench.loop import Target
from jackfield.bench.plan import Plan, PlanError
from jackfield.bench.result import Result

__all__ = ["Beat", "Crowd", "Histogram", "LostProcessError", "Plan", "PlanError", "Result", "Target"]
