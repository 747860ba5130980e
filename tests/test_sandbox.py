"Faults the sandbox must survive, as root and as another user; real tools; deaths of its own processes"
import gzip, json, math, os, random, re, signal, socket, subprocess, sys, tempfile, threading, time
from pathlib import Path
import pytest
from ftrl.core import FtrlError
from ftrl.files import data_dir
from ftrl.sandbox import host
from ftrl.sandbox.confine import layers, packages
from ftrl.sandbox.sandbox import Sandbox

LIMIT = .5
SECRET = "correct-horse-battery-staple"
WEAK = not all(layers().values())
late = f"timed out after {LIMIT} s"
ended = r"the tool ended its process|process died of|process was killed|forged a reply"
denied = "PermissionError|OSError|FileNotFoundError"

def body(text, head=""):
    "A tool `f` with these lines in it"
    return f"{head}\ndef f(*a, **k):\n" + "\n".join("    " + line for line in text.split("\n"))

# name -> (source of f, pattern of what the policy may read, arguments)
FAULTS = {
    "loop": (body("while True: pass"), late),
    "loop that catches all": (body("while True:\n  try:\n    while True: pass\n"
            "  except BaseException: pass"), late),
    "recursion that catches all": (body("try: f()\nfinally: f()"), f"{late}|RecursionError|{ended}"),
    "sleep": (body("import time\ntime.sleep(1000)"), late),
    "ignores signals": (body("import signal\nfor s in range(1, 65):\n"
            "  try: signal.signal(s, signal.SIG_IGN)\n"
                             "  except Exception: pass\nwhile True: pass"), late),
    "loop in C": (body("return sum(range(10**15))"), late),
    "regular expression": (body("import re\nreturn re.match('(a+)+$', 'a' * 40 + 'b')"), late),
    "huge integer": (body("return 3 ** (10 ** 9)"), f"{late}|MemoryError"),
    "long integer as text": (body("return 10 ** 100000"), "ValueError"),
    "memory": (body("x = []\nwhile True: x.append(bytearray(10**7))"), f"MemoryError|{late}"),
    "memory at once": (body("return len('a' * 10**11)"), "MemoryError"),
    "memory that catches all": (body("x = []\nwhile True:\n  try: x.append(bytearray(10**7))\n"
            "  except MemoryError: pass"),
                                f"{late}|{ended}"),
    "recursion": (body("return f()"), f"RecursionError|{ended}|{late}"),   # CPython 3.13.0 never ends here
    "recursion, raised limit": (body("import sys\nsys.setrecursionlimit(10**9)\nreturn list(map(f, [0]))"),
                                f"{ended}|MemoryError|RecursionError|{late}"),
    "os._exit": (body("import os\nos._exit(0)"), ended),
    "sys.exit": (body("import sys\nsys.exit(1)"), "SystemExit: 1"),
    "SystemExit": (body("raise SystemExit"), "SystemExit"),
    "KeyboardInterrupt": (body("raise KeyboardInterrupt('x')"), "KeyboardInterrupt"),
    "signal to itself": (body("import os\nos.kill(os.getpid(), 9)\nreturn 'alive'"), denied),
    "signal to its parent": (body("import os\nos.kill(os.getppid(), 9)"), denied),
    "signal to all": (body("import os\nos.kill(-1, 9)"), denied),
    "signal to the group": (body("import os\nos.killpg(0, 9)"), denied),
    "raise_signal": (body("import signal\nsignal.raise_signal(11)"), f"{denied}|{ended}"),
    "signal through a file": (body("import fcntl, os, signal\nr, w = os.pipe()\n"
            "fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\n"
                                   "fcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\n"
                                           "os.write(w, b'x')"), denied),
    "abort": (body("import os\nos.abort()"), ended),
    "fork bomb": (body("import os\nwhile True: os.fork()"), denied),
    "thread bomb": (body("import threading, time\n"
            "while True: threading.Thread(target=time.sleep, args=(99,)).start()"),
                    "RuntimeError: can't start"),
    "processes": (body("import multiprocessing\nmultiprocessing.Process(target=print).start()"), "Error"),
    "write": (body("open(k['path'] + '.new', 'w').write('x')"), denied, {"path": "PATH"}),
    "append": (body("open(k['path'], 'a').write('x')"), denied, {"path": "PATH"}),
    "delete": (body("import os\nos.remove(k['path'])"), denied, {"path": "PATH"}),
    "rename": (body("import os\nos.rename(k['path'], k['path'] + '.new')"), denied, {"path": "PATH"}),
    "truncate": (body("import os\nos.truncate(k['path'], 0)"), denied, {"path": "PATH"}),
    "chmod": (body("import os\nos.chmod(k['path'], 0)"), denied, {"path": "PATH"}),
    "link": (body("import os\nos.symlink(k['path'], k['path'] + '.new')"), denied, {"path": "PATH"}),
    "mkdir": (body("import os\nos.mkdir(k['path'] + '.new')"), denied, {"path": "PATH"}),
    "read": (body("return open(k['path']).read()"), denied, {"path": "PATH"}),
    "read by os.open": (body("import os\nreturn os.read(os.open(k['path'], os.O_RDONLY), 99).decode()"),
            denied, {"path": "PATH"}),
    "shell": (body("import os\nreturn os.system('id > /dev/null')"), f"^(-1|[1-9][0-9]*)$|{denied}"),
    "popen": (body("import os\nreturn os.popen('id').read()"), denied),
    "subprocess": (body("import subprocess\nreturn subprocess.check_output('id', shell=True)"), denied),
    "exec": (body("import os\nos.execv('/bin/sh', ['sh', '-c', 'id'])"), denied),
    "/etc/passwd": (body("return open('/etc/passwd').read()"), denied),
    "list the packages": (body("import os, sysconfig\nreturn os.listdir(sysconfig.get_path('purelib'))"),
            denied),
    "list site-packages": (body("import os\n"
            "return os.listdir(os.path.dirname(os.__file__) + '/site-packages')"), denied),
    "list the library": (body("import os\nreturn os.listdir(os.path.dirname(os.__file__))"), denied),
    "list /": (body("import os\nreturn os.listdir('/')"), denied),
    "environment": (body("import os\nreturn dict(os.environ)"), r"^\{\}$"),
    "environment, C": (body("import ctypes\ng = ctypes.CDLL(None).getenv\ng.restype = ctypes.c_char_p\n"
                            "return str(g(b'FTRL_SECRET'))"), "^None$"),
    "/proc/self": (body("return open('/proc/self/environ').read()"), denied),
    "/proc/parent": (body("import os\nreturn open(f'/proc/{os.getppid()}/environ').read()"), denied),
    "/proc/1": (body("return open('/proc/1/cmdline').read()"), denied),
    "our package": (body("import ftrl.core"), "ModuleNotFoundError"),
    "TCP": (body("import socket\nreturn str(socket.create_connection(('127.0.0.1', k['port']), 1))"),
            denied, {"port": "PORT"}),
    "UDP": (body("import socket\nsocket.socket(2, 2).sendto(b'x', ('127.0.0.1', k['port']))"), denied,
            {"port": "PORT"}),
    "unix socket": (body("import socket\nreturn str(socket.socketpair())"), denied),
    "output": (body("while True: print('x' * 10**6)"), late),
    "output, raw": (body("import os\nwhile True: os.write(1, b'x' * 10**6)"), late),
    "result of 100 MB": (body("return 'x' * 10**8"), "ValueError: the result has more than 1048576 bytes"),
    "recursive result": (body("x = []\nx.append(x)\nreturn x"), "ValueError: Circular"),
    "deep result": (body("x = []\nfor i in range(10**5): x = [x]\nreturn x"), "RecursionError"),
    "unserialisable result": (body("return {'x': object()}"), "TypeError: Object of type object"),
    "result whose text raises": (body("return A()", "class A:\n  def __str__(self): raise KeyError('x')"),
            "KeyError"),
    "result whose text is none": (body("return A()", "class A:\n  def __str__(self): return 3"), "TypeError"),
    "exception whose text raises": (body("raise A()",
            "class A(Exception):\n  def __str__(self): raise KeyError('x')"),
                                    "^Error in f: A$"),
    "exception that is long": (body("raise ValueError('x' * 10**7)"), "ValueError: x+$"),
    "str that lies": (body("return A('x')", "class A(str):\n  def __len__(self): return -1\n"
                           "  def encode(self, *a): return 'no bytes'"), "^x$|Error in f"),
    "patched builtins": (body("import builtins\n"
            "builtins.len = builtins.str = builtins.dict = lambda *a: 'patched'\nreturn 1"), ""),
    "patched json": (body("import json\njson.dumps = json.loads = lambda *a, **k: 'patched'\nreturn {}"), ""),
    "json gone": (body("import sys\nsys.modules['json'] = None\nreturn 1"), "^1$"),
    "rebound globals": (body("import sys\nw = sys.modules['sandbox.worker']\n"
            "w.text = w._loads = w.FRAME = w.send = None\nreturn 1"), ""),
    "changed containers": (body("import calendar, string\ncalendar.mdays.append(9)\n"
            "return calendar.mdays[-1]"), "^9$"),
    "changed environment": (body("import os\nos.environ['X'] = 'y'\nreturn 1"), ""),
    "changed directory": (body("import os\nos.chdir('/usr')\nreturn os.getcwd()"), denied),
    "changed random state": (body("import random\nrandom.seed(1)\nreturn 1"), "^1$"),
    "changed hooks": (body("import sys, threading, atexit, gc\nsys.settrace(lambda *a: None)\n"
            "sys.setprofile(lambda *a: None)\n"
                           "sys.excepthook = None\natexit.register(print)\ngc.disable()\n"
                                   "sys.path.insert(0, 'x')\nreturn 1"), "^1$"),
    "audit hook": (body("import sys\ndef h(*a): raise RuntimeError('audit')\nsys.addaudithook(h)\n"
            "return 1"), ""),
    "decimal context": (body("import decimal\ndecimal.getcontext().prec = 2\nreturn 1"), "^1$"),
    "ctypes crash": (body("import ctypes\nctypes.string_at(0)"), ended),
    "code object crash": (body("import types\ng = f.__code__.replace(co_code=b'\\xff' * 8, co_consts=())\n"
            "return types.FunctionType(g, {})()"),
                          f"{ended}|Error"),
    "missing import": (body("import no_such_module"),
            "^Error in f: ModuleNotFoundError: No module named 'no_such_module'$"),
    "syntax error": ("def f(:\n  secret", "^Error in f: SyntaxError: invalid syntax$"),
    "null byte": ("def f(): return '\0'",
            "^Error in f: (ValueError|SyntaxError): source code string cannot contain null bytes$"),
    "surrogate in the source": ("def f(): return '\ud800'", "UnicodeEncodeError"),
    "nested source": ("def f(): return " + "(" * 10**4 + ")" * 10**4,
            "SyntaxError|MemoryError|RecursionError"),
    "nested lists": ("def f(): return " + "[" * 10**5, "SyntaxError|MemoryError|RecursionError"),
    "nested signs": ("def f(): return " + "-" * 10**5 + "1",
            f"SyntaxError|MemoryError|RecursionError|{ended}"),
    "nested attributes": ("def f(x): return x" + ".a" * 10**5,
            f"MemoryError|RecursionError|TypeError|{ended}"),
    "no such function": ("def g(): pass", "^Error in f: NameError: name 'f' is not defined$"),
    "error at import": ("1 / 0\ndef f(): pass", "^Error in f: ZeroDivisionError: division by zero$"),
    "loop at import": ("while True: pass", late),
    "wrong argument": ("def f(x): return x",
            "^Error in f: TypeError: f.. got an unexpected keyword argument 'y'$", {"y": 1}),
    "missing argument": ("def f(x): return x", "^Error in f: TypeError: f.. missing 1 required", {}),
    "arguments a list": ("def f(x): return x", "TypeError", [1]),
    "arguments none": ("def f(x): return x", "TypeError", None),
    "arguments too deep": ("def f(x): return x", "RecursionError", "DEEP"),
    "arguments no JSON": ("def f(x): return x", "TypeError", {"x": {1}}),
    "NaN": ("def f(x): return {'x': x}", r'^\{"x": NaN\}$', {"x": math.nan}),
    "surrogate": ("def f(x): return x", r"^\\ud800$", {"x": "\ud800"}),
    "not a function": ("f = 3", "TypeError: 'int' object is not callable"),
    "closed descriptors": (body("import os\nfor i in range(64):\n  try: os.close(i)\n"
            "  except OSError: pass\nreturn 1"), ended),
    "flooded descriptors": (body("import os\nwhile True: os.pipe()"), denied),
    "forged replies": (body("import os, struct\nfor fd in range(3, 64):\n"
            "  for nonce in (bytes(8), b'x' * 8):\n"
                            "    try: os.write(fd, struct.pack('<8sBdI', nonce, 1, 0., 6) + b'forged')\n"
                            "    except OSError: pass\nreturn 'real'"),
                                    "^Error in f: the tool forged a reply$"),
    "reply, then more": (body("import os, sys\nw = sys.modules['sandbox.worker']\n"
            "w._write = lambda fd, b: os.write(fd, bytes(b) + b'more' * 9)\n"
                              "return 'x'"), ""),
    "dripping": (body("import os, time\nwhile True:\n  for fd in range(3, 9):\n    try: os.write(fd, b'x')\n"
                      "    except OSError: pass\n  time.sleep(.01)"), f"{late}|forged"),
    "path in an error": (body("from json import nothing"),
            r"^Error in f: ImportError: cannot import name 'nothing' from 'json' \(…\)$"),
    "executable memory": (body("import mmap\nreturn str(mmap.mmap(-1, 4096, prot=7))"), denied),
    "callback of C": (body("import ctypes\nc = ctypes.CFUNCTYPE(None)(lambda: None)\nc()\nreturn 1"),
            f"{ended}|Error|^1$"),
    "mount": (body("import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
            "return c.mount(b'x', b'/mnt', b'tmpfs', 0, None)"), "^-1$"),
    "ptrace": (body("import ctypes, os\nreturn ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)"), "^-1$"),
    "evaluated annotation": (body("import typing\nclass A: x: 'open(\"/etc/passwd\").read()'\n"
            "return str(typing.get_type_hints(A))"), denied),
}

