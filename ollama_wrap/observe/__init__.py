"""What operators see.

ended     one request that ended, as facts
lines     how a line of the log is written in each format
log       the log: one stream, one format, for us and for the libraries
metrics   every metric, declared in one table
host      this machine: its names, addresses, memory, file descriptors
"""
