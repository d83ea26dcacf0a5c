# SPDX-License-Identifier: Apache-2.0
"""The master's API without guests: a client that checks every reply against docs/openapi.yaml,
and a PC that is played by the test."""
import hashlib
import json
import pathlib
import re

import jsonschema
import yaml

from grid import Grid, ROOT, api_session

SPEC = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
CLASS = {"machine": "pc-i440fx-7.2", "cpu": "Nehalem", "accel": "tcg", "qemu_version": 70222}
# Requests and replies that a test saw: (method, path, status).
seen = set()


def _resolve(node):
    """The same schema with OpenAPI's references inlined."""
    if isinstance(node, dict):
        if "$ref" in node:
            found = SPEC
            for key in node["$ref"].split("/")[1:]:
                found = found[key]
            return _resolve(found)
        return {k: _resolve(v) for k, v in node.items()}
    return [_resolve(v) for v in node] if isinstance(node, list) else node


def _operation(method, path):
    for pattern, item in SPEC["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), path) and method.lower() in item:
            return pattern, item[method.lower()]
    return None, None


def check_reply(method, path, reply):
    pattern, operation = _operation(method, path)
    assert operation, f"{method} {path} is not documented"
    seen.add((method, pattern, reply.status_code))
    documented = operation["responses"]
    if reply.status_code in (401, 411, 413, 507) and str(reply.status_code) not in documented:
        schema = _resolve(SPEC["components"]["schemas"]["Error"])
    else:
        assert str(reply.status_code) in documented, \
            f"{method} {path}: {reply.status_code} is not documented: {reply.text[:300]}"
        content = _resolve(documented[str(reply.status_code)]).get("content", {})
        schema = content.get("application/json", {}).get("schema")
    if method != "HEAD" and (schema or reply.status_code >= 400):
        jsonschema.validate(reply.json(), schema, jsonschema.Draft202012Validator)


class Client:
    def __init__(self, url, ca, token=None):
        self.url, self.session = url, api_session(ca, token)

    def __call__(self, method, path, status=None, **kw):
        r = self.session.request(method, self.url + path, timeout=60, **kw)
        check_reply(method, path.split("?")[0], r)
        if status is not None:
            assert r.status_code == status, (method, path, r.status_code, r.text)
        return r

    def error(self, method, path, status, *words, **kw):
        """The reply must be that error, and its text must name these words."""
        text = self(method, path, status, **kw).json()["error"]["message"]
        for w in words:
            assert w in text, (w, text)
        return text

    def put_blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        self("PUT", f"/v1/blobs/{digest}", 201, data=data)
        return digest


class FakePC:
    """Enrolled by `yado enroll`; its syncs are made by the test."""

    def __init__(self, grid, name, memory=8 << 30, cpus=8, builder=True):
        token = json.loads(grid.yado("pcs", "token", "--json", *["--builder"][:builder]))["token"]
        state = pathlib.Path(grid.dir / name)
        grid.yado("enroll", grid.url, token, "--name", name, "--state", state)
        self.name, self.url, self.state = name, grid.url, state
        self.session = api_session(state / "ca.pem")
        self.session.cert = (str(state / "cert.pem"), str(state / "key.pem"))
        self.report = {"version": 3, "available": True, "memory_bytes": memory, "cpus": cpus,
                       "agent": "a", "class": dict(CLASS)}
        self.seq = self.seen = 0
        self.vms = {}     # (job, part, epoch) -> what is reported
        self.desired = {}

    def post(self, wait=False, timeout=60, **more):
        self.seq += 1
        body = dict(self.report, seq=self.seq, seen=self.seen, wait=wait,
                    vms=list(self.vms.values()), **more)
        return self.session.post(self.url + "/v1/agent/sync", json=body, timeout=timeout)

    def sync(self, wait=False):
        r = self.post(wait)
        assert r.status_code == 200, r.text
        reply = r.json()
        assert int(r.headers["Yado-Step"]) >= reply["step"]
        self.seen = reply["serial"]
        self.desired = {(v.get("job", 0), v.get("part", 0), v["epoch"]): v
                        for v in reply.get("vms", [])}
        self.vms = {k: v for k, v in self.vms.items() if k in self.desired}
        return reply

    def vm(self, key, state, **more):
        self.vms[key] = {"job": key[0], "part": key[1], "epoch": key[2], "state": state, **more}

    def data(self, method, key, rest, **kw):
        """A data request of a placement, with its grant."""
        grant = kw.pop("grant", None) or self.desired[key]["grant"]
        s = api_session(self.session.verify)
        return s.request(method, f"{self.url}/v1/vm/{key[0]}.{key[1]}.{key[2]}/{rest}", timeout=60,
                         headers={"Authorization": f"Bearer {grant}", **kw.pop("headers", {})}, **kw)

    def put(self, key, data):
        digest = hashlib.sha256(data).hexdigest()
        r = self.data("PUT", key, f"blobs/{digest}", data=data)
        assert r.status_code == 201, r.text
        return digest

    def layer(self, key, data, **more):
        """A layer that is in the depot: on golden, unless it is told its `parent`."""
        if key[0]:
            more.setdefault("parent", self.desired[key]["golden"]["digest"])
        return {"digest": self.put(key, data), "size": len(data), "class": dict(CLASS), **more}

    def build_golden(self):
        """Plays the golden builds that are desired; then parts can start."""
        self.sync()
        for key in [k for k in self.desired if k[0] == 0]:
            self.vm(key, "done", layers=[self.layer(key, b"golden %d" % key[1])])
        self.sync()

    def take(self, job):
        """The placement of a job's part on this PC, reported as running."""
        key = next(k for k in self.desired if k[0] == job)
        self.vm(key, "running")
        self.sync()
        return key


class ApiGrid(Grid):
    """A master without agents; the built-in image is two small files."""

    def __init__(self, *args, images=None, **kw):
        super().__init__(*args, pcs=0, fresh=True, **kw)

    def __enter__(self):
        import tempfile
        self.images = tempfile.TemporaryDirectory(prefix="yado-api-")
        for name in ("vmlinuz", "initrd"):
            pathlib.Path(self.images.name, name).write_bytes(name.encode() * 1000)
        self.master_args += ["--images", self.images.name]
        super().__enter__()
        self.ca = self.dir / "master/tls/ca.crt"
        self.admin = Client(self.url, self.ca, (self.dir / "master/admin.token").read_text().strip())
        return self

    def __exit__(self, *args):
        super().__exit__(*args)
        self.images.cleanup()

    def user(self, name, **more):
        self.admin("POST", "/v1/users", 201, json={"name": name, **more})
        token = self.admin("POST", f"/v1/users/{name}/tokens", 201, json={"name": "t"}).json()
        return Client(self.url, self.ca, token["token"])

    def submit_api(self, client=None, headers=None, **spec):
        body = {"command": ["true"], "memory": "128M", **spec}
        return (client or self.admin)("POST", "/v1/jobs", 201, json=body, headers=headers).json()["id"]
