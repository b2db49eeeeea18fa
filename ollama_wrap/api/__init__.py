"""The HTTP surfaces: what a client may ask, and the door it comes through."""