def tools_that_reach():
    "Ways round the static check: each must be sent away from the shared runner"
    yield "import operator\ndef f(): return operator.attrgetter('__globals__')(f)"
    yield "import string\ndef f(): return string.Formatter().get_field('0.__globals__', (f,), {})"
    yield "def f(): return '{0.__globals__}'.format(f)"
    yield "def f(x='{0.__globals__}'): return x.format(f)"
    yield "def f(): return str.format('{0.__globals__}', f)"
    yield "def f(): return (lambda: (yield))().gi_frame.f_back"
    yield "def f():\n try: 1 / 0\n except Exception as e: return e.__traceback__.tb_frame"
    yield "import functools, json\ndef f(): functools.update_wrapper(json.dumps, f)"
    yield "import typing\ndef f(): typing.get_type_hints"
    yield "import json\ndef f():\n match json.dumps:\n  case object(__globals__=g): g['x'] = 1"
    yield "import operator as m\nimport math as m\ndef f(): return m.attrgetter"
    yield "from json import decoder\ndef f(): decoder.x = 1"
    yield "import json.decoder\ndef f(): pass"
    yield "def f(): return __builtins__"
    yield "def f(): return [c for c in ().__class__.__base__.__subclasses__()]"
    yield "from math import *\ndef f(): pass"
    yield "from collections import abc\ndef f(): abc.Sized.register(int)"
    yield "import collections\ndef f(): collections.Counter.x = 1"
    yield "class A: pass\ndef f(): pass"
    yield "async def f(): pass"
    yield "def f(): return vars()"
    yield "import decimal\ndef f(): decimal.getcontext().prec = 1"
    yield "import calendar\ndef f(): calendar.setfirstweekday(3)"
    yield "import re\ndef f(): re.purge()"
    yield "def f(): return type('A', (), {})"
    yield "def f(): return [*map(type, [1])]"
    yield "import math\nfor math.x in [1]: pass\ndef f(): pass"
    yield "import json\nwith open('x') as json.x: pass\ndef f(): pass"
    yield "import json\ndel json.dumps\ndef f(): pass"

