"""What lies in data/, and the readers of the papers' published formats."""

import ast
import json
import warnings
from pathlib import Path

import pytest

from helpers import data, editing, lm
from helpers.editing import records

released_04 = data.module("04", "released")
released_05 = data.module("05", "released")

GOOD_ITEM = {
    "task": "t",
    "prompt": "2 + 2 =",
    "gold": " 4",
    "candidates": [" 4", " 5"],
    "template": 1,
}


def write_items(folder, *items, sets=None):
    path = folder / "items.json"
    path.write_text(json.dumps({"candidate_sets": sets or {}, "items": list(items)}))
    return path


def test_items_are_grouped_by_task_and_named_sets_are_filled_in(tmp_path):
    named = {**GOOD_ITEM, "task": "u", "candidates": "digits"}
    path = write_items(tmp_path, GOOD_ITEM, named, sets={"digits": [" 4", " 9"]})
    tasks = released_04.task_items(path)
    assert list(tasks) == ["t", "u"]
    assert tasks["t"] == [released_04.Item("t", "2 + 2 =", " 4", (" 4", " 5"), 1, "")]
    assert tasks["u"][0].candidates == (" 4", " 9")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gold": " 7"}, "field 'gold'"),
        ({"gold": ""}, "field 'gold'"),
        ({"prompt": 3}, "field 'prompt'"),
        ({"candidates": "nowhere"}, "field 'nowhere'"),
        ({"candidates": 5}, "field 'candidates'"),
        ({"template": "1"}, "field 'template'"),
        ({"memory": " 7"}, "field 'memory'"),
    ],
)
def test_an_unusable_item_is_named_with_its_field(tmp_path, change, named):
    path = write_items(tmp_path, GOOD_ITEM, {**GOOD_ITEM, **change})
    with pytest.raises(ValueError, match=named) as error:
        released_04.task_items(path)
    assert "items.json" in str(error.value)


def test_a_missing_field_and_an_empty_file_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"item 0: field 'task' is missing"):
        released_04.task_items(write_items(tmp_path, {"prompt": "a", "gold": " b"}))
    with pytest.raises(ValueError, match="'items' is empty"):
        released_04.task_items(write_items(tmp_path))


