"Your own tables as worlds: every kind of file, a real PostgreSQL server, hostile data, and environments."

import datetime
import gzip
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `tables` is not installed")
pytest.importorskip("duckdb", reason="the extra `tables` is not installed")
import duckdb

from ftrl.core import FtrlError
from ftrl.environments.tables import make, names_file, open_world
from ftrl.environments.tabular.names import read_names
from ftrl.environments.tabular.wording import identifier

WOODS, THINGS = "Oak Pine Elm Ash Fir Yew".split(), "Lamp Chair Desk Shelf Stool Table Bench".split()
MAKERS = [(i, f"{n} Works", ("Peru", "Chile", "Kenya")[i % 3], 1950 + i) for i, n in enumerate(
    "Aurora Boreas Cirrus Dawn Ember Fjord Glacier Harbor Isle Jasper Krill Lagoon".split(), 1)]
PRODUCTS = [
    (
        i,
        f"{w} {t}",
        i % 12 + 1,
        10 + i * 1.25,
        i * 37 % 101,
        datetime.date(2020, 1, 1) + datetime.timedelta(i * 13),
    )
    for i, (w, t) in enumerate(((w, t) for w in WOODS for t in THINGS), 1)
]
MAKER = ("create table makers(id integer primary key, name varchar(40) not null unique, country varchar(40), "
         "founded integer)")
PRODUCT = (
    "create table products(product_id integer primary key, name varchar(40), "
    "maker_id integer references makers(id), "
    "price_eur double precision, pages integer, launched_on date)"
)


def fill(run, mark="?"):
    "The same two tables anywhere"
    run(MAKER, None), run(PRODUCT, None)
    run(f"insert into makers values({', '.join([mark] * 4)})", MAKERS)
    run(f"insert into products values({', '.join([mark] * 6)})", PRODUCTS)


def sqlite(path):
    with sqlite3.connect(path) as c:
        fill(
            lambda s, rows: (
                c.executemany(s, [[str(x) if isinstance(x, datetime.date) else x for x in r] for r in rows])
                if rows
                else c.execute(s)
            )
        )
    return str(path)


def duck(path):
    with duckdb.connect(str(path)) as c:
        fill(lambda s, rows: c.executemany(s, rows) if rows else c.execute(s))
    return str(path)


def flat(folder, kind):
    folder.mkdir()
    c = duckdb.connect()
    fill(lambda s, rows: c.executemany(s, rows) if rows else c.execute(s))
    for t in ("makers", "products"):
        c.execute(f"copy {t} to '{folder}/{t}.{kind}' (format {kind.split('.')[0]})")
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
    code = (
        "import sys, hashlib; from ftrl.environments.tables import make; w = make(sys.argv[1], limit=20); "
        "told = repr([(i, r.phrases, list(r.facts.items())) for i, r in w.relations.items()]); "
        "print(hashlib.sha256(told.encode()).hexdigest())"
    )
    def run(seed):
        "What a process of this hash seed prints"
        env = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, path]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    assert run("1") == run("2")


HOSTILE = "Robert'); DROP TABLE students; --"


def test_hostile_names(tmp_path):
    "Names that look like SQL, other scripts, braces and percent signs: read as data, said as words"
    path = tmp_path / "odd.db"
    with sqlite3.connect(path) as c:
        c.execute(
            'create table "stu""dents; --"("name" text primary key, "größe_cm" real, "価格" integer, '
            '"a{b}%s:c" text, "class" text)'
        )
        c.executemany(
            'insert into "stu""dents; --" values(?,?,?,?,?)',
            [
                (
                    HOSTILE if i == 0 else f"Ünal {{x}} %s {i}",
                    150 + i / 2,
                    1000 + i,
                    f"it's {{y}} {i}",
                    ("blue group", "red group")[i % 2],
                )
                for i in range(30)
            ],
        )
    world = make(str(path))
    rel = world.relations
    kind = next(k for k in world.kinds if k.startswith("stu"))
    assert rel[f"{kind}.grosse"].facts[HOSTILE] == "150.00 cm"
    assert "{x}" in rel[f"{kind}.grosse"].phrases[0] and "größe" in rel[f"{kind}.grosse"].phrases[0]
    assert all(i.isascii() and i.replace(".", "_").isidentifier() for i in rel)
    assert "class" not in world.kinds and any(r.range == "class_entry" for r in rel.values())
    assert any(
        "価格" in r.phrases[0] and r.facts[HOSTILE] == "1,000" for r in rel.values() if r.domain == kind
    )
    with sqlite3.connect(path) as c:
        assert c.execute('select count(*) from "stu""dents; --"').fetchone() == (30,)


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
    assert not any("price" in i for i in rel if i.startswith("maker.")), (
        "a column that holds a word has no largest number"
    )
    assert rel["maker.product_count"].facts["Aurora Works"] == "5 products", (
        "counts cover rows without a name too"
    )
    told = "; ".join(world.omitted)
    for reason in (
        "refers to no maker",
        "names that several rows bear",
        "values of another type",
        "names missing",
    ):
        assert reason in told


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "empty file"),
        ("\n\n", "no header"),
        ("name,price\n", "table t is empty"),
        ("a,b\n" + "".join(f"{i % 3},{i // 3}\n" for i in range(9)), "no column identifies a row"),
        ("name,x\n" + "".join(f"n{i},1,2,3\n" for i in range(30)), "30 of 30 lines cannot be read"),
        (
            "name,price,Price\n" + "".join(f"Lamp {i},{i},{i}\n" for i in range(30)),
            "2 columns are named 'price'",
        ),
        ("name,flag\n" + "".join(f"Lamp {i},{i % 2 == 0}\n" for i in range(3)), "nothing can be asked"),
    ],
    ids=["void", "headless", "empty", "keyless", "ragged", "twins", "flags"],
)
def test_bad_csv(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(FtrlError, match=said): make(str(tmp_path / "t.csv"), tmp_path / "t.yaml")
    assert not (tmp_path / "t.yaml").exists()


def test_not_tables(tmp_path):
    (tmp_path / "x.db").write_bytes(b"SQLite format 3\0" + b"junk" * 99)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "latin.csv").write_bytes(
        "name,price\n".encode() + "".join(f"Jos\xe9 {i},{i}\n" for i in range(99)).encode("latin-1")
    )
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


