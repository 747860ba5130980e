"""A small package of one's own adds records to ftrl: made here, installed with pip, used by commands.

To show another kind of record, add its module and its entry point to `PACKAGE`, and a test that names it.
"""
import json
import os
import subprocess
import sys

import pytest
import forks
from conftest import ROOT

from ftrl.records import Env
from ftrl.environments.gate import check, passed
from ftrl.rows import load_rows

PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "ftrl-rivers"
version = "1"

[tool.setuptools]
packages = ["ftrl_rivers"]

[project.entry-points."ftrl.worlds"]
rivers = "ftrl_rivers.world:rivers"
broken = "ftrl_rivers.nowhere:world"
geography = "ftrl_rivers.world:rivers"

[project.entry-points."ftrl.benchmarks"]
capitals = "ftrl_rivers.benchmark:Capitals"
capitals_by_class = "ftrl_rivers.benchmark:Undecorated"
broken = "ftrl_rivers.nowhere:bench"

[project.entry-points."ftrl.rewards"]
solve-any = "ftrl_rivers.reward:solve_any"
not-a-reward = "ftrl_rivers.reward:weigh_any"

[project.entry-points."ftrl.algorithms"]
centred = "ftrl_rivers.algorithm:centred"
broken = "ftrl_rivers.nowhere:algorithm"

[project.entry-points."ftrl.models"]
parrot = "ftrl_rivers.model:Parrot"

[project.entry-points."ftrl.bridges"]
ids = "ftrl_rivers.bridge:ids"
""",
    "ftrl_rivers/__init__.py": "",
    "ftrl_rivers/world.py": """
from ftrl.core import rng
from ftrl.environments.world import Kind, Relation, World, quantity


def rivers():
    r = rng("rivers")
    ends = "mora", "tine", "wick", "zor", "lune"
    names = [f"{start}{end}" for start in ("Bel", "Cor", "Dun", "Eska", "Fal") for end in ends]
    towns = [f"{n[:3]}haven{i}" for i, n in enumerate(names)]
    lengths = {n: quantity(r.randrange(1000, 9000), "km") for n in names}
    mouths = dict(zip(names, towns))
    people = {t: quantity(r.randrange(10_000, 90_000), "people") for t in towns}
    kinds = [Kind("river", "rivers", "its name"), Kind("town", "towns", "its name")]
    return World("rivers", "Invented rivers", kinds, [
        Relation("length", "river", "number", ("the length of {x}",), lengths),
        Relation("mouth", "river", "town", ("the town at the mouth of {x}",), mouths, "1:1"),
        Relation("population", "town", "number", ("the population of {x}",), people)])
""",
    "ftrl_rivers/benchmark.py": """
from ftrl.evaluation.protocol import Bench, Item, add_benchmark
from ftrl.training.rollout import Episode

CAPITALS = {"Peru": "Lima", "Chile": "Santiago"}


class Undecorated(Bench):
    name, label, columns, order = "capitals_by_class", "Capitals", {"right": "Capitals"}, 200

    def items(self, data):
        for country in CAPITALS:
            yield Item(country, "all", country)

    def episode(self, item, key, protocol):
        question = {"role": "user", "content": f"What is the capital of {item.data}?"}
        return Episode(key, [question], id=item.id, scenario=item.scenario)

    def score(self, episode):
        return {"right": float(CAPITALS[episode.id] in episode.messages[-1]["content"])}


@add_benchmark
class Capitals(Undecorated):
    name = "capitals"
""",
    "ftrl_rivers/reward.py": """
from ftrl.training.reward import Reward


def weigh_any(solved, calls):
    return 7.0 if solved else -7.0


solve_any = Reward("solve-any", weigh_any, "Any")
""",
    "ftrl_rivers/algorithm.py": """
from ftrl.training.algorithm import Algorithm


def advantage(sampling):
    groups = sampling.rewards.nan_to_num().view(-1, sampling.group)
    return (groups - groups.mean(1, keepdim=True)).view(-1)[sampling.here]


centred = Algorithm("centred", "Centred", "#117733", advantage)
""",
    "ftrl_rivers/model.py": """
from ftrl.models.llm import LLM, answer


class Parrot(LLM):
    def __init__(self, text, **options):
        self.name, self.text = f"parrot:{text}", text

    def chat(self, requests, max_new_tokens=1024, temperature=0.0, seed=0):
        return [answer(self.text, len(request.messages)) for request in requests]
""",
    "ftrl_rivers/bridge.py": """
from pathlib import Path

from ftrl.bridges.bridge import Bridge


def write(rows, out, reward="solve-f1", force=False):
    Path(out).write_text("".join(f"{reward}: {row.id}\\n" for row in rows))
    return Path(out)


