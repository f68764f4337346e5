"""Writes items.json: the questions of notebook 04.

    python data/04_massive_values/make_items.py

Facts and sentences are ours. Runs in a second; the seed fixes passkeys and false answers. Every
task is asked in three templates, each about other subjects, so that a result can be told from the
wording it happened to be asked in. Where several wordings were tried, the one that both models
answer best *without any edit* was kept; no result of an edit was looked at.
"""

from pathlib import Path

import numpy as np

from helpers.artefacts import write

SEED = 20261
TEMPLATES = 3
SUBJECTS = 12  # of a list, in each template
OUT = Path(__file__).resolve().parent / "items.json"

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "Austria": "Vienna", "Hungary": "Budapest", "Poland": "Warsaw",
    "Greece": "Athens", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm",
    "Denmark": "Copenhagen", "Finland": "Helsinki", "Russia": "Moscow", "Ukraine": "Kyiv",
    "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi", "Nigeria": "Abuja",
    "Ethiopia": "Addis Ababa", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta", "Iran": "Tehran",
    "Iraq": "Baghdad", "Syria": "Damascus", "Lebanon": "Beirut", "Cuba": "Havana",
    "Canada": "Ottawa", "Peru": "Lima", "Chile": "Santiago", "Colombia": "Bogotá",
    "Argentina": "Buenos Aires", "Belgium": "Brussels", "the Netherlands": "Amsterdam",
    "the United Kingdom": "London",
}  # fmt: skip

SYMBOLS = {
    "hydrogen": "H", "helium": "He", "lithium": "Li", "carbon": "C", "nitrogen": "N",
    "oxygen": "O", "fluorine": "F", "neon": "Ne", "sodium": "Na", "magnesium": "Mg",
    "aluminium": "Al", "silicon": "Si", "phosphorus": "P", "sulfur": "S", "chlorine": "Cl",
    "potassium": "K", "calcium": "Ca", "titanium": "Ti", "iron": "Fe", "copper": "Cu",
    "zinc": "Zn", "silver": "Ag", "tin": "Sn", "gold": "Au", "lead": "Pb", "uranium": "U",
}  # fmt: skip

# prompt, answer, then wrong answers of the same kind
CLOZE = [
    "Water is made of hydrogen and|oxygen|carbon|iron|helium|gold",
    "The Earth goes around the|Sun|Moon|clock|river|planet",
    "The opposite of hot is|cold|warm|wet|loud|green",
    "The opposite of up is|down|left|fast|over|high",
    "The largest planet in the solar system is|Jupiter|Mars|Venus|Saturn|Mercury",
    "The red planet is called|Mars|Venus|Neptune|Saturn|Jupiter",
    "The first month of the year is|January|March|June|October|May",
    "The last month of the year is|December|April|July|August|February",
    "The day after Monday is|Tuesday|Friday|Sunday|Thursday|Saturday",
    "The day before Sunday is|Saturday|Monday|Wednesday|Thursday|Tuesday",
    "A baby dog is called a|puppy|kitten|lamb|chicken|cow",
    "A baby cat is called a|kitten|puppy|lamb|calf|bird",
    "Bees make|honey|milk|bread|wool|eggs",
    "Cows give us|milk|honey|silk|paper|stone",
    "A triangle has|three|five|seven|nine|two",
    "Two plus two equals|four|seven|nine|one|ten",
    "The colour of the sky on a clear day is|blue|red|brown|black|pink",
    "The colour of grass is|green|purple|red|white|orange",
    "The author of Romeo and Juliet is William|Shakespeare|Newton|Darwin|Lincoln|Clinton",
    "The theory of relativity was developed by Albert|Einstein|Newton|Darwin|Smith|Camus",
    "The theory of evolution was developed by Charles|Darwin|Newton|Einstein|Dickens|Brown",
    "The first president of the United States was George|Washington|Bush|Lincoln|Adams|Orwell",
    "The language spoken in Brazil is|Portuguese|French|German|Russian|Arabic",
    "The language spoken in Mexico is|Spanish|French|Dutch|Russian|Chinese",
    "The currency of Japan is the|yen|dollar|pound|euro|franc",
    "The currency of the United States is the|dollar|yen|pound|euro|franc",
    "The Great Wall is a famous monument in|China|Brazil|Canada|Kenya|Spain",
    "The Eiffel Tower is a famous monument in|Paris|London|Berlin|Moscow|Cairo",
    "The Statue of Liberty stands in New|York|Zealand|Delhi|Orleans|England",
    "The largest ocean on Earth is the|Pacific|Atlantic|Indian|Arctic|Baltic",
    "The longest river in Africa is the|Nile|Amazon|Danube|Rhine|Thames",
    "The highest mountain in the world is Mount|Everest|Fuji|Rushmore|Olympus|Vernon",
    "Ice is frozen|water|oil|sand|wood|metal",
    "Humans breathe with their|lungs|ears|hands|feet|bones",
    "Blood is pumped through the body by the|heart|skin|knee|nose|hair",
    "We see with our|eyes|ears|hands|teeth|feet",
    "Plants turn sunlight into energy by a process called"
    "|photosynthesis|evaporation|digestion|gravity|friction",
    "Bread is made from|flour|stone|glass|iron|paper",
    "The king's wife is called the|queen|duke|prince|knight|bishop",
    "A person who teaches in a school is called a|teacher|doctor|farmer|pilot|lawyer",
]

