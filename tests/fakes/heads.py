"""Heads of requests, by what is odd about them; the names begin with the rows they belong to."""


def head(*fields: bytes, line: bytes = b"POST /x HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    lines = [line, host, *fields] if host else [line, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


#: others may read these in another way: 400
REFUSED = {
    "S01-length-then-chunked": head(b"Content-Length: 4", b"Transfer-Encoding: chunked"),
    "S01-chunked-then-length": head(b"Transfer-Encoding: chunked", b"Content-Length: 4"),
    "S02-two-lengths": head(b"Content-Length: 4", b"Content-Length: 5"),
    "S03-equal-lengths": head(b"Content-Length: 3", b"Content-Length: 3"),
    "S03-listed-lengths": head(b"Content-Length: 3, 3"),
    "S04-plus": head(b"Content-Length: +3"),
    "S04-minus": head(b"Content-Length: -1"),
    "S04-hex": head(b"Content-Length: 0x3"),
    "S04-underscore": head(b"Content-Length: 1_0"),
    "S04-empty": head(b"Content-Length: "),
    "S04-2-to-the-64": head(b"Content-Length: 18446744073709551619"),
    "S04-2-to-the-63": head(b"Content-Length: 9223372036854775808"),
    "S05-xchunked": head(b"Transfer-Encoding: xchunked"),
    "S05-identity": head(b"Transfer-Encoding: identity"),
    "S05-chunked-identity": head(b"Transfer-Encoding: chunked, identity"),
    "S05-gzip-chunked": head(b"Transfer-Encoding: gzip, chunked"),
    "S05-two-fields": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "S05-quoted": head(b'Transfer-Encoding: "chunked"'),
    "S05-vertical-tab": head(b"Transfer-Encoding: \x0bchunked"),
    "S05-empty": head(b"Transfer-Encoding: "),
    "S06-chunked-in-1.0": head(b"Transfer-Encoding: chunked", line=b"POST /x HTTP/1.0"),
    "S07-space-before-colon": head(b"X-A : b"),
    "S07-folded": head(b"X-A: b\r\n c"),
    "S07-folded-first": head(host=b" Host: a"),
    "S07-bare-line-feed": head(b"X-A: b\nX-B: c"),
    "S07-bare-return": head(b"X-A: b\rX-B: c"),
    "S07-nul": head(b"X-A: b\x00c"),
    "S07-empty-name": head(b": b"),
    "S07-no-colon": head(b"X-A"),
    "S10-no-host": head(host=b""),
    "S10-two-hosts": head(b"Host: a"),
    "S10-host-with-path": head(host=b"Host: a/b?c"),
    "S10-host-with-user": head(host=b"Host: a@b"),
    "S10-host-with-space": head(host=b"Host: a b"),
    "S11-at": head(line=b"GET @evil/ HTTP/1.1"),
    "S11-relative": head(line=b"GET api/tags HTTP/1.1"),
    "S11-absolute-elsewhere": head(line=b"GET http://evil/api/tags HTTP/1.1"),
    "S11-https": head(line=b"GET https://a/api/tags HTTP/1.1"),
    "S11-connect": head(line=b"CONNECT a:443 HTTP/1.1"),
    "S11-connect-path": head(line=b"CONNECT /x HTTP/1.1"),
    "S14-0.9": head(line=b"GET /x"),
    "S14-lower-case": head(line=b"get /x HTTP/1.1"),
    "S14-unknown-method": head(line=b"BREW /x HTTP/1.1"),
    "S14-rtsp": head(line=b"DESCRIBE /x RTSP/1.1"),
    "S14-ice": head(line=b"SOURCE /x ICE/1.1"),
    "S14-two-spaces": head(line=b"GET  /x HTTP/1.1"),
    "S14-space-in-target": head(line=b"GET /a b HTTP/1.1"),
    "S14-nul-in-target": head(line=b"GET /a\x00 HTTP/1.1"),
}

#: too much or unknown: a status of their own
OTHERWISE = {
    "S13-line-20-KiB": (head(line=b"GET /" + b"a" * 20480 + b" HTTP/1.1"), 414),
    "S13-target": (head(line=b"GET /" + b"a" * 8192 + b" HTTP/1.1"), 414),
    "S13-field-60-KiB": (head(b"X-A: " + b"a" * 61440), 431),
    "S13-field": (head(b"X-A: " + b"a" * 16382), 431),
    "S13-name": (head(b"X" * 16384 + b": a"), 431),
    "S13-1000-fields": (head(*[b"X: a"] * 1000), 431),
    "S13-10000-fields": (head(*[b"X: a"] * 10_000), 431),
    "S13-101-fields": (head(*[b"X: a"] * 100), 431),
    "S13-head": (head(*[b"X: " + b"a" * 16000] * 5), 431),
    "S14-2.0": (head(line=b"GET /x HTTP/2.0"), 505),
    "S14-1.2": (head(line=b"GET /x HTTP/1.2"), 505),
    "S14-preface": (b"PRI * HTTP/2.0\r\n\r\n", 505),
    "S16-expect": (head(b"Expect: x"), 417),
    "S16-expect-more": (head(b"Expect: 100-continue, x"), 417),
}

#: odd, and taken as stock takes them
ACCEPTED = {
    "S10-old-client-without-host": head(line=b"GET /x HTTP/1.0", host=b""),
    "S10-empty-host": head(host=b"Host: "),
    "S10-ipv6-host": head(host=b"Host: [::1]:11434"),
    "S11-two-slashes": head(line=b"GET //evil/x HTTP/1.1"),
    "S11-star": head(line=b"OPTIONS * HTTP/1.1"),
    "S12-dots": head(line=b"GET /v1/../admin HTTP/1.1"),
    "S12-encoded": head(line=b"GET /v1/%2e%2e/admin%00%5c HTTP/1.1"),
    "S13-largest-field": head(b"X-A: " + b"a" * 16381),
    "S13-100-fields": head(*[b"X: a"] * 99),
    "S16-continue": head(b"Expect: 100-CONTINUE", b"Content-Length: 3"),
    "S17-underscores": head(b"X_Forwarded_For: 1", b"Content_Length: 9"),
    "S19-get-with-body": head(b"Content-Length: 3", line=b"GET /x HTTP/1.1"),
    "values-of-8-bits": head(b"X-A: \xe9\xff"),
    "empty-value": head(b"X-A:"),
    "largest-length": head(b"Content-Length: 999999999999999999"),
}
