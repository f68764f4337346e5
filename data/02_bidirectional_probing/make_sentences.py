"""Writes sentences.json: the words and sentences of notebook 02, all our own.

    python data/02_bidirectional_probing/make_sentences.py

Every word of `words` and `training` is one token for both tokenizers (checked here), so that the
length of a sentence tells nothing; `training` shares no content word with `words`.
"""

import itertools
from pathlib import Path

from helpers import models, probing
from helpers.artefacts import write

HERE = Path(__file__).resolve().parent

WORDS = {
    "animate": "judge nurse farmer teacher student doctor lawyer baker king queen prince "
    "princess soldier sailor pilot driver singer dancer actor writer painter "
    "artist poet priest monk nun thief guard hunter fisherman butcher tailor boy "
    "girl man woman child baby uncle aunt father mother brother sister neighbor "
    "guest stranger enemy captain clerk manager engineer scientist professor "
    "mayor spy dog cat horse cow pig sheep goat wolf fox bear lion tiger elephant "
    "monkey rabbit mouse rat bird eagle owl snake frog spider whale",
    "inanimate": "brick stone rock table chair desk door window wall roof floor house tower "
    "bridge road river lake hill book letter paper pencil pen bottle cup glass "
    "plate bowl spoon knife fork box bag basket bucket barrel hammer nail rope "
    "chain truck bus train boat wheel engine clock lamp candle mirror coin ring "
    "crown shirt coat hat shoe blanket pillow carpet soap brush ladder fence tent "
    "kite drum piano guitar phone camera computer bell map ticket kettle cake "
    "bread vase stick",
    # they name a change or a movement, and what undergoes it can be their subject: the ice melted
    "causative": "broke melted rolled burned opened closed moved turned spun shattered cracked "
    "bent shook stopped started sank dried cooked boiled dropped split folded "
    "snapped stretched expanded exploded doubled softened warmed cooled heated "
    "drained twisted flipped rotated tilted burst ignited dissolved healed",
    # events, too, but what undergoes them cannot be the subject: not "the ball kicked"
    "dynamic": "kicked bought visited hit touched carried caught grabbed stole painted wiped "
    "ate drank chased attacked helped built read watched examined searched found "
    "brought used wore drew photographed praised blamed greeted thanked guarded "
    "rescued scratched borrowed repaired polished delivered weighed copied",
    "stative": "knew owned feared loved hated liked wanted needed believed trusted "
    "remembered understood respected admired resembled contained lacked preferred "
    "deserved desired possessed valued cherished missed dreaded concerned "
    "involved required meant suited matched exceeded favored tolerated enjoyed "
    "appreciated symbolized represented surpassed treasured",
}
# of the supervised contrastive adapter: none of them is probed
TRAINING = {
    "animate": "cook chef cousin daughter son husband wife widow host visitor friend player "
    "coach worker president minister officer detective agent customer patient "
    "tourist reporter editor librarian musician athlete champion leader knight "
    "witch giant pirate shepherd gardener boss owner lady gentleman grandmother "
    "kid bride",
    "inanimate": "valley street mountain island wire car ship plane bicycle motor watch "
    "picture statue dress boot curtain towel broom gate garden bench ball doll "
    "violin flute radio screen cable battery machine tool saw axe shovel flag "
    "stamp envelope pan pot stove oven cheese apple potato",
    "verbs": "pushed pulled held sold washed cleaned followed cut fed took sent called "
    "saved tapped lifted raised ordered rented fixed swept selected chose tracked "
    "inspected tested measured counted described mentioned criticized",
}
# word: two senses, each with two continuations of "The <word> ..." and two openings of
# "... the <word>"; the sense is told on that side only
SENSES = {
    "bank": (
        (
            ("raised its interest rates", "refused me a loan"),
            ("He opened an account at", "She owes money to"),
        ),
        (
            ("was covered with reeds", "was washed away by floods"),
            ("The canoe drifted towards", "Otters slept on"),
        ),
    ),
    "bat": (
        (
            ("hung upside down asleep", "flew out at dusk"),
            ("Moths were eaten by", "Its cave was home to"),
        ),
        (
            ("was made of ash", "cracked against the ball"),
            ("The cricketer swung", "She hit the ball with"),
        ),
    ),
    "bark": (
        (
            ("peeled off the birch", "was covered with moss"),
            ("Beetles live under", "He carved letters into"),
        ),
        (
            ("woke all the neighbors", "frightened the postman away"),
            ("The puppy let out", "Far off we heard"),
        ),
    ),
    "spring": (
        (
            ("squeaked under the mattress", "was stretched too far"),
            ("The clock lost", "A steel coil forms"),
        ),
        (
            ("brought tulips and rain", "came late that year"),
            ("After the winter comes", "The swallows return in"),
        ),
    ),
    "seal": (
        (
            ("swam after the herring", "dived beneath the ice"),
            ("A polar bear caught", "At the zoo we fed"),
        ),
        (
            ("on the envelope broke", "was pressed into wax"),
            ("The king stamped", "The document lacked"),
        ),
    ),
    "crane": (
        (
            ("spread its white wings", "waded through the marsh"),
            ("The birdwatcher filmed", "Eggs were laid by"),
        ),
        (
            ("lifted the steel beams", "towered above the scaffolding"),
            ("The dockers operated", "Containers were unloaded with"),
        ),
    ),
    "match": (
        (
            ("lit the damp candle", "burned down to his fingers"),
            ("She struck", "He started the fire with"),
        ),
        (
            ("ended without a goal", "was watched by thousands"),
            ("The referee stopped", "Our team lost"),
        ),
    ),
    "pitcher": (
        (
            ("was full of lemonade", "spilled over the tablecloth"),
            ("She poured milk from", "The waiter refilled"),
        ),
        (
            ("threw a curve ball", "struck out the batter"),
            ("The coach replaced", "The catcher signalled to"),
        ),
    ),
    "trunk": (
        (
            ("of the oak was hollow", "grew thicker every year"),
            ("Woodpeckers drilled into", "Ivy climbed up"),
        ),
        (
            ("was packed with dresses", "had a rusty lock"),
            ("She stored her linen in", "The porter carried"),
        ),
    ),
    "mole": (
        (
            ("dug tunnels under the lawn", "ate several earthworms"),
            ("The gardener trapped", "Soil was thrown up by"),
        ),
        (
            ("sold secrets to the enemy", "leaked the agency's files"),
            ("Counterintelligence finally exposed", "The spies suspected"),
        ),
    ),
    "palm": (
        (
            ("swayed over the beach", "bore sweet coconuts"),
            ("A monkey climbed", "On the oasis grew"),
        ),
        (
            ("of her hand itched", "was sweaty with fear"),
            ("The fortune teller read", "He held a coin in"),
        ),
    ),
    "organ": (
        (
            ("was donated after the accident", "failed and needed a transplant"),
            ("The surgeon removed", "Blood flows through"),
        ),
        (
            ("played a solemn hymn", "has three thousand pipes"),
            ("The cathedral restored", "Bach wrote fugues for"),
        ),
    ),
    "fan": (
        (
            ("cooled the stuffy office", "turned its plastic blades"),
            ("It was hot until he switched on", "The electrician installed"),
        ),
        (
            ("begged the singer for an autograph", "cheered for her team"),
            ("The band waved to", "The striker hugged"),
        ),
    ),
    "jam": (
        (
            ("was made from plums", "dripped off the toast"),
            ("She spread butter and", "Grandmother boiled strawberries for"),
        ),
        (
            ("blocked the motorway for hours", "was caused by an accident"),
            ("The commuters sat in", "Police redirected traffic around"),
        ),
    ),
    "star": (
        (
            ("exploded as a supernova", "is ten light years away"),
            ("The telescope showed", "A planet orbits"),
        ),
        (
            ("signed a film contract", "walked down the red carpet"),
            ("Photographers surrounded", "The director argued with"),
        ),
    ),
    "file": (
        (
            ("was deleted from the disk", "would not open in the editor"),
            ("The program saved", "He attached to his email"),
        ),
        (
            ("smoothed the rough metal", "sharpened the chisel"),
            ("The locksmith used", "She shaped her nails with"),
        ),
    ),
    "mouse": (
        (
            ("nibbled at the cheese", "squeaked behind the wall"),
            ("The owl swallowed", "The cat pounced on"),
        ),
        (
            ("was plugged into the laptop", "needed a new battery and a cursor"),
            ("He clicked with", "Keyboards are sold together with"),
        ),
    ),
    "chest": (
        (
            ("rose and fell with each breath", "hurt when he coughed"),
            ("The doctor listened to", "The bullet hit him in"),
        ),
        (
            ("was filled with gold coins", "had iron handles and drawers"),
            ("The pirates buried", "The carpenter built"),
        ),
    ),
    "pupil": (
        (
            ("answered the teacher politely", "failed the spelling test"),
            ("The headmaster punished", "Homework was given to"),
        ),
        (
            ("of his eye widened", "shrank in bright light"),
            ("The optician examined", "Light enters the eye through"),
        ),
    ),
    "plant": (
        (
            ("needs water and sunlight", "grew leaves on the windowsill"),
            ("The botanist named", "She repotted"),
        ),
        (
            ("manufactured tractors and engines", "laid off its workers"),
            ("The company closed", "The strike paralysed"),
        ),
    ),
    "court": (
        (
            ("sentenced the thief to prison", "heard the witness testify"),
            ("The lawyer appealed to", "The verdict was read in"),
        ),
        (
            ("was marked for tennis", "had a net and white lines"),
            ("The players left", "The ball bounced off"),
        ),
    ),
    "tank": (
        (
            ("fired at the enemy trench", "rolled across the battlefield"),
            ("The infantry followed", "A grenade damaged"),
        ),
        (
            ("was full of tropical fish", "leaked water onto the carpet"),
            ("Goldfish swam in", "He filled with petrol"),
        ),
    ),
    "cell": (
        (
            ("divided its chromosomes", "has a nucleus and a membrane"),
            ("The virus entered", "Under the microscope we saw"),
        ),
        (
            ("had bars and a hard bed", "was shared by two prisoners"),
            ("The warden locked", "The convict paced in"),
        ),
    ),
    "mine": (
        (
            ("produced coal and copper", "collapsed on the diggers"),
            ("The geologist surveyed", "Gold is dug from"),
        ),
        (
            ("exploded under the jeep", "was defused by sappers"),
            ("The soldier stepped on", "The ship was sunk by"),
        ),
    ),
}
# subject, verb, what follows so that the event has an end of its own, and so that it has none
TELICITY = """girl drew|a circle|nervous circles
boy ate|the apple|green apples
poet wrote|two letters|love letters
men built|a bridge|wooden bridges
woman drank|the juice|cold juice
cook baked|a cake|chocolate cakes
artist painted|the portrait|landscape portraits
child read|a story|short stories
farmer picked|three pears|ripe pears
tailor sewed|a shirt|silk shirts
student solved|the puzzle|hard puzzles
team dug|a well|deep wells
nurse knitted|one scarf|warm scarves
singer recorded|an album|folk songs
chef peeled|two potatoes|new potatoes
actor learned|the role|minor roles
guests consumed|a pie|fresh bread
clerk typed|the report|long reports
soldier smoked|a cigarette|cheap tobacco
carpenter made|a table|kitchen tables
runner walked|to the station|along the river
dog ran|into the house|around the garden
ship sailed|to the island|across the ocean
bird flew|to its nest|over the fields
family drove|to the airport|through the countryside
swimmer swam|to the shore|in the lake
cat crawled|under the sofa|along the fence
crowd marched|to the palace|through the streets
ball rolled|into the hole|down the road
pilgrims travelled|to the temple|in the mountains
thief climbed|onto the roof|up the stairs slowly
boat drifted|to the harbor|on the waves
prisoner jumped|over the wall|up and down
train raced|into the tunnel|along the coast
hikers hurried|to the cabin|through the forest
horse galloped|to the stable|across the meadow
plane climbed|above the clouds|for an hour
waiter carried|the tray upstairs|heavy trays
workers pushed|the car home|empty carts
editor copied|the page|old manuscripts""".splitlines()
# noun|what follows so that a thing is meant that can be touched|... an idea
CONCRETENESS = """root|of the tree|of the problem
heart|of the patient|of the matter
head|of the horse|of the department
foot|of the giraffe|of the mountain trail
bridge|across the canyon|between the cultures
key|to the cellar|to happiness
wall|of the barn|of silence
door|of the stable|to success
path|through the bushes|to wisdom
seed|of the sunflower|of doubt
fruit|of the orange tree|of patience
mouth|of the toddler|of rumor and gossip
face|of the sailor|of poverty
hand|of the barber|of fate
eye|of the falcon|of the law
arm|of the wrestler|of justice
branch|of the cedar|of mathematics
leaf|of the maple|of a new beginning
light|of the lantern|of reason
fire|in the stove|of ambition
shadow|of the lamppost|of suspicion
wave|on the beach|of nostalgia
storm|off the coast|of protest and outrage
mountain|behind the village|of debt
river|through the valley|of time
foundation|of the cottage|of the theory
pillar|of the porch|of the community
weight|of the anvil|of responsibility
edge|of the blade|of despair
window|of the kitchen|of opportunity
roof|of the shed|of all ambitions
spark|from the grinder|of genius
chain|of the anchor|of reasoning
web|of the spider|of lies
crown|of the queen|of his career
cloud|above the lake|of uncertainty""".splitlines()