ids = Bridge("ids", "the ids alone, one a line", write)
""",
}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    "Run `ftrl ...` where the package is installed"
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in PACKAGE.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index",
               "--quiet", "--disable-pip-version-check", "--target", site, source]
    subprocess.run(install, check=True, timeout=300)
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}", "TQDM_DISABLE": "1"}

    def run(*words, code="from ftrl.cli import main; main()"):
        line = [sys.executable, "-c", code, *map(str, words)]
        return forks.run(line, env=env)

    return run


@pytest.fixture(scope="module")
def envs(command, tmp_path_factory):
    "Environments of the package's world"
    out = tmp_path_factory.mktemp("envs") / "envs.jsonl"
    done = command("build", "--world", "rivers", "-n", 4, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_world(envs):
    "`ftrl build --world` takes a world of an installed package; its environments pass every gate"
    built = [Env.from_row(row) for row in load_rows(envs)]
    assert len(built) == 4 and {env.world for env in built} == {"rivers"}
    assert all(passed(check(env)) for env in built)


def test_unknown_world(command, tmp_path):
    "An unknown name is answered by the names there are, those of packages last"
    done = command("build", "--world", "atlantis", "-n", 1, "--out", tmp_path / "a.jsonl")
    assert done.returncode == 2 and "shops, units, broken, rivers" in done.stderr, done.stderr


def test_broken_world(command, tmp_path):
    "A package whose entry point leads nowhere: one line that names it"
    done = command("build", "--world", "broken", "-n", 1, "--out", tmp_path / "a.jsonl")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "cannot be loaded from 'ftrl_rivers.nowhere:world'" in done.stderr


def test_ours_stay(command, tmp_path):
    "A package changes neither a world of ours nor a build that names no world"
    done = command("build", "-n", 12, "--scenario", "single_hop", "--out", tmp_path / "a.jsonl")
    assert done.returncode == 0, done.stderr
    assert {row.meta["world"] for row in load_rows(tmp_path / "a.jsonl")} == {
        "aviation", "calendar", "chemistry", "geography", "languages", "numbers", "shops", "units"}


@pytest.mark.parametrize("name", ["capitals", "capitals_by_class"])
def test_benchmark_and_model(command, name, tmp_path):
    "A benchmark of a package, its class decorated or bare, played by a package's kind of model"
    out = tmp_path / "result.jsonl"
    done = command("evaluate", name, "--model", "parrot:It is Lima.", "--out", out)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    right = {line["id"]: line["metrics"]["right"] for line in lines}
    assert right == {"Peru": 1.0, "Chile": 0.0}
    table = command("table", out)
    assert table.returncode == 0 and "Capitals" in table.stdout and "50.0" in table.stdout, table.stderr


def test_model_collects(command, envs, tmp_path):
    "`ftrl collect` plays with a package's kind of model"
    out = tmp_path / "rows.jsonl"
    done = command("collect", envs, "--model", "parrot:I do not know.", "--out", out)
    assert done.returncode == 0, done.stderr
    assert len(load_rows(out)) == 4


def test_reward(command, envs, tmp_path):
    "`ftrl score` weighs the calls of a turn by a package's reward"
    tool = "def f(x):\n    return x"
    row = {"messages": [{"role": "user", "content": "?"}], "tools": "[]", "codes": json.dumps({"f": tool}),
           "unsolved_set": json.dumps({"f": ["1"]}), "solve_rate": 0.0, "data_source": "own",
           "split": "train", "answer": "1"}
    turns = [f'<tool_call>{{"name": "f", "arguments": {{"x": "{x}"}}}}</tool_call>' for x in (1, 2)]
    path, out = tmp_path / "turns.jsonl", tmp_path / "scored.jsonl"
    path.write_text("".join(json.dumps(row | {"response": turn}) + "\n" for turn in turns))
    done = command("score", path, "--reward", "solve-any", "--out", out)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["reward"] for line in out.read_text().splitlines()] == [7.0, -7.0]


def test_bridge(command, envs, tmp_path):
    "`ftrl export --to` writes through a package's bridge, which is told the package's reward"
    out = tmp_path / "ids.txt"
    done = command("export", envs, "--to", "ids", "--reward", "solve-any", "--out", out)
    assert done.returncode == 0 and "the ids alone" in done.stdout, done.stderr
    assert [line.split(": ")[0] for line in out.read_text().splitlines()] == ["solve-any"] * 4


def test_verl_knows_the_reward(command, envs, tmp_path):
    "Our own bridge hands a package's reward on by its name"
    done = command("export", envs, "--to", "verl", "--reward", "solve-any", "--out", tmp_path / "verl")
    assert done.returncode == 0, done.stderr
    assert "compute_solve_any" in (tmp_path / "verl" / "reward.py").read_text()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A tiny random model with a real tokenizer"
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftrl.models.local import load_tokenizer
    where, tokenizer = tmp_path_factory.mktemp("tiny"), load_tokenizer("smollm2")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=8192)
    LlamaForCausalLM(config).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


def test_algorithm(command, envs, tiny, tmp_path):
    "`ftrl train` takes two steps by a package's algorithm and reward"
    done = command("train", envs, "--model", tiny, "--profile", "smoke", "--algorithm", "centred",
                   "--reward", "solve-any", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "2 steps" in done.stdout
    assert "Centred" in "".join(p.read_text() for p in (tmp_path / "run").rglob("*.md"))


@pytest.mark.parametrize("words", [("train", "--algorithm"), ("score", "--reward"), ("export", "--to"),
                                   ("evaluate", ""), ("collect", "--model")])
def test_help_lists_them(command, words):
    "Help lists what packages add, from the same records"
    added = {"--algorithm": "centred", "--reward": "solve-any", "--to": "ids", "": "capitals",
             "--model": "parrot:"}
    done = command(words[0], "--help")
    assert added[words[1]] in done.stdout, done.stdout + done.stderr


def test_wrong_record(command, envs, tmp_path):
    "What is no record of that kind is said in one line that names its place"
    scored = command("score", envs, "--reward", "not-a-reward", "--out", tmp_path / "s.jsonl")
    assert scored.returncode == 2 and scored.stderr.count("\n") == 1, scored.stderr
    assert "expected 'ftrl_rivers.reward:weigh_any' to be a Reward" in scored.stderr


def test_broken_ones_disturb_nobody(command):
    "Whoever reads all records is not held up by a package that cannot be loaded"
    code = "from ftrl.figures.style import checkpoints; from ftrl.evaluation.suite import SUITES; " \
           "print(*checkpoints(), *SUITES)"
    done = command(code=code)
    assert done.returncode == 0, done.stderr
    assert "rloo centred" in done.stdout and "mmlu" in done.stdout
