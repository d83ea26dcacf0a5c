# SPDX-License-Identifier: Apache-2.0
"""The master's ring of events, replayed after the master was killed."""
import json

from api import ApiGrid, FakePC


def replay(g, name):
    return json.loads(g.yado("sim", "replay", "--json", g.dir / "master" / name))


def test_a_killed_master_replayed():
    with ApiGrid() as g:
        pcs = [FakePC(g, f"pc-{i}", cpus=2) for i in range(3)]
        for pc in pcs:
            pc.sync()
        jobs = [g.submit_api(parts=3, then={"command": ["true"]}) for _ in range(4)]
        pcs[0].build_golden()
        for pc in pcs:
            pc.sync()
            for key in list(pc.desired):
                pc.vm(key, "running")
            pc.sync()
        g.admin("POST", f"/v1/jobs/{jobs[0]}/hold", 200)
        g.admin("POST", f"/v1/jobs/{jobs[1]}/cancel", 200)
        g.master.kill()
        before = replay(g, "events.ring")
        assert before["events"] > 10 and before["renewals"] > 5 and before["marks"] > 1
        # What the next master loads from its rows is what the replay came to.
        g.start_master()
        after = replay(g, "events.ring")
        assert after["first_digest"] == before["digest"] and after["step"] >= before["step"]
        assert replay(g, "events.ring.1") == before
        # A record that was cut by the death is no harm; a damaged one is told.
        path = g.dir / "master/events.ring.1"
        data = path.read_bytes()
        path.write_bytes(data[:-3])
        assert replay(g, "events.ring.1")["cut"]
        path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
        r = g.run("sim", "replay", path)
        assert r.returncode == 1 and "damaged record" in r.stderr, r.stderr
