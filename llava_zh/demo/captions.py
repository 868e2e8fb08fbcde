"""Sentences about drawn scenes, in English and Chinese. Each says only what the scene's data says, so each is true."""

from __future__ import annotations

from collections.abc import Sequence

from .scenes import COLOURS, GROUNDS, KINDS, PLACES, SKIES, Board, Group, Scene

NUMBERS_EN = ("no", "one", "two", "three", "four", "five")
NUMBERS_ZH = ("零", "一", "两", "三", "四", "五")

_SKY_PLACES_EN = {"left": "at the upper left", "middle": "at the top centre", "right": "at the upper right"}
_SKY_PLACES_ZH = {"left": "左上方", "middle": "上方中间", "right": "右上方"}
_GROUND_PLACES_EN = {"left": "on the left", "middle": "in the middle", "right": "on the right"}


def things(group: Group, language: str) -> str:
    """``"two red cars"`` or ``"两辆红色的汽车"``."""
    kind, colour = KINDS[group.kind], COLOURS[group.colour]
    if language == "zh":
        return f"{NUMBERS_ZH[group.count]}{kind.measure}{colour.zh}的{kind.zh}"
    return f"{NUMBERS_EN[group.count]} {colour.en} {kind.en if group.count == 1 else kind.plural}"


def place(group: Group, language: str) -> str:
    """Where in the picture a group is: ``"at the upper left"``, ``"右边"``."""
    if language == "zh":
        return _SKY_PLACES_ZH[group.place] if group.in_sky else PLACES[group.place].zh
    return (_SKY_PLACES_EN if group.in_sky else _GROUND_PLACES_EN)[group.place]


def caption(scene: Scene, language: str) -> str:
    """One paragraph that describes the whole picture."""
    parts = [f"{setting(scene, language)}{'。' if language == 'zh' else '.'}"]
    parts += [_group_sentence(group, language) for group in scene.groups]
    if scene.board is not None:
        parts.append(board_sentence(scene.board, language))
    return ("" if language == "zh" else " ").join(parts)


def setting(scene: Scene, language: str) -> str:
    """The ground and the sky of a scene, as a sentence with no stop at its end."""
    sky, ground = SKIES[scene.sky], GROUNDS[scene.ground]
    if language == "zh":
        return f"图中是{sky.zh}下的{ground.zh}"
    return f"The image shows {ground.en} under {sky.en}"


def board_sentence(board: Board, language: str) -> str:
    """Where the signboard stands, its colour and its text."""
    colour = COLOURS[board.colour]
    if language == "zh":
        return f"{PLACES[board.place].zh}立着一块{colour.zh}的牌子,上面用白字写着“{board.sign.zh}”。"
    where = _capital(_GROUND_PLACES_EN[board.place])
    return f"{where} stands a {colour.en} sign with the white text “{board.sign.zh}”, meaning “{board.sign.en}”."


def comparison(scenes: Sequence[Scene], language: str) -> str:
    """One paragraph that describes several pictures in turn and compares them."""
    totals = [scene.total for scene in scenes]
    most = [number for number, total in enumerate(totals, 1) if total == max(totals)]
    signs = [number for number, scene in enumerate(scenes, 1) if scene.board is not None]
    same_ground = len({scene.ground for scene in scenes}) == 1
    if language == "zh":
        described = "".join(f"图{n}:{_as_part(scene, 'zh')}" for n, scene in enumerate(scenes, 1))
        ground = "这些图的地面相同。" if same_ground else "这些图的地面并不都相同。"
        count = f"除牌子外,物体最多的是{_join_zh(most)},{'各' if len(most) > 1 else ''}有{max(totals)}个。"
        board = f"{_join_zh(signs)}里有写着中文的牌子。" if signs else "这些图里都没有牌子。"
        return described + ground + count + board
    described = " ".join(f"Image-{n}: {_as_part(scene, 'en')}" for n, scene in enumerate(scenes, 1))
    ground = f"The images {'all show the same kind of' if same_ground else 'do not all show the same kind of'} ground."
    each = " each" if len(most) > 1 else ""
    count = f"Signs aside, the most things are in {_join_en(most)}, with {max(totals)}{each}."
    board = f"There is a sign with Chinese text in {_join_en(signs)}." if signs else "None of the images has a sign."
    return f"{described} {ground} {count} {board}"


def _group_sentence(group: Group, language: str) -> str:
    if language == "zh":
        return f"{place(group, 'zh')}有{things(group, 'zh')}。"
    return f"{_capital(place(group, 'en'))} there {'is' if group.count == 1 else 'are'} {things(group, 'en')}."


def _as_part(scene: Scene, language: str) -> str:
    """A caption that goes on after "Image-1:"."""
    text = caption(scene, language)
    return text.removeprefix("图中是") if language == "zh" else _capital(text.removeprefix("The image shows "))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _join_en(numbers: Sequence[int]) -> str:
    names = [f"Image-{number}" for number in numbers]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _join_zh(numbers: Sequence[int]) -> str:
    names = [f"图{number}" for number in numbers]
    return names[0] if len(names) == 1 else f"{'、'.join(names[:-1])}和{names[-1]}"
