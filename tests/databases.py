"""Three databases as they are met in practice, with invented rows: a shop, a library, a clinic."""
import random
import sqlite3

FIRST = "Ada Ben Cleo Dov Edda Finn Gita Hugo Iris Joel Kira Liam Mona Nils Olga Pia Rosa Sami Vera".split()
LAST = "Abel Costa Dahl Eklund Fabre Gruber Holm Ibsen Jansen Kowal Lund Marek Novak Petit Rossi".split()
TOWNS = "Aarhus Bergen Cork Delft Esbjerg Faro Ghent Harstad Imatra Jena".split()


def people(r, n):
    "Different names"
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    return r.sample(names, n)


def day(r, first=2019, last=2025):
    return f"{r.randint(first, last)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"


def shop(path, r):
    nouns = "Lamp Desk Chair Shelf Rug Mirror Stool Vase Clock Frame".split()
    brands = "Alva Boro Cinta Dura Elko".split()
    names = [f"{brand} {noun}" for brand in brands for noun in nouns]
    goods = [(i + 1, name, round(r.uniform(9, 400), 2), r.choice(["home", "office", "garden"]),
              r.randint(0, 250)) for i, name in enumerate(names)]
    buyers = [(i + 1, name, r.choice(TOWNS), day(r)) for i, name in enumerate(people(r, 60))]
    orders = [(1000 + i, r.randint(1, 60), r.randint(1, 50), r.randint(1, 9), day(r),
               r.choice(["sent", "paid", "returned"])) for i in range(150)]
    with sqlite3.connect(path) as db:
        db.executescript("""
            create table product (id integer primary key, name text unique, price_eur decimal(8,2),
                category text, stock integer);
            create table customer (id integer primary key, name text unique, city text, joined date);
            create table orders (number integer primary key, customer_id integer references customer,
                product_id integer references product, quantity integer, ordered date, status text);""")
        db.executemany("insert into product values (?,?,?,?,?)", goods)
        db.executemany("insert into customer values (?,?,?,?)", buyers)
        db.executemany("insert into orders values (?,?,?,?,?,?)", orders)


def library(path, r):
    words = "Silent River Winter Garden Stone Harbour Golden Letter Broken Mirror Paper Moon Shore".split()
    authors = [(i + 1, name, r.randint(1900, 1990), r.choice(["Norway", "Portugal", "Poland", "Ireland"]))
               for i, name in enumerate(people(r, 40))]
    titles = list(dict.fromkeys(f"The {r.choice(words)} {r.choice(words)}" for _ in range(260)))[:110]
    books = [(i + 1, title, r.randint(1, 40), r.randint(1950, 2024), r.randint(90, 800),
              r.choice(["novel", "poems", "essays"])) for i, title in enumerate(titles)]
    members = [(i + 1, name, r.choice(TOWNS)) for i, name in enumerate(people(r, 50))]
    loans = [(i + 1, r.randint(1, len(books)), r.randint(1, 50), day(r), r.choice([0, 1]))
             for i in range(140)]
    with sqlite3.connect(path) as db:
        db.executescript("""
            create table author (id integer primary key, name text unique, born integer, country text);
            create table book (id integer primary key, title text unique, author_id integer references author,
                published integer, pages integer, genre text);
            create table member (id integer primary key, name text unique, city text);
            create table loan (id integer primary key, book_id integer references book,
                member_id integer references member, due date, returned boolean);""")
        db.executemany("insert into author values (?,?,?,?)", authors)
        db.executemany("insert into book values (?,?,?,?,?,?)", books)
        db.executemany("insert into member values (?,?,?)", members)
        db.executemany("insert into loan values (?,?,?,?,?)", loans)


def clinic(path, r):
    wards = ["Cardiology", "Paediatrics", "Surgery", "Radiology", "Neurology", "Oncology"]
    doctors = [(f"D{100 + i}", f"Dr {name}", r.choice(wards), r.randint(1995, 2022))
               for i, name in enumerate(people(r, 25))]
    groups, reasons = ["A+", "B+", "0+", "AB-"], ["check-up", "follow-up", "x-ray"]
    patients = [(f"P{2000 + i}", name, day(r, 1940, 2015), r.choice(groups), r.choice(TOWNS))
                for i, name in enumerate(people(r, 90))]
    visits = [(i + 1, r.choice(patients)[0], r.choice(doctors)[0], day(r), r.choice(reasons),
               round(r.uniform(20, 480), 2)) for i in range(200)]
    with sqlite3.connect(path) as db:
        db.executescript("""
            create table doctor (code text primary key, name text unique, ward text, since integer);
            create table patient (code text primary key, name text unique, born date, blood_group text,
                city text);
            create table visit (id integer primary key, patient text references patient(code),
                doctor text references doctor(code), date date, reason text, fee_eur decimal(8,2));""")
        db.executemany("insert into doctor values (?,?,?,?)", doctors)
        db.executemany("insert into patient values (?,?,?,?,?)", patients)
        db.executemany("insert into visit values (?,?,?,?,?,?)", visits)


DATABASES = {"shop": shop, "library": library, "clinic": clinic}


def write(name, folder):
    "The database of this name in a folder, the same rows every time"
    path = folder / f"{name}.db"
    DATABASES[name](path, random.Random(name))
    return path
