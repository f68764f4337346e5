"""Writes probes.json: what notebook 01 asks beside the records of records.json.

    python data/01_cknowedit/make_probes.py

Words with two readings, last couplets of poems, explanations of growing length, pairs of facts to
trace, and openings from which the model writes background text. Facts, readings and verse are
common property; explanations and openings are ours.
"""

from pathlib import Path

from helpers.artefacts import write

HERE = Path(__file__).resolve().parent

# character, its reading in the edited word, the other one; the edited word, two words of the same
# reading, two of the other, gloss
POLYPHONES = (
    ("乐", "yuè", "lè", "音乐", ("乐器", "乐谱"), ("快乐", "乐园"), "music; glad"),
    ("重", "chóng", "zhòng", "重复", ("重新", "重逢"), ("重量", "重要"), "again; heavy"),
    ("长", "zhǎng", "cháng", "长大", ("成长", "家长"), ("长江", "长度"), "to grow; long"),
    ("朝", "zhāo", "cháo", "朝夕", ("朝气", "朝霞"), ("朝代", "朝鲜"), "morning; dynasty"),
    ("还", "huán", "hái", "归还", ("偿还", "还书"), ("还是", "还有"), "to give back; still"),
    ("传", "zhuàn", "chuán", "传记", ("自传", "水浒传"), ("传统", "传说"), "a life; to hand on"),
    ("藏", "zàng", "cáng", "西藏", ("宝藏", "藏族"), ("收藏", "隐藏"), "Tibet, a hoard; to hide"),
    ("降", "xiáng", "jiàng", "投降", ("降伏", "招降"), ("降落", "下降"), "to surrender; to fall"),
    ("弹", "dàn", "tán", "子弹", ("炸弹", "弹药"), ("弹琴", "弹性"), "bullet; to pluck"),
    ("假", "jià", "jiǎ", "假期", ("放假", "假日"), ("假如", "真假"), "holiday; false"),
    ("难", "nàn", "nán", "灾难", ("难民", "苦难"), ("难度", "难题"), "disaster; hard"),
    ("背", "bēi", "bèi", "背包", ("背负", "背带"), ("背后", "后背"), "to carry; the back"),
    ("空", "kòng", "kōng", "空闲", ("空白", "填空"), ("天空", "空气"), "vacant; sky"),
    ("量", "liáng", "liàng", "测量", ("丈量", "量杯"), ("数量", "容量"), "to measure; amount"),
    ("角", "jué", "jiǎo", "角色", ("主角", "角逐"), ("角度", "三角"), "a part in a play; angle"),
    ("率", "lǜ", "shuài", "效率", ("概率", "频率"), ("率领", "率先"), "a rate; to lead"),
    (
        "调",
        "diào",
        "tiáo",
        "调查",
        ("声调", "曲调"),
        ("调整", "空调"),
        "to inquire, tune; to adjust",
    ),
)
# title, author, the last couplet, gloss
COUPLETS = (
    ("登鹳雀楼", "王之涣", "欲穷千里目", "更上一层楼", "to see farther, climb another storey"),
    ("静夜思", "李白", "举头望明月", "低头思故乡", "I look at the moon and think of home"),
    ("春晓", "孟浩然", "夜来风雨声", "花落知多少", "wind and rain at night, blossoms fell"),
    ("相思", "王维", "愿君多采撷", "此物最相思", "gather these red beans of longing"),
    ("江雪", "柳宗元", "孤舟蓑笠翁", "独钓寒江雪", "an old man fishes alone in the snow"),
    ("寻隐者不遇", "贾岛", "只在此山中", "云深不知处", "on this mountain, lost in clouds"),
    ("悯农（其二）", "李绅", "谁知盘中餐", "粒粒皆辛苦", "every grain in the bowl is toil"),
    ("游子吟", "孟郊", "谁言寸草心", "报得三春晖", "grass cannot repay the sun of spring"),
    ("早发白帝城", "李白", "两岸猿声啼不住", "轻舟已过万重山", "the boat has passed the mountains"),
    ("望庐山瀑布", "李白", "飞流直下三千尺", "疑是银河落九天", "the Milky Way seems to fall"),
    ("枫桥夜泊", "张继", "姑苏城外寒山寺", "夜半钟声到客船", "a bell at midnight reaches the boat"),
    ("咏柳", "贺知章", "不知细叶谁裁出", "二月春风似剪刀", "the spring wind is like scissors"),
)
# subject, prompt, an explanation that is cut after 1, 2, 4, ... tokens, gloss
EXPLANATIONS = (
    (
        "月食",
        "月食的成因是",
        "地球走到太阳和月亮中间，挡住了射向月面的阳光，于是满月一点一点变暗，有时还会变成古铜色，几个小时以后才恢复原来的样子。",
        "how an eclipse of the moon comes about",
    ),
    (
        "端午节",
        "端午节的习俗是",
        "人们在农历五月初五包粽子、赛龙舟，门前挂上艾草和菖蒲，孩子手腕系五色丝线，老人说这样可以赶走夏天的毒虫和疾病。",
        "customs of the Dragon Boat Festival",
    ),
    (
        "绿茶",
        "绿茶的做法是",
        "清晨采下嫩芽，先摊开晾去水汽，再倒进热锅里快速翻炒，防止茶叶发酵，接着用手揉成细条，最后用小火烘干，装进罐子避光保存。",
        "how green tea is made",
    ),
    (
        "赵州桥",
        "赵州桥的特点是",
        "整座桥只有一个又长又扁的石拱，两边的肩上各开两个小拱，既省下许多石料，又能在发大水时让水从中流过，所以至今仍然横跨在河上。",
        "what is special about the Zhaozhou bridge",
    ),
    (
        "算盘",
        "算盘的用法是",
        "横梁上面的珠子一颗当五，下面的珠子一颗当一，从右往左依次是个位、十位、百位，拨珠靠梁表示加上，拨珠离梁表示减去。",
        "how an abacus is used",
    ),
    (
        "豆腐",
        "豆腐的做法是",
        "黄豆先泡一夜，磨成浆，滤去豆渣，煮开以后加一点石膏水慢慢搅动，等豆浆凝成花，再倒进铺着布的木框里，压上石头挤出水分。",
        "how bean curd is made",
    ),
    (
        "都江堰",
        "都江堰的作用是",
        "江水流到这里被一道鱼嘴形的堤分成两股，一股顺着河道流走，一股引进平原浇灌田地，洪水来时多余的水和泥沙会从低处自己溢出去。",
        "what the Dujiangyan irrigation works do",
    ),
    (
        "皮影戏",
        "皮影戏的演法是",
        "艺人把驴皮刻成会动的小人，涂上颜色，用细竹棍举在白布后面，让灯光把影子照到布上，一边耍一边唱，旁边还有人敲锣打鼓伴奏。",
        "how a shadow play is performed",
    ),
)
# modern sentences that follow each other by our decision only: the line before without verse
SEQUELS = (
    ("今天早上下了大雨", "我忘记带伞去上班", "it rained hard; I forgot my umbrella"),
    ("小猫跳上了窗台", "花盆掉在地上摔碎了", "the kitten jumped up; the flower pot broke"),
    ("他打开旧箱子", "里面放着一封信", "he opened the old case; it held a letter"),
    ("火车晚点两小时", "大家在站台上聊天", "the train was late; people talked on the platform"),
    ("妹妹第一次做饭", "厨房里全是烟", "sister cooked for the first time; smoke everywhere"),
    ("老师走进教室", "同学们安静下来", "the teacher came in; the pupils fell silent"),
    ("电梯突然停了", "我们只好走楼梯", "the lift stopped; we had to take the stairs"),
    ("商店提前关门", "我没有买到面包", "the shop closed early; I got no bread"),
)
# relation, gloss, then pairs of (subject, answer) that the model knows, of equal length in tokens
TRACES = (
    (
        "{}的省会是",
        "capital of a province",
        (
            (("江苏省", "南京"), ("四川省", "成都")),
            (("福建省", "福州"), ("陕西省", "西安")),
            (("浙江省", "杭州"), ("湖北省", "武汉")),
            (("湖南省", "长沙"), ("山东省", "济南")),
        ),
    ),
    (
        "{}的主要语言是",
        "main language of a country",
        (
            (("法国", "法语"), ("日本", "日语")),
            (("英国", "英语"), ("韩国", "韩语")),
            (("埃及", "阿拉伯语"), ("越南", "越南语")),
            (("泰国", "泰语"), ("美国", "英语")),
        ),
    ),
    (
        "{}的化学符号是",
        "symbol of a chemical element",
        (
            (("氢", "H"), ("铁", "Fe")),
            (("铜", "Cu"), ("氮", "N")),
        ),
    ),
    (
        "{}市所在的省份是",
        "province of a city",
        (
            (("青岛", "山东"), ("大连", "辽宁")),
            (("无锡", "江苏"), ("青岛", "山东")),
        ),
    ),
)
# ordinary facts, asked in the same way as the records: a control for what the model knows at all
ORDINARY = {
    "{}的省会是": "四川省成都 江苏省南京 福建省福州 陕西省西安 浙江省杭州 湖北省武汉 湖南省长沙"
    " 广东省广州 山东省济南 河南省郑州 云南省昆明 辽宁省沈阳",
    "{}的主要语言是": "法国法语 日本日语 英国英语 德国德语 俄国俄语 泰国泰语 韩国韩语 埃及阿拉伯语"
    " 希腊希腊语 巴西葡萄牙语 越南越南语 美国英语",
    "{}的化学符号是": "氢H 氧O 铁Fe 金Au 银Ag 铜Cu 碳C 氮N",
    "{}市所在的省份是": "苏州江苏 青岛山东 深圳广东 厦门福建 大连辽宁 洛阳河南 无锡江苏 宁波浙江",
}
# first words of the background text, which the model goes on from
OPENINGS = """春天到了，河边的柳树|这座古城的历史|中国的茶文化|医生建议病人|唐朝的诗人
电脑的内存|今年的经济|科学家发现|成语故事告诉我们|汉语的声调
做这道菜需要|植物的叶子|足球比赛进行到|她打开窗户，|丝绸之路|法律规定"""


def main():
    content = {
        "polyphones": [
            dict(zip(("char", "new", "old", "word", "same", "other", "gloss"), own, strict=True))
            for own in POLYPHONES
        ],
        "couplets": [
            dict(zip(("title", "author", "first", "second", "gloss"), own, strict=True))
            for own in COUPLETS
        ],
        "explanations": [
            dict(zip(("subject", "prompt", "text", "gloss"), own, strict=True))
            for own in EXPLANATIONS
        ],
        "traces": [
            {"relation": relation, "gloss": gloss, "pairs": pairs}
            for relation, gloss, pairs in TRACES
        ],
        "sequels": [dict(zip(("first", "second", "gloss"), own, strict=True)) for own in SEQUELS],
        "ordinary": [
            [relation.format(own[:n]), own[n:]]
            for relation, facts in ORDINARY.items()
            for own in facts.split()
            for n in [3 if "省会" in relation else 1 if "化学" in relation else 2]
        ],
        "openings": OPENINGS.replace("\n", "|").split("|"),
    }
    write(HERE / "probes.json", content)


if __name__ == "__main__":
    main()
