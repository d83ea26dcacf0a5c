# SPDX-License-Identifier: Apache-2.0
"""What a tired person types, and what a hostile job sends back: a message that names the thing and
the remedy, a status that is not 0, and nothing changed."""
import os
import pty
import re
import select
import subprocess
import time

import pytest

from grid import Grid, YADO


pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def grid():
    """A master alone: nothing of this needs a guest."""
    with Grid(pcs=0) as g:
        yield g


@pytest.fixture
def unchanged(grid):
    """Whatever the test does, no job and no blob comes of it."""
    def state():
        depot = sorted(p.name for p in (grid.dir / "master").rglob("*") if re.fullmatch("[0-9a-f]{64}", p.name))
        return depot, [j["id"] for j in grid.json("jobs")["jobs"]]
    before = state()
    yield
    assert state() == before


def refused(grid, *args, says, status=1, env=None, input=None):
    r = subprocess.run([YADO, *map(str, args)], env=dict(grid.env, **(env or {})), text=True,
                       capture_output=True, timeout=60, input=input)
    assert r.returncode == status, r
    assert r.stderr.count("\n") == 1 and r.stderr.startswith("yado: "), r.stderr
    for text in [says] if isinstance(says, str) else says:
        assert text in r.stderr, r.stderr
    assert r.stdout == "", r.stdout


@pytest.mark.parametrize("args, says", [
    (["sumbit"], 'there is no command "sumbit" (did you mean "submit"?)'),
    (["frobnicate"], 'there is no command "frobnicate"; yado --help'),
    (["submit"], "say what to run"),
    (["submit", "--memry", "1G", "--", "x"], "no option --memry (did you mean --memory?)"),
    (["submit", "--memory"], "--memory needs a value"),
    (["submit", "--parts", "-1", "--", "x"], '--parts: a whole number in range, not "-1"'),
    (["submit", "--env", "=1", "--", "x"], '--env: NAME=VALUE, not "=1"'),
    (["job"], "something is missing: yado job ID"),
    (["job", "seven"], '"seven" is not the number of a job'),
    (["logs", "1", "2", "3"], "too many words"),
    (["pcs", "tokens"], "after pcs comes list, token, or forget NAME"),
    (["pcs", "--builder"], "--builder and --ttl belong to `yado pcs token`"),
    (["image", "build", "x"], "say which Debian packages"),
    (["user", "add"], "after user comes"),
    (["jobs", "--json=1"], "--json takes no value"),
    (["submit", "job.yaml"], "job.yaml: a job file is given by -f"),
    (["submit", "--input", "", "--", "x"], "--input: the path is empty"),
    (["demo", "--pcs", "0"], '--pcs: 2 to 32, not "0"'),
    (["help", "sumbit"], 'there is no command "sumbit" (did you mean "submit"?)'),
])
def test_wrong_use(grid, unchanged, args, says):
    refused(grid, *args, says=[says, "--help"], status=2)


@pytest.mark.parametrize("args, says", [
    (["--parts", "0"], "parts: 1 to 100000, not 0"),
    (["--parts", "1000000000"], "parts: 1 to 100000, not 1000000000"),
    (["--cpus", "1000"], "cpus: 1 to 64, not 1000"),
    (["--memory", "lots"], 'memory: such as "512M", not "lots"'),
    (["--memory", "512"], 'memory: 96M to 1T, such as "512M", not 512 B'),
    (["--memory", "64M"], 'memory: 96M to 1T, such as "512M", not 64.0 MiB'),
    (["--time-limit", "soon"], 'time_limit: such as "2h", not "soon"'),
    (["--network", "wifi"], 'network: "none" or "nat"'),
    (["--name", "My Job"], 'name: 1 to 63 of a-z 0-9 . _ -, not "My Job"'),
    (["--env", "A-B=1"], 'env: "A-B" is not a name'),
    (["--image", "nosuch"], 'there is no image "nosuch"'),
    (["--input", "/nonexistent/x"], "input /nonexistent/x: No such file or directory"),
    (["--input", "/dev/null"], "input /dev/null: neither a file nor a folder"),
    (["--file", "/nonexistent.yaml"], "/nonexistent.yaml: No such file or directory"),
])
def test_wrong_jobs(grid, unchanged, args, says):
    refused(grid, "submit", *args, "--", "true", says=says)


@pytest.mark.parametrize("text, says", [
    ("name: a\ncommand: [x]\n\nmemry: 1G\n", ':4: unknown key "memry" (did you mean "memory"?)'),
    ("command: [x]\nparts: 0\n", ":2: parts: should be a number from 1 to 100000"),
    ("command: [x]\nparts: 1000000000\n", ":2: parts: should be a number from 1 to 100000"),
    ("command: [x]\nmemory: [1]\n", ":2: memory: should be a size"),
    ("command: {a: b}\n", ":1: command: should be a list of words, or one text"),
    ("command: [x]\ninputs: [nosuch.npy]\n", "/nosuch.npy: No such file or directory"),
    ("command: [x]\nimage: nosuch\n", 'there is no image "nosuch"'),
    ("command: [x\n", ":2: "),
    ("name: a\n", "say what to run"),
    ("", ": the file is empty"),
])
def test_wrong_job_files(grid, unchanged, tmp_path, text, says):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    where = [str(path)] if says.startswith(":") else []
    refused(grid, "submit", "-f", path, says=[says, *where], status=2 if "say what" in says else 1)


