"The sandbox's promise under attack: what a tool leaves behind, what is the machine's fault and not a tool's"
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ftrl.core import FtrlError
from ftrl.sandbox import host, pool
from ftrl.sandbox.confine import layers
from ftrl.sandbox.fuzz import attack_pairs, audit_attacks, play_attacks, random_tool
from ftrl.sandbox.hostile import ESCAPES, proven
from ftrl.sandbox.sandbox import Sandbox

ADD = "def f(x): return x + 1"
HUNGRY = "def g(): return len(bytes(7 * 10**8))"
LEFT = {   # what is left behind without a hole -> a call that would suffer
    "def f():\n def g():\n  try: yield\n  finally:\n   while True: pass\n"
    " c = [g()]\n next(c[0])\n c.append(c)": ADD,
    "def f():\n c = [bytes(8 * 10**8)]\n c.append(c)": HUNGRY,
    "def f():\n c = [bytearray(4 * 10**8)]\n c.append(c)": HUNGRY,
    "from typing import Literal\ndef f():\n def g(y:Literal[bytes(8 * 10**8)]): pass": HUNGRY,
    "import statistics\ndef f(): statistics.NormalDist().samples(1)":
        "import random\ndef g(): return random.random()"}


def one_group(s, *calls):
    "Calls of one group, one by one"
    return [s.call(code, name, arguments, "group") for code, name, arguments in calls]


def test_no_honest_answer_changes():
    "Random tools and published escapes between honest calls, in one process as far as the proof lets them"
    with Sandbox(timeout=1, allow_weak=True) as s:
        found = play_attacks(s, attack_pairs(1000, seed=3, escapes=.02))
    assert found.wrong == [] and found.shared > 500 and found.answered > 100


def test_no_attack_changes_what_the_modules_hold():
    seen = audit_attacks([*ESCAPES, *(random_tool(f"test {i}") for i in range(100))])
    assert seen["changed"] == [] and seen["ran"] > 50


@pytest.mark.parametrize("code", ["def g(__import__): pass\ndef f(): return __import__('json')",
    "def g(*, __import__=0): pass\ndef f(): return __import__('json')",
    "def g(type): pass\ndef f(): return type(type(1))",
    "def g(__builtins__): pass\ndef f(): return __builtins__",
    "def f(): return type(type(1))('A', (), {})", "f = lambda: (yield)\ntry: f()\nfinally: pass"])
def test_names_are_judged_where_they_are_read(code):
    assert not proven(code)


@pytest.mark.parametrize("left", LEFT)
def test_nothing_is_left_behind(left):
    hurt = LEFT[left]
    name = "f" if "def f" in hurt else "g"
    arguments = {"x": 1} if name == "f" else {}
    with Sandbox(timeout=1, allow_weak=True) as s:
        truth = s.apart(s.job(hurt, name, arguments))
        first, *others = one_group(s, (left, "f", {}), *[(hurt, name, arguments)] * 3)
        assert truth.ok and [r.content for r in others] == [truth.content] * 3


def test_groups_do_not_share():
    with Sandbox(allow_weak=True) as s:
        s.call(ADD, "f", {"x": 1})
        mine = s.idle[ADD][0]
        s.call(ADD + " ", "f", {"x": 1})
        s.call(ADD, "f", {"x": 1}, "row 1")
        s.call("def g(): return 1", "g", {}, "row 1")
        assert s.idle[ADD] == [mine] and len(mine.known) == 1
        assert [len(r.known) for r in s.idle["row 1"]] == [2] and len(s.idle) == 3


def test_large_sources_and_a_bounded_host():
    "Honest tools of a megabyte all work, and the host does not keep them"
    with Sandbox(timeout=20, allow_weak=True) as s:
        texts = [f"def f(): return {i}\n#{'x' * 10**6}" for i in range(60)]
        assert [r.content for r in s.map([(t, "f", {}) for t in texts])] == [str(i) for i in range(60)]
        big = [f"def f(): return {i}\n#{'x' * 60_000}" for i in range(200)]
        said = s.map([(t, "f", {}) for t in big], ["g"] * 200)
        assert [r.content for r in said] == [str(i) for i in range(200)]
        for i in range(100): s.job(f"#{i}" + "x" * 2_000_000, "f", {})
        assert s.held <= pool._MEMORY


def elapsed(run):
    start = time.monotonic()
    run()
    return time.monotonic() - start


def test_frequent_signals_extend_no_deadline():
    hang = "def f():\n while True: pass"
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, .01, .01)
    try:
        with Sandbox(timeout=.3, allow_weak=True) as s:
            took = elapsed(lambda: s.call(hang, "f", {}))
            assert s.call(ADD, "f", {"x": 1}).content == "2"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert took < 30   # it was for ever


