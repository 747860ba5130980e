"The site: it builds, its links lead somewhere, and a real browser shows it without complaint"
import contextlib, functools, http.server, json, os, shutil, subprocess, threading, time, urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


def make_site(root):
    "The site, built from a copy of the repository"
    for name in ("nbs", "figures", "results"):
        left_out = (".ipynb_checkpoints", *(["models"] if name == "results" else []))
        ignore = shutil.ignore_patterns(*left_out)
        if (ROOT/name).is_dir(): shutil.copytree(ROOT/name, root/name, ignore=ignore)
    for name in ("CHANGELOG.md", "LOG.md", "CONTRIBUTING.md"):
        if (ROOT/name).exists(): shutil.copy(ROOT/name, root)
    from ftrl.runs.site.docs import build_site
    return build_site(root)


class Browser:
    "A headless Chromium, driven over its debugging protocol"
    def __init__(self, folder):
        import websocket
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu",
                   "--disable-dev-shm-usage", "--remote-debugging-port=0", "--remote-allow-origins=*",
                   f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = folder/"DevToolsActivePort"
        for _ in range(300):
            if port.exists() and port.read_text().strip(): break
            time.sleep(0.1)
        number = port.read_text().split()[0]
        tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{number}/json"))
        page = next(t for t in tabs if t["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=30)
        self.n, self.events = 0, []
        for domain in ("Page", "Runtime", "Log", "Network"): self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        "Send a command and wait for its answer; events are kept"
        self.n += 1
        self.socket.send(json.dumps({"id": self.n, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv())).get("id") != self.n: self.events.append(message)
        return message.get("result", {})

    def visit(self, url):
        "Open a page; what it complained about"
        self.events.clear()
        self.ask("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(json.loads(self.socket.recv()))
        images = ("JSON.stringify([...document.images]"
                  ".filter(i => i.complete && !i.naturalWidth).map(i => i.src))")
        value = self.ask("Runtime.evaluate", expression=images)["result"]["value"]
        wrong = [f"broken image {s}" for s in json.loads(value)]
        wrong += [why for e in self.events if (why := complaint(e.get("method"), e.get("params", {})))]
        return wrong

    def value(self, expression):
        "What a page says when it is asked in JavaScript"
        return self.ask("Runtime.evaluate", expression=expression)["result"].get("value")

    def phone(self):
        "From now on the screen of a phone, in the dark"
        screen = dict(width=390, height=844, deviceScaleFactor=2, mobile=True)
        self.ask("Emulation.setDeviceMetricsOverride", **screen)
        self.ask("Emulation.setEmulatedMedia",
                 features=[{"name": "prefers-color-scheme", "value": "dark"}])

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)


def complaint(method, params):
    "What an event complains about; nothing if it does not"
    if method == "Runtime.exceptionThrown":
        return f"exception {params['exceptionDetails'].get('text')}"
    if method == "Log.entryAdded" and params["entry"]["level"] == "error":
        return f"console {params['entry']['text']} {params['entry'].get('url')}"
    if method == "Runtime.consoleAPICalled" and params["type"] == "error":
        return f"console {params['args']}"
    if method == "Network.responseReceived" and params["response"]["status"] >= 400:
        return f"missing {params['response']['url']}"
    return None


def browser(folder):
    "A browser, or a skip that says what is missing"
    if CHROMIUM is None:
        pytest.skip("no Chromium here, so pages were not opened in a browser: apt-get install chromium")
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    return contextlib.closing(Browser(folder))


@contextlib.contextmanager
def server(site):
    "The site behind a web server"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{s.server_port}"
    s.shutdown()


def test_site(tmp_path):
    pytest.importorskip("zensical", reason="zensical is not installed: pip install zensical")
    site = make_site(tmp_path)
    from ftrl.runs.site.docs import broken
    pages = sorted(p.name for p in site.glob("*.html") if p.name != "404.html")
    found = (ROOT/"nbs").rglob("[0-9]*.ipynb")
    books = {f"{p.stem}.html" for p in found if ".ipynb_checkpoints" not in p.parts}
    assert books | {"index.html", "api.html", "figures.html"} <= set(pages)
    for page in site.glob("*.html"):
        text = page.read_text()
        assert "#LNone" not in text and "=Annotated" not in text, page.name
    assert "<math" in (site/"00_reward.html").read_text()
    assert broken(site) == []
    found = (site/"search.json").read_text()
    assert "diff" in found and "solve_f1" in found
    assert "train on my own data" in found
    if not os.environ.get("FTRL_ALL_PAGES"):
        pages = ["index.html", "api.html", "figures.html", "04_update.html", "06_questions.html", *pages[::8]]
    with browser(tmp_path/"profile") as b, server(site) as url:
        assert {p: w for p in pages if (w := b.visit(f"{url}/{p}"))} == {}
        assert b.visit(f"{url}/nowhere.html")   # a page that is not there is noticed
        on_a_phone(b, url)


def on_a_phone(b, url):
    "Nothing is wider than the screen or blown up, what follows the system's wish is dark, search is there"
    b.phone()
    b.value("localStorage.clear()")  # what the first visit, by day, has kept
    blown = "[...document.images].filter(i => i.width > i.naturalWidth).map(i => i.src).join()"
    for page in ("index.html", "00_own_data.html", "00_turn.html", "figures.html", "04_update.html"):
        b.visit(f"{url}/{page}")
        assert b.value(blown) == "", page
        assert b.value("document.documentElement.scrollWidth") <= 390, page
        assert b.value("document.body.dataset.mdColorScheme") == "slate", page
        assert b.value("document.querySelectorAll('[data-md-component=search]').length") > 0, page


def test_a_report_in_a_browser(tmp_path):
    from ftrl.figures import figure
    from ftrl.runs import record
    from ftrl.files import write_json_lines
    steps = [{"step": i, "reward": i / 10} for i in range(10)]
    write_json_lines(steps, tmp_path/"train"/"grpo"/"metrics.jsonl")
    figure.draw(tmp_path)
    with browser(tmp_path/"profile") as b: assert b.visit(record.write_report(tmp_path).as_uri()) == []
