"""What kind of file a name says, and what kind its bytes are."""

from __future__ import annotations

from ..errors import BadFile
from ..gates.magic import BOM, begins_as

#: The endings of names by which files are read, and the kind that each says.
ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl.gz",
    ".ndjson.gz": "jsonl.gz",
    ".json.gz": "jsonl.gz",
    ".jsonl.zst": "jsonl.zst",
    ".ndjson.zst": "jsonl.zst",
    ".json.zst": "jsonl.zst",
    ".json": "json",
    ".parquet": "parquet",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".zip": "zip",
}
# So much of a file's start is looked at.
HEAD = 512
_TO_UTF8 = "Convert it first: iconv -f {} -t UTF-8 OLD > NEW"
# What to do with a file that is no JSON, by what it is.
_ADVICE = {
    "gzip data": "Give it a name that ends in .jsonl.gz, or unpack it with gunzip.",
    "zstd data": "Give it a name that ends in .jsonl.zst, or unpack it with zstd -d.",
    "bzip2 data": "Unpack it with bunzip2 first.",
    "xz data": "Unpack it with unxz first.",
    "a zip archive": "Unpack it first.",
    "a Parquet file": "Give it a name that ends in .parquet.",
    "an HDF5 file": "Convert it to JSON Lines or Parquet.",
    "an Arrow file": "Convert it to Parquet.",
    "text in UTF-32": _TO_UTF8.format("UTF-32"),
    "text in UTF-16": _TO_UTF8.format("UTF-16"),
    "text in UTF-16 (as PowerShell's > writes it)": _TO_UTF8.format("UTF-16"),
}
# Encodings with more than one byte a letter, without a byte order mark: where the zeros of plain letters are.
_WIDE = (
    ((0, 1, 1, 1), "UTF-32LE"),
    ((1, 1, 1, 0), "UTF-32BE"),
    ((0, 1, 0, 1), "UTF-16LE"),
    ((1, 0, 1, 0), "UTF-16BE"),
)


def kind_of(name: str) -> str | None:
    """``jsonl``, ``jsonl.gz``, ``jsonl.zst``, ``json``, ``parquet``, ``tar`` or ``zip`` by the ending, or None."""
    lowered = name.lower()
    for ending, kind in ENDINGS.items():
        if lowered.endswith(ending):
            return kind
    return None


def recognised(head: bytes) -> str:
    """What bytes at the start of a file or line are that is no JSON in UTF-8, and what to do; "" when not known."""
    what = begins_as(head)
    if advice := _ADVICE.get(what):
        return f"This is {what}. {advice}"
    for zeros, encoding in _WIDE:
        if len(head) >= 8 and all(bool(byte) != bool(zero) for byte, zero in zip(head[:8], zeros * 2, strict=True)):
            return f"This is text in {encoding}. {_TO_UTF8.format(encoding)}"
    if what in ("an HTML page", "an XML file"):
        return "This is a web page, not data: an error or a login page of a server. Fetch the file again."
    return ""


def check_head(label: str, head: bytes) -> None:
    """Raise :class:`BadFile` for a file of JSON whose first bytes are something else."""
    if problem := recognised(head):
        raise BadFile(f"{label}: expected JSON in UTF-8. {problem}")


def other_encoding(line: bytes) -> str:
    """What to do about a line that is not UTF-8: "" when it is in no encoding that Chinese text comes in."""
    for encoding, name in (("gb18030", "GB18030"), ("big5", "BIG5")):
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError:
            continue
        if any("\u4e00" <= letter <= "\u9fff" for letter in text):
            also = " (GBK)" if name == "GB18030" else ""
            return f"This looks like {name}{also}: {_TO_UTF8.format(name)}"
    return ""


def what_it_may_be(line: bytes) -> str:
    """What may be wrong with a line of UTF-8 that is no JSON."""
    text = line.removeprefix(BOM).strip()
    if known := recognised(line):
        return known
    if b"}\r{" in line:
        return "The lines end in CR, as old Macs wrote them, where LF is due: tr '\\r' '\\n' < OLD > NEW"
    if text.endswith(b"},") or text in (b"[", b"]", b"],"):
        return "The lines are of a JSON array; give the file a name that ends in .json."
    if text in (b"{", b"}", b"},") or (text.startswith(b'"') and text.endswith((b",", b"{", b"["))):
        return "A record runs over several lines; write each on one line (jq -c . OLD > NEW)."
    if text.startswith(b"{'"):
        return "It has single quotes, as Python prints a dict; write it with json.dumps."
    if text.endswith(b"}") or not text.startswith(b"{"):
        return ""
    return "The line is cut short; is the file complete?"
