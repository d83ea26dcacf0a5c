# SPDX-License-Identifier: Apache-2.0
"""The command line against a master that plays tricks: logs that are cut while they are followed, a
master that goes away, results that no honest guest would send, answers that are not JSON."""
import hashlib
import http.server
import io
import json
import os
import ssl
import subprocess
import tarfile
import threading

import pytest

from grid import YADO


def record(text, stream=1):
    data = text.encode()
    return bytes([stream]) + len(data).to_bytes(4, "big") + data


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?")[0]
        answer = self.server.answers.get(path)
        if callable(answer):
            answer = answer(self)
        if answer is None:
            answer = (404, b'{"error": {"code": "not_found", "message": "nothing here"}}', {})
        if answer == "hang up":
            self.close_connection = True
            return
        status, body, headers = answer
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *args):
        pass


pytestmark = pytest.mark.xdist_group("cli_master")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    d = tmp_path_factory.mktemp("ca")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-nodes", "-days", "2", "-subj", "/CN=test", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", d / "key.pem", "-out", d / "cert.pem"],
                   check=True, capture_output=True)
    return d


@pytest.fixture
def master(certificate):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    pem = (certificate / "cert.pem").read_text()
    server.answers = {"/v1/ca": (200, pem.encode(), {})}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print_ = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()[:32]
    server.env = dict(os.environ, YADO_URL=f"https://127.0.0.1:{server.server_port}",
                      YADO_TOKEN=print_ + ".secret", YADO_CONFIG_DIR="/nonexistent",
                      ASAN_OPTIONS="detect_leaks=0")
    yield server
    server.shutdown()
    server.server_close()


def yado(master, *args):
    return subprocess.run([YADO, *map(str, args)], env=master.env, capture_output=True, timeout=60)


def play(master, *steps):
    """Answers the questions for job 1's log by the steps, one after the other; each sees the offset,
    and with which count of cuts it came is in master.cuts."""
    left = list(steps)
    master.cuts = []

    def answer(handler):
        offset = int(handler.path.split("offset=")[1].split("&")[0])
        master.cuts.append(int(handler.path.split("cuts=")[1].split("&")[0]))
        return left.pop(0)(offset)
    master.answers["/v1/jobs/1/parts/0/log"] = answer
    return left


def log(data, final=0, cuts=0):
    return lambda offset: (200, data[offset:], {"Yado-Log-End": len(data), "Yado-Log-Cuts": cuts,
                                                "Yado-Log-Final": final})


def test_log_streams(master):
    data = record("out 1\n") + record("err\n", 2) + record("out 2\n")
    play(master, log(data, 1))
    r = yado(master, "logs", 1)
    assert (r.returncode, r.stdout, r.stderr) == (0, b"out 1\nout 2\n", b"err\n")
    play(master, log(data, 1))
    assert yado(master, "logs", 1, "--stream", "err").stderr == b"err\n"


def test_log_in_pieces_and_a_master_that_goes_away(master):
    data = record("one\n") + record("two\n") + record("three\n")
    left = play(master, log(data[:11]), lambda offset: "hang up", lambda offset: "hang up",
                log(data[:12]), log(data), log(data, 1))
    r = yado(master, "logs", 1, "-f")
    assert r.returncode == 0 and not left and r.stdout == b"one\ntwo\nthree\n"
    assert r.stderr.count(b"the master does not answer; waiting for it") == 1
    # Not followed, it is an error at once.
    play(master, lambda offset: "hang up", lambda offset: "hang up")
    r = yado(master, "logs", 1)
    assert r.returncode == 1 and b"no answer from the master" in r.stderr


