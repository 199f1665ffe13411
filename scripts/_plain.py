r"""Formulas of docstrings as plain text: \mu_d is μ_d, \frac1K is 1/K."""

import re

GREEK = (
    "alpha α beta β gamma γ delta δ epsilon ε eta η theta θ kappa κ lambda λ mu μ nu ν pi π "  # noqa: RUF001
    "sigma σ tau τ phi φ psi ψ Gamma Γ Delta Δ Theta Θ Lambda Λ Pi Π Sigma Σ Phi Φ"  # noqa: RUF001
)
SIGNS = (
    "sim ~ propto ∝ sum Σ prod Π int ∫ mid | odot ⊙ oplus ⊕ le ≤ ge ≥ infty ∞ nabla ∇ partial ∂ "
    "top T cdots ... ldots ... dots ... cdot · approx ≈ to → in ∈ sqrt √ ne ≠ pm ± prime '"
)
SYMBOLS = dict(zip(*[iter(f"{GREEK} {SIGNS}".split())] * 2, strict=True))
"""Commands of LaTeX that are one sign."""

SILENT = "mathcal|mathrm|mathbb|mathbf|text|operatorname|left|right|big|Big|hat|bar"
"""Commands of LaTeX that only change how something looks, or are left out."""


def plain(text: str) -> str:
    """Return a text with its formulas, :math:`...`, in plain signs."""
    return re.sub(r":math:`([^`]*)`", lambda found: _formula(found[1]), text)


def _formula(latex: str) -> str:
    text = re.sub(r"\\[,;:! ]", " ", latex)
    text = re.sub(r"\\tilde\s*\{?(\w)\}?", r"\1~", text)
    text = re.sub(rf"\\(?:{SILENT})(?![A-Za-z])\s*", "", text)
    text = text.replace(r"\{", "\0").replace(r"\}", "\1")
    before = ""
    while before != text:
        before = text
        text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", text)
        text = re.sub(r"\\frac(\w)(\w)", r"\1/\2", text)
        text = re.sub(r"(?<!\\frac)([_^])\{(\w+)\}", r"\1\2", text)
        text = re.sub(r"(?<!\\frac)([_^])\{([^{}]*)\}", r"\1(\2)", text)
        text = re.sub(r"(?<![_^}A-Za-z])\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda found: SYMBOLS.get(found[1], found[1]), text)
    text = re.sub(r"(?<=\w)\{([^{}]*)\}", r"(\1)", text).replace("{", "").replace("}", "")
    text = text.replace("\0", "{").replace("\1", "}")
    return re.sub(r"\s+", " ", text).strip()
