"""The rules of `usertune.tasks.grounding` once more: read character by character, slowly, and without a pattern.

Written from the rules in that module's docstring, to be compared with it.
"""

from __future__ import annotations

LARGEST = 100_000
DIGITS = frozenset("0123456789")
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")


def parse(text: str) -> tuple[float, float] | None:
    """Return the point that an answer names, or None."""
    answer = relevant_part(text)
    numbers = numbers_of_first_line(answer)
    if numbers is None:
        numbers = numbers_of_first_candidate(answer)
    return point(numbers or [])


def relevant_part(text: str) -> str:
    """Rule 1: the first grounding block, or all that is in no referring block."""
    first, *blocks = text.split("```")
    outside = [first]
    inside = False
    for block in blocks:
        label = take(block.lstrip(" \t"), LETTERS)
        body = block.lstrip(" \t")[len(label) :]
        # A fence without a name closes the block that is open, or opens a nameless one.
        inside = bool(label) or not inside
        if label.lower() == "grounding":
            return body
        if not (inside and label.lower() == "referring"):
            outside.append(body)
    return "\n".join(outside)


def take(text: str, allowed: frozenset[str]) -> str:
    """Return the longest beginning of ``text`` made of allowed characters."""
    length = 0
    while length < len(text) and text[length] in allowed:
        length += 1
    return text[:length]


def numbers_of_first_line(text: str) -> list[str] | None:
    """Rule 2: the numbers of the first line that is not blank, if it holds nothing else."""
    line, place, numbers = text.lstrip().split("\n")[0], 0, []
    while number := number_at(line, place):
        numbers.append(number)
        place = after_separator(line, place + len(number))
    return numbers if numbers and place == len(line) else None


def numbers_of_first_candidate(text: str) -> list[str] | None:
    """Rule 3: the first bracket or pair of keys, skipping what stands between double quotes."""
    place = 0
    while place < len(text):
        if numbers := keys_at(text, place) or bracket_at(text, place):
            return numbers
        end = text.find('"', place + 1) if text[place] == '"' else -1
        # A quotation stands on one line.
        if end > place and "\n" not in text[place:end]:
            place = end
        place += 1
    return None


def bracket_at(text: str, place: int) -> list[str] | None:
    """Return the two or more numbers of a closed bracket that holds nothing else."""
    if text[place] not in "[(\uff08\uff3b":
        return None
    place = after_blanks(text, place + 1)
    numbers = []
    while number := number_at(text, place):
        numbers.append(number)
        place = after_separator(text, place + len(number))
    closed = text[place : place + 1] in tuple("])\uff09\uff3d")
    return numbers if closed and len(numbers) > 1 else None


def keys_at(text: str, place: int) -> list[str] | None:
    """Return the numbers of ``x`` and ``y`` as keys."""
    if place and is_word(text[place - 1]):
        return None
    numbers = []
    for key in "xy":
        place += text[place : place + 1] in ("'", '"')
        if text[place : place + 1] != key:
            return None
        place += 1
        place += text[place : place + 1] in ("'", '"')
        place = after_blanks(text, place)
        if text[place : place + 1] not in (":", "="):
            return None
        place = after_blanks(text, place + 1)
        number = number_at(text, place)
        if not number:
            return None
        numbers.append(number)
        place = after_separator(text, place + len(number))
    return numbers


def number_at(text: str, place: int) -> str:
    """Rule 5: the number that begins at ``place``, or nothing."""
    if place and (is_word(text[place - 1]) or text[place - 1] == "."):
        return ""
    sign = text[place : place + 1] if text[place : place + 1] in ("+", "-") else ""
    whole = take(text[place + len(sign) :], DIGITS)
    rest = text[place + len(sign) + len(whole) :]
    fraction = "." + take(rest[1:], DIGITS) if rest.startswith(".") else ""
    if not whole and len(fraction) < 2:
        return ""
    after = rest[len(fraction) :]
    glued = is_word(after[:1]) or (after[:1] == "." and after[1:2] in DIGITS)
    return "" if glued else sign + whole + fraction


def after_blanks(text: str, place: int) -> int:
    """Return the place of the next character that is not white space."""
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def after_separator(text: str, place: int) -> int:
    """Return the place after white space with at most one comma in it."""
    place = after_blanks(text, place)
    return after_blanks(text, place + 1) if text[place : place + 1] in (",", "\uff0c") else place


def is_word(character: str) -> bool:
    """Whether a character is a letter, a digit or an underscore."""
    return character.isalnum() or character == "_"


def point(numbers: list[str]) -> tuple[float, float] | None:
    """Rules 4 and 6: the point of two numbers, the centre of four."""
    numerals = [float(number) for number in numbers]
    if any(abs(value) > LARGEST for value in numerals):
        return None
    if len(numerals) == 2:
        return numerals[0], numerals[1]
    if len(numerals) == 4:
        return (numerals[0] + numerals[2]) / 2, (numerals[1] + numerals[3]) / 2
    return None
