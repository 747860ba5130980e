"""What a language model replied when it was asked for four environments, by stage and by what the stage asked about.

Written by hand in the manner of such a model, mistakes included: a list of replies is a reply and its corrections.
"""


def doc(name, description, required, /, **properties):
    for p in properties.values(): p.setdefault("type", "string")
    return {"name": name, "description": description,
            "parameters": {"type": "object", "properties": properties, "required": required.split()}}


def sub(id, question, answer, *depends_on): return dict(id=id, question=question, answer=answer, depends_on=list(depends_on))
def call(id, tool, /, **arguments): return dict(id=id, tool=tool, arguments=arguments)


def plan(scenario, question, answer, *subquestions):
    return dict(refused=None, scenario=scenario, question=question, answer=answer, subquestions=list(subquestions))


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


REPLIES = {}
SEEDS = {}   # Scenario -> (seed question, difficulty)

# --- one hop, difficulty 3: generalized, expanded, retyped
SEEDS["single_hop"] = "Which chemical element has the atomic number 74?", 3
kind = {"type": "object", "description": "What identifies the element.", "required": ["kind", "value"], "properties": {
    "kind": {"type": "string", "description": "What is given.", "enum": ["atomic_number", "symbol"]},
    "value": {"type": ["integer", "string"], "description": "The atomic number or the symbol."}}}
registry = doc("chemical_element_registry", "Looks up a chemical element by its atomic number or symbol and returns one of its properties.",
    "identifier property", identifier=kind, property={"description": "What to return.", "enum": ["name", "symbol", "period"]},
    letter_case={"description": "Letter case of the text.", "enum": ["original", "upper", "lower"], "default": "original"},
    prefix={"description": "A text put in front of the value.", "default": ""},
    max_length={"type": "integer", "description": "Cut the text after this many characters.", "minimum": 1})
REPLIES |= {
    ("decompose", SEEDS["single_hop"][0]): [plan("single_hop", SEEDS["single_hop"][0], "Tungsten",
        sub("s1", "Which chemical element has the atomic number 74?", "Tungsten"))],
    ("document", "Which chemical element has the atomic number 74?"): [doc("element_by_number", "Names the chemical element with an atomic number.",
        "atomic_number", atomic_number={"type": "integer", "description": "The atomic number.", "minimum": 1, "maximum": 118}) | {"arguments": {"atomic_number": 74}}],
    ("scale", SEEDS["single_hop"][0]): [{"tools": [registry], "calls": [call("s1", "chemical_element_registry", identifier={"kind": "atomic_number", "value": 74},
        property="name", letter_case="original")], "distractors": [
            doc("isotope_half_life", "Gives the half-life of an isotope.", "isotope", isotope={"description": "Element and mass number, such as 'Cobalt-60'."}),
            doc("mineral_composition", "Gives the chemical formula of a mineral.", "mineral", mineral={"description": "The mineral's name."}),
            doc("alloy_components", "Names the main components of an alloy.", "alloy", alloy={"description": "The alloy's name."})]}],
    ("deploy", "chemical_element_registry"): [{"example": {"identifier": {"kind": "symbol", "value": "Fe"}, "property": "name"}, "code": '''```python
def chemical_element_registry(identifier, property, letter_case="original", prefix="", max_length=None):
    """Look up a chemical element."""
    elements = [(1, "H", "Hydrogen", 1), (6, "C", "Carbon", 2), (8, "O", "Oxygen", 2), (26, "Fe", "Iron", 4), (29, "Cu", "Copper", 4),
                (47, "Ag", "Silver", 5), (50, "Sn", "Tin", 5), (74, "W", "Tungsten", 6), (79, "Au", "Gold", 6), (92, "U", "Uranium", 7)]
    if not isinstance(identifier, dict) or identifier.get("kind") not in ("atomic_number", "symbol"):
        return "Error: 'identifier' must be an object whose 'kind' is atomic_number or symbol."
    if property not in ("name", "symbol", "period"):
        return "Error: 'property' must be one of name, symbol, period."
    if letter_case not in ("original", "upper", "lower"):
        return "Error: 'letter_case' must be one of original, upper, lower."
    value = identifier.get("value")
    for number, symbol, name, period in elements:
        hit = number == value and not isinstance(value, bool) if identifier["kind"] == "atomic_number" else symbol == value
        if hit:
            text = {"name": name, "symbol": symbol, "period": f"period {period}"}[property]
            text = {"original": text, "upper": text.upper(), "lower": text.lower()}[letter_case]
            return (prefix + text)[:max_length]
    return "Error: 'identifier' names no element known here; expected an atomic number or a symbol."
```'''}],
    ("deploy", "isotope_half_life"): [{"example": {"isotope": "Cobalt-60"}, "code": table("isotope_half_life(isotope)", "isotope",
        "'isotope' is not known here; expected an element and a mass number.", {"Cobalt-60": "5.27 years", "Iodine-131": "8.02 days"})}],
    ("deploy", "mineral_composition"): [{"example": {"mineral": "Quartz"}, "code": table("mineral_composition(mineral)", "mineral",
        "'mineral' is not known here; expected an English name.", {"Quartz": "SiO2", "Halite": "NaCl", "Pyrite": "FeS2"})}],
    ("deploy", "alloy_components"): [{"example": {"alloy": "Bronze"}, "code": table("alloy_components(alloy)", "alloy",
        "'alloy' is not known here; expected an English name.", {"Bronze": "copper and tin", "Brass": "copper and zinc"})}],
}

