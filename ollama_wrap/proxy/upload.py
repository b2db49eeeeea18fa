"""A request body that streams to a node while its answer is waited for."""

from ollama_wrap.call import Upload
from ollama_wrap.errors import StreamBroken
from ollama_wrap.wire.connection import Connection


async def stream(body: Upload, connection: Connection, *, chunked: bool) -> None:
    """Send `body` at the pace at which the node takes it.

    Ends early when the node has answered or gone. A connection whose request is not
    whole when its answer is cannot be used again.
    """
    try:
        while part := await body.read():
            connection.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            await connection.drained()
            if connection.closed or connection.answer is None:
                return
        if chunked:
            connection.write(b"0\r\n\r\n")
        connection.sent()
    except StreamBroken:
        return  # the client left; its task is being cancelled
    finally:
        if connection.answer is None and not connection.closed and not connection.whole:
            connection.drop()
