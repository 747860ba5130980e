"Every notebook of a module runs as nbdev runs it and says what it keeps. (Run notebooks: test_reproduce.py.)"
import os
import sys

import pytest
from conftest import ROOT
from forks import FIXED, run
from outputs import books


PROGRAM = """
import sys
from pathlib import Path
import nbformat
sys.path.insert(0, "tests")
from outputs import behind, executed
path = Path(sys.argv[1]).resolve()
kept, now = nbformat.read(path, 4), executed(path)
if now is None:
    sys.exit(1)
left = behind(path, kept, now)
if left:
    print(*left, sep="\\n\\n", file=sys.stderr)
    sys.exit(f"{len(left)} kept outputs are not printed now; python tests/outputs.py {sys.argv[1]}")"""


@pytest.mark.parametrize("book", [path.relative_to(ROOT).as_posix() for path in books()])
def test_notebook(book):
    done = run([sys.executable, "-c", PROGRAM, book], cwd=ROOT, env=os.environ | FIXED | {"IN_TEST": "1"})
    assert done.returncode == 0, f"{book}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