# --- two independent hops whose tools, written apart, become one; the first reply is cut in half
SEEDS["parallel_single_hop"] = "Which rivers flow through Vienna and Baghdad?", 0
REPLIES |= {
    ("decompose", SEEDS["parallel_single_hop"][0]): ['{"refused": null, "scenario": "parallel_sing', plan("parallel_single_hop",
        SEEDS["parallel_single_hop"][0], "Danube, Tigris", sub("s1", "Which river flows through Vienna?", "Danube"),
        sub("s2", "Which river flows through Baghdad?", "Tigris"))],
    ("document", "Which river flows through Vienna?"): [doc("city_river", "Names the river that flows through a city.", "city",
        city={"description": "The city."}) | {"arguments": {"city": "Vienna"}}],
    ("document", "Which river flows through Baghdad?"): [doc("river_finder", "Finds the main river of a city.", "place",
        place={"description": "The city's name."}) | {"arguments": {"place": "Baghdad"}}],
    ("integrate", "city_river+river_finder"): [{"tools": [doc("city_river", "Names the main river that flows through a city.", "city",
        city={"description": "The city's English name."})], "calls": [call("s1", "city_river", city="Vienna"), call("s2", "city_river", city="Baghdad")]}],
    ("scale", SEEDS["parallel_single_hop"][0]): [{"tools": [doc("city_river", "Names the main river that flows through a city.", "city",
        city={"description": "The city's English name."})], "calls": [call("s1", "city_river", city="Vienna"), call("s2", "city_river", city="Baghdad")],
        "distractors": [doc("city_founding_year", "Tells in which year a city was founded.", "city", city={"description": "The city's English name."})]}],
    ("deploy", "city_river"): [{"example": {"city": "Paris"}, "code": table("city_river(city)", "city",
        "'city' is not known here; expected an English name.", {"Vienna": "Danube", "Baghdad": "Tigris", "Paris": "Seine", "London": "Thames",
        "Cairo": "Nile", "Rome": "Tiber", "Prague": "Vltava", "Cologne": "Rhine"})}],
    ("deploy", "city_founding_year"): [{"example": {"city": "Madrid"}, "code": table("city_founding_year(city)", "city",
        "'city' is not known here; expected an English name.", {"Madrid": "founded in 865", "Berlin": "founded in 1237", "Vienna": "founded in 1137"})}],
}

# --- a chain of three, difficulty 1: generalized; one tool compares names by their beginning and is corrected
SEEDS["multi_hop"] = "How high is the highest mountain of the country whose capital is Dodoma?", 1
atlas = doc("capital_atlas", "Returns political facts about the country that a capital city belongs to.", "capital fact",
    capital={"description": "The capital's English name."}, fact={"description": "What to return.", "enum": ["country", "continent"]})
peaks = doc("peak_of_country", "Returns the highest or the second highest mountain of a country.", "country",
    country={"description": "The country's English name."}, rank={"type": "integer", "description": "1 or 2.", "default": 1})
summit = doc("mountain_facts", "Returns a measured or historical fact about a mountain.", "mountain fact",
    mountain={"description": "The mountain's English name."}, fact={"description": "What to return.", "enum": ["first_ascent", "elevation"]})