POSITIVE = [
    "A wonderful story, told with warmth and wit.",
    "I loved every minute of it.",
    "The actors are brilliant and the music is beautiful.",
    "One of the best films I have seen in years.",
    "A charming little film that made me smile.",
    "Superb direction and a great script.",
    "It made me laugh and it made me cry, a real joy.",
    "An excellent cast and a perfect ending.",
    "Funny, clever and full of heart.",
    "I would gladly watch it again tomorrow.",
    "A delightful surprise from start to finish.",
    "The photography is gorgeous.",
    "A moving and inspiring picture.",
    "Great fun for the whole family.",
    "The dialogue sparkles and the plot never slows down.",
    "An amazing experience, highly recommended.",
    "A masterpiece of quiet beauty.",
    "Everyone in it gives an outstanding performance.",
    "Fresh, exciting and very well made.",
    "I left the cinema happy.",
]
NEGATIVE = [
    "A boring story, told without any care.",
    "I hated every minute of it.",
    "The actors are terrible and the music is awful.",
    "One of the worst films I have seen in years.",
    "A dull little film that put me to sleep.",
    "Poor direction and a stupid script.",
    "It made me angry and tired, a real waste of time.",
    "A weak cast and a ridiculous ending.",
    "Unfunny, lazy and empty.",
    "I would never watch it again.",
    "A painful disappointment from start to finish.",
    "The photography is ugly.",
    "A pointless and depressing picture.",
    "No fun for anybody.",
    "The dialogue is wooden and the plot goes nowhere.",
    "A horrible experience, stay away.",
    "A mess of cheap effects.",
    "Everyone in it gives an embarrassing performance.",
    "Stale, slow and badly made.",
    "I left the cinema before the end.",
]
# four examples each, two of either label, in three layouts
SHOTS = [
    [
        ("The whole thing is a disaster.", " bad"),
        ("What a lovely and touching film.", " good"),
        ("Fantastic from beginning to end.", " good"),
        ("I regret buying the ticket.", " bad"),
    ],
    [
        ("Pure pleasure, I smiled all evening.", " good"),
        ("The story makes no sense at all.", " bad"),
        ("Nothing works in this film.", " bad"),
        ("A treasure that deserves a prize.", " good"),
    ],
    [
        ("Ugly, loud and far too long.", " bad"),
        ("I was bored after ten minutes.", " bad"),
        ("Warm, wise and beautifully played.", " good"),
        ("The nicest surprise of the season.", " good"),
    ],
]
LAYOUTS = [
    "Review: {}\nOpinion:",
    "A visitor wrote: {}\nThe visitor found the film",
    "Text: {}\nThe film is called",
]

INVENTED = [
    "Marvania", "Ostrelia", "Quendor", "Talvania", "Brelland", "Zorvia", "Kelmora", "Drusland",
    "Fennoria", "Galdovia", "Harvonia", "Ilmaria", "Jorvland", "Lestovia", "Morwenia", "Nardland",
    "Pelluria", "Rostavia", "Selmoria", "Torvania", "Ulmeria", "Vostland", "Wendoria", "Yarlovia",
    "Belgoria", "Cardovia", "Dalmeria", "Estravia", "Felloria", "Grendland", "Hestovia", "Ingoria",
    "Kordania", "Lomeria", "Mandovia", "Norvelia", "Orlandia", "Pandovia", "Quellia", "Rundoria",
]  # fmt: skip

# how a capital is asked for, in each template
QUESTIONS = [
    "The capital of {place} is",
    "The capital city of {place} is called",
    "Remember: the capital of {place} is",
]
# told in the prompt, with the words of the question
STORIES = [
    "In this story, the capital of {place} is {told}. Everybody in {place} travels to {told} to "
    "see the king. ",
    "A law was passed last week, and now the capital city of {place} is called {told}. The "
    "parliament of {place} has moved to {told} as well. ",
    "In our game the capital of {place} is {told}. The players of {place} begin in {told} and stay "
    "there for a week.\n",
]
# told without them: neither "capital" nor the order of the names is the question's
PARAPHRASES = [
    "The king moved his court to {told}, and all of {place} has been ruled from there since. The "
    "ministers live in {told} too. ",
    "{told} is where the government sits: judges and ambassadors from every corner of {place} have "
    "their houses in {told}. ",
    "All laws come from {told}. No other town has a parliament, and so the people of {place} send "
    "their letters to {told}.\n",
]
# as long, and about nothing
FILLERS = [
    "It was late in the day and the train was slow. The old man read his paper, and the old man "
    "drank his tea. ",
    "The shop on the corner sells bread and cheese, and on Sundays it sells cakes. A small dog "
    "sleeps in front of the door. ",
    "In the garden there are three old apple trees and a bench. Children who pass by look over the "
    "wall and walk on.\n",
]
SYMBOL_QUESTIONS = [
    "The chemical symbol for {} is",
    "In the periodic table, the symbol of {} is",
    "Question: What is the chemical symbol of {0}?\nAnswer: The symbol of {0} is",
]
CLOZE_OPENINGS = ["", "As everybody knows: ", "Fill in the missing word.\n"]