def test_states_that_are_none(grid):
    refused(grid, "jobs", "--state", "runing", says='there is no "runing", but queued, starting,')
    assert grid.json("jobs", "--state", "running") == {"jobs": []}


def test_words_behind_the_command(grid):
    """They are the command's; who put an option of ours there is told so."""
    def says(*args):
        r = subprocess.run([YADO, "submit", *args], env=grid.env, capture_output=True, text=True,
                           timeout=60)
        assert r.returncode == 0, r
        return r.stderr
    assert says("x", "--parts=2", "-v") == \
        "yado: submit: --parts is given to the command, as all that comes after it is\n"
    assert grid.json("jobs")["jobs"][-1]["parts"] == 1
    assert says("x", "--part", "-v") == says("--", "x", "--parts", "2") == \
        says("--parts", "2", "--", "job.yaml") == ""


def test_logs_of_a_part_that_has_written_nothing(grid):
    job = grid.yado("submit", "--", "true").split()[-1]
    logs = lambda: subprocess.run([YADO, "logs", job], env=grid.env, capture_output=True, text=True,
                                  timeout=60)
    assert (logs().returncode, logs().stdout) == (0, "") and "nothing is written yet" in logs().stderr
    grid.yado("cancel", job)
    assert logs().stderr == "yado: logs: nothing is written\n"


def test_wrong_image_sends_no_input(grid, unchanged, tmp_path):
    (tmp_path / "data").write_bytes(os.urandom(1000))
    refused(grid, "submit", "--image", "nosuch", "-i", tmp_path / "data", "--", "true",
            says='there is no image "nosuch"')


def test_two_inputs_of_one_name(grid, unchanged, tmp_path):
    for d in "ab":
        (tmp_path / d).mkdir()
        (tmp_path / d / "x").write_text(d)
    refused(grid, "submit", "-i", tmp_path / "a/x", "-i", tmp_path / "b/x", "--", "true",
            says='two are called "x"')


def test_not_logged_in(grid, unchanged, tmp_path):
    env = {"YADO_CONFIG_DIR": str(tmp_path / "nobody")}
    for args in (["jobs"], ["submit", "--", "true"], ["results", "1", tmp_path / "r"]):
        refused(grid, *args, says="not logged in: yado login URL TOKEN", env=env)


def test_wrong_tokens(grid, tmp_path):
    env = {"YADO_CONFIG_DIR": str(tmp_path / "nobody")}
    token = (grid.dir / "master/admin.token").read_text().strip()
    print_, secret = token.split(".")
    refused(grid, "login", grid.url, "nonsense", says="that is not a token", env=env)
    refused(grid, "login", "https://127.0.0.1:1", token, env=env,
            says="no answer from the master at https://127.0.0.1:1: is it running, and is the address")
    refused(grid, "login", grid.url, "0" * 32 + "." + secret,
            says="is not the one that this token is for", env=env)
    refused(grid, "login", grid.url, print_ + "." + "0" * len(secret),
            says="does not know this token", env=env)
    refused(grid, "login", "http://127.0.0.1:1", token, says="is not an address like https://", env=env)
    refused(grid, "login", "https://127.0.0.1:1", token, says="127.0.0.1:1", env=env)
    assert not (tmp_path / "nobody").exists(), "a login that failed left something behind"
    # A token on standard input, and by the environment alone.
    r = subprocess.run([YADO, "login", grid.url], env=dict(grid.env, **env), input=token + "\n",
                       text=True, capture_output=True, timeout=60)
    assert r.returncode == 0, r
    assert (tmp_path / "nobody/token").stat().st_mode & 0o777 == 0o600
    alone = {"YADO_CONFIG_DIR": str(tmp_path / "none"), "YADO_URL": grid.url, "YADO_TOKEN": token}
    r = subprocess.run([YADO, "whoami"], env=dict(grid.env, **alone), text=True,
                       capture_output=True, timeout=60)
    assert r.stdout == f"admin (administrator) at {grid.url}\n", r
    refused(grid, "whoami", env=dict(alone, YADO_TOKEN="1" * 32 + ".x"),
            says="is not the one that this token is for")


def test_revoked_token_and_users(grid, tmp_path):
    grid.yado("user", "add", "hanako")
    token = grid.json("user", "token", "hanako", "laptop")["token"]
    env = {"YADO_CONFIG_DIR": str(tmp_path / "hanako")}
    subprocess.run([YADO, "login", grid.url, token], env=dict(grid.env, **env), check=True, timeout=60)
    job = grid.submit("--", "true")
    # To others a job does not exist, and what is for administrators is said to be.
    for args in (["job", job], ["cancel", job], ["logs", job]):
        refused(grid, *args, says=f"there is no job {job}", env=env)
    r = subprocess.run([YADO, "user", "add", "taro"], env=dict(grid.env, **env), text=True,
                       capture_output=True, timeout=60)
    assert r.returncode == 1 and "admin" in r.stderr, r
    grid.yado("user", "revoke", "hanako", "laptop")
    refused(grid, "jobs", says=["does not know this token (any more)", "yado login"], env=env)
    grid.yado("cancel", job)
    refused(grid, "cancel", 10 ** 6, says="there is no job 1000000")


