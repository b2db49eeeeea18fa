"""One request, start to end.

    pipeline ─▶ fallback ─▶ a responder ─▶ (ranked) admit ─▶ attempt ─▶ wire

`pipeline` opens, answers and closes a Call; `fallback` tries responders in order;
`ranked` tries nodes in the router's order; `attempt` is one try at one node and
`outcome` says what its end means.
"""
