"""Answers by which a model refuses: "I'm sorry, I can't help with that", 抱歉，我无法提供帮助.

Only how an answer begins counts, since a caption may quote such words (a sign that says "Sorry, we cannot take
cards"), and what follows must be help or the picture as a whole: "I'm sorry, but I can't make out the brand" answers
its question, and so does 抱歉，无法确定他的年龄. The patterns are, in words:

- An apology, and then that the speaker cannot, may not or will not do one of the things below.
- The same without an apology, of the things that nobody says of a picture: to help, to comply, to process the image.
- That the speaker is an AI, and then that it cannot do one of these things.
- That a request goes against a policy, or that no image was given.
"""

from __future__ import annotations

import re

_I = r"(?:i|we)"
_CANNOT = (
    rf"{_I}(?:\s+(?:really|simply|unfortunately|currently))?(?:\s+(?:can\s?not|can['’]?t|won['’]?t|will\s+not|must\s+decline"
    r"|do\s+not\s+have|don['’]t\s+have|am\s+not|are\s+not)|['’]m\s+not|\s+am\s+unable|['’]m\s+unable"
    r"|\s+(?:have|need)\s+to\s+decline|\s+was\s+unable|\s+could\s?n[o'’]t)"
)
_FILLER = r"(?:\s+(?:to|able|directly|allowed|permitted|comfortable|be|the|any|you|with|provide|actually)){0,4}"
_THE_IMAGE = (
    r"(?:(?:this|that|these|those|the|your|any|real)\s+)?(?:uploaded\s+|attached\s+|provided\s+)?"
    r"(?:images?|pictures?|photos?|photographs?|files?|attachments?|content)"
)
# What is refused in a way that speaks of no picture at all.
_HELPING = (
    r"(?:help|assist|compl(?:y|iance)|fulfil|engage|participate|discuss|continue\s+with|answer\s+(?:that|this|your)|"
    r"do\s+(?:that|this)|access\s+to|support\s+(?:that|this)|generat(?:e|ing)|creat(?:e|ing)|respond\s+to\s+(?:that|this)|"
    rf"(?:process|analy[sz]e|view|open|access|load|display|describe|see|interpret|look\s+at)\s+{_THE_IMAGE}|"
    r"(?:view|see|process|analy[sz]e)\s+images?)"
)
# What is refused after an apology.
_AFTER_SORRY = (
    rf"(?:{_HELPING}|(?:a\s+|an\s+)?descri(?:be|ptions?)|assistance|"
    r"identify(?:ing)?\s+(?:the\s+|this\s+|that\s+|these\s+|real\s+)*"
    r"(?:people|persons?|individuals?|who|anyone|faces?|celebrit)|information|that(?:\s+(?:for|kind|type)|[.,!]|$)|"
    r"(?:recogni[sz]e|name)\s+(?:people|individuals|real))"
)
_SORRY = (
    r"(?:(?:i['’]m|i\s+am|we['’]re|we\s+are)\s+(?:(?:very|so|really|truly|terribly)\s+)?(?:sorry|afraid)(?:\s+that)?"
    r"|(?:so\s+|very\s+)?sorry|(?:i|we)\s+(?:sincerely\s+|do\s+)?apologi[sz]e(?:\s+for[^.,!]{0,40})?|(?:my|our)\s+(?:sincere\s+)?apologies"
    r"|unfortunately|regrettably)\s*[,.!;:—-]*\s*(?:but\s+)?(?:unfortunately,?\s+)?"
)
_AS_AN_AI = r"as\s+an?\s+(?:ai|artificial\s+intelligence|(?:large\s+)?language\s+model)\b[^.,]{0,40},\s*(?:but\s+)?"
_ENGLISH = re.compile(
    rf"(?:(?:{_SORRY})?{_AS_AN_AI}{_CANNOT}|{_SORRY}(?:{_AS_AN_AI})?{_CANNOT}{_FILLER}\s+{_AFTER_SORRY}"
    rf"|{_CANNOT}{_FILLER}\s+{_HELPING}"
    rf"|{_SORRY}(?:no\s+image|there\s+(?:is|was)\s+no\s+(?:image|picture|photo)|your\s+request|this\s+request)"
    rf"|{_I}\s+(?:do\s+not|don['’]t)\s+see\s+(?:any|an)\s+(?:images?|pictures?|photos?)\s+(?:attached|in\s+your|uploaded)"
    r"|(?:this|your|the)\s+request\s+(?:violates|goes\s+against|can\s?not\s+be))",
    re.IGNORECASE,
)

