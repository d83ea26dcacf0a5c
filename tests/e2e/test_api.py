# SPDX-License-Identifier: Apache-2.0
"""The master's API: every reply against docs/openapi.yaml, users, bad input, PCs played by the test."""
import hashlib
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

import pytest
import requests

import api
from api import ApiGrid, Client, FakePC
from grid import ROOT, YADO, wait_for


pytestmark = pytest.mark.xdist_group("api")


@pytest.fixture(scope="module")
def grid():
    with ApiGrid(master_args=["--lease", "30s"]) as g:
        yield g


def tagged(data, stream=1):
    return bytes([stream]) + len(data).to_bytes(4, "big") + data


# ---- the description -----------------------------------------------------------------------------

def test_every_path_is_documented_and_every_documented_path_is_served():
    table = re.findall(r'\{"([A-Z]+)", "([^"]+)", REQ_(\w+)', (ROOT / "src/master/routes.c").read_text())
    served = {(m, p) for m, p, who in table if who not in ("PC", "GRANT")}
    documented = {(m.upper(), p) for p, item in api.SPEC["paths"].items()
                  for m in item if m != "parameters"}
    assert served == documented


def test_every_list_of_an_empty_grid(grid):
    for path in ("jobs", "history", "pcs", "vms", "moves", "events", "images", "users", "status",
                 "whoami", "users/admin/tokens"):
        r = grid.admin("GET", f"/v1/{path}", 200)
        assert path in ("whoami",) or int(r.headers["Yado-Step"]) > 0
    assert "yado_pcs 0" in grid.admin("GET", "/metrics", 200).text
    assert "BEGIN CERTIFICATE" in grid.admin("GET", "/v1/ca", 200).text


# ---- users ---------------------------------------------------------------------------------------

def test_users_and_their_tokens(grid):
    ann = grid.user("ann", weight=2, max_queued=5)
    assert ann("GET", "/v1/whoami", 200).json() == {"name": "ann", "admin": False}
    for method, path in (("GET", "/v1/users"), ("POST", "/v1/users"), ("POST", "/v1/enroll-tokens"),
                         ("POST", "/v1/images"), ("GET", "/v1/users/admin/tokens"),
                         ("POST", "/v1/users/admin/tokens"), ("GET", "/v1/jobs?all=1")):
        ann.error(method, path, 403, "administrator")
    grid.admin.error("POST", "/v1/users", 409, "ann", json={"name": "ann"})
    grid.admin.error("POST", "/v1/users", 400, "name", json={"name": "../x"})
    grid.admin.error("POST", "/v1/users", 400, "weight", json={"name": "x", "weight": 100000})
    grid.admin.error("POST", "/v1/users", 400, "colour", json={"name": "x", "colour": "red"})
    assert grid.admin("POST", "/v1/users/ann", 200, json={"weight": 3}).json()["weight"] == 3
    grid.admin.error("POST", "/v1/users/admin", 409, "himself", json={"admin": False})
    grid.admin.error("DELETE", "/v1/users/admin", 409, "himself")
    laptop = ann("POST", "/v1/users/ann/tokens", 201, json={"name": "laptop"}).json()["token"]
    ann.error("POST", "/v1/users/ann/tokens", 409, "laptop", json={"name": "laptop"})
    second = Client(grid.url, grid.ca, laptop)
    second("GET", "/v1/whoami", 200)
    ann("DELETE", "/v1/users/ann/tokens/laptop", 200)
    ann.error("DELETE", "/v1/users/ann/tokens/laptop", 404, "laptop")
    second.error("GET", "/v1/whoami", 401, "login")
    grid.admin("DELETE", "/v1/users/ann", 200)
    ann.error("GET", "/v1/whoami", 401, "login")
    grid.admin.error("DELETE", "/v1/users/ann", 404, "ann")


def test_others_jobs_do_not_exist(grid):
    bob, eve = grid.user("bob"), grid.user("eve")
    job = grid.submit_api(bob, name="bobs")
    assert [j["id"] for j in bob("GET", "/v1/jobs", 200).json()["jobs"]] == [job]
    assert eve("GET", "/v1/jobs", 200).json()["jobs"] == []
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/hold"), ("POST", "/release"),
                         ("GET", "/parts/0/log"), ("GET", "/parts/0/result")):
        eve.error(method, f"/v1/jobs/{job}{path}", 404, str(job))
    assert not [e for e in eve("GET", "/v1/events", 200).json()["events"]]
    assert [e for e in grid.admin("GET", f"/v1/events?job={job}", 200).json()["events"]]
    assert bob("POST", f"/v1/jobs/{job}/hold", 200).json()["state"] == "held"
    assert bob("POST", f"/v1/jobs/{job}/release", 200).json()["state"] == "queued"
    assert bob("POST", f"/v1/jobs/{job}/cancel", 200).json()["state"] == "cancelled"
    bob.error("POST", f"/v1/jobs/{job}/cancel", 409)
    bob.error("GET", f"/v1/jobs/{job}/parts/7/log", 404, "part 7")
    assert bob("GET", f"/v1/jobs/{job}/parts/0/result").status_code == 204


def test_quota(grid):
    joe = grid.user("joe", max_queued=3)
    grid.submit_api(joe, parts=2)
    joe.error("POST", "/v1/jobs", 429, json={"command": ["x"], "memory": "128M", "parts": 2})
    grid.submit_api(joe)


def test_quota_of_disks():
    with ApiGrid(master_args=["--disk-quota", "1G"]) as g:
        body = {"command": ["x"], "memory": "128M"}
        job = g.submit_api(disk="256M", parts=3)
        status = g.admin("GET", "/v1/status", 200).json()
        assert (status["disk_bytes"], status["disk_quota_bytes"]) == (768 << 20, 1 << 30)
        g.admin.error("POST", "/v1/jobs", 429, "512 MiB", "768 MiB of the 1.0 GiB", "--disk",
                      json={**body, "disk": "512M"})
        g.admin.error("POST", "/v1/jobs", 429, json={**body, "then": {**body, "disk": "512M"}})
        assert [j["id"] for j in g.admin("GET", "/v1/jobs").json()["jobs"]] == [job]
        g.master.kill()
        g.start_master()
        g.admin.error("POST", "/v1/jobs", 429, json={**body, "disk": "512M"})
        g.admin("POST", f"/v1/jobs/{job}/cancel", 200)
        assert g.admin("GET", "/v1/status").json()["disk_bytes"] == 0
        g.submit_api(disk="1G")
        assert re.search(r"^yado_disk_bytes 1073741824$", g.admin("GET", "/metrics").text, re.M)


# ---- bad input -----------------------------------------------------------------------------------