def test_log_that_goes_back(master):
    kept, void, new = record("kept\n"), record("void\n"), record("new\n")
    seen = []

    def shorter(offset):
        seen.append(offset)
        return 416, b"{}", {"Yado-Log-End": length, "Yado-Log-Cuts": 3, "Yado-Log-Final": 0,
                            "Yado-Log-Valid": len(kept)}
    # Whether it is still shorter, or has grown beyond the reader again.
    for length in (len(kept), 1000):
        seen.clear()
        play(master, log(kept + void, cuts=2), shorter, log(kept + new, cuts=3),
             log(kept + new, 1, cuts=3))
        r = yado(master, "logs", 1, "-f")
        assert r.returncode == 0 and r.stdout == b"kept\nvoid\nnew\n" and seen == [len(kept + void)]
        assert master.cuts == [0, 2, 3, 3]
        assert b"the last %d bytes above are void" % len(void) in r.stderr
    # What was not shown yet is not said to be void, and is not mixed with what comes anew.
    play(master, log((kept + void)[:len(kept) + 7], cuts=2), shorter, log(kept + new, 1, cuts=3))
    r = yado(master, "logs", 1, "-f")
    assert r.returncode == 0 and (r.stdout, r.stderr) == (b"kept\nnew\n", b"")


def test_log_that_is_cut_during_an_answer(master):
    """The count of an answer that broke off counts as far as its bytes came."""
    kept, void, new = record("kept\n"), record("void\n"), record("new\n")
    cut = 416, b"{}", {"Yado-Log-End": len(kept), "Yado-Log-Cuts": 1, "Yado-Log-Valid": len(kept)}

    def breaks_off(answer):
        status, body, headers = answer
        return status, body, {**headers, "Content-Length": len(body) + 9, "Connection": "close"}
    play(master, log(kept + void), lambda offset: breaks_off(cut), lambda offset: cut,
         lambda offset: breaks_off(log(kept + new, cuts=1)(offset)), log(kept + new, 1, cuts=1))
    r = yado(master, "logs", 1, "-f")
    assert r.returncode == 0 and r.stdout == b"kept\nvoid\nnew\n", r
    assert master.cuts == [0, 0, 0, 1, 1] and r.stderr.count(b"are void") == 1


def test_log_that_is_damaged(master):
    play(master, log(b"\x07" * 50, 1))
    r = yado(master, "logs", 1)
    assert r.returncode == 1 and b"damaged" in r.stderr


def test_a_submission_whose_answer_is_lost(master):
    seen, steps = [], ["hang up", "hang up", (503, b"{}", {}), (201, b'{"id": 17, "parts": 1}', {})]

    def jobs(handler):
        seen.append((handler.headers["Idempotency-Key"], handler.body))
        return steps.pop(0)
    master.answers["/v1/jobs"] = jobs
    r = yado(master, "submit", "--", "true")
    assert r.returncode == 0 and r.stdout == b"job 17\n" and not steps
    assert len(set(seen)) == 1 and len(seen[0][0]) == 32, "the same, under the same key"
    assert r.stderr.count(b"\n") == 1 and b"the master's answer was lost; asking again" in r.stderr
    # Another job has another key, and what is no lost answer is not asked again.
    steps[:] = [(507, b'{"error": {"code": "disk_full", "message": "the disk is full"}}', {})]
    r = yado(master, "submit", "--", "true")
    assert r.returncode == 1 and not steps and b"submit: the disk is full\n" in r.stderr
    assert seen[-1][0] != seen[0][0]
    # Nor is a refusal, though it comes after one.
    steps[:] = ["hang up", (400, b'{"error": {"code": "x", "message": "no such thing"}}', {})]
    r = yado(master, "submit", "--", "true")
    assert r.returncode == 1 and not steps and r.stderr.endswith(b"submit: no such thing\n")


def give_results(master, *tars):
    parts = []
    for i, tar in enumerate(tars):
        parts.append({"part": i, "state": "done", "result_bytes": len(tar)})
        master.answers[f"/v1/jobs/1/parts/{i}/result"] = (200, tar, {})
    master.answers["/v1/jobs/1"] = (200, json.dumps({"id": 1, "state": "done", "parts": len(tars),
                                                     "parts_list": parts}).encode(), {})


