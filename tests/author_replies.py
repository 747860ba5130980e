"""What a language model replied when it was asked for four environments, by stage and by what was asked.

Written by hand in the manner of such a model, mistakes included: a list of replies is a reply and its
corrections.
"""


def doc(name, description, required, /, **properties):
    for p in properties.values():
        p.setdefault("type", "string")
    return {"name": name, "description": description,
            "parameters": {"type": "object", "properties": properties, "required": required.split()}}


def of_one(name, description, key, hint):
    "A document whose tool takes one text"
    return doc(name, description, key, **{key: {"description": hint}})


def sub(id, question, answer, *depends_on):
    return dict(id=id, question=question, answer=answer, depends_on=list(depends_on))


def call(id, tool, /, **arguments):
    return dict(id=id, tool=tool, arguments=arguments)


def plan(scenario, question, answer, *subquestions):
    return dict(refused=None, scenario=scenario, question=question, answer=answer,
                subquestions=list(subquestions))


def documented(doc, **arguments):
    return doc | {"arguments": arguments}


def scaled(tools, calls, *distractors):
    return {"tools": tools, "calls": calls, "distractors": list(distractors)}


def deployed(code, /, **example):
    return {"example": example, "code": code}


def table(head, key, error, data, more=""):
    "A lookup as models write it"
    return f'''def {head}:
    data = {data!r}
    if not isinstance({key}, str) or not {key}.strip():
        return "Error: '{key}' must be a non-empty string."
    wanted = {key}.strip().casefold()
    for name, value in data.items():
        if name.casefold() == wanted:
{more or "            return value"}
    return "Error: {error}"
'''


def lookup(tool, key, example, data, expected="an English name"):
    "A deployed table of one key"
    error = f"'{key}' is not known here; expected {expected}."
    return deployed(table(f"{tool}({key})", key, error, data), **{key: example})


REPLIES = {}
SEEDS = {}   # Scenario -> (seed question, difficulty)

# --- one hop, difficulty 3: generalized, expanded, retyped
SEEDS["single_hop"] = "Which chemical element has the atomic number 74?", 3
given = {"type": "string", "description": "What is given.", "enum": ["atomic_number", "symbol"]}
value = {"type": ["integer", "string"], "description": "The atomic number or the symbol."}
kind = {"type": "object", "description": "What identifies the element.", "required": ["kind", "value"],
        "properties": {"kind": given, "value": value}}
cases = ["original", "upper", "lower"]
registry = doc(
    "chemical_element_registry",
    "Looks up a chemical element by its atomic number or symbol and returns one of its properties.",
    "identifier property", identifier=kind,
    property={"description": "What to return.", "enum": ["name", "symbol", "period"]},
    letter_case={"description": "Letter case of the text.", "enum": cases, "default": "original"},
    prefix={"description": "A text put in front of the value.", "default": ""},
    max_length={"type": "integer", "description": "Cut the text after this many characters.", "minimum": 1})
by_number = doc(
    "element_by_number", "Names the chemical element with an atomic number.", "atomic_number",
    atomic_number={"type": "integer", "description": "The atomic number.", "minimum": 1, "maximum": 118})
tungsten = call("s1", "chemical_element_registry", identifier={"kind": "atomic_number", "value": 74},
                property="name", letter_case="original")
isotope = of_one("isotope_half_life", "Gives the half-life of an isotope.", "isotope",
                 "Element and mass number, such as 'Cobalt-60'.")
mineral = of_one("mineral_composition", "Gives the chemical formula of a mineral.", "mineral",
                 "The mineral's name.")