@pytest.mark.parametrize("spec,words", [
    ({"command": ["x"], "colour": "red"}, ["colour"]),
    ({"command": "x"}, ["command"]),
    ({"command": ["x"], "memory": ["512M"]}, ["memory"]),
    ({"command": ["x"], "memory": "12 parsecs"}, ["memory"]),
    ({"command": ["x"], "parts": 0}, ["parts"]),
    ({"command": ["x"], "parts": 10**9}, ["parts"]),
    ({"command": ["x"], "then": {"command": ["y"], "colour": 1}}, ["then", "colour"]),
    ({"command": ["x"], "image": "nosuch"}, ["nosuch"]),
    ({"command": ["x"], "inputs": [{"path": "a", "digest": "ab" * 32, "size": 1}]}, ["a", "ab" * 32]),
    ({"command": ["x"], "inputs": [{"path": "../a", "digest": "ab" * 32, "size": 1}]}, ["path"]),
    ({"command": ["x"], "parts": 5000, "then": {"command": ["y"]}}, ["then", "parts"]),
    ({"command": []}, ["command"]),
    ({"command": ["x"], "split": []}, ["split", "list"]),
    ({"command": ["x"], "parts": 2, "split": [{"x": [1], "parts": "x", "memory": "1", "work": "1"}]},
     ["split", "parts"]),
    ({"command": ["x"], "split": [{"x": [1], "parts": "x +", "memory": "1", "work": "1"}]},
     ["split", "parts", "missing"]),
    ({"command": ["x"], "split": [{"x": [1e9], "parts": "x", "memory": "1", "work": "1"}]},
     ["split", "parts", "100000"]),
    ({"command": ["x"], "split": [{"x": [1], "let": {"a": "b", "b": "a"}, "parts": "a", "memory": "1",
                                   "work": "1"}]}, ["needs itself"]),
])
def test_bad_jobs(grid, spec, words):
    before = grid.admin("GET", "/v1/jobs?all=1", 200).json()
    grid.admin.error("POST", "/v1/jobs", 400, *words, json=spec)
    assert grid.admin("GET", "/v1/jobs?all=1", 200).json() == before, "something changed"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a":1,"a":2}', b"\xff\xfe", b"null",
                                  b"[" * 100000, b'{"command":["\\u0000"]}'])
def test_bodies_that_are_no_jobs(grid, body):
    grid.admin("POST", "/v1/jobs", 400, data=body)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "after=-1", "limit=99999999"])
def test_bad_queries(grid, query):
    for path in ("jobs", "events", "moves"):
        grid.admin("GET", f"/v1/{path}?{query}", 400)


def test_a_submission_that_is_repeated_makes_one_job(grid):
    spec = {"command": ["true"], "memory": "128M", "parts": 3, "name": "once"}
    ann = grid.user("once")

    def submit(client, key, status=201, **more):
        return client("POST", "/v1/jobs", status, json={**spec, **more},
                      headers={"Idempotency-Key": key}).json()
    first = submit(ann, "k-1")
    assert first["parts"] == 3 and submit(ann, "k-1") == first
    assert submit(ann, "k-2")["id"] != first["id"] != submit(grid.admin, "k-1")["id"]
    said = submit(ann, "k-1", 422, parts=4)["error"]["message"]
    assert f"job {first['id']}" in said and "new key" in said
    for key in ("", "a b", "x" * 256, "caf\u00e9".encode().decode("latin1")):
        assert "Idempotency-Key" in submit(ann, key, 400)["error"]["message"], key
    # What was refused left its key free; so did a job that could not be made.
    submit(ann, "k-3", 400, image="nosuch")
    submit(ann, "k-3")
    # At the same moment, of which one is the first.
    ids, ready = [], threading.Barrier(8)

    def at_once():
        client = Client(grid.url, grid.ca, ann.session.headers["Authorization"].split()[-1])
        ready.wait()
        ids.append(submit(client, "k-4")["id"])
    threads = [threading.Thread(target=at_once) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(ids) == 8 and len(set(ids)) == 1
    assert len(ann("GET", "/v1/jobs", 200).json()["jobs"]) == 4
    # The job has ended, and its input is gone from the depot: the answer is still the same.
    digest = ann.put_blob(b"an input")
    inputs = [{"path": "x", "digest": digest, "size": 8}]
    job = submit(ann, "k-5", inputs=inputs)["id"]
    ann("POST", f"/v1/jobs/{job}/cancel", 200)
    (grid.dir / "master/depot" / digest[:2] / digest).unlink()
    submit(ann, "k-6", 400, inputs=inputs)
    assert submit(ann, "k-5", inputs=inputs)["id"] == job
    for j in grid.admin("GET", "/v1/jobs?all=1", 200).json()["jobs"]:
        if j["name"] == "once" and not j["finished_ms"]:
            grid.admin("POST", f"/v1/jobs/{j['id']}/cancel", 200)


def test_input_of_another_size_or_content(grid):
    digest = grid.admin.put_blob(b"hello")
    grid.admin("HEAD", f"/v1/blobs/{digest}", 200)
    grid.admin("HEAD", "/v1/blobs/" + "00" * 31 + "01", 404)
    grid.admin.error("POST", "/v1/jobs", 400, "5 bytes",
                     json={"command": ["x"], "inputs": [{"path": "a", "digest": digest, "size": 6}]})
    grid.admin.error("PUT", "/v1/blobs/" + "ab" * 32, 422, "SHA-256", data=b"other")
    grid.admin.error("PUT", "/v1/blobs/nonsense", 400, "SHA-256", data=b"other")
    grid.admin("HEAD", "/v1/blobs/" + "ab" * 32, 404)


def rss_kb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read()).group(1))


def raw(grid, head, after=b""):
    """Sends a request by hand and returns the status line and body."""
    host, port = grid.url.split("//")[1].split(":")
    context = ssl.create_default_context(cafile=str(grid.ca))
    with socket.create_connection((host, int(port)), 20) as s, \
            context.wrap_socket(s, server_hostname=host) as t:
        token = grid.admin.session.headers["Authorization"]
        t.sendall((head.replace("@", f"Host: x\r\nAuthorization: {token}") + "\r\n\r\n").encode())
        try:
            for _ in range(64 if after else 0):
                t.sendall(after)
        except OSError:
            pass  # the master need not listen to all of it
        data = b""
        try:
            while chunk := t.recv(65536):
                data += chunk
        except OSError:
            pass
        return data.decode(errors="replace")


