"What a newcomer meets: the map, examples in every help, completion of the shell, progress, last lines."
import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios

import pytest
from conftest import ROOT

SHELL_IS_SAID = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"
FTRL = [sys.executable, "-c", "from ftrl.cli import main; main()"]


def ftrl(*words, **kwargs):
    return subprocess.run([*FTRL, *map(str, words)], text=True, capture_output=True, timeout=900, **kwargs)


def commands():
    "Every command, those below `models` too: name -> command"
    import typer
    from ftrl.cli import app
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        found[name] = command
        found |= {f"{name} {below}": c for below, c in getattr(command, "commands", {}).items()}
    return found


def test_ftrl_alone_shows_every_command_and_the_six_doors():
    run = ftrl()
    assert run.returncode == 0
    from ftrl.commands.app import DOORS
    lines = run.stdout.splitlines()
    for name in commands():
        if " " not in name: assert sum(line.startswith(f"  {name:10} ") for line in lines) == 1, name
    assert len(DOORS) == 6
    for wish, line in DOORS.items():
        assert f"  {wish:24} {line}" in lines


def test_the_doors_are_those_of_the_readme():
    from ftrl.commands.app import DOORS
    readme = (ROOT / "README.md").read_text().lower()
    for wish in DOORS: assert f"**i want to {wish.lower()}.**" in readme


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_example_in_the_help_is_understood(name):
    "Each command's help has an example, whose words the command takes"
    command = commands()[name]
    examples = [e.strip() for e in re.sub(r"^Examples?:", "", command.epilog or "").split(";")]
    assert examples and examples[0].startswith("ftrl "), f"ftrl {name} has no example"
    for example in examples:
        words = shlex.split(example)[1:]
        below = name.split()
        if words[:len(below)] != below: continue
        rest = words[len(below):]
        if hasattr(command, "commands") and rest: continue  # an example of a command below it
        command.make_context(name, rest, resilient_parsing=False)


COMPLETED = {
    "ftrl ev": "evaluate", "ftrl models fe": "fetch", "ftrl evaluate tool": "toolhop",
    "ftrl evaluate toolx": "", "ftrl build --world geog": "geography",
    "ftrl train rows --algorithm gr": "grpo", "ftrl score --reward solve-p": "solve-precision solve-pr",
    "ftrl collect envs --model qwen2.5-coder-0": "qwen2.5-coder-0.5b qwen2.5-coder-0.5b+ftrl",
    "ftrl export rows --to ver": "verifiers verl verl-agent", "ftrl reproduce --profile ti": "tiny"}


