r"""Answers: which part of a text is its final answer, and the number or the form that it stands for.

    the last \boxed{...}, else the last labelled one (answer: ..., #### ...), else the last number, else the last line

Numbers are compared as exact fractions: 0.5, 1/2 and \frac{1}{2} are one number, and 0.33 is not 1/3. Units,
currencies, percent signs and the commas of thousands are no part of a number (as for MATH, Hendrycks et al. 2021,
arXiv:2103.03874, whose `is_equiv` drops them too).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal
from unicodedata import normalize

Take = Literal["auto", "boxed", "label", "last"]
LONGEST = 2000  # characters of an answer: what is longer is none
FEW = 8  # words: a reference of more is a solution
DIGITS, POWER = 400, 400  # of a number that is read: arithmetic on what is longer takes its time
UNSIGNED = r"(?:\d(?:,?\d)*(?:\.\d+)?|\.\d+)"
VULGAR = "[\u00bc-\u00be\u2150-\u215e]"  # a fraction in one sign
NUMBER = re.compile(
    rf"(?<![\w.)\]}}])[-+\u2212]?\s?\$?(?:{UNSIGNED}\s*/\s*\d(?:,?\d)*|{UNSIGNED}(?:[eE][-+]?\d+)?(?:\s?{VULGAR})?|{VULGAR})"
    rf"|{UNSIGNED}(?:[eE][-+]?\d+)?(?:\s?{VULGAR})?|{VULGAR}"
)
LABEL = re.compile(r"####|\banswer(?:\s*(?:is|are|was|[:=]))+|\banswer\b(?=\s*\$)", re.IGNORECASE)
BARE = re.compile(r"([-+]?)(?:(\d+)\s+)?(\d+)/(\d+)|([-+]?(?:\d+(?:\.\d*)?|\.\d+))(?:e([-+]?\d+))?")
GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
FRACTION = re.compile(r"\\[dtc]?frac(?:\{([^{}]*)\}|(\d))(?:\{([^{}]*)\}|(\d))")
TIMES_TEN = re.compile(r"(?:\\times|\\cdot|\*)10\^\{?([-+]?\d+)\}?")
BRACES = re.compile(r"\\f?boxed\s*\{|[{}]")
WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}")
SPACING = re.compile(r"\\(?:left|right|displaystyle|[!,;: ])|\\\$|[$~]|\\?%|\^?\\circ|\^\{\\circ\}|°")
CURRENCY = re.compile(r"^[€£¥₹]|[€£¥₹]$")


def final_answer(text: str, take: Take = "auto") -> str | None:
    """The answer that a text ends with, found as `take` says, as it is written there; None for a text without one."""
    if take in ("auto", "boxed") and (found := boxed(text)) is not None:
        return found
    if take in ("auto", "label"):
        labels = list(LABEL.finditer(text))
        said = text[labels[-1].end() :].strip().split("\n")[0] if labels else ""
        if said.strip(" .:*_"):
            return stated(said)
    if take in ("auto", "last"):
        numbers = NUMBER.findall(text)
        return str(numbers[-1]) if numbers else (text.strip().split("\n")[-1].strip() or None)
    return None


def answer_of_key(key: str) -> str | None:
    """The answer in a reference: an answer alone is one, and a whole solution ends with one."""
    if number_of(key) is not None:
        return key
    if boxed(key) is not None or LABEL.search(key):
        return final_answer(key)
    alone = len(key.split()) <= FEW and "\n" not in key.strip()
    return key.strip() or None if alone else final_answer(key, "last")


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} that is closed; None where there is none."""
    opened, last = list[int | None](), (-1, -1)
    for found in BRACES.finditer(text):
        if found[0] != "}":
            opened.append(found.end() if found[0] != "{" else None)
        elif opened and (start := opened.pop()) is not None and start > last[0]:
            last = start, found.start()
    return text[slice(*last)] if last[0] >= 0 else None


