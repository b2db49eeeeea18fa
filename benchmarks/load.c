// load.c - HTTP/1.1 load generator for the proxy measurements. One thread, epoll, 127.0.0.1 only.
//   cc -O2 -o load load.c
//   load rps    -p PORT -c CONNS -t SECS [-X POST] [-u PATH] [-b BODY] [-r RATE] [-w WARM_SECS]
//   load stream -p PORT -c CONNS -t SECS -n LINES -i US [-I US_MAX] [-s SPREAD_MS] [-b BODY] [-u PATH]
//   load upload -p PORT -z BYTES [-k]              one body; -k: chunked
//   load cancel -p PORT -m MOCKPORT -k COUNT -g FIRST_ID [-w 1]   -w: hang up before the response's headers
// Prints one JSON object. Times in microseconds. Every run is bounded in time or count.
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

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }

// log-linear histogram, 64 steps in each power of two (about 1.5 %)
typedef struct { uint64_t b[64 * 64], n, max; double sum; } hist;
static void rec(hist *h, uint64_t v) { if ((int64_t)v < 0) v = 0; int e = v < 64 ? 0 : 58 - __builtin_clzll(v); h->b[e * 64 + (v >> e)]++; h->n++; h->sum += v; if (v > h->max) h->max = v; }
static double pct(hist *h, double p) { uint64_t want = (uint64_t)(h->n * p), s = 0; for (int i = 0; i < 64 * 64; i++) { s += h->b[i]; if (h->b[i] && s > want) { int e = i / 64; return e ? ((double)((uint64_t)(i - e * 64) << e) + (1ull << e) / 2.0) / 1000 : i / 1000.0; } } return h->max / 1000.0; }

enum { IDLE, CONNECTING, SENDING, HEAD, CLEN, CHUNK, TOEOF };
typedef struct { int fd, st, ckst, hn, linen, status, close_after, want_out, i; uint64_t t0, due; int64_t left, ck; const char *out; size_t outn; int first; char *req; size_t reqn; char h[4096], line[32]; } conn;
static int ep, port, conns = 1, nlines = 100, us = 0, us_max = 0, spread = 0, streaming, stopping, active;
static double secs = 3, rate = 0, warm = 0;
static uint64_t errors, done, lines, bytes; static hist lat, ttft, linelat;
static int measuring; static char errtxt[200];
static char buf[262144];

