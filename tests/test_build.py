"What a notebook cannot show of building: other processes, hash seeds, kills, and probes written independently of the gates."
import hashlib, json, os, re, signal, subprocess, sys, time
from pathlib import Path
import pytest
from ftrl.environments.build import Recipe, build, write
from ftrl.chat import call_text
from ftrl.core import Env, verify
from ftrl.files import load_rows
from ftrl.environments.deploy import gold
from ftrl.training.reward import score
from ftrl.sandbox.sandbox import shared

BUILD = """
import sys
from ftrl.environments.build import Recipe, write
if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), Recipe(("geography", "chemistry"), seed=3, difficulty=(0, 2, 4)), every=2, workers=int(sys.argv[3]))
"""

@pytest.fixture(scope="module")
def envs(): return list(build(12, ["geography", "chemistry"], seed=3, difficulty=(0, 2, 4)))

def start(tmp_path, out, n, workers=1, hashseed="0"):
    script = tmp_path / "b.py"
    script.write_text(BUILD)
    return subprocess.Popen([sys.executable, script, out, str(n), str(workers)], env={**os.environ, "PYTHONHASHSEED": hashseed})

def test_same_bytes_in_other_processes_and_under_other_hash_seeds(tmp_path, envs):
    write(tmp_path / "a.jsonl", 12, Recipe(("geography", "chemistry"), seed=3, difficulty=(0, 2, 4)))
    assert start(tmp_path, tmp_path / "b.jsonl", 12, workers=2, hashseed="77").wait() == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert [r.id for r in load_rows(tmp_path / "a.jsonl")] == [e.id for e in envs]

def test_killed_build_goes_on_to_the_same_bytes(tmp_path):
    recipe = Recipe(("geography", "chemistry"), seed=3, difficulty=(0, 2, 4))
    p = start(tmp_path, tmp_path / "k.jsonl", 24)
    deadline = time.time() + 60
    while p.poll() is None and time.time() < deadline:
        if any(f.stat().st_size for f in tmp_path.glob(".k.jsonl-*.note")): break
        time.sleep(.02)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not (tmp_path / "k.jsonl").exists()
    write(tmp_path / "k.jsonl", 24, recipe, every=2)
    write(tmp_path / "whole.jsonl", 24, recipe)
    assert (tmp_path / "k.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob(".k.jsonl*"))

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

def test_an_independent_dummy_probe_solves_nothing(envs):
    guess = {"string": "example", "integer": 2, "number": 10, "boolean": False, "array": ["a", "b"], "object": {"name": "x", "value": "x", "title": "x"}}
    for e in envs:
        for d in e.docs:
            for keep in (d.parameters["required"], list(d.parameters["properties"])):
                arguments = {k: s.get("enum", [guess[s["type"]]])[-1] for k, s in d.parameters["properties"].items() if k in keep}
                text = shared().call(e.codes[d.name], d.name, arguments).content
                assert not any(verify(text, s.answer) for s in e.subquestions), (e.id, d.name)

def test_test_split_shares_no_tool_thing_or_held_relation_with_train():
    train, test = (list(build(24, ["geography", "chemistry"], seed=5, split=s, difficulty=2)) for s in ("train", "test"))
    names = lambda es: {re.sub(r"_\d+$", "", d.name) for e in es for d in e.docs}
    assert not names(train) & names(test)
    asked = lambda es: {t for e in es for s in e.subquestions for t in json.dumps(s.arguments, ensure_ascii=False).split('"') if t[:1].isupper()}
    assert not {t for t in asked(train) & asked(test) if t not in SHARED}

SHARED = {"Africa", "Asia", "Europe", "North America", "South America", "Oceania"}
