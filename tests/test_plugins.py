"""A small package of one's own adds records to ftrl: made here, installed with pip, used by commands.

To show another kind of record, add its module and its entry point to `PACKAGE`, and a test that names it.
"""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from ftrl.core import Env
from ftrl.environments.gate import check, passed
from ftrl.files import load_rows

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

    def run(*words):
        line = [sys.executable, "-c", "from ftrl.cli import main; main()", *map(str, words)]
        return subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)

    return run


def test_world(command, tmp_path):
    "`ftrl build --world` takes a world of an installed package; its environments pass every gate"
    out = tmp_path / "envs.jsonl"
    done = command("build", "--world", "rivers", "-n", 4, "--out", out)
    assert done.returncode == 0, done.stderr
    envs = [Env.from_row(row) for row in load_rows(out)]
    assert len(envs) == 4 and {env.world for env in envs} == {"rivers"}
    assert all(passed(check(env)) for env in envs)


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
