"The MCP server through the SDK's own client, over both transports, and what its guests cannot do."
import asyncio, json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest
import test_notebooks

mcp = pytest.importorskip("mcp", reason="the extra `mcp` is not installed: make test-bridges")
from mcp import Client, StdioServerParameters
from ftrl.bridges.mcp import ANSWER, OPEN, play_mcp

ROOT = Path(__file__).resolve().parents[1]
SERVE = [sys.executable, "-c", "from ftrl.cli import main; main()", "serve"]
ENV = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


class Server:
    "A server process over HTTP"
    def __init__(self, path, *words, **env):
        command = [*SERVE, path, "--mcp", "--http", "--port", "0", *words]
        self.process = subprocess.Popen(command, env=ENV | env, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), self.url

    def children(self):
        "Processes below the server, however deep"
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    todo += map(int, task.read_text().split())
                except OSError:
                    continue
            found.append(pid)
        return found[1:]

    def memory(self):
        "Resident megabytes"
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def end(self):
        pids = self.children()
        self.process.terminate()
        self.process.wait(20)
        return pids


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(recorded):
    started = Server(recorded.path)
    yield started
    pids = started.end()
    deadline = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(.1)
    assert not any(map(alive, pids))


def test_same_reward_over_http(server, recorded):
    async def play():
        ended = []
        for episode in recorded.episodes:
            async with Client(f"{server.url}/{episode.env}") as client:
                ended.append(await play_mcp(client, episode))
        return ended

    ended = asyncio.run(play())
    assert [x["reward"] for x in ended] == [x.reward for x in recorded.episodes]
    assert len({x["reward"] for x in ended}) > 3


def test_same_reward_over_stdio_in_one_process(recorded):
    async def play():
        rewards = []
        params = StdioServerParameters(command=SERVE[0], args=[*SERVE[1:], recorded.path, "--mcp"], env=ENV)
        async with Client(params) as client:
            for episode in recorded.episodes:
                said = await client.call_tool(OPEN, {"environment": episode.env})
                assert "Question: " in said.content[0].text
                rewards.append((await play_mcp(client, episode))["reward"])
        return rewards

    assert asyncio.run(play()) == [x.reward for x in recorded.episodes]


def test_schemas_are_verbatim_and_the_question_is_there(server, recorded):
    async def look(row):
        async with Client(f"{server.url}/{row.id}") as client:
            tools = (await client.list_tools()).tools
            asked = await client.get_prompt("question")
            return tools, asked.messages[0].content.text

    for row in recorded.rows[:6]:
        tools, asked = asyncio.run(look(row))
        theirs = [{"name": t.name, "description": t.description, "parameters": t.input_schema} for t in tools]
        assert theirs[:-1] == [t["function"] for t in row.toolset]
        assert theirs[-1]["name"] == ANSWER and asked == row.messages[0]["content"]


def test_a_hundred_sessions_at_once(server, recorded):
    "Each gets its own reward, whoever else plays the same environment"
    async def one(i):
        episode = recorded.episodes[i % len(recorded.episodes)]
        async with Client(f"{server.url}/{episode.env}") as client:
            return (await play_mcp(client, episode))["reward"] == episode.reward

    async def all_of_them():
        return await asyncio.gather(*map(one, range(100)))

    assert all(asyncio.run(all_of_them()))


def _post(url, body, **headers):
    import httpx2
    given = {"content-type": "application/json", "accept": "application/json, text/event-stream", **headers}
    return httpx2.post(url, content=body, headers=given, timeout=30)


def test_malformed_requests_harm_nobody(server, recorded):
    episode = recorded.episodes[0]

    async def play():
        async with Client(f"{server.url}/{episode.env}") as client:
            for body in (b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'{"jsonrpc": "2.0"}', b"a" * 3_000_000):
                answer = await asyncio.to_thread(_post, f"{server.url}/0", body)
                assert 400 <= answer.status_code < 500
            return (await play_mcp(client, episode))["reward"]

    assert asyncio.run(play()) == episode.reward


