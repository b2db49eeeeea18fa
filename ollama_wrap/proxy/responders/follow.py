"""What goes where the model is: show as inference does; delete, copy and create by rules.

A model that is here, or nowhere, is a matter of the local Ollama. One that only one
other node holds is changed there, by who may; where several hold it, nobody can
tell which was meant. It must not know how requests are sent.
"""

from collections.abc import Callable
from functools import partial

from ollama_wrap.call import Call, Kind
from ollama_wrap.errors import CallerError, Forbidden, NoUpstream, Unavailable
from ollama_wrap.nodes.names import canonical, is_cloud
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.responders.base import Responder
from ollama_wrap.proxy.responders.failed import failed
from ollama_wrap.proxy.responders.settled import Settled
from ollama_wrap.reply import Reply
from ollama_wrap.routing.narrow import pool

_CHANGES = frozenset({"delete", "copy", "create"})


class Follow:
    """Answers what follows a model.

    `trusted`: whether a call carries a right to change other nodes.
    """

    def __init__(
        self, wire: Wire, local: Responder, ranked: Responder, trusted: Callable[[Call], bool]
    ) -> None:
        self._wire = wire
        self._local = local
        self._ranked = ranked
        self._trusted = trusted

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        """See `Responder`."""
        if call.operation not in _CHANGES:
            return await self._ranked.answer(call, before)
        model = call.follows or ""
        upstream = self._elsewhere(call, model)
        # What a node has is asked anew when such an attempt ends.
        once = call.altered(kind=Kind.ONCE)
        if upstream is None or upstream.node.local:
            return await self._local.answer(once, before)
        if not call.loopback and not self._trusted(call):
            raise Forbidden(
                f"model '{model}' is on node {upstream.node.id}: to change it there takes"
                " a caller on this machine or the admin token (OLLAMA_ADMIN_TOKEN)"
            )
        call.asked = upstream.node.id
        return await self._once(once, upstream)

    def _elsewhere(self, call: Call, model: str) -> Upstream | None:
        """The node whose model this is; None: the local Ollama answers."""
        key = canonical(model)
        fleet = self._wire.fleets.current
        here = fleet.local.inventory
        if key is None or is_cloud(model) or call.forced == "local":
            return None
        if call.forced is None:
            # Until it has listed its models, the local Ollama may have any.
            if key in here.models or not here.known:
                return None
            asked = [one for one in fleet.others if one.routable]
        else:
            asked = list(pool(call, fleet))
            if not asked:
                raise NoUpstream(f"node {call.forced} is not available")
        holders = [one for one in asked if one.inventory.had(key) and one.accepts(key)]
        if len(holders) > 1:
            raise _ambiguous(model, holders)
        if not holders and call.forced is not None:
            return asked[0]
        return holders[0] if holders else None

    async def _once(self, call: Call, upstream: Upstream) -> Reply:
        upstream.take(None)
        attempt = Attempt(self._wire, call, upstream, None)
        await attempt.run(may_move=None)
        if attempt.reply is None:
            raise failed(call, [attempt])
        reply = attempt.reply
        reply.origin.reason = "model-missing" if call.forced is None else "forced"
        # Whoever reads of success asks for the model at once.
        known = partial(self._wire.reread, upstream.node.id)
        if reply.status == 200 and _lines(reply):
            reply.body = Settled(attempt, known)
        elif reply.status == 200:
            try:
                await known()
            except BaseException:
                attempt.close()
                raise
        return reply


def _lines(reply: Reply) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"application/x-ndjson")
        for name, value in reply.headers
    )


def _ambiguous(model: str, holders: list[Upstream]) -> CallerError:
    nodes = [one.node.id for one in holders]
    text = f"model '{model}' is on {', '.join(nodes)}: say which one (X-Ollama-Force-Distributed)"
    return CallerError(text, status=409, code="CONFLICT", details={"nodes": nodes})
