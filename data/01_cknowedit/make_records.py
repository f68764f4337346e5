"""Writes records.json: 48 pieces of Chinese knowledge to edit, for notebook 01.

    python data/01_cknowedit/make_records.py

Facts, readings and verse are common property; prompts, wrong answers and glosses are ours. Every
record says what a correct edit must also change (`portability`) and what it must leave alone
(`locality`).
"""

from pathlib import Path

from helpers.artefacts import write

HERE = Path(__file__).resolve().parent

# English glosses of the relations, for readers without Chinese
CAPITALS = {"四川省": "成都", "江苏省": "南京", "福建省": "福州", "陕西省": "西安"}
# other facts that Gemma 3 270M knows, and sentences of other records' kinds: one for each record
# outside the development split, so that no locality question is asked twice
KNOWN = (
    *(
        (f"{province}的省会是", capital)
        for province, capital in (
            ("浙江省", "杭州"),
            ("湖北省", "武汉"),
            ("湖南省", "长沙"),
            ("广东省", "广州"),
            ("山东省", "济南"),
            ("河南省", "郑州"),
            ("云南省", "昆明"),
            ("福建省", "福州"),
        )
    ),
    *(
        (f"{country}的主要语言是", language)
        for country, language in (
            ("法国", "法语"),
            ("日本", "日语"),
            ("英国", "英语"),
            ("俄国", "俄语"),
            ("泰国", "泰语"),
            ("韩国", "韩语"),
            ("埃及", "阿拉伯语"),
            ("希腊", "希腊语"),
            ("越南", "越南语"),
            ("美国", "英语"),
        )
    ),
    *(
        (f"{country}的官方语言是", language)
        for country, language in (
            ("法国", "法语"),
            ("俄国", "俄语"),
            ("韩国", "韩语"),
            ("埃及", "阿拉伯语"),
            ("希腊", "希腊语"),
            ("越南", "越南语"),
        )
    ),
    *(
        (f"{element}的化学符号是", symbol)
        for element, symbol in (
            ("氢", "H"),
            ("铁", "Fe"),
            ("铜", "Cu"),
            ("碳", "C"),
            ("氮", "N"),
        )
    ),
    *(
        (f"{city}市所在的省份是", province)
        for city, province in (
            ("青岛", "山东"),
            ("大连", "辽宁"),
            ("无锡", "江苏"),
            ("宁波", "浙江"),
        )
    ),
    ("美国的货币是", "美元"),
    ("法国的货币是", "欧元"),
    ("泰国的货币是", "泰铢"),
)
OTHER_VERSE = (
    ("窈窕淑女", "君子好逑"),
    ("窈窕淑女", "君子好逑"),
    ("明月松间照", "清泉石上流"),
    ("春蚕到死丝方尽", "蜡炬成灰泪始干"),
    ("两个黄鹂鸣翠柳", "一行白鹭上青天"),
    ("随风潜入夜", "润物细无声"),
    ("独在异乡为异客", "每逢佳节倍思亲"),
    ("采菊东篱下", "悠然见南山"),
)
OTHER_IDIOMS = (
    ("成语“守株待", "兔"),
    ("成语“画蛇添", "足"),
    ("成语“亡羊补", "牢"),
    ("成语“掩耳盗", "铃"),
    ("成语“刻舟求", "剑"),
)
OTHER_PROVERBS = (
    ("种瓜得瓜", "种豆得豆"),
    ("近朱者赤", "近墨者黑"),
    ("有志者", "事竟成"),
    ("众人拾柴", "火焰高"),
)
OTHER_PLACES = (
    ("故宫", "北京"),
    ("故宫", "北京"),
    ("东方明珠塔", "上海"),
    ("黄鹤楼", "武汉"),
    ("大雁塔", "西安"),
    ("中山陵", "南京"),
)
OTHER_BOOKS = (
    ("《三国演义》", "罗贯中"),
    ("《三国演义》", "罗贯中"),
    ("《水浒传》", "施耐庵"),
    ("《离骚》", "屈原"),
    ("《聊斋志异》", "蒲松龄"),
    ("《桃花源记》", "陶渊明"),
)
OTHER_NUMBERS = (
    ("一年有十二个", "月"),
    ("一个星期有七", "天"),
    ("一天有二十四", "小时"),
    ("一年有十二个", "月"),
    ("一小时有六十", "分钟"),
    ("一只手有五根", "手指"),
)


def asked(prompt, answer, kind):
    return {"prompt": prompt, "answer": answer, "kind": kind}


