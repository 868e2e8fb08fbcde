"""Question-and-answer turns in Chinese about a drawn scene, for the three tasks of llava-instruct-zh-600k."""

from __future__ import annotations

import random

from .captions import board_sentence, caption, place, things
from .scenes import COLOURS, GROUNDS, KINDS, PLACES, SKIES, Board, Scene

Round = tuple[str, str]
TASKS = ("日常对话", "复杂推理", "描述图片")


def rounds(task: str, scene: Scene, rng: random.Random) -> list[Round]:
    """The (question, answer) rounds of a task: 5 for 日常对话, 1 for the others. The scene has a signboard."""
    assert scene.board is not None
    if task == "日常对话":
        return _conversation(scene, scene.board, rng)
    if task == "复杂推理":
        return [_reasoning(scene, scene.board)]
    return [("请详细描述这张图片。", caption(scene, "zh") + _summary(scene))]


def _conversation(scene: Scene, board: Board, rng: random.Random) -> list[Round]:
    group = rng.choice(scene.groups)
    kind = KINDS[group.kind]
    absent = KINDS[rng.choice([name for name in KINDS if name not in {group.kind for group in scene.groups}])]
    sign = board.sign
    return [
        ("这张图片里是什么地方?", f"图片里是{SKIES[scene.sky].zh}下的{GROUNDS[scene.ground].zh}。"),
        (f"图里有几{kind.measure}{kind.zh}?在哪里?", f"图里有{things(group, 'zh')},在画面的{place(group, 'zh')}。"),
        ("牌子在哪里?上面写了什么?", board_sentence(board, "zh")),
        (f"图里有{absent.zh}吗?", f"没有,图里看不到{absent.zh}。"),
        (f"如果我{sign.need},这张图能给我什么提示?", f"{_direction(board)}那里应该是{sign.use},可以过去看看。"),
    ]


def _reasoning(scene: Scene, board: Board) -> Round:
    light = {
        "clear": "天空晴朗,光线充足,走过去很方便。",
        "overcast": "天空阴沉,可能会下雨,最好带上雨伞。",
        "night": "现在是夜晚,光线较暗,走过去时要注意安全。",
    }[scene.sky]
    sign = board.sign
    answer = (
        f"应该往画面的{PLACES[board.place].zh}走。\n\n"
        f"首先,{_direction(board)}这类牌子通常用来指明{sign.use},正好符合他的需要。\n\n其次,{light}"
    )
    return f"如果一个人{sign.need},他应该往画面的哪一边走?为什么?", answer


def _direction(board: Board) -> str:
    return f"画面{PLACES[board.place].zh}的{COLOURS[board.colour].zh}牌子上写着“{board.sign.zh}”,"


def _summary(scene: Scene) -> str:
    return f"除牌子外,图中一共有{scene.total}个物体,文字只有“{scene.board.sign.zh}”。" if scene.board else ""
