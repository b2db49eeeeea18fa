"""Exit codes; 69 and 78 are those of BSD's sysexits.h, so that a supervisor can tell them apart."""

from enum import IntEnum


class Exit(IntEnum):
    """How the process ended."""

    STOPPED = 0
    FAILED = 1
    USAGE = 2
    #: the port or the state folder is not to be had
    UNAVAILABLE = 69
    #: bad settings; trying again does not help
    CONFIG = 78