def drip(line, started):
    "A runner that sends its process id, and from then on a byte now and then"
    line.recv(1 << 16)
    started.set()
    try:
        while True:
            line.send(b"x")
            time.sleep(.05)
    except OSError: pass


def test_dripping_extends_no_deadline():
    with Sandbox(allow_weak=True) as s:
        runner, started = s.begun(), threading.Event()
        runner.end()
        runner.line, theirs = host.pair()
        runner.line.setblocking(False)
        runner.reading.register(runner.line, 1)
        threading.Thread(target=drip, args=(theirs, started), daemon=True).start()
        with pytest.raises(TimeoutError): runner.ask(["C\t1\t{}"], 1, .4)
        runner.line.close()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_a_limit_is_a_positive_number(timeout):
    with pytest.raises(FtrlError, match="positive"): Sandbox(timeout=timeout)


HOSTS = {   # a state of the host -> lines that bring it about
    "SIGCHLD ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "signals blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))",
    "streams closed": "for fd in 0, 1, 2: os.close(fd)",
    "one stream closed": "os.close(0)"}
USE = """
import os, signal, sys
out = os.dup(1)
from ftrl.sandbox.sandbox import Sandbox
{state}
s = Sandbox(timeout=5, allow_weak=True)
said = [s.call("def f(x): return x + 1", "f", {{"x": 1}}), s.call("import os\\ndef f(): return 5", "f", {{}}),
        s.call("import os\\ndef f(): os._exit(0)", "f", {{}}),
        s.call("import os\\ndef f(): os.abort()", "f", {{}})]
with s.session([1]) as e:
    said.append(e.call("import os\\ndef f(data): data.append(2); return data", "f", {{}}))
s.close()
os.write(out, "|".join(r.content for r in said).encode())
"""


@pytest.mark.parametrize("state", HOSTS)
def test_an_odd_host_is_not_a_tools_fault(state):
    code = USE.format(state=HOSTS[state])
    streams = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    run = subprocess.run([sys.executable, "-c", code], **streams, timeout=120)
    said = run.stdout.decode().split("|")
    assert said.pop(3).startswith("Error in f: the tool's process died of SIG")
    assert said == ["2", "5", "Error in f: the tool ended its process", "[1, 2]"]


NO_FDS = """
import os, resource
from ftrl.core import FtrlError
from ftrl.sandbox.sandbox import Sandbox
s = Sandbox(timeout=5, allow_weak=True)
if {warm}: print(s.call("def f(x): return x + 1", "f", {{"x": 1}}).content)
s.close() if {closed} else None
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True: held.append(os.open("/dev/null", os.O_RDONLY))
except OSError: pass
try: print("told a tool", s.call("import os\\ndef f(x): return x + 2", "f", {{"x": 1}}))
except FtrlError as e: print("FtrlError", "\\n" not in str(e))
for fd in held: os.close(fd)
print(s.call("import os\\ndef f(x): return x + 3", "f", {{"x": 1}}).content)
s.close()
"""


@pytest.mark.parametrize("warm, closed", [(False, False), (True, True)])
def test_no_descriptors_raises(warm, closed):
    run = subprocess.run([sys.executable, "-c", NO_FDS.format(warm=warm, closed=closed)], capture_output=True,
                         text=True, timeout=120)
    assert run.stdout.split("\n")[-3:] == ["FtrlError True", "4", ""], run.stdout + run.stderr


def test_killed_processes_are_replaced():
    "Runners and the zygote are killed again and again while calls run; no answer changes"
    alone, stop, kills = "import os\ndef f(x): return x + 1", threading.Event(), []
    with Sandbox(timeout=10, allow_weak=True) as s:
        s.start()

        def killer():
            while not stop.wait(.7):
                zygote = s.zygote   # none while the next one starts
                if zygote and zygote.alive():
                    kills.append(zygote.process.pid)
                    os.kill(kills[-1], signal.SIGKILL)

        thread = threading.Thread(target=killer)
        thread.start()
        try: said = [s.call((ADD, alone)[i % 2], "f", {"x": i}).content for i in range(300)]
        finally:
            stop.set()
            thread.join()
        assert said == [str(i + 1) for i in range(300)]


def test_a_machine_that_kills_everything_raises(monkeypatch):
    s = Sandbox(timeout=2, allow_weak=True)
    monkeypatch.setattr(host, "_START", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(FtrlError, match="out of memory"): s.call(ADD, "f", {"x": 1})
    monkeypatch.undo()
    assert s.call(ADD, "f", {"x": 1}).content == "2"
    s.close()


def test_an_interrupted_call_leaves_no_answer_behind():
    "Ctrl-C in the middle of a call: the next one must not read its answer"
    def interrupt(*_): raise KeyboardInterrupt
    slow = "import time\ndef f(x):\n time.sleep(.3)\n return x"
    with Sandbox(timeout=5, allow_weak=True) as s:
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, .1)
            with pytest.raises(KeyboardInterrupt): s.call(slow, "f", {"x": 1}, "group")
        finally: signal.signal(signal.SIGALRM, before)
        assert [s.call(ADD, "f", {"x": i}, "group").content for i in range(3)] == ["1", "2", "3"]


