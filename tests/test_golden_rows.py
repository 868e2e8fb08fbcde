"""The rows of every configuration in every format are those of before: caches and runs go on with them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from published_rows import CONFIGS, folder_of, stream

from llava_zh.demo import DemoPaths

FORMATS = ("llava", "sharegpt", "messages", "parts")
# Of version 0.1.0 as first landed. Rows that come out otherwise need a new VERSION of the builder.
SHA256 = {
    "single_en/llava": "e99d02efa637e96ecc2b95f8fc3dc2920a97e4d077419f04551e7a305548627e",
    "single_en/sharegpt": "5404d0454e4391dfc99513f1dc75172ac028521001585cc23102ef35f889de29",
    "single_en/messages": "36983be9a56186037d13a730470176004b2e81a0745e0417d40f3ed653164393",
    "single_en/parts": "0833f7a51a95132b9201835642c85dcd584f6253dc33bfc988a4641c88865dbd",
    "single_zh/llava": "a3a669565d1be9dbb14ba9f48cc50fa550f122d9e4f7b3f6fb94b15296a74a60",
    "single_zh/sharegpt": "2e156a34f8a8e0a1ec6e456f9d63f1cd436074f1ecc0d4eb4de10bef51c22ac0",
    "single_zh/messages": "ae5a2c4e5591fa1dd625f2de5dc98e017606b9ca456d58bd81a469049a21c26b",
    "single_zh/parts": "204328569fd4120ea013367f618ede1c7d8d6d0312c4067e19042a63717c2f47",
    "multi_en/llava": "882d18775ff3db027cdfdff5c6be60eea01ba02f8e2a9a6f7934e72fa1882903",
    "multi_en/sharegpt": "2fafd2c7750f61414d6a61731f43c11f0562ba6012826b3ea11f218ce653ab80",
    "multi_en/messages": "4f3c7169d27d8dbc85835f22ee7230c57928035ea46ff09fd482444707ef734a",
    "multi_en/parts": "243e6af0e23df53b917afc520a8467eba4dc4966721f06a9de243fa1e95083e7",
    "multi_zh/llava": "4a8fd5a04b13f97c07d59a3f5f641dd3c2af95d55e6b977e355872b20e398cfc",
    "multi_zh/sharegpt": "dd9551d98511bed8329984c3024bbb0e9d77dea4ac2f08e0fa594339052488f5",
    "multi_zh/messages": "d139c809f1f4d331af5df0e8f29954b9da2d2dc5d909becad8ebb832fed39b02",
    "multi_zh/parts": "e2d3e7d8c31a3f07d9f4e210a210764ca94f2e4566e8439cd461fcebe9742e20",
    "default/llava": "56532438d752955ca8fc64474fc800c6cbed0a02c71b462c306a95714d3420bc",
    "default/sharegpt": "ca67c08b5cb583ce3b6bd23821886c8f85101527f019592f14be289cfad65e3e",
    "default/messages": "fa04d1084100115aa12f02769a20031e471545782c1fa99f5923e96d65077902",
    "default/parts": "3ab738221954b2857a3475115a0d5b1e3ec0bb9be7fa85b1b8ae53c4ac5ed636",
    "conversation/llava": "3a3adead1d1a24a3e171ccad83148dec4e0f97e2a0fdd2f4855ccd4f1c9b5f0b",
    "conversation/sharegpt": "47da542519961dbd6148b7a25ea9eafa057e02d79f1eff2fb1b12dfd14ac9e2d",
    "conversation/messages": "60888148c6feebbef579f94260aa503dba7b1402f40d102c31782b787960e873",
    "conversation/parts": "9629d4f3664f7a88b75c1476b13cff80a84eac1b2dea8db98a8a499f602ab907",
    "complex_reasoning/llava": "30d5b2bee6a50413744aa1f85b56cd6e7b00950a238d45ce25ca4b0b2c0bd0b5",
    "complex_reasoning/sharegpt": "708493766807db814b014ed14333bc21c867763069eecf416b7773b664fcb1c2",
    "complex_reasoning/messages": "67caa0ad54890c7830870fc7779e7da180bccb1cb957a678ab4a36138abfb72a",
    "complex_reasoning/parts": "c3129b348454f7632e449211791e9d6ca9466dd4920796078f505df467762ef8",
    "detail/llava": "22a5f4d3e71ba770a233a9dd0f34a3056de216dfbf0cfbd0c9961adfba52155a",
    "detail/sharegpt": "681183799b99ad11fcb865609fe640671ae3a20922777b0e2173235565b48fc1",
    "detail/messages": "3a269ef93975bf9aad5ee4019e925b8bf14e2128e33012e003a3efa099fe72eb",
    "detail/parts": "fdbf8bf1dd2f45dfe642d951cfd74035b6cc3d90897a1af2ad1e321d5e1df5c1",
}


def told(value: Any, base: str) -> Any:
    """`value` as it is on any machine: paths below `base`, and of bytes, which differ with Pillow, whether they are."""
    if isinstance(value, dict):
        return {key: told(each, base) for key, each in value.items()}
    if isinstance(value, list):
        return [told(each, base) for each in value]
    if isinstance(value, str):
        return value.replace(base, "")
    return bool(value) if isinstance(value, bytes) else value


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name"), CONFIGS)
def test_the_rows_are_those_of_before(demo: DemoPaths, path: str, name: str) -> None:
    folder = folder_of(demo, path)
    for row_format in FORMATS:
        rows = list(stream(folder, name, path, row_format=row_format).decode(False))
        text = json.dumps(told(rows, str(demo.internvl.parent)), ensure_ascii=False, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert SHA256[f"{name}/{row_format}"] == digest