def test_a_body_of_a_gigabyte_is_refused_before_it_is_sent(grid):
    memory = rss_kb(grid.master.pid)
    start = time.monotonic()
    reply = raw(grid, "POST /v1/jobs HTTP/1.1\r\n@\r\nContent-Length: 1073741824")
    assert " 413 " in reply.splitlines()[0] and "16777216" in reply, reply
    assert time.monotonic() - start < 5
    # A client that sends on regardless still reads the answer, or is cut off; nothing is kept.
    raw(grid, "POST /v1/jobs HTTP/1.1\r\n@\r\nContent-Length: 1073741824", b"x" * 1000000)
    assert " 411 " in raw(grid, "POST /v1/jobs HTTP/1.1\r\n@\r\nTransfer-Encoding: chunked")
    assert rss_kb(grid.master.pid) < memory + 60000


def test_a_client_that_sends_a_gigabyte_gets_the_error(grid, tmp_path):
    big = tmp_path / "big"
    with open(big, "wb") as f:
        f.truncate(1 << 30)
    token = grid.admin.session.headers["Authorization"]
    r = subprocess.run(["curl", "-sS", "--cacert", grid.ca, "-H", f"Authorization: {token}",
                        "-H", "Expect:", "-X", "POST", "-T", big, grid.url + "/v1/jobs"],
                       capture_output=True, text=True, timeout=60)
    assert "too_large" in r.stdout, r


def test_unknown_paths_and_methods(grid):
    s, url = grid.admin.session, grid.url
    assert s.get(url + "/v1/nothing", timeout=9).status_code == 404
    assert s.get(url + "/", timeout=9).status_code == 404
    assert s.delete(url + "/v1/jobs", timeout=9).status_code == 405
    assert s.get(url + "/v1/jobs/x%00y", timeout=9).status_code in (400, 404)
    grid.admin.error("GET", "/v1/jobs/abc", 404, "abc")
    grid.admin.error("GET", "/v1/jobs/99999", 404, "99999")
    anyone = Client(grid.url, grid.ca)
    anyone.error("GET", "/v1/status", 401, "login")
    Client(grid.url, grid.ca, "f" * 64).error("GET", "/v1/status", 401, "login")


# ---- enrolment -----------------------------------------------------------------------------------

def csr(tmp_path, cn="anything"):
    out = subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt",
                          "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={cn}",
                          "-keyout", tmp_path / "key.pem"], capture_output=True, text=True, check=True)
    return out.stdout


def test_enrolment_tokens(grid, tmp_path):
    anyone = Client(grid.url, grid.ca)
    body = {"name": "pc-x", "csr": csr(tmp_path, "pc-y")}

    def token(**kw):
        return grid.admin("POST", "/v1/enroll-tokens", 201, json=kw).json()["token"]
    good = token()
    anyone.error("POST", "/v1/enroll", 400, "csr", json={**body, "token": good, "csr": "x"})
    anyone.error("POST", "/v1/enroll", 400, "name", json={**body, "token": good, "name": "a/b"})
    anyone.error("POST", "/v1/enroll", 400, "colour", json={**body, "token": good, "colour": 1})
    anyone.error("POST", "/v1/enroll", 403, "yado pcs token", json={**body, "token": "ab" * 32})
    reply = anyone("POST", "/v1/enroll", 201, json={**body, "token": good}).json()
    assert reply["pc"] == "pc-x"
    (tmp_path / "cert.pem").write_text(reply["certificate"])
    subject = subprocess.run(["openssl", "x509", "-noout", "-subject", "-in", tmp_path / "cert.pem"],
                             capture_output=True, text=True, check=True).stdout
    assert "pc-x" in subject and "pc-y" not in subject
    # Good for a PC whose clock is behind by hours.
    for cert in (tmp_path / "cert.pem", grid.ca, grid.dir / "master/tls/server.crt"):
        text = subprocess.run(["openssl", "x509", "-noout", "-startdate", "-in", cert],
                              capture_output=True, text=True, check=True).stdout.strip().split("=")[1]
        assert ssl.cert_time_to_seconds(text) < time.time() - 20 * 3600
    anyone.error("POST", "/v1/enroll", 403, "used", json={**body, "token": good})
    short = token(ttl_ms=1)
    time.sleep(0.01)
    anyone.error("POST", "/v1/enroll", 403, "expired", json={**body, "token": short})
    grid.admin.error("POST", "/v1/enroll-tokens", 400, "30 days", json={"ttl_ms": 10**12})
    grid.admin("DELETE", "/v1/pcs/pc-x", 200)


def test_certificates_that_are_not_or_no_longer_known(grid, tmp_path):
    anyone = requests.Session()
    anyone.trust_env = False
    anyone.verify = str(grid.ca)
    body = {"version": 3}
    r = anyone.post(grid.url + "/v1/agent/sync", json=body, timeout=9)
    assert r.status_code == 403 and "yado enroll" in r.json()["error"]["message"]
    # One that somebody else signed.
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=pc-1", "-keyout",
                    tmp_path / "k", "-out", tmp_path / "c"], check=True, capture_output=True)
    anyone.cert = (str(tmp_path / "c"), str(tmp_path / "k"))
    r = anyone.post(grid.url + "/v1/agent/sync", json=body, timeout=9)
    assert r.status_code == 403 and "yado enroll" in r.json()["error"]["message"]
    pc = FakePC(grid, "pc-f")
    pc.sync()
    again = FakePC(grid, "pc-f")  # installed anew: the old certificate ends
    assert pc.post().status_code == 403
    again.sync()
    grid.admin("DELETE", "/v1/pcs/pc-f", 200)
    r = again.post()
    assert r.status_code == 403 and "yado enroll" in r.json()["error"]["message"]
    grid.admin.error("DELETE", "/v1/pcs/pc-f", 404, "pc-f")


def test_a_handshake_that_stops_half_way_costs_nothing(grid):
    def cpu_s():
        words = pathlib.Path(f"/proc/{grid.master.proc.pid}/stat").read_text().rsplit(")", 1)[1]
        return sum(map(int, words.split()[11:13])) / os.sysconf("SC_CLK_TCK")
    url = urllib.parse.urlparse(grid.url)
    peers = [socket.create_connection((url.hostname, url.port)) for _ in range(4)]
    for p in peers:
        p.sendall(b"\x16\x03\x01\x02\x00\x01")  # begins a ClientHello of 512 bytes
    before = cpu_s()
    time.sleep(1)  # is measured
    assert cpu_s() - before < 0.3
    for p in peers:
        p.close()


@pytest.mark.parametrize("change", [{"colour": 1}, {"version": 99}, {"vms": [{"state": "odd"}]},
                                    {"vms": [{"state": "running", "result": "zz"}]}, {"cpus": -1}])
def test_bad_syncs(grid, change):
    pc = FakePC(grid, "pc-b")
    pc.report.update(change)
    body = dict(pc.report)
    r = pc.session.post(pc.url + "/v1/agent/sync", json=body, timeout=9)
    assert r.status_code == 400, r.text
    grid.admin("DELETE", "/v1/pcs/pc-b", 200)


