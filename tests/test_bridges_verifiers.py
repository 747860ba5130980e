"A taskset package: vf-validate accepts its gold answers, vf-eval plays it against a local server."
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import test_notebooks

pytest.importorskip("verifiers", reason="the extra `verifiers` is not installed: make test-bridges")
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def package(recorded, tmp_path_factory):
    from ftrl.bridges.verifiers import export_verifiers
    from ftrl.rows import load_rows
    return export_verifiers(load_rows(recorded.path), tmp_path_factory.mktemp("vf")/"tool-use")


def run(package, *command):
    path = os.pathsep.join([str(test_notebooks.ROOT), str(package)])
    env = os.environ | {"PYTHONPATH": path, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "KEY": "none"}
    done = subprocess.run([BIN/command[0], *command[1:]], env=env, cwd=package.parent, text=True,
                          capture_output=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_vf_validate_accepts_every_gold_answer(package, recorded):
    said = run(package, "vf-validate", "tool-use", "--runtime.type", "subprocess", "--rich", "False",
               "-o", "valid")
    assert '"valid_rate": 1.0' in said and f'"valid": {len(recorded.rows)}' in said


class Replies(ThreadingHTTPServer):
    "An OpenAI-compatible server that says what was recorded"
    def __init__(self, waiting):
        super().__init__(("127.0.0.1", 0), Handler)
        self.waiting = waiting
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = [m for m in body["messages"] if m["role"] == "user"][0]["content"]
        asked = said if isinstance(said, str) else said[0]["text"]
        episode = self.server.waiting[asked]
        turn = sum(m["role"] == "assistant" for m in body["messages"])
        message = {"role": "assistant", "content": episode.answer}
        if turn < len(episode.calls):
            name, arguments = episode.calls[turn]
            call = {"id": f"c{turn}", "type": "function", "function": {"name": name, "arguments": arguments}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        why = "tool_calls" if message.get("tool_calls") else "stop"
        about = {"id": "x", "created": 0, "model": "recorded"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if body.get("stream"):
            for call in message.get("tool_calls", ()): call["index"] = 0
            about["object"] = "chat.completion.chunk"
            parts = [{"index": 0, "delta": message, "finish_reason": None},
                     {"index": 0, "delta": {}, "finish_reason": why}]
            chunks = [about | {"choices": [part]} for part in parts]
            chunks.append(about | {"choices": [], "usage": usage})
            text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
            return self.say("text/event-stream", text.encode())
        choices = [{"index": 0, "message": message, "finish_reason": why}]
        answer = about | {"object": "chat.completion", "choices": choices, "usage": usage}
        self.say("application/json", json.dumps(answer).encode())

    def say(self, kind, answer):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def test_vf_eval_gives_the_recorded_rewards(package, recorded):
    server = Replies({row.messages[0]["content"]: e for row, e in zip(recorded.rows, recorded.episodes)})
    run(package, "vf-eval", "tool-use", "-m", "recorded", "-r", "1", "--client.base-url", server.url,
        "--client.api-key-var", "KEY", "--env.agent.harness.id", "null",
        "--env.agent.runtime.type", "subprocess", "--no-rich", "-o", "evaluated")
    found = {}
    for path in (package.parent/"evaluated").rglob("traces.jsonl"):
        for line in path.read_text().splitlines():
            episode = json.loads(line)
            assert episode["ok"], episode["traces"][0]["errors"]
            found[episode["task"]["data"]["id"]] = episode["traces"][0]["rewards"]["solve_f1"]
    rewards = {key: x["score"] if isinstance(x, dict) else x for key, x in found.items()}
    assert rewards == {e.env: pytest.approx(e.reward) for e in recorded.episodes}


def test_the_notebook():
    test_notebooks.test_notebook("nbs/bridges/06_verifiers.ipynb")
