"""What a user types: each command is short, it parses, composes and calls."""