def test_telephones_keep_their_plus(tmp_path):
    rows = [f"Item {i},+4930123456{i:02},+{i + 5}" for i in range(9)]
    rel = make(write_csv(tmp_path, "item.csv", "name,phone,change", rows)).relations
    assert rel["item.phone"].facts["Item 1"] == "+493012345601"
    assert rel["item.change"].range == "number"


def test_codes_stay_text(tmp_path):
    rows = "".join(f"Town {i},{i:05},{i * 1.5},2024-01-{i % 28 + 1:02}\n" for i in range(40))
    (tmp_path / "towns.csv").write_text(
        "name,postcode,height_m,day\n" + rows + "broken line\n", encoding="utf-8-sig"
    )
    world = make(str(tmp_path / "towns.csv"))
    assert world.relations["town.postcode"].facts["Town 7"] == "00007"
    assert world.relations["town.height"].facts["Town 7"] == "10.50 m"
    assert world.omitted["towns: lines that do not fit the header"] == 1


def test_sample(tmp_path):
    "300,000 rows: a sample in Python, and counts and extremes of the whole"
    path = tmp_path / "big.parquet"
    duckdb.execute(f"""copy (select i as id, 'Thing ' || i as name,
        ['north', 'south', 'east'][1 + i % 3] as region,
        (i * 7919) % 300007 as weight_kg from range(300000) t(i)) to '{path}'""")
    world = make(str(path), limit=2000)
    rel = world.relations
    assert rel["region.big_count"].facts == {r: "100,000 bigs" for r in ("north", "south", "east")}
    heavy = rel["region.big_with_highest_weight"].facts["north"]
    assert (
        heavy
        == duckdb.execute(
            f"select name from '{path}' where region = 'north' order by weight_kg desc limit 1"
        ).fetchone()[0]
    )
    assert 2000 <= len(rel["big.weight"].facts) <= 2010
    assert facts(make(str(path), limit=2000)) == facts(world)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    "A PostgreSQL server of our own, on a free loopback port, as an unprivileged user"
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) or [
        Path(p) for p in [shutil.which("postgres")] if p
    ]
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
    subprocess.run(
        [
            found[-1].with_name("initdb"),
            "-D",
            "data",
            "-U",
            "ftrl",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ],
        check=True,
        capture_output=True,
        **common,
    )
    log = open(home / "log", "w")
    server = subprocess.Popen(
        [found[-1], "-D", "data", "-p", str(port), "-h", "127.0.0.1", "-k", home, "-F"],
        stdout=log,
        stderr=log,
        **common,
    )
    url = f"postgresql://ftrl@127.0.0.1:{port}/postgres"
    try:
        for _ in range(300):
            try:
                psycopg.connect(url, connect_timeout=5).close()
                break
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
        c.execute(
            "create table visits(id uuid primary key default gen_random_uuid(), title text, code char(8), "
            "feel mood, at timestamptz, "
            "cost numeric(8,2), extra jsonb, tags text[], product_id integer references products)"
        )
        c.execute(
            "insert into visits(title, code, feel, at, cost, product_id) select 'Visit ' || i, 'K' || i, "
            "(array['calm mood', 'wild mood'])[1 + i % 2]::mood, "
            "'2024-01-01'::timestamptz + i * interval '1 hour', i * 1.5, 1 + i % 42 "
            "from generate_series(1, 200) i"
        )
    world = make(postgres, tmp_path / "names.yaml")
    rel = world.relations
    ours = {i: f for i, f in facts(make(sqlite(tmp_path / "shop.db"))).items()}
    for id, f in ours.items(): assert facts(world)[id] == f, id
    assert (
        rel["visit.product"].facts["Visit 41"] == PRODUCTS[41][1]
        and rel["visit.cost"].facts["Visit 41"] == "61.50"
    )
    assert "feel" in world.kinds
    assert rel["feel.visit_with_highest_cost"].facts["calm mood"] == "Visit 200"
    assert rel["product.visit_count"].facts[PRODUCTS[0][1]] == "4 visits"
    assert world.omitted["table visits.extra: holds JSONB, no plain values"] == 1
    assert facts(make(postgres, tmp_path / "names.yaml")) == facts(world)
    few = make(postgres, limit=50)
    for id, r in few.relations.items():
        for s, o in r.facts.items(): assert rel[id].facts[s] == o, (id, s)
    assert len(few.relations["visit.cost"].facts) <= 150


