"""The word that was meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the word that is likest to one with a slip in it, or None where none is like it.

    >>> nearest("Vampp", ["StandardNormal", "Vamp"])
    'Vamp'
    >>> nearest("lr", ["latent_dim", "learning_rate"])
    'learning_rate'

    Args:
        word: what was written: a letter too many, in capitals, cut short, or initials.
        words: those that there are.
    """
    plain = {_plain(each): each for each in words}
    if close := get_close_matches(_plain(word), plain, 1, 0.65):
        return plain[close[0]]
    for each in plain.values() if word else ():
        if each.lower().startswith(word.lower()) or _initials(each) == word:
            return each
    return None


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the question after the nearest word, or the list of all."""
    known = list(words)
    near = nearest(word, known)
    return f"did you mean {near}?" if near else f"there are {', '.join(known)}."


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def _initials(word: str) -> str:
    return "".join(part[:1] for part in word.split("_"))
