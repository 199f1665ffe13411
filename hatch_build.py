"""Puts the commands into the wheel, their imports under the names that its packages have there."""

import re
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

IMPORT = re.compile(r"^( *)(from|import) (models|guides|inference|scripts)\b", re.MULTILINE)
"""An import of one of the project's packages."""

NOT_SHIPPED = ("bench", "_bench", "gpu", "_gpu", "quickstart")
"""What scripts are for work on the project begins with one of these."""


class CustomBuildHook(BuildHookInterface):
    """Adds scripts/*.py as lowerbound/scripts, and lowerbound/__main__.py."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write them with their imports renamed; an editable install takes them as they are."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        for path in sorted(Path(self.root, "scripts").glob("*.py")):
            if path.stem.startswith(NOT_SHIPPED):
                continue
            renamed = Path(self._folder.name, path.name)
            renamed.write_text(IMPORT.sub(_rename, path.read_text()))
            build_data["force_include"][str(renamed)] = f"lowerbound/scripts/{path.name}"
            if path.stem == "__main__":
                build_data["force_include"][str(renamed)] = "lowerbound/__main__.py"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what was written."""
        if version != "editable":
            self._folder.cleanup()


def _rename(found: re.Match[str]) -> str:
    indent, word, package = found.groups()
    if word == "import":
        return f"{indent}from lowerbound import {package}"
    return f"{indent}from lowerbound.{package}"