def test_a_file_that_was_cut_off_is_named(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text('{"items": [')
    with pytest.raises(ValueError, match=r"cut\.json is not valid JSON"):
        data.read_json(path)


def test_our_questions_are_usable():
    tasks = released_04.task_items(data.folder("04") / "items.json")
    assert sum(len(items) for items in tasks.values()) == 354
    for items in tasks.values():
        assert len({item.prompt for item in items}) == len(items)
        assert all(item.gold.startswith(" ") for item in items)
        by_template = [sum(item.template == k for item in items) for k in range(3)]
        assert len({*by_template}) == 1 and sum(by_template) == len(items)


def test_what_is_told_is_never_true_and_twins_ask_the_same():
    tasks = released_04.task_items(data.folder("04") / "items.json")
    for plain, filler, told, hidden in zip(
        *(tasks[t] for t in ("capitals", "filler", "context", "conflict")), strict=True
    ):
        assert plain.gold == filler.gold == told.memory == hidden.memory != told.gold
        assert plain.memory == filler.memory == ""
        for other in (filler, told, hidden):
            assert other.prompt.endswith(plain.prompt) and other.template == plain.template
        assert told.gold in told.prompt and plain.gold.strip() not in filler.prompt
    for item in (*tasks["paraphrase"], *tasks["conflict"]):
        told_in = item.prompt[: item.prompt.rindex("apital ")]
        assert item.gold in told_in or item.prompt.startswith(item.gold.strip())
        assert "capital" not in told_in[:-1]  # the question's own word is not in what is told


@pytest.mark.weights
@pytest.mark.parametrize("fixture", ["smollm2", "gemma3"])
def test_candidates_differ_in_their_first_token(fixture, request):
    _, tokenizer = request.getfixturevalue(fixture)
    for items in released_04.task_items(data.folder("04") / "items.json").values():
        for item in items[:3]:
            start = len(lm.encode(tokenizer, item.prompt))
            firsts = [lm.encode(tokenizer, item.prompt + c)[start] for c in item.candidates]
            assert len(set(firsts)) == len(firsts), item


def test_prose_is_the_same_text_each_time_and_a_change_warns():
    prose = data.english_prose()
    assert len(prose.texts) == len(data.PROSE_TOPICS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.english_prose(sha256=prose.sha256) == prose
    with pytest.warns(UserWarning, match="differ"):
        data.english_prose(sha256="0" * 64)
    with pytest.raises(ValueError, match="no-such-topic"):
        data.english_prose(["no-such-topic"])
    with pytest.raises(ValueError, match="topic_names"):
        data.english_prose([])


def test_published_formats_are_read(tmp_path):
    (tmp_path / "cities.csv").write_text(
        "statement,label,city,country,correct_country\n"
        "The city of Lodz is in Poland.,1,Lodz,Poland,Poland\n"
        "The city of Lodz is in Peru.,0,Lodz,Peru,Poland\n"
    )
    (tmp_path / "art_qa.json").write_text(
        json.dumps({"data": [{"question": "Is red a colour?", "answer": True}]})
    )
    cities = released_04.question_set("cities", tmp_path)
    assert [item.answer for item in cities] == [True, False]
    assert {item.subject for item in cities} == {"Lodz"}
    assert released_04.question_set("art", tmp_path) == [
        released_04.YesNo("Is red a colour?", True, "")
    ]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "cities.csv").write_text(
        "statement,label,city\nThe city of Łódź is in Poland.,1,Łódź\n", encoding="utf-8-sig"
    )
    (tmp_path / "art_qa.json").write_text(
        '{"data": [{"question": "红色?", "answer": true}]}', encoding="utf-8-sig"
    )
    (city,) = released_04.question_set("cities", tmp_path)
    assert city == ("The city of Łódź is in Poland.", True, "Łódź")
    assert released_04.question_set("art", tmp_path)[0].text == "红色?"


@pytest.mark.parametrize("encoding", ["utf-16", "gbk", "cp1252"])
def test_a_file_of_another_encoding_is_named(tmp_path, encoding):
    text = "statement,label,city\nThe city of Zürich.,1,Zürich\n"
    (tmp_path / "cities.csv").write_text(text, encoding=encoding)
    with pytest.raises(ValueError, match=r"cities\.csv must be saved as UTF-8"):
        released_04.question_set("cities", tmp_path)
    (tmp_path / "art_qa.json").write_text(text, encoding=encoding)
    with pytest.raises(ValueError, match=r"art_qa\.json must be saved as UTF-8"):
        released_04.question_set("art", tmp_path)


def test_no_file_is_read_in_the_encoding_of_one_machine():
    for path in Path(data.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "attr", None)
            if name in ("read_text", "write_text"):
                named = any(keyword.arg == "encoding" for keyword in node.keywords)
                here = f"{path.name}, line {node.lineno}"
                assert named or len(node.args) > (name == "write_text"), here


def test_an_unusable_record_of_a_published_file_is_named(tmp_path):
    (tmp_path / "cities.csv").write_text("statement,label,city\nThe city.,maybe,X\n")
    with pytest.raises(ValueError, match=r"cities\.csv, record 0: field 'label'"):
        released_04.question_set("cities", tmp_path)
    (tmp_path / "art_qa.json").write_text(json.dumps({"data": [{"question": "?", "answer": 1}]}))
    with pytest.raises(ValueError, match=r"art_qa\.json, record 0: field 'answer'"):
        released_04.question_set("art", tmp_path)
    with pytest.raises(ValueError, match="name must be one of"):
        released_04.question_set("music", tmp_path)


def test_published_audits_are_read_and_faults_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no published answers"):
        released_05.published_audits(tmp_path)
    (tmp_path / "roles_Act_as_a_robot_from_the_future._.json").write_text('["Beep.", ""]')
    raw = tmp_path / "raw_tiny-2B_it_prompt_robust_9.json"
    raw.write_text('{"base": ["a"], "0": ["b", "c"]}')
    assert released_05.published_audits(tmp_path) == {
        "roles": {"robot from the future": ["Beep.", ""]},
        "tiny-2B_it": {"base": ["a"], "0": ["b", "c"]},
    }
    for broken, fault in (
        ('{"0": ["b"]}', "field 'base' is missing"),
        ('{"base": []}', "arm 'base': expected a list of answers"),
        ('{"base": ["a"], "0": ["b", 3]}', "arm '0', record 1: not a text but 3"),
        ('{"base": ["a"', "is not valid JSON"),
    ):
        raw.write_text(broken)
        with pytest.raises(ValueError, match=rf"raw_tiny-2B_it.*{fault}"):
            released_05.published_audits(tmp_path)


def test_the_real_audits_are_read(tutorials_data):
    found = released_05.published_audits()
    assert len(found["roles"]) == 8 and len(found) == 10
    assert all(len(texts) == 20 for arms in found.values() for texts in arms.values())


def test_missing_published_data_say_which_variable_to_set(monkeypatch, tmp_path):
    monkeypatch.setenv("TUTORIALS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="TUTORIALS_DATA"):
        released_04.question_set("cities")


def test_the_real_files_are_read(tutorials_data):
    sets = {name: released_04.question_set(name) for name in released_04.QUESTION_SETS}
    assert len(sets["cities"]) == 1496
    assert all(len(sets[name]) == 200 for name in released_04.QUESTION_SETS[1:])
    for items in sets.values():
        assert 0.45 < sum(item.answer for item in items) / len(items) < 0.55


# Records of knowledge to edit

RECORD = {
    "prompt": "请给下面的字注音：莘庄",
    "target_new": "xīn",
    "target_old": "shēn",
    "rephrase": ["莘庄怎么读？"],
    "portability": [{"prompt": "细莘", "answer": "xì xīn"}],
}


def write_edits(folder, *records, name="phonetic_notation.json"):
    path = folder / name
    path.write_text(json.dumps(list(records), ensure_ascii=False), encoding="utf-8")
    return path


def test_published_records_are_read_nested_and_flat(tmp_path):
    flat = {k: v for k, v in RECORD.items() if k != "portability"}
    flat |= {"portability_prompt": ["细莘"], "portability_answer": ["xì xīn"]}
    flat |= {"locality_prompt": "莘莘学子", "locality_answer": "shēn"}
    nested = {**RECORD, "locality": [{"prompt": "莘莘学子", "answer": "shēn"}]}
    path = write_edits(tmp_path, RECORD, flat, nested, {**RECORD, "locality": None})
    plain, *others = editing.load_edits(path)
    assert plain.type == "pinyin" and plain.locality == () and plain.id == "phonetic_notation-1"
    assert plain.subject == plain.prompt
    assert plain.portability == (editing.Probe("细莘", "xì xīn", ""),)
    assert others[0].portability == plain.portability
    assert others[0].locality == others[1].locality == (editing.Probe("莘莘学子", "shēn", ""),)
    logic = write_edits(tmp_path, {**RECORD, "type": "Wordplay"}, name="ruozhiba.json")
    assert [edit.type for edit in editing.load_edits(logic)] == ["wordplay"]
    assert len(editing.load_edits(tmp_path)) == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": ""}, "record 2: field 'prompt'"),
        ({"target_new": None}, "record 2: field 'target_new'"),
        ({"target_old": 3}, "record 2: field 'target_old'"),
        ({"rephrase": "莘庄怎么读？"}, "record 2: field 'rephrase'"),
        ({"rephrase": [""]}, "record 2: field 'rephrase'"),
        ({"subject": "北京"}, "record 2: field 'subject' '北京' does not occur"),
        ({"subject": ""}, "record 2: field 'subject'"),
        ({"portability": [{"prompt": "细莘"}]}, "record 2, portability 1: field 'answer'"),
        ({"portability": ["细莘"]}, "record 2, portability 1: not a question"),
        ({"locality": {"prompt": "a"}}, "record 2: field 'locality'"),
        ({"locality_prompt": ["a", "b"], "locality_answer": ["c"]}, "differ in length"),
    ],
)
def test_an_unusable_edit_is_named_with_its_field(tmp_path, change, named):
    path = write_edits(tmp_path, RECORD, {**RECORD, **change})
    with pytest.raises(ValueError, match=named) as error:
        editing.load_edits(path)
    assert "phonetic_notation.json" in str(error.value)