FORGER = """import builtins, hashlib, json, sys
def f(data):
    builtins.len = json.dumps = hashlib.sha256 = lambda *a, **k: 'forged'
    w = sys.modules.get('sandbox.worker')
    if w: w._ascii = w._ordered = w._sha = lambda *a: 'forged'
    data['n'] = 5
    return 'done'"""


def test_a_sessions_tools_share_data_and_nothing_else():
    with Sandbox(timeout=5, allow_weak=True) as s:
        with s.session({"n": 1}) as forged, s.session({"n": 5}) as plain:
            forged.call(FORGER, "f", {})
            assert forged.call("def f(data): return len('abc')", "f", {}).content == "3"
            assert forged.state() in ({"n": 1}, {"n": 5})   # the tool forged its own copy, or was caught
            forged.call("import os\ndef f(data): data['n'] = 5", "f", {})
            assert forged.hash() == plain.hash() and forged.state() == {"n": 5}
            bad = forged.call("import os\ndef f(data): data['n'] = {1}", "f", {})
            assert "no JSON" in bad.content and forged.state() == {"n": 5}


def test_large_states():
    "A state of many megabytes works or says what is missing"
    with Sandbox(timeout=2, allow_weak=True) as s, s.session({"a": "x" * 30_000_000}) as episode:
        assert episode.call("def f(data): return len(data['a'])", "f", {}).content == "30000000"
        assert len(episode.hash()) == 64
    with Sandbox(timeout=2, allow_weak=True, memory=1 << 28) as s:
        with pytest.raises(FtrlError, match="memory="), s.session([[i] for i in range(4_000_000)]): pass


ASYNC = {"import asyncio\nasync def f(x):\n await asyncio.sleep(.01)\n return x": "3",
         "async def f(x): return {'x': x}": '{"x": 3}',
         "import asyncio\nasync def g(x): return x\n"
         "async def f(x): return await asyncio.gather(g(x), g(2))": "[3, 2]",
         "async def f(x): raise KeyError(x)": "Error in f: KeyError: 3",
         "import asyncio\nasync def g(x): return x\ndef f(x): return asyncio.run(g(x))": "3",
         "async def g(x): return x\ndef f(x): return g(x)": "3",
         "async def f(x):\n yield x\n yield 2": "[3, 2]",
         "def f(x):\n yield x\n yield 2": "[3, 2]",
         "def f(x): return map(str, [x])": '["3"]',
         "class A:\n def __await__(self): return iter(())\ndef f(x): return A()": "None",
         "import asyncio\nasync def f(x): await asyncio.Event().wait()": "Error in f: timed out after 1 s"}


@pytest.mark.parametrize("code", ASYNC)
def test_async_tools(code):
    with Sandbox(timeout=1, allow_weak=True) as s: assert s.call(code, "f", {"x": 3}).content == ASYNC[code]


@pytest.mark.parametrize("body", ["@dataclass\nclass A:\n x: int\ndef f(x): return str(A(x))",
    "@dataclass(order=True, slots=True)\nclass A:\n x: int\n y: 'list[int]' = None\n"
    "def f(x): return str(A(x).x)",
    "import typing\nclass A(typing.NamedTuple):\n x: int\ndef f(x): return str(typing.get_type_hints(A))"])
def test_postponed_annotations(body):
    code = f"from __future__ import annotations\nfrom dataclasses import dataclass\n{body}"
    with Sandbox(timeout=5, allow_weak=True) as s: assert s.call(code, "f", {"x": 3}).ok


@pytest.mark.skipif(not all(layers().values()), reason=f"this kernel cannot isolate: {layers()}")
def test_folders_cannot_be_listed_but_modules_import():
    listing = "import os, sysconfig\ndef f(x): return os.listdir(sysconfig.get_path(x))"
    with Sandbox(timeout=5) as s:
        for folder in "purelib", "stdlib", "scripts": assert not s.call(listing, "f", {"x": folder}).ok
        for name in "tomllib", "wave", "json.tool", "email.mime.text", "xml.dom.minidom", "dateutil.parser":
            assert s.call(f"import {name}\ndef f(): return 1", "f", {}).content == "1", name
        assert not s.call(f"def f(): return open({str(Path(host.__file__))!r}).read()", "f", {}).ok