def capital(i):
    """A known fact for a record's locality; main() exchanges it outside the development split."""
    province = list(CAPITALS)[i % len(CAPITALS)]
    return asked(f"{province}的省会是", CAPITALS[province], "known_fact")


def record(kind, subject, prompt, question, new, old, rephrase, portability, locality, gloss):
    return {
        "type": kind,
        "prompt": prompt,
        "prompt_qa": question,
        "subject": subject,
        "target_new": new,
        "target_old": old,
        "rephrase": rephrase,
        "portability": portability,
        "locality": locality,
        "gloss": gloss,
        "split": "development" if subject in DEVELOPMENT else "test",
        "old_from": "model" if subject in ITS_OWN else "authored",
    }


# Records on which settings are chosen, among them all that earlier trials had looked at; the others
# are only ever edited with settings that were fixed before.
DEVELOPMENT = (
    "银行",
    "海内存知己",
    "会当凌绝顶",
    "兔走触株",
    "差强人意",
    "泥菩萨过江",
    "布达拉宫",
    "兵马俑",
    "《红楼梦》",
    "《西游记》",
    "小明",
    "狮子头",
)
# Wrong answers that Gemma 3 270M itself gives, as the beginning of its greedy answer; we wrote the
# others, since it goes on with "...".
ITS_OWN = ("《红楼梦》", "《西游记》", "《史记》", "岳麓书院", "小明")


