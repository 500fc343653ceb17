"""Looking whether a platform is well: each service by a real use of it, all side by side, within ten seconds."""
