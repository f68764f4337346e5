"""Writes text.json: everyday English that SmolLM2 itself writes, to train on.

    python data/02_bidirectional_probing/make_text.py [backwards]

The openings are ours. Finished ones are kept in the cache folder; about 15 minutes of one core.
"""

from pathlib import Path

from helpers import models, twosample
from helpers.artefacts import Steps, versions, write

HERE = Path(__file__).resolve().parent

MODEL, COPIES, TOKENS, TEMPERATURE = "smollm2-135m", 8, 100, 0.9
OPENINGS = """On Sunday morning the whole family went
The oldest bridge of our town was built
When the storm reached the coast, the fishermen
My grandmother kept her recipes in
The new hospital opened its doors
After the concert, people in the street
In spring the garden behind the school
The museum has a room full of
A young reporter asked the minister
Farmers in the valley have always
Last winter the lake was frozen and
The library of the monastery holds
To make a good soup you need
The train from the north was late because
Doctors advise their patients
Our neighbours bought a small boat and
The first astronauts who walked
In the middle ages a blacksmith
The judge listened to both sides and
Every evening the baker's children
The forest fire began when
She opened the letter from her brother and
The factory by the river produced
Birds that spend the winter in Africa
A detective never forgets
The teacher told the class a story about
Before the invention of the telephone people
In the harbour lay three ships that
The king had two daughters, and
Engineers who design tunnels
The theatre was dark when the actors
Children who grow up in the mountains
The museum guide explained how painters
At the market you can buy
The volcano had been quiet for
A good carpenter chooses his wood
The team lost the match, but the coach
During the long drought the village
The clock in the tower had stopped
People who live on the island
The old dog waited at the gate until
Scientists discovered a new kind of
My uncle drives a truck that
The hotel was full of guests who
On the last day of school the students
The soldiers crossed the desert and
A violin is made of
The thief climbed through the window, but
Rain fell for a week, and the roads
The mayor promised the citizens
Whales and dolphins are
The kitchen smelled of bread, and
In the north the summer nights
The pilot saw the mountain too late and
Many cities have built
He had forgotten his umbrella, so
The history of chocolate begins
The nurse looked after an old man who
A healthy breakfast
The letters of the alphabet were
The horse was afraid of the water and
Early maps of the world show
The shop on the corner sells
When the lights went out, everybody""".splitlines()


def main():
    model, tokenizer = models.load(MODEL)
    settings = [MODEL, COPIES, TOKENS, TEMPERATURE]
    steps = Steps("probing_text", {"openings": OPENINGS, "settings": settings})

    def written(seed):
        found = twosample.sample_answers(
            model,
            tokenizer,
            OPENINGS[seed],
            COPIES,
            max_new_tokens=TOKENS,
            temperature=TEMPERATURE,
            seed=seed,
        )
        return [OPENINGS[seed] + text for text in found.texts]

    tasks = {text: lambda seed=i: written(seed) for i, text in enumerate(OPENINGS)}
    texts = [text for own in steps.run_all(tasks).values() for text in own]
    write(HERE / "text.json", {**versions(), "model": MODEL, "texts": texts})


if __name__ == "__main__":
    main()
