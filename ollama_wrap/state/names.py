"""Every key and channel name of the Store and the Bus, in one place.

Parts that come from outside are percent-encoded, so that no part can reach
into another key. Nothing here knows what is stored under a name.
"""

from urllib.parse import quote

#: an operator's choices at run time; a store of this host only
MODE_CHOICE = "choice:mode"
FALLBACK_CHOICE = "choice:fallback"

#: what happened, as `cluster/events.py` writes it
EVENTS = "events"

#: all of `seen`
SEEN = "seen:"


def seen(node: str) -> str:
    """Which models were on a node, and when it last said so."""
    return SEEN + _part(node)


def _part(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")
