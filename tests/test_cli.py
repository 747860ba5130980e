"Commands as a user types them: help, bad input, nothing half-written, the paper's reward on recorded turns."
import json
import subprocess
import sys

import pytest

FTRL = [sys.executable, "-c", "from ftrl.cli import main; main()"]
VERBS = "build check show collect score train evaluate table delta figures reproduce bench".split()


def ftrl(*words, **kwargs):
    return subprocess.run([*FTRL, *map(str, words)], text=True, capture_output=True, timeout=120, **kwargs)


def refused(run, *said):
    assert run.returncode == 2, run.stdout + run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    for part in said: assert part in run.stderr


TOOLS = {"find_capital": "def find_capital(country):\n    return {'Peru': 'Lima', 'Chile': 'Santiago'}[country]",
         "find_people": "def find_people(city, year=2020):\n    return {'city': city, 'people': '1,234,567'}"}
ROW = {"messages": [{"role": "user", "content": "Question: ?"}], "tools": "[]", "codes": json.dumps(TOOLS),
       "unsolved_set": json.dumps({"find_capital": ["Lima", "Santiago"], "find_people": ["1234567"]}), "solve_rate": 0.0,
       "data_source": "self/multi_hop", "split": "train", "answer": "1,234,567"}
DONE = ROW | {"unsolved_set": json.dumps({"find_capital": []}), "solve_rate": 1.0}


def call(name, **arguments): return f'<tool_call>\n{json.dumps({"name": name, "arguments": arguments})}\n</tool_call>'


PERU, CHILE, LIMA = call("find_capital", country="Peru"), call("find_capital", country="Chile"), call("find_people", city="Lima")
CASES = [  # row, turn, solve-f1, solve-precision, solve-rate, solve-pr
    (ROW, PERU, 1, 1, 1, 1),
    (ROW, PERU + CHILE + LIMA, 1.5, 1, 3, 3),
    (ROW, f"First this.\n{PERU}\n{call('find_capital', country='Oz')}<|im_end|>", 2 / 3, .5, 1, .5),
    (ROW, PERU + PERU, 2 / 3, .5, 1, .5),
    (ROW, call("nowhere", a=1), 0, 0, 0, 0),
    (ROW, '<tool_call>{"name": "find_people", "arguments": "{\\"city\\": \\"Lima\\"}"}', 1, 1, 1, 1),
    (ROW, f"<tool_call>{{oops}}</tool_call>{CHILE}", 1, 1, 1, 1),
    (ROW, '<tool_call>{"name": "find_people", "arguments": "[1]"}</tool_call>', 0, 0, 0, 0),
    (ROW, "<tool_call>{oops}</tool_call>", -.3, -.3, -.3, -.3),
    (ROW, "</tool_call>", -.3, -.3, -.3, -.3),
    (ROW, "a <tool_parsed_response> b", -.3, -.3, -.3, -.3),
    (ROW, " \n<|im_end|>", -.5, -.5, -.5, -.5),
    (ROW, "There are 1234567 people.", .25, .25, .25, .25),
    (ROW, "I do not know.", 0, 0, 0, 0),
    (DONE, "There are 1,234,567 people.<|im_end|><|endoftext|>", 1, 1, 1, 1),
    (DONE, "All is found.", .5, .5, .5, .5),
    (DONE, PERU, 0, 0, 0, 0),
]


@pytest.mark.parametrize("i, reward", list(enumerate(["solve-f1", "solve-precision", "solve-rate", "solve-pr"])))
def test_score(tmp_path, i, reward):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row | {"response": turn}) + "\n" for row, turn, *_ in CASES))
    run = ftrl("score", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--reward", reward)
    assert run.returncode == 0, run.stderr
    got = [json.loads(line)["reward"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert got == pytest.approx([c[2 + i] for c in CASES])


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb):
    run = ftrl(verb, "--help")
    assert run.returncode == 0 and f"ftrl {verb}" in run.stdout


def test_bad_input(tmp_path):
    (tmp_path / "broken.jsonl").write_text(json.dumps(ROW) + "\n{\"messages\": [\n")
    (tmp_path / "short.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps({k: v for k, v in ROW.items() if k != "codes"}))
    out = tmp_path / "out.jsonl"
    (tmp_path / "good.jsonl").write_text(json.dumps(ROW) + "\n")
    before = sorted(tmp_path.iterdir())
    refused(ftrl("evaluate", "toolhopp", "--model", "smollm2", "--out", out), "toolhopp", "toolhop")
    refused(ftrl("evaluate", "ftrl", "--model", tmp_path / "no" / "model", "--data", tmp_path / "good.jsonl", "--out", out), "model")
    refused(ftrl("evaluate", "ftrl", "--model", "smollm2", "--data", tmp_path / "short.jsonl", "--out", out), "line 2")
    refused(ftrl("score", tmp_path / "absent.jsonl", "--out", out), "absent.jsonl")
    refused(ftrl("score", tmp_path / "broken.jsonl", "--out", out), "line 1", "`response`")
    refused(ftrl("check", tmp_path / "short.jsonl"), "line 2", "codes")
    refused(ftrl("show", tmp_path / "broken.jsonl", "-i", 1), "line 2")
    refused(ftrl("collect", tmp_path / "short.jsonl", "--model", "smollm2", "--out", tmp_path / "r.parquet"), "line 2")
    refused(ftrl("train", tmp_path / "broken.jsonl", "--model", "smollm2", "--out", tmp_path / "m"), "line 2")
    refused(ftrl("train", tmp_path / "broken.jsonl", "--model", "smollm2", "--out", tmp_path / "m", "--lr", "nan"), "lr")
    refused(ftrl("build", "--out", tmp_path / "e.csv", "-n", 2), ".jsonl")
    refused(ftrl("build", "--out", out, "-n", 2, "--scenario", "no_hop"), "single_hop")
    refused(ftrl("delta", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "d.parquet"), "a")
    refused(ftrl("figures", "--runs", tmp_path / "none"), "none")
    refused(ftrl("reproduce", "--profile", "huge", "--out", tmp_path / "run"), "tiny")
    refused(ftrl("table", tmp_path / "absent.jsonl"), "absent.jsonl")
    assert sorted(tmp_path.iterdir()) == before, "bad input left a file behind"