alloy = of_one("alloy_components", "Names the main components of an alloy.", "alloy", "The alloy's name.")
half_lives = {"Cobalt-60": "5.27 years", "Iodine-131": "8.02 days"}
formulas = {"Quartz": "SiO2", "Halite": "NaCl", "Pyrite": "FeS2"}
components = {"Bronze": "copper and tin", "Brass": "copper and zinc"}
registry_code = '''```python
def chemical_element_registry(identifier, property, letter_case="original", prefix="", max_length=None):
    """Look up a chemical element."""
    elements = [(1, "H", "Hydrogen", 1), (6, "C", "Carbon", 2), (8, "O", "Oxygen", 2), \
(26, "Fe", "Iron", 4), (29, "Cu", "Copper", 4),
                (47, "Ag", "Silver", 5), (50, "Sn", "Tin", 5), (74, "W", "Tungsten", 6), \
(79, "Au", "Gold", 6), (92, "U", "Uranium", 7)]
    if not isinstance(identifier, dict) or identifier.get("kind") not in ("atomic_number", "symbol"):
        return "Error: 'identifier' must be an object whose 'kind' is atomic_number or symbol."
    if property not in ("name", "symbol", "period"):
        return "Error: 'property' must be one of name, symbol, period."
    if letter_case not in ("original", "upper", "lower"):
        return "Error: 'letter_case' must be one of original, upper, lower."
    value = identifier.get("value")
    for number, symbol, name, period in elements:
        hit = number == value and not isinstance(value, bool) if identifier["kind"] == "atomic_number" \
else symbol == value
        if hit:
            text = {"name": name, "symbol": symbol, "period": f"period {period}"}[property]
            text = {"original": text, "upper": text.upper(), "lower": text.lower()}[letter_case]
            return (prefix + text)[:max_length]
    return "Error: 'identifier' names no element known here; expected an atomic number or a symbol."
```'''
seed = SEEDS["single_hop"][0]
REPLIES |= {
    ("decompose", seed): [plan("single_hop", seed, "Tungsten", sub("s1", seed, "Tungsten"))],
    ("document", seed): [documented(by_number, atomic_number=74)],
    ("scale", seed): [scaled([registry], [tungsten], isotope, mineral, alloy)],
    ("deploy", "chemical_element_registry"): [
        deployed(registry_code, identifier={"kind": "symbol", "value": "Fe"}, property="name")],
    ("deploy", "isotope_half_life"): [
        lookup("isotope_half_life", "isotope", "Cobalt-60", half_lives, "an element and a mass number")],
    ("deploy", "mineral_composition"): [lookup("mineral_composition", "mineral", "Quartz", formulas)],
    ("deploy", "alloy_components"): [lookup("alloy_components", "alloy", "Bronze", components)],
}

# --- two independent hops whose tools, written apart, become one; the first reply is cut in half
SEEDS["parallel_single_hop"] = "Which rivers flow through Vienna and Baghdad?", 0
seed, vienna, baghdad = (SEEDS["parallel_single_hop"][0], "Which river flows through Vienna?",
                         "Which river flows through Baghdad?")
city_river = of_one("city_river", "Names the river that flows through a city.", "city", "The city.")
river_finder = of_one("river_finder", "Finds the main river of a city.", "place", "The city's name.")
main_river = of_one("city_river", "Names the main river that flows through a city.", "city",
                    "The city's English name.")
founding = of_one("city_founding_year", "Tells in which year a city was founded.", "city",
                  "The city's English name.")
two = [call("s1", "city_river", city="Vienna"), call("s2", "city_river", city="Baghdad")]
rivers = {"Vienna": "Danube", "Baghdad": "Tigris", "Paris": "Seine", "London": "Thames",
          "Cairo": "Nile", "Rome": "Tiber", "Prague": "Vltava", "Cologne": "Rhine"}
founded = {"Madrid": "founded in 865", "Berlin": "founded in 1237", "Vienna": "founded in 1137"}
REPLIES |= {
    ("decompose", seed): [
        '{"refused": null, "scenario": "parallel_sing',
        plan("parallel_single_hop", seed, "Danube, Tigris", sub("s1", vienna, "Danube"),
             sub("s2", baghdad, "Tigris"))],
    ("document", vienna): [documented(city_river, city="Vienna")],
    ("document", baghdad): [documented(river_finder, place="Baghdad")],
    ("integrate", "city_river+river_finder"): [{"tools": [main_river], "calls": two}],
    ("scale", seed): [scaled([main_river], two, founding)],
    ("deploy", "city_river"): [lookup("city_river", "city", "Paris", rivers)],
    ("deploy", "city_founding_year"): [lookup("city_founding_year", "city", "Madrid", founded)],
}

# --- a chain of three, difficulty 1: generalized; one tool compares names by their beginning and is corrected
SEEDS["multi_hop"] = "How high is the highest mountain of the country whose capital is Dodoma?", 1
atlas = doc(
    "capital_atlas", "Returns political facts about the country that a capital city belongs to.",
    "capital fact",
    capital={"description": "The capital's English name."},
    fact={"description": "What to return.", "enum": ["country", "continent"]})
peaks = doc(
    "peak_of_country", "Returns the highest or the second highest mountain of a country.", "country",
    country={"description": "The country's English name."},
    rank={"type": "integer", "description": "1 or 2.", "default": 1})
summit = doc(
    "mountain_facts", "Returns a measured or historical fact about a mountain.", "mountain fact",
    mountain={"description": "The mountain's English name."},
    fact={"description": "What to return.", "enum": ["first_ascent", "elevation"]})