def test_an_agent_of_the_version_before():
    """The master was updated first: the agent ends what it has, and is asked for no more."""
    with ApiGrid() as g:
        pc = FakePC(g, "pc-1")
        pc.build_golden()
        job = g.submit_api()
        pc.build_golden()
        key = pc.take(job)
        assert len(pc.desired[key]["key"]) == 64
        pc.report["version"] = 2
        assert pc.sync()["version"] == 2
        assert pc.desired[key]["want"] == "run" and "key" not in pc.desired[key]
        shown = g.admin("GET", "/v1/pcs").json()["pcs"][0]
        assert (shown["available"], shown["reason"]) == (False, "agent too old: update it")
        assert "agent too old" in g.yado("pcs") and "agent too old" in g.yado("events")
        waits = g.submit_api()
        pc.vm(key, "running", layers=[pc.layer(key, b"layer", run_ms=9)])
        pc.sync()
        assert list(pc.desired) == [key] and pc.desired[key]["chain"]
        pc.vm(key, "done", result=pc.put(key, b"a tar"), result_bytes=5)
        pc.sync()
        assert g.job(job)["state"] == "done" and not pc.desired
        pc.report["version"] = 3
        pc.sync()
        assert [k[0] for k in pc.desired] == [waits] and all(v["key"] for v in pc.desired.values())
        for version in (1, 4):
            pc.report["version"] = version
            r = pc.post()
            assert r.status_code == 400 and f"speaks {version} " in r.text and "2 to 3" in r.text


# ---- the life of a job, played -------------------------------------------------------------------

def test_run_times_go_on_while_a_part_runs():
    """They come with the syncs and cost no step; what a PC does not say again stops at its lease."""
    with ApiGrid(master_args=["--lease", "4s"]) as g:
        job = g.submit_api()
        pc = FakePC(g, "pc-1")
        pc.build_golden()
        key = pc.take(job)

        def run_ms():
            vm = g.admin("GET", "/v1/vms", 200).json()["vms"][0]
            return vm["run_ms"], g.parts(job)[0]["run_ms"]

        def says(state, ms):
            pc.vm(key, state, run_ms=ms)
            pc.sync()
            return run_ms()
        step = g.admin("GET", "/v1/jobs", 200).headers["Yado-Step"]
        first = says("running", 5000)
        assert 5000 <= first[0] <= first[1] < 9000
        wait_for("the time to go on", lambda: run_ms() > (first[0] + 100, first[1] + 100), 5)
        assert says("running", 5001)[0] < 9001, "the newest word counts"
        assert says("paused", 7000) == (7000, 7000)
        assert says("running", 7000)[0] >= 7000
        assert g.admin("GET", "/v1/jobs", 200).headers["Yado-Step"] == step
        g.master.kill()
        g.start_master()
        assert run_ms() == (0, 0)  # it has not heard of the PC yet
        assert says("running", 8000)[0] >= 8000
        wait_for("the end of its lease", lambda: run_ms() == (12000, 12000), 15)


def test_a_job_from_submit_to_result(grid):
    data = b"input" * 100000
    digest = grid.admin.put_blob(data)
    job = grid.submit_api(name="life", inputs=[{"path": "in", "digest": digest, "size": len(data)}],
                          then={"command": ["combine"], "memory": "128M"})
    pc = FakePC(grid, "pc-l")
    pc.build_golden()
    key = next(k for k in pc.desired if k[0] == job)
    want = pc.desired[key]
    assert want["want"] == "run" and want["spec"]["command"] == ["true"]
    assert want["image"]["kernel"]["digest"] == hashlib.sha256(b"vmlinuz" * 1000).hexdigest()

    # Blobs: what it refers to and nothing else, whole and by range, with block sums.
    r = pc.data("GET", key, f"blobs/{digest}")
    assert r.status_code == 200 and r.content == data
    r = pc.data("GET", key, f"blobs/{digest}", headers={"Range": "bytes=5-9"})
    assert r.status_code == 206 and r.content == b"input"
    assert r.headers["Content-Range"] == f"bytes 5-9/{len(data)}"
    assert pc.data("GET", key, f"blobs/{digest}", headers={"Range": "bytes=999999-"}).status_code == 416
    assert len(pc.data("GET", key, f"blobs/{digest}/blocks").content) == 2 * 16
    other = grid.admin.put_blob(b"somebody else's")
    assert pc.data("GET", key, f"blobs/{other}").status_code == 403
    assert pc.data("GET", key, f"blobs/{digest}", grant="0" * 64).status_code == 403
    assert pc.data("GET", (key[0], key[1], key[2] + 1), f"blobs/{digest}",
                   grant=want["grant"]).status_code == 403

    # Output before the report that it runs, by offset, twice, with a gap.
    first, second = tagged(b"hello\n"), tagged(b"world\n")
    assert pc.data("POST", key, "output?offset=0", data=first).json() == {"have": len(first)}
    assert grid.parts(job)[0]["state"] == "running"
    assert pc.data("POST", key, "output?offset=0", data=first + second).json() == {"have": 22}
    r = pc.data("POST", key, "output?offset=100", data=b"x")
    assert r.status_code == 416 and r.json() == {"have": 22}
    assert grid.log(job, 0, "out") == "hello\nworld\n"
    assert [v["job"] for v in grid.json("vms")["vms"] if v["state"] == "running"] == [job]
    grid.admin.error("GET", f"/v1/jobs/{job}/parts/0/result", 409, "running")
    grid.admin.error("GET", f"/v1/jobs/{job}/parts/0/log?offset=23", 416, "22")

    # A follower is woken by output, then by the end.
    got = []
    follow = threading.Thread(target=lambda: got.append(
        grid.admin("GET", f"/v1/jobs/{job}/parts/0/log?offset=22&wait=15000", 200)))
    follow.start()
    time.sleep(0.3)
    pc.vm(key, "running")
    pc.sync()
    third = tagged(b"!\n", 2)
    pc.data("POST", key, "output?offset=22", data=third)
    follow.join(10)
    assert got[0].content == third and got[0].headers["Yado-Log-Final"] == "0"
    pc.vm(key, "done", result=pc.put(key, b"a tar"), result_bytes=5, output_bytes=22 + len(third))
    grant = want["grant"]
    pc.sync()
    assert key not in pc.desired
    assert pc.data("POST", key, "output?offset=29", data=b"x", grant=grant).status_code == 409
    assert grid.admin("GET", f"/v1/jobs/{job}/parts/0/result", 200).content == b"a tar"
    r = grid.admin("GET", f"/v1/jobs/{job}/parts/0/log?offset=29&wait=15000", 200)
    assert r.headers["Yado-Log-Final"] == "1" and r.content == b""

    # The combining job gets the part's result as an input.
    then = grid.job(job)["then_job"]
    pc.build_golden()
    key = next(k for k in pc.desired if k[0] == then)
    inputs = pc.desired[key]["spec"]["inputs"]
    assert [(i["path"], i["tar"], i["size"]) for i in inputs] == [("part-0", True, 5)]
    assert pc.data("GET", key, f"blobs/{inputs[0]['digest']}").content == b"a tar"
    pc.vm(key, "done", exit_status=0)
    pc.sync()
    last = grid.admin("GET", f"/v1/jobs/{then}", 200).json()
    assert last["state"] == "done" and last["then_of"] == job
    grid.admin("DELETE", "/v1/pcs/pc-l", 200)


