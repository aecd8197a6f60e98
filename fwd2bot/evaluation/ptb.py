"""Captions to tokens, by the rules of the Penn Treebank as the official caption scorer applies them.

The official tokeniser is a Java program (Stanford's PTBTokenizer 3.4.1), which `java_scorers` runs where it is there.
This one needs nothing, and cuts what captions are made of alike; on rarer things (telephone numbers, smileys,
abbreviations of few) it may differ, so figures say which of the two made them.
"""

import re

LEFT_OUT = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
"""Tokens that the official scorer drops. It asks for brackets in capitals after all was put in lower case, so a bracket
stays, as "-lrb-"; and so it does here."""
_ABBREVIATIONS = (
    "mr mrs ms dr st ave blvd rd jr sr prof rev gen gov sen rep lt col sgt capt inc corp co ltd vs etc mt ft bros "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
_BEFORE_NUMBERS = "no nos fig pp p"
_SPLIT = {
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "lemme": "lem me",
    "gimme": "gim me", "'tis": "'t is", "'twas": "'t was", "y'all": "y' all",
}  # fmt: skip
_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "–": "--", "—": "--", "…": "...", "£": "#", "€": "$", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4",
    "&amp;": "&", "&lt;": "<", "&gt;": ">",
}  # fmt: skip
_LETTER = r"[^\W\d_]"
_END = r"(?!\w)"
_SUFFIX = rf"(?:'(?:s|m|d|re|ve|ll)|n't){_END}"
_NUMBER = r"\d+(?:[.,:/]\d+)*"
_PLAIN = rf"(?:{_LETTER}|\d|_)"


def _one_of(words: str) -> str:
    return "|".join(words.split())


_TOKEN = re.compile(
    "|".join((
        r"(?:https?://|www\.)[^\s\"'<>()]*[\w/]",
        r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
        rf"[#@]{_LETTER}\w+",
        r"\.{3}|\.(?: \.){2,}|[?!]+|-{2,}|&(?:amp|lt|gt);",
        rf"(?<!\w)(?:ph\.d|(?:{_LETTER}\.)+{_LETTER})(?:\.|{_END})|(?<!\w)[a-z]\.(?= \w|{_LETTER})",
        rf"(?<!\w)(?:{_one_of(_ABBREVIATIONS)})\.{_END}|(?<!\w)(?:{_one_of(_BEFORE_NUMBERS)})\.(?= ?\d)",
        rf"(?<!\w)(?:{'|'.join(_SPLIT)}){_END}",
        rf"'n'|(?<!\w)'(?:em|til|cause|\d\ds?){_END}|(?<!\w)(?:ol|dunkin)'",
        _SUFFIX,
        rf"{_NUMBER}(?:-{_NUMBER})*(?:\.?{_LETTER}\w*)?(?:-\w+)*",
        rf"(?:[dlo]')?{_PLAIN}+?(?:[-/&]{_PLAIN}+?)*(?={_SUFFIX})",
        rf"{_LETTER}{{2,}}(?:\.{_LETTER}{{2,}})+",
        r"\w+\.(?=,)",
        rf"(?:[dlo]')?\w+(?:(?:[-/&]|(?<={_LETTER})'(?!s\b|n'))\w+)*",
        r"\.\d+(?:\.\d+)*|\S",
    ))
)  # fmt: skip
_QUOTES = str.maketrans("’‘“”", "''\"\"")


def ptb_tokens(caption: str) -> list[str]:
    """The tokens of a caption, in lower case, without the punctuation that the official scorer drops."""
    found = _TOKEN.findall(caption.translate(_QUOTES).lower())
    written = [part for token in found for part in _SPLIT.get(token, _WRITTEN.get(token, token)).split()]
    return [token for token in written if token not in LEFT_OUT and token != '"']