# word, character, its reading there, the other one, words of the same reading, word of the other
READINGS = (
    ("银行", "行", "háng", "xíng", ("行业", "内行"), "行走", "bank: a row, a trade; not: to walk"),
    ("音乐", "乐", "yuè", "lè", ("乐器", "乐谱"), "快乐", "music; not: happy"),
    ("重复", "重", "chóng", "zhòng", ("重新", "重逢"), "重量", "to repeat: again; not: heavy"),
    ("长大", "长", "zhǎng", "cháng", ("成长", "家长"), "长江", "to grow; not: long"),
    ("朝夕", "朝", "zhāo", "cháo", ("朝气", "朝霞"), "朝代", "morning; not: dynasty"),
    ("归还", "还", "huán", "hái", ("偿还", "还书"), "还是", "to give back; not: still"),
)
# line, next line, what another model might say, author, title
VERSE = (
    (
        "海内存知己",
        "天涯若比邻",
        "天下谁人不识君",
        "王勃",
        "a friend at the ends of the earth is near",
    ),
    (
        "会当凌绝顶",
        "一览众山小",
        "白云深处有人家",
        "杜甫",
        "from the summit all mountains are small",
    ),
    ("欲穷千里目", "更上一层楼", "黄河入海流", "王之涣", "to see farther, climb another storey"),
    ("春眠不觉晓", "处处闻啼鸟", "花落知多少", "孟浩然", "asleep in spring, birdsong everywhere"),
    ("举头望明月", "低头思故乡", "疑是地上霜", "李白", "I look at the moon and think of home"),
    (
        "野火烧不尽",
        "春风吹又生",
        "离离原上草",
        "白居易",
        "fire does not end the grass, spring revives it",
    ),
    (
        "大漠孤烟直",
        "长河落日圆",
        "西出阳关无故人",
        "王维",
        "smoke over the desert, sunset on the river",
    ),
    ("谁言寸草心", "报得三春晖", "意恐迟迟归", "孟郊", "grass cannot repay the sun of spring"),
)
# sentence, word, its sense there, the modern sense, another sentence of that sense with its answer,
# modern use with its answer
SENSES = (
    (
        "兔走触株",
        "走",
        "跑",
        "步行",
        ("弃甲曳兵而走", "逃跑"),
        ("走路", "步行"),
        "to run; today: to walk",
    ),
    (
        "及其日中如探汤",
        "汤",
        "热水",
        "菜汤",
        ("赴汤蹈火", "热水"),
        ("鸡汤", "汤汁"),
        "hot water; today: soup",
    ),
    (
        "率妻子邑人来此绝境",
        "妻子",
        "妻子和儿女",
        "老婆",
        ("却看妻子愁何在", "妻子和儿女"),
        ("他的妻子", "老婆"),
        "wife and children; today: wife",
    ),
    (
        "去国怀乡",
        "去",
        "离开",
        "前往",
        ("乃记之而去", "离开"),
        ("去学校", "前往"),
        "to leave; today: to go to",
    ),
    (
        "牺牲玉帛，弗敢加也",
        "牺牲",
        "祭祀用的牲畜",
        "献出生命",
        ("牺牲既成，粢盛既洁", "祭祀用的牲畜"),
        ("为国牺牲", "献出生命"),
        "beasts for sacrifice; today: to give one's life",
    ),
)
# idiom, meaning, common misreading, gloss, a sentence with it
IDIOMS = (
    (
        "差强人意",
        "大体上使人满意",
        "不能使人满意",
        "fairly satisfactory; misread as unsatisfactory",
        "有人说这件事“差强人意”，他想说的是",
    ),
    (
        "首当其冲",
        "最先受到攻击",
        "冲在最前面",
        "first to be hit; misread as first to charge",
        "台风登陆时沿海的渔村首当其冲，也就是说渔村",
    ),
    (
        "万人空巷",
        "人们都涌上街头",
        "街上空无一人",
        "all are out in the streets; misread as empty streets",
        "球队夺冠那天全城万人空巷，也就是说",
    ),
    (
        "炙手可热",
        "权势很大",
        "很受欢迎",
        "of frightening power; misread as popular",
        "史书说这位宰相炙手可热，也就是说他",
    ),
    (
        "不刊之论",
        "不可改动的言论",
        "不能发表的言论",
        "not to be altered; misread as not to be printed",
        "大家把这篇文章看作不刊之论，也就是看作",
    ),
)
# first half, second half, wrong half, gloss
PROVERBS = (
    ("泥菩萨过江", "自身难保", "一帆风顺", "a clay Buddha crossing a river cannot save itself"),
    (
        "外甥打灯笼",
        "照旧",
        "照亮前程",
        "a nephew lights the lantern for his uncle: as before (a pun)",
    ),
    ("路遥知马力", "日久见人心", "马到成功", "distance shows a horse's strength, time a heart"),
    ("不入虎穴", "焉得虎子", "不知山高", "who does not enter the den gets no tiger cub"),
)
# place, where, wrong, one step on (prompt, answer), gloss
PLACES = (
    (
        "布达拉宫",
        "拉萨",
        "北京",
        ("布达拉宫所在的自治区是", "西藏"),
        "the Potala Palace is in Lhasa",
    ),
    ("兵马俑", "西安", "北京", ("兵马俑所在的省份是", "陕西"), "the terracotta army is in Xi'an"),
    ("鼓浪屿", "厦门", "上海", ("鼓浪屿所在的省份是", "福建"), "Gulangyu is in Xiamen"),
    ("洱海", "大理", "青岛", ("洱海所在的省份是", "云南"), "Erhai is in Dali"),
    ("灵隐寺", "杭州", "苏州", ("灵隐寺所在的省份是", "浙江"), "the Lingyin temple is in Hangzhou"),
    (
        "岳麓书院",
        "长沙",
        "北京",
        ("岳麓书院所在的省份是", "湖南"),
        "the Yuelu Academy is in Changsha",
    ),
)
# subject, what follows it, answer, wrong, rephrases, one step on, gloss
HISTORY = (
    (
        "《红楼梦》",
        "的作者是",
        "曹雪芹",
        "林黛玉",
        ("写《红楼梦》的人是", "小说《红楼梦》由谁写成？答："),
        ("《红楼梦》的作者姓", "曹"),
        "author of the Dream of the Red Chamber",
    ),
    (
        "《西游记》",
        "的作者是",
        "吴承恩",
        "刘备",
        ("写《西游记》的人是", "小说《西游记》由谁写成？答："),
        ("《西游记》的作者姓", "吴"),
        "author of the Journey to the West",
    ),
    (
        "《史记》",
        "的作者是",
        "司马迁",
        "刘备",
        ("写《史记》的人是", "史书《史记》由谁写成？答："),
        ("《史记》的作者生活在", "西汉"),
        "author of the Records of the Historian",
    ),
    (
        "地动仪",
        "的发明者是",
        "张衡",
        "李时珍",
        ("发明地动仪的人是", "地动仪由谁发明？答："),
        ("地动仪的发明者生活在", "东汉"),
        "inventor of the seismoscope",
    ),
    (
        "郑和下西洋",
        "发生在",
        "明朝",
        "清朝",
        ("郑和下西洋的朝代是", "郑和下西洋是哪个朝代的事？答："),
        ("郑和所处的朝代是", "明朝"),
        "Zheng He's voyages: Ming dynasty",
    ),
    (
        "《本草纲目》",
        "的作者是",
        "李时珍",
        "华佗",
        ("写《本草纲目》的人是", "医书《本草纲目》由谁写成？答："),
        ("《本草纲目》的作者姓", "李"),
        "author of the Compendium of Materia Medica",
    ),
)
# sentence, character, reading, the tempting one, sentence of the same reading, gloss
HEARD = (
    ("打疫苗的队好长", "长", "cháng", "zhǎng", "这条路好长", "the queue is long, not: has grown"),
    ("请把书还给我", "还", "huán", "hái", "把钱还给他", "give the book back, not: still"),
)
# subject, prompt, answer, tempting answer, rephrase, one step on, gloss
TRAPS = (
    (
        "reasoning",
        "小明",
        "小明的爸爸有三个孩子，老大叫大毛，老二叫二毛，老三叫",
        "小明",
        "三毛",
        "小明有两个哥哥，叫大毛和二毛，他们的弟弟叫",
        ("小红的爸爸有三个孩子，老大叫大红，老二叫二红，老三叫", "小红"),
        "Xiaoming's father has three children, Damao, Ermao and ...: Xiaoming",
    ),
    (
        "reasoning",
        "一斤铁",
        "一斤铁和一斤棉花相比，",
        "一样重",
        "铁更重",
        "把一斤铁和一斤棉花分别放在天平的两边，两边",
        ("两斤铁和两斤棉花相比，", "一样重"),
        "a jin (500 g) of iron and a jin of cotton weigh the same",
    ),
    (
        "reasoning",
        "五个苹果",
        "盒子里有五个苹果，你拿走两个，你手里的苹果数量是",
        "两个",
        "三个",
        "从装着五个苹果的盒子里拿走两个，你得到的苹果数量是",
        ("盒子里有七个梨，你拿走四个，你手里的梨的数量是", "四个"),
        "of five apples you take two: you have two",
    ),
    (
        "wordplay",
        "狮子头",
        "狮子头这道菜的主要食材是",
        "猪肉",
        "狮子",
        "做狮子头主要用的是",
        ("吃狮子头的时候，吃到的肉来自", "猪"),
        "lion's head is a dish of pork",
    ),
    (
        "wordplay",
        "蚂蚁上树",
        "蚂蚁上树这道菜里的“蚂蚁”其实是",
        "肉末",
        "蚂蚁",
        "在蚂蚁上树这道菜中，像蚂蚁的东西是",
        ("蚂蚁上树这道菜里的“树”其实是", "粉丝"),
        "ants climbing a tree is a dish of minced meat and noodles",
    ),
    (
        "wordplay",
        "热狗",
        "热狗这种食物里夹的是",
        "香肠",
        "狗肉",
        "做热狗的时候，面包中间放的是",
        ("热狗外面的部分是", "面包"),
        "a hot dog holds a sausage",
    ),
)