def pcs_at_work(grid, *names):
    """Played PCs, a job that runs on the first of them, its placement there."""
    pcs = [FakePC(grid, name, builder=i == 0) for i, name in enumerate(names)]
    for pc in pcs:
        pc.sync()
    job = grid.submit_api(checkpoint="10m")
    pcs[0].build_golden()
    for pc in pcs:
        pc.sync()
        if any(k[0] == job for k in pc.desired):
            return [pc, *(p for p in pcs if p is not pc)], job, pc.take(job)
    raise AssertionError("the job was not placed")


def forget(grid, job, pcs):
    grid.admin("POST", f"/v1/jobs/{job}/cancel", 200)
    for pc in pcs:
        grid.admin("DELETE", f"/v1/pcs/{pc.name}", 200)


def part_of(grid, job):
    return grid.admin("GET", f"/v1/jobs/{job}", 200).json()["parts_list"][0]


def test_checkpoints_and_damage(grid):
    (pc, other), job, key = pcs_at_work(grid, "pc-c1", "pc-c2")
    assert pc.desired[key]["checkpoint_ms"] == 600000 and "chain" not in pc.desired[key]
    first = pc.layer(key, b"first", run_ms=1000, output_offset=0)
    second = pc.layer(key, b"second", run_ms=2000, parent=first["digest"])
    lost = dict(first, digest="ab" * 32, run_ms=3000, parent=second["digest"])
    pc.vm(key, "running", layers=[first, second, lost], cost_ms=90, pause_ms=40)
    pc.sync()
    chain = pc.desired[key]["chain"]  # the depot has never seen the third
    assert [layer["digest"] for layer in chain] == [first["digest"], second["digest"]]
    assert chain[1]["parent"] == first["digest"]
    shown = part_of(grid, job)
    assert shown["layers"] == 2 and shown["pause_ms"] == 40 and shown["checkpointed_ms"] > 0
    assert pc.data("GET", key, "blobs/" + second["digest"]).content == b"second"

    grid.yado("checkpoint", str(job))
    pc.sync()
    assert pc.desired[key]["checkpoint"] == 1
    pc.vm(key, "running", checkpoint=1)
    pc.sync()
    assert "checkpoint" not in pc.desired[key]
    grid.yado("checkpoint", f"{job}.0")
    for path in ("", "/parts/0"):
        grid.admin("POST", f"/v1/jobs/{job}{path}/checkpoint", 200)
    assert grid.admin("GET", f"/v1/jobs/{job}/mail", 200).json() == {"mailboxes": []}
    grid.admin.error("POST", f"/v1/jobs/{job}/parts/5/checkpoint", 404, "no such part")

    # A PC that cannot read what the depot has whole is its own problem.
    assert "all is well" in grid.yado("depot", "check")
    pc.vm(key, "failed", reason="layer damaged", damaged=second["digest"])
    pc.sync()
    key = next(k for k in other.sync() and other.desired if k[0] == job)
    assert len(other.desired[key]["chain"]) == 2
    # What is damaged there is dropped, and the one before counts.
    path = grid.dir / "master/depot" / second["digest"][:2] / second["digest"]
    path.write_bytes(b"Second")
    done = grid.run("depot", "check", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert [(d["kind"], d["id"], d["what"]) for d in report["damaged"]] == \
        [("layer", job, "damaged")]
    wait_for("the damaged layer to leave the chain", lambda: part_of(grid, job)["layers"] == 1)
    assert "what counts now is the one before" in grid.yado("events")
    assert "all is well" in grid.yado("depot", "check")
    grid.admin("POST", "/v1/depot/check", 202)
    wait_for("the check to end",
             lambda: not grid.admin("GET", "/v1/depot/check", 200).json()["running"])
    forget(grid, job, [pc, other])


def in_chunks(data, fields, size=100000):
    parts = [data[i:i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n" + fields + b"\r\n"


def test_an_upload_that_is_cut_off_leaves_nothing(grid):
    (pc, other), job, key = pcs_at_work(grid, "pc-u1", "pc-u2")
    data = bytes(range(256)) * 4096
    digest = hashlib.sha256(data).hexdigest()
    host, port = grid.url.split("//")[1].split(":")
    trust = ssl.create_default_context(cafile=grid.ca)
    trust.check_hostname = False

    def send(request, body, answer=False):
        with socket.create_connection((host, int(port)), 20) as s, trust.wrap_socket(s) as tls:
            method, rest = request.split(" ", 1)
            tls.sendall(f"{method} /v1/vm/{key[0]}.{key[1]}.{key[2]}/{rest}\r\nHost: {host}\r\n"
                        f"Authorization: Bearer {pc.desired[key]['grant']}\r\n\r\n".encode() + body)
            return tls.recv(65536).decode() if answer else None

    def post(body, answer=False):
        return send("POST blobs HTTP/1.1\r\nTransfer-Encoding: chunked", body, answer)

    whole = in_chunks(data, b"Blob-Digest: %s\r\n" % digest.encode())
    for cut in [0, 1, *range(65536, len(data), 65536), len(data) - 1]:
        send(f"PUT blobs/{digest} HTTP/1.1\r\nContent-Length: {len(data)}", data[:cut])
        post(whole[:cut])
        assert pc.data("HEAD", key, f"blobs/{digest}").status_code == 404, cut
    post(whole[:-1])
    wait_for("the drafts to go", lambda: not list((grid.dir / "master/depot/tmp").iterdir()))
    for fields, status in [(b"", "400"), (b"Blob-Digest: 123\r\n", "400"),
                           (b"Blob-Digest: %s\r\n" % (b"0" * 64), "422")]:
        assert f" {status} " in post(in_chunks(data, fields), True).splitlines()[0], fields
    assert pc.data("HEAD", key, f"blobs/{digest}").status_code == 404
    assert pc.put(key, data) == digest
    assert pc.data("HEAD", key, f"blobs/{digest}").status_code == 200
    # Its name behind it, and twice.
    for data in [data, b"", b"short", bytes(range(255)) * 50000]:
        digest = hashlib.sha256(data).hexdigest()
        whole = in_chunks(data, b"Blob-Digest: %s\r\n" % digest.encode())
        assert " 201 " in post(whole, True).splitlines()[0]
        assert " 201 " in post(whole, True).splitlines()[0]
        assert (grid.dir / "master/depot" / digest[:2] / digest).read_bytes() == data
    forget(grid, job, [pc, other])


def test_a_move_to_a_named_pc(grid):
    (pc, other), job, key = pcs_at_work(grid, "pc-m1", "pc-m2")
    other.report["available"] = False
    other.report["reason"] = "owner"
    other.sync()
    grid.admin.error("POST", f"/v1/jobs/{job}/parts/0/move", 409, "busy (owner)",
                     json={"pc": other.name})
    grid.admin.error("POST", f"/v1/jobs/{job}/parts/0/move", 404, "no PC", json={"pc": "none"})
    grid.admin.error("POST", f"/v1/jobs/{job}/parts/0/move", 400, "colour", json={"colour": "red"})
    grid.admin.error("POST", f"/v1/jobs/{job}/parts/0/move", 409, "already", json={"pc": pc.name})
    other.report["available"] = True
    other.sync()
    grid.yado("move", f"{job}.0", other.name)
    grid.admin("POST", f"/v1/jobs/{job}/parts/0/move", 200, json={"pc": other.name})  # again
    assert part_of(grid, job)["move_to"] == other.name
    pc.sync()
    assert pc.desired[key]["want"] == "run"
    layer = pc.layer(key, b"while it runs", run_ms=500)
    pc.vm(key, "running", layers=[layer], checkpoint=pc.desired[key]["checkpoint"])
    pc.sync()
    assert (pc.desired[key]["want"], pc.desired[key]["reason"]) == ("suspend", "move")
    pc.vm(key, "saving", reason="move")
    pc.sync()
    assert pc.desired[key]["upload"]
    last = pc.layer(key, b"the rest", run_ms=600, parent=layer["digest"])
    pc.vm(key, "suspended", reason="move", layers=[last])
    pc.sync()
    other.sync()
    key = next(k for k in other.desired if k[0] == job)
    assert [x["digest"] for x in other.desired[key]["chain"]] == [layer["digest"], last["digest"]]
    other.take(job)
    move = grid.json("moves", "--job", str(job))["moves"][-1]
    assert (move["reason"], move["from"], move["to"]) == ("move", pc.name, other.name)
    forget(grid, job, [pc, other])


def test_syncs_are_held_until_there_is_something_new():
    with ApiGrid(master_args=["--lease", "30s"]) as g:
        check_held_syncs(g)


def check_held_syncs(grid):
    pc = FakePC(grid, "pc-h")
    pc.build_golden()
    pc.sync()
    replies = []

    def held():
        start = time.monotonic()
        pc.sync(wait=True)
        replies.append(time.monotonic() - start)
    t = threading.Thread(target=held)
    t.start()
    time.sleep(0.5)
    assert not replies, "nothing was new"
    job = grid.submit_api()
    t.join(5)
    assert replies and replies[0] < 5
    if not any(k[0] == job for k in pc.desired):  # its golden layer comes first
        pc.build_golden()
    key = next(k for k in pc.desired if k[0] == job)
    # A newer sync releases the one that is held.
    pc.vm(key, "preparing")
    pc.sync()
    first = threading.Thread(target=lambda: pc.post(wait=True))
    first.start()
    time.sleep(0.3)
    second = threading.Thread(target=lambda: pc.post(wait=True))
    second.start()
    first.join(5)
    assert not first.is_alive() and second.is_alive()
    grid.admin("POST", f"/v1/jobs/{job}/cancel", 200)
    second.join(5)
    assert not second.is_alive()
    pc.sync()
    assert pc.desired.get(key, {}).get("want", "drop") == "drop"


def test_a_job_is_split_as_planned():
    split = [{"name": "blocks", "x": [2, 3], "let": {"n": "2048", "b": "n / x"}, "parts": "x^2",
              "memory": "5 * b^2 * 8", "work": "2 * b^2 * n / 1e9", "output": "b^2 * 8"}]
    spec = {"command": ["x"], "split": split, "then": {"command": ["y"]}}
    with ApiGrid() as grid:
        grid.admin.error("POST", "/v1/split/plan", 409, "no PC", json=spec)
        grid.admin.error("POST", "/v1/split/plan", 400, "no split", json={"command": ["x"]})
        pcs = [FakePC(grid, f"pc-{i}", memory=1 << 30, cpus=1) for i in range(4)]
        for pc in pcs:
            pc.sync()
        plan = grid.admin("POST", "/v1/split/plan", 200, json=spec).json()
        assert plan["pcs"] == 4 and plan["naive"] == 0 and plan["chosen"] == 0, plan
        assert [c["parts"] for c in plan["candidates"]] == [4, 9]
        assert plan["candidates"][0]["expected_s"] < plan["candidates"][1]["expected_s"]
        job = grid.admin("POST", "/v1/jobs", 201, json=spec).json()
        assert job["parts"] == 4
        events = grid.admin("GET", f"/v1/events?job={job['id']}", 200).json()["events"]
        assert any("split as planned: blocks x = 2: 4 parts" in e["text"] for e in events), events
        shown = grid.admin("GET", f"/v1/jobs/{job['id']}", 200).json()
        assert shown["memory_bytes"] == 160 << 20, shown  # 40 MB, and its system
        # Its program is told; and what is too large for all is refused only when that is asked for.
        pcs[0].build_golden()
        for pc in pcs:
            pc.sync()
        key = next(k for pc in pcs for k in pc.desired if k[0] == job["id"])
        placed = next(pc for pc in pcs if key in pc.desired).desired[key]
        assert placed["spec"]["env"]["YADO_SPLIT"] == "2", placed["spec"]
        assert placed["spec"]["env"]["YADO_SPLIT_NAME"] == "blocks" and "split" not in placed["spec"]
        split[0]["memory"] = "64 * 1024M / x"
        grid.admin.error("POST", "/v1/split/plan?no_swap=1", 409, "memory", json=spec)
        plan = grid.admin("POST", "/v1/split/plan", 200, json=spec).json()
        assert all(c["swaps"] for c in plan["candidates"]) and "least bad" in plan["why"]
        grid.admin.error("POST", "/v1/jobs", 409, "name finer splits", json=spec)


def test_images(grid):
    root = grid.admin.put_blob(b"an erofs")
    missing = {"digest": "cd" * 32, "size": 1}
    grid.admin.error("POST", "/v1/images", 400, "cd" * 32, json={"name": "deb", "root": missing})
    grid.admin.error("POST", "/v1/images", 409, "tiny", json={"name": "tiny"})
    grid.admin.error("POST", "/v1/images", 400, "8 bytes",
                     json={"name": "deb", "root": {"digest": root, "size": 9}})
    made = grid.admin("POST", "/v1/images", 201,
                      json={"name": "deb", "root": {"digest": root, "size": 8}}).json()
    tiny = next(i for i in grid.admin("GET", "/v1/images", 200).json()["images"] if i["name"] == "tiny")
    assert made["kernel"] == tiny["kernel"] and made["root"]["digest"] == root and not tiny["root"]
    again = grid.admin("POST", "/v1/images", 201, json={"name": "deb"}).json()
    assert again["id"] != made["id"]
    grid.admin("DELETE", "/v1/images/deb", 200)
    grid.admin.error("DELETE", "/v1/images/deb", 404, "deb")
    grid.admin.error("DELETE", "/v1/images/tiny", 409, "built-in")


def test_pcs(grid):
    FakePC(grid, "pc-p").sync()
    assert grid.admin("POST", "/v1/pcs/pc-p", 200, json={"draining": True}).json()["draining"]
    assert not grid.admin("POST", "/v1/pcs/pc-p", 200, json={"draining": False}).json()["draining"]
    assert not grid.admin("POST", "/v1/pcs/pc-p", 200, json={"builder": False}).json()["builder"]
    grid.admin.error("POST", "/v1/pcs/pc-p", 400, "colour", json={"colour": 1})
    grid.admin.error("POST", "/v1/pcs/pc-p", 400, "draining", json={"draining": "yes"})
    grid.admin.error("POST", "/v1/pcs/nosuch", 404, "nosuch", json={"draining": True})
    grid.admin.error("POST", "/v1/jobs", 400, "no PC can give 100 GiB of memory",
                     "the largest guest that fits has 6.4 GiB (on pc-",
                     json={"command": ["x"], "memory": "100G"})
    grid.admin("DELETE", "/v1/pcs/pc-p", 200)


def test_texts_that_are_cut_within_a_letter(grid):
    long = "ä" * 40  # 80 bytes: error texts cut it in the middle of one
    grid.admin.error("POST", "/v1/jobs", 400, "ä", json={"command": ["x"], "image": long})
    grid.admin.error("DELETE", "/v1/pcs/" + "x" + long, 404, "x")
    pc = FakePC(grid, "pc-t")
    pc.report.update(available=False, reason="ö" * 31)
    pc.sync()
    shown = next(p for p in grid.admin("GET", "/v1/pcs", 200).json()["pcs"] if p["name"] == "pc-t")
    assert shown["reason"] == "ö" * 31
    grid.admin("GET", "/v1/events", 200)
    grid.admin("DELETE", "/v1/pcs/pc-t", 200)


def test_events_are_followed(grid):
    last = grid.admin("GET", "/v1/events?limit=1", 200).json()["events"][-1]["seq"]
    got = []
    t = threading.Thread(target=lambda: got.append(
        grid.admin("GET", f"/v1/events?after={last}&wait=15000", 200).json()["events"]))
    t.start()
    time.sleep(0.3)
    job = grid.submit_api()
    t.join(5)
    assert got and got[0][0]["job"] == job and got[0][0]["seq"] == last + 1
    assert grid.admin("GET", f"/v1/events?after={last + 1000}&wait=50", 200).json() == {"events": []}


# ---- the process ---------------------------------------------------------------------------------

def run_master(grid, *args):
    return subprocess.run([YADO, "master", *map(str, args)], env=grid.env, capture_output=True,
                          text=True, timeout=30)


def test_state_or_port_in_use_and_bad_options(grid, tmp_path):
    r = run_master(grid, "--state", grid.dir / "master", "--listen", "127.0.0.1:0")
    assert r.returncode == 1 and str(grid.dir / "master") in r.stderr and "in use" in r.stderr, r
    address = grid.url.split("//")[1]
    r = run_master(grid, "--state", tmp_path / "s", "--listen", address)
    assert r.returncode == 1 and address.split(":")[1] in r.stderr and "--listen" in r.stderr, r
    for args in ([], ["--state", "x"], ["--state", "x", "--listen", "nonsense"],
                 ["--state", "x", "--listen", "127.0.0.1:99999"], ["--colour"],
                 ["--state", "x", "--listen", "a:1", "--lease", "soon"],
                 ["--state", "x", "--listen", "a:1", "--requeue", "middle"],
                 ["--state", "x", "--listen", "a:1", "extra"]):
        r = run_master(grid, *args)
        assert r.returncode == 2 and "--help" in r.stderr, (args, r)
    r = run_master(grid, "--state", tmp_path / "s", "--listen", "no.such.host.invalid:1")
    assert r.returncode == 1 and "no.such.host.invalid" in r.stderr
    r = run_master(grid, "--help")
    assert r.returncode == 0 and "--requeue" in r.stdout


def test_a_clean_end_and_a_restart_lose_nothing():
    with ApiGrid(master_args=["--lease", "30s"]) as g:
        job = g.submit_api(name="kept")
        pc = FakePC(g, "pc-1")
        pc.build_golden()
        key = pc.take(job)
        out = tagged(b"before\n")
        pc.data("POST", key, "output?offset=0", data=out)
        held = threading.Thread(target=lambda: pc.post(wait=True))
        held.start()
        time.sleep(0.2)
        import signal
        assert g.master.kill(signal.SIGTERM) == 0
        held.join(5)
        g.start_master()
        assert g.job(job)["name"] == "kept" and g.parts(job)[0]["state"] == "running"
        assert g.log(job, 0, "out") == "before\n"
        pc.sync()
        assert key in pc.desired, "the placement is current as before, with the same grant"
        assert pc.data("POST", key, f"output?offset={len(out)}", data=out).json() == {"have": 2 * len(out)}
        for _ in range(3):
            g.master.kill()
            g.start_master()
        assert g.log(job, 0, "out") == "before\nbefore\n"


def test_what_was_acknowledged_under_load_survives_kills():
    with ApiGrid(master_args=["--lease", "30s"]) as g:
        acknowledged, stop = [], threading.Event()

        def submit(n):
            client = Client(g.url, g.ca, (g.dir / "master/admin.token").read_text().strip())
            i = 1
            while not stop.is_set():
                name = f"load-{n}-{i}"
                try:
                    job = g.submit_api(client, name=name, headers={"Idempotency-Key": name})
                except requests.RequestException:
                    time.sleep(0.02)  # it is being killed: the same again, which may have been taken
                else:
                    acknowledged.append((job, name))
                    i += 1
        threads = [threading.Thread(target=submit, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for _ in range(4):
            before = len(acknowledged)
            wait_for("jobs to be taken", lambda: len(acknowledged) > before + 30, 30)
            g.master.kill()
            g.start_master()
        stop.set()
        for t in threads:
            t.join()
        jobs = {j["id"]: j["name"] for j in g.admin("GET", "/v1/jobs?limit=10000", 200).json()["jobs"]}
        assert len({i for i, _ in acknowledged}) == len(acknowledged), "one number given twice"
        assert all(jobs.get(i) == name for i, name in acknowledged)
        assert len(set(jobs.values())) == len(jobs), "one job made twice"


def test_output_of_a_run_that_was_given_up_is_cut():
    """A failed placement goes back to golden: its output goes, and nothing of its epoch comes."""
    with ApiGrid(master_args=["--lease", "30s"]) as g:
        job = g.submit_api()
        pc = FakePC(g, "pc-1")
        pc.build_golden()
        key = pc.take(job)
        grant = pc.desired[key]["grant"]
        pc.data("POST", key, "output?offset=0", data=tagged(b"first run\n"))
        assert g.log(job, 0, "out") == "first run\n"
        before = len(tagged(b"first run\n"))
        path = f"/v1/jobs/{job}/parts/0/log"
        assert g.admin("GET", f"{path}?offset={before}&cuts=0", 200).headers["Yado-Log-Cuts"] == "0"
        held = []
        waits = threading.Thread(target=lambda: held.append(
            Client(g.url, g.ca, g.admin.session.headers["Authorization"].split()[-1])(
                "GET", f"{path}?offset={before}&cuts=0&wait=15000")))
        waits.start()
        pc.vm(key, "failed", reason="qemu died")
        pc.sync()
        waits.join(10)
        assert held[0].status_code == 416 and held[0].headers["Yado-Log-Valid"] == "0"
        assert pc.data("POST", key, "output?offset=0", data=b"x", grant=grant).status_code == 409
        assert g.log(job, 0, "out") == ""
        pc.sync()
        again = next(k for k in pc.desired if k[0] == job)
        assert again[2] > key[2] and pc.desired[again].get("output_have", 0) == 0
        pc.data("POST", again, "output?offset=0", data=tagged(b"second run, longer than the first\n"))
        assert g.log(job, 0, "out") == "second run, longer than the first\n"
        # Who comes late is told, also when the master was killed in between.
        for _ in range(2):
            r = g.admin("GET", f"{path}?offset={before}&cuts=0", 416)
            assert r.headers["Yado-Log-Cuts"] == "1" and r.headers["Yado-Log-Valid"] == "0"
            assert len(g.admin("GET", f"{path}?offset=0&cuts=0", 200).content) > before
            assert g.admin("GET", f"{path}?offset={before}&cuts=1", 200).content
            g.master.kill()
            g.start_master()


def test_a_full_disk_refuses_changes_and_loses_nothing():
    with ApiGrid(master_args=["--lease", "30s"]) as g:
        small_disk = g.dir / "disk"  # within, so that the grid's end kills and unmounts
        small_disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", small_disk]).returncode:
            pytest.skip("no mount here: needs root")
        g.master.kill()
        g.master.args[g.master.args.index("--state") + 1] = str(small_disk / "m")
        g.start_master()
        g.ca = small_disk / "m/tls/ca.crt"
        g.admin = Client(g.url, g.ca, g.login(small_disk / "m"))
        pc = FakePC(g, "pc-1")
        kept = g.submit_api(name="kept")
        pc.build_golden()
        key = pc.take(kept)
        filler = open(small_disk / "filler", "wb", buffering=0)
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass
        # Enough jobs to fill what the journal still has room for; then every one is refused.
        accepted, refused = [kept], 0
        for _ in range(300):
            r = g.admin("POST", "/v1/jobs", json={"command": ["x" * 3000], "memory": "128M"})
            if r.status_code == 201:
                accepted.append(r.json()["id"])
            else:
                assert r.status_code == 507 and "disk" in r.json()["error"]["message"], r.text
                refused += 1
                if refused == 5:
                    break
        assert refused == 5
        grid_ids = [j["id"] for j in g.admin("GET", "/v1/jobs?limit=1000", 200).json()["jobs"]]
        assert grid_ids == accepted
        # Leases live on: the sync is answered, also one that has news.
        assert key in pc.desired and pc.post().status_code == 200
        pc.report["memory_bytes"] -= 1 << 20
        assert pc.post().status_code == 200
        r = pc.data("POST", key, "output?offset=0", data=tagged(b"y" * 30000) * 10)
        assert r.status_code == 507, r.text
        digest = hashlib.sha256(b"z" * 3000000).hexdigest()
        g.admin.error("PUT", f"/v1/blobs/{digest}", 507, "disk", data=b"z" * 3000000)
        filler.close()
        os.unlink(small_disk / "filler")
        assert pc.data("POST", key, "output?offset=0", data=tagged(b"fine\n")).status_code == 200
        accepted.append(g.submit_api())
        g.master.kill()
        g.start_master()
        assert [j["id"] for j in g.admin("GET", "/v1/jobs?limit=1000", 200).json()["jobs"]] == accepted
        assert g.log(kept, 0, "out") == "fine\n"


def test_ten_thousand_parts():
    """Submit in one request under 2 s, the list under 0.5 s, the master under 200 MB; a build with
    sanitizers is three times slower and bigger."""
    slow = 3 if b"__asan_init" in open(YADO, "rb").read() else 1
    with ApiGrid() as g:
        start = time.monotonic()
        job = g.submit_api(parts=10000)
        submit = time.monotonic() - start
        start = time.monotonic()
        jobs = g.admin("GET", "/v1/jobs", 200).json()["jobs"]
        listing = time.monotonic() - start
        assert jobs[0]["counts"] == {"queued": 10000}
        start = time.monotonic()
        assert len(g.job(job)["parts_list"]) == 10000
        whole = time.monotonic() - start
        mb = rss_kb(g.master.pid) / 1024
        print(f"submit {submit:.2f} s, jobs {listing:.3f} s, job {whole:.2f} s, {mb:.0f} MB")
        assert submit < 2 * slow and listing < 0.5 * slow and mb < 200 * slow


def test_every_documented_path_was_used(grid):
    """Last: the tests above made a reply of 2xx on each."""
    good = {(m, p) for m, p, status in api.seen if status < 300}
    documented = {(m.upper(), p) for p, item in api.SPEC["paths"].items()
                  for m in item if m != "parameters"}
    assert documented - good == set()