CANARY = ("import json, math, re\n"
          "def g(x): return {'n': len(json.dumps(x)), 's': math.sqrt(16), 'r': re.sub('a', 'b', 'aa'), "
          "'d': str(dict(a=1))}")
APART = ("import random, os, sys\n" + CANARY.replace("def g(x):", "def g(x):\n  ")
         + " | {'e': dict(os.environ), 'p': random.random(), 'm': sys.gettrace()}")

def arguments(fault, path, port):
    "Fill in what only a running test knows"
    given = FAULTS[fault][2] if len(FAULTS[fault]) > 2 else {}
    if given == "DEEP":
        deep = []
        for _ in range(10**5): deep = [deep]
        return {"x": deep}
    if not isinstance(given, dict): return given
    return {k: str(path) if v == "PATH" else port if v == "PORT" else v for k, v in given.items()}

def survive():
    "Run every fault and look for what it left behind; a list of complaints"
    bad, folder, server = [], Path(tempfile.mkdtemp()), socket.create_server(("127.0.0.1", 0))
    path = folder/"file"
    path.write_text(SECRET)
    os.environ["FTRL_SECRET"] = SECRET
    port = server.getsockname()[1]
    with Sandbox(timeout=LIMIT) as s, Sandbox(timeout=60) as patient:
        truth = [s.call(c, "g", {"x": [1]}).content for c in (CANARY, APART)]
        for fault, (code, pattern, *_) in FAULTS.items():
            start = time.perf_counter()
            result = s.call(code, "f", arguments(fault, path, port))
            took = time.perf_counter() - start
            if "timed out" in result.content and not re.search(pattern, result.content):
                # a busy machine, or a hang?
                result = patient.call(code, "f", arguments(fault, path, port))
            said = result.content
            if not re.search(pattern, said): bad.append(f"{fault}: {said[:300]!r}")
            if took > LIMIT + 3: bad.append(f"{fault}: took {took:.1f} s")
            if any(secret in said for secret in (SECRET, str(folder), "root:")): bad.append(f"{fault}: leaks")
            if not result.ok and (len(said) > 300 or "\n" in said): bad.append(f"{fault}: a long complaint")
            after = [s.call(c, "g", {"x": [1]}).content for c in (CANARY, APART)]
            if after != truth: bad.append(f"{fault}: next call gives {after}")
        for code in tools_that_reach():
            s.call(code, "f", {})
            if not s.tools["f", code].alone: bad.append(f"shares a runner: {code}")
    server.settimeout(0)
    try:
        server.accept()
        bad.append("a tool connected")
    except BlockingIOError: pass
    if path.read_text() != SECRET or [*folder.iterdir()] != [path]: bad.append("a tool changed files")
    return bad