def tar_of(name, kind=tarfile.REGTYPE, content=b"x", **more):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.size = len(content) if kind == tarfile.REGTYPE else 0
        for k, v in more.items():
            setattr(info, k, v)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("tar, says", [
    (tar_of("/etc/owned"), "its path leaves the folder"),
    (tar_of("../owned"), "its path leaves the folder"),
    (tar_of("link", tarfile.SYMTYPE, linkname="/etc"), "a link that leaves"),
    (tar_of("link", tarfile.LNKTYPE, linkname="../in"), "a link that leaves"),
    (tar_of("null", tarfile.CHRTYPE), "a device"),
    (tar_of("su", mode=0o4755), "set-user-ID"),
    (tar_of("\033[2Jname", tarfile.FIFOTYPE), '"^[[2Jname": it is a device, a pipe'),
    (tar_of("file")[:700], "truncated"),
    (b"no tar at all" * 100, "no tar file"),
])
def test_results_that_are_refused(master, tmp_path, tar, says):
    give_results(master, tar_of("good"), tar)
    r = yado(master, "results", 1, tmp_path / "r")
    assert r.returncode == 1 and r.stderr.count(b"\n") == 1 and b"\033" not in r.stderr
    assert says.lower() in r.stderr.decode().lower() or "damaged" in r.stderr.decode(), r.stderr
    assert b"nothing was unpacked" in r.stderr and b"--part 1 --tar FILE" in r.stderr
    assert list(tmp_path.iterdir()) == []


def test_results_of_parts(master, tmp_path):
    give_results(master, tar_of("a"), b"", tar_of("b"))
    r = yado(master, "results", 1, tmp_path / "r/")
    assert r.returncode == 0 and b"part 1 (done) left nothing in /out" in r.stderr, r
    assert sorted(str(p.relative_to(tmp_path / "r")) for p in (tmp_path / "r").rglob("*")) == \
        ["part-0", "part-0/a", "part-2", "part-2/b"]
    (tmp_path / "empty").mkdir()
    r = yado(master, "results", 1, tmp_path / "empty", "--part", 2)
    assert r.returncode == 0 and (tmp_path / "empty/b").read_text() == "x"
    r = yado(master, "results", 1, tmp_path / "x", "--part", 3)
    assert r.returncode == 1 and b"has no part 3, only 0 to 2" in r.stderr
    r = yado(master, "results", 1, "--tar", tmp_path / "t")
    assert r.returncode == 1 and b"add --part N" in r.stderr
    # An answer that is cut in the middle.
    give_results(master, tar_of("a" * 60, content=b"z" * 5000))
    status, tar, _ = master.answers["/v1/jobs/1/parts/0/result"]
    master.answers["/v1/jobs/1/parts/0/result"] = (status, tar[:600], {"Connection": "close",
                                                                       "Content-Length": len(tar)})
    r = yado(master, "results", 1, tmp_path / "cut")
    assert r.returncode == 1 and not (tmp_path / "cut").exists()


def test_answers_that_make_no_sense(master):
    for body in (b"<html>", b"[1, 2", b"\xff\xfe", b"{}", b"[]", b'{"jobs": 7}'):
        master.answers["/v1/jobs"] = (200, body, {})
        r = yado(master, "jobs")
        assert r.returncode in (0, 1) and (r.returncode == 0 or r.stderr.startswith(b"yado: jobs: ")), r
    row = {"id": -1, "name": "\033]0;owned\007", "state": 5, "counts": [], "user": None}
    master.answers["/v1/jobs"] = (200, json.dumps({"jobs": [row, 1, None]}).encode(), {})
    r = yado(master, "jobs")
    assert r.returncode == 0 and b"\033" not in r.stdout and b"^[]0;owned^G" in r.stdout
    error = {"error": {"code": "x", "message": "no \033[2J"}}
    master.answers["/v1/jobs"] = (500, json.dumps(error).encode(), {})
    r = yado(master, "jobs")
    assert r.returncode == 1 and b"\033" not in r.stderr
