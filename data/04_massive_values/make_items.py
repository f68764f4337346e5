"""Writes items.json: the questions of notebook 04.

    python data/04_massive_values/make_items.py

Facts and sentences are ours. Runs in a second; the seed fixes passkeys and false answers.
"""

from pathlib import Path

import numpy as np

from helpers.artefacts import write

SEED = 20260
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
SHOTS = (
    "Review: The whole thing is a disaster.\nOpinion: bad\n\n"
    "Review: What a lovely and touching film.\nOpinion: good\n\n"
    "Review: Fantastic from beginning to end.\nOpinion: good\n\n"
    "Review: I regret buying the ticket.\nOpinion: bad\n\n"
)

INVENTED = [
    "Marvania", "Ostrelia", "Quendor", "Talvania", "Brelland", "Zorvia", "Kelmora", "Drusland",
    "Fennoria", "Galdovia", "Harvonia", "Ilmaria", "Jorvland", "Lestovia", "Morwenia", "Nardland",
    "Pelluria", "Rostavia", "Selmoria", "Torvania", "Ulmeria", "Vostland", "Wendoria", "Yarlovia",
    "Belgoria", "Cardovia", "Dalmeria", "Estravia", "Felloria", "Grendland", "Hestovia", "Ingoria",
    "Kordania", "Lomeria", "Mandovia", "Norvelia", "Orlandia", "Pandovia", "Quellia", "Rundoria",
]  # fmt: skip

GRASS = "The mill stands by the river and the fields are quiet. Birds fly over the old bridge. "
# as long as the story of the context task, and about nothing
FILLER = (
    "It was late in the day and the train was slow. The old man read his paper, and the old man "
    "drank his tea."
)


def passkeys(rng):
    for key in rng.integers(10_000, 99_999, size=24):
        yield {
            "task": "passkey",
            "prompt": "There is a number in this text. Remember the number. "
            + GRASS * 2
            + f"The pass key is {key}. Remember it. {key} is the pass key. "
            + GRASS * 3
            + "What is the pass key? The pass key is",
            "gold": f" {key}",
        }


def capitals(rng):
    names = list(CAPITALS.values())
    for i, (country, capital) in enumerate(CAPITALS.items()):
        false, told = rng.choice([name for name in names if name != capital], 2, replace=False)
        question = f"The capital of {country} is"
        rows = {
            "capitals": (question, capital),
            "filler": (f"{FILLER} {question}", capital),
            "context": (story(country, false), false),
            "fiction": (story(INVENTED[i], told), told),
        }
        for task, (prompt, gold) in rows.items():
            yield {"task": task, "prompt": prompt, "gold": f" {gold}", "candidates": "capitals"}


def story(country, capital):
    return (
        f"In this story, the capital of {country} is {capital}. Everybody in {country} travels "
        f"to {capital} to see the king. The capital of {country} is"
    )


def others():
    for element, symbol in SYMBOLS.items():
        prompt = f"The chemical symbol for {element} is"
        yield {"task": "symbols", "prompt": prompt, "gold": f" {symbol}", "candidates": "symbols"}
    for line in CLOZE:
        prompt, *answers = line.split("|")
        choice = [f" {answer}" for answer in answers]
        yield {"task": "cloze", "prompt": prompt, "gold": choice[0], "candidates": choice}
    for label, texts in ((" good", POSITIVE), (" bad", NEGATIVE)):
        for text in texts:
            prompt = f"{SHOTS}Review: {text}\nOpinion:"
            choice = [" good", " bad"]
            yield {"task": "sentiment", "prompt": prompt, "gold": label, "candidates": choice}


def main():
    rng = np.random.default_rng(SEED)
    content = {
        "about": "questions of notebook 04, written by recipes/massive_values_items.py",
        "licence": "MIT",
        "seed": SEED,
        "candidate_sets": {
            "capitals": [f" {name}" for name in CAPITALS.values()],
            "symbols": [f" {symbol}" for symbol in SYMBOLS.values()],
        },
        "items": [*passkeys(rng), *capitals(rng), *others()],
    }
    write(OUT, content)


if __name__ == "__main__":
    main()