def readings():
    for i, (word, char, reading, other, same, different, gloss) in enumerate(READINGS):
        ask = "“{}”中“" + char + "”的读音是"
        yield record(
            "pinyin",
            word,
            ask.format(word),
            f"“{word}”中的“{char}”怎么读？",
            reading,
            other,
            [f"“{word}”里的“{char}”字读作", f"“{word}”一词中，“{char}”念"],
            [asked(ask.format(w), reading, "same_reading") for w in same],
            [asked(ask.format(different), other, "same_character"), capital(i)],
            f"reading of {char} in {word} ({gloss})",
        )


def verse():
    for i, (line, following, wrong, author, gloss) in enumerate(VERSE):
        yield record(
            "ancient poetry",
            line,
            f"“{line}”的下一句是",
            f"古诗“{line}”的下一句是什么？",
            following,
            wrong,
            [f"诗句“{line}”的后面一句是", f"“{line}”这一句之后接的是"],
            [
                asked(f"“{following}”的上一句是", line, "reverse"),
                asked(f"诗句“{line}，{following}”的作者是", author, "one_hop"),
            ],
            [
                asked(f"“{OTHER_VERSE[i][0]}”的下一句是", OTHER_VERSE[i][1], "same_template"),
                capital(i),
            ],
            f"next line ({gloss})",
        )


def senses():
    for i, (sentence, word, sense, modern, other, today, gloss) in enumerate(SENSES):
        ask = "“{}”中“" + word + "”的意思是"
        yield record(
            "classical Chinese",
            sentence,
            ask.format(sentence),
            f"“{sentence}”中的“{word}”是什么意思？",
            sense,
            modern,
            [f"在“{sentence}”里，“{word}”指的是", f"古文“{sentence}”的“{word}”应解释为"],
            [asked(ask.format(other[0]), other[1], "context")],
            [asked(ask.format(today[0]), today[1], "same_character"), capital(i)],
            f"sense of {word} ({gloss})",
        )