static int dial(int p, int nb) {
    int fd = socket(AF_INET, SOCK_STREAM | (nb ? SOCK_NONBLOCK : 0), 0), one = 1; setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(p), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (connect(fd, (void *)&a, sizeof a) && errno != EINPROGRESS) { perror("connect"); exit(1); }
    return fd;
}
static void out_events(conn *c, int on) { if (c->want_out == on) return; c->want_out = on; struct epoll_event e = { .events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = c }; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); }
static void fail(conn *c, const char *why) {
    if (!stopping) { errors++; if (!errtxt[0]) snprintf(errtxt, sizeof errtxt, "%s status %d", why, c->status); }
    if (c->fd >= 0) close(c->fd);
    c->fd = -1; if (c->st != IDLE) active--; c->st = IDLE; c->due = now() + 20000000;
    if (errors > 2000) { fprintf(stderr, "too many errors: %s\n", errtxt); exit(1); }
}
static void pump(conn *c) {
    while (c->outn) { ssize_t w = send(c->fd, c->out, c->outn, MSG_NOSIGNAL); if (w < 0) { if (errno == EAGAIN) { out_events(c, 1); return; } fail(c, "send"); return; } c->out += w; c->outn -= w; }
    out_events(c, 0); c->st = HEAD; c->hn = 0;
}
static void start(conn *c) {
    uint64_t t = now();
    c->t0 = rate > 0 && t - c->due > 1000000 ? c->due : t;       // a late send counts from its schedule
    c->out = c->req; c->outn = c->reqn; c->first = 1; c->linen = 0; c->status = 0; active++;
    if (c->fd < 0) { c->fd = dial(port, 1); c->st = CONNECTING; c->want_out = 1; struct epoll_event e = { .events = EPOLLIN | EPOLLOUT, .data.ptr = c }; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e); return; }
    c->st = SENDING; pump(c);
}
static void complete(conn *c, uint64_t t) {
    if (measuring) { if (c->status / 100 == 2) { done++; rec(&lat, t - c->t0); } else { errors++; if (!errtxt[0]) snprintf(errtxt, sizeof errtxt, "status %d: %.120s", c->status, c->line); } }
    active--; c->st = IDLE;
    if (c->close_after) { close(c->fd); c->fd = -1; }
    if (stopping) return;
    if (rate > 0) { c->due += (uint64_t)(1e9 * conns / rate); return; }
    start(c);
}
static void payload(conn *c, const char *p, size_t n, uint64_t t) {
    if (c->first) { c->first = 0; if (measuring) rec(&ttft, t - c->t0); }
    if (measuring) bytes += n;
    if (!streaming) return;
    while (n) {
        const char *e = memchr(p, '\n', n); size_t k = e ? (size_t)(e - p) : n, r = sizeof c->line - 1 - c->linen;
        if (r > k) r = k;
        memcpy(c->line + c->linen, p, r); c->linen += r;
        if (!e) return;
        if (measuring && c->linen) {
            lines++; c->line[c->linen] = 0;
            if (c->linen > 24 && !memcmp(c->line, "{\"t\":\"", 6)) rec(&linelat, t - strtoull(c->line + 6, 0, 10));
        }
        c->linen = 0; n -= k + 1; p = e + 1;
    }
}
// feed response bytes; returns bytes used
static void feed(conn *c, char *p, size_t n, uint64_t t) {
    while (n) {
        if (c->st == HEAD) {
            size_t r = sizeof c->h - 1 - c->hn; if (r > n) r = n;
            memcpy(c->h + c->hn, p, r); c->h[c->hn + r] = 0;
            char *e = strstr(c->h, "\r\n\r\n"); if (!e) { c->hn += r; p += r; n -= r; if (c->hn > 4000) { fail(c, "header"); return; } continue; }
            size_t used = e + 4 - c->h - c->hn; p += used; n -= used; *e = 0;
            c->status = atoi(c->h + 9); char *cl = strcasestr(c->h, "\ncontent-length:"), *ch = strcasestr(c->h, "\ntransfer-encoding: chunked");
            c->close_after = strcasestr(c->h, "\nconnection: close") != 0;
            if (ch) { c->st = CHUNK; c->ckst = 0; } else if (cl) { c->left = atoll(cl + 16); c->st = CLEN; if (!c->left) { complete(c, t); return; } } else { c->st = TOEOF; c->close_after = 1; }
        } else if (c->st == CLEN) { size_t k = n; if ((int64_t)k > c->left) k = c->left; payload(c, p, k, t); c->left -= k; p += k; n -= k; if (!c->left) { complete(c, t); return; }
        } else if (c->st == TOEOF) { payload(c, p, n, t); return;
        } else if (c->ckst == 2) { size_t k = n; if ((int64_t)k > c->ck) k = c->ck; payload(c, p, k, t); c->ck -= k; p += k; n -= k; if (!c->ck) c->ckst = 3;
        } else {
            char x = *p++; n--;
            if (c->ckst == 0 && x != '\r' && x != '\n') { c->ck = 0; c->ckst = 1; }
            if (c->ckst == 1) { if (x == '\n') c->ckst = c->ck ? 2 : 4; else if (x >= '0' && x <= '9') c->ck = c->ck * 16 + x - '0'; else if ((x | 32) >= 'a' && (x | 32) <= 'f') c->ck = c->ck * 16 + (x | 32) - 'a' + 10; }
            else if (c->ckst == 3) { if (x == '\n') c->ckst = 0; }
            else if (c->ckst == 4) { if (x == '\n') { complete(c, t); return; } if (x != '\r') c->ckst = 5; }
            else if (c->ckst == 5 && x == '\n') c->ckst = 4;
        }
    }
}
static void readable(conn *c) {
    ssize_t r = recv(c->fd, buf, sizeof buf, 0);
    if (r < 0 && errno == EAGAIN) return;
    if (r <= 0) {
        if (c->st == IDLE) { close(c->fd); c->fd = -1; return; }
        if (r == 0 && c->st == TOEOF) { complete(c, now()); return; }
        fail(c, "closed"); return;
    }
    feed(c, buf, r, now());
}
static int get(int p, const char *path, char *o, int n) {
    int fd = dial(p, 0), h = snprintf(o, n, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path), k = 0;
    if (send(fd, o, h, MSG_NOSIGNAL) < 0) return -1;
    for (;;) { int r = recv(fd, o + k, n - 1 - k, 0); if (r <= 0) break; k += r; }
    close(fd); o[k] = 0; return k;
}
int main(int argc, char **argv) {
    if (argc < 2) return 2;
    const char *mode = argv[1], *method = 0, *path = 0, *body = 0; int mockport = 0, kflag = 0, gid = 1; int64_t size = 1 << 30; int o; optind = 2;
    while ((o = getopt(argc, argv, "p:c:t:X:u:b:r:w:n:i:I:s:z:m:k:g:")) != -1) switch (o) {
        case 'p': port = atoi(optarg); break; case 'c': conns = atoi(optarg); break; case 't': secs = atof(optarg); break;
        case 'X': method = optarg; break; case 'u': path = optarg; break; case 'b': body = optarg; break; case 'r': rate = atof(optarg); break;
        case 'w': warm = atof(optarg); break; case 'n': nlines = atoi(optarg); break; case 'i': us = atoi(optarg); break; case 'I': us_max = atoi(optarg); break;
        case 's': spread = atoi(optarg); break; case 'z': size = atoll(optarg); break; case 'm': mockport = atoi(optarg); break; case 'k': kflag = atoi(optarg); break; case 'g': gid = atoi(optarg); break; default: return 2; }
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(mode, "upload")) {
        int fd = dial(port, 0); memset(buf, 'u', sizeof buf); char h[512];
        int n = kflag ? snprintf(h, sizeof h, "POST /api/blobs/sha256:00 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n") : snprintf(h, sizeof h, "POST /api/blobs/sha256:00 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %lld\r\n\r\n", (long long)size);
        uint64_t t = now(); send(fd, h, n, MSG_NOSIGNAL); struct timeval tv = { 15, 0 }; setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv); setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
        if (kflag) memcpy(buf, "10000\r\n", 7), memcpy(buf + 7 + 65536, "\r\n", 2);
        for (int64_t left = size; left > 0;) { size_t k = kflag ? 65545 : left < (int64_t)sizeof buf ? (size_t)left : sizeof buf, off = 0;
            while (off < k) { ssize_t w = send(fd, buf + off, k - off, MSG_NOSIGNAL); if (w <= 0) { printf("{\"error\":\"send %s\"}\n", strerror(errno)); return 1; } off += w; }
            left -= kflag ? 65536 : (int64_t)k; }
        if (kflag) send(fd, "0\r\n\r\n", 5, MSG_NOSIGNAL);
        ssize_t r = recv(fd, buf, sizeof buf - 1, 0); buf[r > 0 ? r : 0] = 0; double s = (now() - t) / 1e9;
        char *bc = strstr(buf, "\"bytes\":"); int64_t want = kflag ? (size + 65535) / 65536 * 65536 : size, seen = bc ? atoll(bc + 8) : -1;
        if (r > 0 && !bc) { ssize_t r2 = recv(fd, buf + r, sizeof buf - 1 - r, 0); if (r2 > 0) buf[r + r2] = 0; bc = strstr(buf, "\"bytes\":"); seen = bc ? atoll(bc + 8) : -1; }
        if (seen != want) { printf("{\"error\":\"upload: %lld of %lld bytes arrived, status %.3s\",\"seconds\":%.3f}\n", (long long)seen, (long long)want, r > 12 ? buf + 9 : "---", s); return 1; }
        printf("{\"ok\":%d,\"seconds\":%.3f,\"MB_per_s\":%.4f}\n", r > 12 && buf[9] == '2', s, size / 1e6 / s); return 0;
    }
    if (!strcmp(mode, "cancel")) {
        int lost = 0; char q[200], b[8192];
        for (int i = 0; i < kflag; i++) {
            int id = gid + i, fd = dial(port, 0), n = snprintf(q, sizeof q, "POST /api/generate?n=200&us=20000&id=%d%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n{\"model\":\"llama3.2:1b\",\"prompt\":\"x\"}", id, warm > 0 ? "&wait=3000000" : "");
            send(fd, q, n, MSG_NOSIGNAL); struct timeval tv = { 5, 0 }; setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
            int k = 0, r; if (warm > 0) usleep(60000); else while (k < 8000 && (r = recv(fd, b + k, sizeof b - 1 - k, 0)) > 0) { k += r; b[k] = 0; if (strstr(b, "\"t\":")) break; }
            usleep(3000 + (i * 7919) % 13000); uint64_t t = now(), ts = 0; close(fd);
            for (int w = 0; w < 1500 && !ts; w++) { usleep(w < 20 ? 1000 : 2000); snprintf(q, sizeof q, "/_cancel?id=%d", id); if (get(mockport, q, b, sizeof b) > 0) { char *x = strstr(b, "\"ts\":"); if (x) ts = strtoull(x + 5, 0, 10); } }
            if (ts) rec(&lat, ts - t); else lost++;
        }
        printf("{\"n\":%llu,\"lost\":%d,\"p50\":%.0f,\"p99\":%.0f,\"max\":%.0f}\n", (unsigned long long)lat.n, lost, pct(&lat, .5), pct(&lat, .99), lat.max / 1000.0); return 0;
    }
    streaming = !strcmp(mode, "stream");
    if (!path) path = streaming ? "/api/generate" : "/api/version";
    if (!method) method = streaming || body ? "POST" : "GET";
    if (!body) body = streaming ? "{\"model\":\"llama3.2:1b\",\"prompt\":\"Why is the sky blue?\"}" : "";
    ep = epoll_create1(0); conn *cs = calloc(conns, sizeof *cs);
    uint64_t t0 = now(), tm = t0 + (uint64_t)(warm * 1e9), tend = tm + (uint64_t)(secs * 1e9);
    for (int i = 0; i < conns; i++) {
        conn *c = &cs[i]; c->fd = -1; c->i = i; char p[400], q[8192]; snprintf(p, sizeof p, "%s", path);
        if (streaming && nlines) { int d = us_max > us ? us + (int)((long)(us_max - us) * i / (conns > 1 ? conns - 1 : 1)) : us; snprintf(p, sizeof p, "%s?n=%d&us=%d", path, nlines, d); }
        size_t bl = strlen(body); int n = bl ? snprintf(q, sizeof q, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: ollama-python/0.6.0 (x86_64 linux) Python/3.11.7\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", method, p, port, bl, body)
            : snprintf(q, sizeof q, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: ollama-python/0.6.0 (x86_64 linux) Python/3.11.7\r\nAccept: */*\r\n\r\n", method, p, port);
        c->req = memcpy(malloc(n), q, n); c->reqn = n;
        c->due = t0 + (rate > 0 ? (uint64_t)(1e9 * i / rate) : (uint64_t)spread * 1000000 * i / conns);
    }
    struct epoll_event ev[512]; measuring = warm <= 0; uint64_t started = tm;
    for (;;) {
        uint64_t t = now();
        if (t >= tend) break;
        if (!measuring && t >= tm) { measuring = 1; started = t; }
        uint64_t next = tend;
        for (int i = 0; i < conns; i++) if (cs[i].st == IDLE) { if (cs[i].due <= t) start(&cs[i]); else if (cs[i].due < next) next = cs[i].due; }
        if (!measuring && tm < next) next = tm;
        t = now(); uint64_t d = next > t ? next - t : 0; struct timespec to = { d / 1000000000, d % 1000000000 };
        for (;;) {
            int k = epoll_pwait2(ep, ev, 512, &to, 0);
            for (int i = 0; i < k; i++) { conn *c = ev[i].data.ptr; if (c->fd < 0) continue;
                if (ev[i].events & EPOLLOUT) { if (c->st == CONNECTING) c->st = SENDING; if (c->st == SENDING) pump(c); }
                if (c->fd >= 0 && (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) readable(c); }
            if (active < conns || k <= 0 || now() >= next) break;      // someone is idle, or a deadline has come
        }
    }
    double el = (now() - started) / 1e9; stopping = 1;
    printf("{\"seconds\":%.3f,\"done\":%llu,\"errors\":%llu,\"err\":\"", el, (unsigned long long)done, (unsigned long long)errors);
    for (char *x = errtxt; *x; x++) if (*x >= 32 && *x != '"' && *x != '\\') putchar(*x);
    printf("\",\"rps\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.0f,\"mean\":%.1f,\"MB_per_s\":%.4f", done / el, pct(&lat, .5), pct(&lat, .9), pct(&lat, .99), lat.max / 1000.0, lat.n ? lat.sum / lat.n / 1000 : 0, bytes / 1e6 / el);
    printf(",\"ttft_n\":%llu,\"ttft_p50\":%.1f,\"ttft_p99\":%.1f", (unsigned long long)ttft.n, pct(&ttft, .5), pct(&ttft, .99));
    printf(",\"lines\":%llu,\"lines_per_s\":%.0f,\"line_p50\":%.1f,\"line_p99\":%.1f,\"line_max\":%.0f}\n", (unsigned long long)lines, lines / el, pct(&linelat, .5), pct(&linelat, .99), linelat.max / 1000.0);
    return 0;
}
