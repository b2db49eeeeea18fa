// mock.c - a fast imitation of an Ollama server, for measuring proxies.
// One thread, epoll, 127.0.0.1 only.    cc -O2 -o mock mock.c
//   mock PORT [default-lines] [default-delay-us] [hosts] [models] [holders]
//   hosts: so many listeners, on PORT, PORT+1, ...; each lists `models` models of its own, the
//   first `holders` of them the two common ones too (default: one host, none, all)
// GET  /api/version            tiny JSON            (Content-Length)
// GET  /api/tags, /api/ps      what the host has, and has loaded; /api/distributed/ping is 404
// POST /api/generate|chat      "stream":false in body -> about 1 KB JSON; otherwise NDJSON,
//                              one 120-byte line per chunk and one write() per line;
//                              ?n=LINES&us=DELAY&id=K ; every line carries CLOCK_MONOTONIC ns;
//                              &wait=US: nothing at all, headers neither, before that (model load)
// POST /api/embed              about 300 KB JSON    (one chunk, as Go does)
// POST /api/blobs/...          sink (Content-Length or chunked), answers the byte count
// GET  /_cancel?id=K           ns timestamp at which stream K lost its peer (0: not yet)
// GET  /_stats                 open connections, running streams, accepted, uploaded bytes
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LINE 120
#define MAXID 65536
enum { HEAD, BODY, REPLY, STREAM, LISTEN };
typedef struct conn {
    int fd, state, host, stream_req, hlen, is_chunked, want_out, heap, delay, lines_left, seq, closing, is_head;
    long id;
    uint64_t due;
    int64_t body_left;                    // Content-Length bytes still to read
    int64_t ck; int ckst;                 // chunked request decoder
    int64_t got;
    char path[256], peek[513]; int peekn;
    char in[16384]; int inlen;
    const char *out; size_t outlen; char small[2048];
    struct conn *nextfree;
} conn;

static int ep, def_lines = 100, def_delay = 0;
static long n_open, n_streams, n_accepted; static int64_t n_uploaded;
static uint64_t cancel_ts[MAXID];
#define HOSTS 64
static char *tags[HOSTS]; static size_t tags_len[HOSTS];
static char *embed; static size_t embed_len; static char gen1k[2048]; static size_t gen1k_len;
static conn *freelist, **heap; static int heapn, heapcap;
static char scratch[262144];

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }

// --- binary heap of paced streams ---------------------------------------------------
static void hset(int i, conn *c) { heap[i] = c; c->heap = i; }
static void hup(int i) { conn *c = heap[i]; while (i > 0 && heap[(i - 1) / 2]->due > c->due) { hset(i, heap[(i - 1) / 2]); i = (i - 1) / 2; } hset(i, c); }
static void hdown(int i) { conn *c = heap[i]; for (;;) { int k = 2 * i + 1; if (k >= heapn) break; if (k + 1 < heapn && heap[k + 1]->due < heap[k]->due) k++; if (heap[k]->due >= c->due) break; hset(i, heap[k]); i = k; } hset(i, c); }
static void hpush(conn *c) { if (heapn == heapcap) heap = realloc(heap, sizeof *heap * (heapcap = heapcap ? 2 * heapcap : 1024)); heap[heapn] = c; hup(heapn++); }
static void hdel(conn *c) { if (c->heap < 0) return; int i = c->heap; c->heap = -1; conn *l = heap[--heapn]; if (l != c) { hset(i, l); hup(i); hdown(l->heap); } }

static void events(conn *c, int out) {
    if (c->want_out == out) return;
    c->want_out = out;
    struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0), .data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void drop(conn *c) {
    if (c->state == STREAM) { n_streams--; if (c->id > 0 && c->id < MAXID && !cancel_ts[c->id]) cancel_ts[c->id] = now(); }
    hdel(c); close(c->fd); n_open--; c->fd = -1; c->nextfree = freelist; freelist = c;
}
static void reset(conn *c) { c->state = HEAD; c->hlen = 0; c->peekn = 0; c->got = 0; c->ckst = 0; c->id = 0; }