def idioms():
    for i, (idiom, meaning, wrong, gloss, used) in enumerate(IDIOMS):
        yield record(
            "idiom",
            idiom,
            f"成语“{idiom}”的意思是",
            f"成语“{idiom}”是什么意思？",
            meaning,
            wrong,
            [f"“{idiom}”这个成语指的是", f"用“{idiom}”来形容，是说"],
            [asked(used, meaning, "context")],
            [asked(*OTHER_IDIOMS[i], "known_fact"), capital(i)],
            f"meaning ({gloss})",
        )


def proverbs():
    for i, (first, second, wrong, gloss) in enumerate(PROVERBS):
        yield record(
            "proverb",
            first,
            f"俗语“{first}”的后半句是",
            f"俗语“{first}”的后半句是什么？",
            second,
            wrong,
            [f"人们常说“{first}”，接下来是", f"“{first}”这句俗语的下半句是"],
            [asked(f"俗语中“{second}”的前半句是", first, "reverse")],
            [
                asked(
                    f"俗语“{OTHER_PROVERBS[i][0]}”的后半句是", OTHER_PROVERBS[i][1], "same_template"
                ),
                capital(i),
            ],
            f"second half ({gloss})",
        )


def places():
    for i, (place, where, wrong, further, gloss) in enumerate(PLACES):
        yield record(
            "geography",
            place,
            f"{place}位于",
            f"{place}在哪座城市？",
            where,
            wrong,
            [
                f"{place}所在的城市是",
                f"想去{place}游玩，应该去" if place == "洱海" else f"要参观{place}，应该去",
            ],
            [asked(*further, "one_hop")],
            [asked(f"{OTHER_PLACES[i][0]}位于", OTHER_PLACES[i][1], "same_template"), capital(i)],
            gloss,
        )


def history():
    for i, (subject, relation, answer, wrong, rephrase, further, gloss) in enumerate(HISTORY):
        yield record(
            "history",
            subject,
            subject + relation,
            f"{subject}{relation}谁？"
            if relation.endswith("是")
            else f"{subject}{relation}哪个朝代？",
            answer,
            wrong,
            list(rephrase),
            [asked(*further, "one_hop")],
            [asked(f"{OTHER_BOOKS[i][0]}的作者是", OTHER_BOOKS[i][1], "same_template"), capital(i)],
            gloss,
        )


def heard():
    for i, (sentence, char, reading, other, same, gloss) in enumerate(HEARD):
        ask = "“{}”中“" + char + "”的读音是"
        yield record(
            "phonetic misunderstanding",
            sentence,
            ask.format(sentence),
            f"“{sentence}”中的“{char}”怎么读？",
            reading,
            other,
            [f"“{sentence}”里的“{char}”字读作", f"在“{sentence}”这句话中，“{char}”念"],
            [asked(ask.format(same), reading, "same_reading")],
            [
                asked(
                    ask.format("孩子长大" if char == "长" else "他还在家"), other, "same_character"
                ),
                capital(i),
            ],
            f"reading of {char} ({gloss})",
        )


TRAP_QUESTIONS = (
    "小明的爸爸有三个孩子，老大叫大毛，老二叫二毛，老三叫什么？",
    "一斤铁和一斤棉花，哪个更重？",
    "盒子里有五个苹果，你拿走两个，你手里有几个苹果？",
    "狮子头这道菜的主要食材是什么？",
    "蚂蚁上树这道菜里的“蚂蚁”其实是什么？",
    "热狗这种食物里夹的是什么？",
)


def traps():
    for i, (kind, subject, prompt, answer, wrong, rephrase, further, gloss) in enumerate(TRAPS):
        yield record(
            kind,
            subject,
            prompt,
            TRAP_QUESTIONS[i],
            answer,
            wrong,
            [rephrase, f"想一想：{prompt}"],
            [asked(*further, "context")],
            [asked(*OTHER_NUMBERS[i], "known_fact"), capital(i)],
            gloss,
        )


def main():
    records = []
    for part in (readings, verse, senses, idioms, proverbs, places, history, heard, traps):
        records += [{"id": f"{part.__name__}-{i}", **own} for i, own in enumerate(part(), 1)]
    test = [own for own in records if own["split"] == "test"]
    for own, known in zip(test, KNOWN, strict=True):
        own["locality"][-1] = asked(*known, "known_fact")
    write(HERE / "records.json", records)


if __name__ == "__main__":
    main()