plain = [of_one("country_of_capital", "Names the country of a capital.", "capital", "The capital."),
         of_one("highest_peak", "Names the highest mountain of a country.", "country", "The country."),
         of_one("mountain_elevation", "Gives the height of a mountain.", "mountain", "The mountain.")]
three = [call("s1", "country_of_capital", capital="Dodoma"), call("s2", "highest_peak", country="Tanzania"),
         call("s3", "mountain_elevation", mountain="Kilimanjaro")]
three_scaled = [call("s1", "capital_atlas", capital="Dodoma", fact="country"),
                call("s2", "peak_of_country", country="Tanzania", rank=1),
                call("s3", "mountain_facts", mountain="Kilimanjaro", fact="elevation")]
volcano = of_one("volcano_status", "Tells whether a volcano is active, dormant or extinct.", "volcano",
                 "The volcano's name.")
population = of_one("country_population", "Gives the number of inhabitants of a country.", "country",
                    "The country's English name.")
mountain = '''def mountain_facts(mountain, fact):
    data = {"Kilimanjaro": ("first climbed in 1889", "5,895 m"), \
"Everest": ("first climbed in 1953", "8,849 m"),
            "Denali": ("first climbed in 1913", "6,190 m"), "Elbrus": ("first climbed in 1874", "5,642 m")}
    if fact not in ("first_ascent", "elevation"):
        return "Error: 'fact' must be first_ascent or elevation."
    if not isinstance(mountain, str) or not mountain.strip():
        return "Error: 'mountain' must be a non-empty string."
    for name, (ascent, elevation) in data.items():
        if WHICH:
            return ascent if fact == "first_ascent" else elevation
    return "Error: 'mountain' is not known here; expected an English name."
'''
by_beginning = mountain.replace("WHICH", "mountain.strip().startswith(name)")
by_name = mountain.replace("WHICH", "mountain.strip().casefold() == name.casefold()")
countries = {"Dodoma": {"country": "Tanzania", "continent": "Africa"},
             "Lima": {"country": "Peru", "continent": "South America"},
             "Oslo": {"country": "Norway", "continent": "Europe"}}
atlas_code = table("capital_atlas(capital, fact)", "capital",
                   "'capital' is not known here, or 'fact' is neither country nor continent.", countries,
                   "            if fact in value:\n                return value[fact]")
ranked = {"Tanzania": ["Kilimanjaro", "Meru"], "Nepal": ["Everest", "Kangchenjunga"],
          "Ecuador": ["Chimborazo", "Cotopaxi"]}
peaks_code = table("peak_of_country(country, rank=1)", "country",
                   "'country' is not known here, or 'rank' is neither 1 nor 2.", ranked,
                   "            if rank in (1, 2):\n                return value[rank - 1]")
volcanoes = {"Etna": "active", "Stromboli": "active", "Arthur's Seat": "extinct"}
people = {"Kenya": "53,330,978 people", "Malawi": "20,568,728 people"}
seed = SEEDS["multi_hop"][0]
which_country, which_mountain, how_high = (
    "Which country has the capital Dodoma?", "What is the highest mountain of Tanzania?",
    "How high is Kilimanjaro?")
REPLIES |= {
    ("decompose", seed): [plan("multi_hop", seed, "5,895 m", sub("s1", which_country, "Tanzania"),
                               sub("s2", which_mountain, "Kilimanjaro", "s1"),
                               sub("s3", how_high, "5,895 m", "s2"))],
    ("document", which_country): [documented(plain[0], **three[0]["arguments"])],
    ("document", which_mountain): [documented(plain[1], **three[1]["arguments"])],
    ("document", how_high): [documented(plain[2], **three[2]["arguments"])],
    ("integrate", "country_of_capital+highest_peak+mountain_elevation"): [{"tools": plain, "calls": three}],
    ("scale", seed): [scaled([atlas, peaks, summit], three_scaled, volcano, population)],
    ("deploy", "capital_atlas"): [deployed(atlas_code, capital="Lima", fact="country")],
    ("deploy", "peak_of_country"): [deployed(peaks_code, country="Nepal")],
    ("deploy", "mountain_facts"): [deployed(by_beginning, mountain="Denali", fact="elevation"),
                                   deployed(by_name, mountain="Denali", fact="elevation")],
    ("deploy", "volcano_status"): [lookup("volcano_status", "volcano", "Etna", volcanoes)],
    ("deploy", "country_population"): [lookup("country_population", "country", "Kenya", people)],
}