plain = [doc("country_of_capital", "Names the country of a capital.", "capital", capital={"description": "The capital."}),
         doc("highest_peak", "Names the highest mountain of a country.", "country", country={"description": "The country."}),
         doc("mountain_elevation", "Gives the height of a mountain.", "mountain", mountain={"description": "The mountain."})]
three = [call("s1", "country_of_capital", capital="Dodoma"), call("s2", "highest_peak", country="Tanzania"), call("s3", "mountain_elevation", mountain="Kilimanjaro")]
mountain = '''def mountain_facts(mountain, fact):
    data = {"Kilimanjaro": ("first climbed in 1889", "5,895 m"), "Everest": ("first climbed in 1953", "8,849 m"),
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
REPLIES |= {
    ("decompose", SEEDS["multi_hop"][0]): [plan("multi_hop", SEEDS["multi_hop"][0], "5,895 m",
        sub("s1", "Which country has the capital Dodoma?", "Tanzania"), sub("s2", "What is the highest mountain of Tanzania?", "Kilimanjaro", "s1"),
        sub("s3", "How high is Kilimanjaro?", "5,895 m", "s2"))],
    **{("document", q): [d | {"arguments": c["arguments"]}] for q, d, c in zip(("Which country has the capital Dodoma?",
        "What is the highest mountain of Tanzania?", "How high is Kilimanjaro?"), plain, three)},
    ("integrate", "country_of_capital+highest_peak+mountain_elevation"): [{"tools": plain, "calls": three}],
    ("scale", SEEDS["multi_hop"][0]): [{"tools": [atlas, peaks, summit], "calls": [call("s1", "capital_atlas", capital="Dodoma", fact="country"),
        call("s2", "peak_of_country", country="Tanzania", rank=1), call("s3", "mountain_facts", mountain="Kilimanjaro", fact="elevation")], "distractors": [
            doc("volcano_status", "Tells whether a volcano is active, dormant or extinct.", "volcano", volcano={"description": "The volcano's name."}),
            doc("country_population", "Gives the number of inhabitants of a country.", "country", country={"description": "The country's English name."})]}],
    ("deploy", "capital_atlas"): [{"example": {"capital": "Lima", "fact": "country"}, "code": table("capital_atlas(capital, fact)", "capital",
        "'capital' is not known here, or 'fact' is neither country nor continent.", {"Dodoma": {"country": "Tanzania", "continent": "Africa"},
        "Lima": {"country": "Peru", "continent": "South America"}, "Oslo": {"country": "Norway", "continent": "Europe"}},
        "            if fact in value:\n                return value[fact]")}],
    ("deploy", "peak_of_country"): [{"example": {"country": "Nepal"}, "code": table("peak_of_country(country, rank=1)", "country",
        "'country' is not known here, or 'rank' is neither 1 nor 2.", {"Tanzania": ["Kilimanjaro", "Meru"], "Nepal": ["Everest", "Kangchenjunga"],
        "Ecuador": ["Chimborazo", "Cotopaxi"]}, "            if rank in (1, 2):\n                return value[rank - 1]")}],
    ("deploy", "mountain_facts"): [{"example": {"mountain": "Denali", "fact": "elevation"}, "code": mountain.replace("WHICH", "mountain.strip().startswith(name)")},
        {"example": {"mountain": "Denali", "fact": "elevation"}, "code": mountain.replace("WHICH", "mountain.strip().casefold() == name.casefold()")}],
    ("deploy", "volcano_status"): [{"example": {"volcano": "Etna"}, "code": table("volcano_status(volcano)", "volcano",
        "'volcano' is not known here; expected an English name.", {"Etna": "active", "Stromboli": "active", "Arthur's Seat": "extinct"})}],
    ("deploy", "country_population"): [{"example": {"country": "Kenya"}, "code": table("country_population(country)", "country",
        "'country' is not known here; expected an English name.", {"Kenya": "53,330,978 people", "Malawi": "20,568,728 people"})}],
}

# --- two chains of two that meet in a computation; five tools become three; a distractor gives an answer away and is corrected
SEEDS["parallel_multi_hop"] = "By how many metres is the highest mountain of Ecuador higher than that of Turkey?", 0
hops = [("What is the highest mountain of Ecuador?", doc("ecuador_style_peaks", "Names the highest mountain of a country.", "country", country={"description": "The country."}), {"country": "Ecuador"}),
        ("What is the elevation of Chimborazo in metres?", doc("peak_elevation", "Gives the elevation of a mountain.", "peak", peak={"description": "The mountain."}), {"peak": "Chimborazo"}),
        ("What is the highest mountain of Turkey?", doc("top_mountain", "Tells which mountain of a country is the highest.", "nation", nation={"description": "The country."}), {"nation": "Turkey"}),
        ("What is the elevation of Mount Ararat in metres?", doc("summit_height", "Returns the height of a summit.", "name", name={"description": "The summit."}), {"name": "Mount Ararat"}),
        ("What is 6263 minus 5137?", doc("subtract_numbers", "Subtracts one number from another.", "minuend subtrahend", minuend={"type": "number", "description": "What to subtract from."},
            subtrahend={"type": "number", "description": "What to subtract."}), {"minuend": 6263, "subtrahend": 5137})]
merged = [doc("highest_mountain_by_country", "Names the highest mountain of a country.", "country", country={"description": "The country's English name."}),
          doc("elevation_service", "Gives the elevation of a mountain or summit.", "mountain", mountain={"description": "The mountain's English name."}), hops[4][1]]
five = [call("s1", "highest_mountain_by_country", country="Ecuador"), call("s2", "elevation_service", mountain="Chimborazo"),
        call("s3", "highest_mountain_by_country", country="Turkey"), call("s4", "elevation_service", mountain="Mount Ararat"),
        call("s5", "subtract_numbers", minuend=6263, subtrahend=5137)]
ranges = {"Chimborazo": "part of the Cordillera Occidental", "Matterhorn": "part of the Alps", "Aneto": "part of the Pyrenees"}
range_doc = doc("mountain_range_finder", "Tells which range a mountain is part of.", "mountain", mountain={"description": "The mountain's English name."})
REPLIES |= {
    ("decompose", SEEDS["parallel_multi_hop"][0]): [plan("parallel_multi_hop", SEEDS["parallel_multi_hop"][0], "1,126",
        sub("s1", hops[0][0], "Chimborazo"), sub("s2", hops[1][0], "6,263 m", "s1"), sub("s3", hops[2][0], "Mount Ararat"),
        sub("s4", hops[3][0], "5,137 m", "s3"), sub("s5", hops[4][0], "1,126", "s2", "s4"))],
    **{("document", q): [d | {"arguments": a}] for q, d, a in hops},
    ("integrate", "+".join(d["name"] for _, d, _ in hops)): [{"tools": merged, "calls": five}],
    ("scale", SEEDS["parallel_multi_hop"][0]): [{"tools": merged, "calls": five, "distractors": [range_doc]}],
    ("deploy", "highest_mountain_by_country"): [{"example": {"country": "Nepal"}, "code": table("highest_mountain_by_country(country)", "country",
        "'country' is not known here; expected an English name.", {"Ecuador": "Chimborazo", "Turkey": "Mount Ararat", "Nepal": "Everest", "Spain": "Teide"})}],
    ("deploy", "elevation_service"): [{"example": {"mountain": "Teide"}, "code": table("elevation_service(mountain)", "mountain",
        "'mountain' is not known here; expected an English name.", {"Chimborazo": "6,263 m", "Mount Ararat": "5,137 m", "Everest": "8,849 m", "Teide": "3,715 m"})}],
    ("deploy", "subtract_numbers"): [{"example": {"minuend": 9, "subtrahend": 4}, "code": '''def subtract_numbers(minuend, subtrahend):
    for name, value in (("minuend", minuend), ("subtrahend", subtrahend)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"Error: '{name}' must be a number."
    return f"{minuend - subtrahend:,}"
'''}],
    ("deploy", "mountain_range_finder"): [
        {"example": {"mountain": "Aneto"}, "code": table("mountain_range_finder(mountain)", "mountain",
            "'mountain' is not known here; expected an English name.", ranges | {"Mount Ararat": "none: it stands alone and rises to 5,137 m"})},
        {"example": {"mountain": "Aneto"}, "code": table("mountain_range_finder(mountain)", "mountain",
            "'mountain' is not known here; expected an English name.", ranges)}],
}

# --- questions that come to nothing
REPLIES |= {("decompose", "What is love?"): [dict(refused="an opinion, not a fact that a tool could look up", scenario="", question="", answer="", subquestions=[])],
            ("decompose", "Is water wet?"): [plan("single_hop", "Is water wet?", "yes", sub("s1", "Is water wet?", "yes"))] * 3}
