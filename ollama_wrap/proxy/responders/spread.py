"""One call, several nodes, one reply: unloading, and management with X-Ollama-Target-Nodes."""

import asyncio
import json
from collections.abc import Callable, Sequence

from ollama_wrap import tasks
from ollama_wrap.call import Call, Header, Kind
from ollama_wrap.errors import CallerError, Forbidden, Unavailable, UpstreamError
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.names import canonical, is_cloud
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy import ask
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.responders.base import Responder
from ollama_wrap.proxy.responders.failed import failed
from ollama_wrap.proxy.responders.woven import LINE, Woven, fault, unanswered
from ollama_wrap.reply import Origin, Reply

_LINES: Sequence[Header] = (
    (b"Content-Type", b"application/x-ndjson"),
    (b"Transfer-Encoding", b"chunked"),
)
_JSON: Header = (b"Content-Type", b"application/json; charset=utf-8")
#: words of an attempt that was no failure
_FINE = frozenset({"served", "busy"})


class Spread:
    """Asks several nodes at once; `ranked` answers where there is nothing to spread.

    `trusted`: whether a call carries a right to change other nodes.
    """

    def __init__(self, wire: Wire, ranked: Responder, trusted: Callable[[Call], bool]) -> None:
        self._wire = wire
        self._ranked = ranked
        self._trusted = trusted

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        """See `Responder`."""
        if not call.unload:
            return await self._manage(call)
        loaded = self._loaded(call)
        return await (self._unload(call, loaded) if loaded else self._ranked.answer(call, before))

    def _begin(self, call: Call, upstream: Upstream) -> Attempt:
        upstream.take(None)
        # What a node has is asked anew when such an attempt ends.
        return Attempt(self._wire, call.altered(kind=Kind.ONCE), upstream, None)

    # unloading

    def _loaded(self, call: Call) -> list[Upstream]:
        """Who is known to have the model in memory.

        And the local one, which loads quicker than its list is read again.
        """
        key = canonical(call.model or "")
        if key is None or call.forced is not None or is_cloud(call.model or ""):
            return []
        return [
            one
            for one in self._wire.fleets.current.upstreams
            if one.routable
            and one.state is not NodeState.DOWN
            and (one.inventory.has_loaded(key) or (one.node.local and one.inventory.holds(key)))
        ]

    async def _unload(self, call: Call, upstreams: Sequence[Upstream]) -> Reply:
        """The first success; the others go on."""
        waiting = {
            tasks.start(self._tell(call, one), f"unload at {one.node.id}") for one in upstreams
        }
        ended: list[Attempt] = []
        served: Attempt | None = None
        try:
            while waiting and not any(map(_good, ended)):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                ended += [task.result() for task in done]
            answered = [one for one in ended if one.reply is not None]
            # Where nobody succeeded, any answer says more than none.
            served = max(answered, key=_good, default=None)
        except asyncio.CancelledError:
            for task in waiting:
                task.cancel()
            raise
        finally:
            for task in waiting:
                # They go on unloading; what they answer is read by nobody.
                task.add_done_callback(_close)
            for attempt in ended:
                if attempt is not served:
                    attempt.close()
        if served is None or served.reply is None:
            raise failed(call, ended)
        served.reply.origin = _origin(served, ended)
        return served.reply

    async def _tell(self, call: Call, upstream: Upstream) -> Attempt:
        attempt = self._begin(call, upstream)
        await attempt.run(may_move=None)
        if _good(attempt):
            # So that a list which is asked for at once does not show it.
            upstream.inventory = upstream.inventory.unloaded(canonical(call.model or "") or "")
        return attempt

    # management

    async def _manage(self, call: Call) -> Reply:
        upstreams = self._targets(call)
        if call.stream:
            woven = Woven(upstreams, lambda one: self._begin(call, one), self._wire.reread)
            return Reply(200, list(_LINES), woven, b"OK")
        results = await asyncio.gather(*(self._result(call, one) for one in upstreams))
        shape = {one.node.id: result for one, result in zip(upstreams, results, strict=True)}
        # Several answers have no status in common.
        status = 200 if all(one["error"] is None for one in results) else 502
        return Reply(status, [_JSON], json.dumps({"results": shape}).encode())

    def _targets(self, call: Call) -> tuple[Upstream, ...]:
        fleet = self._wire.fleets.current
        if "all" in call.targets:
            found = [one for one in fleet.upstreams if one.routable]
        else:
            found = [self._named(name) for name in call.targets]
        # Pulling to other nodes adds; deleting there takes a right.
        if call.operation == "delete" and not all(one.node.local for one in found):
            self._check(call)
        # A node may be named twice, by its two names.
        return tuple(dict.fromkeys(found))

    def _named(self, name: str) -> Upstream:
        found = self._wire.fleets.current.find(name)
        if found is None:
            text = f"no node is called '{name}' (X-Ollama-Target-Nodes)"
            raise CallerError(text, status=404, code="NODE_NOT_FOUND", details={"node": name})
        if not found.routable:
            text = f"nothing can be sent to node '{name}': {found.health.error or found.state}"
            raise CallerError(text, status=409, code="CONFLICT", details={"node": name})
        return found

    def _check(self, call: Call) -> None:
        if not call.loopback and not self._trusted(call):
            raise Forbidden(
                "deleting models of other nodes takes a caller on this machine"
                " or the admin token (OLLAMA_ADMIN_TOKEN)"
            )

    async def _result(self, call: Call, upstream: Upstream) -> dict[str, object]:
        attempt = self._begin(call, upstream)
        try:
            await attempt.run(may_move=None)
            reply = attempt.reply
            if reply is None:
                return {"status": None, "error": unanswered(attempt)}
            body = await ask.whole(reply, LINE)
            if reply.status == 200:
                await self._wire.reread(upstream.node.id)
        except UpstreamError as error:
            return {"status": None, "error": error.text}
        finally:
            attempt.close()
        text = None if reply.status == 200 else fault(reply.status, body)
        return {"status": reply.status, "error": text}


def _good(attempt: Attempt) -> bool:
    return attempt.reply is not None and attempt.reply.status == 200


def _origin(served: Attempt, ended: Sequence[Attempt]) -> Origin:
    words = tuple((one.upstream.node.id, one.outcome.word) for one in ended)
    node = served.upstream.node
    return Origin(
        node=node.id,
        local=node.local,
        reason="local" if node.local else "policy",
        fallback=next((word for _, word in words if word not in _FINE), None),
        attempts=words,
    )


def _close(task: "asyncio.Task[Attempt]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
