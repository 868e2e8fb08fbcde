"""A refusal is called one by how an answer begins, in both languages, and a text that only quotes one is none."""

from __future__ import annotations

import pytest

from llava_zh.gates.refusals import refusal

REFUSALS = """
对不起,作为语言模型,我看不到图片。
抱歉，我看不到图片。
I'm sorry, I can't help with that image.
I’m sorry, but I can’t assist with that.
I am sorry, but I cannot provide a description of this image.
Sorry, I can't help with identifying people in this photo.
I'm sorry, I can't identify the people in this image.
I apologize, but I am unable to assist with this request.
My apologies, but I'm not able to describe the image.
I cannot assist with that request.
I can't help with that.
I'm unable to view images directly.
I won't be able to help with this.
Unfortunately, I cannot process the image you uploaded.
As an AI language model, I cannot see pictures.
"I'm sorry, but I can't assist with that."
**I'm sorry, I can't help with that.**
This request violates our policy.
I don't see any image attached to your message.
抱歉，我无法提供帮助。
抱歉，我无法回答这个问题。
很抱歉，我无法查看您上传的图片，请重新上传。
对不起，我不能为您描述这张图片。
非常抱歉，作为一个AI助手，我无法识别图中的人物身份。
不好意思，目前无法处理该请求。
我无法为您提供该图片的描述。
我不能协助您完成这个请求。
作为人工智能助手，我无法看到图片。
抱歉，您的问题超出了我的能力范围。
抱歉，您似乎没有上传图片。
这个问题我无法回答，涉及敏感内容。
您好，抱歉，我无法给到相关内容。
抱歉，我无法识别图中的人。
"""

OTHERS = """
抱歉，我看不到图片里的文字。
A sign on the door says "I'm sorry, I can't help you today" in red letters.
I'm sorry to say the bridge is broken, and its planks lie in the river.
I'm sorry, but I can't make out the brand on the cup.
I can't see any people in the picture; the street is empty.
I cannot see a dog. There is a cat on the sofa.
We can see two boats on a lake, and we can't tell whether they move.
Unfortunately, the photo is blurred on its left side.
Sorry state of a house: its windows are broken and its door hangs loose.
My guess is that it is morning.
This requested item is a red bicycle.
海报上写着“抱歉，我无法提供帮助”，下面是一个电话号码。
“抱歉，我们不能刷卡”是门上牌子的文字，牌子旁边站着一位老人。
抱歉，从图中无法确定他的年龄，但看上去三十岁左右。
我无法确定这是早晨还是傍晚。
这个问题涉及历史：石桥建于宋代，后来重修过两次。
该图片无法分辨左右，但能看到两把椅子。
目前无法看到照片右侧的门牌。
我不会游泳，所以坐在岸边，T恤上印着这句话。
很多人在广场上散步，该广场的中央有一座喷泉。
这个问题可以从图中找到答案：车是红色的。
很遗憾，桥已经断了，木板漂在河里。
作为一个旅游城市，这里的街道两旁种满了树。
目前画面里没有人，无法看清远处的建筑。
"""


@pytest.mark.parametrize("answer", REFUSALS.strip().splitlines())
def test_an_answer_that_begins_by_refusing_is_a_refusal(answer: str) -> None:
    assert refusal(answer), answer


@pytest.mark.parametrize("answer", OTHERS.strip().splitlines())
def test_an_answer_that_quotes_or_resembles_a_refusal_is_none(answer: str) -> None:
    assert refusal(answer) is None, refusal(answer)