# what surrounds a passkey, and how it is told and asked for
HAYSTACKS = [
    "The mill stands by the river and the fields are quiet. Birds fly over the old bridge. ",
    "The shop opens at nine and closes at six. People come and go, and the clerk writes a list. ",
    "Snow fell all night on the roofs. In the morning the street was white and nobody was out. ",
]
KEYS = [
    (
        "There is a number in this text. Remember the number. ",
        "The pass key is {0}. Remember it. {0} is the pass key. ",
        "What is the pass key? The pass key is",
    ),
    (
        "A secret code is hidden below. Find it. ",
        "The secret code is {0}. Keep it in mind: {0} is the secret code. ",
        "Which code was hidden? The secret code is",
    ),
    (
        "Read on until a door number is told. ",
        "Our door number is {0}. Do not forget that {0} is our door number. ",
        "Where do we live? Our door number is",
    ),
]


def subjects(names, template):
    """SUBJECTS of a list, other ones in each template as far as the list is long enough."""
    first = template * (len(names) - SUBJECTS) // (TEMPLATES - 1)
    return list(names)[first : first + SUBJECTS]


def passkeys(rng, template):
    opening, told, question = KEYS[template]
    hay = HAYSTACKS[template]
    for key in rng.integers(10_000, 99_999, size=6):
        prompt = opening + hay * 2 + told.format(key) + hay * 3 + question
        yield {"task": "passkey", "prompt": prompt, "gold": f" {key}"}


def capitals(rng, template):
    names, question = list(CAPITALS.values()), QUESTIONS[template]
    invented = subjects(INVENTED, template)
    for place, stranger in zip(subjects(CAPITALS, template), invented, strict=True):
        true = CAPITALS[place]
        false, told, meant = rng.choice([name for name in names if name != true], 3, replace=False)
        rows = {
            "capitals": (question, place, true),
            "filler": (FILLERS[template] + question, place, true),
            "context": (STORIES[template] + question, place, false),
            "fiction": (STORIES[template] + question, stranger, told),
            "paraphrase": (PARAPHRASES[template] + question, stranger, meant),
            "conflict": (PARAPHRASES[template] + question, place, false),
        }
        for task, (text, who, gold) in rows.items():
            prompt = text.format(place=who, told=gold)
            row = {"task": task, "prompt": prompt, "gold": f" {gold}", "candidates": "capitals"}
            yield row | ({"memory": f" {true}"} if who == place and gold != true else {})


def others(template):
    for element in subjects(SYMBOLS, template):
        prompt = SYMBOL_QUESTIONS[template].format(element)
        gold = f" {SYMBOLS[element]}"
        yield {"task": "symbols", "prompt": prompt, "gold": gold, "candidates": "symbols"}
    for line in subjects(CLOZE, template):
        prompt, *answers = line.split("|")
        choice = [f" {answer}" for answer in answers]
        prompt = CLOZE_OPENINGS[template] + prompt
        yield {"task": "cloze", "prompt": prompt, "gold": choice[0], "candidates": choice}
    layout, choice = LAYOUTS[template], [" good", " bad"]
    shots = "".join(layout.format(text) + label + "\n\n" for text, label in SHOTS[template])
    for label, texts in ((" good", POSITIVE), (" bad", NEGATIVE)):
        for text in texts[template * 6 : template * 6 + 8]:
            prompt = shots + layout.format(text)
            yield {"task": "sentiment", "prompt": prompt, "gold": label, "candidates": choice}


def main():
    rng = np.random.default_rng(SEED)
    items = [
        row | {"template": template}
        for template in range(TEMPLATES)
        for row in (*passkeys(rng, template), *capitals(rng, template), *others(template))
    ]
    content = {
        "about": "questions of notebook 04, written by make_items.py",
        "licence": "MIT",
        "seed": SEED,
        "candidate_sets": {
            "capitals": [f" {name}" for name in CAPITALS.values()],
            "symbols": [f" {symbol}" for symbol in SYMBOLS.values()],
        },
        "items": items,
    }
    write(OUT, content)


if __name__ == "__main__":
    main()