# --- two chains of two that meet in a computation; five tools become three; a distractor gives an answer away
# and is corrected
seed = "By how many metres is the highest mountain of Ecuador higher than that of Turkey?"
SEEDS["parallel_multi_hop"] = seed, 0
difference = doc(
    "subtract_numbers", "Subtracts one number from another.", "minuend subtrahend",
    minuend={"type": "number", "description": "What to subtract from."},
    subtrahend={"type": "number", "description": "What to subtract."})
hops = [
    ("What is the highest mountain of Ecuador?",
     of_one("ecuador_style_peaks", "Names the highest mountain of a country.", "country", "The country."),
     {"country": "Ecuador"}),
    ("What is the elevation of Chimborazo in metres?",
     of_one("peak_elevation", "Gives the elevation of a mountain.", "peak", "The mountain."),
     {"peak": "Chimborazo"}),
    ("What is the highest mountain of Turkey?",
     of_one("top_mountain", "Tells which mountain of a country is the highest.", "nation", "The country."),
     {"nation": "Turkey"}),
    ("What is the elevation of Mount Ararat in metres?",
     of_one("summit_height", "Returns the height of a summit.", "name", "The summit."),
     {"name": "Mount Ararat"}),
    ("What is 6263 minus 5137?", difference, {"minuend": 6263, "subtrahend": 5137})]
merged = [of_one("highest_mountain_by_country", "Names the highest mountain of a country.", "country",
                 "The country's English name."),
          of_one("elevation_service", "Gives the elevation of a mountain or summit.", "mountain",
                 "The mountain's English name."),
          difference]
five = [call("s1", "highest_mountain_by_country", country="Ecuador"),
        call("s2", "elevation_service", mountain="Chimborazo"),
        call("s3", "highest_mountain_by_country", country="Turkey"),
        call("s4", "elevation_service", mountain="Mount Ararat"),
        call("s5", "subtract_numbers", minuend=6263, subtrahend=5137)]
range_doc = of_one("mountain_range_finder", "Tells which range a mountain is part of.", "mountain",
                   "The mountain's English name.")
ranges = {"Chimborazo": "part of the Cordillera Occidental", "Matterhorn": "part of the Alps",
          "Aneto": "part of the Pyrenees"}
telling = ranges | {"Mount Ararat": "none: it stands alone and rises to 5,137 m"}
highest = {"Ecuador": "Chimborazo", "Turkey": "Mount Ararat", "Nepal": "Everest", "Spain": "Teide"}
elevations = {"Chimborazo": "6,263 m", "Mount Ararat": "5,137 m", "Everest": "8,849 m", "Teide": "3,715 m"}
subtract_code = '''def subtract_numbers(minuend, subtrahend):
    for name, value in (("minuend", minuend), ("subtrahend", subtrahend)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"Error: '{name}' must be a number."
    return f"{minuend - subtrahend:,}"
'''
answers = [("Chimborazo",), ("6,263 m", "s1"), ("Mount Ararat",), ("5,137 m", "s3"), ("1,126", "s2", "s4")]
subs = [sub(f"s{i}", question, *answer) for i, ((question, *_), answer) in enumerate(zip(hops, answers), 1)]
REPLIES |= {
    ("decompose", seed): [plan("parallel_multi_hop", seed, "1,126", *subs)],
    **{("document", question): [documented(d, **arguments)] for question, d, arguments in hops},
    ("integrate", "+".join(d["name"] for _, d, _ in hops)): [{"tools": merged, "calls": five}],
    ("scale", seed): [scaled(merged, five, range_doc)],
    ("deploy", "highest_mountain_by_country"): [
        lookup("highest_mountain_by_country", "country", "Nepal", highest)],
    ("deploy", "elevation_service"): [lookup("elevation_service", "mountain", "Teide", elevations)],
    ("deploy", "subtract_numbers"): [deployed(subtract_code, minuend=9, subtrahend=4)],
    ("deploy", "mountain_range_finder"): [lookup("mountain_range_finder", "mountain", "Aneto", telling),
                                          lookup("mountain_range_finder", "mountain", "Aneto", ranges)],
}

# --- questions that come to nothing
opinion = dict(refused="an opinion, not a fact that a tool could look up", scenario="", question="",
               answer="", subquestions=[])
wet = "Is water wet?"
REPLIES |= {("decompose", "What is love?"): [opinion],
            ("decompose", wet): [plan("single_hop", wet, "yes", sub("s1", wet, "yes"))] * 3}
