"Your own tables as worlds: every kind of file, a real PostgreSQL server, hostile data, and environments built from them."
import datetime
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `tables` is not installed")
pytest.importorskip("duckdb", reason="the extra `tables` is not installed")
import duckdb

from ftrl.core import FtrlError
from ftrl.environments.tables import make, read_names

WOODS, THINGS = "Oak Pine Elm Ash Fir Yew".split(), "Lamp Chair Desk Shelf Stool Table Bench".split()
MAKERS = [(i, f"{n} Works", ("Peru", "Chile", "Kenya")[i % 3], 1950 + i) for i, n in enumerate(
    "Aurora Boreas Cirrus Dawn Ember Fjord Glacier Harbor Isle Jasper Krill Lagoon".split(), 1)]
PRODUCTS = [(i, f"{w} {t}", i % 12 + 1, 10 + i * 1.25, i * 37 % 101, datetime.date(2020, 1, 1) + datetime.timedelta(i * 13))
            for i, (w, t) in enumerate(((w, t) for w in WOODS for t in THINGS), 1)]
MAKER = "create table makers(id integer primary key, name varchar(40) not null unique, country varchar(40), founded integer)"
PRODUCT = ("create table products(product_id integer primary key, name varchar(40), maker_id integer references makers(id), "
           "price_eur double precision, pages integer, launched_on date)")


def fill(run, mark="?"):
    "The same two tables anywhere"
    run(MAKER, None), run(PRODUCT, None)
    run(f"insert into makers values({', '.join([mark] * 4)})", MAKERS)
    run(f"insert into products values({', '.join([mark] * 6)})", PRODUCTS)


def sqlite(path):
    with sqlite3.connect(path) as c:
        fill(lambda s, rows: c.executemany(s, [[str(x) if isinstance(x, datetime.date) else x for x in r] for r in rows])
             if rows else c.execute(s))
    return str(path)


def duck(path):
    with duckdb.connect(str(path)) as c: fill(lambda s, rows: c.executemany(s, rows) if rows else c.execute(s))
    return str(path)


def flat(folder, kind):
    folder.mkdir()
    c = duckdb.connect()
    fill(lambda s, rows: c.executemany(s, rows) if rows else c.execute(s))
    for t in ("makers", "products"): c.execute(f"copy {t} to '{folder}/{t}.{kind}' (format {kind.split('.')[0]})")
    return str(folder)


def facts(world): return {id: (r.range, r.cardinality, r.facts) for id, r in world.relations.items()}


@pytest.mark.parametrize("kind", ["duckdb", "csv", "parquet"])
def test_same_facts(tmp_path, kind):
    "The kind of file makes no difference; foreign keys of flat files are found by name and value"
    other = duck(tmp_path / "shop.duckdb") if kind == "duckdb" else flat(tmp_path / "shop", kind)
    assert facts(make(other)) == facts(make(sqlite(tmp_path / "shop.db")))


def test_true(tmp_path):
    world = make(sqlite(tmp_path / "shop.db"))
    by_id, rel = {m[0]: m for m in MAKERS}, world.relations
    for _, name, maker, price, pages, day in PRODUCTS:
        assert rel["product.maker"].facts[name] == by_id[maker][1]
        assert rel["product.price"].facts[name] == f"{price:,.2f} EUR"
        assert rel["product.number_of_pages"].facts[name] == f"{pages} pages"
        assert rel["product.launched_on"].facts[name] == str(day)
    assert rel["product.maker"].range == "maker" and rel["maker.country"].range == "country"
    best = max((p for p in PRODUCTS if p[2] == 5), key=lambda p: p[3])
    assert rel["maker.product_with_highest_price"].facts[by_id[5][1]] == best[1]
    assert rel["country.maker_count"].facts["Peru"] == "4 makers"


def test_names_file(tmp_path):
    path, names = sqlite(tmp_path / "shop.db"), tmp_path / "out.yaml"
    first = make(path, names)
    written = names.read_bytes()
    assert facts(make(path, names)) == facts(first) and names.read_bytes() == written
    assert read_names(names)["relations"]["product.maker"]["ref"] == "id"
    names.write_text("kinds: [")
    with pytest.raises(FtrlError, match="out.yaml"): make(path, names)
    assert names.read_text() == "kinds: ["


def test_stable(tmp_path):
    "The same facts in the same order in processes of other hash seeds"
    path = sqlite(tmp_path / "shop.db")
    code = ("import sys, hashlib; from ftrl.environments.tables import make; w = make(sys.argv[1], limit=20); "
            "print(hashlib.sha256(repr([(i, r.phrases, list(r.facts.items())) for i, r in w.relations.items()]).encode()).hexdigest())")
    run = lambda seed: subprocess.run([sys.executable, "-c", code, path], env=os.environ | {"PYTHONHASHSEED": seed},
                                      capture_output=True, text=True, check=True).stdout
    assert run("1") == run("2")


HOSTILE = "Robert'); DROP TABLE students; --"