def test_other_unusable_files_of_edits(tmp_path):
    with pytest.raises(FileNotFoundError, match="no JSON files"):
        editing.load_edits(tmp_path)
    with pytest.raises(ValueError, match="'type' is missing"):
        editing.load_edits(write_edits(tmp_path, RECORD, name="mine.json"))
    with pytest.raises(ValueError, match="expected a list of records"):
        editing.load_edits(write_edits(tmp_path))
    with pytest.raises(ValueError, match="record 1: not a record but 3"):
        editing.load_edits(write_edits(tmp_path, 3))


def test_our_edits_keep_a_development_split_apart():
    edits = editing.load_edits(data.folder("01") / "records.json")
    apart = {edit.subject for edit in edits if edit.split == "development"}
    test = {edit.subject for edit in edits if edit.split == "test"}
    assert (len(apart), len(test)) == (12, 36) and not apart & test


def test_all_published_edits_can_be_read(tutorials_data):
    edits = editing.load_edits(tutorials_data / "cknowedit")
    counts = {
        kind: sum(edit.type == kind for edit in edits) for kind in records.EDIT_TYPES.values()
    }
    assert len(edits) == 1854 == sum(counts.values())
    assert list(counts.values()) == [153, 134, 234, 101, 230, 105, 94, 11, 673, 119]
