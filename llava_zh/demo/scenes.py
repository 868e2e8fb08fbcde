"""What a drawn scene holds: the one description that both its picture and its captions are made from."""

from __future__ import annotations

import random
from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Named:
    """Something with an English and a Chinese name."""

    en: str
    zh: str


@dataclass(frozen=True)
class Colour(Named):
    """A colour far enough from every other one, and from every background, to be told apart in a JPEG."""

    rgb: RGB


@dataclass(frozen=True)
class Backdrop(Named):
    """A sky or a ground: a vertical gradient from `top` to `bottom`."""

    top: RGB
    bottom: RGB


@dataclass(frozen=True)
class Kind(Named):
    """A kind of thing that can be drawn, `most` of them at a time, and the backdrops it belongs to."""

    plural: str
    measure: str
    backdrops: tuple[str, ...]
    most: int
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Sign(Named):
    """The text of a signboard: `zh` is written on it, `en` is what it means, the rest is what it is good for."""

    backdrops: tuple[str, ...]
    need: str
    use: str


COLOURS = {
    "red": Colour("red", "红色", (214, 40, 40)),
    "orange": Colour("orange", "橙色", (245, 130, 30)),
    "yellow": Colour("yellow", "黄色", (252, 208, 30)),
    "green": Colour("green", "绿色", (25, 130, 65)),
    "blue": Colour("blue", "蓝色", (30, 80, 205)),
    "purple": Colour("purple", "紫色", (125, 55, 175)),
    "pink": Colour("pink", "粉色", (245, 120, 175)),
}
ANY = tuple(COLOURS)
# White letters must stand out on the board.
BOARD_COLOURS = ("red", "green", "blue", "purple")

SKIES = {
    "clear": Backdrop("a clear light-blue sky", "晴朗的浅蓝色天空", (150, 205, 245), (215, 236, 250)),
    "overcast": Backdrop("an overcast grey sky", "阴沉的灰色天空", (172, 178, 186), (208, 212, 216)),
    "night": Backdrop("a dark blue night sky", "深蓝色的夜空", (18, 24, 62), (44, 54, 104)),
}
GROUNDS = {
    "meadow": Backdrop("a green meadow", "一片绿色的草地", (176, 218, 140), (146, 196, 106)),
    "street": Backdrop("a wide grey street", "一条宽阔的灰色马路", (158, 160, 166), (136, 138, 144)),
    "lake": Backdrop("a calm blue lake", "一片平静的蓝色湖面", (120, 180, 222), (88, 152, 204)),
    "beach": Backdrop("a sandy beach", "一片沙滩", (240, 224, 180), (226, 204, 152)),
    "snow": Backdrop("a field of white snow", "一片白色的雪地", (238, 242, 248), (252, 253, 255)),
}

KINDS = {
    "sun": Kind("sun", "太阳", "suns", "个", ("clear",), 1, ("yellow", "orange")),
    "moon": Kind("crescent moon", "弯月", "crescent moons", "个", ("night",), 1, ("yellow",)),
    "star": Kind("star", "星星", "stars", "颗", ("night",), 5, ("yellow", "orange")),
    "bird": Kind("bird", "小鸟", "birds", "只", ("clear", "overcast"), 5, ("red", "blue", "purple", "green")),
    "kite": Kind("kite", "风筝", "kites", "只", ("clear", "overcast"), 3, ANY),
    "balloon": Kind("hot-air balloon", "热气球", "hot-air balloons", "个", ("clear", "overcast", "night"), 3, ANY),
    "house": Kind("house", "房子", "houses", "座", ("meadow", "street", "snow"), 2, ANY),
    "tree": Kind("tree", "树", "trees", "棵", ("meadow", "snow"), 3, ("green", "orange", "pink", "yellow")),
    "tent": Kind("tent", "帐篷", "tents", "顶", ("meadow", "beach", "snow"), 3, ANY),
    "car": Kind("car", "汽车", "cars", "辆", ("meadow", "street", "snow"), 3, ANY),
    "flower": Kind("flower", "花", "flowers", "朵", ("meadow",), 5, ("red", "orange", "yellow", "purple", "pink")),
    "ball": Kind("ball", "皮球", "balls", "个", ("meadow", "street", "beach", "snow"), 5, ANY),
    "parasol": Kind("parasol", "遮阳伞", "parasols", "把", ("beach",), 3, ANY),
    "boat": Kind("sailing boat", "帆船", "sailing boats", "艘", ("lake",), 3, ANY),
    "fish": Kind("fish", "鱼", "fish", "条", ("lake",), 5, ANY),
    "duck": Kind("duck", "鸭子", "ducks", "只", ("lake",), 5, ("red", "orange", "yellow", "purple", "pink")),
}
SIGNS = (
    Sign("bookshop", "书店", ("street",), "想买一本书", "卖书的地方"),
    Sign("noodle shop", "面馆", ("street",), "肚子饿了想吃碗面", "吃面的地方"),
    Sign("hospital", "医院", ("street",), "身体不舒服想看医生", "看病的地方"),
    Sign("supermarket", "超市", ("street",), "想买些日用品", "购物的地方"),
    Sign("bank", "银行", ("street",), "想取一些钱", "存钱取钱的地方"),
    Sign("post office", "邮局", ("street",), "想寄一封信", "寄信的地方"),
    Sign("pharmacy", "药店", ("street",), "想买些常用药", "卖药的地方"),
    Sign("flower shop", "花店", ("street",), "想买一束鲜花", "卖花的地方"),
    Sign("teahouse", "茶馆", ("street", "meadow"), "想坐下来喝杯茶", "喝茶休息的地方"),
    Sign("car park", "P 停车场", ("street", "meadow", "snow"), "想把车停好", "停车的地方"),
    Sign("public toilet", "公厕 WC", ("street", "meadow", "beach"), "想找洗手间", "公共洗手间"),
    Sign("park", "公园", ("meadow",), "想散散步", "散步休闲的地方"),
    Sign("campsite", "露营地", ("meadow",), "想在野外过夜", "搭帐篷过夜的地方"),
    Sign("exit", "出口", ("meadow", "beach", "snow"), "想离开这里", "离开这里的通道"),
    Sign("entrance", "入口", ("meadow", "beach", "snow"), "想进到里面去", "进去的通道"),
    Sign("ticket office", "售票处", ("meadow", "beach", "snow", "lake"), "想买一张门票", "卖票的地方"),
    Sign("cold drinks", "冷饮", ("beach",), "口渴了想喝点凉的", "卖冷饮的地方"),
    Sign("hot tea", "热茶", ("snow",), "觉得冷想暖和一下", "喝热茶取暖的地方"),
    Sign("ski resort", "滑雪场", ("snow",), "想去滑雪", "滑雪的场地"),
    Sign("pier", "码头", ("lake",), "想坐船出去", "上船下船的地方"),
    Sign("ferry crossing", "渡口", ("lake",), "想到对岸去", "坐船过河的地方"),
)