def test_hostile_names(tmp_path):
    "Names that look like SQL, other scripts, braces and percent signs: read as data, said as words"
    path = tmp_path / "odd.db"
    with sqlite3.connect(path) as c:
        c.execute('create table "stu""dents; --"("name" text primary key, "größe_cm" real, "価格" integer, "a{b}%s:c" text, "class" text)')
        c.executemany('insert into "stu""dents; --" values(?,?,?,?,?)', [
            (HOSTILE if i == 0 else f"Ünal {{x}} %s {i}", 150 + i / 2, 1000 + i, f"it's {{y}} {i}", ("blue group", "red group")[i % 2])
            for i in range(30)])
    world = make(str(path))
    rel = world.relations
    kind = next(k for k in world.kinds if k.startswith("stu"))
    assert rel[f"{kind}.grosse"].facts[HOSTILE] == "150.00 cm"
    assert "{x}" in rel[f"{kind}.grosse"].phrases[0] and "größe" in rel[f"{kind}.grosse"].phrases[0]
    assert all(i.isascii() and i.replace(".", "_").isidentifier() for i in rel)
    assert "class" not in world.kinds and any(r.range == "class_entry" for r in rel.values())
    assert any("価格" in r.phrases[0] and r.facts[HOSTILE] == "1,000" for r in rel.values() if r.domain == kind)
    with sqlite3.connect(path) as c: assert c.execute('select count(*) from "stu""dents; --"').fetchone() == (30,)


def test_dirty(tmp_path):
    "What is uncertain is left out and counted"
    path = sqlite(tmp_path / "shop.db")
    with sqlite3.connect(path) as c:
        c.execute("insert into products values(900, 'Ghost', 77, 5.5, 120, '2024-02-30')")
        c.execute("insert into products values(901, 'OAK LAMP', 1, 7.5, 130, '2024-02-03')")
        c.execute("insert into products values(902, 'Odd One', 1, 'cheap', 140, null)")
        c.execute("insert into products values(903, null, 2, 3.5, 150, '2024-02-03')")
    world = make(path)
    rel = world.relations
    assert "Ghost" not in rel["product.maker"].facts and "Ghost" not in rel["product.launched_on"].facts
    assert {"Oak Lamp", "OAK LAMP"} & set(rel["product.price"].facts) == set()
    assert "Odd One" not in rel["product.price"].facts
    assert not any("price" in i for i in rel if i.startswith("maker.")), "a column that holds a word has no largest number"
    assert rel["maker.product_count"].facts["Aurora Works"] == "5 products", "counts cover rows without a name too"
    told = "; ".join(world.omitted)
    for reason in ("refers to no maker", "names that several rows bear", "values of another type", "names missing"): assert reason in told


@pytest.mark.parametrize("text, said", [
    ("", "empty file"), ("\n\n", "no header"), ("name,price\n", "table t is empty"), ("a,b\n" + "1,2\n" * 9, "no column identifies a row"),
    ("name,x\n" + "".join(f"n{i},1,2,3\n" for i in range(30)), "30 of 30 lines cannot be read"),
    ("name,price,Price\n" + "".join(f"Lamp {i},{i},{i}\n" for i in range(30)), "2 columns are named 'price'"),
    ("name,flag\n" + "".join(f"Lamp {i},{i % 2 == 0}\n" for i in range(3)), "nothing can be asked")],
    ids=["void", "headless", "empty", "keyless", "ragged", "twins", "flags"])
def test_bad_csv(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(FtrlError, match=said): make(str(tmp_path / "t.csv"), tmp_path / "t.yaml")
    assert not (tmp_path / "t.yaml").exists()


def test_not_tables(tmp_path):
    (tmp_path / "x.db").write_bytes(b"SQLite format 3\0" + b"junk" * 99)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "latin.csv").write_bytes("name,price\n".encode() + "".join(f"Jos\xe9 {i},{i}\n" for i in range(99)).encode("latin-1"))
    sqlite3.connect(tmp_path / "void.db").execute("vacuum").close()
    for name in ("x.db", "x.parquet", "latin.csv", "void.db", "absent.csv"):
        with pytest.raises(FtrlError, match=name) as e: make(str(tmp_path / name))
        assert "\n" not in str(e.value)
    with pytest.raises(FtrlError, match="unreachable|refused|failed|database") as e: make("postgresql://me:hidden@127.0.0.1:9/shop")
    assert "hidden" not in str(e.value)


def test_missing_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    (tmp_path / "t.csv").write_text("name,price\nLamp,12.5\n")
    with pytest.raises(FtrlError, match=r"duckdb is missing; .*ftrl\[tables\]"): make(str(tmp_path / "t.csv"))


def test_codes_stay_text(tmp_path):
    rows = "".join(f"Town {i},{i:05},{i * 1.5},2024-01-{i % 28 + 1:02}\n" for i in range(40))
    (tmp_path / "towns.csv").write_text("name,postcode,height_m,day\n" + rows + "broken line\n", encoding="utf-8-sig")
    world = make(str(tmp_path / "towns.csv"))
    assert world.relations["town.postcode"].facts["Town 7"] == "00007"
    assert world.relations["town.height"].facts["Town 7"] == "10.50 m"
    assert world.omitted["towns: lines that do not fit the header"] == 1


