"""Bytes in and out: the hot path, and the only code that is tuned.

    inbound ── Exchange ──▶ (edge) ──▶ pools ─▶ pool ─▶ connection ── Answer ──▶ relay ──▶ Exchange

`inbound` speaks to clients, `connection` to nodes; `relay` joins the two without
a task switch a token. Nothing here knows models, dialects or routing.
"""