PLACES = {"left": Named("left", "左边"), "middle": Named("middle", "中间"), "right": Named("right", "右边")}
# Width and height in pixels.
SIZES = ((640, 480), (640, 427), (600, 400), (512, 512), (480, 640), (480, 360))


@dataclass(frozen=True)
class Group:
    """`count` things of one kind and colour in one third of the picture; keys of KINDS, COLOURS, PLACES."""

    kind: str
    colour: str
    count: int
    place: str

    @property
    def in_sky(self) -> bool:
        """Whether the group hangs in the sky; otherwise it stands on the ground."""
        return KINDS[self.kind].backdrops[0] in SKIES


@dataclass(frozen=True)
class Board:
    """A signboard of a colour that stands in one third of the picture."""

    sign: Sign
    colour: str
    place: str


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows. No two groups share a kind, a colour, or a third of the sky or the ground."""

    width: int
    height: int
    sky: str
    ground: str
    groups: tuple[Group, ...]
    board: Board | None

    @property
    def total(self) -> int:
        """The number of things in the picture, the signboard aside."""
        return sum(group.count for group in self.groups)


def random_scene(rng: random.Random, *, with_board: bool | None = None) -> Scene:
    """A scene drawn by lot: 1 to 4 groups and, by lot unless `with_board` says, a signboard."""
    width, height = rng.choice(SIZES)
    sky, ground = rng.choice(tuple(SKIES)), rng.choice(tuple(GROUNDS))
    if with_board is None:
        with_board = rng.random() < 0.6
    colours = rng.sample(ANY, len(ANY))
    board = None
    ground_places = rng.sample(tuple(PLACES), len(PLACES))
    if with_board:
        sign = rng.choice([sign for sign in SIGNS if ground in sign.backdrops])
        colour = next(colour for colour in colours if colour in BOARD_COLOURS)
        colours.remove(colour)
        board = Board(sign, colour, ground_places.pop())
    groups = _groups(rng, ground, ground_places[: rng.randint(1, 2)], colours)
    groups += _groups(rng, sky, rng.sample(tuple(PLACES), rng.randint(0, 2)), colours)
    return Scene(width, height, sky, ground, tuple(groups), board)


def _groups(rng: random.Random, backdrop: str, places: list[str], colours: list[str]) -> list[Group]:
    """One group for each of `places`, of kinds that belong to the backdrop; takes what it uses from `colours`."""
    names = [name for name, kind in KINDS.items() if backdrop in kind.backdrops]
    groups: list[Group] = []
    for name in rng.sample(names, len(names)):
        fitting = [colour for colour in colours if colour in KINDS[name].colours]
        if fitting and len(groups) < len(places):
            colours.remove(fitting[0])
            groups.append(Group(name, fitting[0], rng.randint(1, KINDS[name].most), places[len(groups)]))
    return groups
