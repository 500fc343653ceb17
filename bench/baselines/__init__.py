"""How the handbooks, and the tools everybody knows, do what we do."""
