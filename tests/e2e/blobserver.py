# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the master's data requests of one placement, for tests of what fetches and
posts: HTTPS with ranges, block lists, uploads and output. It can be stopped and started again on
its port, and damage what it sends."""
import ctypes
import ctypes.util
import hashlib
import http.server
import json
import re
import socket
import ssl
import subprocess
import threading
import urllib.parse

from mail_stand_in import Mail

BLOCK = 256 * 1024


class XXH128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


_xxh = ctypes.CDLL(ctypes.util.find_library("xxhash"))
_xxh.XXH3_128bits.restype = XXH128
_xxh.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def xxh128(data):
    h = _xxh.XXH3_128bits(data, len(data))
    return h.high.to_bytes(8, "big") + h.low.to_bytes(8, "big")


def make_certificate(folder):
    """One self-signed certificate for 127.0.0.1: server and CA at once."""
    cert, key = folder / "ca.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=test",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


class BlobServer:
    prefix = "/v1/vm/1.0.1/"

    def __init__(self, folder):
        self.ca_file, self.key = make_certificate(folder)
        self.blobs = {}
        self.lists = {}
        self.grant = "g" * 43
        self.requests = []       # (method, path, range header)
        self.damage = {}         # (digest, block) -> how often to send it damaged
        self.stall = threading.Event()  # set: data requests hang
        self.hang_from = {}      # digest -> requests that reach beyond this offset hang meanwhile
        self.release = threading.Event()
        self.output = b""
        self.output_status = 200
        self.blob_status = None
        self.cuts = []           # the next uploads end after so many bytes
        self.follow_cut = None   # uploads of what is still being written do, all of them
        self.followed = []       # digests of those that came whole
        self.mail = Mail()
        self.port = 0
        self.server = None
        self.lock = threading.Lock()

    def add(self, data):
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}{self.prefix}"

    def start(self):
        owner = self

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def __init__(self, *args):
                self.open = set()
                super().__init__(*args)

            def get_request(self):
                conn, addr = super().get_request()
                conn = context.wrap_socket(conn, server_side=True, do_handshake_on_connect=False)
                self.open.add(conn)
                return conn, addr

            def handle_error(self, request, client_address):
                pass  # connections end in the middle, that is the purpose

        class Handler(BlobHandler):
            pass

        Handler.owner = owner
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, self.key)
        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        """The port is closed and every connection reset."""
        if not self.server:
            return
        self.server.shutdown()
        self.server.server_close()
        for conn in list(self.server.open):
            try:
                conn.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.server = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *a):
        self.release.set()
        self.stop()


class BlobHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner = None

    def log_message(self, *a):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for k, v in headers:
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code="no"):
        self.answer(status, json.dumps({"error": {"code": code, "message": f"refused: {code}"}}).encode())

    def allowed(self):
        self.owner.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.headers.get("Authorization") != f"Bearer {self.owner.grant}":
            self.refuse(401)
            return None
        if not self.path.startswith(self.owner.prefix):
            self.refuse(404)
            return None
        return self.path[len(self.owner.prefix):]

    def do_GET(self):
        o, what = self.owner, self.allowed()
        if what is None or o.mail.serve(self, "GET", what):
            return
        m = re.fullmatch(r"blobs/([0-9a-f]{64})(/blocks)?", what)
        if not m or m[1] not in o.blobs:
            return self.refuse(404)
        if o.stall.is_set():
            o.release.wait()
            return
        data = o.blobs[m[1]]
        if m[2]:
            return self.answer(200, o.lists.get(m[1]) or b"".join(
                xxh128(data[i:i + BLOCK]) for i in range(0, len(data), BLOCK)))
        rng = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if not rng:
            return self.answer(200, data)
        first, last = int(rng[1]), int(rng[2])
        while last >= o.hang_from.get(m[1], len(data)) and not o.release.wait(0.02):
            pass
        part = bytearray(data[first:last + 1])
        with o.lock:
            for block in range(first // BLOCK, last // BLOCK + 1):
                if o.damage.get((m[1], block), 0) > 0:
                    o.damage[(m[1], block)] -= 1
                    part[block * BLOCK - first] ^= 1
        self.answer(206, bytes(part), [("Content-Range", f"bytes {first}-{last}/{len(data)}")])

    def do_HEAD(self):
        what = self.allowed()
        if what is not None:
            self.answer(200 if what.removeprefix("blobs/") in self.owner.blobs else 404)

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_PUT(self):
        o, what = self.owner, self.allowed()
        if what is None or o.mail.serve(self, "PUT", what):
            return
        if o.cuts:
            self.rfile.read(o.cuts.pop(0))
            self.close_connection = True
            return
        data = self.body()
        if o.blob_status:
            return self.refuse(o.blob_status)
        if hashlib.sha256(data).hexdigest() != what.removeprefix("blobs/"):
            return self.refuse(400, "digest")
        o.blobs[what.removeprefix("blobs/")] = data
        self.answer(201)

    def chunks(self, most):
        """The body, and the fields behind it; (None, None) when it is cut off after `most`."""
        data, fields = b"", {}
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
            if most is not None and len(data) >= most:
                return None, None
        while (line := self.rfile.readline().decode().strip()):
            name, value = line.split(": ")
            fields[name.lower()] = value
        return data, fields

    def follow(self):
        o = self.owner
        if o.blob_status:
            self.close_connection = True
            return self.refuse(o.blob_status)
        data, fields = self.chunks(o.follow_cut)
        if data is None:
            self.close_connection = True
            return
        digest = hashlib.sha256(data).hexdigest()
        if fields["blob-digest"] != digest:
            return self.refuse(422, "digest")
        o.blobs[digest] = data
        o.followed.append(digest)
        self.answer(201)

    def do_POST(self):
        o, what = self.owner, self.allowed()
        if what is None or o.mail.serve(self, "POST", what):
            return
        if what == "blobs":
            return self.follow()
        data = self.body()
        parts = urllib.parse.urlsplit(what)
        offset = int(urllib.parse.parse_qs(parts.query)["offset"][0])
        if o.output_status != 200:
            return self.refuse(o.output_status)
        with o.lock:
            if offset > len(o.output):
                return self.answer(416, json.dumps({"have": len(o.output)}).encode())
            o.output += data[len(o.output) - offset:]
            self.answer(200, json.dumps({"have": len(o.output)}).encode())
