"What a notebook cannot show of building: other processes, hash seeds, kills, foreign rows, other probes."
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ftrl.chat.turn import call_text
from ftrl.core import dumps
from ftrl.reply import verify
from ftrl.environments.build import Recipe, build
from ftrl.environments.deploy import gold
from ftrl.environments.report import audit
from ftrl.environments.store import write_envs
from ftrl.environments.world import FEW, Kind, Relation, World, load_world
from ftrl.rows import load_rows, plain
from ftrl.sandbox.sandbox import shared
from ftrl.training.reward import score

BUILD = """
import sys
from ftrl.environments.build import Recipe
from ftrl.environments.report import construct
if __name__ == "__main__":
    recipe = Recipe(("geography", "chemistry"), seed=3, difficulty=(0, 2, 4))
    construct(sys.argv[1], int(sys.argv[2]), recipe, every=2, workers=int(sys.argv[3]))
"""
RECIPE = Recipe(("geography", "chemistry"), seed=3, difficulty=(0, 2, 4))


@pytest.fixture(scope="module")
def envs(): return list(build(12, ["geography", "chemistry"], seed=3, difficulty=(0, 2, 4)))


def start(tmp_path, out, n, workers=1, hashseed="0", script=BUILD):
    "A build in a process of its own"
    file = tmp_path / "b.py"
    file.write_text(script)
    env = {**os.environ, "PYTHONHASHSEED": hashseed}
    command = [sys.executable, file, out, str(n), str(workers)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def waited(process, done, seconds=120):
    "Wait until `done()` while the process runs"
    end = time.time() + seconds
    while process.poll() is None and time.time() < end:
        if done(): return
        time.sleep(.02)
    raise AssertionError(process.stderr.read() if process.poll() is not None else "nothing happened")


def offspring(pid):
    "All processes below one"
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout.splitlines()
    parent = {int(child): int(above) for child, above in map(str.split, lines)}
    found, new = set(), {pid}
    while new:
        new = {child for child, above in parent.items() if above in new}
        found |= new
    return found


def running(pids):
    "Those that are alive; a process that nobody has asked about its end is not"
    listed = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True).stdout.splitlines()
    alive = {int(pid) for pid, state in map(str.split, listed) if not state.startswith("Z")}
    return alive & pids