def write_csv(folder, name, head, rows):
    "A CSV file; the fields of each row are given as they shall stand there"
    (folder / name).write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return str(folder / name)


BIG = 9007199254741007  # no float tells it from its neighbours
BIGS = {f"Item {i}": f"{BIG + i:,}" for i in range(8)}


def big_csv(folder):
    return write_csv(folder, "item.csv", "name,mass", [f"Item {i},{BIG + i}" for i in range(8)])


def big_sqlite(folder):
    with sqlite3.connect(folder / "item.db") as c:
        c.execute("create table item(name text primary key, mass integer)")
        c.executemany("insert into item values(?,?)", [(f"Item {i}", BIG + i) for i in range(8)])
    return str(folder / "item.db")


def big_parquet(folder):
    duckdb.execute(
        f"copy (select 'Item ' || i as name, {BIG} + i as mass from range(8) t(i)) to '{folder}/item.parquet'"
    )
    return str(folder / "item.parquet")


def big_duckdb(folder):
    with duckdb.connect(str(folder / "item.duckdb")) as c:
        c.execute(
            f"create table item as select 'Item ' || i as name, {BIG}::hugeint + i as mass from range(8) t(i)"
        )
    return str(folder / "item.duckdb")


@pytest.mark.parametrize("source", [big_csv, big_sqlite, big_parquet, big_duckdb])
def test_whole_numbers(tmp_path, source):
    "Every whole number is told to its last digit, and neighbours differ"
    assert make(source(tmp_path)).relations["item.mass"].facts == BIGS


def test_whole_numbers_on_a_server(postgres):
    import psycopg
    with psycopg.connect(postgres) as c:
        c.execute("create schema exact")
        c.execute(f"create table exact.item as select 'Item ' || i as name, {BIG} + i as mass, "
                  "(1234567890123456.7891 + i)::numeric(20,4) as cost from generate_series(0, 7) i")
    world = make(f"{postgres}?options=-csearch_path%3Dexact")
    assert world.relations["item.mass"].facts == BIGS
    assert world.relations["item.cost"].facts["Item 7"] == "1,234,567,890,123,463.7891"


def test_decimals_as_declared(tmp_path):
    with duckdb.connect(str(tmp_path / "item.duckdb")) as c:
        c.execute("create table item(name text primary key, cost decimal(20,4), u ubigint, h hugeint)")
        for i in range(8):
            cost = str(Decimal("1234567890123456.7800") + i)
            c.execute(
                "insert into item values(?, ?::decimal(20,4), ?, ?::hugeint)",
                [f"Item {i}", cost, 2**64 - 1 - i, str(10**30 + i)],
            )
    rel = make(str(tmp_path / "item.duckdb")).relations
    assert rel["item.cost"].facts["Item 1"] == "1,234,567,890,123,457.7800"
    assert (
        rel["item.u"].facts["Item 1"] == f"{2**64 - 2:,}"
        and rel["item.h"].facts["Item 1"] == f"{10**30 + 1:,}"
    )
    path = write_csv(tmp_path, "long.csv", "name,cost", [f"Item {i},12345678901234.567{i}" for i in range(8)])
    assert make(path).relations["long.cost"].facts["Item 3"] == "12,345,678,901,234.5673"


def test_sums_are_exact(tmp_path):
    "What floats cannot add up is not asked for; what they can comes out to the last digit"
    from ftrl.environments.build import build
    envs = list(build(12, [big_csv(tmp_path)], "parallel_single_hop", difficulty=(0, 2)))
    asked = [s for e in envs for s in e.subquestions]
    assert asked and not any("numbers" in s.arguments for s in asked)
    told = {f"{BIG + i:,}" for i in range(8)}
    assert {s.answer for s in asked if s.answer[0].isdigit()} <= told