def test_tables_are_json_too(grid):
    for args, key in ((["jobs"], "jobs"), (["history"], "jobs"), (["pcs"], "pcs"), (["vms"], "vms"),
                      (["moves"], "moves"), (["events"], "events"), (["image", "list"], "images"),
                      (["user", "list"], "users"), (["pcs", "list"], "pcs"), (["image"], "images"),
                      (["user"], "users")):
        assert isinstance(grid.json(*args)[key], list), args
        assert grid.yado(*args).strip(), args
    assert grid.json("status")["version"] and grid.json("whoami")["admin"] is True


def test_inputs_are_sent_once(grid, tmp_path):
    d = tmp_path / "data"
    (d / "sub").mkdir(parents=True)
    (d / "sub/x").write_text("x")
    (tmp_path / "job.yaml").write_text("command: ls /in\ninputs: [data, {path: data/sub/x, name: y}]\n")

    def blobs():
        return {p.name for p in (grid.dir / "master").rglob("*") if re.fullmatch("[0-9a-f]{64}", p.name)}
    before = blobs()
    jobs = [grid.submit("-f", tmp_path / "job.yaml")]
    sent = blobs() - before
    assert len(sent) == 2
    os.utime(d / "sub/x", (1, 1))  # the content is what counts
    jobs.append(grid.submit("-f", tmp_path / "job.yaml", "--parts", "3"))
    assert blobs() - before == sent
    assert [grid.job(j)["parts"] for j in jobs] == [1, 3]
    grid.yado("cancel", *jobs)


# ---- with guests --------------------------------------------------------------------------------

def on_terminal(env, *args):
    """What a command writes when standard output is a terminal."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(YADO, [YADO, *map(str, args)], env)
    out, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([fd], [], [], 1)[0]:
            continue
        try:
            data = os.read(fd, 65536)
        except OSError:
            break
        if not data:
            break
        out += data
    os.waitpid(pid, 0)
    os.close(fd)
    return out.replace(b"\r\n", b"\n")


HOSTILE = r"""
printf '\033]0;owned\007plain\n'
case $YADO_PART in
0) ln -s /etc/passwd /out/link ;;
1) mkdir /out/d; ln -s ../../escape /out/d/up ;;
2) echo fine > /out/fine; ln -s fine /out/link ;;
esac"""


def test_hostile_results_and_logs(tmp_path):
    with Grid(pcs=1) as g:
        job = g.submit("--memory", "128M", "--parts", "3", "--", "sh", "-c", HOSTILE)
        refused(g, "results", job, tmp_path / "early", says=f"of job {job} is ")
        g.wait_state(job, "done", timeout=240)
        for part, why in ((0, 'refused: "link": it is a link that leaves the folder'),
                          (1, 'refused: "d/up": it is a link that leaves the folder')):
            refused(g, "results", job, tmp_path / "r", "--part", part, says=[why, "nothing was unpacked"])
        refused(g, "results", job, tmp_path / "r", says="nothing was unpacked")
        assert list(tmp_path.iterdir()) == [], "something was left behind"

        g.yado("results", job, tmp_path / "good", "--part", 2)
        assert (tmp_path / "good/link").read_text() == "fine\n"
        refused(g, "results", job, tmp_path / "good", "--part", 2, says="is not empty; name a folder")
        refused(g, "results", job, tmp_path / "small", "--part", 2, "--max-size", "2",
                says="if you expect that: --max-size")
        g.yado("results", job, "--part", 0, "--tar", tmp_path / "as-it-is.tar")
        names = subprocess.run(["tar", "-tf", tmp_path / "as-it-is.tar"], capture_output=True, text=True)
        assert "link" in names.stdout

        # In a pipe the bytes as they are; on a terminal nothing that it would obey.
        raw = subprocess.run([YADO, "logs", str(job)], env=g.env, capture_output=True, timeout=60)
        assert raw.stdout == b"\033]0;owned\007plain\n"
        assert on_terminal(g.env, "logs", job) == b"^[]0;owned^Gplain\n"

        # --wait shows the output and ends with the program's status.
        r = g.run("submit", "--wait", "--memory", "128M", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert r.returncode == 7 and r.stdout == "out\n" and "err\n" in r.stderr, r
        failed = int(re.search(r"job (\d+)", r.stderr)[1])
        assert g.job(failed)["state"] == "failed"
        refused(g, "results", failed, tmp_path / "none", says=f"see yado logs {failed}")


def test_a_pc_without_the_image_gets_it_from_the_master():
    with Grid(pcs=1, agent_args=["--images", "/nonexistent"]) as g:
        job = g.submit("--memory", "128M", "--", "echo", "hello")
        g.wait_state(job, "done")
        assert (g.dir / "pc-1/images/vmlinuz").stat().st_size > 1 << 20
