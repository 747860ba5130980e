"An OpenEnv environment: it validates, its own client gets the recorded rewards, a hundred sessions at once."
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import test_notebooks

pytest.importorskip("openenv", reason="the extra `openenv` is not installed: make test-bridges")
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(recorded, tmp_path_factory):
    from ftrl.bridges.openenv import export_openenv
    from ftrl.rows import load_rows
    out = export_openenv(load_rows(recorded.path), tmp_path_factory.mktemp("openenv")/"tool_use")
    sys.path.insert(0, str(out))
    yield out
    sys.path.remove(str(out))


@pytest.fixture(scope="module")
def url(folder):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(test_notebooks.ROOT), str(folder)])}
    server = subprocess.Popen([sys.executable, "-m", "server.app", "--port", str(port)], cwd=folder, env=env,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{found}/health", timeout=5)
            break
        except OSError:
            assert server.poll() is None
            time.sleep(.5)
    yield found
    server.terminate()
    server.wait(20)


def test_openenv_validate_passes(folder):
    run = subprocess.run([BIN/"openenv", "validate", folder, "--json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_openenv_validate_passes_the_running_server(url):
    run = subprocess.run([BIN/"openenv", "validate", "--url", url], capture_output=True, text=True)
    assert run.returncode == 0 and json.loads(run.stdout)["passed"], run.stdout + run.stderr


async def play(url, episode):
    from client import ToolUseEnv
    from models import ToolUseAction
    async with ToolUseEnv(base_url=url) as env:
        first = await env.reset(env=episode.env)
        assert first.observation.env == episode.env and first.observation.tools
        for name, arguments in episode.calls:
            assert (await env.step(ToolUseAction(tool=name, arguments=json.loads(arguments)))).reward is None
        last = await env.step(ToolUseAction(answer=episode.answer))
        assert last.done
        return last.reward


def test_recorded_episodes_get_the_same_reward(url, recorded):
    async def one_by_one():
        return [await play(url, episode) for episode in recorded.episodes]

    assert asyncio.run(one_by_one()) == [episode.reward for episode in recorded.episodes]


def test_a_hundred_sessions_at_once(url, recorded):
    episodes = [recorded.episodes[i % len(recorded.episodes)] for i in range(100)]

    async def together():
        return await asyncio.gather(*(play(url, episode) for episode in episodes))

    assert asyncio.run(together()) == [episode.reward for episode in episodes]


def test_the_notebook():
    test_notebooks.test_notebook("nbs/bridges/07_openenv.ipynb")
