"The README's commands run as they are pasted, in their order: here with a tiny random model and small sizes."
import re
import shlex

import pytest
from conftest import ROOT
from typer.testing import CliRunner

SMALL = {  # what a command is given beside the README's words
    "cold": ["--steps", "2", "--envs", "2", "--variants", "2"],
    "collect": ["--turns", "2", "--max-new-tokens", "16"],
    "train": ["--steps", "1", "--prompts", "2", "--group", "2", "--length", "8"],
    "evaluate": ["--limit", "3", "--turns", "2", "--max-new-tokens", "16"]}


def pasted():
    "The commands of the README's block, word by word, without comments"
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    block, = [b for b in blocks if "ftrl collect" in b]
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A two-layer model with random weights that stands in for the default one"
    from ftrl.runs.folder import Run
    from ftrl.runs.policies import base
    return base(Run(tmp_path_factory.mktemp("model")), "random")


def test_readme_commands_run_in_their_order(tiny, tmp_path, monkeypatch):
    from ftrl.cli import app
    monkeypatch.chdir(tmp_path)
    words = pasted()
    verbs = {"build", "check", "show", "cold", "collect", "train", "evaluate", "table", "delta"}
    assert verbs <= {w[1] for w in words}
    for _, verb, *rest in words:
        rest = [tiny if word == "smollm2" else "12" if word in ("200", "40") else word for word in rest]
        done = CliRunner().invoke(app, [verb, *rest, *SMALL.get(verb, [])])
        said = f"ftrl {verb} {' '.join(rest)}\n{done.output[-800:]}\n{done.exception!r}"
        assert done.exit_code == 0, said
    made = {"envs.jsonl", "test.jsonl", "cold", "rows.parquet", "policy", "results.jsonl", "delta.parquet"}
    assert made <= {p.name for p in tmp_path.iterdir()}