needs_layers = pytest.mark.skipif(WEAK, reason=f"this kernel cannot isolate: {layers()}")

@needs_layers
def test_faults(): assert survive() == []

NOBODY = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
AS_NOBODY = "import os, test_sandbox as t; assert os.geteuid() == 65534; print(t.survive())"

def other_user():
    "An interpreter like ours that an unprivileged user may run, or None"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}"):
        if os.geteuid() or not os.path.exists(python): continue
        try:
            subprocess.run([python, "-c", ""], **NOBODY, check=True)
            return python
        except (OSError, subprocess.CalledProcessError): pass

@needs_layers
def test_faults_unprivileged(tmp_path):
    if os.geteuid(): pytest.skip("the whole suite runs unprivileged: test_faults shows this")
    python = other_user()
    if not python: pytest.skip("no interpreter that an unprivileged user may run")
    ours = str(Path(__file__).parent), str(Path(host.__file__).parents[2])
    path = os.pathsep.join([*ours, *filter(None, sys.path)])
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "TMPDIR": "/tmp"}
    out = subprocess.run([python, "-c", AS_NOBODY], env=env, **NOBODY, capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr

@needs_layers
def test_mixed_calls_are_all_right():
    "Hostile and benign calls in one stream, single and in batches, answered without one mistake"
    quick = ["os._exit", "sys.exit", "patched json", "syntax error", "forged replies", "recursive result",
             "rebound globals", "changed containers", "TCP", "read", "closed descriptors", "ctypes crash",
             "NaN", "recursion"]
    tools = [f"def f(x, y=2):\n    return {{'k': {k}, 'x': x * {k + 1}, 'y': [y] * 2}}" for k in range(20)]
    r, calls, truth = random.Random(0), [], []
    for i in range(3000):
        if r.random() < .05:
            fault = r.choice(quick)
            calls.append((FAULTS[fault][0], "f", arguments(fault, "/etc/passwd", 9)))
            truth.append(FAULTS[fault][1])
        else:
            k = r.randrange(20)
            calls.append((tools[k], "f", {"x": i}))
            truth.append("^" + re.escape(json.dumps({"k": k, "x": i * (k + 1), "y": [2, 2]})) + "$")
    with Sandbox(timeout=5) as s:
        texts = [s.call(*c).content for c in calls[:1000]] + [x.content for x in s.map(calls[1000:])]
    assert [(c, t) for c, p, t in zip(calls, truth, texts) if not re.search(p, t)] == []

REFERENCE = """
import json, os, sys
out, sys.stdout = sys.stdout, open(os.devnull, "w")
def run(name, code, arguments):
    try:
        space = {"__name__": "__tool__"}
        exec(code, space)
        x = space[name](**arguments)
        return [True, json.dumps(x, ensure_ascii=False) if type(x) in (dict, list) else str(x)]
    except BaseException as e: return [False, type(e).__name__]
print(json.dumps([run(*c) for c in json.load(sys.stdin)]), file=out)
"""

def plain(calls):
    "The same calls in a plain interpreter of their own"
    env = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    run = subprocess.run([sys.executable, "-c", REFERENCE], input=json.dumps(calls), env=env, text=True,
                         check=True, capture_output=True)
    return json.loads(run.stdout)

DUMMY = {"string": "Paris", "integer": 3, "number": 2.5, "boolean": True, "array": [], "object": {},
         "null": None}

def dummy(parameters, r):
    "Arguments that a schema allows, more or less"
    def take(p):
        kind = p.get("type", "string")
        if p.get("enum"): return r.choice(p["enum"])
        if "default" in p: return p["default"]
        return DUMMY.get(kind if isinstance(kind, str) else kind[0])

    return {n: take(p) for n, p in parameters.get("properties", {}).items()
            if n in parameters.get("required", ()) or r.random() < .5}

def test_real_tools_as_in_plain_python():
    "Every tool of the paper's rows gives the text that CPython gives in a clean namespace"
    file = data_dir() and data_dir()/"ftrl"/"test_a.parquet"
    if not file or not file.exists(): pytest.skip("no data: set FTRL_DATA")
    import pandas as pd
    r, calls = random.Random(0), []
    for tools, codes in pd.read_parquet(file)[["tools", "codes"]].itertuples(index=False):
        schemas, codes = {t["function"]["name"]: t["function"] for t in json.loads(tools)}, json.loads(codes)
        for n, schema in schemas.items():
            calls += [(n, codes[n], dummy(schema.get("parameters") or {}, r)) for _ in range(2)]
    first, second = plain(calls), plain(calls)
    with Sandbox(allow_weak=WEAK) as s: ours = s.map([(c, n, a) for n, c, a in calls])
    # the others read the clock or throw dice
    steady = [i for i in range(len(calls)) if first[i] == second[i]]

    def same(result, ok, text):
        said = result.content if ok else result.content.split(": ")[1]
        return result.ok == ok and said == text

    assert len(steady) > .99 * len(calls)
    assert [(calls[i], first[i], ours[i]) for i in steady if not same(ours[i], *first[i])] == []

def test_packages_of_published_tools():
    code = """from dateutil import parser, relativedelta, tz
def f(x):
    return [str(parser.parse(x) + relativedelta.relativedelta(months=1)), str(tz.gettz('Europe/Rome'))]"""
    with Sandbox(allow_weak=True) as s:
        assert s.call(code, "f", {"x": "3 May 2021"}).ok or WEAK
        for name in packages():
            r = s.call(f"import {name}\ndef f(): return {name}.__name__", "f", {})
            assert r.content == name or WEAK, r

def test_sessions_as_in_plain_python():
    "Gold actions of τ-bench leave the database that plain Python leaves"
    folder = data_dir() and data_dir()/"taubench"
    if not folder or not folder.exists(): pytest.skip("no data: set FTRL_DATA")

    def read(p): return json.loads(p.read_text() if p.exists() else gzip.open(f"{p}.gz").read())

    rows = [json.loads(l) for l in open(folder/"tau-bench.jsonl")]
    with Sandbox(allow_weak=WEAK) as s:
        for domain, tables in ("airline", "flights reservations users"), ("retail", "orders products users"):
            codes = read(folder/domain/"codes.json")
            first = {t: read(folder/domain/f"{t}.json") for t in tables.split()}
            for row in [x for x in rows if x["data_source"].endswith(domain)][:3]:
                data = json.loads(json.dumps(first))
                with s.session(first) as episode:
                    for a in row["actions"]:
                        name, args = a["function"]["name"], json.loads(a["function"]["arguments"])
                        space = {}
                        exec(codes[name], space)
                        assert episode.call(codes[name], name, args).content == space[name](data=data, **args)
                    assert episode.state() == data
                with s.session(first) as episode: assert episode.state() == first

def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

def alive(pid):
    try: return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError: return False

def gone(pids, seconds):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end: time.sleep(.05)
    return not any(map(alive, pids))

@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_dies_with_its_host():
    code = ("import os, sys, threading, time\nfrom ftrl.sandbox.sandbox import Sandbox\n"
            "s = Sandbox(allow_weak=True); z = s.start()\n"
            "threading.Thread(target=s.call, args=('def f():\\n while True: pass', 'f', {})).start()\n"
            "if os.fork() == 0: time.sleep(60)\n"   # a child that inherits the line
            "time.sleep(.3); print(z.process.pid, flush=True); time.sleep(60)")
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        zygote = int(host.stdout.readline())
        runners = children(zygote)
        assert runners
        host.kill()
        host.wait()
        assert gone([zygote, *runners], 5)
    finally: os.killpg(host.pid, signal.SIGKILL)

def test_survives_the_death_of_its_zygote():
    add = "def f(x): return x + 1"
    with Sandbox(allow_weak=True, timeout=2) as s:
        assert s.call(add, "f", {"x": 1}).content == "2"
        old = s.zygote.process.pid
        os.kill(old, signal.SIGKILL)
        gone([old], 5)
        assert s.call(add, "f", {"x": 2}).content == "3"
        assert s.zygote.process.pid != old
        with s.session([1]) as episode:
            os.kill(s.zygote.process.pid, signal.SIGKILL)
            assert episode.call("def f(data): return data", "f", {}).content == "[1]"
            os.kill(s.zygote.process.pid, signal.SIGKILL)
            assert episode.state() == [1]

def test_threads_and_forks_share_without_mixing():
    code, wrong = "def f(x): return x * 2", []
    with Sandbox(allow_weak=True) as s:
        def work(k):
            for i in range(k, k + 200):
                if s.call(code, "f", {"x": i}).content != str(i * 2): wrong.append(i)

        threads = [threading.Thread(target=work, args=(k * 1000,)) for k in range(6)]
        for t in threads: t.start()
        if os.fork() == 0: os._exit(s.call(code, "f", {"x": 4}).content != "8")
        for t in threads: t.join()
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        assert wrong == [] and s.call(code, "f", {"x": 4}).content == "8"

def test_refuses_without_the_kernel_and_runs_weakly(monkeypatch):
    monkeypatch.delenv("FTRL_SANDBOX", raising=False)
    monkeypatch.setattr(host, "layers", lambda: {"landlock": 0, "seccomp": layers()["seccomp"]})
    with pytest.raises(FtrlError, match=r"lacks landlock.*Sandbox\(allow_weak=True\)"):
        Sandbox().call("def f(): return 1", "f", {})
    with Sandbox(allow_weak=True) as s:
        assert s.call("def f(): return 1", "f", {}).content == "1"
        assert s.report()["weak"]
        if layers()["seccomp"]: assert "read a file" in s.report()["refused"]
    monkeypatch.setattr(host, "layers", lambda: {"landlock": 0, "seccomp": False})
    monkeypatch.setenv("FTRL_SANDBOX", "weak")
    with Sandbox(timeout=1) as s:
        assert s.call("def f(): return 1", "f", {}).content == "1"
        assert "timed out" in s.call("def f():\n while True: pass", "f", {}).content

