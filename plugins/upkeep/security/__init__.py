"""How well the platform is locked: what the weekly audit looks at, and nothing is changed by it."""
