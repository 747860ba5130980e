"""What notebooks print and show, kept in them: `python tests/outputs.py [NOTEBOOK…]` (`make outputs`: all).

Each is executed twice, as nbdev runs it. What a cell prints is kept if it is the same both times and tells
nothing of this machine; timings, paths and addresses are not. The tests execute every notebook anyway, and
compare: words that are kept must be the words that are printed now. What a machine computes differs in its
last digits and, where a model writes, in words: neither numbers are compared nor folders where models work.
The pages, README's among them, say what committed files hold, so they are compared to the letter.
"""
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPUTED = {"models", "training", "weights", "evaluation", "runs", "figures"}  # folders that are not compared
PAGES = ("index.ipynb", "91_results.ipynb", "92_map.ipynb")  # notebooks that make no module
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?|\bnan\b|\binf\b")
_TEMPORARY = re.compile(r"/tmp/tmp\w+/?")  # left out wherever a path begins with it
_HERE = re.compile(r"/tmp/|/root/|/home/|0x[0-9a-f]{6,}|site-packages")


def books():
    "Every notebook that makes a module, and the pages"
    found = [p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    return sorted(p for p in found if p.name in PAGES or "#| default_exp" in p.read_text())


def executed(path):
    "A notebook with the outputs of its cells, run from top to bottom; None where a cell fails"
    from execnb.shell import CaptureShell
    from nbdev.process import NBProcessor
    from nbdev.frontmatter import FrontmatterProc
    skipped = {"notest", "slow", "gpu"}

    def passed_over(cell):
        told = getattr(cell, "directives_", {}) or {}
        off = told.get("eval:", [""])[0].lower() == "false"
        return cell.cell_type != "code" or off or skipped & told.keys()

    sys.path.insert(0, str(ROOT))
    nb = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    shell = CaptureShell(path, mpl_format="png")
    for module in ("ftrl.figures.style", "__main__"):  # our figures draw themselves, as in Jupyter
        shell.display_formatter.formatters["image/png"].for_type_by_name(module, "Sheet", _drawn)
    os.chdir(path.parent)
    try:
        shell.run_all(nb, exc_stop=True, preproc=passed_over)
    except Exception:
        sys.stderr.write(shell.prettytb(fname=path) + "\n")
        return None
    return nb


def _drawn(figure):
    return figure._repr_png_()


def printed(cell):
    "What a cell prints; of a picture nothing"
    parts = []
    for o in cell.get("outputs", []):
        data = o.get("data", {})
        if o.get("name") != "stderr" and "image/png" not in data:
            parts.append(_text(o.get("text") or data.get("text/markdown") or data.get("text/plain") or ""))
    return "\n".join(parts)


def words(cell):
    "What a cell prints, without numbers, spaces and lines drawn in tables"
    return re.sub(r"[\s\-:|…]+", " ", _NUMBER.sub("#", printed(cell))).strip()


def _text(told):
    return _TEMPORARY.sub("", told if isinstance(told, str) else "".join(told))


def behind(path, kept, now):
    "Cells of a notebook whose kept words are not what they print now"
    from ftrl.files import data_dir
    lacking = data_dir() is None and "data_dir()" in path.read_text()  # not everywhere
    if lacking or COMPUTED & set(path.relative_to(ROOT).parts):
        return []
    assert len(kept.cells) == len(now.cells)
    page = path.name in PAGES
    told = printed if page else words
    pairs = [(told(a), told(b)) for a, b in zip(kept.cells, now.cells) if page or a.get("outputs")]
    return [f"kept: {before[:300]}\nnow:  {after[:300]}" for before, after in pairs if before != after]


def _shown(cell):
    "The outputs of a cell that are worth keeping, as notebooks have them"
    found = []
    for o in cell.get("outputs", []):
        o = dict(o)
        if o.get("name") == "stderr" or o["output_type"] == "error":
            continue
        if "execution_count" in o:
            o["execution_count"] = None
        if "text" in o:
            o["text"] = _text(o["text"])
        if "data" in o:
            o["data"] = {kind: _text(told) if "text/" in kind else told for kind, told in o["data"].items()}
        if "image/png" in o.get("data", {}):
            o["data"]["image/png"] = "".join(_text(o["data"]["image/png"]).split())
        found.append(o)
    return found


def _texts(outputs):
    "What outputs say; the letters of a picture say nothing, though some look like an address"
    for o in outputs:
        yield o.get("text", "")
        yield from (v for kind, v in o.get("data", {}).items() if kind.startswith("text/"))


def _of_machine(outputs):
    "Do they tell of this machine?"
    from ftrl.perf import machine
    told = "\n".join(map(_text, _texts(outputs)))
    names = (str(ROOT), str(Path.home()), sys.prefix, machine()["cpu"])
    return bool(_HERE.search(told)) or any(name in told for name in names)


def keep(path):
    "Execute a notebook twice and keep what it says both times; how many cells have something to say"
    import nbformat
    from forks import FIXED, run
    runs = []
    for _ in range(2):
        program = [sys.executable, __file__, "--execute", str(path)]
        done = run(program, cwd=ROOT, env=os.environ | FIXED | {"IN_TEST": "1"})
        if done.returncode:
            raise SystemExit(f"{path}: a cell fails\n{done.stderr[-3000:]}")
        runs.append(nbformat.reads(done.stdout[done.stdout.index('{\n'):], 4))
    nb, count = nbformat.read(path, 4), 0
    for cell, one, two in zip(nb.cells, runs[0].cells, runs[1].cells):
        if cell.cell_type != "code":
            continue
        first, second = _shown(one), _shown(two)
        private = cell.source.startswith("#| hide") or _of_machine(first)
        cell.outputs = [] if private or first != second else [nbformat.from_dict(o) for o in first]
        count += bool(cell.outputs)
    nbformat.write(nb, path)
    return count


if __name__ == "__main__":
    if sys.argv[1:2] == ["--execute"]:
        import contextlib
        import io
        import json
        with contextlib.redirect_stdout(io.StringIO()):
            now = executed(Path(sys.argv[2]).resolve())
        sys.exit(1) if now is None else print(json.dumps(now, indent=1, default=dict))
    else:
        for book in [Path(p).resolve() for p in sys.argv[1:]] or books():
            print(f"{book.relative_to(ROOT)}: {keep(book)} cells", flush=True)