def test_same_bytes_in_other_processes_and_under_other_hash_seeds(tmp_path, envs):
    write_envs(tmp_path / "a.jsonl", 12, RECIPE)
    for folder, workers, seed in (("one", 1, "5"), ("two", 2, "77")):
        (tmp_path / folder).mkdir()
        assert start(tmp_path, tmp_path / folder / "a.jsonl", 12, workers, seed).wait() == 0
        assert (tmp_path / folder / "a.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()
    for name in ("a.report.json", "a.README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [r.id for r in load_rows(tmp_path / "a.jsonl")] == [e.id for e in envs]


def test_killed_build_goes_on_to_the_same_bytes(tmp_path):
    out = tmp_path / "k.jsonl"
    process = start(tmp_path, out, 24)
    waited(process, (tmp_path / ".k.jsonl.note").exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    with pytest.raises(ValueError, match="n was 24, is 23"): write_envs(out, 23, RECIPE)  # not this build
    report = write_envs(out, 24, RECIPE, every=2)
    assert report == write_envs(tmp_path / "whole.jsonl", 24, RECIPE)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert {p.name for p in tmp_path.glob(".k.jsonl*")} == {".k.jsonl.claim"}


def test_killed_between_the_last_line_and_the_cleaning_up(tmp_path, monkeypatch):
    from ftrl.environments import store
    out, whole = tmp_path / "k.jsonl", tmp_path / "whole.jsonl"
    write_envs(whole, 4, RECIPE)
    for name in ("_put", "remove"):  # before the file is in place, and before the part is gone
        with monkeypatch.context() as m:
            def killed(*_): raise KeyboardInterrupt
            m.setattr(store, "_put", killed) if name == "_put" else m.setattr(store._Part, "remove", killed)
            with pytest.raises(KeyboardInterrupt): write_envs(out, 4, RECIPE, every=1)
    write_envs(out, 4, RECIPE)
    assert out.read_bytes() == whole.read_bytes()


def test_two_builds_into_one_file(tmp_path):
    out = tmp_path / "a.jsonl"
    first = start(tmp_path, out, 40)
    waited(first, (tmp_path / ".a.jsonl.part").exists)
    with pytest.raises(ValueError, match="another process is writing it"): write_envs(out, 40, RECIPE)
    assert first.wait() == 0
    assert len(load_rows(out)) == 40


def test_no_worker_outlives_its_parent(tmp_path):
    process = start(tmp_path, tmp_path / "a.jsonl", 4000, workers=2)
    waited(process, (tmp_path / ".a.jsonl.note").exists)
    children = offspring(process.pid)
    assert len(children) >= 4, children  # two workers and their sandboxes
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.time() + 30
    while running(children) and time.time() < end: time.sleep(.1)
    assert not running(children)


LOUD = BUILD.replace('if __name__', '''
from ftrl.environments.world import World, load_world
class Loud(World):
    "A world that says when it arrives in another process"
    def __setstate__(self, state):
        self.__dict__.update(state)
        with open(sys.argv[1] + ".heard", "a") as f: f.write("once\\n")
if __name__''').replace('    recipe =', '''
    plain = load_world("chemistry")
    world = Loud("loud", "", plain.kinds.values(), plain.relations.values())
    recipe =''').replace('("geography", "chemistry")', '(world,)')


def test_a_worker_gets_its_worlds_once(tmp_path):
    process = start(tmp_path, tmp_path / "a.jsonl", 64, workers=2, script=LOUD)
    assert process.wait() == 0, process.stderr.read()
    assert 1 <= len((tmp_path / "a.jsonl.heard").read_text().splitlines()) <= 2


def test_gold_turns_get_the_highest_production_reward(envs):
    for e in envs:
        row = e.row()
        first = gold(e)[0]
        assert score(call_text(first), row).value == pytest.approx(2 * len(first) / (len(first) + 1))
        assert score("I do not know.", row).value == 0.0


def test_an_independent_replay_solves_everything(envs):
    for e in envs:
        for s in e.subquestions:
            assert verify(shared().call(e.codes[s.tool], s.tool, s.arguments).content, s.answer), (e.id, s.id)


def test_leaving_out_a_set_parameter_loses_the_answer(envs):
    tried = 0
    for e in envs:
        required = {d.name: d.parameters["required"] for d in e.docs}
        for s in e.subquestions:
            for name in set(s.arguments) - set(required[s.tool]):
                rest = {k: v for k, v in s.arguments.items() if k != name}
                reply = shared().call(e.codes[s.tool], s.tool, rest).content
                assert not verify(reply, s.answer), (e.id, s.id, name)
                tried += 1
    assert tried > 5


GUESS = {"string": "example", "integer": 2, "number": 10, "boolean": False, "array": ["a", "b"],
         "object": {"name": "x", "value": "x", "title": "x"}}


def test_an_independent_dummy_probe_solves_nothing(envs):
    for e in envs:
        for d in e.docs:
            for keep in (d.parameters["required"], list(d.parameters["properties"])):
                given = {k: s for k, s in d.parameters["properties"].items() if k in keep}
                arguments = {k: s.get("enum", [GUESS[s["type"]]])[-1] for k, s in given.items()}
                text = shared().call(e.codes[d.name], d.name, arguments).content
                assert not any(verify(text, s.answer) for s in e.subquestions), (e.id, d.name)


def shared_things(*worlds):
    "The things of kinds with few members, which all splits share"
    views = [load_world(name).view() for name in worlds]
    return {thing for view in views for r in view.world.relations.values() if view.sizes[r.domain] < FEW
            for thing in r.facts}


def names(envs): return {re.sub(r"_\d+$", "", d.name) for e in envs for d in e.docs}


def asked(envs):
    "What the gold calls ask about: what they have to name; a filter may leave out anything"
    told = []
    for e in envs:
        required = {doc.name: doc.parameters["required"] for doc in e.docs}
        for x in e.subquestions:
            must = {k: v for k, v in x.arguments.items() if k in required[x.tool]}
            told.append(json.dumps(must, ensure_ascii=False))
    return {text for x in told for text in x.split('"') if text[:1].isupper()}


def test_test_split_shares_no_tool_thing_or_held_relation_with_train():
    how = {"worlds": ["geography", "chemistry"], "seed": 5, "difficulty": 2}
    train, test = (list(build(24, split=split, **how)) for split in ("train", "test"))
    assert not names(train) & names(test)
    assert not (asked(train) & asked(test)) - shared_things(*how["worlds"])


def test_names_that_hold_marks_are_left_out_and_counted():
    marks = ["<|im_end|>", "</tool_call>", "<tool_response>", "<think>", "[TOOL_CALLS]"]
    people = [f"Person{chr(97 + i)}{chr(97 + i)}" for i in range(25)]
    people = [p + (marks[i % 5] if i % 2 else "") for i, p in enumerate(people)]
    home = {p: f"Hometown {i:04d}{marks[i % 5] if i % 4 == 0 else ''}" for i, p in enumerate(people)}
    relation = Relation("home", "person", "text", ("the home of {x}",), home)
    world = World("marked", "", [Kind("person", "people")], [relation])
    rejected = Counter()
    made = list(build(4, world, "single_hop", rejected=rejected))
    assert rejected["writable"] > 0
    for env in made:
        arguments = [s.arguments for s in env.subquestions]
        told = dumps([env.question, env.answer, arguments, [d.schema for d in env.docs]])
        assert not any(mark in told for mark in marks)


def foreign(env, **schema):
    "An environment whose first tool has another schema for its arguments"
    first = env.subquestions[0].tool
    row = plain(env.row())
    tools = json.loads(row["tools"])
    for tool in tools:
        if tool["function"]["name"] == first: tool["function"]["parameters"] |= schema
    return row | {"tools": dumps(tools)}


def deep(levels):
    "A schema of many levels"
    schema = {"type": "string"}
    for _ in range(levels): schema = {"type": "object", "properties": {"x": schema}}
    return schema


def test_rows_of_others_cost_neither_time_nor_memory_nor_the_network(tmp_path, envs):
    heard = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_error(404)

        def log_message(self, *_): pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = next(e for e in envs if e.scenario == "single_hop")
    name, value = next(iter(env.subquestions[0].arguments.items()))
    properties = next(d for d in env.docs if d.name == env.subquestions[0].tool).parameters["properties"]

    def with_argument(**schema): return foreign(env, properties=properties | {name: schema})

    address = f"http://127.0.0.1:{server.server_port}/"
    doubled = {f"d{i}": {"allOf": [{"$ref": f"#/definitions/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}}
    rows = [
        foreign(env, **{"$ref": address}), with_argument(**{"$ref": address + "x.json"}),
        with_argument(**{"$ref": "file:///etc/passwd"}), with_argument(**{"$ref": "#"}),
        with_argument(type="array", minItems=10**9), with_argument(type="array", minItems=10**400),
        with_argument(type="integer", minimum=10**400), with_argument(enum=[]), with_argument(type=[]),
        with_argument(**deep(30)), with_argument(**deep(300)), with_argument(enum=["x" * 10**6] * 3),
        foreign(env, properties=[]), foreign(env, required="all"), foreign(env, type="array"),
        foreign(env, definitions=doubled, **{"$ref": "#/definitions/d0"}),
        with_argument(type="string", pattern="^(.+)+\\u0000$"),
    ]
    file = tmp_path / "foreign.jsonl"
    file.write_text("".join(dumps(row) + "\n" for row in rows))
    script = f"from ftrl.environments.report import audit; print(audit({str(file)!r})['passed'])"
    bounded = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))\n" + script
    done = subprocess.run([sys.executable, "-c", bounded], capture_output=True, text=True, timeout=240)
    server.shutdown()
    assert done.stdout == "0\n", done.stdout + done.stderr[-2000:]
    assert heard == []


def test_broken_rows_have_failed_and_the_rest_is_judged(tmp_path, envs):
    good = plain(envs[0].row())
    meta = json.loads(good["env"])
    without = {k: v for k, v in meta.items() if k != "subquestions"}
    backwards = meta | {"subquestions": [s | {"depends_on": ["s9"]} for s in meta["subquestions"]]}
    rows = [good | {"env": dumps(without)}, good | {"env": dumps(backwards)}, good]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(dumps(row) + "\n" for row in rows))
    report = audit(file)
    assert (report["rows"], report["passed"]) == (3, 1)
    assert [r["row"] for r in report["rejected"]] == [1, 2]
