"""The command `gdino`, one file a command."""