def stated(said: str) -> str:
    """The answer in what stands behind its label: formula, number or words, without what is said around it."""
    said = re.split(r"\.(?=\s|$)", said.strip(" :*_`"), maxsplit=1)[0].strip(" *_`")
    formula = re.findall(r"\$([^$]+)\$|\\\((.+?)\\\)", said)
    if formula:
        return max(formula[-1])
    said = said.rpartition("=")[2].strip()
    numbers = NUMBER.findall(said)
    spoken = re.search(r"(?<![\\a-z])[a-z]{2,}", WORDS.sub("", said), re.IGNORECASE)
    return str(numbers[0]) if numbers and spoken and number_of(said) is None else said


def plain(answer: str) -> str:
    """An answer in the one form in which forms are compared: no blanks, spacing commands, units in text or signs."""
    kept = answer.replace("\u2212", "-").replace("{,}", ",").replace("\\{", "{").replace("\\}", "}")
    kept = SPACING.sub("", kept)
    if WORDS.sub("", kept).strip():  # what stands beside a formula is its unit; alone, it is the answer
        kept = WORDS.sub("", kept)
    kept = CURRENCY.sub("", WORDS.sub(r"\1", kept).strip().rstrip(".").strip())
    kept = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", kept)  # 1 2 is not 12
    return re.sub(r"\\[dtc]frac", r"\\frac", kept).casefold()


def number_of(answer: str) -> Fraction | None:
    """The number that an answer stands for; None for any other. A unit behind it must be in text commands."""
    if len(answer) > LONGEST:
        return None
    kept = re.sub(VULGAR, lambda found: f" {normalize('NFKC', found[0])}".replace("\u2044", "/"), answer)
    kept = FRACTION.sub(lambda found: f" {found[1] or found[2]}/{found[3] or found[4]}", kept.replace("{,}", ","))
    kept = SPACING.sub(" ", kept.replace("\u2212", "-"))
    kept = CURRENCY.sub("", WORDS.sub("", kept).strip().rstrip(".").strip())
    kept = GROUPED.sub("", re.sub(r"(?<=[-+/])\s+|\s+(?=/)", "", kept)).strip()
    ten = TIMES_TEN.search(re.sub(r"\s+", "", kept))
    if ten is not None:
        kept = TIMES_TEN.sub(rf"e{ten[1]}", re.sub(r"\s+", "", kept), count=1)
    found = BARE.fullmatch(kept.lower())
    if found is None or len(kept) > DIGITS or abs(int(found[6] or 0)) > POWER:
        return None
    if found[5] is not None:
        return Fraction(found[5] + ("0" if found[5].endswith(".") else "")) * Fraction(10) ** int(found[6] or 0)
    if not int(found[4]):
        return None
    value = int(found[2] or 0) + Fraction(int(found[3]), int(found[4]))
    return -value if found[1] == "-" else value


def parts(answer: str) -> list[str]:
    """The members of a list, tuple or set, in their order; the answer itself where it is none."""
    inner = plain(answer)
    if inner[:1] + inner[-1:] in ("()", "[]", "{}"):
        inner = inner[1:-1]
    elif "," not in inner:
        return [answer]
    members, depth = [""], 0
    for character in inner:
        depth += (character in "([{") - (character in ")]}")
        members.append("") if character == "," and not depth else members.__setitem__(-1, members[-1] + character)
    return members


def equal(answer: str, reference: str, tolerance: float = 0.0) -> bool:
    """Whether two answers are one number (up to `tolerance`), one form, or lists of such in the same brackets."""
    found, wanted = number_of(answer), number_of(reference)
    if found is not None and wanted is not None:
        return abs(found - wanted) <= tolerance
    if plain(answer) == plain(reference):
        return plain(reference) != ""
    mine, theirs = parts(answer), parts(reference)
    if len(theirs) == 1 or len(mine) != len(theirs):
        return False
    brackets = [plain(one)[:1] + plain(one)[-1:] for one in (answer, reference)]
    return brackets[0] == brackets[1] and all(map(equal, mine, theirs, [tolerance] * len(mine)))
