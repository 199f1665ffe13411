"""The commands, as python -m lowerbound COMMAND."""

from scripts._commands import main

main()
