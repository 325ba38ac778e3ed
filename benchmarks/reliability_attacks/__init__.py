"""The parts of ``benchmarks/reliability.py``: servers in processes of their own, an honest client, and the attacks."""