def test_a_flood_and_a_vanished_client_harm_nobody(server, recorded):
    gold = recorded.envs[0].subquestions[0]
    episode = recorded.episodes[7]

    async def flood():
        async with Client(f"{server.url}/{recorded.envs[0].id}") as client:
            calls = (client.call_tool(gold.tool, gold.arguments) for _ in range(300))
            return [r.content[0].text for r in await asyncio.gather(*calls)]

    async def vanish():
        task = asyncio.create_task(flood())
        await asyncio.sleep(.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def play():
        async with Client(f"{server.url}/{episode.env}") as client:
            return (await play_mcp(client, episode))["reward"]

    async def together():
        return await asyncio.gather(flood(), vanish(), *(play() for _ in range(5)))

    said, _, *rewards = asyncio.run(together())
    assert rewards == [episode.reward] * 5
    if len(os.sched_getaffinity(0)) > 1:  # on one core the client's next call comes after the server's answer
        assert any("are waiting" in text for text in said)
    assert any(gold.answer.split(", ")[0] in text for text in said)


def test_others_need_the_token(recorded):
    refused = subprocess.run([*SERVE, recorded.path, "--mcp", "--http", "--host", "0.0.0.0"],
                             env=ENV, capture_output=True, text=True)
    assert refused.returncode == 2 and "expected a token" in refused.stderr
    token = "correct-horse-battery-staple"
    started = Server(recorded.path, FTRL_TOKEN=token)
    try:
        hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert _post(started.url, hello).status_code == 401
        assert _post(started.url, hello, authorization=f"Bearer {token}x").status_code == 401
        assert _post(started.url, hello, authorization=f"Bearer {token}").status_code != 401
        elsewhere = _post(started.url, hello, authorization=f"Bearer {token}", host="evil.example")
        assert elsewhere.status_code in (403, 421)
    finally:
        started.end()


def test_a_thousand_dropped_sessions_leave_nothing(recorded):
    "Sessions that are opened, used once and dropped end by being idle, with their runners"
    started = Server(recorded.path, "--idle", "3")
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}

    def open_and_drop(http, i):
        env = recorded.envs[i % len(recorded.envs)]
        url, gold = f"{started.url}/{env.id}", env.subquestions[0]
        headers = {"accept": "application/json, text/event-stream"}
        session = http.post(url, json=hello, headers=headers).headers["mcp-session-id"]
        headers |= {"mcp-session-id": session, "mcp-protocol-version": "2025-06-18"}
        http.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
        call = {"name": gold.tool, "arguments": gold.arguments}
        asked = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
        assert "result" in http.post(url, json=asked, headers=headers).json()

    def idle():
        deadline = time.monotonic() + 30
        while len(started.children()) > 3 and time.monotonic() < deadline:
            time.sleep(.5)
        return len(started.children())

    try:
        import httpx2
        with httpx2.Client(timeout=60) as http:
            for i in range(100):
                open_and_drop(http, i)
            before = idle(), started.memory()
            for i in range(1000):
                open_and_drop(http, i)
            after = idle(), started.memory()
        assert after[0] <= max(before[0], 2), (before, after)
        assert after[1] < before[1] + 30, (before, after)
    finally:
        started.end()


STOCK = """
import sys
from mcp.server import MCPServer
server = MCPServer("stock")

@server.tool()
def price_of(item: str) -> str:
    "Return the price of an item."
    return {f"lamp{i}": f"{100 + 7 * i}.90 EUR" for i in range(30)}[item]

@server.tool()
def wipe(everything: str) -> str:
    "Delete everything."
    open("wiped", "w").close()
    return "gone"

if len(sys.argv) > 1:
    server.run("streamable-http", port=int(sys.argv[1]))
server.run()
"""
TOOLS = """
SERVER = "mcp:{place}"
CALLS = {{"price_of": [{{"item": f"lamp{{i}}"}} for i in range(30)]}}
"""


def free_port():
    import socket
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def answers(port):
    import socket
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("over", ["stdio", "http"])
def test_tools_of_a_server_become_environments(tmp_path, over):
    "The other way round: tools of a foreign server, by an explicit switch; only those that CALLS names"
    (tmp_path / "stock.py").write_text(STOCK)
    port, started = free_port(), None
    place = f"{sys.executable} stock.py"
    if over == "http":
        place = f"http://127.0.0.1:{port}/mcp"
        started = subprocess.Popen([sys.executable, "stock.py", str(port)], cwd=tmp_path)
        while not answers(port):
            assert started.poll() is None
            time.sleep(.2)
    (tmp_path / "tools.py").write_text(TOOLS.format(place=place))
    program = [sys.executable, "-c", "from ftrl.cli import main; main()"]

    def ftrl(*words):
        return subprocess.run([*program, *words], cwd=tmp_path, env=ENV, capture_output=True, text=True)

    try:
        build = "build", "--out", "envs.jsonl", "-n", "3", "--world", "tools.py", "--scenario", "single_hop"
        assert "begin with `ftrl --trust tools.py`" in ftrl(*build).stderr
        made = ftrl("--trust", "tools.py", *build)
        assert made.returncode == 0 and "use the network" in made.stderr, made.stderr
        assert ftrl("--trust", "tools.py", "check", "envs.jsonl").returncode == 0
        assert ftrl("check", "envs.jsonl").returncode == 1
    finally:
        if started:
            started.kill()
    row = json.loads((tmp_path / "envs.jsonl").read_text().splitlines()[0])
    assert "stock.py" not in json.dumps(row) and str(port) not in json.dumps(row)
    assert not (tmp_path / "wiped").exists()


def test_ctrl_c_ends_a_server_over_stdio(recorded):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*SERVE, recorded.path, "--mcp"], env=ENV, **pipes)
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize",
             "params": {"protocolVersion": "2025-06-18", "capabilities": {},
                        "clientInfo": {"name": "test", "version": "1"}}}
    process.stdin.write(json.dumps(hello).encode() + b"\n")
    process.stdin.flush()
    assert b"serverInfo" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130, process.stderr.read()


def test_the_notebooks():
    test_notebooks.test_notebook("nbs/bridges/04_mcp.ipynb")
    test_notebooks.test_notebook("nbs/sandbox/11_service.ipynb")