def split(text):
    return text.split()


def require_single_tokens(tokenizer, words):
    """Refuse words of several tokens inside a sentence, for lengths are to tell nothing."""
    spans = {word: probing.word_spans(tokenizer, ["the", word])[1][1] for word in words}
    several = [f"{word} ({len(span)})" for word, span in spans.items() if len(span) > 1]
    if several:
        raise ValueError(f"words of several tokens: {', '.join(several)}")


def main():
    words = {kind: split(text) for kind, text in WORDS.items()}
    training = {kind: split(text) for kind, text in TRAINING.items()}
    sizes = {"animate": 80, "inanimate": 80, "causative": 40, "dynamic": 40, "stative": 40}
    for kind, own in words.items():
        if len(set(own)) != len(own) or len(own) != sizes[kind]:
            raise ValueError(f"{kind}: {len(set(own))} different words, not {sizes[kind]}")
    probed, trained = (set(itertools.chain(*lists.values())) for lists in (words, training))
    if len(probed) != 280 or probed & trained:
        raise ValueError(f"a word has two uses: {sorted(probed & trained)}")
    for name in ("smollm2-135m", "gemma3-270m"):
        require_single_tokens(models.load(name)[1], sorted(probed | trained))
    senses = [
        {"word": word, "follows": [own[0] for own in both], "precedes": [own[1] for own in both]}
        for word, both in SENSES.items()
    ]
    telicity = [
        dict(zip(("opening", "telic", "atelic"), line.split("|"), strict=True)) for line in TELICITY
    ]
    concreteness = [
        dict(zip(("noun", "concrete", "abstract"), line.split("|"), strict=True))
        for line in CONCRETENESS
    ]
    write(
        HERE / "sentences.json",
        {
            "words": words,
            "training": training,
            "senses": senses,
            "telicity": telicity,
            "concreteness": concreteness,
        },
    )


if __name__ == "__main__":
    main()
