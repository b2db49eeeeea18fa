"""Which node should take a call: pure and synchronous."""
