"""Released words in sentences: their formats, places and slips."""

import pytest

from helpers import data

released_02 = data.module("02", "released")


def write_text(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def probing_data(tmp_path):
    for label in released_02.CONTEXT_PROBES:
        for part in ("train", "test"):
            text = "the vampire scraped the brain,0\nthe rose whirled the pudding,1\n"
            write_text(tmp_path, f"Task1_Context-probes/{label}/{part}.txt", text)
    aspect = "0\tHe washed his face .\twashed\t1\t1\n1\tA dog ran .\tran\t83\t0\n"
    for name in ("telicity", "duration"):
        folder = "Task2_Lexical_aspect_binary_classification"
        write_text(tmp_path, f"{folder}/{name}_train.txt", aspect)
    text = "testset_idx\tTARGET\tPOS\tINDEX\tTEXT\tAVG\n1\tcook\tV\t1\tI cooked it .\t5.8\n"
    write_text(tmp_path, "Task3_CONcreTEXT/CONcreTEXT_test_EN.txt", text)
    head = ",".join(["word", "sentence", *(f"{sense}.M" for sense in released_02.SENSES)])
    rows = f"{head}\nbreak,He broke the dish.,{','.join(map(str, range(11)))}\n"
    name = "Task4_Sensorimotor_norms/contextualized_sensorimotor_norms_with_ls.txt"
    write_text(tmp_path, name, rows)
    folder = "Task5_Word-in-context"
    write_text(tmp_path, f"{folder}/test.data.txt", "bank\tN\t1-0\tThe bank fell .\tBank it !\n")
    write_text(tmp_path, f"{folder}/test.gold.txt", "F\n")
    return tmp_path


def test_published_words_are_read_with_their_places(probing_data):
    probes = released_02.context_probes(probing_data)
    first = probes["object_animacy"]["test"][0]
    assert first == (("the", "vampire", "scraped", "the", "brain"), 4, 0.0)
    washed, ran = released_02.lexical_aspect(probing_data)["telicity"]
    assert (washed.place, washed.value, ran.place) == (1, 1.0, 2)  # 83 is a slip of the file
    (cooked,) = released_02.concreteness(probing_data)
    assert (cooked.words[cooked.place], cooked.value) == ("cooked", 5.8)
    (broke,) = released_02.sensorimotor_norms(probing_data)
    assert (broke.words[broke.place], broke.value) == ("broke", tuple(map(float, range(11))))
    ((a, b, same),) = released_02.word_in_context(probing_data)
    assert (a.words[a.place], b.words[b.place], same) == ("bank", "Bank", False)


def test_byte_order_marks_change_nothing(probing_data):
    def everything():
        found = [released_02.context_probes, released_02.lexical_aspect, released_02.concreteness]
        found += [released_02.sensorimotor_norms, released_02.word_in_context]
        return [read(probing_data) for read in found]

    before = everything()
    for path in probing_data.rglob("*.txt"):
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert everything() == before


@pytest.mark.parametrize(
    ("read", "name", "text", "message"),
    [
        (
            released_02.context_probes,
            "Task1_Context-probes/verb_dynamic/train.txt",
            "the a b,1",
            "3 words",
        ),
        (
            released_02.context_probes,
            "Task1_Context-probes/verb_dynamic/train.txt",
            "the a,b,1",
            "3 fields",
        ),
        (
            released_02.context_probes,
            "Task1_Context-probes/verb_dynamic/test.txt",
            "",
            "test.txt is empty",
        ),
        (
            released_02.context_probes,
            "Task1_Context-probes/verb_dynamic/test.txt",
            "a b c d e,x",
            "'label'",
        ),
        (
            released_02.lexical_aspect,
            "Task2_Lexical_aspect_binary_classification/telicity_train.txt",
            "0\tA dog ran .\twalked\t1\t1",
            "line 1: field 'place'",
        ),
        (
            released_02.concreteness,
            "Task3_CONcreTEXT/CONcreTEXT_test_EN.txt",
            "a\tb\tc\td\te\tf\n1\tcook\tV\t9\tI cook .\t5",
            "line 2: field 'place' '9'",
        ),
        (
            released_02.sensorimotor_norms,
            "Task4_Sensorimotor_norms/contextualized_sensorimotor_norms_with_ls.txt",
            "word,sentence\nact,He left.\n",
            "record 1: field 'word' 'act'",
        ),
        (released_02.word_in_context, "Task5_Word-in-context/test.gold.txt", "T\nF", "has 2 lines"),
        (
            released_02.word_in_context,
            "Task5_Word-in-context/test.gold.txt",
            "X",
            "line 1: field 'places'",
        ),
    ],
)
def test_unusable_lines_are_named(probing_data, read, name, text, message):
    write_text(probing_data, name, text)
    with pytest.raises(ValueError, match=message):
        read(probing_data)


def test_all_released_words_can_be_read(tutorials_data):
    folder = tutorials_data / "semantic_probing"
    probes = released_02.context_probes(folder)
    assert {len(part) for own in probes.values() for part in own.values()} == {4000, 1000}
    aspect = released_02.lexical_aspect(folder)
    assert {name: len(own) for name, own in aspect.items()} == {"telicity": 4940, "duration": 3267}
    assert (len(released_02.concreteness(folder)), len(released_02.sensorimotor_norms(folder))) == (
        434,
        448,
    )
    assert len(released_02.word_in_context(folder)) == 1400
