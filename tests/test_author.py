"The language-model author against servers: a replaying one, a faulty one, and a real model."
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import forks
import pytest
from author_replies import REPLIES, SEEDS
from conftest import ROOT

from ftrl.environments.authors import author
from ftrl.environments.authors.ledger import plain_reply
from ftrl.models.llm import LLM, failed
from ftrl.evaluation.bench import evaluate
from ftrl.environments.build import build
from ftrl.chat.turn import call_text
from ftrl.core import FtrlError, rng
from ftrl.records import SCENARIOS, Env
from ftrl.rows import load_rows, save_rows
from ftrl.environments.deploy import gold
from ftrl.environments.gate import GATES, check, passed
from ftrl.training.reward import score


@contextmanager
def serving(answer):
    "A chat completions server on loopback: `answer(body)` gives a text or (status, headers, bytes)"
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(body)
            try: got = answer(body)
            except LookupError as e:
                got = 400, {}, json.dumps({"error": {"message": f"nothing recorded for {e}"}}).encode()
            if got is None: return self.connection.close()
            if isinstance(got, str):
                choice = {"index": 0, "finish_reason": "stop",
                          "message": {"role": "assistant", "content": got}}
                sent = len(json.dumps(body["messages"])) // 4
                got = 200, {}, json.dumps({"id": "x", "object": "chat.completion", "created": 0,
                                           "model": body["model"], "choices": [choice],
                    "usage": {"prompt_tokens": sent, "completion_tokens": len(got) // 4,
                              "total_tokens": sent + len(got) // 4}}).encode()
            status, headers, data = got
            try:
                self.send_response(status)
                for k, v in {"Content-Type": "application/json", "Content-Length": len(data),
                             **headers}.items():
                    self.send_header(k, str(v))
                self.end_headers()
                self.wfile.write(data)
            except OSError: pass

        def log_message(self, *_): pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": .05}, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def recorded(body, last=False):
    "The recorded reply to a request; the last one for all later attempts, if asked"
    told = json.loads(body["messages"][1]["content"])
    stage = body.get("stage") or body["response_format"]["json_schema"]["name"]
    if stage == "integrate": about = "+".join(tool["name"] for tool in told["tools"])
    elif stage == "deploy": about = told["tool"]["name"]
    else: about = told["subquestion" if stage == "document" else "question"]
    replies = REPLIES[stage, about]
    attempt = sum(m["role"] == "assistant" for m in body["messages"])
    reply = replies[-1] if last else replies[attempt]
    return reply if isinstance(reply, str) else json.dumps(reply)


@pytest.fixture
def endpoint(monkeypatch):
    def use(base):
        monkeypatch.setenv("OPENAI_BASE_URL", base)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
    return use


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whole_build(scenario, endpoint, tmp_path):
    "A plain question becomes a sound environment; from its transcript the same one, for nothing"
    question, difficulty = SEEDS[scenario]
    how = dict(model="openai:recorded", transcript=tmp_path / "talk.jsonl", scenario=scenario,
               difficulty=difficulty)
    with serving(recorded) as (base, seen):
        endpoint(base)
        run = author.build_from_questions([question], out=tmp_path / "a.jsonl", **how)
        env, = run
    assert run.report["rejected"] == {} and run.report["asked"] == len(seen)
    assert run.report["repairs"] == {"single_hop": 0}.get(scenario, 1)
    assert env.scenario == scenario and env.question == question
    assert set(GATES) < set(env.gates) and passed(check(env))
    assert len(env.distractors) >= 1 + min(difficulty, 2)
    row, = load_rows(tmp_path / "a.jsonl")
    assert Env.from_row(row) == env
    for i, calls in enumerate(gold(env)):   # the production reward of each gold turn is its maximum
        turn, left = score(call_text(calls), row), len(calls)
        assert turn.solved == left and turn.value == 2 * left / (left + 1), f"turn {i}"

    endpoint("http://127.0.0.1:9/v1")       # nobody is there
    again = author.build_from_questions([question], out=tmp_path / "b.jsonl", **how)
    assert list(again) == [env] and again.report["asked"] == 0 and again.report["tokens"] == {}
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_transcript_tells_everything(endpoint, tmp_path):
    "Request, response, tokens, stage and seed question of every exchange; the schema, strict where it can be"
    question, difficulty = SEEDS["parallel_single_hop"]
    with serving(recorded) as (base, seen):
        endpoint(base)
        list(author.build_from_questions([question], "openai:recorded", transcript=tmp_path / "t.jsonl",
                          scenario="parallel_single_hop"))
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [x["stage"] for x in lines] == ["decompose"] * 2 + ["document"] * 2 + ["integrate", "scale",
        "deploy", "deploy"]
    assert all(x["question"] == question and x["tokens"][0] > 100 and x["response"]
               and x["request"][0]["role"] == "system" for x in lines)
    assert {b["response_format"]["json_schema"]["strict"] for b in seen
            if "subquestions" in str(b["response_format"])} == {True}
    assert "cannot be used" in lines[1]["request"][-1]["content"]


def test_rejections_are_counted(endpoint, tmp_path):
    "What no repair can save is counted by who refused it; the rest is built, in order"
    wrong = {"chemical_element_registry": "replay", "elevation_service": "static"}

    def bad(body):
        text = recorded(body) if sum(m["role"] == "assistant"
                                     for m in body["messages"]) == 0 or "wet" in str(body) else None
        told = json.loads(body["messages"][1]["content"])
        name = told.get("tool", {}).get("name")
        if name == "chemical_element_registry":
            return json.dumps(REPLIES["deploy", name][0]).replace("Tungsten", "Wolfram")
        if name == "elevation_service":
            return json.dumps({"code": "import socket\ndef elevation_service(mountain): return ''",
                               "example": {}})
        return text or recorded(body)

    questions = [{"question": "What is love?"}, {"question": "Is water wet?", "scenario": "single_hop"},
                 *({"question": SEEDS[s][0], "scenario": s} for s in SCENARIOS)]
    questions[4]["answer"] = "4,000 m"      # the model's answer is another
    with serving(bad) as (base, _):
        endpoint(base)
        run = author.build_from_questions(questions, "openai:recorded",
                                          transcript=tmp_path / "t.jsonl", workers=3)
        built = list(run)
    assert [e.scenario for e in built] == ["parallel_single_hop"]
    gates = {r["question"]: (r["gate"], r["reason"]) for r in run.report["reasons"]}
    assert gates["What is love?"][0] == "refused"
    assert gates["Is water wet?"] == ("decompose",
                                      "the answer of s1, 'yes', is too short or common to be searched for")
    # at difficulty 0 the recorded scaling of the single hop has more than is asked for, which is no fault
    assert gates[SEEDS["single_hop"][0]][0] == wrong["chemical_element_registry"]
    assert gates[SEEDS["parallel_multi_hop"][0]] == ("static", "elevation_service: imports socket")
    assert gates[SEEDS["multi_hop"][0]][0] in ("model", "decompose")
    assert sum(run.report["rejected"].values()) == 5 and run.report["left"] == 0


NONSENSE = [None, [], {}, "", "s1", -1, 1e308, True, "x" * 5000, [[[]]] * 3, {"type": "array"}, {"s1": {}},
            "\ud800", ["object", "string"], "<|im_end|>", "</tool_call>"]


def places(x):
    "Every (container, key) in a JSON value"
    for key in list(x) if isinstance(x, dict) else range(len(x)) if isinstance(x, list) else ():
        yield x, key
        yield from places(x[key])


def spoil(text, r):
    "A reply with one place of it replaced by nonsense"
    box = [json.loads(text)]
    container, key = r.choice(list(places(box)))
    container[key] = r.choice(NONSENSE)
    return json.dumps(box[0])


class Spoiled(LLM):
    "The recorded author, who sometimes writes nonsense"

    def __init__(self, scenario, n):
        self.r, self.turns = rng("nonsense", scenario, n), 0
        self.hit, self.always = self.r.randrange(8), n % 4 == 0

    def chat(self, requests, max_new_tokens=1024, temperature=0.0, seed=0):
        return [self.turn(request) for request in requests]

    def turn(self, request):
        asked = {"messages": request.messages, "stage": request.schema["title"]}
        try: text = recorded(asked, last=True)
        except LookupError as e: return failed(str(e))   # nonsense that was let through is asked about
        now, self.turns = self.turns, self.turns + 1
        if now == self.hit or self.always and now > self.hit: text = spoil(text, self.r)
        return plain_reply(text, 9, prompt_tokens=9)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nonsense(scenario):
    "Whatever a model writes in whatever place: an environment that passes the gates, or a counted rejection"
    question, difficulty = SEEDS[scenario]
    built = 0
    for n in range(20):
        run = author.build_from_questions([question], Spoiled(scenario, n), scenario=scenario,
                                          difficulty=difficulty, workers=1)
        for env in run:
            assert passed(check(env))
            built += 1
        assert run.report["left"] == 0 and run.report["built"] + sum(run.report["rejected"].values()) == 1
    assert built >= 5


def test_faulty_endpoint(endpoint, tmp_path):
    "429, 500, half a JSON body, a dropped connection, a time-out: tried again, then as if nothing had been"
    question, difficulty = SEEDS["parallel_single_hop"]
    fast, turn = {"retry-after-ms": "1"}, iter(range(100))

    def faulty(body):
        n = next(turn)
        if n == 0: return 429, fast, b'{"error": {"message": "slow down"}}'
        if n == 1: return 500, fast, b"oops"
        if n == 3:
            time.sleep(1)
            return 200, {}, b"late"
        if n == 5: return 200, {}, b'{"id": "x", "choices": [{"mess'
        if n == 7: return None
        return recorded(body)

    with serving(faulty) as (base, seen):
        endpoint(base)
        run = author.build_from_questions([question], "openai:recorded", transcript=tmp_path / "t.jsonl",
                           scenario="parallel_single_hop", timeout=.5, patience=20)
        assert len(list(run)) == 1 and len(seen) == 8 + 5


SLOW_DOWN = 429, {"retry-after-ms": "1"}, b'{"error": {"message": "slow down"}}'
DEEP = b'{"choices": [{"message": {"content": ' + b"[" * 100_000
FAULTS = {
    "too many": (SLOW_DOWN, "slow down"),
    "half": ((200, {}, b'{"id": "x", "choices": [{"mess'), "JSON"),
    "no choice": ((200, {}, b'{"choices": []}'), "no chat completion"),
    "a list": ((200, {}, b"[1]"), "no chat completion"),
    "no message": ((200, {}, b'{"choices": [{"text": "{}"}]}'), "holds no message"),
    "deep": ((200, {}, DEEP), "nested"),
    "refused": ((400, {}, b'{"error": {"message": "context too long"}}'), "context too long"),
    "broken": ((500, {"retry-after-ms": "1"}, b"<html>"), "500"),
    "odd header": ((503, {"retry-after": "-nan"}, b"<html>"), "503"),
    "hung up": (None, "onnection"),
}


@pytest.mark.parametrize("fault, text", FAULTS.values(), ids=FAULTS)
def test_endpoint_that_never_recovers(fault, text, endpoint, tmp_path):
    "Bounded attempts, counted rejections with reasons; after a few in a row the run gives up; nothing lost"
    with serving(lambda body: fault) as (base, seen):
        endpoint(base)
        questions = [f"What is question {i}?" for i in range(30)]
        run = author.build_from_questions(questions, "openai:m", out=tmp_path / "a.jsonl", workers=1,
                                          patience=.1)
        assert list(run) == []
    report = run.report
    assert report["rejected"]["model"] >= 5 and report["left"] >= 20
    assert "does not answer" in report["stopped"] and "calling again goes on" in run.failure
    assert text in report["reasons"][0]["reason"] and len(seen) <= 10 * (report["rejected"]["model"] + 1)
    assert (tmp_path / "a.jsonl").read_bytes() == b"" and report["tokens"] == {}


ODD = {
    "parts": ([{"type": "text", "text": "{}"}], "required property"),
    "nothing": (None, "no JSON object"),
    "a number": (7, "no JSON object"),
    "an object": ({"a": 1}, "no JSON object"),
    "deep": ('{"refused": ' + "[" * 5000, "nested"),
    "half a character": ('{"refused": "\\ud800"}', "surrogate"),
    "a long number": ('{"refused": ' + "9" * 9999 + "}", "digits"),
    "only thought": ('<think>{"refused": "no"}', "no JSON object"),
}


@pytest.mark.parametrize("content, text", ODD.values(), ids=ODD)
def test_odd_reply(content, text, endpoint):
    "An odd reply costs its question, and the next one is asked as if nothing had been"
    def odd(body):
        if "odd" not in body["messages"][1]["content"]: return recorded(body)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        return 200, {}, json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode()

    with serving(odd) as (base, _):
        endpoint(base)
        run = author.build_from_questions(["What is odd?", "What is love?"], "openai:m", repairs=0)
        assert list(run) == []
    reasons = [(r["gate"], r["reason"]) for r in run.report["reasons"]]
    assert reasons[1][0] == "refused"
    assert reasons[0][0] in ("reply", "model") and text in reasons[0][1], reasons


@pytest.mark.parametrize("status", [401, 404])
def test_refused_endpoint(status, endpoint, tmp_path):
    "A wrong key or model ends the run with one clear line, and does not keep another one out"
    refusal = (status, {}, b'{"error": {"message": "no such thing"}}')
    with serving(lambda body: refusal if body["model"] == "m" else recorded(body)) as (base, _):
        endpoint(base)
        with pytest.raises(FtrlError, match="openai:m at http.*no such thing.*check OPENAI_BASE_URL") as e:
            list(author.build_from_questions(["What is love?"], "openai:m", tmp_path / "a.jsonl"))
        again = author.build_from_questions(["What is love?"], "openai:right", tmp_path / "a.jsonl")
        assert list(again) == [] and again.report["rejected"] == {"refused": 1}
    assert "\n" not in str(e.value)


def ftrl(*words, **env):
    "Run a command"
    line = [sys.executable, "-c", "from ftrl.cli import main; main()", *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"} | env
    return forks.run(line, env=env, timeout=120)


def test_command(tmp_path):
    "A server that is down, values nobody means and another's file are one line and status 2"
    (tmp_path / "q.txt").write_text(SEEDS["parallel_single_hop"][0] + "\n")
    with serving(recorded) as (base, seen):
        def build(out, *more, model="openai:recorded", base=base):
            return ftrl("build", "--author", model, "--questions", tmp_path / "q.txt", "--scenario",
                        "parallel_single_hop", "-n", 1, "--out", out, *more, OPENAI_BASE_URL=base)

        done = build(tmp_path / "a.jsonl")
        assert done.returncode == 0 and len(load_rows(tmp_path / "a.jsonl")) == 1, done.stderr
        asked = len(seen)
        victim = tmp_path / "a.jsonl"
        for more, why in ((["--budget", -1], "budget is -1"), (["--budget", 0], "budget is 0"),
                          (["--seed", 5], "made with other settings")):
            refused = build(victim, *more)
            assert refused.returncode == 2 and why in refused.stderr, refused.stderr
            assert refused.stderr.count("\n") == 1
        assert len(load_rows(victim)) == 1 and len(seen) == asked
    down = build(tmp_path / "b.jsonl", base="http://127.0.0.1:9/v1")
    assert down.returncode == 2 and "nobody answers" in down.stderr, down.stderr
    assert down.stderr.count("\n") == 1
    assert not (tmp_path / "b.jsonl").exists()


def test_any_model(tmp_path):
    "The author is any model that `--model` takes: a recording answers by the talk's id"
    scenario = "parallel_single_hop"
    question, difficulty = SEEDS[scenario]

    class Recorded(LLM):
        def chat(self, requests, max_new_tokens=1024, temperature=0.0, seed=0):
            asked = [{"messages": r.messages, "stage": r.schema["title"]} for r in requests]
            return [plain_reply(recorded(body), 9, prompt_tokens=9) for body in asked]

    first = author.build_from_questions([question], Recorded(), transcript=tmp_path / "t.jsonl",
                                        scenario=scenario)
    turns = {}
    env, = first
    for line in (tmp_path / "t.jsonl").read_text().splitlines():
        x = json.loads(line)
        turns.setdefault(x["id"], []).append(x["response"])
    lines = [json.dumps({"id": id, "turns": said}) + "\n" for id, said in turns.items()]
    (tmp_path / "replies.jsonl").write_text("".join(lines))
    again = author.build_from_questions([question], f"replay:{tmp_path / 'replies.jsonl'}", scenario=scenario)
    other, = again
    assert again.report["asked"] == first.report["asked"] > 4
    assert other.world.startswith("replay:") and other.codes == env.codes and other.question == env.question


def test_local_author(tmp_path):
    "A local model is asked as any other; what it cannot do is a counted rejection"
    run = author.build_from_questions(["What is the capital of Peru?", "What is love?"], "smollm2",
                                      tmp_path / "a.jsonl", repairs=0, limit=8, workers=2)
    assert list(run) == [] and run.report["rejected"] == {"reply": 2}
    assert run.report["tokens"]["prompt"] > 400 and 0 < run.report["tokens"]["completion"] <= 16
    assert "smollm2 wrote 0 environments from 2 questions" in run.failure


def test_server_without_optional_fields(endpoint):
    "A server that refuses fields by name is asked again without them"
    def old(body):
        for f in ("seed", "response_format", "max_tokens"):
            if f in body:
                return 400, {}, json.dumps({"error": {"message": f"Unsupported parameter: '{f}'. Use "
                                                                 f"max_completion_tokens."}}).encode()
        return json.dumps(REPLIES["decompose", "What is love?"][0])
    with serving(old) as (base, seen):
        endpoint(base)
        run = author.build_from_questions(["What is love?"], "openai:m")
        assert list(run) == [] and run.report["rejected"] == {"refused": 1}
    assert len(seen) == 4 and "max_completion_tokens" in seen[-1]


def test_budget(endpoint, tmp_path):
    "A budget is never exceeded, and a later call pays only for the rest"
    questions = [{"question": SEEDS[s][0], "scenario": s} for s in ("parallel_single_hop",
                                                                    "parallel_multi_hop")]
    how = dict(model="openai:recorded", transcript=tmp_path / "t.jsonl", limit=2000)
    with serving(recorded) as (base, seen):
        endpoint(base)
        first = author.build_from_questions(questions, budget=12_000, **how)
        some = list(first)
        assert len(some) < 2 and first.report["left"] == 2 - len(some)
        assert "12000 tokens is spent" in first.report["stopped"]
        assert 0 < sum(first.report["tokens"].values()) <= 12_000
        rest = author.build_from_questions(questions, **how)
        assert [e.scenario for e in rest] == ["parallel_single_hop",
                                              "parallel_multi_hop"] and rest.report["stopped"] == ""
    assert first.report["asked"] + rest.report["asked"] == len(seen) == len({json.dumps(b["messages"])
        for b in seen})


def test_killed(endpoint, tmp_path):
    "Killed in the middle and called again: what was recorded is not paid for again"
    seeds = [{"question": SEEDS[s][0], "scenario": s} for s in ("parallel_single_hop", "parallel_multi_hop")]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    code = ("import sys; from ftrl.environments.authors.author import build_from_questions\n"
            "r = build_from_questions(sys.argv[1], 'openai:recorded', sys.argv[2], workers=1)\n"
            "print(len(list(r)), r.report['recorded'], r.report['asked'])")
    line = [sys.executable, "-c", code, tmp_path / "q.jsonl", tmp_path / "a.jsonl"]
    gate = threading.Event()

    def slow(body):
        if len(seen) > 12: gate.wait(20)
        return recorded(body)

    with serving(slow) as (base, seen):
        env = os.environ | {"OPENAI_BASE_URL": base, "OPENAI_API_KEY": "none", "PYTHONPATH": str(ROOT)}
        first = forks.Process(line, cwd=tmp_path, env=env)
        while len(seen) < 13:
            assert first.poll() is None
            time.sleep(.02)
        other = forks.run(line, cwd=tmp_path, env=env)
        assert "another process is writing it" in other.stderr
        first.kill()
        first.wait()
        assert not (tmp_path / "a.jsonl").exists()
        with open(tmp_path / "a.transcript.jsonl", "a") as f: f.write('{"model": "openai:rec')
        gate.set()
        out = forks.run(line, cwd=tmp_path, env=env, timeout=60).stdout
    built, known, asked = map(int, out.split())
    assert known == 12 and asked == len(seen) - 13 and built == len(load_rows(tmp_path / "a.jsonl")) == 2


def serve_available():
    from transformers.utils.import_utils import is_serve_available
    return is_serve_available()


def wait_for(url, server, log):
    "Until a server answers"
    deadline = time.monotonic() + 400
    while True:
        assert time.monotonic() < deadline and server.poll() is None, log.read_text()[-2000:]
        try: return urllib.request.urlopen(url, timeout=1)
        except OSError: time.sleep(.1)


@pytest.mark.skipif(not serve_available(),
                    reason="`transformers serve` needs the packages fastapi and uvicorn")
def test_real_model(endpoint, tmp_path):
    "The default model behind `transformers serve`: rejected with a reason; it can be evaluated there"
    from ftrl.models.embedded import model_path
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = open(tmp_path / "log", "w")
    line = [sys.executable, "-m", "transformers.cli.transformers", "serve", model_path("smollm2"),
            "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(line, stdout=log, stderr=log,
                              env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "log")
        endpoint(f"http://127.0.0.1:{port}/v1")
        name = f"openai:{model_path('smollm2')}"
        how = dict(transcript=tmp_path / "t.jsonl", scenario="single_hop", repairs=1, limit=24,
                   temperature=0.)
        run = author.build_from_questions(["What is the capital of Peru?"], name, **how)
        assert list(run) == []
        report = run.report
        assert report["rejected"] == {"reply": 1} and report["asked"] == 2 and report["repairs"] == 1
        assert report["reasons"][0]["reason"]
        assert report["tokens"]["prompt"] > 500 and 0 < report["tokens"]["completion"] <= 48
        again = author.build_from_questions(["What is the capital of Peru?"], name, **how)
        assert list(again) == [] and again.report["asked"] == 0
        assert again.report["reasons"] == report["reasons"]
        envs = build(2, ["chemistry"], scenarios=["single_hop"], seed=1)
        save_rows([env.row() for env in envs], tmp_path / "rows.jsonl")
        played = list(evaluate("ftrl", name, tmp_path / "r.jsonl", tmp_path / "rows.jsonl", progress=False,
                               max_new_tokens=24, max_turns=2))
        assert [x["error"] for x in played] == [None, None] and all(0 < x["tokens"] <= 48 for x in played)
    finally:
        server.kill()
        server.wait()
