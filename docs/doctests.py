"""Examples of docstrings as blocks of code: mkdocstrings takes them for text elsewhere."""

import re

import griffe


class Doctests(griffe.Extension):
    """Put a fence around every run of lines that begins with >>>."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Change the docstring of one object."""
        if obj.docstring and ">>>" in obj.docstring.value:
            text = obj.docstring.value
            runs = r"(?m)^>>> (?:.*\n?)(?:^(?!$).*\n?)*"
            obj.docstring.value = re.sub(
                runs, lambda run: f"```pycon\n{run[0].rstrip()}\n```\n", text
            )