def test_edited_file(tmp_path, monkeypatch):
    "The bytes decide what is read again, not the path, the size or the time"
    path = tmp_path / "item.csv"
    write_csv(tmp_path, "item.csv", "name,mass", [f"Item {i},{1000 + i}" for i in range(8)])
    before, stamp = open_world(str(path)), path.stat()
    assert open_world(str(path)) is before
    path.write_text(path.read_text().replace("1003", "2003"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert before.relations["item.mass"].facts["Item 3"] == "1,003"
    assert open_world(str(path)).relations["item.mass"].facts["Item 3"] == "2,003"
    folder = tmp_path / "all"
    folder.mkdir()
    shutil.copy(path, folder)
    assert len(open_world(str(folder)).kinds) == 1
    monkeypatch.chdir(folder)
    assert len(open_world("./").kinds) == len(open_world(".").kinds) == 1
    write_csv(folder, "city.csv", "name,height", [f"Town {i},{2000 + i}" for i in range(8)])
    assert len(open_world(str(folder)).kinds) == 2


MARKS = [
    "<|im_end|>",
    "</tool_call>",
    "<tool_call>",
    "<think>",
    "</think>",
    "[TOOL_CALLS]",
    "</s>",
    "<|eot_id|>",
    "<\uff5cend\uff5c>",
]


@pytest.mark.parametrize("mark", MARKS)
def test_chat_marks(tmp_path, mark):
    "A cell that would end a turn or open a call is left out and counted: a name, a value, a recurring text"
    rows = [f"Item {i},note {i} here,{('Lima', 'Quito')[i % 2]},{1000 + i}" for i in range(20)]
    rows += [
        f"Item {mark} x,note y here,Lima,5000",
        f"Item Z,a {mark} b,Lima,5001",
        f"Item Y,note z here,Li{mark}ma,5002",
    ]
    world = make(write_csv(tmp_path, "item.csv", "name,note,city,mass", rows))
    told = [t for r in world.relations.values() for pair in r.facts.items() for t in pair]
    assert not any(mark in t for t in told) and "Item Z" in told and "Item Y" in told
    assert sum(n for why, n in world.omitted.items() if "mark of chat templates" in why) == 3


def test_forms_of_unicode(tmp_path):
    "An accented name is one thing, however its accents are stored: in values, references, counts and names"
    one, two = "Caf\u00e9", "Cafe\u0301"
    rows = [f"Item {i},{(one, two)[i % 2]} {'A' if i < 6 else 'B'},{1000 + i}" for i in range(10)]
    rows += [f"Twin {one},X,2000", f"Twin {two},Y,2001"]
    flat = make(write_csv(tmp_path, "item.csv", "name,city,mass", rows))
    assert flat.relations["city.item_count"].facts == {f"{one} A": "6 items", f"{one} B": "4 items"}
    assert not any("Twin" in s for s in flat.relations["item.mass"].facts)
    with sqlite3.connect(tmp_path / "item.db") as c:
        c.execute("create table item(name text, city text, mass integer)")
        c.executemany("insert into item values(?,?,?)", [r.split(",") for r in rows])
    other = make(str(tmp_path / "item.db"))
    assert other.relations["city.item_count"].facts == flat.relations["city.item_count"].facts
    assert other.relations["item.city"].facts == flat.relations["item.city"].facts


def test_forms_of_numbers(tmp_path):
    "Powers of ten, commas, signs of units: read, or said why not"
    def column(values):
        rows = [f'Item {i},"{v}"' for i, v in enumerate(values)]
        return (
            make(write_csv(tmp_path, "item.csv", "name,price", rows)).relations["item.price"].facts["Item 1"]
        )

    assert column([f"{i + 1}.68e-05" for i in range(8)]) == "0.0000268"
    assert column([f"{i},5" for i in range(8)]) == "1.50"
    assert column([f"1.{i}00,25" for i in range(8)]) == "1,100.25"
    assert column([f"{i + 1},000.5" for i in range(8)]) == "2,000.50"
    assert column([f"${i + 1},000" for i in range(7)] + ["$1,234,567"]) == "2,000 dollars"
    assert column([f"{i + 10} %" for i in range(8)]) == "11 percent"
    assert column([f"{i + 1}.5e{i}" for i in range(8)]) == "25.00"
    assert column([f"\u2212{i}.5" for i in range(8)]) == "-1.50"
    assert column([f"1.{i}34.567" for i in range(8)]) == "1,134,567"
    with pytest.raises(FtrlError, match="commas that could part thousands or decimals"):
        column([f"{i + 1},234" for i in range(8)])
    with sqlite3.connect(tmp_path / "item.db") as c:
        c.execute("create table item(name text primary key, price text, mass integer)")
        c.executemany("insert into item values(?,?,?)", [(f"Item {i}", f"{i},5", 1000 + i) for i in range(8)])
    world = make(str(tmp_path / "item.db"))
    assert "item.price" not in world.relations and any("commas" in why for why in world.omitted)


PARTED = {"1 234": "1,234", "1\u00a0234": "1,234", "1\u2009234,5": "1,234.50", "1'234.5": "1,234.50",
          "1\u2019234": "1,234", "1\u202f234\u202f\u20ac": "1,234 EUR", "\u22121 234": "-1,234"}


@pytest.mark.parametrize("written", PARTED)
def test_parted_thousands(tmp_path, written):
    "Spaces and apostrophes part thousands, where the whole column agrees"
    values = [written.replace("1", str(i + 1), 1) for i in range(8)]
    rows = [f'Item {i},"{v}"' for i, v in enumerate(values)]
    world = make(write_csv(tmp_path, "item.csv", "name,size", rows))
    assert world.relations["item.size"].facts["Item 0"] == PARTED[written]


@pytest.mark.parametrize("column, written", [("contact", "732 829 32{}"), ("telephone", "9{} 761 432"),
                                             ("contact", "030 12{} 345"), ("street", "1{} 200 Elm Road"),
                                             ("phone", "+49 301 23{} 567"), ("size", "1 23{} 45")])
def test_parted_names(tmp_path, column, written):
    "The digits of telephones, registers and streets stay as they are written"
    values = [written.format(i) for i in range(8)]
    rows = [f"Item {i},{v}" for i, v in enumerate(values)]
    world = make(write_csv(tmp_path, "item.csv", f"name,{column}", rows))
    assert world.relations[f"item.{column}"].facts["Item 3"] == values[3]


def test_dashes_are_missing(tmp_path):
    "A dash stands for no number; among other signs it is one"
    rows = [f"Item {i},{'-' if i == 3 else 1000 + i},{'+-'[i % 2]} type" for i in range(8)]
    world = make(write_csv(tmp_path, "item.csv", "name,mass,sort", rows))
    assert "Item 3" not in world.relations["item.mass"].facts and len(world.relations["item.mass"].facts) == 7
    assert world.omitted["item.mass: cells that say -, read as missing"] == 1
    rows = [f"Item {i},{1000 + i},{'+-'[i % 2]}" for i in range(8)]
    world = make(write_csv(tmp_path, "item.csv", "name,mass,rh", rows))
    assert not any("cells that say" in why for why in world.omitted)


def test_yes_and_no(tmp_path):
    "A column of 0 and 1 is no number"
    world = make(
        write_csv(
            tmp_path, "item.csv", "name,active,mass", [f"Item {i},{i % 2},{1000 + i}" for i in range(8)]
        )
    )
    assert (
        list(world.relations) == ["item.mass"] and world.omitted["table item.active: is true or false"] == 1
    )


@pytest.mark.parametrize(
    "row",
    [
        "Ash Bench,1000,Peru",
        "TCK-{i},open,Peru",
        "Ash {i},x{i},2024-01-0{i}",
        "Ash {i},a{i}@b.org,no",
        "Lamp {i},Peru,x",
    ],
)
def test_no_header(tmp_path, row):
    (tmp_path / "item.csv").write_text("".join(row.format(i=i) + "\n" for i in range(1, 9)))
    with pytest.raises(
        FtrlError,
        match="item.csv: the first line looks like data .*; expected column names in the first line",
    ):
        make(str(tmp_path / "item.csv"))


def test_missing_or_code(tmp_path):
    "NA among codes is Namibia; elsewhere it is missing, and counted"
    rows = [
        f"Item {i},{code},{1000 + i},{'NA' if i == 3 else i + 2000}"
        for i, code in enumerate(["PE", "NA", "CL", "KE"] * 3)
    ]
    world = make(write_csv(tmp_path, "item.csv", "name,code,mass,size", rows))
    text = " ".join(f"{s} {o}" for r in world.relations.values() for s, o in r.facts.items())
    assert world.omitted[
        "item.size: cells that say NA, read as missing"
    ] == 1 and "item.code: cells" not in str(world.omitted)
    rows = [f"Item {i},{city},{1000 + i}" for i, city in enumerate(["Lima", "NA", "Quito", "None"] * 3)]
    world = make(write_csv(tmp_path, "item.csv", "name,city,mass", rows))
    assert (
        world.omitted["item.city: cells that say NA, read as missing"],
        world.omitted["item.city: cells that say None, read as missing"],
    ) == (3, 3)
    rows = [f"{code},{1000 + i}" for i, code in enumerate("PEX CLX NAM KEN".split())] + ["NA,2000"]
    world = make(write_csv(tmp_path, "item.csv", "name,mass", rows))
    assert text and "PEX" in world.relations["item.mass"].facts


def test_codes_keep_na(tmp_path):
    "The fact about Namibia is told"
    codes = "PE CL NA KE BR US DE FR".split()
    (tmp_path / "all").mkdir()
    write_csv(
        tmp_path / "all",
        "countries.csv",
        "code,name,mass",
        [f"{c},Land {c},{1000 + i}" for i, c in enumerate(codes)],
    )
    write_csv(
        tmp_path / "all",
        "cities.csv",
        "name,country_code",
        [f"Town {i},{c}" for i, c in enumerate(codes * 2)],
    )
    world = make(str(tmp_path / "all"))
    assert world.relations["city.country"].facts["Town 2"] == "Land NA"


def test_wide(tmp_path):
    "80 columns and 42 rows; 200 columns"
    for n in (80, 200):
        head = ",".join(["name"] + [f"size {i} kg" for i in range(n)])
        world = make(
            write_csv(
                tmp_path,
                f"wide{n}.csv",
                head,
                [",".join([f"Item {r}"] + [f"{r * i}.5" for i in range(n)]) for r in range(42)],
            )
        )
        assert len(world.relations) == n and world.relations[f"wide{n}.size_3"].facts["Item 2"] == "6.50 kg"


def test_headers(tmp_path):
    "Line breaks and other delimiters inside quoted names, line ends of any kind"
    for end in ("\r\n", "\n", "\r"):
        text = end.join([f'"na{end}me","price; net; of | tax"', *(f"Item {i},{1000 + i}" for i in range(8))])
        (tmp_path / "item.csv").write_bytes(text.encode())
        (facts,) = [r.facts for r in make(str(tmp_path / "item.csv")).relations.values()]
        assert facts["Item 3"] == "1,003"


def test_keywords(tmp_path):
    "Files and columns called after words of SQL"
    words = "show lambda semi select anti pivot table order group all user index end".split()
    for word in words:
        path = write_csv(
            tmp_path,
            f"{word}.csv",
            "name,lambda,semi,order",
            [f"Item {i},{1000 + i},x{i % 2}y,{i + 5000}" for i in range(8)],
        )
        assert any(r.facts.get("Item 1") == "1,001" for r in make(path).relations.values()), word
    world = make(str(tmp_path))
    assert len([r for r in world.relations.values() if r.facts.get("Item 1") == "1,001"]) == len(words)


def test_folder(tmp_path):
    "What cannot be read does not take the others with it"
    folder = tmp_path / "all"
    folder.mkdir()
    write_csv(folder, "item.csv", "name,mass", [f"Item {i},{1000 + i}" for i in range(8)])
    write_csv(folder, "head.csv", "name,mass", [])
    (folder / "void.parquet").touch()
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(parquet.read_table(big_parquet(tmp_path)).slice(0, 0), folder / "none.parquet")
    (folder / "bad.parquet").write_bytes(b"PAR1 and nothing more")
    (folder / "latin.csv").write_bytes("name,x\n".encode() + b"Jos\xe9,1\n" * 9)
    write_csv(tmp_path, "secret.csv", "name,word", [f"root {i},hidden {i}" for i in range(8)])
    (folder / "link.csv").symlink_to(tmp_path / "secret.csv")
    world = make(str(folder))
    assert list(world.relations) == ["item.mass"]
    told = "; ".join(world.omitted)
    for name in ("void.parquet", "bad.parquet", "latin.csv", "link.csv", "table head", "table none"):
        assert name in told, name


def test_reads_no_other_file(tmp_path):
    "Neither a view, nor a name with a pattern in it, nor a link leads to another file"
    secret = write_csv(tmp_path, "secret.csv", "name,word", [f"root {i},hidden {i}" for i in range(8)])
    path = tmp_path / "item.duckdb"
    with duckdb.connect(str(path)) as c:
        c.execute("create table item as select 'Item ' || i as name, 1000 + i as mass from range(8) t(i)")
        for i, spy in enumerate(
            (f"'{secret}'", f"read_text('{secret}')", f"read_csv('{secret}')", "glob('/etc/*')",
             "duckdb_settings()", "pragma_database_list",
             "(select name, current_setting('temp_directory') || name as room from item)")
        ):
            c.execute(f"create view spy{i} as select * from {spy}")
        c.execute("create view heavy as select * from item where mass > 1003")
    world = make(str(path))
    assert {r.domain for r in world.relations.values()} == {"item", "heavy"}
    assert (
        "hidden" not in str(world.table())
        and sum("is a view that" in why for why in world.omitted) == 7
    )
    for name, other in (("[ab]", "a"), ("a?", "ax"), ("*", "b"), ("{a,b}", "b"), ("~nobody", "b")):
        write_csv(tmp_path, f"{name}.csv", "name,mass", [f"Item {i},{1000 + i}" for i in range(8)])
        write_csv(tmp_path, f"{other}.csv", "name,mass", [f"Item {i},{9000 + i}" for i in range(8)])
        (facts,) = [r.facts for r in make(str(tmp_path / f"{name}.csv")).relations.values()]
        assert facts["Item 1"] == "1,001", name
        for stem, n in ((name, 1000), (other, 9000)):
            duckdb.execute(
                f"copy (select 'Item ' || i as name, {n} + i as mass from range(8) t(i)) "
                f"to '{tmp_path}/{stem}.parquet'"
            )
        (facts,) = [r.facts for r in make(str(tmp_path / f"{name}.parquet")).relations.values()]
        assert facts["Item 1"] == "1,001", name


ADDRESSES = [
    "postgresql://me:hid@den@127.0.0.1:9/shop",
    "postgresql://127.0.0.1:9/shop?user=me&password=hid%40den",
    "postgresql://me@127.0.0.1:9/shop?PASSWORD=hid@den",
    "mysql://me:hid/den@127.0.0.1:9/shop",
    "host=127.0.0.1 password=hid@den",
    "postgresql://me:hid@den@host:port/shop",
    "postgresql://me:hid%2Fden@127.0.0.1:9/shop",
    "martian://me:hidden@h/shop",
]


@pytest.mark.parametrize("address", ADDRESSES, ids=range(len(ADDRESSES)))
def test_passwords(address):
    "No error tells a password, nor a part of one"
    with pytest.raises(FtrlError) as e: make(address)
    assert not any(part in str(e.value) for part in ("hid", "den", "\n")), e.value


def test_passwords_on_a_server(postgres, tmp_path):
    import psycopg

    with psycopg.connect(postgres) as c:
        c.execute(
            "create table if not exists secrets_test as select 'Item ' || i as name, i + 1000 as mass "
            "from generate_series(1, 9) i"
        )
    address = postgres.replace("ftrl@", "") + "?user=ftrl&password=hushhush"
    world = make(address, tmp_path / "names.yaml")
    assert "hushhush" not in (tmp_path / "names.yaml").read_text() and "hushhush" not in world.source + repr(
        world
    ) + str(world.omitted)


def command(monkeypatch, capsys, *words):
    "The exit status and all that `ftrl WORDS` says, in this process"
    from ftrl.cli import main

    monkeypatch.setattr(sys, "argv", ["ftrl", *map(str, words)])
    with pytest.raises(SystemExit) as ended: main()
    return ended.value.code or 0, "".join(capsys.readouterr())


@pytest.mark.parametrize("form", ("user:password@", "?user=&password="))
def test_no_file_tells_the_password(form, postgres, tmp_path, monkeypatch, capsys):
    "Every file that a build writes, from the command line and from Python, and every line it says"
    import psycopg

    from ftrl.environments.build import Recipe, build
    from ftrl.environments.report import construct

    with psycopg.connect(postgres) as c:
        c.execute("create schema if not exists shop")
        c.execute("create table if not exists shop.items as select 'Item ' || i as name, "
                  "i * 37 + 1000 as mass, 'Land ' || i % 3 as country from generate_series(1, 60) i")
    place = postgres.split("@")[1] + "?options=-csearch_path%3Dshop"
    if form == "user:password@":
        address, wrong = f"postgresql://ftrl:hush%2Fhush@{place}", "postgresql://ftrl:hush%2Fhush@127.0.0.1:9/x"
    else:
        address = f"postgresql://{place}&user=ftrl&password=hush%2Fhush"
        wrong = "postgresql://127.0.0.1:9/x?user=ftrl&password=hush%2Fhush"
    monkeypatch.chdir(tmp_path)
    build_it = ("build", "--scenario", "single_hop", "-n", 3)
    said = [command(monkeypatch, capsys, *build_it, "--world", address, "--out", "a.jsonl")]
    said.append(command(monkeypatch, capsys, *build_it, "--world", address, "--out", "a.jsonl", "--seed", 1))
    said.append(command(monkeypatch, capsys, *build_it, "--world", wrong, "--out", "b.jsonl"))
    said.append(command(monkeypatch, capsys, *build_it, "--world", address, "--out", "c.jsonl",
                        "--author", "replay:a.jsonl"))
    said.append(command(monkeypatch, capsys, "show", "a.jsonl", "--code"))
    assert [code for code, _ in said] == [0, 2, 2, 2, 0], said
    recipe = Recipe(worlds=(address,), scenarios="single_hop")
    told = [text for _, text in said] + [repr(recipe), str(construct("d.jsonl.gz", 3, recipe))]
    told += [repr(env) for env in build(3, address, "single_hop")]
    with pytest.raises(FtrlError) as refused: construct("d.jsonl.gz", 4, recipe)
    told.append(str(refused.value))
    with pytest.raises(FtrlError) as refused: construct("e.jsonl", 4, Recipe((wrong,)))
    told.append(str(refused.value))
    written = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    expected = {"a.jsonl", "a.report.json", "a.README.md", "d.jsonl.gz", ".a.jsonl.claim"}
    assert expected <= {p.name for p in written}
    for where, text in [*written.items(), *((line, line.encode()) for line in told)]:
        plain = gzip.decompress(text) if str(where).endswith(".gz") else text
        assert b"hush" not in plain, where


def test_wording(tmp_path):
    "Tickets as a help desk exports them"
    head = "id,subject,created_at,joined_on,satisfaction_1_5,Price ($),assigned_to"
    rows = [
        f"TCK-{i},Subject number {i},2024-03-{i + 1:02}T10:0{i}:00Z,2024-04-{i + 1:02},"
        f"{i % 5 + 1},{i}.50,Agent {i % 3}"
        for i in range(9)
    ]
    rel = make(write_csv(tmp_path, "tickets.csv", head, rows)).relations
    assert rel["ticket.created_at"].phrases[0] == "the date on which {x} was created"
    assert (
        rel["ticket.created_at"].range == "date" and rel["ticket.created_at"].facts["TCK-1"] == "2024-03-02"
    )
    assert rel["ticket.joined_on"].phrases[0] == "the date on which {x} joined"
    assert (
        rel["ticket.satisfaction"].facts["TCK-1"] == "2 of 5 points"
        and rel["ticket.price"].facts["TCK-1"] == "1.50 dollars"
    )
    assert rel["ticket.assignee"].phrases[0] == "the assignee of {x}"
    assert rel["assignee.ticket_count"].phrases == ("the number of tickets whose assignee is {x}",)


def test_names_follow_the_data(tmp_path):
    "What was edited for one build holds for the next, from Python too"
    path = write_csv(tmp_path, "item.csv", "name,mass", [f"Item {i},{1000 + i}" for i in range(8)])
    names = names_file(path, tmp_path / "runs" / "train.jsonl")
    assert (
        names
        == names_file(path, tmp_path / "elsewhere" / "test.jsonl.gz")
        == tmp_path / "item.csv.names.yaml"
    )
    make(path, names)
    assert open_world(path).relations["item.mass"].phrases[0] == "the mass of {x}"
    names.write_text(names.read_text().replace("the mass of {x}", "how heavy {x} is"))
    assert open_world(path).relations["item.mass"].phrases[0] == "how heavy {x} is"


def test_three_rows(tmp_path):
    "What a small table lacks is said at once"
    world = make(write_csv(tmp_path, "item.csv", "name,mass", [f"Item {i},{1000 + i}" for i in range(3)]))
    assert any("questions in several steps" in why for why in world.omitted)
    with pytest.raises(FtrlError, match="nothing can be asked|no column tells"):
        make(write_csv(tmp_path, "one.csv", "name,mass", ["Item,1000"]))


ODD_NAMES = [
    "[" * 5000,
    "a: &a [x]\nworld: *a",
    "world: x\nkinds: {a: 3}\nrelations: {a.b: 1}",
    "world: ../x\nkinds: {a: {}}\nrelations: {a.b: {}}",
    "!!python/object/apply:os.system [true]",
    "world: x\nkinds: {item: {plural: items, table: item, key: [x], name: name}}\nrelations: {item.mass: {}}",
    "world: 2024-13-45\nkinds: 3",
    "\x00",
    "- a",
    "world: x\nlimit: -1\nkinds: {item: {plural: i, table: item, key: name, name: name}}\n"
    "relations: {item.mass: {}}",
]


@pytest.mark.parametrize("text", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_odd_names_file(tmp_path, text):
    "A names file from elsewhere: one line that says what is wrong"
    path = write_csv(tmp_path, "item.csv", "name,mass", [f"Item {i},{1000 + i}" for i in range(8)])
    (tmp_path / "names.yaml").write_text(text)
    with pytest.raises(FtrlError, match="names.yaml") as e: make(path, tmp_path / "names.yaml")
    assert "\n" not in str(e.value)


def test_long_lines(tmp_path):
    "An endless line, an unclosed quote, a bomb: bounded, and one line of error"
    import gzip
    (tmp_path / "line.csv").write_text("name,mass\n" + "x" * (3 << 20))
    (tmp_path / "quote.csv").write_text('name,mass\n"' + "Item,1\n" * 200_000)
    with gzip.open(tmp_path / "bomb.csv.gz", "wt") as f: f.write("name" + "," * (20 << 20))
    (tmp_path / "gone.csv.gz").write_bytes(gzip.compress(b"name,mass\n" + b"Item,1\n" * 999)[:-20])
    for name in ("line.csv", "quote.csv", "bomb.csv.gz", "gone.csv.gz"):
        with pytest.raises(FtrlError, match=name) as e: make(str(tmp_path / name))
        assert "\n" not in str(e.value)


def test_build(tmp_path):
    "Environments from a file pass every gate, and the same call gives the same bytes"
    from ftrl.environments.build import build
    from ftrl.environments.gate import check, passed
    world = make(sqlite(tmp_path / "shop.db"))
    envs = list(build(8, worlds=[world], seed=3, difficulty=(0, 2)))
    assert [e.world for e in envs] == ["shop"] * 8 and all(passed(check(e)) for e in envs)
    assert envs == list(build(8, worlds=[make(str(tmp_path / "shop.db"))], seed=3, difficulty=(0, 2)))


@pytest.mark.parametrize("head,price,said", [
    ("Umsatz;Preis", "7,79", "85,254"), ("length;price", "7.79", "85.254"), ("length;rooms", "7", None)])
def test_points_in_threes(tmp_path, head, price, said):
    "Points part what they part in the rest of the file; else the column is left out and said so"
    rows = [f"Item {i};{(979, '85.254', '4.827')[i % 3]};{price}" for i in range(9)]
    world = make(write_csv(tmp_path, "item.csv", f"name;{head}", rows))
    told = world.relations.get(f"item.{identifier(head.split(';')[0].lower())}")
    assert (told and told.facts["Item 1"].removesuffix(" (umsatz)")) == said
    assert any("points that could part" in why for why in world.omitted) == (said is None)


def test_whole_years(tmp_path):
    "Years have no thousands, nobody adds them up, and a thing is founded first or last"
    rows = [f"Firm {i},{('Energy', 'Steel')[i % 2]},{1950 + i},{1990 + i},{2000 + i}" for i in range(12)]
    world = make(write_csv(tmp_path, "company.csv", "name,sector,founded,year_listed,stock", rows))
    founded = world.relations["company.founded"]
    assert (founded.phrases, founded.range) == (("the year in which {x} was founded",), "text")
    assert founded.facts["Firm 3"] == "1953"
    assert world.relations["company.stock"].facts["Firm 3"].startswith("2,003")
    last = world.relations["sector.company_founded_last"]
    assert last.phrases == ("the company founded last among the companies whose sector is {x}",)
    assert last.facts == {"Energy": "Firm 10", "Steel": "Firm 11"}


def test_rows_that_stand_twice(tmp_path):
    "Identical lines are one, and groups in which rows share their name are not counted"
    rows = [f"Firm {i},{('Energy', 'Steel')[i % 2]},{i % 5}5.5" for i in range(12)]
    world = make(write_csv(tmp_path, "company.csv", "name,sector,size", [*rows, rows[0], "Firm 1,Steel,7.5"]))
    assert world.relations["sector.company_count"].facts == {"Energy": "6 companies"}
    assert world.omitted["company: lines that repeat an earlier one"] == 1
    assert world.omitted["sector.company_count: groups of rows that share their key"] == 1


def test_days_in_any_time_zone(tmp_path):
    "The day of a moment is that of UTC, not that of the machine"
    with duckdb.connect() as c:
        c.execute("create table item as select 'Item ' || i as name, timestamptz '2024-01-02 01:00:00+00' "
                  "+ to_days(i::integer) as sold_at from range(8) t(i)")
        c.execute(f"copy item to '{tmp_path}/item.parquet' (format parquet)")
    asked = ("import sys; from ftrl.environments.tables import make; "
             "print(make(sys.argv[1]).relations['item.sold_at'].facts['Item 0'])")
    told = subprocess.run([sys.executable, "-c", asked, f"{tmp_path}/item.parquet"], text=True, check=True,
                          capture_output=True, env=os.environ | {"TZ": "America/New_York"}).stdout
    assert told.strip() == "2024-01-02"


def test_names_that_mislead(tmp_path):
    "Units, counts and dates are read from a column's name only where the name says so"
    head = "name,temp_min,temp_max,revenue_m,rate_to_usd,costs,sales_price,signup_ts,# of kids,team,born"
    rows = [f"Item {i},{i}.5,{i + 9}.5,{1490 + i},{i}.25,{1000 + i},{2000 + 7 * i},{1600000000 + i},"
            f"{i + 20},{('Red team', 'Blue team')[i % 2]},19{70 + i}-01-02" for i in range(8)]
    rel = make(write_csv(tmp_path, "person.csv", head, rows)).relations
    said = {"minimum_temp": "1.50", "revenue_m": "1,491", "rate": "1.25 USD", "costs": "1,001",
            "sales_price": "2,007", "signup_ts": "1,600,000,001", "number_of_kids": "21 kids"}
    assert {name: rel[f"person.{name}"].facts["Item 1"] for name in said} == said
    born = rel["team.person_born_last"].phrases[0]
    assert born == "the person born last among the people whose team is {x}"
