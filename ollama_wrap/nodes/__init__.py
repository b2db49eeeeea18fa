"""What can answer, and how it is doing: pure values and counters, no I/O."""