_DIVIDES = r"[\s，,。.！!、；;：:～~…]*"
_SORRY_ZH = (
    r"(?:(?:我|非常|很|十分|真的|实在|实在是|深感|感到|表示)*+(?:抱歉|对不起|不好意思|遗憾|请原谅|请谅解|请见谅)"
    rf"{_DIVIDES})"
)
_CANNOT_ZH = r"(?:无法|不能|没法|没有办法|没办法|不能够|不可以|不便|不会|不方便|无权|难以|未能|没有能力)"
_WE_ZH = (
    r"(?:但是?|不过|可是|由于[^，,。]{0,24}[，,]|因为[^，,。]{0,24}[，,]|目前|当前|暂时|现在|我们?|本人"
    r"|这边|这里|是|还|并|也|直接)*+"
)
_FOR_YOU_ZH = r"(?:直接|为您|为你|帮您|帮你|给您|给你|替您|替你|向您|向你|对您|对你|按照?|根据|正常|再)*+"
_THE_IMAGE_ZH = (
    r"(?:到|您|你|提供|所?上传|发送|的|这|那|此|该|张|幅|个|些|任何|具体){0,8}(?:图片|图像|图(?![片像])|照片|画面|文件|附件|链接|内容|请求|要求|问题|话题)"
    "(?![里中上下左右外以的])"
)
_HELPING_ZH = (
    rf"(?:提供|协助|帮助|帮忙|帮到|满足|遵从|执行|处理|配合|参与|讨论|生成|给到|给出|完成(?:这|此|该|您|你)|"
    rf"(?:回答|回复|答复|描述|查看|浏览|打开|访问|加载|解析|分析|识别|看到|看见|显示|评论){_THE_IMAGE_ZH}|"
    r"(?:查看|浏览|识别|分析|处理|看到)图)"
)
_AS_AN_AI_ZH = (
    r"作为(?:一个|一名|一款|一位)?(?:人工智能|AI|大?语言模型|大模型|智能助手|虚拟助手|视觉助手)"
    r"[^，,。]{0,15}[，,]\s*"
)
_CHINESE = re.compile(
    rf"(?:您好|你好|嗯|呃)?{_DIVIDES}(?:"
    rf"{_SORRY_ZH}?{_AS_AN_AI_ZH}{_WE_ZH}(?:{_CANNOT_ZH}|看不[到见])|{_SORRY_ZH}{_WE_ZH}看不[到见]{_THE_IMAGE_ZH}"
    rf"|{_SORRY_ZH}(?:{_AS_AN_AI_ZH})?{_WE_ZH}{_CANNOT_ZH}{_FOR_YOU_ZH}"
    rf"(?:{_HELPING_ZH}|回答|回复|描述|识别(?:图中|照片中|画面中|该|此|这)?(?:的)?(?:人|具体人物|身份|个人)|继续|这样做|这么做|协作)"
    rf"|(?:我|目前|暂时)+{_CANNOT_ZH}{_FOR_YOU_ZH}{_HELPING_ZH}"
    rf"|{_SORRY_ZH}(?:这个|该|此|您的|你的|您提出的|你提出的)(?:问题|请求|要求|话题|内容|图片)[^，,。]{{0,12}}"
    r"(?:无法|不能|违反|超出|不符合|涉及)"
    rf"|(?:这个|该|此|您的|你的)(?:问题|请求|要求|话题)(?:我|我们|目前|暂时)*(?:{_CANNOT_ZH}{_FOR_YOU_ZH}(?:回答|提供|满足|处理)|违反了)"
    rf"|{_SORRY_ZH}(?:您|你)?(?:似乎|好像)?(?:没有|未|并未|没)(?:有)?(?:提供|上传|发送|收到|看到)[^，,。]{{0,6}}(?:图片|图像|照片)"
    r")",
    re.IGNORECASE,
)

# A refusal that is given in quotation marks from its first sign to its last is still one.
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "『": "』", "《": "》"}
# Both patterns begin with one of few letters; most captions do not.
_BEGINS = re.compile(
    r"[\s*_#>\"'“‘「『]*(?:i['’\s]|we['’\s]|so|very|sorry|my|our|unfort|regret|as\s+an?\s+|this\s+req|your\s+req|the\s+req"
    r"|您|你|嗯|呃|我|非常|很|十分|真的|实在|深感|感到|抱歉|对不起|不好意思|遗憾|请原谅|请谅解|请见谅|作为|目前|暂时|这个|该|此)",
    re.IGNORECASE,
)
# So much of an answer is looked at.
_LOOKED_AT = 300


def refusal(text: str) -> str | None:
    """The words by which `text`, one answer of a model, refuses; None for any other answer."""
    if _BEGINS.match(text) is None:
        return None
    said = " ".join(text[:_LOOKED_AT].split()).strip("*_#> ")
    if len(said) > 1 and _QUOTES.get(said[0]) == said[-1] and len(text) <= _LOOKED_AT:
        said = said[1:-1].strip()
    found = _ENGLISH.match(said) or _CHINESE.match(said)
    return found[0].strip() if found else None