@pytest.mark.parametrize("line", COMPLETED)
def test_the_shell_completes(line, monkeypatch, capsys):
    from ftrl.cli import app
    asked = {"_FTRL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    for name, value in asked.items(): monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit): app(prog_name="ftrl")
    assert sorted(capsys.readouterr().out.split()) == sorted(COMPLETED[line].split())


def test_completion_can_be_shown_for_every_shell():
    for shell in ("bash", "zsh", "fish"):
        run = ftrl("--show-completion", shell, env=os.environ | {SHELL_IS_SAID: "1"})
        assert run.returncode == 0 and "_FTRL_COMPLETE" in run.stdout, run.stderr


SLOW = """
import sys, time
from ftrl import progress
from ftrl.progress import at_work, progress_bar
progress.LINE_EVERY = 1
with at_work("ftrl push"):
    time.sleep(2.5)
    with progress_bar("collect", 4, "env") as bar:
        for i in range(3):
            time.sleep(1.2)
            bar.update()
    print("wrote x")
"""


def test_a_log_gets_lines_while_a_command_works():
    env = os.environ | {"TQDM_DISABLE": ""}
    run = subprocess.run([sys.executable, "-c", SLOW], text=True, capture_output=True, env=env)
    lines = run.stderr.splitlines()
    assert run.stdout == "wrote x\n" and "\r" not in run.stderr
    assert lines[0].startswith("ftrl push: at work for 1 s"), lines
    assert any(re.fullmatch(r"collect: [12] of 4 envs, \d s, about \d s left", line) for line in lines), lines


def on_a_terminal(code):
    "What a program writes on a terminal of 100 columns"
    env = os.environ | {"TQDM_DISABLE": "", "TERM": "xterm"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    run = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:
            break
    assert run.wait(30) == 0
    return said.decode()


def test_a_terminal_gets_a_bar_and_whole_lines():
    text = on_a_terminal(SLOW.replace("2.5", "3.5"))
    assert "ftrl push: at work for 3 s" in text
    assert re.search(r"collect:\s+\d+%\|.*\[00:0\d<00:0\d", text), text
    assert re.search(r"[\r\n]wrote x\r\n", text), text[-300:]  # at the start of a line of its own


def test_what_is_over_at_once_says_nothing_of_progress(tmp_path):
    out = tmp_path/"envs.jsonl"
    run = ftrl("build", "--out", out, "-n", 2, "--world", "chemistry")
    assert run.returncode == 0 and run.stderr == "", run.stderr
    assert run.stdout.splitlines()[-1].startswith(f"wrote {out}; next: ftrl check {out}")
    run = ftrl("check", out, "--json")
    assert run.stdout.count("\n") == 1 and run.stderr.startswith("next: ftrl collect ")


def lines_of_pages():
    "The lines of the how-to pages and of the README that call `ftrl`"
    import json
    for path in sorted((ROOT/"nbs"/"howto").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        text = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "markdown")
        for block in re.findall(r"```sh\n(.*?)```", text, re.S):
            yield from ((path.stem, line) for line in block.splitlines() if re.search(r"\bftrl ", line))
    for block in re.findall(r"```sh\n(.*?)```", (ROOT/"README.md").read_text(), re.S):
        yield from (("README", line) for line in block.splitlines() if line.startswith("ftrl "))


def test_every_command_on_a_page_is_understood():
    known, seen = commands(), 0
    for page, line in lines_of_pages():
        words = shlex.split(line.replace("-m ftrl.cli ", "ftrl "), comments=True)
        words = words[words.index("ftrl") + 1:]
        if words[0] == "--trust": words = words[2:]
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, f"{page}: {line}"
        known[name].make_context(name, words[len(name.split()):])
        seen += 1
    assert seen > 40


READER = '''
from pathlib import Path

def price_of(item: str) -> str:
    """Return the price of an item.

    Args:
        item: The name of the item.
    """
    lines = Path(__file__).with_name("stock.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)[item]

CALLS = {"price_of": [{"item": f"lamp{i}"} for i in range(30)]}
'''


def test_tools_run_outside_only_where_their_file_is_trusted(tmp_path):
    (tmp_path/"tools.py").write_text(READER)
    (tmp_path/"stock.txt").write_text("".join(f"lamp{i} {100 + 7 * i}.90 EUR\n" for i in range(30)))
    build = "build", "--out", "envs.jsonl", "-n", 3, "--world", "tools.py", "--scenario", "single_hop"
    made = ftrl("--trust", "tools.py", *build, cwd=tmp_path)
    assert made.returncode == 0 and "may read and delete your files" in made.stderr, made.stderr
    assert ftrl("--trust", "tools.py", "check", "envs.jsonl", cwd=tmp_path).returncode == 0
    kept_in = ftrl("check", "envs.jsonl", cwd=tmp_path)
    assert kept_in.returncode == 1 and "0 of 3 accepted" in kept_in.stdout
    assert ftrl("--trust", "none.py", *build, cwd=tmp_path).returncode == 2


SERVICE = '''
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

ITEM = {"name": "item", "in": "path", "required": True, "schema": {"type": "string"}, "description": "A name"}
PRICE = {"get": {"operationId": "price_of", "summary": "Return the price of an item.", "parameters": [ITEM]}}
WIPE = {"delete": {"operationId": "wipe", "summary": "Delete everything."}}
DOC = {"openapi": "3.1.0", "paths": {"/prices/{item}": PRICE, "/everything": WIPE}}
PRICES = {f"lamp{i}": f"{100 + 7 * i}.90 EUR" for i in range(30)}

class Shop(BaseHTTPRequestHandler):
    def answer(self, value):
        self.send_response(404 if value is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def do_GET(self):
        path = urlsplit(self.path).path
        self.answer(DOC if path == "/openapi.json" else PRICES.get(path.removeprefix("/prices/")))
    def do_DELETE(self):
        print("deleted", flush=True)
        self.answer({})
    def log_message(self, *words): pass

server = HTTPServer(("127.0.0.1", 0), Shop)
print(server.server_port, flush=True)
server.serve_forever()
'''

SERVED = """
SERVER = "http://127.0.0.1:{port}/openapi.json"
CALLS = {{"price_of": [{{"item": f"lamp{{i}}"}} for i in range(30)]}}
ASKS = {{"price_of": "the price of {{item}}"}}
"""


def test_tools_behind_an_http_service(tmp_path):
    "Built, checked and replayed through a real service; a tool that CALLS does not name is never called"
    from ftrl.rows import load_rows
    service = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True)
    try:
        (tmp_path/"tools.py").write_text(SERVED.format(port=int(service.stdout.readline())))
        build = "build", "--out", "envs.jsonl", "-n", 3, "--world", "tools.py", "--scenario", "single_hop"
        refused = ftrl(*build, cwd=tmp_path)
        assert refused.returncode == 2 and "begin with `ftrl --trust tools.py`" in refused.stderr
        made = ftrl("--trust", "tools.py", *build, cwd=tmp_path)
        assert made.returncode == 0 and "use the network" in made.stderr, made.stderr
        assert ftrl("--trust", "tools.py", "check", "envs.jsonl", cwd=tmp_path).returncode == 0
        kept_in = ftrl("check", "envs.jsonl", cwd=tmp_path)
        assert kept_in.returncode == 1 and "0 of 3 accepted" in kept_in.stdout
        rows = load_rows(tmp_path/"envs.jsonl")
        hostile = [row.code["price_of"].replace("price_of(item)", "wipe()") for row in rows]
        asked = "from ftrl.sandbox.outside import OpenSandbox as S; import sys; box = S('tools.py'); " \
                "print(box.call(sys.argv[1], 'wipe', {}).content)"
        told = subprocess.run([sys.executable, "-c", asked, hostile[0]], cwd=tmp_path,
                              text=True, capture_output=True)
        assert "has no such tool" in told.stdout, told.stdout + told.stderr
    finally:
        service.kill()
    assert service.stdout.read() == ""