def test_sample(tmp_path):
    "300,000 rows: a sample in Python, and counts and extremes of the whole"
    path = tmp_path / "big.parquet"
    duckdb.execute(f"""copy (select i as id, 'Thing ' || i as name, ['north', 'south', 'east'][1 + i % 3] as region,
        (i * 7919) % 300007 as weight_kg from range(300000) t(i)) to '{path}'""")
    world = make(str(path), limit=2000)
    rel = world.relations
    assert rel["region.big_count"].facts == {r: "100,000 bigs" for r in ("north", "south", "east")}
    heavy = rel["region.big_with_highest_weight"].facts["north"]
    assert heavy == duckdb.execute(f"select name from '{path}' where region = 'north' order by weight_kg desc limit 1").fetchone()[0]
    assert 2000 <= len(rel["big.weight"].facts) <= 2010
    assert facts(make(str(path), limit=2000)) == facts(world)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    "A PostgreSQL server of our own, on a free loopback port, as an unprivileged user"
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) or [Path(p) for p in [shutil.which("postgres")] if p]
    if not found: pytest.skip("no PostgreSQL server here: install the Debian package postgresql")
    psycopg = pytest.importorskip("psycopg", reason="the extra `tables` is not installed")
    home, who = tmp_path_factory.mktemp("postgres"), {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        who = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(home, "postgres", "postgres")
        for p in home.parents:  # pytest's folders are closed to others; let this user pass, not look
            if p.stat().st_uid == os.getuid() and not p.stat().st_mode & 1: p.chmod(p.stat().st_mode | 1)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {"cwd": home, **who}
    subprocess.run([found[-1].with_name("initdb"), "-D", "data", "-U", "ftrl", "--auth=trust", "--no-sync", "--encoding=UTF8",
                    "--locale=C.UTF-8"], check=True, capture_output=True, **common)
    log = open(home / "log", "w")
    server = subprocess.Popen([found[-1], "-D", "data", "-p", str(port), "-h", "127.0.0.1", "-k", home, "-F"], stdout=log, stderr=log, **common)
    url = f"postgresql://ftrl@127.0.0.1:{port}/postgres"
    try:
        for _ in range(300):
            try: psycopg.connect(url, connect_timeout=5).close(); break
            except psycopg.OperationalError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(.1)
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # its fast shutdown
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill()
        log.close()


def test_postgres(postgres, tmp_path):
    import psycopg
    with psycopg.connect(postgres) as c:
        fill(lambda s, rows: c.cursor().executemany(s, rows) if rows else c.execute(s), "%s")
        c.execute("create type mood as enum ('calm mood', 'wild mood')")
        c.execute("create table visits(id uuid primary key default gen_random_uuid(), title text, code char(8), feel mood, at timestamptz, "
                  "cost numeric(8,2), extra jsonb, tags text[], product_id integer references products)")
        c.execute("insert into visits(title, code, feel, at, cost, product_id) select 'Visit ' || i, 'K' || i, "
                  "(array['calm mood', 'wild mood'])[1 + i % 2]::mood, '2024-01-01'::timestamptz + i * interval '1 hour', i * 1.5, 1 + i % 42 "
                  "from generate_series(1, 200) i")
    world = make(postgres, tmp_path / "names.yaml")
    rel = world.relations
    ours = {i: f for i, f in facts(make(sqlite(tmp_path / "shop.db"))).items()}
    for id, f in ours.items(): assert facts(world)[id] == f, id
    assert rel["visit.product"].facts["Visit 41"] == PRODUCTS[41][1] and rel["visit.cost"].facts["Visit 41"] == "61.50"
    assert "feel" in world.kinds
    assert rel["feel.visit_with_highest_cost"].facts["calm mood"] == "Visit 200"
    assert rel["product.visit_count"].facts[PRODUCTS[0][1]] == "4 visits"
    assert world.omitted["table visits.extra: holds JSONB, no plain values"] == 1
    assert facts(make(postgres, tmp_path / "names.yaml")) == facts(world)
    few = make(postgres, limit=50)
    for id, r in few.relations.items():
        for s, o in r.facts.items(): assert rel[id].facts[s] == o, (id, s)
    assert len(few.relations["visit.cost"].facts) <= 150


def test_build(tmp_path):
    "Environments from a file pass every gate, and the same call gives the same bytes"
    from ftrl.environments.build import build
    from ftrl.environments.gate import check, passed
    world = make(sqlite(tmp_path / "shop.db"))
    envs = list(build(8, worlds=[world], seed=3, difficulty=(0, 2)))
    assert [e.world for e in envs] == ["shop"] * 8 and all(passed(check(e)) for e in envs)
    assert envs == list(build(8, worlds=[make(str(tmp_path / "shop.db"))], seed=3, difficulty=(0, 2)))
