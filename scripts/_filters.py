"""Arguments that choose runs by theirs."""

from collections.abc import Iterable

from scripts._arguments import Parser


def add_filter(parser: Parser) -> None:
    """Add --filter NAME=VALUE ... to a command."""
    text = "Take only runs with these arguments, as prior=Vamp latent_dim=8."
    parser.add_argument("--filter", type=str, nargs="+", metavar="NAME=VALUE", help=text)


def wanted(texts: Iterable[str] | None) -> dict[str, str]:
    """Return the values of NAME=VALUE by name.

    Raises:
        ValueError: one has no equals sign.
    """
    return dict(_pair(text) for text in texts or ())


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--filter {text!r}: expected NAME=VALUE, as prior=Vamp.")
    return name.strip().removeprefix("--"), value.strip()