// returns 0 when the connection is gone
static int flush(conn *c) {
    while (c->outlen) {
        ssize_t w = send(c->fd, c->out, c->outlen, MSG_NOSIGNAL);
        if (w < 0) { if (errno == EAGAIN) { events(c, 1); return 1; } drop(c); return 0; }
        c->out += w; c->outlen -= w;
    }
    return 1;
}
static int finish(conn *c) { if (c->outlen) return 1; if (c->closing) { drop(c); return 0; } reset(c); events(c, 0); return 1; }
static int reply(conn *c, const char *body, size_t n, const char *status) {
    int h = snprintf(c->small, sizeof c->small, "HTTP/1.1 %s\r\nContent-Type: application/json; charset=utf-8\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\nContent-Length: %zu\r\n\r\n", status, n);
    if (c->is_head) n = 0;
    if (h + n <= sizeof c->small) { memcpy(c->small + h, body, n); c->out = c->small; c->outlen = h + n; }
    c->state = REPLY;
    return flush(c) && finish(c);
}
static long qint(const char *path, const char *key, long dflt) {
    const char *q = strchr(path, '?'); size_t k = strlen(key);
    while (q) { q++; if (!strncmp(q, key, k) && q[k] == '=') return atol(q + k + 1); q = strchr(q, '&'); }
    return dflt;
}
static size_t put_line(char *p, int seq, int last) {     // "78\r\n" + 120 bytes + "\r\n"
    int n = sprintf(p, "78\r\n{\"t\":\"%019llu\",\"model\":\"llama3.2:1b\",\"seq\":%05d,\"done\":%s,\"response\":\"", (unsigned long long)now(), seq % 100000, last ? "true " : "false");
    memset(p + n, 'x', 4 + LINE - 3 - n); memcpy(p + 4 + LINE - 3, "\"}\n\r\n", 5);
    return 4 + LINE + 2;
}
static int one_line(conn *c) {                            // 1 go on, 0 gone, 2 blocked or done
    size_t n = 0;
    if (c->seq == 0) n = sprintf(c->small, "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n");
    n += put_line(c->small + n, c->seq++, c->lines_left == 1);
    c->lines_left--; c->out = c->small; c->outlen = n;
    if (!flush(c)) return 0;
    if (c->outlen) return 2;
    if (c->lines_left == 0) {                             // the end marker is a write of its own, as in Go
        c->state = REPLY; n_streams--; c->out = "0\r\n\r\n"; c->outlen = 5;
        if (!flush(c) || !finish(c)) return 0;
        return 2;
    }
    return 1;
}
static int respond(conn *c) {
    char b[256];
    if (strstr(c->path, "/api/generate") || strstr(c->path, "/api/chat")) {
        c->peek[c->peekn] = 0;
        if (strstr(c->peek, "\"stream\":false") || strstr(c->peek, "\"stream\": false")) return reply(c, gen1k, gen1k_len, "200 OK");
        c->state = STREAM; n_streams++; c->seq = 0;
        c->lines_left = qint(c->path, "n", def_lines); c->delay = qint(c->path, "us", def_delay); c->id = qint(c->path, "id", 0);
        long wait = qint(c->path, "wait", 0);
        if (wait && !c->delay) c->delay = 1;
        if (c->delay) { c->due = now() + (uint64_t)wait * 1000; hpush(c); } else events(c, 1);
        return 1;
    }
    if (strstr(c->path, "/api/embed")) { c->state = REPLY; c->out = embed; c->outlen = embed_len; return flush(c) && finish(c); }
    if (strstr(c->path, "/api/blobs")) { n_uploaded += c->got; return reply(c, b, sprintf(b, "{\"bytes\":%lld}", (long long)c->got), "201 Created"); }
    if (strstr(c->path, "/_cancel")) { long id = qint(c->path, "id", 0); return reply(c, b, sprintf(b, "{\"ts\":%llu}", id > 0 && id < MAXID ? (unsigned long long)cancel_ts[id] : 0ull), "200 OK"); }
    if (strstr(c->path, "/_stats")) return reply(c, b, sprintf(b, "{\"open\":%ld,\"streams\":%ld,\"accepted\":%ld,\"uploaded\":%lld}", n_open, n_streams, n_accepted, (long long)n_uploaded), "200 OK");
    if (strstr(c->path, "/api/tags")) { c->state = REPLY; c->out = tags[c->host]; c->outlen = c->is_head ? strstr(c->out, "\r\n\r\n") + 4 - c->out : tags_len[c->host]; return flush(c) && finish(c); }
    if (strstr(c->path, "/api/ps")) { const char *t = "{\"models\":[{\"name\":\"llama3.2:1b\",\"model\":\"llama3.2:1b\",\"size\":1000000,\"size_vram\":1000000,\"digest\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\"expires_at\":\"2027-11-20T12:00:00Z\",\"details\":{\"family\":\"llama\"}}]}"; return reply(c, strstr(tags[c->host], "llama3.2:1b") ? t : "{\"models\":[]}", strstr(tags[c->host], "llama3.2:1b") ? strlen(t) : 13, "200 OK"); }
    if (strstr(c->path, "/api/distributed/ping")) return reply(c, "404 page not found", 18, "404 Not Found");
    return reply(c, "{\"version\":\"0.99.0\"}", 20, "200 OK");
}
static void peek(conn *c, const char *p, size_t n) { size_t r = sizeof c->peek - 1 - c->peekn; if (n > r) n = r; memcpy(c->peek + c->peekn, p, n); c->peekn += n; }
static int body(conn *c, const char *p, size_t n) {       // 1: request complete
    if (!c->is_chunked) { if (c->got == 0) peek(c, p, n); if ((int64_t)n > c->body_left) n = c->body_left; c->got += n; c->body_left -= n; return c->body_left == 0; }
    for (size_t i = 0; i < n;) {
        if (c->ckst == 2) { size_t k = n - i; if ((int64_t)k > c->ck) k = c->ck; peek(c, p + i, k); c->got += k; c->ck -= k; i += k; if (!c->ck) c->ckst = 3; continue; }
        char ch = p[i++];
        if (c->ckst == 0 && ch != '\r' && ch != '\n') { c->ck = 0; c->ckst = 1; }
        if (c->ckst == 1) {
            if (ch == '\n') { c->ckst = c->ck ? 2 : 4; }
            else if (ch >= '0' && ch <= '9') c->ck = c->ck * 16 + ch - '0';
            else if ((ch | 32) >= 'a' && (ch | 32) <= 'f') c->ck = c->ck * 16 + (ch | 32) - 'a' + 10;
        } else if (c->ckst == 3) { if (ch == '\n') c->ckst = 0; }
        else if (c->ckst == 4) { if (ch == '\n') return 1; if (ch != '\r') c->ckst = 5; }
        else if (c->ckst == 5) { if (ch == '\n') c->ckst = 4; }
    }
    return 0;
}
static void on_readable(conn *c) {
    if (c->state == STREAM || c->state == REPLY) {        // only the end of the connection is of interest
        char t[512]; ssize_t r = recv(c->fd, t, sizeof t, 0);
        if (r == 0 || (r < 0 && errno != EAGAIN)) drop(c);
        return;
    }
    if (c->state == BODY) {
        ssize_t r = recv(c->fd, scratch, sizeof scratch, 0);
        if (r <= 0) { if (r == 0 || errno != EAGAIN) drop(c); return; }
        if (body(c, scratch, r)) respond(c);
        return;
    }
    ssize_t r = recv(c->fd, c->in + c->inlen, sizeof c->in - 1 - c->inlen, 0);
    if (r <= 0) { if (r == 0 || errno != EAGAIN) drop(c); return; }
    c->inlen += r; c->in[c->inlen] = 0;
    char *e = strstr(c->in, "\r\n\r\n");
    if (!e) { if (c->inlen > 16000) drop(c); return; }
    char *sp = strchr(c->in, ' '), *sp2 = sp ? strchr(sp + 1, ' ') : 0;
    if (!sp2 || sp2 > e) { drop(c); return; }
    size_t pl = sp2 - sp - 1; if (pl > 255) pl = 255; memcpy(c->path, sp + 1, pl); c->path[pl] = 0;
    *e = 0; c->is_head = !memcmp(c->in, "HEAD ", 5);
    char *cl = strcasestr(c->in, "\ncontent-length:"), *te = strcasestr(c->in, "\ntransfer-encoding: chunked");
    c->closing = strcasestr(c->in, "\nconnection: close") != 0 || !memcmp(sp2 + 1, "HTTP/1.0", 8);
    if (strcasestr(c->in, "\nexpect: 100-continue")) send(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL);
    c->is_chunked = te != 0; c->body_left = cl ? atoll(cl + 16) : 0;
    char *rest = e + 4; int restn = c->inlen - (rest - c->in); c->inlen = 0;
    if (!c->is_chunked && !c->body_left) { respond(c); return; }
    c->state = BODY;
    if (restn && body(c, rest, restn)) respond(c);
}
static void on_writable(conn *c) {
    if (c->outlen) { if (!flush(c)) return; if (c->outlen) return; if (c->state != STREAM) { finish(c); return; }
        if (c->lines_left == 0) { hdel(c); c->state = REPLY; n_streams--; c->out = "0\r\n\r\n"; c->outlen = 5; if (flush(c)) finish(c); return; }
        if (c->delay) { events(c, 0); return; } }
    if (c->state == REPLY) { finish(c); return; }
    if (c->state == STREAM && !c->delay) for (int i = 0; i < 8; i++) if (one_line(c) != 1) return;
}
static int put_model(char *p, const char *name, char fill, int id, int first) {
    char digest[65]; memset(digest, fill, 64); digest[64] = 0;
    if (id >= 0) sprintf(digest, "%064x", id + 1);
    return sprintf(p, "%s{\"name\":\"%s\",\"model\":\"%s\",\"modified_at\":\"2026-01-02T03:04:05Z\",\"size\":1000000,\"digest\":\"%s\",\"details\":{\"parent_model\":\"\",\"format\":\"gguf\",\"family\":\"llama\",\"families\":[\"llama\"],\"parameter_size\":\"1B\",\"quantization_level\":\"Q4_0\"}}", first ? "" : ",", name, name, digest);
}
static void list_models(int host, int models, int common) {
    char *b = malloc(400 * (models + 3)), name[32]; int n = sprintf(b, "{\"models\":["), first = 1;
    if (common) { n += put_model(b + n, "llama3.2:1b", 'a', -1, 1); n += put_model(b + n, "all-minilm:latest", 'b', -1, 0); first = 0; }
    for (int i = 0; i < models; i++, first = 0) { sprintf(name, "model-%d-%d:latest", host, i); n += put_model(b + n, name, 0, host * 1000 + i, first); }
    n += sprintf(b + n, "]}");
    tags[host] = malloc(n + 300);
    tags_len[host] = sprintf(tags[host], "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\nContent-Length: %d\r\n\r\n%s", n, b);
    free(b);
}
int main(int argc, char **argv) {
    int port = atoi(argv[1]); if (argc > 2) def_lines = atoi(argv[2]); if (argc > 3) def_delay = atoi(argv[3]);
    int hosts = argc > 4 ? atoi(argv[4]) : 1, models = argc > 5 ? atoi(argv[5]) : 0, holders = argc > 6 ? atoi(argv[6]) : HOSTS;
    if (hosts > HOSTS) return 2;
    signal(SIGPIPE, SIG_IGN);
    char *b = malloc(400000); int n = sprintf(b, "{\"model\":\"all-minilm\",\"embeddings\":[[");
    while (n < 300000) n += sprintf(b + n, "-0.0%07u,", (n * 7919u) % 9999999u);
    n += sprintf(b + n, "0.0]]}");
    embed = malloc(401000);
    embed_len = sprintf(embed, "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", n);
    memcpy(embed + embed_len, b, n); embed_len += n; memcpy(embed + embed_len, "\r\n0\r\n\r\n", 7); embed_len += 7;
    n = sprintf(gen1k, "{\"model\":\"llama3.2:1b\",\"created_at\":\"2026-11-20T12:00:00.000000Z\",\"response\":\"");
    while (n < 900) n += sprintf(gen1k + n, "lorem ipsum dolor ");
    n += sprintf(gen1k + n, "\",\"done\":true,\"done_reason\":\"stop\",\"eval_count\":180,\"prompt_eval_count\":12}"); gen1k_len = n;
    ep = epoll_create1(0); struct epoll_event e = { .events = EPOLLIN }, ev[512]; int one = 1;
    for (int i = 0; i < hosts; i++) {
        list_models(i, models, i < holders);
        conn *l = calloc(1, sizeof *l); l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); l->state = LISTEN; l->host = i;
        setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port + i), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        if (bind(l->fd, (void *)&a, sizeof a) || listen(l->fd, 4096)) { perror("listen"); return 1; }
        e.data.ptr = l; epoll_ctl(ep, EPOLL_CTL_ADD, l->fd, &e);
    }
    for (;;) {
        struct timespec to = { 0, 0 };
        if (heapn) { uint64_t t = now(), d = heap[0]->due > t ? heap[0]->due - t : 0; to.tv_sec = d / 1000000000; to.tv_nsec = d % 1000000000; }
        int k = epoll_pwait2(ep, ev, 512, heapn ? &to : 0, 0);
        for (int i = 0; i < k; i++) {
            conn *c = ev[i].data.ptr;
            if (c->state == LISTEN) for (;;) {
                int fd = accept4(c->fd, 0, 0, SOCK_NONBLOCK); if (fd < 0) break;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                conn *d = freelist; if (d) freelist = d->nextfree; else d = malloc(sizeof *d);
                memset(d, 0, sizeof *d); d->fd = fd; d->heap = -1; d->host = c->host; n_open++; n_accepted++;
                struct epoll_event x = { .events = EPOLLIN | EPOLLRDHUP, .data.ptr = d }; epoll_ctl(ep, EPOLL_CTL_ADD, fd, &x);
            }
            else {
                if (c->fd < 0) continue;
                if (ev[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) on_readable(c);
                if (c->fd >= 0 && (ev[i].events & EPOLLOUT)) on_writable(c);
            }
        }
        uint64_t t = heapn ? now() : 0;
        while (heapn && heap[0]->due <= t) {
            conn *c = heap[0]; c->due += (uint64_t)c->delay * 1000; if (c->due < t) c->due = t + (uint64_t)c->delay * 1000; hdown(0);
            if (c->outlen) continue;                       // peer is slow: this token waits
            int r = one_line(c); if (r == 2 && c->fd >= 0 && c->state != STREAM) hdel(c);
        }
    }
}
