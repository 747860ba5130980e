"""Python processes that need no imports: a server that has loaded the large libraries forks one a program.

`run` and `Process` take the words that `subprocess` would get: `[sys.executable, "-c", code, …]`,
`[…, "-m", module, …]` or `[…, script, …]`. The process is real: it has its own number, environment, folder
and session, can be killed, and has imported nothing of `ftrl`. A hash seed has a server of its own.

`kernelspec` writes a Jupyter kernel "python3" that is such a process; `forks.py kernel …` holds its place,
and each ends with the other.
"""
import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

LIBRARIES = """
    nbdev.test IPython.core.interactiveshell torch pandas scipy.stats matplotlib.pyplot seaborn
    transformers.models.llama.modeling_llama transformers.models.qwen2.modeling_qwen2
    transformers.models.qwen3.modeling_qwen3 transformers.models.auto.modeling_auto transformers.generation
    datasets pyarrow.parquet accelerate peft trl.trainer.grpo_trainer trl.trainer.sft_trainer
    papermill typer openai""".split()
# libraries read these when they are imported, so they hold for all processes of the server
FIXED = {"MPLBACKEND": "agg", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
         "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}


# -- the side of the tests ------------------------------------------------------------------------------

@cache
def server(seed=""):
    "The path of the socket of a server with this hash seed; the server ends with this process"
    folder = tempfile.TemporaryDirectory(prefix="forks")
    path = Path(folder.name) / "socket"
    env = os.environ | FIXED | ({"PYTHONHASHSEED": seed} if seed else {})
    server = subprocess.Popen([sys.executable, __file__, "serve", path], env=env, stdin=subprocess.PIPE)

    def end():
        server.stdin.close()
        server.wait(20)
        folder.cleanup()

    atexit.register(end)
    while not path.exists():
        assert server.poll() is None, "the server of processes ended before it began"
        time.sleep(.05)
    return str(path)


class Process:
    """A program in a process of its own. What it says goes to files, so nobody has to read while it runs; it
    ends with whoever has asked for it"""
    def __init__(self, words, cwd=None, env=None, start_new_session=False, files=None, at=None):
        words, env = [str(word) for word in words], dict(os.environ if env is None else env)
        assert words[0] == sys.executable, f"{words[0]} is not this Python"
        self.args, self.returncode = words, None
        self.said = files or [tempfile.TemporaryFile("w+", errors="replace") for _ in range(2)]
        asked = {"words": words[1:], "cwd": str(cwd or os.getcwd()), "env": env, "session": start_new_session}
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(at or server(env.get("PYTHONHASHSEED", "")))
        socket.send_fds(self.socket, [b"files"], [file.fileno() for file in self.said])
        self.socket.sendall(json.dumps(asked).encode() + b"\n")
        self.answers = self.socket.makefile()
        self.pid = int(self.answers.readline())

    def poll(self):
        "The return code, or None while the process runs"
        if self.returncode is None and select.select([self.socket], [], [], 0)[0]:
            self.returncode = int(self.answers.readline())
            self.socket.close()
        return self.returncode

    def wait(self, timeout=None):
        "The return code, negative for a signal"
        if self.returncode is None and not select.select([self.socket], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def communicate(self, timeout=None):
        "What it said on both streams, when it has ended"
        self.wait(timeout)
        for file in self.said:
            file.seek(0)
        return tuple(file.read() for file in self.said)

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def run(words, cwd=None, env=None, timeout=300):
    "As `subprocess.run` with its output captured as text"
    process = Process(words, cwd, env)
    try:
        out, err = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def kernelspec(folder, seed=""):
    "What to add to the environment of a program so that its notebooks run in processes of the server"
    place = Path(folder) / "kernels/python3"
    place.mkdir(parents=True)
    argv = [sys.executable, "-S", "-E", __file__, "kernel", server(seed), "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(spec))
    return {"JUPYTER_PATH": str(folder)}


def _kernel(path, *words):
    "Stand for a kernel: end when it ends, and let it end with this process, which ends with its parent"
    parent = os.getppid()
    command = [sys.executable, "-m", "ipykernel_launcher", *words]
    kernel = Process(command, files=[sys.stdout, sys.stderr], at=path)
    while kernel.poll() is None and os.getppid() == parent:
        time.sleep(.02)
    os._exit((kernel.returncode or 0) & 0xFF)


# -- the server -----------------------------------------------------------------------------------------

def _received(connection):
    "A request and the two files its process writes to"
    _, files, _, _ = socket.recv_fds(connection, len(b"files"), 2)
    text = b""
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 16)
    return json.loads(text), files


def _program(words):
    "Run a program as the interpreter would"
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__builtins__ = __builtins__
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        exec(compile(words[1], "<string>", "exec"), vars(main))
    elif words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        main.__file__ = words[0]
        exec(compile(Path(words[0]).read_text(), words[0], "exec"), vars(main))


def _status(program):
    "The return code of a program, which is at its end"
    code = 0
    try:
        program()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        if e.code is not None and not isinstance(e.code, int):
            print(e.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    return code


def _child(asked, files):
    "Become the process that was asked for; never returns"
    code = 70
    try:
        if asked["session"]:
            os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for stream, file in enumerate([null, *files]):
            os.dup2(file, stream)
        os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        added = asked["env"].get("PYTHONPATH", "").split(os.pathsep)
        sys.path[1:1] = [path for path in added if path and path not in sys.path]
        code = _status(lambda: _program(asked["words"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


def serve(path):
    "Fork a process for each connection, and tell it the process's number and, at its end, its return code"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    wake, signalled = socket.socketpair()
    signalled.setblocking(False)
    signal.set_wakeup_fd(signalled.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running = {}
    while True:
        ready, _, _ = select.select([listening, wake, sys.stdin, *running.values()], [], [])
        if sys.stdin in ready:  # its end: the tests are over
            os._exit(0)
        for pid, connection in list(running.items()):
            if connection in ready:  # its end: nobody waits any more
                os.kill(pid, signal.SIGKILL)
        if wake in ready:
            wake.recv(4096)
            _tell(running)
        if listening in ready:
            connection, _ = listening.accept()
            asked, files = _received(connection)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _child(asked, files)
            for file in files:
                os.close(file)
            running[pid] = connection
            connection.sendall(f"{pid}\n".encode())


def _tell(running):
    "Answer for each process that has ended"
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as connection, suppress(BrokenPipeError):
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _load():
    "Import the libraries, which may not start threads: a fork would not have them"
    for library in LIBRARIES:
        import_module(library)
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    names -= {"jemalloc_bg_thd", Path("/proc/self/comm").read_text().strip()}  # Arrow's, which knows of forks
    assert not names, f"libraries have started threads: {names}"
    gc.freeze()


if __name__ == "__main__":
    if sys.argv[1] == "kernel":
        _kernel(*sys.argv[2:])
    _load()
    serve(sys.argv[2])
