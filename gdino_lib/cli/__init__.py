"""The program `gdino`: one module per command."""
